//! What both kinds of calls do with their two legs: read them in turn, write them out, notice the one
//! that is gone, and take leave of both.

use std::borrow::Cow;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::call::{EndReason, Loss};
use crate::telemetry::Direction;
use crate::transport::WebSocket;

use super::leg::{KEEP_ALIVE, Leg, LegEvent, Line, SendError};
use super::summary::Ledger;

/// Messages read in a row before everything else gets its turn.
const READ_BUDGET: u32 = 32;

/// A leg that takes nothing for so long is given up (faults reference 35).
const STALL: Duration = Duration::from_secs(15);

/// A conducted call's model leg is pinged sooner, so that a dead one is found within 10 s (faults reference
/// 9), and a quiet one known to hear the caller.
const MODEL_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The two sides of a call.
#[derive(Debug)]
pub(super) struct Legs {
    pub(super) caller: Leg,
    pub(super) model: ModelSide,
    /// A leg is read only while the other takes what comes of it.
    gated: bool,
    /// The caller is not read for now: there is no model to tell.
    pub(super) hold_caller: bool,
    /// Messages read since the legs were last flushed.
    n_read: u32,
    /// When what is now being written was read or due.
    pub(super) to_model: Option<Instant>,
    pub(super) to_caller: Option<Instant>,
}

/// The model leg, or the lack of one: then nothing comes in and nothing goes out.
#[derive(Debug)]
pub(super) struct ModelSide(Option<Leg>);

impl ModelSide {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<LegEvent> {
        match &mut self.0 {
            Some(leg) => leg.poll_event(cx),
            None => Poll::Pending,
        }
    }

    pub(super) fn send_text(&mut self, text: &str) -> Result<(), SendError> {
        match &mut self.0 {
            Some(leg) => leg.send_text(text),
            None => Err(SendError::Gone),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(leg) => leg.poll_flush(cx),
            None => Poll::Ready(()),
        }
    }

    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.0.as_ref().and_then(Leg::blocked_since)
    }

    /// When anything was last heard from there.
    pub(super) fn heard_at(&self) -> Option<Instant> {
        self.0.as_ref().map(Leg::heard_at)
    }

    /// Lets go of the leg, to be closed by whoever gets it.
    pub(super) fn take(&mut self) -> Option<Leg> {
        self.0.take()
    }
}

/// Something that came in.
#[derive(Debug)]
pub(super) enum Heard {
    Caller(LegEvent),
    Model(LegEvent),
}

/// How far a wake-up got with the legs.
pub(super) enum Progress {
    Heard(Heard),
    /// Nothing to read now. The caller was written to completely, which began so long ago, or nothing
    /// was to be written.
    Idle {
        wrote_to_caller: Option<Duration>,
    },
}

/// How a call ends, and what the caller is told by the close frame.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) reason: EndReason,
    pub(super) close_code: u16,
    pub(super) close_reason: Cow<'static, str>,
}

impl From<EndReason> for End {
    fn from(reason: EndReason) -> Self {
        Self {
            reason,
            close_code: reason.close_code(),
            close_reason: Cow::Borrowed(reason.name()),
        }
    }
}

impl End {
    /// The caller broke the rules in the way of that name.
    pub(super) fn bad_input(name: &'static str, close_code: u16) -> Self {
        Self {
            reason: EndReason::CallerProtocol,
            close_code,
            close_reason: Cow::Borrowed(name),
        }
    }

    /// The deployment closed the session (protocol reference 1.6).
    pub(super) fn of_model(frame: Option<&CloseFrame>) -> Self {
        let code = frame.map(|frame| u16::from(frame.code));
        tracing::info!(
            code,
            reason = frame.map(|frame| frame.reason.as_str()),
            "the deployment closed the session"
        );
        match loss_of(frame) {
            Loss::Expired => EndReason::ModelSessionExpired,
            Loss::Unauthorized => EndReason::ModelUnauthorized,
            Loss::Rejected => EndReason::ModelRejectedSession,
            _ => EndReason::ModelClosed,
        }
        .into()
    }
}

/// What it means that the deployment closed the session with that frame (protocol reference 1.6).
pub(super) fn loss_of(frame: Option<&CloseFrame>) -> Loss {
    match frame.map(|frame| u16::from(frame.code)) {
        Some(1001) => Loss::Expired,
        Some(3000) => Loss::Unauthorized,
        Some(4000) => Loss::Rejected,
        _ => Loss::Closed,
    }
}

impl Legs {
    /// Legs that are read whenever something comes: a caller that is slow does not delay the news that
    /// it speaks.
    pub(super) fn free(caller: impl Into<Line>, model: WebSocket) -> Self {
        let mut model = Leg::new(model);
        model.keep_alive_after(MODEL_KEEP_ALIVE);
        Self {
            caller: Leg::new(caller),
            model: ModelSide(Some(model)),
            gated: false,
            hold_caller: false,
            n_read: 0,
            to_model: None,
            to_caller: None,
        }
    }

