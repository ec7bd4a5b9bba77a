//! What a call's trace says of its sessions: how each came about, where it was, and how another took its place.

use tokio::time::Instant;

use crate::telemetry::{SetupPhase, SpanId};
use crate::traces::otlp::{KeyValue, Span, SpanKind};
use crate::upstream::{Deployment, Session, SessionSetup};

use super::trace::{CallTrace, bounded, error};
use super::trace_turn::new_span_id;

/// A session that is in use.
#[derive(Debug)]
pub(super) struct OpenSession {
    id: SpanId,
    since: Instant,
    deployment: String,
    attributes: Vec<KeyValue>,
}

impl CallTrace {
    /// The caller was let in, and its session was asked for at `asked` and came just now.
    pub fn session_opened(&mut self, asked: Instant, session: &Session) {
        self.admitted(asked);
        let now = Instant::now();
        let setup = &session.leg.setup;
        let deployment = session.place.deployment();
        let attributes = vec![
            KeyValue::new("trunkline.deployment", deployment.name()),
            KeyValue::new("trunkline.session.standby", setup.is_before(asked)),
        ];
        let id = new_span_id();
        let parent = self.root;
        self.add(
            "open session",
            SpanKind::Internal,
            id,
            parent,
            (asked, now),
            attributes,
        );
        self.dialled_in_vain(id);
        self.phases(setup, id, asked);
    }

    fn admitted(&mut self, until: Instant) {
        let (id, parent) = (new_span_id(), self.root);
        let span = (self.began, until);
        self.add("admit", SpanKind::Internal, id, parent, span, Vec::new());
    }

    /// Dials that failed since the last look, each of them a span.
    pub(super) fn dialled_in_vain(&mut self, parent: SpanId) {
        for dial in self.failed_dials.take() {
            let id = new_span_id();
            if !self.has_room() {
                continue;
            }
            let moments = (dial.from, dial.to);
            let span = self.span("failed dial", SpanKind::Client, id, parent, moments);
            let mut attributes = vec![
                KeyValue::new("trunkline.deployment", dial.deployment.as_str()),
                KeyValue::new("error.type", dial.cause),
            ];
            let status = dial.http_status.map(u64::from);
            attributes
                .extend(status.map(|status| KeyValue::new("http.response.status_code", status)));
            self.spans.push(Span {
                attributes,
                status: error(dial.cause),
                ..span
            });
        }
    }

    /// How the connection of a session was made, unless that was before anybody asked.
    fn phases(&mut self, setup: &SessionSetup, parent: SpanId, asked: Instant) {
        if setup.is_before(asked) {
            return;
        }
        for (phase, from, to) in setup.phases() {
            let name = match phase {
                SetupPhase::Resolve => "resolve",
                SetupPhase::Dial => "dial",
                SetupPhase::Tls => "tls handshake",
                SetupPhase::Upgrade => "websocket upgrade",
                SetupPhase::SessionCreated => "session created",
                SetupPhase::SessionUpdated => "session updated",
            };
            self.add(
                name,
                SpanKind::Internal,
                new_span_id(),
                parent,
                (from, to),
                Vec::new(),
            );
        }
    }

    /// From now on the call uses that session.
    pub(super) fn session(
        &mut self,
        deployment: &Deployment,
        session_id: &str,
        setup: &SessionSetup,
    ) {
        let now = Instant::now();
        let from = self.leave_session(now);
        if let (Some(from), Some(cause)) = (from, self.replacing.take()) {
            self.replaced_session(&from, cause, deployment, setup);
        }
        let mut attributes = vec![
            KeyValue::new("trunkline.deployment", deployment.name()),
            KeyValue::new("gen_ai.provider.name", deployment.provider()),
            KeyValue::new("gen_ai.request.model", deployment.model()),
            KeyValue::new("gen_ai.conversation.id", bounded(session_id)),
            KeyValue::new("server.address", deployment.address().0),
            KeyValue::new("server.port", u64::from(deployment.address().1)),
        ];
        if let Some(region) = deployment.region() {
            attributes.push(KeyValue::new("cloud.region", region));
        }
        self.session = self.has_room().then(|| OpenSession {
            id: new_span_id(),
            since: now,
            deployment: deployment.name().to_owned(),
            attributes,
        });
    }

    /// The name of the deployment where it was.
    pub(super) fn leave_session(&mut self, now: Instant) -> Option<String> {
        let session = self.session.take()?;
        let span = (session.since, now);
        let span = self.span("session", SpanKind::Client, session.id, self.root, span);
        self.spans.push(Span {
            attributes: session.attributes,
            ..span
        });
        Some(session.deployment)
    }

    /// The session is of no more use, because of that.
    pub(super) fn session_lost(&mut self, cause: &'static str) {
        self.lost.get_or_insert((Instant::now(), cause));
    }

    /// Another session is about to take the place of the one in use, because of that.
    pub(super) fn replaced(&mut self, cause: &'static str) {
        self.replacing = Some(cause);
    }

    fn replaced_session(
        &mut self,
        from: &str,
        cause: &'static str,
        to: &Deployment,
        setup: &SessionSetup,
    ) {
        let now = Instant::now();
        let lost = self.lost.take().map(|(since, _)| since);
        let since = lost.or(setup.began()).unwrap_or(now);
        let id = new_span_id();
        let attributes = vec![
            KeyValue::new("trunkline.replacement.cause", cause),
            KeyValue::new("trunkline.replacement.from", from),
            KeyValue::new("trunkline.deployment", to.name()),
            KeyValue::new("trunkline.session.standby", setup.is_before(since)),
        ];
        let parent = self.root;
        self.add(
            "replace session",
            SpanKind::Internal,
            id,
            parent,
            (since, now),
            attributes,
        );
        self.dialled_in_vain(id);
        self.phases(setup, id, since);
    }
}
