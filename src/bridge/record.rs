//! What a call's record is made of, gathered while the call goes on. A call without a record has none of this.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::call::{EndReason, ModelEvent, Side, Speaker, Spoken, TurnLatency, Usage};
use crate::quota::{CallKind, Cost};
use crate::records::{
    CallRecord, CostRecord, HeardRecord, Privacy, Recorder, SessionRecord, TokensRecord,
    TranscriptLine, TranscriptRecord, TurnRecord, TurnsRecord, VERSION, millis,
};
use crate::telemetry::{FrameDrop, TraceId};

use super::summary::CallSummary;

/// Sessions that a record names one by one.
const MAX_SESSIONS: usize = 32;

/// The record of a live call. Ends as one [`CallRecord`], or, if the call never begins, as none.
#[derive(Debug)]
pub struct Recording {
    recorder: Recorder,
    privacy: Privacy,
    /// What the provider's webhook told.
    number: Option<String>,
    record: CallRecord,
    began: (SystemTime, Instant),
    sessions: VecDeque<(SessionRecord, Instant)>,
    cost: Option<Cost>,
    dropped: BTreeMap<&'static str, Duration>,
    caller_audio: Duration,
    /// Where in the session's audio the caller began to speak.
    speech_from_ms: Option<u64>,
    speech_ms: u64,
    history_dropped: u64,
    spoken: Option<Spoken>,
}

/// Whose call it is.
#[derive(Clone, Copy, Debug)]
pub struct RecordedCall<'a> {
    /// The gateway's id of the call.
    pub call_id: &'a str,
    /// Whose.
    pub tenant: &'a str,
    /// For whom.
    pub kind: CallKind<'a>,
    /// The caller's number, as far as it is known before the call begins.
    pub number: Option<&'a str>,
}

impl Recording {
    /// A record of a call that is about to begin; none where none is wanted.
    #[must_use]
    pub fn open(recorder: &Recorder, call: RecordedCall<'_>) -> Option<Box<Self>> {
        let privacy = recorder.privacy()?;
        let (agent, model) = match call.kind {
            CallKind::Agent(agent) => (Some(agent.to_owned()), None),
            CallKind::Model(model) => (None, Some(model.to_owned())),
        };
        Some(Box::new(Self {
            recorder: recorder.clone(),
            number: call.number.map(str::to_owned),
            record: CallRecord {
                version: VERSION,
                call_id: call.call_id.to_owned(),
                replica: recorder.replica().map(str::to_owned),
                tenant: call.tenant.to_owned(),
                caller: privacy.caller(call.number, &BTreeMap::new()),
                agent,
                model,
                ..CallRecord::default()
            },
            privacy,
            began: (SystemTime::now(), Instant::now()),
            sessions: VecDeque::new(),
            cost: None,
            dropped: BTreeMap::new(),
            caller_audio: Duration::ZERO,
            speech_from_ms: None,
            speech_ms: 0,
            history_dropped: 0,
            spoken: None,
        }))
    }

    /// The caller was answered.
    pub(super) fn began(&mut self, dialect: &str) {
        dialect.clone_into(&mut self.record.dialect);
        self.began = (SystemTime::now(), Instant::now());
    }

    /// The call has a trace.
    pub(super) fn traced(&mut self, trace: TraceId) {
        self.record.trace_id = Some(trace.to_string());
    }

    /// What was said is to be kept.
    pub(super) fn wants_transcript(&self) -> bool {
        self.privacy.transcripts()
    }

    /// The dialect told what the caller attached to the call.
    pub(super) fn attached(
        &mut self,
        provider_call_id: Option<&str>,
        parameters: &BTreeMap<String, String>,
    ) {
        self.record.provider_call_id = provider_call_id.map(str::to_owned);
        self.record.caller = self.privacy.caller(self.number.as_deref(), parameters);
        self.record.parameters = self.privacy.parameters(parameters);
    }

    /// From now on the call uses that session.
    pub(super) fn session(&mut self, deployment: &str, session_id: &str) {
        let now = Instant::now();
        self.leave_session(now);
        self.speech_from_ms = None;
        if self.sessions.len() == MAX_SESSIONS {
            self.sessions.pop_front();
            self.record.sessions_left_out += 1;
        }
        let session = SessionRecord {
            deployment: deployment.to_owned(),
            session_id: session_id.to_owned(),
            duration_ms: 0,
        };
        self.sessions.push_back((session, now));
    }

    fn leave_session(&mut self, now: Instant) {
        if let Some((session, since)) = self.sessions.back_mut() {
            session.duration_ms = millis(now.saturating_duration_since(*since));
        }
    }

    pub(super) fn failed_over(&mut self) {
        self.record.failovers += 1;
    }

    pub(super) fn rotated(&mut self) {
        self.record.rotations += 1;
    }

