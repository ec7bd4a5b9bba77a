//! Phones and plain audio clients: whom an agent answers.

use std::sync::Arc;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Uri};
use hyper::body::Incoming as Body;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tracing::Instrument;

use crate::auth::{Identity, Purpose, Shown, Signed, SignedRequest};
use crate::bridge::{CallTrace, ConductedCall, RecordedCall, Recording, SessionSource, TracedCall};
use crate::ingress::{
    Credential, Dialect, ErrorStyle, Head, Refusal, RejectReason, Speak as _, Telnyx, VoiceWebhook,
    texml_connect, twiml_connect, twiml_reject,
};
use crate::quota::CallKind;
use crate::telemetry::TRACEPARENT;
use crate::upstream::{Session, SessionRequest};

use super::answer::{Answer, switch, xml};
use super::desk::Desk;
use super::door::Peer;
use super::mint::mint_refusal;
use super::quota::Admission;
use super::socket::SocketLimits;
use super::traced::traced;
use super::{dial_refusal, socket};

/// The dialects whose numbers call a webhook first.
pub(super) const TWILIO: &str = "twilio";
pub(super) const TELNYX: &str = Telnyx::NAME;

/// Phones speak OpenAI's style of errors, having none of their own.
pub(super) const STYLE: ErrorStyle = ErrorStyle::OpenAi;

/// Largest form of a webhook.
const MAX_FORM: usize = 64 * 1024;

/// What may wait to be sent to a phone: 500 ms of audio and some (limits reference). PCM16 at 48 kHz is
/// the largest audio.
pub(super) const MAX_UNSENT: usize = 48_000 + 16 * 1024;

/// A call that an agent is to answer.
#[derive(Clone, Copy)]
pub(super) struct PhoneRequest<'a> {
    /// The gateway's id of the call.
    pub(super) call_id: &'a str,
    /// Whom it asks for.
    pub(super) agent: &'a str,
    /// What its path has behind the agent.
    pub(super) ticket: Option<&'a str>,
    /// Where it came by HTTP, what it carries.
    pub(super) headers: Option<&'a HeaderMap>,
    /// When it came.
    pub(super) received: Instant,
    /// Where from.
    pub(super) peer: &'a Peer,
}

impl Desk {
    /// Answers a phone's WebSocket. `ticket` is what the path has behind the agent.
    pub(super) async fn phone(
        self: &Arc<Self>,
        call_id: &str,
        dialect: &'static str,
        agent: &str,
        ticket: Option<&str>,
        mut request: Request<Body>,
        peer: &Peer,
    ) -> Answer {
        let received = Instant::now();
        let Some(mut dialect) = Dialect::by_name(dialect) else {
            return self.refused(dialect, &Refusal::not_found(), STYLE, peer);
        };
        let name = dialect.name();
        let upgrade = match self.check_upgrade(name, &request, STYLE, peer) {
            Ok(upgrade) => upgrade,
            Err(answer) => return *answer,
        };
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (head, _) = request.into_parts();
        let can = dialect.capabilities();
        let subprotocol = can.subprotocol(&upgrade.protocols);
        dialect.opened(&Head::new(head.uri.query(), &head.headers).speaking(subprotocol));
        let credential = Credential::find_in(can.credential, head.uri.query(), &head.headers);
        let prepared = match credential {
            Ok(credential) => {
                let shown = Shown {
                    secret: credential.as_ref().map(Credential::secret),
                    ticket,
                    signed: Some(SignedRequest {
                        target: target(&head.uri),
                        headers: &head.headers,
                        signed: Signed::Upgrade,
                        agent,
                    }),
                    ..Shown::default()
                };
                let request = PhoneRequest {
                    call_id,
                    agent,
                    ticket,
                    headers: Some(&head.headers),
                    received,
                    peer,
                };
                self.prepare_phone(dialect, request, shown).await
            }
            Err(refusal) => Err(refusal),
        };
        let call = match prepared {
            Ok(call) => call,
            Err(refusal) => return self.refused(name, &refusal, STYLE, peer),
        };
        let sizes = SocketLimits {
            frames: self.config.callers.phone.frames(can.max_message_bytes),
            max_unsent: MAX_UNSENT,
        };
        let span = tracing::info_span!("call", call_id);
        self.calls.spawn(
            async move {
                if let Some(caller) = Box::pin(socket::open(on_upgrade, sizes)).await {
                    call.run(caller).await;
                }
            }
            .instrument(span),
        );
        switch(&upgrade.accept, subprotocol)
    }

