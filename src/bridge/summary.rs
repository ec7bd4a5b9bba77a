//! What is known of a call when it is over, and what the metrics are told while it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field;

use crate::call::{EndReason, Loss, ModelEvent, Observation, RateLimit, TurnLatency, Usage};
use crate::quota::CallLease;
use crate::telemetry::{CallMetrics, Direction, FrameDrop};
use crate::upstream::{Decoded, Deployment, SessionSetup};

use super::live::Listing;
use super::record::Recording;
use super::trace::CallTrace;

/// One ended call.
#[derive(Clone, Debug)]
pub struct CallSummary {
    /// The gateway's id of the call.
    pub call_id: String,
    /// The caller's dialect.
    pub dialect: &'static str,
    /// The deployment that served it last.
    pub deployment: String,
    /// The vendor's id of the last session.
    pub session_id: String,
    /// How many sessions it used, one after another.
    pub n_sessions: u32,
    /// From the upgrade to the end.
    pub duration: Duration,
    /// Why it ended.
    pub end_reason: EndReason,
    /// Tokens of all responses.
    pub usage: Usage,
    /// From the answer to the first reply audio on the wire.
    pub first_audio: Option<Duration>,
    /// Latency of each answered turn, the last [`MAX_TURNS`] of them.
    pub turns: Vec<TurnLatency>,
    /// How many turns were answered.
    pub n_turns: u64,
    /// How often the caller interrupted.
    pub n_barge_ins: u64,
    /// For how long the caller heard nothing because a session was lost, the model's own time to answer left out: the
    /// last [`MAX_TURNS`] of them.
    pub gaps: Vec<Duration>,
    /// The gateway's own work on a frame towards the model: mean and longest.
    pub to_model: Share,
    /// The gateway's own work on a frame towards the caller: mean and longest.
    pub to_caller: Share,
}

/// The cause in metrics and logs of a session that is replaced before its cap.
pub(super) const ROTATION: &str = "rotation";

/// Turns that a summary remembers one by one.
pub const MAX_TURNS: usize = 32;

/// Time that the gateway took for frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Frames counted.
    pub n_frames: u64,
    /// Over all frames.
    pub total: Duration,
    /// Of the slowest frame.
    pub longest: Duration,
}

impl Share {
    fn add(&mut self, took: Duration) {
        self.n_frames += 1;
        self.total += took;
        self.longest = self.longest.max(took);
    }

    /// The mean, zero without frames.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let n_frames = u32::try_from(self.n_frames).unwrap_or(u32::MAX);
        self.total.checked_div(n_frames).unwrap_or_default()
    }
}

/// Tells the metrics and keeps the summary of one call, so that both agree.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) metrics: Arc<CallMetrics>,
    /// Counts what the call uses; given back when the books are closed.
    pub(super) lease: CallLease,
    /// What its record is made of, if there is to be one.
    recording: Option<Box<Recording>>,
    /// Its spans, if it is sampled.
    trace: Option<Box<CallTrace>>,
    /// What the last event of the deployment said of how long it wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// What others see of the call.
    pub(super) listing: Listing,
    summary: CallSummary,
    closed: bool,
}

impl Drop for Ledger {
    /// Only a panic, or the end of the whole process, drops a call that has not ended.
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        self.metrics.ended(EndReason::Internal.name());
        if std::thread::panicking() {
            self.metrics.panicked();
        }
        self.hand_over();
    }
}

/// Who is told what happens in a call.
pub(super) struct Audience {
    pub(super) metrics: Arc<CallMetrics>,
    pub(super) lease: CallLease,
    pub(super) recording: Option<Box<Recording>>,
    pub(super) trace: Option<Box<CallTrace>>,
    pub(super) listing: Listing,
}

