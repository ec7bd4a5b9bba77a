//! Phones and plain audio clients: whom an agent answers.

use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming as Body;
use tracing::Instrument;

use crate::bridge::ConductedCall;
use crate::ingress::{
    Credential, Dialect, ErrorStyle, Refusal, RejectReason, VoiceWebhook, twiml_connect,
    twiml_reject,
};

use super::answer::{Answer, switch, xml};
use super::door::Peer;
use super::socket::SocketLimits;
use super::{Gateway, dial_refusal, socket};

/// Phones speak OpenAI's style of errors, having none of their own.
const STYLE: ErrorStyle = ErrorStyle::OpenAi;

/// Largest form of a webhook.
const MAX_FORM: usize = 64 * 1024;

/// What may wait to be sent to a phone: 500 ms of audio and some (limits reference). PCM16 at 48 kHz is
/// the largest audio.
const MAX_UNSENT: usize = 48_000 + 16 * 1024;

impl Gateway {
    /// Answers a phone's WebSocket.
    pub(super) async fn phone(
        self: &Arc<Self>,
        call_id: &str,
        dialect: &'static str,
        agent: &str,
        mut request: Request<Body>,
        peer: &Peer,
    ) -> Answer {
        let Some(dialect) = Dialect::by_name(dialect) else {
            return self.refused(dialect, &Refusal::not_found(), STYLE);
        };
        let name = dialect.name();
        let upgrade = match self.check_upgrade(name, &request, STYLE) {
            Ok(upgrade) => upgrade,
            Err(answer) => return *answer,
        };
        let credential = Credential::find(request.uri().query(), request.headers());
        let prepared = match credential {
            Ok(credential) => {
                self.prepare_phone(call_id, dialect, agent, credential.as_ref(), peer)
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        let call = match prepared {
            Ok(call) => call,
            Err(refusal) => return self.refused(name, &refusal, STYLE),
        };
        let max_message = call.dialect.capabilities().max_message_bytes;
        let sizes = SocketLimits {
            frames: self.config.callers.phone.frames(max_message),
            max_unsent: MAX_UNSENT,
            read_buffer: 4 * 1024,
        };
        let on_upgrade = hyper::upgrade::on(&mut request);
        let span = tracing::info_span!("call", call_id);
        self.calls().spawn(
            async move {
                if let Some(caller) = socket::open(on_upgrade, sizes).await {
                    call.run(caller).await;
                }
            }
            .instrument(span),
        );
        switch(&upgrade.accept, None)
    }

    async fn prepare_phone(
        self: &Arc<Self>,
        call_id: &str,
        dialect: Dialect,
        agent: &str,
        credential: Option<&Credential>,
        peer: &Peer,
    ) -> Result<ConductedCall, Refusal> {
        let identity = self.identify(dialect.name(), credential, peer).await?;
        let (agent, deployment) = self.routes.for_agent(&identity.tenant, agent)?;
        let permit = self.admit(&identity)?;
        let model = self
            .dialer
            .dial(&deployment, false)
            .await
            .map_err(|error| {
                tracing::warn!(%error, call_id, "no session for a call");
                dial_refusal(&error)
            })?;
        Ok(ConductedCall {
            metrics: self.metrics().call(dialect.name(), deployment.name()),
            call_id: call_id.to_owned(),
            dialect,
            model,
            deployment,
            agent,
            tools: self.tools.clone(),
            calls: self.calls().clone(),
            permit,
        })
    }

    /// Answers the webhook of a number: connect the call to a media stream.
    pub(super) async fn twilio_voice(
        &self,
        request: Request<Body>,
        agent: Option<String>,
    ) -> Answer {
        let host = request
            .headers()
            .get("host")
            .and_then(|host| host.to_str().ok())
            .map(str::to_owned);
        let form = Limited::new(request.into_body(), MAX_FORM).collect();
        let body = match tokio::time::timeout(self.config.head_timeout, form).await {
            Ok(Ok(body)) => body.to_bytes(),
            Err(_) => {
                let refusal = Refusal::new(408, "request_timeout", "The form came too slowly.");
                return self.refused("twilio", &refusal, STYLE);
            }
            Ok(Err(_)) => {
                return self.refused(
                    "twilio",
                    &bad_form("the form is too large or was cut off"),
                    STYLE,
                );
            }
        };
        let webhook = match VoiceWebhook::parse(&body) {
            Ok(webhook) => webhook,
            Err(error) => return self.refused("twilio", &bad_form(&error.to_string()), STYLE),
        };
        let Some(agent) = agent
            .or_else(|| self.routes.twilio.agent.clone())
            .filter(|agent| self.routes.agents.contains_key(agent))
        else {
            return self.refused("twilio", &Refusal::not_found(), STYLE);
        };
        if self.is_draining() || self.calls().is_full() || self.overload().is_some() {
            self.metrics().refused("twilio", "busy");
            return xml(twiml_reject(RejectReason::Busy));
        }
        let base = match (&self.config.public_url, host) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(host)) => format!("wss://{host}"),
            (None, None) => {
                return self.refused("twilio", &bad_form("no Host and no public_url"), STYLE);
            }
        };
        let from = webhook.from.as_deref().unwrap_or_default();
        let to = webhook.to.as_deref().unwrap_or_default();
        match twiml_connect(
            &format!("{base}/twilio/media/{agent}"),
            &[("from", from), ("to", to)],
        ) {
            Ok(twiml) => xml(twiml),
            Err(error) => self.refused("twilio", &bad_form(&error.to_string()), STYLE),
        }
    }
}

fn bad_form(problem: &str) -> Refusal {
    Refusal::bad_request("bad_form", problem.to_owned())
}
