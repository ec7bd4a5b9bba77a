//! Deployments that serve the same calls, and sessions opened at one of them.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::realtime::WireFormat;

use super::deployment::Deployment;
use super::dial::{DialError, Dialer, ModelLeg};

/// One `[pools.NAME]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Names of its deployments.
    pub deployments: Vec<String>,
}

/// Deployments of which any may serve a call.
#[derive(Debug)]
pub struct Pool {
    name: String,
    members: Vec<Arc<Deployment>>,
}

impl Pool {
    /// A pool of these deployments.
    #[must_use]
    pub fn new(name: &str, members: Vec<Arc<Deployment>>) -> Self {
        Self {
            name: name.to_owned(),
            members,
        }
    }

    /// The name in the configuration, which is also the metric label. A deployment is a pool of that name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its deployments.
    #[must_use]
    pub fn members(&self) -> &[Arc<Deployment>] {
        &self.members
    }
}

/// What a session is wanted for.
#[derive(Clone, Debug, Default)]
pub struct SessionRequest {
    /// It is only to transcribe.
    pub transcription: bool,
    /// Deployments that have just failed this call: asked again only if no other is left.
    pub avoid: Vec<String>,
}

/// A session for a call.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub leg: ModelLeg,
    /// Where it is.
    pub place: Place,
    /// It has been configured for its agent already, with these formats.
    pub configured: Option<SessionFormats>,
}

/// Audio formats of a session, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionFormats {
    /// Of the caller's audio.
    pub input: WireFormat,
    /// Of the reply.
    pub output: WireFormat,
}

/// A session's place at a deployment. Held as long as the session is used, and the way to say how it fares.
#[derive(Debug)]
pub struct Place {
    deployment: Arc<Deployment>,
}

impl Place {
    /// The deployment.
    #[must_use]
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// The deployment failed the call in this way.
    pub fn report(&self, trouble: Trouble) {
        tracing::debug!(
            deployment = self.deployment.name(),
            ?trouble,
            "trouble with a deployment"
        );
    }
}

/// How a deployment failed a session that had been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No event came while one was due.
    Stalled,
    /// It closed the session before its time.
    Closed,
    /// The connection broke.
    Gone,
    /// It sent what the protocol does not allow.
    Protocol,
    /// It could not begin or finish a response.
    ServerError,
    /// Its quota is used up, for so long if it says so.
    RateLimited(Option<Duration>),
    /// What it was shown is good no more.
    Unauthorized,
}

impl Dialer {
    /// Opens a session at one of a pool's deployments.
    ///
    /// # Errors
    ///
    /// If none gives one: what the last one that was asked said.
    ///
    /// # Panics
    ///
    /// Never: the configuration has no pool without a deployment.
    pub async fn open_in(
        &self,
        pool: &Pool,
        request: &SessionRequest,
    ) -> Result<Session, DialError> {
        let is_avoided = |it: &&Arc<Deployment>| request.avoid.iter().any(|name| name == it.name());
        let (last_resort, first): (Vec<_>, Vec<_>) = pool.members.iter().partition(is_avoided);
        let mut failure = None;
        for deployment in first.into_iter().chain(last_resort) {
            match self.dial(deployment, request.transcription).await {
                Ok(leg) => {
                    return Ok(Session {
                        leg,
                        place: Place {
                            deployment: Arc::clone(deployment),
                        },
                        configured: None,
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.expect("a pool has a deployment"))
    }
}