    pub(super) fn cost(&mut self, cost: Cost) {
        match &mut self.cost {
            Some(sum) if sum.currency == cost.currency => sum.amount += cost.amount,
            // Another currency came into force: money of two kinds has no sum.
            Some(_) => {}
            none => *none = Some(cost),
        }
    }

    pub(super) fn dropped(&mut self, cause: FrameDrop, duration: Duration) {
        *self.dropped.entry(cause.name()).or_default() += duration;
    }

    pub(super) fn caller_audio(&mut self, duration: Duration) {
        self.caller_audio += duration;
    }

    /// The model took something for speech.
    pub(super) fn model_event(&mut self, event: &ModelEvent<'_>) {
        match event {
            ModelEvent::SpeechStarted { audio_start_ms, .. } => {
                self.speech_from_ms = Some(*audio_start_ms);
            }
            ModelEvent::SpeechStopped { audio_end_ms } => {
                let from = self.speech_from_ms.take().unwrap_or(*audio_end_ms);
                self.speech_ms += audio_end_ms.saturating_sub(from);
            }
            _ => {}
        }
    }

    pub(super) fn history_dropped(&mut self, n: u64) {
        self.history_dropped += n;
    }

    /// What was said and heard, when all is over.
    pub(super) fn spoken(&mut self, spoken: Spoken) {
        self.spoken = Some(spoken);
    }

    /// Tells other replicas how far the call is, if any are told.
    pub(super) fn tell(&mut self, summary: &CallSummary) {
        if self.recorder.tells() {
            let (record, _) = self.record(summary);
            self.recorder.tell(record);
        }
    }

    /// Hands the record over.
    pub(super) fn end(mut self, summary: &CallSummary) {
        let (record, ended_at) = self.record(summary);
        let since = ended_at.duration_since(SystemTime::UNIX_EPOCH);
        self.recorder
            .record(&record, millis(since.unwrap_or_default()));
    }

    /// What the record is if the call ends now, and when that is.
    fn record(&mut self, summary: &CallSummary) -> (CallRecord, SystemTime) {
        let (began_at, began) = self.began;
        let now = Instant::now();
        self.leave_session(now);
        let duration = now.saturating_duration_since(began);
        let ended_at = began_at + duration;
        let reason = summary.end_reason;
        let record = CallRecord {
            began_at: rfc3339(began_at),
            ended_at: rfc3339(ended_at),
            duration_ms: millis(duration),
            sessions: self
                .sessions
                .iter()
                .map(|(session, _)| session.clone())
                .collect(),
            turns: turns(summary),
            first_audio_ms: summary.first_audio.map(millis),
            barge_ins: summary.n_barge_ins,
            heard: HeardRecord {
                caller_audio_ms: millis(self.caller_audio),
                caller_speech_ms: self.speech_ms,
                reply_ms: self.spoken.as_ref().map(|it| millis(it.reply_heard)),
            },
            tokens: tokens(&summary.usage),
            cost: self.cost.as_ref().map(|cost| CostRecord {
                amount: (cost.amount * 1e6).round() / 1e6,
                currency: cost.currency.clone(),
            }),
            dropped_ms: self
                .dropped
                .iter()
                .map(|(cause, it)| (*cause, millis(*it)))
                .collect(),
            gaps_ms: summary.gaps.iter().copied().map(millis).collect(),
            end_reason: reason.name(),
            end_side: side(reason),
            transcript: self
                .spoken
                .take()
                .filter(|_| self.privacy.transcripts())
                .map(|spoken| TranscriptRecord {
                    lines: spoken.lines.into_iter().map(line).collect(),
                    left_out: self.history_dropped + spoken.left_out,
                }),
            ..self.record.clone()
        };
        (record, ended_at)
    }
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

const fn side(reason: EndReason) -> &'static str {
    match reason.side() {
        Side::Downstream => "caller",
        Side::Upstream => "model",
        Side::Internal => "gateway",
    }
}

fn line((speaker, text): (Speaker, String)) -> TranscriptLine {
    TranscriptLine {
        speaker: speaker.name(),
        text,
    }
}

fn turns(summary: &CallSummary) -> TurnsRecord {
    let latencies = summary.turns.iter().map(|turn: &TurnLatency| TurnRecord {
        latency_ms: millis(turn.latency),
        model_ms: millis(turn.model),
        gateway_ms: millis(turn.gateway),
    });
    let latencies: Vec<_> = latencies.collect();
    TurnsRecord {
        count: summary.n_turns,
        left_out: summary.n_turns.saturating_sub(latencies.len() as u64),
        latencies,
    }
}

fn tokens(usage: &Usage) -> TokensRecord {
    TokensRecord {
        total: usage.total(),
        input_text: usage.input_text,
        input_audio: usage.input_audio,
        input_image: usage.input_image,
        cached_text: usage.cached_text,
        cached_audio: usage.cached_audio,
        output_text: usage.output_text,
        output_audio: usage.output_audio,
    }
}
