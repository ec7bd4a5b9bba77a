//! Opens the session of a caller that conducts it itself, set as its tenant's policy and its key say.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::realtime::{PresetRefused, SessionPolicy, SessionPreset, Shape, opening_update};
use crate::upstream::{DialError, Dialer, FailedDials, Pool, Session, SessionRequest, Trouble};

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
    /// Where dials that fail are told.
    pub failed_dials: FailedDials,
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
            failed_dials: self.failed_dials.clone(),
            ..request.clone()
        };
        self.dialer.open_in(&self.pool, &request).await
    }

    /// Sets a session that was opened, if there is anything to be set. Returns what the deployment said before it took
    /// the settings.
    ///
    /// # Errors
    ///
    /// If the deployment does not take them, which it is told to have done where that is its fault.
    pub(super) async fn set(
        &self,
        session: &mut Session,
        update: Option<String>,
    ) -> Result<Vec<Utf8Bytes>, DialError> {
        let Some(update) = update else {
            return Ok(Vec::new());
        };
        let Session { leg, place, .. } = session;
        // Whoever goes away meanwhile has seen nothing of the deployment.
        place.set_unproven(true);
        match self.dialer.configure(place.deployment(), leg, update).await {
            Ok(early) => {
                place.set_unproven(false);
                Ok(early)
            }
            Err(error) => {
                place.not_configured(&error);
                Err(error)
            }
        }
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
    /// The session itself.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

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
        let update = |shape| opening_update(rules, preset, shape, transcribes, EVENT_ID);
        let (session, early) = opened(sessions, transcribes, update).await?;
        Ok(Self {
            session,
            early,
            transcribes,
            policy,
        })
    }
}

/// A session that has taken the settings of its shape, within the pool's time limit. Every deployment is asked once.
async fn opened(
    sessions: &SessionSource,
    transcription: bool,
    update: impl Fn(Shape) -> Option<String>,
) -> Result<(Session, Vec<Utf8Bytes>), DialError> {
    let limit = sessions.pool.timeout();
    let deadline = Instant::now() + limit;
    let late = || DialError::Late {
        pool: sessions.pool.name().to_owned(),
        limit,
    };
    let mut request = SessionRequest {
        transcription,
        ..SessionRequest::default()
    };
    let mut last = None;
    loop {
        let mut session = match timeout_at(deadline, sessions.open(&request)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(last.unwrap_or(error)),
            Err(_) => return Err(last.unwrap_or_else(late)),
        };
        let deployment = session.place.deployment();
        let name = deployment.name().to_owned();
        let update = update(deployment.shape());
        // Who failed is given again only where nobody else is left.
        if let Some(error) = last.take_if(|_| request.avoid.contains(&name)) {
            session.place.set_unproven(true);
            return Err(error);
        }
        let error = match timeout_at(deadline, sessions.set(&mut session, update)).await {
            Ok(Ok(early)) => return Ok((session, early)),
            Ok(Err(error)) => error,
            Err(_) => {
                session.place.report(Trouble::Stalled);
                return Err(late());
            }
        };
        tracing::debug!(%error, "the session cannot be set");
        request.avoid.push(name);
        if request.avoid.len() >= sessions.pool.members().len() {
            return Err(error);
        }
        last = Some(error);
    }
}
