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
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::call::{EndReason, Loss, ModelEvent, TurnLatency};
use crate::media;
use crate::quota::{CallLease, Notice};
use crate::realtime::{
    Companding, Echo, Mirror, PolicedSession, ScanError, ServerEvent, ServerEventError, Shape,
    Shown, TranslateError, Translated, Translator, Verdict, WireFormat, append_audio, check_depth,
    event_type,
};
use crate::telemetry::{CallMetrics, Direction};
use crate::transport::{WebSocket, is_sendable};
use crate::upstream::{Decoded, Decoder, Place, Session, Trouble};

use super::leg::{LegEvent, SendError};
use super::legs::{End, Heard, Legs, Progress, loss_of};
use super::live::Conductor;
use super::notice;
use super::opening::{OpenedSession, SessionSource};
use super::order::{Order, Orders};
use super::record::Recording;
use super::registry::{CallPermit, Calls};
use super::relay_heard::RelayHeard;
use super::relay_replace::{Carry, Reopened};
use super::session_id;
use super::summary::{Audience, CallSummary, Ledger};
use super::trace::CallTrace;

/// The name of this way of calling, as routes and metric labels have it.
pub const REALTIME: &str = "realtime";

/// The format of a session that nobody has set.
const PCM: WireFormat = WireFormat::Pcm24k;

/// How PCM is kept for another session.
const COMPANDING: Companding = Companding {
    compand: media::compand,
    expand: media::expand,
};

/// What the listener hands over.
#[derive(Debug)]
pub struct RelayedCall {
    /// The gateway's id of the call.
    pub call_id: String,
    /// The shape that the caller speaks.
    pub shape: Shape,
    /// Whether it is so old that it speaks the first preview.
    pub first_preview: bool,
    /// The open session, and what the caller may do in it.
    pub session: OpenedSession,
    /// Where others come from, should it fail.
    pub sessions: SessionSource,
    /// Where this kind of call is counted.
    pub metrics: Arc<CallMetrics>,
    /// How long it may last.
    pub limits: RelayLimits,
    /// How many bytes are kept of its session, in case another one has to take its place; `None` for calls that end
    /// with their session.
    pub carry: Option<usize>,
    /// What the call may use.
    pub lease: CallLease,
    /// What its record is made of, if there is to be one.
    pub recording: Option<Box<Recording>>,
    /// Its spans, if it is sampled.
    pub trace: Option<Box<CallTrace>>,
    /// All calls of the process.
    pub calls: Calls,
    /// The right to be one of them.
    pub permit: CallPermit,
}

/// How long a relayed call may last; zero for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayLimits {
    /// Without any message from the caller.
    pub idle: Duration,
    /// In all.
    pub max_duration: Duration,
    /// How deep an event of the client may nest.
    pub json_depth: usize,
    /// Keys that an event of the client may have, all objects together.
    pub json_keys: usize,
}

impl RelayedCall {
    /// Runs the call to its end on the caller's connection.
    pub async fn run(self: Box<Self>, caller: WebSocket) {
        let (task, calls, permit) = self.begin(caller);
        let summary = task.run().await;
        calls.remember(summary);
        drop(permit);
    }

