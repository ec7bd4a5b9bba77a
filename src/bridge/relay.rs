//! The task of a call that the caller conducts: an SDK client on one side, a deployment on the other.
//!
//! Events pass as they are where both sides speak the same shape, and are translated where not; audio is
//! never decoded. What passes is looked at only to measure and to know why the call ended. A side that
//! does not read stops the other from being read, so nothing piles up here.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::de::IgnoredAny;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::call::{EndReason, ModelEvent, TurnLatency};
use crate::realtime::{
    ScanError, Shape, TranslateError, Translated, Translator, append_audio, check_depth, event_type,
};
use crate::telemetry::{CallMetrics, Direction};
use crate::transport::Transport;
use crate::upstream::{Decoder, Deployment, ModelLeg};

use super::leg::{Leg, LegEvent, SendError};
use super::registry::{CallPermit, Calls};
use super::summary::{CallSummary, Ledger};
use super::{model_close_reason, session_id};

/// The name of this way of calling, as routes and metric labels have it.
pub const REALTIME: &str = "realtime";

/// A side that takes nothing for so long is given up (faults reference 35).
const STALL: Duration = Duration::from_secs(15);

/// Messages read in a row before everything else gets its turn.
const READ_BUDGET: u32 = 32;

/// What the listener hands over.
#[derive(Debug)]
pub struct RelayedCall {
    /// The gateway's id of the call.
    pub call_id: String,
    /// The shape that the caller speaks.
    pub shape: Shape,
    /// The open session.
    pub model: ModelLeg,
    /// Where it is.
    pub deployment: Arc<Deployment>,
    /// Where this kind of call is counted.
    pub metrics: Arc<CallMetrics>,
    /// All calls of the process.
    pub calls: Calls,
    /// The right to be one of them.
    pub permit: CallPermit,
}

impl RelayedCall {
    /// Runs the call to its end on the caller's connection.
    pub async fn run(self, caller: WebSocketStream<Transport>) {
        let now = Instant::now();
        let session = session_id(&self.model.session_created);
        let ledger = Ledger::new(
            self.metrics,
            self.call_id,
            REALTIME,
            self.deployment.name(),
            session,
        );
        let mut task = Relay {
            caller: Leg::new(caller),
            caller_shape: self.shape,
            model: Leg::new(self.model.socket),
            model_shape: self.deployment.shape(),
            decoder: Decoder::new(),
            translator: Translator::new(),
            ledger,
            turn: Turn::default(),
            stamps: Stamps::default(),
            n_read: 0,
            ended: None,
            timer: Box::pin(tokio::time::sleep_until(now + STALL)),
            end_now: Box::pin(self.calls.end_now().cancelled_owned()),
            began: now,
        };
        task.relay_down(self.model.session_created, now);
        let summary = task.run().await;
        self.calls.remember(summary);
        drop(self.permit);
    }
}

struct Relay {
    caller: Leg,
    caller_shape: Shape,
    model: Leg,
    model_shape: Shape,
    decoder: Decoder,
    translator: Translator,
    ledger: Ledger,
    turn: Turn,
    stamps: Stamps,
    /// Messages read since the legs were last flushed.
    n_read: u32,
    ended: Option<End>,
    timer: Pin<Box<Sleep>>,
    end_now: Pin<Box<WaitForCancellationFutureOwned>>,
    began: Instant,
}

/// How the call ends, and what the caller is told.
struct End {
    reason: EndReason,
    close_code: u16,
    close_reason: String,
}

impl From<EndReason> for End {
    fn from(reason: EndReason) -> Self {
        Self {
            reason,
            close_code: reason.close_code(),
            close_reason: reason.name().to_owned(),
        }
    }
}

/// When what is now being written was read; the metrics are told once it is written.
#[derive(Default)]
struct Stamps {
    to_model: Option<Instant>,
    to_caller: Option<Instant>,
}

/// The answer that is being waited for.
#[derive(Default)]
struct Turn {
    speech_stopped: Option<Instant>,
    first_audio: Option<Instant>,
    heard_before: bool,
}

enum Wake {
    Caller(LegEvent),
    Model(LegEvent),
    Timer,
    EndNow,
}

impl Relay {
    async fn run(mut self) -> CallSummary {
        loop {
            let wake = std::future::poll_fn(|cx| self.poll_wake(cx)).await;
            let now = Instant::now();
            match wake {
                Wake::Caller(event) => self.caller_event(event, now),
                Wake::Model(event) => self.model_event(event, now),
                Wake::Timer => self.watch(now),
                Wake::EndNow => self.end(EndReason::Drained),
            }
            if let Some(end) = self.ended.take() {
                return self.finish(end).await;
            }
        }
    }

