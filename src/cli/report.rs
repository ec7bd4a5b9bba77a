//! What the demo says of a sample call: the phone's timeline and the gateway's own figures.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bridge::{CallSummary, Share};
use crate::simulator::CallReport;

/// A call as both ends saw it.
#[derive(Debug)]
pub(super) struct SampleCall {
    pub(super) title: &'static str,
    pub(super) report: CallReport,
    pub(super) summary: Option<CallSummary>,
}

impl SampleCall {
    pub(super) fn is_heard_both_ways(&self) -> bool {
        self.report.is_heard_both_ways()
    }
}

impl fmt::Display for SampleCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {} ==", self.title)?;
        writeln!(f, "{}", self.report)?;
        let Some(summary) = &self.summary else {
            return writeln!(f, "gateway          has no record of the call");
        };
        for (n, turn) in summary.turns.iter().enumerate() {
            writeln!(
                f,
                "gateway turn {}   {:.0} ms from the end of speech to the first reply frame; model {:.0} ms, gateway {:.2} ms",
                n + 1,
                ms(turn.latency),
                ms(turn.model),
                ms(turn.gateway)
            )?;
        }
        writeln!(
            f,
            "gateway's share  per frame, mean (longest): to the model {}, to the caller {}",
            share(&summary.to_model),
            share(&summary.to_caller)
        )?;
        let usage = &summary.usage;
        writeln!(
            f,
            "tokens           {} in (text {}, audio {}; cached {}), {} out (text {}, audio {})",
            usage.input_text + usage.input_audio + usage.input_image,
            usage.input_text,
            usage.input_audio,
            usage.cached_text + usage.cached_audio,
            usage.output_text + usage.output_audio,
            usage.output_text,
            usage.output_audio
        )?;
        writeln!(
            f,
            "end reason       {} after {:.1} s, {} barge-ins",
            summary.end_reason,
            summary.duration.as_secs_f64(),
            summary.n_barge_ins
        )?;
        let heard = if self.is_heard_both_ways() {
            "yes"
        } else {
            "NO"
        };
        writeln!(f, "heard both ways  {heard}")
    }
}

/// All calls as one JSON object.
pub(super) fn json(calls: &[SampleCall], all_heard: bool) -> Value {
    let calls: Vec<Value> = calls
        .iter()
        .map(|call| {
            json!({
                "title": call.title,
                "heard_both_ways": call.is_heard_both_ways(),
                "caller": call.report,
                "gateway": call.summary.as_ref().map(gateway),
            })
        })
        .collect();
    json!({"heard_both_ways": all_heard, "calls": calls})
}

fn gateway(summary: &CallSummary) -> Value {
    let usage = &summary.usage;
    let turns: Vec<Value> = summary
        .turns
        .iter()
        .map(|turn| {
            json!({
                "latency_ms": ms(turn.latency),
                "model_ms": ms(turn.model),
                "gateway_ms": ms(turn.gateway),
            })
        })
        .collect();
    json!({
        "call_id": summary.call_id,
        "dialect": summary.dialect,
        "deployment": summary.deployment,
        "session_id": summary.session_id,
        "end_reason": summary.end_reason.name(),
        "duration_ms": ms(summary.duration),
        "first_audio_ms": summary.first_audio.map(ms),
        "turns": turns,
        "barge_ins": summary.n_barge_ins,
        "frame_to_model_ms": {"mean": ms(summary.to_model.mean()), "longest": ms(summary.to_model.longest), "frames": summary.to_model.n_frames},
        "frame_to_caller_ms": {"mean": ms(summary.to_caller.mean()), "longest": ms(summary.to_caller.longest), "frames": summary.to_caller.n_frames},
        "tokens": {
            "total": usage.total(),
            "input_text": usage.input_text,
            "input_audio": usage.input_audio,
            "cached": usage.cached_text + usage.cached_audio,
            "output_text": usage.output_text,
            "output_audio": usage.output_audio,
        },
    })
}

fn share(share: &Share) -> String {
    format!("{:.3} ms ({:.2})", ms(share.mean()), ms(share.longest))
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