    /// A function of its own: what a future moves about it has room for as long as it lives.
    fn begin(self: Box<Self>, caller: WebSocket) -> (Box<Relay>, Calls, CallPermit) {
        let this = *self;
        let now = Instant::now();
        let OpenedSession {
            session: Session { leg, place, .. },
            early,
            transcribes,
            policy,
        } = this.session;
        let session = session_id(&leg.session_created);
        let model_shape = place.deployment().shape();
        let carry = this.carry.map(|max_bytes| {
            let mut mirror =
                Mirror::new(this.shape, model_shape, transcribes, max_bytes, COMPANDING);
            if policy.is_some() {
                mirror = mirror.holding_voice();
            }
            let mut carry = Carry::new(this.sessions, transcribes, mirror, &session, now);
            carry.began(leg.ends_at, now);
            carry
        });
        let recording = this.recording.as_deref();
        let heard = recording.map(|it| RelayHeard::new(it.wants_transcript()));
        let trace = this.trace.map(|mut trace| {
            trace.session(place.deployment(), &session, &leg.setup);
            trace
        });
        let at = place.deployment().name();
        let who = (this.call_id.as_str(), REALTIME);
        let (listing, orders) =
            this.calls
                .list(who, Conductor::Caller, &this.lease, (at, &session));
        let audience = Audience {
            metrics: this.metrics,
            lease: this.lease,
            recording: this.recording,
            trace,
            listing,
        };
        let ledger = Ledger::new(audience, this.call_id, REALTIME, at, session);
        let mut task = Box::new(Relay {
            legs: Legs::gated(caller, leg.socket),
            caller_shape: this.shape,
            model_shape,
            is_first_preview: this.first_preview,
            decoder: Decoder::new(),
            passes: this.shape == model_shape && !this.first_preview,
            translator: if this.first_preview {
                Translator::for_first_preview()
            } else {
                Translator::new()
            },
            policed: policy.map(|of| Policed {
                tenant: of.tenant,
                session: PolicedSession::new(of.policy, this.shape, transcribes),
            }),
            place,
            carry,
            ledger,
            heard,
            turn: Turn::default(),
            formats: (PCM, PCM),
            limits: this.limits,
            caller_at: now,
            ended: None,
            timer: Box::pin(tokio::time::sleep_until(now)),
            orders,
            began: now,
        });
        for event in std::iter::once(leg.session_created).chain(early) {
            task.relay_down(event, now);
        }
        (task, this.calls, this.permit)
    }
}

pub(super) struct Relay {
    pub(super) legs: Legs,
    pub(super) caller_shape: Shape,
    pub(super) model_shape: Shape,
    pub(super) is_first_preview: bool,
    pub(super) decoder: Decoder,
    /// Events pass as they are.
    pub(super) passes: bool,
    translator: Translator,
    policed: Option<Policed>,
    pub(super) place: Place,
    /// What it takes to outlive the session; calls that end with it have none.
    pub(super) carry: Option<Carry>,
    pub(super) ledger: Ledger,
    /// Of calls that are recorded.
    heard: Option<RelayHeard>,
    turn: Turn,
    /// Formats of the session's audio, the caller's and the reply's.
    formats: (WireFormat, WireFormat),
    limits: RelayLimits,
    /// When the caller last sent a message.
    caller_at: Instant,
    pub(super) ended: Option<End>,
    timer: Pin<Box<Sleep>>,
    orders: Orders,
    began: Instant,
}

/// What holds the caller to its tenant's policy.
struct Policed {
    tenant: String,
    session: PolicedSession,
}

/// The answer that is being waited for.
#[derive(Default)]
struct Turn {
    speech_stopped: Option<Instant>,
    first_audio: Option<Instant>,
    heard_before: bool,
}

enum Wake {
    Heard(Heard),
    Session(Reopened),
    Timer,
    Notice(Notice),
    Ordered(Order),
}