    async fn prepare_phone(
        self: &Arc<Self>,
        dialect: Dialect,
        request: PhoneRequest<'_>,
        shown: Shown<'_>,
    ) -> Result<Box<ConductedCall>, Refusal> {
        let name = dialect.name();
        let purpose = Purpose::Call {
            dialect: name,
            agent: Some(request.agent),
        };
        let identity = self.identify(name, shown, purpose, request.peer).await?;
        self.prepare_identified(dialect, request, &identity).await
    }

    /// A call by somebody who is known, with a session to begin with.
    pub(super) async fn prepare_identified(
        self: &Arc<Self>,
        dialect: Dialect,
        request: PhoneRequest<'_>,
        identity: &Identity,
    ) -> Result<Box<ConductedCall>, Refusal> {
        let name = dialect.name();
        let (call_id, tenant) = (request.call_id, identity.tenant.as_str());
        let (agent, pool) = self.routes.for_agent(tenant, request.agent)?;
        let kind = CallKind::Agent(&agent.name);
        let admission = self.admit_announced(identity, &agent.name, request.ticket, &pool);
        let admission = admission.await;
        let told = request.headers.and_then(|it| self.trace_context(it));
        let announced = admission.as_ref().ok();
        let announced = announced.and_then(|(_, lease)| lease.trace_context());
        let call = TracedCall {
            call_id,
            dialect: name,
            tenant,
            kind,
            received: request.received,
        };
        let mut trace = CallTrace::begin(&self.tracer, call, told.as_ref().or(announced));
        let standby_line = agent.standby_line.clone();
        let opened = async {
            let (permit, lease) = admission?;
            self.use_up(name, identity).await?;
            // A provider's addresses say nothing of who calls.
            let caller = lease.caller_key().map(str::to_owned);
            let caller = caller.unwrap_or_else(|| request.peer.source());
            let sessions = self.sessions(Arc::clone(&pool), identity, caller, trace.as_deref());
            let session = open(call_id, &sessions, standby_line, &mut trace).await?;
            Ok(((permit, lease), sessions, session))
        };
        let opened: Result<(Admission, SessionSource, Session), Refusal> = opened.await;
        let (((permit, lease), sessions, session), trace) = traced(opened, trace)?;
        let recorded = RecordedCall {
            call_id,
            tenant,
            kind,
            number: lease.caller_number(),
        };
        Ok(Box::new(ConductedCall {
            recording: Recording::open(&self.recorder, recorded),
            trace,
            metrics: self.metrics.call(name, session.place.deployment().name()),
            call_id: call_id.to_owned(),
            dialect,
            session,
            sessions,
            agent,
            tools: self.tools.clone(),
            lease,
            calls: self.calls.clone(),
            permit,
        }))
    }

    /// Answers the webhook of a number of that provider: connect the call to a media stream.
    pub(super) async fn voice(
        &self,
        dialect: &'static str,
        request: Request<Body>,
        agent: Option<String>,
        peer: &Peer,
    ) -> Answer {
        match self.connect(dialect, request, agent, peer).await {
            Ok(document) => xml(document),
            Err(refusal) => self.refused(dialect, &refusal, STYLE, peer),
        }
    }