impl Ledger {
    pub(super) fn new(
        audience: Audience,
        call_id: String,
        dialect: &'static str,
        deployment: &str,
        session_id: String,
    ) -> Self {
        let Audience {
            metrics,
            lease,
            recording,
            trace,
            listing,
        } = audience;
        metrics.began();
        lease.opened(deployment, Instant::now().into_std());
        let recording = recording.map(|mut recording| {
            recording.began(dialect);
            if let Some(trace) = &trace {
                recording.traced(trace.id());
            }
            recording.session(deployment, &session_id);
            recording
        });
        let mut ledger = Self {
            metrics,
            lease,
            recording,
            trace,
            retry_after: None,
            listing,
            summary: CallSummary {
                call_id,
                dialect,
                deployment: deployment.to_owned(),
                session_id,
                n_sessions: 1,
                duration: Duration::ZERO,
                end_reason: EndReason::Internal,
                usage: Usage::default(),
                first_audio: None,
                turns: Vec::new(),
                n_turns: 0,
                gaps: Vec::new(),
                n_barge_ins: 0,
                to_model: Share::default(),
                to_caller: Share::default(),
            },
            closed: false,
        };
        ledger.tell_replicas();
        ledger
    }

    /// Tells other replicas how far the call is, now and then: not for a frame.
    fn tell_replicas(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.tell(&self.summary);
        }
    }

    pub(super) fn call_id(&self) -> &str {
        &self.summary.call_id
    }

    /// The record, if there is to be one.
    pub(super) fn recording(&mut self) -> Option<&mut Recording> {
        self.recording.as_deref_mut()
    }

    /// The trace, if the call is sampled.
    pub(super) fn trace(&mut self) -> Option<&mut CallTrace> {
        self.trace.as_deref_mut()
    }

    /// What the caller attached to the call, among it whose trace it belongs to.
    pub(super) fn attached(
        &mut self,
        provider_call_id: Option<&str>,
        parameters: &BTreeMap<String, String>,
    ) {
        if let Some(trace) = &mut self.trace {
            trace.attached(parameters);
        }
        if let Some(recording) = &mut self.recording {
            recording.attached(provider_call_id, parameters);
            if let Some(trace) = &self.trace {
                recording.traced(trace.id());
            }
        }
        self.tell_replicas();
    }

    /// Audio was thrown away.
    pub(super) fn dropped(&mut self, cause: FrameDrop, duration: Duration) {
        self.metrics.dropped(cause, duration);
        if let Some(recording) = &mut self.recording {
            recording.dropped(cause, duration);
        }
    }

    /// Audio of the caller's went on to the model.
    pub(super) fn caller_audio(&mut self, duration: Duration) {
        self.metrics.audio(Direction::ToModel, duration);
        if let Some(recording) = &mut self.recording {
            recording.caller_audio(duration);
        }
    }

    pub(super) fn frame(&mut self, direction: Direction, took: Duration) {
        self.metrics.frame(direction, took);
        match direction {
            Direction::ToModel => self.summary.to_model.add(took),
            Direction::ToCaller => self.summary.to_caller.add(took),
        }
    }

    pub(super) fn turn(&mut self, turn: TurnLatency) {
        let trace = self.trace.as_ref().map(|trace| trace.id());
        self.metrics
            .turn(turn.latency, turn.model, turn.gateway, trace);
        if let Some(trace) = &mut self.trace {
            trace.turn(turn);
        }
        self.listing.turn(turn);
        self.summary.n_turns += 1;
        if self.summary.turns.len() == MAX_TURNS {
            self.summary.turns.remove(0);
        }
        self.summary.turns.push(turn);
    }

    pub(super) fn first_audio(&mut self, after: Duration) {
        self.metrics.first_audio(after);
        if let Some(trace) = &mut self.trace {
            trace.first_audio();
        }
        self.listing.first_audio(after);
        self.summary.first_audio = Some(after);
    }

    pub(super) fn barged_in(&mut self, unheard: Duration) {
        self.metrics.barged_in(unheard);
        if let Some(trace) = &mut self.trace {
            trace.barged_in();
        }
        self.listing.barged_in(unheard);
        self.summary.n_barge_ins += 1;
    }

    pub(super) fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::FirstAudio(after) => self.first_audio(after),
            Observation::Turn(turn) => self.turn(turn),
            Observation::BargeIn { unheard } => self.barged_in(unheard),
            Observation::FrameLate(late) => self.metrics.pacer_late(late),
            Observation::Underrun => self.metrics.underrun(),
            Observation::SilenceFilled(duration) => self.metrics.silence_filled(duration),
            Observation::CallerAudioDropped(duration) => {
                self.dropped(FrameDrop::CallerAhead, duration);
            }
            Observation::BenignRace(race) => self.metrics.benign_race(race.name()),
            Observation::ResponseRetried => self.metrics.response_retried(),
            Observation::SessionReplaced(loss) => self.replaced(loss.name()),
            Observation::SessionNotReplaced(loss) => self.not_replaced(loss),
            Observation::SessionRotated => self.replaced(ROTATION),
            Observation::SessionGap(gap) => self.gap(gap),
            Observation::CarriedAudioDropped(duration) => {
                self.dropped(FrameDrop::CarryFull, duration);
            }
            Observation::HistoryDropped(n) => {
                self.metrics.history_dropped(n);
                if let Some(recording) = &mut self.recording {
                    recording.history_dropped(n);
                }
            }
        }
    }

    /// The caller heard nothing for so long because a session was lost.
    pub(super) fn gap(&mut self, gap: Duration) {
        self.metrics.session_gap(gap);
        if self.summary.gaps.len() == MAX_TURNS {
            self.summary.gaps.remove(0);
        }
        self.summary.gaps.push(gap);
    }

    /// Another session took the place of the one before, because of that.
    pub(super) fn replaced(&mut self, cause: &'static str) {
        self.metrics.session_replaced(cause, "replaced");
        if let Some(recording) = &mut self.recording {
            match cause {
                ROTATION => recording.rotated(),
                _ => recording.failed_over(),
            }
        }
        if let Some(trace) = &mut self.trace {
            trace.replaced(cause);
        }
    }

    fn not_replaced(&self, loss: Loss) {
        tracing::warn!(cause = loss.name(), "no deployment gave another session");
        self.metrics.session_replaced(loss.name(), "unavailable");
    }

    /// The call goes on at another session, which counts from now on.
    pub(super) fn moved(
        &mut self,
        metrics: Arc<CallMetrics>,
        at: &Deployment,
        setup: &SessionSetup,
        session_id: String,
    ) {
        let deployment = at.name();
        self.lease.opened(deployment, Instant::now().into_std());
        if let Some(recording) = &mut self.recording {
            recording.session(deployment, &session_id);
        }
        if let Some(trace) = &mut self.trace {
            trace.session(at, &session_id, setup);
        }
        self.listing.moved(deployment, &session_id);
        self.metrics = metrics;
        deployment.clone_into(&mut self.summary.deployment);
        self.summary.session_id = session_id;
        self.summary.n_sessions += 1;
        self.tell_replicas();
    }

    pub(super) fn session_id(&self) -> &str {
        &self.summary.session_id
    }

    /// Counts what an event of the deployment says about tokens, limits and errors.
    pub(super) fn model_event(&mut self, decoded: &Decoded<'_>) {
        let now = Instant::now().into_std();
        self.retry_after = decoded.retry_after();
        let event = &decoded.event();
        if let Some(recording) = &mut self.recording {
            recording.model_event(event);
        }
        if let Some(trace) = &mut self.trace {
            trace.model_event(event);
        }
        match event {
            ModelEvent::ResponseCreated { .. } => {
                self.lease.began(&self.summary.deployment, now);
            }
            ModelEvent::ResponseDone {
                status,
                error_code,
                usage,
                ..
            } => {
                self.metrics.response(status.name());
                if let Some(code) = error_code {
                    tracing::warn!(code, "a response failed");
                    self.metrics.upstream_error(code);
                }
                self.summary.usage.add(usage);
                let cost = self.lease.used(&self.summary.deployment, usage, now);
                if let (Some(recording), Some(cost)) = (&mut self.recording, cost) {
                    recording.cost(cost);
                }
                self.listing.used(usage);
                self.out_of_quota(*error_code, now);
                self.tell_replicas();
            }
            ModelEvent::Error(error) => {
                self.metrics
                    .upstream_error(error.code.unwrap_or(error.kind));
                self.out_of_quota(error.code, now);
            }
            ModelEvent::RateLimits(limits) => {
                let deployment = &self.summary.deployment;
                self.lease.rate_limits(deployment, limits, now);
                self.rate_limit("requests", limits.requests);
                self.rate_limit("tokens", limits.tokens);
            }
            _ => {}
        }
    }

    fn rate_limit(&self, name: &'static str, limit: Option<RateLimit>) {
        if let Some(limit) = limit {
            self.metrics.rate_limit(name, limit.limit, limit.remaining);
        }
    }

    fn out_of_quota(&self, error_code: Option<&str>, now: std::time::Instant) {
        if error_code == Some("rate_limit_exceeded") {
            let deployment = &self.summary.deployment;
            self.lease.refused(deployment, self.retry_after, now);
        }
    }

    /// Closes the books and logs the call once.
    pub(super) fn end(mut self, reason: EndReason, duration: Duration) -> CallSummary {
        self.closed = true;
        self.listing.ended(reason);
        self.summary.end_reason = reason;
        self.summary.duration = duration;
        self.metrics.ended(reason.name());
        let summary = &self.summary;
        tracing::info!(
            end_reason = reason.name(),
            dialect = summary.dialect,
            deployment = summary.deployment,
            session_id = summary.session_id,
            sessions = summary.n_sessions,
            duration_ms = duration.as_millis() as u64,
            turns = summary.n_turns,
            barge_ins = summary.n_barge_ins,
            tokens = summary.usage.total(),
            trace_id = self.trace.as_ref().map(|trace| field::display(trace.id())),
            "call ended"
        );
        self.hand_over();
        self.summary.clone()
    }

    fn hand_over(&mut self) {
        if let Some(recording) = self.recording.take() {
            recording.end(&self.summary);
        }
        if let Some(trace) = self.trace.take() {
            trace.end(&self.summary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::live::Conductor;
    use super::super::registry::Calls;
    use super::*;
    use crate::bridge::RecordedCall;
    use crate::outbound::Outbound;
    use crate::quota::{CallKind, Caller, InProcess, Quota, QuotaPlan};
    use crate::records::{Recorder, RecordsConfig};
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn a_panic_is_counted_and_recorded_and_leaves_no_active_call() {
        let metrics = Metrics::new();
        let path = std::env::temp_dir().join(format!("trunkline-panic-{}", std::process::id()));
        let config = format!("sink = 'file'\nfile = {{ path = '{}' }}", path.display());
        let config: RecordsConfig = toml::from_str(&config).expect("good");
        let plan = config.plan().expect("good");
        let recorder = Recorder::new(Arc::new(plan), Arc::clone(&metrics));
        let recorded = RecordedCall {
            call_id: "c",
            tenant: "acme",
            kind: CallKind::Agent("a"),
            number: None,
        };
        let recording = Recording::open(&recorder, recorded);
        let call = metrics.call("audio", "east");
        let store = Arc::new(InProcess::default());
        let quota = Quota::new(QuotaPlan::default(), store, Arc::clone(&metrics));
        let caller = Caller {
            tenant: "acme",
            kind: CallKind::Agent("a"),
            number: None,
        };
        let lease = quota.admit(caller, quota.pool("east", &["east"])).await;
        let lease = lease.expect("room");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (id, session) = ("c".to_owned(), String::new());
            let (listing, _) = Calls::new(1).list(
                (&id, "audio"),
                Conductor::Gateway,
                &lease,
                ("east", &session),
            );
            let audience = Audience {
                metrics: call,
                lease,
                recording,
                trace: None,
                listing,
            };
            let _ledger = Ledger::new(audience, id, "audio", "east", session);
            panic!("a fault of the gateway");
        }));
        assert!(result.is_err());
        let text = metrics.render().expect("renders");
        assert!(text.contains("trunkline_panics_total 1"));
        assert!(text.contains(r#"trunkline_calls_active{dialect="audio"} 0"#));
        assert!(text.contains(r#"end_reason="internal"} 1"#));
        recorder.close();
        recorder.deliver(Outbound::new()).await;
        let text = std::fs::read_to_string(&path).expect("records");
        std::fs::remove_file(&path).expect("removed");
        let record: serde_json::Value = serde_json::from_str(&text).expect("one line");
        assert_eq!(record["call_id"], "c");
        assert_eq!(record["end_reason"], "internal");
        assert_eq!(record["end_side"], "gateway");
        assert_eq!(record["sessions"][0]["deployment"], "east");
        assert!(record["heard"].get("reply_ms").is_none());
    }
}