    /// A leg is read only while the other one takes what comes of it, and legs that never pause are put
    /// behind the rest now and then.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if self.n_read < READ_BUDGET
            && let Poll::Ready(wake) = self.poll_legs(cx)
        {
            self.n_read += 1;
            return Poll::Ready(wake);
        }
        let was_busy = std::mem::take(&mut self.n_read) == READ_BUDGET;
        let was_blocked = self.is_blocked();
        self.poll_flush(cx);
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Wake::Timer);
        }
        if self.end_now.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Wake::EndNow);
        }
        if was_busy || (was_blocked && !self.is_blocked()) {
            return self.poll_legs(cx);
        }
        Poll::Pending
    }

    fn poll_legs(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let model_first = self.n_read.is_multiple_of(2);
        for model in [model_first, !model_first] {
            if model && self.caller.blocked_since().is_none() {
                if let Poll::Ready(event) = self.model.poll_event(cx) {
                    return Poll::Ready(Wake::Model(event));
                }
            } else if !model
                && self.model.blocked_since().is_none()
                && let Poll::Ready(event) = self.caller.poll_event(cx)
            {
                return Poll::Ready(Wake::Caller(event));
            }
        }
        Poll::Pending
    }

    fn is_blocked(&self) -> bool {
        self.caller.blocked_since().is_some() || self.model.blocked_since().is_some()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) {
        if self.caller.poll_flush(cx).is_ready()
            && let Some(since) = self.stamps.to_caller.take()
        {
            self.ledger.frame(Direction::ToCaller, since.elapsed());
            self.turn_heard(Instant::now());
        }
        if self.model.poll_flush(cx).is_ready()
            && let Some(since) = self.stamps.to_model.take()
        {
            self.ledger.frame(Direction::ToModel, since.elapsed());
        }
    }

    /// Gives up on a side that takes nothing.
    fn watch(&mut self, now: Instant) {
        let stalled = |leg: &Leg| {
            leg.blocked_since()
                .is_some_and(|since| now.duration_since(since) >= STALL)
        };
        if stalled(&self.caller) {
            self.end(EndReason::CallerTooSlow);
        } else if stalled(&self.model) {
            self.end(EndReason::ModelStalled);
        }
        self.timer.as_mut().reset(now + STALL / 3);
    }

    fn end(&mut self, reason: EndReason) {
        self.ended = Some(reason.into());
    }

    fn caller_event(&mut self, event: LegEvent, now: Instant) {
        match event {
            LegEvent::Text(text) => self.relay_up(text, now),
            LegEvent::Binary(_) => self.bad_input("binary_unexpected", 1003),
            LegEvent::Closed(_) => self.end(EndReason::CallerHangup),
            LegEvent::Gone => self.end(EndReason::CallerGone),
            LegEvent::Broken { close_code } => self.bad_input("websocket", close_code),
        }
    }

    fn bad_input(&mut self, name: &'static str, close_code: u16) {
        self.ledger.metrics.bad_input(name);
        self.ended = Some(End {
            reason: EndReason::CallerProtocol,
            close_code,
            close_reason: name.to_owned(),
        });
    }

    fn relay_up(&mut self, text: Utf8Bytes, now: Instant) {
        let is_audio = append_audio(&text).is_some();
        if is_audio {
            self.stamps.to_model.get_or_insert(now);
        } else {
            match check_event(&text) {
                // A client truncates what it stopped playing because its user spoke.
                Ok(kind) if kind == "conversation.item.truncate" => {
                    self.ledger.barged_in(Duration::ZERO)
                }
                Ok(_) => {}
                Err((name, close_code)) => return self.bad_input(name, close_code),
            }
        }
        if self.caller_shape == self.model_shape {
            return self.send_model(text);
        }
        match self
            .translator
            .client_event(&text, self.caller_shape, self.model_shape)
        {
            Ok(Translated::Unchanged) => self.send_model(text),
            Ok(Translated::Replaced(event)) => self.send_model(event.into()),
            Ok(Translated::Several(events)) => {
                for event in events {
                    self.send_model(event.into());
                }
            }
            Ok(Translated::Dropped) => {}
            Err(error) => self.untranslatable(&error),
        }
    }

    /// An event that the other shape has no words for is answered as a deployment would.
    fn untranslatable(&mut self, error: &TranslateError) {
        match error {
            TranslateError::WrongShape { event } => {
                self.ledger.metrics.bad_input("wrong_shape");
                // A caller that is gone says so when it is read.
                let _ = self.caller.send_text(event.as_str().into());
            }
            TranslateError::Scan(_) | TranslateError::Json(_) => {
                self.bad_input("malformed_event", 1007)
            }
        }
    }

    fn send_model(&mut self, text: Utf8Bytes) {
        if self.model.send_text(text) == Err(SendError::Full) {
            self.end(EndReason::ModelStalled);
        }
    }

    fn model_event(&mut self, event: LegEvent, now: Instant) {
        match event {
            LegEvent::Text(text) => self.relay_down(text, now),
            LegEvent::Binary(_) => self.ledger.metrics.upstream_error("binary_message"),
            LegEvent::Closed(frame) => {
                let reason = model_close_reason(frame.as_ref());
                // The SDKs act on the deployment's own code and reason.
                self.ended = Some(match frame {
                    Some(frame) if is_sendable(frame.code.into()) => End {
                        reason,
                        close_code: frame.code.into(),
                        close_reason: frame.reason.as_str().to_owned(),
                    },
                    _ => reason.into(),
                });
            }
            LegEvent::Gone => self.end(EndReason::ModelGone),
            LegEvent::Broken { .. } => self.end(EndReason::ModelProtocol),
        }
    }

    fn relay_down(&mut self, text: Utf8Bytes, now: Instant) {
        match self.decoder.decode(&text) {
            Ok(decoded) => {
                let event = decoded.event();
                self.measure(&event, now);
            }
            Err(error) => {
                tracing::debug!(%error, "unreadable event from the deployment");
                return self.ledger.metrics.upstream_error("malformed_event");
            }
        }
        if self.caller_shape == self.model_shape {
            return self.send_caller(text);
        }
        match self
            .translator
            .server_event(&text, self.model_shape, self.caller_shape)
        {
            Ok(Translated::Unchanged) => self.send_caller(text),
            Ok(Translated::Replaced(event)) => self.send_caller(event.into()),
            Ok(Translated::Several(events)) => {
                for event in events {
                    self.send_caller(event.into());
                }
            }
            Ok(Translated::Dropped) => {}
            Err(error) => {
                tracing::debug!(
                    %error,
                    "untranslatable event from the deployment"
                );
                self.ledger.metrics.upstream_error("malformed_event");
            }
        }
    }

    fn send_caller(&mut self, text: Utf8Bytes) {
        if self.caller.send_text(text) == Err(SendError::Full) {
            self.end(EndReason::CallerTooSlow);
        }
    }

    fn measure(&mut self, event: &ModelEvent<'_>, now: Instant) {
        self.ledger.model_event(event);
        match event {
            ModelEvent::SpeechStarted { .. } => {
                self.turn.speech_stopped = None;
                self.turn.first_audio = None;
            }
            ModelEvent::SpeechStopped { .. } => self.turn.speech_stopped = Some(now),
            ModelEvent::AudioDelta { .. } => {
                self.turn.first_audio.get_or_insert(now);
                self.stamps.to_caller.get_or_insert(now);
            }
            ModelEvent::ResponseDone { .. } => {
                self.turn.first_audio = None;
            }
            _ => {}
        }
    }

    /// Reply audio was written to the caller.
    fn turn_heard(&mut self, now: Instant) {
        let Some(arrived) = self.turn.first_audio else {
            return;
        };
        if !std::mem::replace(&mut self.turn.heard_before, true) {
            self.ledger.first_audio(now.duration_since(self.began));
        }
        if let Some(stopped) = self.turn.speech_stopped.take() {
            self.ledger.turn(TurnLatency {
                latency: now.duration_since(stopped),
                model: arrived.saturating_duration_since(stopped),
                gateway: now.duration_since(arrived),
            });
        }
    }

    async fn finish(self, end: End) -> CallSummary {
        let duration = self.began.elapsed();
        let summary = self.ledger.end(end.reason, duration);
        tokio::join!(
            self.caller.close(end.close_code, &end.close_reason),
            self.model.close(1000, ""),
        );
        summary
    }
}

/// Nesting that no client event needs (limits reference).
const MAX_DEPTH: usize = 32;

/// Keys of a client event; a session with a hundred tools has some thousand.
const MAX_KEYS: usize = 8192;

/// The type of an event other than audio, empty if it has none. A name and a close code for what the
/// gateway does not pass on; an event that is JSON and wrong otherwise is for the deployment to answer.
fn check_event(text: &str) -> Result<Cow<'_, str>, (&'static str, u16)> {
    check_depth(text, MAX_DEPTH, MAX_KEYS).map_err(|_| ("json_too_large", 1008))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| ("malformed_json", 1007))?;
    match event_type(text) {
        Ok(kind) => Ok(kind),
        Err(ScanError::DuplicateType) => Err(("duplicate_key", 1008)),
        Err(ScanError::Malformed { .. } | ScanError::NoType | ScanError::TypeNotText) => {
            Ok(Cow::Borrowed(""))
        }
    }
}

/// Whether an endpoint may send that close code (RFC 6455, 7.4).
fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
