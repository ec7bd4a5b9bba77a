//! Calls and deployments as JSON, for the command line and the operations page.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::control_proto as proto;
use super::control_proto::moment::What;

/// A call for programs: times in milliseconds, moments as RFC 3339.
pub(crate) fn call_json(call: &proto::Call) -> Value {
    let tokens = call.tokens.unwrap_or_default();
    let conductor = match call.conductor() {
        proto::Conductor::Caller => "caller",
        proto::Conductor::Gateway | proto::Conductor::Unspecified => "gateway",
    };
    let began_at = call
        .began_at
        .and_then(|at| SystemTime::try_from(at).ok())
        .map(|at| humantime::format_rfc3339_millis(at).to_string());
    let timeline: Vec<_> = call.timeline.iter().map(moment_json).collect();
    json!({
        "call_id": call.call_id,
        "tenant": call.tenant,
        "route": call.route,
        "dialect": call.dialect,
        "conductor": conductor,
        "deployment": call.deployment,
        "session_id": call.session_id,
        "sessions": call.sessions,
        "began_at": began_at,
        "lasts_ms": ms(call.lasts),
        "state": state(call),
        "turns": call.turns,
        "barge_ins": call.barge_ins,
        "last_turn": call.last_turn.as_ref().map(turn_json),
        "first_audio_ms": ms(call.first_audio),
        "tokens": {
            "input_text": tokens.input_text,
            "input_audio": tokens.input_audio,
            "input_image": tokens.input_image,
            "cached_text": tokens.cached_text,
            "cached_audio": tokens.cached_audio,
            "output_text": tokens.output_text,
            "output_audio": tokens.output_audio,
        },
        "end_reason": (!call.end_reason.is_empty()).then_some(&call.end_reason),
        "timeline": timeline,
    })
}

fn moment_json(moment: &proto::Moment) -> Value {
    let mut line = match &moment.what {
        Some(What::FirstAudio(after)) => json!({"first_audio_ms": ms(Some(*after))}),
        Some(What::Turn(turn)) => json!({"turn": turn_json(turn)}),
        Some(What::BargeIn(unheard)) => json!({"barge_in_unheard_ms": ms(Some(*unheard))}),
        Some(What::SessionLost(cause)) => json!({"session_lost": cause}),
        Some(What::SessionOpened(deployment)) => json!({"session_opened": deployment}),
        Some(What::Said(mode)) => {
            let mode = proto::SayMode::try_from(*mode).unwrap_or_default();
            json!({"said": say_mode(mode)})
        }
        None => json!({}),
    };
    line["at_ms"] = json!(ms(moment.at));
    line
}

fn turn_json(turn: &proto::TurnLatency) -> Value {
    json!({
        "latency_ms": ms(turn.latency),
        "model_ms": ms(turn.model),
        "gateway_ms": ms(turn.gateway),
    })
}

/// A deployment for programs.
pub(crate) fn deployment_json(deployment: &proto::Deployment) -> Value {
    let quota =
        |it: &proto::Quota| json!({"limit": it.limit, "used": it.used, "remaining": it.remaining});
    json!({
        "name": deployment.name,
        "region": (!deployment.region.is_empty()).then_some(&deployment.region),
        "condition": deployment.condition,
        "drained": deployment.is_drained,
        "sessions": deployment.sessions,
        "standby": deployment.standby,
        "tokens": deployment.tokens.as_ref().map(quota),
        "requests": deployment.requests.as_ref().map(quota),
        "pressure": deployment.pressure,
    })
}

/// Its phase, by name.
pub(crate) fn state(call: &proto::Call) -> &'static str {
    match call.state() {
        proto::CallState::Unspecified => "unknown",
        proto::CallState::Connected => "connected",
        proto::CallState::Talking => "talking",
        proto::CallState::Replacing => "replacing",
        proto::CallState::Ending => "ending",
        proto::CallState::Ended => "ended",
    }
}

/// In whose voice something was said, by name.
pub(crate) fn say_mode(mode: proto::SayMode) -> &'static str {
    match mode {
        proto::SayMode::Unspecified | proto::SayMode::Verbatim => "verbatim",
        proto::SayMode::User => "user",
        proto::SayMode::System => "system",
    }
}

/// A span of the contract as one of the clock's.
pub(crate) fn lasts(span: Option<prost_types::Duration>) -> Option<Duration> {
    span.and_then(|span| span.try_into().ok())
}

fn ms(span: Option<prost_types::Duration>) -> Option<f64> {
    // Microseconds are as much as anybody measures.
    lasts(span).map(|span| (span.as_secs_f64() * 1e6).round() / 1e3)
}
