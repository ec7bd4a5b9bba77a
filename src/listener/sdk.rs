//! SDK clients: who conduct their session themselves, as if the gateway were the deployment.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming as Body;
use tracing::Instrument;

use crate::bridge::{CallPermit, REALTIME, RelayedCall};
use crate::ingress::{FrontDoor, RealtimeRequest, Refusal};
use crate::realtime::Shape;
use crate::upstream::{Deployment, ModelLeg};

use super::answer::{Answer, switch};
use super::door::Peer;
use super::socket::SocketLimits;
use super::{Gateway, RealtimeLimits, dial_refusal, socket};

/// One event of a deployment, whatever its size, and then some; while it waits, the deployment is not read.
const MAX_UNSENT: usize = 40 * 1024 * 1024;

/// Limits of an SDK client's socket.
pub(super) fn socket_limits(limits: &RealtimeLimits) -> SocketLimits {
    SocketLimits {
        frames: limits.frames(),
        max_unsent: MAX_UNSENT,
        read_buffer: 4 * 1024,
    }
}

impl Gateway {
    /// Answers an SDK client's WebSocket.
    pub(super) async fn sdk(
        self: &Arc<Self>,
        call_id: &str,
        path: &str,
        mut request: Request<Body>,
        peer: &Peer,
    ) -> Answer {
        let style = FrontDoor::style_of(path);
        let asked = match self
            .front_door
            .parse(path, request.uri().query(), request.headers())
        {
            Ok(asked) => asked,
            Err(refusal) => return self.refused(REALTIME, &refusal, style),
        };
        let upgrade = match self.check_upgrade(REALTIME, &request, style) {
            Ok(upgrade) => upgrade,
            Err(answer) => return *answer,
        };
        let (shape, permit, deployment, model) = match self.prepare_sdk(call_id, &asked, peer).await
        {
            Ok(prepared) => prepared,
            Err(refusal) => return self.refused(REALTIME, &refusal, style),
        };
        let on_upgrade = hyper::upgrade::on(&mut request);
        let limits = self.config.callers.realtime;
        let metrics = self.metrics().call(REALTIME, deployment.name());
        let calls = self.calls().clone();
        let span = tracing::info_span!("call", call_id);
        let answer = switch(&upgrade.accept, asked.subprotocol);
        let call_id = call_id.to_owned();
        self.calls().spawn(
            async move {
                let Some(caller) = socket::open(on_upgrade, socket_limits(&limits)).await else {
                    return;
                };
                let call = RelayedCall {
                    call_id,
                    shape,
                    first_preview: asked.first_preview,
                    model,
                    deployment,
                    metrics,
                    limits: limits.duration(),
                    calls,
                    permit,
                };
                call.run(caller).await;
            }
            .instrument(span),
        );
        answer
    }

    async fn prepare_sdk(
        &self,
        call_id: &str,
        asked: &RealtimeRequest,
        peer: &Peer,
    ) -> Result<(Shape, CallPermit, Arc<Deployment>, ModelLeg), Refusal> {
        let identity = self
            .identify(REALTIME, asked.credential.as_ref(), peer)
            .await?;
        let tenant = identity.tenant.as_str();
        // What some tenants' clients speak is not what their URL says.
        let shape = self.routes.caller_shape(tenant, asked.shape);
        let deployment = self.routes.for_model(tenant, asked.model.as_deref())?;
        let permit = self.admit(&identity)?;
        let model = self
            .dialer
            .dial(&deployment, asked.transcription)
            .await
            .map_err(|error| {
                tracing::warn!(%error, call_id, "no session for a call");
                dial_refusal(&error)
            })?;
        Ok((shape, permit, deployment, model))
    }
}
