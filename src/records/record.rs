//! What a record says. Fields are only added; one that changes its meaning or goes away makes another [`VERSION`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// The version of the form below.
pub const VERSION: u32 = 1;

/// One call. Times are in milliseconds unless a field's name says otherwise; what is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CallRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The gateway's id of the call, which its log lines have too. Receivers tell repeats by it.
    pub call_id: String,
    /// The gateway process that had it, by the configuration's name for it or its host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The id of its trace, if it is sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The provider's name for the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_call_id: Option<String>,
    /// Whose call it was.
    pub tenant: String,
    /// The agent that answered, for phones and audio clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The model that was asked for, by its name here, for SDK clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the caller spoke, as the metrics have it.
    pub dialect: String,
    /// When it was answered, RFC 3339 in UTC.
    pub began_at: String,
    /// When it ended, RFC 3339 in UTC.
    pub ended_at: String,
    /// From the one to the other, by a clock that is never set.
    pub duration_ms: u64,
    /// The caller's number: as it is, or `hmac-sha256:` and 64 hexadecimal digits. Left out where it is not known, and
    /// unless the configuration says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What the caller attached to the call, of the names that the configuration lets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BTreeMap<String, String>>,
    /// The sessions that it used, in their order.
    pub sessions: Vec<SessionRecord>,
    /// How many of the first sessions are left out above.
    pub sessions_left_out: u32,
    /// How often another session took the place of one that failed.
    pub failovers: u32,
    /// How often another session took the place of one whose cap was near.
    pub rotations: u32,
    /// Answers and how long they took.
    pub turns: TurnsRecord,
    /// From the answer to the first reply audio on the caller's wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_audio_ms: Option<u64>,
    /// How often the caller interrupted.
    pub barge_ins: u64,
    /// What either side heard of the other.
    pub heard: HeardRecord,
    /// Tokens of all responses, as billed by the deployments.
    pub tokens: TokensRecord,
    /// What they cost by the prices of the configuration; left out where none of the models has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostRecord>,
    /// Audio that was thrown away, in milliseconds, by the reasons of `trunkline_audio_dropped_seconds_total`.
    pub dropped_ms: BTreeMap<&'static str, u64>,
    /// For how long the caller heard nothing because a session was lost; the last 32.
    pub gaps_ms: Vec<u64>,
    /// Why it ended.
    pub end_reason: &'static str,
    /// On whose account: `caller`, `model` or `gateway`.
    pub end_side: &'static str,
    /// What was said, if the configuration says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript: Option<TranscriptRecord>,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionRecord {
    /// The deployment where it was.
    pub deployment: String,
    /// The vendor's id of it.
    pub session_id: String,
    /// For how long the call used it.
    pub duration_ms: u64,
}

/// The turns of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TurnsRecord {
    /// How many were answered.
    pub count: u64,
    /// How many of the first are left out below.
    pub left_out: u64,
    /// The last of them.
    pub latencies: Vec<TurnRecord>,
}

/// One answer. `model_ms + gateway_ms = latency_ms`, but for what is lost in rounding down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TurnRecord {
    /// From the caller's last sample to the first reply audio on the caller's wire.
    pub latency_ms: u64,
    /// The part of it until the first reply audio came from the model.
    pub model_ms: u64,
    /// The rest.
    pub gateway_ms: u64,
}

/// What either side heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeardRecord {
    /// Audio that came from the caller, silence included.
    pub caller_audio_ms: u64,
    /// Of that, what the model took for speech. Zero where the client says itself when a turn ends.
    pub caller_speech_ms: u64,
    /// Reply audio that the caller heard: by the playout clock and the marks that came back, or, for an SDK client, what it
    /// was sent and did not truncate. Left out if the call broke off by a fault of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_ms: Option<u64>,
}

