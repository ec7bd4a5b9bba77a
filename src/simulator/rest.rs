//! Ephemeral keys and the stubs of call control (reference chapters 1.7 to 1.9).

use std::sync::Arc;

use serde_json::{Value, json};

use super::config::{Shape, SimulatorConfig};
use super::error::ApiError;
use super::handshake::{Endpoint, beta_disabled, snapshot};
use super::ids::Source;
use super::schema::{Locks, SessionConfig, SessionFacts};
use super::session::{Provider, SessionKind};

/// Lifetime of a preview key, in seconds.
const PREVIEW_KEY_S: u64 = 60;
const GA_KEY_S: u64 = 600;

/// A key and the session fields that come with it.
#[derive(Clone, Debug)]
pub(super) struct EphemeralKey {
    pub(super) value: String,
    pub(super) expires_at: u64,
    pub(super) session: Value,
}

/// Answers a REST call: the body, and the key it made.
pub(super) fn create_key(
    config: &Arc<SimulatorConfig>,
    provider: Provider,
    endpoint: Endpoint,
    body: &Value,
    source: &mut Source,
    epoch: u64,
) -> Result<(Value, EphemeralKey), ApiError> {
    let preview = endpoint != Endpoint::ClientSecrets;
    if preview && config.beta_sunset && provider == Provider::OpenAi {
        return Err(beta_disabled());
    }
    let (session, seconds) = if preview {
        (body.clone(), PREVIEW_KEY_S)
    } else {
        let seconds = match &body["expires_after"]["seconds"] {
            Value::Null => GA_KEY_S,
            value => value
                .as_u64()
                .filter(|seconds| (10..=7_200).contains(seconds))
                .ok_or_else(|| ApiError::invalid("expires_after.seconds", "expected 10 to 7200"))?,
        };
        let session = body
            .get("session")
            .cloned()
            .unwrap_or_else(|| json!({"type": "realtime"}));
        (session, seconds)
    };
    let transcribes =
        endpoint == Endpoint::TranscriptionSessions || session["type"] == "transcription";
    let shape = if preview { Shape::Preview } else { Shape::Ga };
    let deployment = session["model"].as_str().unwrap_or_default();
    let facts = SessionFacts {
        id: source.id("sess_"),
        model: snapshot(config, deployment, shape),
        deployment: deployment.to_owned(),
        kind: if transcribes {
            SessionKind::Transcription
        } else {
            SessionKind::Conversation
        },
        shape,
        expires_at: 0,
        first_preview: false,
        config: Arc::clone(config),
    };
    let settings = SessionConfig::new(shape, &config.instructions);
    let settings = settings.updated(&session, &facts, Locks::default())?;
    let key = EphemeralKey {
        value: format!("ek_{}", hex(source)),
        expires_at: epoch + seconds,
        session,
    };
    let mut echo = settings.echo(&facts);
    let reply = if preview {
        echo["client_secret"] = json!({"value": key.value, "expires_at": key.expires_at});
        echo
    } else {
        json!({"value": key.value, "expires_at": key.expires_at, "session": echo})
    };
    Ok((reply, key))
}

/// 32 hexadecimal digits.
fn hex(source: &mut Source) -> String {
    (0..32)
        .filter_map(|_| char::from_digit((source.unit() * 16.0) as u32, 16))
        .collect()
}