    async fn connect(
        &self,
        dialect: &'static str,
        request: Request<Body>,
        agent: Option<String>,
        peer: &Peer,
    ) -> Result<String, Refusal> {
        let (head, body) = request.into_parts();
        // Who sends it is known only when the form is there.
        let body = self.read_post(&head.headers, body, MAX_FORM, peer.decide_by);
        let body = body.await?;
        let webhook = VoiceWebhook::parse(&body).map_err(|error| bad_form(&error.to_string()))?;
        let agent = agent
            .or_else(|| self.routes.twilio.agent.clone())
            .unwrap_or_default();
        let credential = Credential::find(head.uri.query(), &head.headers)?;
        let shown = Shown {
            secret: credential.as_ref().map(Credential::secret),
            ticket: None,
            signed: Some(SignedRequest {
                target: target(&head.uri),
                headers: &head.headers,
                signed: Signed::Webhook {
                    body: &body,
                    form: &webhook.pairs,
                },
                agent: &agent,
            }),
            ..Shown::default()
        };
        let purpose = Purpose::Webhook { dialect };
        let identity = self.identify(dialect, shown, purpose, peer).await?;
        let tenant = identity.tenant.as_str();
        let (answers, pool) = self.routes.for_agent(tenant, &agent)?;
        if self.is_draining() {
            // A status, not a busy tone: a balancer asks another gateway, or the provider its fallback URL.
            return Err(Refusal::draining());
        }
        let full = self.calls.is_full().then(Refusal::calls_full);
        if let Some(refusal) = full.or_else(|| self.overload()) {
            // The busy tone, which is no HTTP status.
            self.refusals
                .note(dialect, refusal.code, None, peer.tenant());
            return Ok(twiml_reject(RejectReason::Busy));
        }
        let number = webhook.from.as_deref();
        let mut lease = match self.announce(tenant, &agent, number, &pool).await {
            Ok(lease) => lease,
            Err(busy) => {
                self.refusals.note(dialect, busy.code, None, peer.tenant());
                return Ok(self.busy_twiml());
            }
        };
        let stream = self.stream_url(dialect, &head.headers, tenant, &agent)?;
        pool.expect_call(&answers.standby_line);
        let context = self.trace_context(&head.headers);
        // Another gateway may be the one that the call comes to.
        let traceparent = context.as_ref().map(ToString::to_string);
        lease.set_trace_context(context);
        self.keep_place(tenant, &agent, &stream, lease);
        let from = webhook.from.as_deref().unwrap_or_default();
        let to = webhook.to.as_deref().unwrap_or_default();
        let document = match dialect {
            TELNYX => texml_connect(&stream),
            _ => {
                let mut parameters = vec![("from", from), ("to", to)];
                parameters.extend(traceparent.iter().map(|it| (TRACEPARENT, it.as_str())));
                twiml_connect(&stream, &parameters)
            }
        };
        document.map_err(|error| bad_form(&error.to_string()))
    }

    /// Where a call's audio is to go. With a ticket, if there can be one: what comes there was sent by this webhook.
    fn stream_url(
        &self,
        dialect: &str,
        headers: &HeaderMap,
        tenant: &str,
        agent: &str,
    ) -> Result<String, Refusal> {
        let base = match (self.config.public_ws_url(), headers.get(HOST)) {
            (Some(url), _) => url,
            (None, Some(host)) => {
                let host = host.to_str().map_err(|_| bad_form("the Host is no text"))?;
                format!("wss://{host}")
            }
            (None, None) => return Err(bad_form("no Host and no public_url")),
        };
        let path = Dialect::path_of(dialect).unwrap_or_default();
        let mut url = format!("{base}{path}/{agent}");
        if self.routes.auth.has_tickets() {
            let ticket = self.routes.auth.make_ticket(tenant, dialect, agent, None);
            let ticket = ticket.map_err(mint_refusal)?;
            self.metrics.minted(tenant, "ticket");
            url.push('/');
            url.push_str(ticket.value.expose_secret());
        }
        Ok(url)
    }
}

/// A session for a phone's call.
async fn open(
    call_id: &str,
    sessions: &SessionSource,
    standby_line: String,
    trace: &mut Option<Box<CallTrace>>,
) -> Result<Session, Refusal> {
    let request = SessionRequest {
        standby_line: Some(standby_line),
        ..SessionRequest::default()
    };
    let asked = Instant::now();
    let session = sessions.open(&request).await;
    let session = session.map_err(|error| {
        tracing::warn!(%error, call_id, "no session for a call");
        dial_refusal(&error)
    })?;
    if let Some(trace) = trace {
        trace.session_opened(asked, &session);
    }
    Ok(session)
}

/// Path and query as they were sent.
pub(super) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("", PathAndQuery::as_str)
}

fn bad_form(problem: &str) -> Refusal {
    Refusal::bad_request("bad_form", problem.to_owned())
}
