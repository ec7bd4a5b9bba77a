//! Opens the session of a caller that conducts it itself, set as its tenant's policy and its key say.

use std::sync::Arc;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::realtime::{PresetRefused, SessionPolicy, SessionPreset, opening_update};
use crate::upstream::{DialError, Dialer, Pool, Session, SessionRequest};

/// Names the gateway's own event in a deployment's answer.
const EVENT_ID: &str = "event_trunkline_opening";

/// Where a call's sessions come from: the first one, and those that replace it.
#[derive(Clone, Debug)]
pub struct SessionSource {
    /// Opens them.
    pub dialer: Arc<Dialer>,
    /// At one of these deployments.
    pub pool: Arc<Pool>,
    /// Whose call it is.
    pub tenant: String,
    /// Who calls, as far as that is known: what stands for the number, or the address that it comes from.
    pub caller: String,
}

impl SessionSource {
    /// Opens a session.
    ///
    /// # Errors
    ///
    /// If no deployment gives one.
    pub async fn open(&self, request: &SessionRequest) -> Result<Session, DialError> {
        let request = SessionRequest {
            tenant: Some(self.tenant.clone()),
            caller: Some(self.caller.clone()),
            ..request.clone()
        };
        self.dialer.open_in(&self.pool, &request).await
    }
}

/// What a tenant's callers may do, and whose callers they are.
#[derive(Clone, Debug)]
pub struct TenantPolicy {
    /// The tenant's name in the configuration, which is also the metric label.
    pub tenant: String,
    /// What they may do.
    pub policy: Arc<SessionPolicy>,
}

/// A session that is as the operator wants it.
#[derive(Debug)]
pub struct OpenedSession {
    pub(super) session: Session,
    /// What the deployment said after its first event and before it took the settings.
    pub(super) early: Vec<Utf8Bytes>,
    /// Whether it only transcribes.
    pub(super) transcribes: bool,
    pub(super) policy: Option<TenantPolicy>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What is attached to the caller's key is not what its tenant may set.
    #[error("the settings attached to the key are against the tenant's policy: {0}")]
    Preset(#[from] PresetRefused),
    /// The deployment gives none, or refuses the settings.
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl OpenedSession {
    /// The name of the deployment where it is.
    #[must_use]
    pub fn deployment(&self) -> &str {
        self.session.place.deployment().name()
    }

    /// Opens a session. Nothing is sent there where neither a policy nor a key says anything about its
    /// settings. `transcribes` is what the caller's request says; its key may say it too.
    ///
    /// # Errors
    ///
    /// If there is no session, or not as it has to be.
    pub async fn open(
        sessions: &SessionSource,
        transcribes: bool,
        policy: Option<TenantPolicy>,
        preset: Option<&SessionPreset>,
    ) -> Result<Self, OpenError> {
        let rules = policy.as_ref().map(|policy| &*policy.policy);
        if let (Some(rules), Some(preset)) = (rules, preset) {
            rules.check_preset(preset)?;
        }
        let transcribes = transcribes || preset.is_some_and(SessionPreset::transcribes);
        let request = SessionRequest {
            transcription: transcribes,
            ..SessionRequest::default()
        };
        let mut session = sessions.open(&request).await?;
        let deployment = session.place.deployment();
        let update = opening_update(rules, preset, deployment.shape(), transcribes, EVENT_ID);
        let early = match update {
            Some(update) => {
                let dialer = &sessions.dialer;
                dialer
                    .configure(deployment, &mut session.leg, update)
                    .await?
            }
            None => Vec::new(),
        };
        Ok(Self {
            session,
            early,
            transcribes,
            policy,
        })
    }
}
