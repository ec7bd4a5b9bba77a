//! Tickets: for servers that can give a caller nothing but a URL.

use std::time::Duration;

use http::Request;
use hyper::body::Incoming as Body;
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::ingress::{ErrorStyle, Refusal};

use super::answer::{Answer, json};
use super::desk::Desk;
use super::door::Peer;
use super::mint::mint_refusal;

/// The metric label of requests for tickets.
const ROUTE: &str = "tickets";

/// Three short fields.
const MAX_BODY: usize = 4 * 1024;

/// The body of `POST /v1/tickets`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketRequest {
    /// Whom the caller is to reach; in the dialect `realtime` a model.
    agent: String,
    /// By which dialect.
    #[serde(default = "twilio")]
    dialect: String,
    /// The ticket's life in seconds; without, as long as is allowed.
    expires_in: Option<u64>,
}

fn twilio() -> String {
    "twilio".to_owned()
}

impl Desk {
    /// Makes a ticket.
    pub(super) async fn ticket(&self, request: Request<Body>, peer: &Peer) -> Answer {
        match self.ticketed(request, peer).await {
            Ok(reply) => json(201, reply),
            Err(refusal) => self.refused(ROUTE, &refusal, ErrorStyle::OpenAi, peer),
        }
    }

    async fn ticketed(&self, request: Request<Body>, peer: &Peer) -> Result<String, Refusal> {
        let (identity, _, body) = self.posted_by(ROUTE, request, MAX_BODY, peer).await?;
        let asked: TicketRequest = serde_json::from_slice(&body).map_err(|_| {
            Refusal::bad_request(
                "invalid_json",
                "A JSON object was expected: \"agent\", and if wanted \"dialect\" and \"expires_in\" in seconds.",
            )
        })?;
        let (tenant, dialect, agent) = (&identity.tenant, &asked.dialect, &asked.agent);
        self.routes.check_reach(tenant, dialect, agent)?;
        let life = asked.expires_in.map(Duration::from_secs);
        let made = self.routes.auth.make_ticket(tenant, dialect, agent, life);
        let ticket = made.map_err(mint_refusal)?;
        self.metrics.minted(tenant, "ticket");
        tracing::info!(tenant, dialect, agent, "made a ticket");
        let value = ticket.value.expose_secret();
        let reply = serde_json::json!({
            "ticket": value,
            "expires_at": ticket.expires_at,
            "url": self.config.ticket_url(dialect, agent, value),
        });
        Ok(reply.to_string())
    }
}