/// Tokens by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokensRecord {
    /// All that are billed.
    pub total: u64,
    /// Text that was read, from the cache too.
    pub input_text: u64,
    /// Audio that was read, from the cache too.
    pub input_audio: u64,
    /// Images that were read.
    pub input_image: u64,
    /// Of the text that was read, what came from the cache.
    pub cached_text: u64,
    /// Of the audio that was read, what came from the cache.
    pub cached_audio: u64,
    /// Text that was written.
    pub output_text: u64,
    /// Audio that was written.
    pub output_audio: u64,
}

/// Money.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CostRecord {
    /// In that currency, in whole millionths of it.
    pub amount: f64,
    /// As the configuration names it.
    pub currency: String,
}

/// What was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TranscriptRecord {
    /// In the order in which it was said.
    pub lines: Vec<TranscriptLine>,
    /// How many of the first things are left out, because there was no room to remember them.
    pub left_out: u64,
}

/// What one side said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TranscriptLine {
    /// `caller` or `assistant`.
    pub speaker: &'static str,
    /// The words: the caller's as the model's transcription understood them, the assistant's as far as they were heard.
    pub text: String,
}

/// A duration in whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let record = CallRecord {
            version: VERSION,
            call_id: "call-1".to_owned(),
            ..CallRecord::default()
        };
        let json = serde_json::to_value(&record).expect("JSON");
        let fields: Vec<&str> = json
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected = [
            "version",
            "call_id",
            "tenant",
            "dialect",
            "began_at",
            "ended_at",
            "duration_ms",
            "sessions",
            "sessions_left_out",
            "failovers",
            "rotations",
            "turns",
            "barge_ins",
            "heard",
            "tokens",
            "dropped_ms",
            "gaps_ms",
            "end_reason",
            "end_side",
        ];
        expected.sort_unstable();
        let mut fields = fields;
        fields.sort_unstable();
        assert_eq!(fields, expected);
    }

    /// What receivers rely on. A change of this text that is more than an addition is another version.
    #[test]
    fn the_form_is_the_one_of_the_readme() {
        let record = CallRecord {
            version: VERSION,
            call_id: "call-8c1f0a52d97be346".to_owned(),
            replica: Some("trunkline-6c9f7d5b8-x2lkq".to_owned()),
            provider_call_id: Some("CA1f2e".to_owned()),
            tenant: "acme".to_owned(),
            agent: Some("reception".to_owned()),
            dialect: "twilio".to_owned(),
            began_at: "2026-03-02T09:15:04.120Z".to_owned(),
            ended_at: "2026-03-02T09:16:31.480Z".to_owned(),
            duration_ms: 87_360,
            sessions: vec![SessionRecord {
                deployment: "east".to_owned(),
                session_id: "sess_1".to_owned(),
                duration_ms: 87_360,
            }],
            turns: TurnsRecord {
                count: 1,
                left_out: 0,
                latencies: vec![TurnRecord {
                    latency_ms: 812,
                    model_ms: 806,
                    gateway_ms: 6,
                }],
            },
            first_audio_ms: Some(640),
            barge_ins: 1,
            heard: HeardRecord {
                caller_audio_ms: 87_300,
                caller_speech_ms: 21_400,
                reply_ms: Some(38_060),
            },
            tokens: TokensRecord {
                total: 900,
                input_text: 400,
                input_audio: 210,
                cached_text: 256,
                output_text: 80,
                output_audio: 210,
                ..TokensRecord::default()
            },
            cost: Some(CostRecord {
                amount: 0.023_104,
                currency: "USD".to_owned(),
            }),
            dropped_ms: BTreeMap::from([("playout_full", 40)]),
            end_reason: "caller_hangup",
            end_side: "caller",
            ..CallRecord::default()
        };
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("```json record\n").expect("the example");
        let (example, _) = rest.split_once("```").expect("its end");
        let example: serde_json::Value = serde_json::from_str(example).expect("JSON");
        assert_eq!(serde_json::to_value(&record).expect("JSON"), example);
    }
}
