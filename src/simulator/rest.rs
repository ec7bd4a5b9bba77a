//! Ephemeral keys and the stubs of call control (reference chapters 1.7 to 1.9).

use std::sync::Arc;

use serde_json::{Value, json};

use super::config::{Shape, SimulatorConfig};
use super::error::ApiError;
use super::fields::Fields;
use super::handshake::{Endpoint, Grant, beta_disabled, snapshot};
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
    pub(super) grant: Grant,
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
        let fields = Fields::of(body, "")?;
        fields.allow(&["expires_after", "session"])?;
        let session = fields
            .get_set("session")
            .cloned()
            .unwrap_or_else(|| json!({"type": "realtime"}));
        (session, lifetime(&fields)?)
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
        grant: Grant {
            session,
            shape,
            kind: facts.kind,
        },
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

/// Seconds that a GA key shall live.
fn lifetime(fields: &Fields<'_>) -> Result<u64, ApiError> {
    let Some(expiry) = fields.object("expires_after")? else {
        return Ok(GA_KEY_S);
    };
    expiry.allow(&["anchor", "seconds"])?;
    if let Some(anchor) = expiry.get_set("anchor")
        && anchor != "created_at"
    {
        return Err(ApiError::invalid(
            expiry.path("anchor"),
            "expected created_at",
        ));
    }
    Ok(expiry.integer("seconds", 10, 7_200)?.unwrap_or(GA_KEY_S))
}

/// 32 hexadecimal digits.
fn hex(source: &mut Source) -> String {
    (0..32)
        .filter_map(|_| char::from_digit((source.unit() * 16.0) as u32, 16))
        .collect()
}