impl Relay {
    /// Boxed, because a future has room for each place to which what it holds is moved.
    async fn run(mut self: Box<Self>) -> CallSummary {
        loop {
            let wake_at = self.wake_at(Instant::now());
            if self.timer.deadline() != wake_at {
                self.timer.as_mut().reset(wake_at);
            }
            let wake = std::future::poll_fn(|cx| self.poll_wake(cx)).await;
            let now = Instant::now();
            match wake {
                Wake::Heard(heard) => self.heard(heard, now),
                Wake::Session(reopened) => self.session_opened(reopened, now),
                Wake::Timer => self.timeout(now),
                Wake::Notice(told) => self.noticed(told),
                Wake::Ordered(order) => self.ordered(order, now),
            }
            self.rotate(now);
            if let Some(end) = self.ended.take() {
                return Box::pin(self.finish(&end)).await;
            }
        }
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        self.legs.hold_caller = self.carry.as_ref().is_some_and(Carry::holds_caller);
        match self.legs.poll(cx, &mut self.ledger) {
            Progress::Heard(heard) => return Poll::Ready(Wake::Heard(heard)),
            Progress::Idle { wrote_to_caller } => {
                if wrote_to_caller.is_some() {
                    self.turn_heard(Instant::now());
                }
            }
        }
        if let Poll::Ready(reopened) = self.poll_session(cx) {
            return Poll::Ready(Wake::Session(reopened));
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Wake::Timer);
        }
        if let Poll::Ready(told) = self.ledger.lease.poll_notice(cx) {
            return Poll::Ready(Wake::Notice(told));
        }
        self.orders.poll(cx).map(Wake::Ordered)
    }

    /// A budget nears its end, or is used up.
    fn noticed(&mut self, told: Notice) {
        self.send_caller(&notice::event(told));
        if let Notice::Over { .. } = told {
            self.end(EndReason::BudgetExhausted);
        }
    }

    fn wake_at(&mut self, now: Instant) -> Instant {
        let watch_at = self.legs.watch_at();
        let carry_at = self.carry.as_mut().and_then(|carry| carry.wake_at(now));
        [self.idle_at(), self.max_at(), carry_at]
            .into_iter()
            .flatten()
            .fold(watch_at, Instant::min)
    }

    /// When the caller has been silent for too long.
    fn idle_at(&self) -> Option<Instant> {
        (!self.limits.idle.is_zero()).then(|| self.caller_at + self.limits.idle)
    }

    /// When the call has lasted for too long.
    fn max_at(&self) -> Option<Instant> {
        (!self.limits.max_duration.is_zero()).then(|| self.began + self.limits.max_duration)
    }

    fn timeout(&mut self, now: Instant) {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Some(heard) = self.legs.overdue(now) {
            self.heard(heard, now);
        } else if is_over(self.max_at()) {
            self.end(EndReason::MaxDuration);
        } else if is_over(self.idle_at()) {
            self.end(EndReason::CallerSilent);
        } else {
            match self.legs.watch(now) {
                Some(EndReason::ModelStalled) if self.carry.is_some() => {
                    self.model_lost(Loss::Stalled, EndReason::ModelStalled.into(), now);
                }
                Some(EndReason::ModelGone) => {
                    self.model_lost(Loss::Gone, EndReason::ModelGone.into(), now);
                }
                Some(reason) => self.end(reason),
                None => self.carry_timeout(now),
            }
        }
    }

    fn heard(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Caller(event) => self.caller_event(event, now),
            Heard::Model(event) => self.model_event(event, now),
        }
    }

    pub(super) fn end(&mut self, reason: EndReason) {
        self.ended = Some(reason.into());
    }

    fn caller_event(&mut self, event: LegEvent, now: Instant) {
        self.caller_at = now;
        match event {
            LegEvent::Text(text) => self.relay_up(text, now),
            LegEvent::Binary(_) => self.bad_input("binary_unexpected", 1003),
            LegEvent::Closed(_) => self.end(EndReason::CallerHangup),
            LegEvent::Gone => self.end(EndReason::CallerGone),
            LegEvent::Broken { name, close_code } => self.bad_input(name, close_code),
        }
    }

    fn bad_input(&mut self, name: &'static str, close_code: u16) {
        self.ledger.metrics.bad_input(name);
        self.ended = Some(End::bad_input(name, close_code));
    }

    fn relay_up(&mut self, mut text: Utf8Bytes, now: Instant) {
        let mut kept = None;
        let translates = if let Some(audio) = append_audio(&text) {
            let duration = duration_of(&audio, self.formats.0);
            self.ledger.caller_audio(duration);
            self.legs.to_model.get_or_insert(now);
            if let Some(carry) = &mut self.carry {
                carry.mirror.append(&audio);
            }
            !self.passes
        } else {
            let kind = match check_event(&text, &self.limits) {
                Ok(kind) => kind,
                Err((name, close_code)) => return self.bad_input(name, close_code),
            };
            // A session of the other shape is refused in any case (protocol reference 1.2).
            let translates = !self.passes || kind.ends_with("session.update");
            let truncates = kind == "conversation.item.truncate";
            if self.carry.is_some() {
                kept = Some(kind.clone().into_owned());
            }
            if let Some(policed) = &mut self.policed {
                match policed.session.client_event(&kind, &text) {
                    Verdict::Unchanged => {}
                    Verdict::Replaced(event) => text = event.into(),
                    Verdict::Refused { rule, answer } => {
                        let tenant = &policed.tenant;
                        self.ledger.metrics.policy_refused(tenant, rule.name());
                        return self.send_caller(&answer);
                    }
                }
            }
            if truncates {
                // A client truncates what it stopped playing because its user spoke.
                self.ledger.barged_in(Duration::ZERO);
                if let Some(heard) = &mut self.heard {
                    heard.truncated(&text);
                }
            }
            translates
        };
        self.relay_kept(text, kept, translates);
    }

    /// Sends an event of the caller's shape. False if it was not to be sent.
    pub(super) fn send_translated(&mut self, text: Utf8Bytes) -> bool {
        match self
            .translator
            .client_event(&text, self.caller_shape, self.model_shape)
        {
            Ok(Translated::Unchanged) => self.send_model(&text),
            Ok(Translated::Replaced(event)) => self.send_model(&event),
            Ok(Translated::Several(events)) => {
                for event in events {
                    self.send_model(&event);
                }
            }
            Ok(Translated::Dropped) => return false,
            Err(error) => {
                self.untranslatable(&error);
                return false;
            }
        }
        true
    }

    /// An event that cannot be passed on is answered as a deployment would.
    fn untranslatable(&mut self, error: &TranslateError) {
        match error.event_text() {
            Some(answer) => {
                self.ledger.metrics.bad_input("wrong_shape");
                // A caller that is gone says so when it is read.
                let _ = self.legs.caller.send_text(answer);
            }
            None => self.bad_input("malformed_event", 1007),
        }
    }

    pub(super) fn send_model(&mut self, text: &str) {
        if self.legs.model.send_text(text) == Err(SendError::Full) {
            self.end(EndReason::ModelStalled);
        }
    }

    fn model_event(&mut self, event: LegEvent, now: Instant) {
        match event {
            LegEvent::Text(text) => self.relay_down(text, now),
            LegEvent::Binary(_) => self.ledger.metrics.upstream_error("binary_message"),
            LegEvent::Closed(frame) => {
                let loss = loss_of(frame.as_ref());
                let mut end = End::of_model(frame.as_ref());
                let is_callers_doing = frame
                    .as_ref()
                    .is_some_and(|frame| matches!(u16::from(frame.code), 1003 | 1007..=1010));
                // The SDKs act on the deployment's own code and reason.
                if let Some(frame) = frame.filter(|frame| is_sendable(frame.code.into())) {
                    end.close_code = frame.code.into();
                    end.close_reason = Cow::Owned(frame.reason.as_str().to_owned());
                }
                match is_callers_doing {
                    true => self.ended = Some(end),
                    false => self.model_lost(loss, end, now),
                }
            }
            LegEvent::Gone => self.model_lost(Loss::Gone, EndReason::ModelGone.into(), now),
            LegEvent::Broken { name, .. } => {
                self.ledger.metrics.upstream_error(name);
                self.model_lost(Loss::Protocol, EndReason::ModelProtocol.into(), now);
            }
        }
    }

    pub(super) fn relay_down(&mut self, text: Utf8Bytes, now: Instant) {
        // Text is cheap to clone, and what is read of it lives as long as it does.
        let original = text.clone();
        match self.decoder.decode(&original) {
            Ok(decoded) => {
                if let Some(Policed { session, .. }) = &mut self.policed {
                    session.heard(decoded.server_event());
                }
                if let ServerEvent::SessionCreated(session) | ServerEvent::SessionUpdated(session) =
                    decoded.server_event()
                {
                    self.formats = (session.input.unwrap_or(PCM), session.output.unwrap_or(PCM));
                }
                let shown = match self.seen(decoded.server_event(), &text, now) {
                    Ok(shown) => shown,
                    Err(loss) => {
                        let end = match loss {
                            Loss::Expired => EndReason::ModelSessionExpired,
                            Loss::Unauthorized => EndReason::ModelUnauthorized,
                            _ => EndReason::ModelRejectedSession,
                        };
                        return self.model_lost(loss, end.into(), now);
                    }
                };
                self.measure(&decoded, now);
                self.judge(decoded.server_event());
                let event = Some(decoded.server_event());
                match shown {
                    Shown::Unchanged => self.show(text, event),
                    Shown::Replaced(text) => self.show(text.into(), event),
                    Shown::Several(events) => self.show_own(events),
                    Shown::Withheld | Shown::Refused => {}
                }
            }
            Err(error) => {
                tracing::debug!(%error, "unreadable event from the deployment");
                self.ledger.metrics.upstream_error("malformed_event");
                // A caller may make sense of what is JSON at least, but for what is meant to do harm.
                let is_bomb = matches!(error, ServerEventError::Limit(_));
                if is_bomb || !self.passes || serde_json::from_str::<IgnoredAny>(&text).is_err() {
                    return;
                }
                self.show(text, None);
            }
        }
    }

    /// Passes an event of the deployment's shape on to the caller, but for what is not for it to see. `event` is what
    /// was read of it, if it could be read.
    pub(super) fn show(&mut self, mut text: Utf8Bytes, event: Option<&ServerEvent<'_>>) {
        let echo = match &self.policed {
            Some(Policed { session, .. }) => session.echo(&text, event),
            None => Echo::Unchanged,
        };
        match echo {
            Echo::Unchanged => {}
            Echo::Replaced(event) => text = event.into(),
            Echo::Withheld => return self.ledger.metrics.upstream_error("malformed_event"),
        }
        if self.passes {
            return self.send_caller(&text);
        }
        match self
            .translator
            .server_event(&text, self.model_shape, self.caller_shape)
        {
            Ok(Translated::Unchanged) => self.send_caller(&text),
            Ok(Translated::Replaced(event)) => self.send_caller(&event),
            Ok(Translated::Several(events)) => {
                for event in events {
                    self.send_caller(&event);
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

    pub(super) fn send_caller(&mut self, text: &str) {
        if self.legs.caller.send_text(text) == Err(SendError::Full) {
            self.end(EndReason::CallerTooSlow);
        }
    }

    fn measure(&mut self, decoded: &Decoded<'_>, now: Instant) {
        let event = &decoded.event();
        self.ledger.model_event(decoded);
        let audio = match event {
            ModelEvent::AudioDelta { audio, .. } => duration_of(audio, self.formats.1),
            _ => Duration::ZERO,
        };
        if let Some(heard) = &mut self.heard {
            heard.model_event(event, audio);
        }
        self.note_playout(event, audio, now);
        match event {
            ModelEvent::SpeechStarted { .. } => {
                self.turn.speech_stopped = None;
                self.turn.first_audio = None;
            }
            ModelEvent::SpeechStopped { .. } => self.turn.speech_stopped = Some(now),
            ModelEvent::AudioDelta { .. } => {
                self.ledger.metrics.audio(Direction::ToCaller, audio);
                self.turn.first_audio.get_or_insert(now);
                self.legs.to_caller.get_or_insert(now);
            }
            ModelEvent::ResponseCreated {
                in_conversation: true,
                ..
            } => self.turn.first_audio = None,
            // Without audio, this turn has no latency that could be heard.
            ModelEvent::ResponseDone { .. } if self.legs.to_caller.is_none() => {
                self.turn.speech_stopped = None;
            }
            _ => {}
        }
    }

    /// Tells the deployment's place how its responses fare.
    fn judge(&mut self, event: &ServerEvent<'_>) {
        if matches!(event, ServerEvent::ResponseDone(response) if &*response.status == "completed")
        {
            self.place.went_well();
        } else if let Some(trouble) = trouble_of(event, self.ledger.retry_after) {
            self.response_failed(trouble);
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

    async fn finish(mut self, end: &End) -> CallSummary {
        if let (Some(recording), Some(heard)) = (self.ledger.recording(), self.heard.take()) {
            recording.spoken(heard.spoken());
        }
        let summary = self.ledger.end(end.reason, self.began.elapsed());
        let carry = async {
            if let Some(carry) = self.carry {
                carry.close().await;
            }
        };
        tokio::join!(self.legs.close(end), carry);
        summary
    }
}

/// What an event that does not end the session says of the deployment: only what a client cannot bring about by what it
/// asks (protocol reference 3.4). `retry_after` is what it said of when to come again.
fn trouble_of(event: &ServerEvent<'_>, retry_after: Option<Duration>) -> Option<Trouble> {
    let error = match event {
        ServerEvent::ResponseDone(response) => response.status_details.as_ref()?.error.as_ref()?,
        ServerEvent::Error(error) => error,
        _ => return None,
    };
    let code = error.code.as_deref().unwrap_or_default();
    // Rate limits come with the type of a bad request.
    if code.contains("rate_limit") {
        Some(Trouble::RateLimited(retry_after))
    } else if &*error.kind == "server_error" || code == "server_error" {
        Some(Trouble::ServerError)
    } else {
        None
    }
}

/// How long audio in base64 lasts, padding left out of account.
fn duration_of(base64: &str, format: WireFormat) -> Duration {
    let bytes = base64.len() as u64 * 3 / 4;
    Duration::from_micros(bytes * 1_000 / format.bytes_per_ms() as u64)
}

/// The type of an event other than audio, empty if it has none. A name and a close code for what the
/// gateway does not pass on; an event that is JSON and wrong otherwise is for the deployment to answer.
fn check_event<'a>(
    text: &'a str,
    limits: &RelayLimits,
) -> Result<Cow<'a, str>, (&'static str, u16)> {
    check_depth(text, limits.json_depth, limits.json_keys).map_err(|_| ("json_too_large", 1008))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| ("malformed_json", 1007))?;
    match event_type(text) {
        Ok(kind) => Ok(kind),
        Err(ScanError::DuplicateType) => Err(("duplicate_key", 1008)),
        Err(ScanError::Malformed { .. } | ScanError::NoType | ScanError::TypeNotText) => {
            Ok(Cow::Borrowed(""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_client_cannot_bring_about_is_trouble() {
        let after = Some(Duration::from_secs(3));
        let check = |event: &str, expected: Option<Trouble>| {
            let event = ServerEvent::parse(event).unwrap();
            assert_eq!(trouble_of(&event, after), expected, "{event:?}");
        };
        let check = |error: &str, expected: Option<Trouble>| {
            check(&format!(r#"{{"type":"error","error":{error}}}"#), expected);
            let done = format!(
                r#"{{"type":"response.done","response":{{"id":"r","status":"failed","status_details":{{"type":"failed","error":{error}}}}}}}"#
            );
            check(&done, expected);
        };
        let limited = Some(Trouble::RateLimited(after));
        for (error, expected) in [
            (
                r#"{"type":"server_error","code":null}"#,
                Some(Trouble::ServerError),
            ),
            (
                r#"{"type":"server_error","code":"x"}"#,
                Some(Trouble::ServerError),
            ),
            (r#"{"code":"server_error"}"#, Some(Trouble::ServerError)),
            (
                r#"{"type":"invalid_request_error","code":"rate_limit_exceeded"}"#,
                limited,
            ),
            (r#"{"type":"tokens","code":"rate_limit_exceeded"}"#, limited),
            (
                r#"{"type":"invalid_request_error","code":"invalid_value"}"#,
                None,
            ),
            (r#"{"type":"invalid_request_error","code":null}"#, None),
            (
                r#"{"type":"invalid_request_error","code":"content_filter"}"#,
                None,
            ),
            ("{}", None),
        ] {
            check(error, expected);
        }
        let filtered = r#"{"type":"response.done","response":{"id":"r","status":"incomplete","status_details":{"type":"incomplete","reason":"content_filter"}}}"#;
        let filtered = ServerEvent::parse(filtered).unwrap();
        assert_eq!(trouble_of(&filtered, after), None);
    }
}
