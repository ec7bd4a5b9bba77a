//! What both kinds of calls do with their two legs: read them in turn, write them out, notice the one
//! that is gone, and take leave of both.

use std::borrow::Cow;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::call::EndReason;
use crate::telemetry::Direction;
use crate::transport::Metered;

use super::leg::{Leg, LegEvent};
use super::summary::Ledger;

/// Messages read in a row before everything else gets its turn.
const READ_BUDGET: u32 = 32;

/// A leg that takes nothing for so long is given up (faults reference 35).
const STALL: Duration = Duration::from_secs(15);

/// The two sides of a call.
#[derive(Debug)]
pub(super) struct Legs {
    pub(super) caller: Leg,
    pub(super) model: Leg,
    /// A leg is read only while the other takes what comes of it.
    gated: bool,
    /// Messages read since the legs were last flushed.
    n_read: u32,
    /// When what is now being written was read or due.
    pub(super) to_model: Option<Instant>,
    pub(super) to_caller: Option<Instant>,
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
        match code {
            Some(1001) => EndReason::ModelSessionExpired,
            Some(3000) => EndReason::ModelUnauthorized,
            Some(4000) => EndReason::ModelRejectedSession,
            _ => EndReason::ModelClosed,
        }
        .into()
    }
}

impl Legs {
    /// Legs that are read whenever something comes: a caller that is slow does not delay the news that
    /// it speaks.
    pub(super) fn free(caller: WebSocketStream<Metered>, model: WebSocketStream<Metered>) -> Self {
        Self {
            caller: Leg::new(caller),
            model: Leg::new(model),
            gated: false,
            n_read: 0,
            to_model: None,
            to_caller: None,
        }
    }

    /// Legs of which each is read only while the other takes what comes of it, so that nothing piles up.
    pub(super) fn gated(caller: WebSocketStream<Metered>, model: WebSocketStream<Metered>) -> Self {
        Self {
            gated: true,
            ..Self::free(caller, model)
        }
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
        for model in [model_first, !model_first] {
            let (leg, other) = if model {
                (&mut self.model, &self.caller)
            } else {
                (&mut self.caller, &self.model)
            };
            if self.gated && other.blocked_since().is_some() {
                leg.was_unread();
                continue;
            }
            if let Poll::Ready(event) = leg.poll_event(cx) {
                return Poll::Ready(if model {
                    Heard::Model(event)
                } else {
                    Heard::Caller(event)
                });
            }
        }
        Poll::Pending
    }

    /// Whether the caller, and whether the model, takes nothing.
    fn blocked(&self) -> [bool; 2] {
        [&self.caller, &self.model].map(|leg| leg.blocked_since().is_some())
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
        let stall = |leg: &Leg| leg.blocked_since().map(|since| since + STALL);
        [stall(&self.caller), stall(&self.model)]
            .into_iter()
            .flatten()
            .chain(self.caller.message_deadline())
            .chain(self.model.message_deadline())
            .chain([self.caller.keep_alive_at(), self.model.keep_alive_at()])
            .min()
            .expect("two keepalives are always there")
    }

    /// A message that was begun and not brought to its end in time.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Heard> {
        let caller = self.caller.overdue(now).map(Heard::Caller);
        caller.or_else(|| self.model.overdue(now).map(Heard::Model))
    }

    /// Asks legs that are silent whether they are still there. A reason to end the call if one is not, or
    /// takes nothing.
    pub(super) fn watch(&mut self, now: Instant) -> Option<EndReason> {
        let is_stalled = |leg: &Leg| {
            leg.blocked_since()
                .is_some_and(|since| now.duration_since(since) >= STALL)
        };
        if is_stalled(&self.caller) {
            return Some(EndReason::CallerTooSlow);
        }
        if is_stalled(&self.model) {
            return Some(EndReason::ModelStalled);
        }
        if !self.caller.keep_alive(now) {
            return Some(EndReason::CallerGone);
        }
        (!self.model.keep_alive(now)).then_some(EndReason::ModelGone)
    }

    /// Says good-bye on both sides.
    pub(super) async fn close(self, end: &End) {
        tokio::join!(
            self.caller.close(end.close_code, &end.close_reason),
            self.model.close(1000, ""),
        );
    }
}
