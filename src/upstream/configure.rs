//! Sets a session that was just opened, before anybody is told that it exists.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use crate::realtime::{ServerEvent, created_as_updated};
use crate::telemetry::SetupPhase;

use super::decode::{Decoded, Decoder};
use super::deployment::Deployment;
use super::dial::{DialError, Dialer, ModelLeg, PhaseClock, closed, handshake_error, label};

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
    let sent = leg.socket.send(Message::text(update)).await;
    sent.map_err(failed)?;
    let mut early = Vec::new();
    loop {
        let text = match leg.socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => return Err(closed(deployment, frame.as_ref())),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(failed(error)),
            None => return Err(failed(WsError::ConnectionClosed)),
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