    /// Legs of which each is read only while the other takes what comes of it, so that nothing piles up.
    pub(super) fn gated(caller: WebSocket, model: WebSocket) -> Self {
        Self {
            model: ModelSide(Some(Leg::new(model))),
            caller: Leg::new(caller),
            gated: true,
            hold_caller: false,
            n_read: 0,
            to_model: None,
            to_caller: None,
        }
    }

    /// Puts another session's leg in the place of the one there was, which is returned.
    pub(super) fn replace_model(&mut self, mut model: Leg) -> Option<Leg> {
        self.to_model = None;
        model.keep_alive_after(if self.gated {
            KEEP_ALIVE
        } else {
            MODEL_KEEP_ALIVE
        });
        self.model.0.replace(model)
    }

    /// Reads, and writes once nothing is left to read: what came in together goes out together. Legs that
    /// never pause are written all the same now and then. Tells the ledger how long frames took.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, ledger: &mut Ledger) -> Progress {
        if self.n_read < READ_BUDGET
            && let Poll::Ready(heard) = self.poll_read(cx)
        {
            self.n_read += 1;
            return Progress::Heard(heard);
        }
        let was_busy = std::mem::take(&mut self.n_read) == READ_BUDGET;
        let were_blocked = self.blocked();
        let wrote_to_caller = self.poll_flush(cx, ledger);
        if was_busy || were_blocked != self.blocked() {
            // A leg that was not asked above may be now, and nobody else would wake us for it.
            cx.waker().wake_by_ref();
        }
        Progress::Idle { wrote_to_caller }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let model_first = self.n_read.is_multiple_of(2);
        let blocked = self.blocked().map(|is_blocked| is_blocked && self.gated);
        for model in [model_first, !model_first] {
            let [is_caller_blocked, is_model_blocked] = blocked;
            if model {
                if is_caller_blocked {
                    self.model.0.as_mut().map(Leg::was_unread);
                } else if let Poll::Ready(event) = self.model.poll_event(cx) {
                    return Poll::Ready(Heard::Model(event));
                }
            } else if is_model_blocked || self.hold_caller {
                self.caller.was_unread();
            } else if let Poll::Ready(event) = self.caller.poll_event(cx) {
                return Poll::Ready(Heard::Caller(event));
            }
        }
        Poll::Pending
    }

    /// Whether the caller, and whether the model, takes nothing.
    fn blocked(&self) -> [bool; 2] {
        [self.caller.blocked_since(), self.model.blocked_since()].map(|since| since.is_some())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, ledger: &mut Ledger) -> Option<Duration> {
        let mut wrote_to_caller = None;
        if self.caller.poll_flush(cx).is_ready()
            && let Some(since) = self.to_caller.take()
        {
            let took = since.elapsed();
            ledger.frame(Direction::ToCaller, took);
            wrote_to_caller = Some(took);
        }
        if self.model.poll_flush(cx).is_ready()
            && let Some(since) = self.to_model.take()
        {
            ledger.frame(Direction::ToModel, since.elapsed());
        }
        wrote_to_caller
    }

    /// When [`Legs::overdue`] and [`Legs::watch`] want to be called next.
    pub(super) fn watch_at(&self) -> Instant {
        let legs = || std::iter::once(&self.caller).chain(&self.model.0);
        let stalls = legs().filter_map(|leg| Some(leg.blocked_since()? + STALL));
        stalls
            .chain(legs().filter_map(Leg::message_deadline))
            .chain(legs().map(Leg::keep_alive_at))
            .min()
            .expect("the caller's keepalive is always there")
    }

    /// A message that was begun and not brought to its end in time.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Heard> {
        let caller = self.caller.overdue(now).map(Heard::Caller);
        caller.or_else(|| self.model.0.as_mut()?.overdue(now).map(Heard::Model))
    }

    /// Asks legs that are silent whether they are still there. A reason to end the call if one is not, or
    /// takes nothing.
    pub(super) fn watch(&mut self, now: Instant) -> Option<EndReason> {
        let is_stalled =
            |since: Option<Instant>| since.is_some_and(|since| now.duration_since(since) >= STALL);
        if is_stalled(self.caller.blocked_since()) {
            return Some(EndReason::CallerTooSlow);
        }
        if is_stalled(self.model.blocked_since()) {
            return Some(EndReason::ModelStalled);
        }
        if !self.caller.keep_alive(now) {
            return Some(EndReason::CallerGone);
        }
        let model = self.model.0.as_mut();
        let is_gone = model.is_some_and(|model| !model.keep_alive(now));
        is_gone.then_some(EndReason::ModelGone)
    }

    /// Says good-bye on both sides.
    pub(super) async fn close(self, end: &End) {
        let model = async {
            if let Some(model) = self.model.0 {
                model.close(1000, "").await;
            }
        };
        tokio::join!(self.caller.close(end.close_code, &end.close_reason), model,);
    }
}
