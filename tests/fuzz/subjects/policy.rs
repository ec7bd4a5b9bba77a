//! A tenant's policy between its callers and a deployment.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use trunkline::realtime::{
    Echo, PolicedSession, ServerEvent, SessionPolicy, Shape, Verdict, append_audio, event_type,
};

const PREFIX: &str = "Never mention the moon.";

static POLICY: LazyLock<Arc<SessionPolicy>> = LazyLock::new(|| {
    let config = format!(
        "instructions_prefix = '{PREFIX}'
        pinned = {{ 'audio.output.voice' = 'marin' }}
        forbidden = ['tracing']
        max_output_tokens = 500
        tools = ['a']"
    );
    let config = toml::from_str(&config).expect("a policy");
    Arc::new(SessionPolicy::new(&config).expect("good"))
});

/// The first byte picks a shape; lines are a caller's events, and then what a deployment may answer. Whatever leaves
/// towards the deployment keeps the policy, as a reader of JSON sees it, and no echo shows the prefix.
pub(super) fn run(bytes: &[u8]) {
    let Some((mode, bytes)) = bytes.split_first() else {
        return;
    };
    let shape = match mode & 1 {
        0 => Shape::Ga,
        _ => Shape::Preview,
    };
    let mut session = PolicedSession::new(Arc::clone(&POLICY), shape, mode & 2 != 0);
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(text) = std::str::from_utf8(line) else {
            continue;
        };
        if append_audio(text).is_none() {
            if serde_json::from_str::<Value>(text).is_err() {
                continue;
            }
            let kind = event_type(text).unwrap_or_default();
            match session.client_event(&kind, text) {
                Verdict::Unchanged => check_sent(text),
                Verdict::Replaced(event) => check_sent(&event),
                Verdict::Refused { answer, .. } => {
                    let answer: Value = serde_json::from_str(&answer).expect("JSON");
                    assert_eq!(answer["type"], "error");
                }
            }
        }
        let event = ServerEvent::parse(text);
        if let Ok(event) = &event {
            session.heard(event);
        }
        match session.echo(text, event.as_ref().ok()) {
            Echo::Replaced(shown) => check_shown(&shown),
            Echo::Unchanged | Echo::Withheld => {}
        }
    }
}

fn check_sent(text: &str) {
    let event: Value = serde_json::from_str(text).expect("JSON");
    for part in ["session", "response"] {
        let Some(settings) = event.get(part).filter(|settings| settings.is_object()) else {
            continue;
        };
        for voice in [&settings["voice"], &settings["audio"]["output"]["voice"]] {
            assert!(voice.is_null() || voice == "marin", "{text}");
        }
        assert!(settings.get("tracing").is_none_or(Value::is_null), "{text}");
        for limit in ["max_output_tokens", "max_response_output_tokens"] {
            let limit = &settings[limit];
            assert!(
                limit.is_null() || limit.as_f64().is_some_and(|n| n <= 500.0),
                "{text}"
            );
        }
        if let Some(instructions) = settings["instructions"].as_str() {
            assert!(instructions.starts_with(PREFIX), "{text}");
        }
        for tool in settings["tools"].as_array().into_iter().flatten() {
            assert_eq!(tool["name"], "a", "{text}");
        }
    }
}

/// The instructions that are shown are the caller's own.
fn check_shown(text: &str) {
    let event: Value = serde_json::from_str(text).expect("JSON");
    for part in ["session", "response"] {
        if let Some(instructions) = event[part]["instructions"].as_str() {
            assert!(!instructions.contains(PREFIX) || instructions.len() > PREFIX.len());
        }
    }
}
