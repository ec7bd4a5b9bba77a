//! Ephemeral keys: for servers that let others call without showing them a real key (protocol reference 1.7).

use http::Request;
use hyper::body::Incoming as Body;
use secrecy::ExposeSecret;

use crate::auth::{EphemeralSession, MintError};
use crate::ingress::{FrontDoor, MintRequest, MintRoute, Refusal};

use super::answer::{Answer, json, name};
use super::desk::Desk;
use super::door::Peer;
use super::sdk::preset;

/// The metric label of requests for keys.
const ROUTE: &str = "ephemeral_keys";

/// Instructions and tools of a session, as JSON.
const MAX_BODY: usize = 64 * 1024;

impl Desk {
    /// Makes an ephemeral key.
    pub(super) async fn mint(
        &self,
        route: MintRoute,
        request: Request<Body>,
        peer: &Peer,
    ) -> Answer {
        let request_id = FrontDoor::request_id(request.uri().query(), request.headers());
        let answer = match self.minted(route, request, peer).await {
            Ok(reply) => json(200, reply),
            Err(refusal) => self.refused(ROUTE, &refusal, route.style(), peer),
        };
        let id = format!("req-{:016x}", fastrand::u64(..));
        name(answer, &id, request_id.as_deref())
    }

    async fn minted(
        &self,
        route: MintRoute,
        request: Request<Body>,
        peer: &Peer,
    ) -> Result<String, Refusal> {
        let (identity, uri, body) = self.posted_by(ROUTE, request, MAX_BODY, peer).await?;
        let lenient = self.config.lenient_api_version;
        let asked = MintRequest::parse(route, uri.query(), &body, lenient)?;
        let tenant = identity.tenant.as_str();
        if asked.model.is_some() {
            self.routes.for_model(tenant, asked.model.as_deref())?;
        }
        if self.is_draining() && !self.routes.auth.shares_ephemeral_keys() {
            // Another process does not know the keys of this one.
            return Err(Refusal::draining());
        }
        let session = EphemeralSession {
            shape: asked.shape,
            transcription: asked.transcription,
            model: asked.model.clone(),
            settings: asked.settings_json(),
        };
        if let Some(rules) = self.routes.session_policy(tenant) {
            let checked = rules.policy.check_preset(&preset(&session)?);
            checked.map_err(|refused| {
                self.metrics.policy_refused(tenant, refused.rule.name());
                Refusal::session_refused(refused.message)
            })?;
        }
        let key = self
            .routes
            .auth
            .make_ephemeral_key(tenant, session, asked.life)
            .await
            .map_err(mint_refusal)?;
        self.metrics.minted(tenant, "ephemeral_key");
        tracing::info!(
            tenant,
            life_s = asked.life.as_secs(),
            "made an ephemeral key"
        );
        let session_id = format!("sess_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        Ok(asked.reply(key.value.expose_secret(), key.expires_at, &session_id))
    }
}

/// What somebody is told who gets no ticket or key.
pub(super) fn mint_refusal(error: MintError) -> Refusal {
    match error {
        MintError::NoSigning => {
            Refusal::new(404, "tickets_off", "Tickets are not configured here.")
        }
        MintError::Life { .. } => Refusal::bad_request("invalid_value", error.to_string()),
        MintError::TooMany => Refusal::too_many_requests(std::time::Duration::from_secs(10)),
        MintError::NoStore => Refusal::store_unavailable(std::time::Duration::from_secs(5)),
        MintError::NoRandomness => Refusal::new(500, "internal_error", "No key could be made."),
    }
}
