//! Sets a session that was just opened, before anybody is told that it exists.

use std::io;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::realtime::{ServerEvent, created_as_updated};
use crate::telemetry::SetupPhase;
use crate::transport::Received;

use super::decode::{Decoded, Decoder};
use super::deployment::Deployment;
use super::dial::{Dialer, ModelLeg};
use super::dial_error::{DialError, closed, handshake_error, label, lost};
use super::pool::Trouble;
use super::setup::PhaseClock;

/// Events kept that come before the deployment has taken the settings; there is hardly ever one.
const MAX_EARLY: usize = 64;

impl Dialer {
    /// Sends a session this `session.update` and waits until the deployment has taken it. `session_created` then tells
    /// of the session as it became; other events that came meanwhile are returned.
    ///
    /// # Errors
    ///
    /// If the deployment refuses the settings or fails; the failure is counted.
    pub async fn configure(
        &self,
        deployment: &Deployment,
        leg: &mut ModelLeg,
        update: String,
    ) -> Result<Vec<Utf8Bytes>, DialError> {
        let result = PhaseClock::new(deployment, &self.metrics)
            .time(
                SetupPhase::SessionUpdated,
                deployment.timeouts.session,
                exchange(deployment, leg, update),
            )
            .await;
        if let Err(error) = &result {
            self.metrics.dial_failed(deployment.name(), error.name());
        }
        result
    }
}

async fn exchange(
    deployment: &Deployment,
    leg: &mut ModelLeg,
    update: String,
) -> Result<Vec<Utf8Bytes>, DialError> {
    let failed = |error| handshake_error(deployment, error);
    let sent = leg.socket.send_text(&update);
    sent.map_err(|error| failed(io::Error::other(error).into()))?;
    let flushed = leg.socket.flush().await;
    flushed.map_err(|error| failed(error.into()))?;
    let mut early = Vec::new();
    loop {
        let text = match leg.socket.next().await {
            Received::Text(text) => text,
            Received::Binary(_) | Received::SignOfLife => continue,
            Received::Closed(frame) => return Err(closed(deployment, frame.as_ref())),
            ended => return Err(failed(lost(ended))),
        };
        let mut decoder = Decoder::new();
        let decoded = decoder.decode(&text);
        match decoded.as_ref().map(|decoded| decoded.server_event()) {
            Ok(ServerEvent::SessionUpdated(_)) => {
                if let Some(created) = created_as_updated(&leg.session_created, &text) {
                    leg.session_created = created.into();
                }
                return Ok(early);
            }
            Ok(ServerEvent::Error(error)) => {
                let code = error.code.as_deref().unwrap_or(&error.kind);
                return Err(DialError::Rejected {
                    deployment: deployment.name.clone(),
                    code: label(code).unwrap_or_default(),
                    retry_after: decoded.as_ref().ok().and_then(Decoded::retry_after),
                });
            }
            Ok(_) | Err(_) if early.len() < MAX_EARLY => early.push(text),
            Ok(_) | Err(_) => {}
        }
    }
}

impl DialError {
    /// What a deployment is told to have done where this came of [`Dialer::configure`]; `None` where the settings may be
    /// to blame, which are a tenant's or an agent's and would be refused elsewhere too.
    pub(super) fn trouble_of_settings(&self) -> Option<Trouble> {
        match self {
            Self::Rejected {
                code, retry_after, ..
            } => match code.as_str() {
                "rate_limit_exceeded" => Some(Trouble::RateLimited(*retry_after)),
                "invalid_api_key" => Some(Trouble::Unauthorized),
                "server_error" => Some(Trouble::ServerError),
                _ => None,
            },
            Self::Closed { .. } => Some(Trouble::Closed),
            Self::Timeout { .. } => Some(Trouble::Stalled),
            Self::NoToken { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Refused { .. }
            | Self::Handshake { .. }
            | Self::NoneLeft { .. }
            | Self::Late { .. } => Some(Trouble::Gone),
        }
    }
}
