//! SDK clients: who conduct their session themselves, as if the gateway were the deployment.

use std::sync::Arc;

use http::{HeaderMap, Request};
use hyper::body::Incoming as Body;
use tokio::time::Instant;
use tracing::Instrument;

use crate::auth::{EphemeralSession, Identity, Purpose, Shown};
use crate::bridge::{
    CallTrace, OpenError, OpenedSession, REALTIME, RecordedCall, Recording, RelayedCall,
    SessionSource, TracedCall,
};
use crate::ingress::{Credential, FrontDoor, RealtimeRequest, Refusal};
use crate::quota::CallKind;
use crate::realtime::{SessionPreset, Shape};

use super::answer::{Answer, switch};
use super::desk::Desk;
use super::door::Peer;
use super::quota::Admission;
use super::socket::SocketLimits;
use super::traced::traced;
use super::{RealtimeLimits, dial_refusal, socket};

/// One event of a deployment, whatever its size, and then some; while it waits, the deployment is not read.
const MAX_UNSENT: usize = 40 * 1024 * 1024;

/// Limits of an SDK client's socket.
pub(super) fn socket_limits(limits: &RealtimeLimits) -> SocketLimits {
    SocketLimits {
        frames: limits.frames(),
        max_unsent: MAX_UNSENT,
    }
}

/// What an SDK client's call needs to begin.
struct Prepared {
    shape: Shape,
    admission: Admission,
    sessions: SessionSource,
    session: OpenedSession,
    recording: Option<Box<Recording>>,
    trace: Option<Box<CallTrace>>,
}

impl Desk {
    /// Answers an SDK client's WebSocket.
    pub(super) async fn sdk(
        self: &Arc<Self>,
        call_id: &str,
        path: &str,
        mut request: Request<Body>,
        peer: &Peer,
    ) -> Answer {
        let received = Instant::now();
        let style = FrontDoor::style_of(path);
        let asked = match self
            .front_door
            .parse(path, request.uri().query(), request.headers())
        {
            Ok(asked) => asked,
            Err(refusal) => return self.refused(REALTIME, &refusal, style, peer),
        };
        let upgrade = match self.check_upgrade(REALTIME, &request, style, peer) {
            Ok(upgrade) => upgrade,
            Err(answer) => return *answer,
        };
        let come = (received, request.headers());
        let prepared = self.prepare_sdk(call_id, &asked, come, peer).await;
        let Prepared {
            shape,
            admission: (permit, lease),
            sessions,
            session,
            recording,
            trace,
        } = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return self.refused(REALTIME, &refusal, style, peer),
        };
        let on_upgrade = hyper::upgrade::on(&mut request);
        let limits = self.config.callers.realtime;
        let metrics = self.metrics.call(REALTIME, session.deployment());
        let span = tracing::info_span!("call", call_id);
        let answer = switch(&upgrade.accept, asked.subprotocol);
        let call = Box::new(RelayedCall {
            call_id: call_id.to_owned(),
            shape,
            first_preview: asked.first_preview,
            session,
            sessions,
            metrics,
            limits: limits.duration(),
            carry: limits.carry(),
            lease,
            recording,
            trace,
            calls: self.calls.clone(),
            permit,
        });
        let sizes = socket_limits(&limits);
        self.calls.spawn(
            async move {
                if let Some(caller) = Box::pin(socket::open(on_upgrade, sizes)).await {
                    call.run(caller).await;
                }
            }
            .instrument(span),
        );
        answer
    }

    async fn prepare_sdk(
        &self,
        call_id: &str,
        asked: &RealtimeRequest,
        (received, headers): (Instant, &HeaderMap),
        peer: &Peer,
    ) -> Result<Prepared, Refusal> {
        let shown = Shown {
            secret: asked.credential.as_ref().map(Credential::secret),
            ..Shown::default()
        };
        let purpose = Purpose::Call {
            dialect: REALTIME,
            agent: asked.model.as_deref(),
        };
        let identity = self.identify(REALTIME, shown, purpose, peer).await?;
        let tenant = identity.tenant.as_str();
        // What some tenants' clients speak is not what their URL says.
        let shape = self.routes.caller_shape(tenant, asked.shape);
        let (model, transcription) = opened(&identity, asked)?;
        let pool = self.routes.for_model(tenant, model)?;
        let kind = CallKind::Model(model.unwrap_or(pool.name()));
        let call = TracedCall {
            call_id,
            dialect: REALTIME,
            tenant,
            kind,
            received,
        };
        let context = self.trace_context(headers);
        let mut trace = CallTrace::begin(&self.tracer, call, context.as_ref());
        let traced_by = trace.as_deref();
        let sessions = self.sessions(Arc::clone(&pool), &identity, peer.source(), traced_by);
        let opened = async {
            let admission = self.admit_to(&identity, kind, &pool).await?;
            self.use_up(REALTIME, &identity).await?;
            let policy = self.routes.session_policy(tenant);
            let preset = identity.session.as_deref().map(preset).transpose()?;
            let asked = Instant::now();
            let opening = OpenedSession::open(&sessions, transcription, policy, preset.as_ref());
            let session = opening.await.map_err(|error| {
                tracing::warn!(%error, call_id, "no session for a call");
                match error {
                    OpenError::Preset(error) => Refusal::session_refused(error.message),
                    OpenError::Dial(error) => dial_refusal(&error),
                }
            })?;
            if let Some(trace) = &mut trace {
                trace.session_opened(asked, session.session());
            }
            Ok((admission, session))
        };
        let opened = opened.await;
        let ((admission, session), trace) = traced(opened, trace)?;
        let recorded = RecordedCall {
            call_id,
            tenant,
            kind,
            number: None,
        };
        let recording = Recording::open(&self.recorder, recorded);
        Ok(Prepared {
            shape,
            admission,
            sessions,
            session,
            recording,
            trace,
        })
    }
}

/// The settings that are attached to an ephemeral key.
///
/// # Errors
///
/// If they cannot be read.
pub(super) fn preset(session: &EphemeralSession) -> Result<SessionPreset, Refusal> {
    SessionPreset::new(session.shape, &session.settings, session.transcription)
        .map_err(|error| Refusal::session_refused(error.to_string()))
}

/// The model that a caller gets and whether it is to transcribe only: what it asks for, within what it may open.
fn opened<'a>(
    identity: &'a Identity,
    asked: &'a RealtimeRequest,
) -> Result<(Option<&'a str>, bool), Refusal> {
    let session = identity.session.as_deref();
    let pinned = [
        session.and_then(|session| session.model.as_deref()),
        identity.agent.as_deref(),
    ];
    let mut model = asked.model.as_deref();
    for pinned in pinned.into_iter().flatten() {
        if model.is_some_and(|model| model != pinned) {
            return Err(Refusal::forbidden());
        }
        model = Some(pinned);
    }
    // A transcription session names its model later, where nobody holds it to the ticket's or the key's.
    let is_pinned_to_speech = match session {
        Some(session) => !session.transcription,
        None => identity.agent.is_some(),
    };
    if asked.transcription && is_pinned_to_speech {
        return Err(Refusal::forbidden());
    }
    let transcription = asked.transcription || session.is_some_and(|session| session.transcription);
    if model.is_none() && !transcription {
        return Err(Refusal::bad_request(
            "missing_required_parameter",
            "Missing required query parameter: 'model'.",
        ));
    }
    Ok((model, transcription))
}
