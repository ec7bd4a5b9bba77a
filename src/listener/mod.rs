//! Where callers come in: accept, HTTP limits, routes, admission, the upgrade, drain.
//!
//! Everything that can refuse a caller happens before the upgrade is answered, the session at the
//! deployment included, so that nobody is answered and then hung up on. Knows no codec and no event.

mod answer;
mod callers;
mod config;
mod echo;
mod mint;
mod phone;
mod post;
mod routes;
mod sdk;
mod socket;
mod tickets;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request};
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Denied, Identity, Purpose, Shown, UseError};
use crate::bridge::{CallPermit, Calls, ToolRunner};
use crate::ingress::upgrade::{self, Upgrade};
use crate::ingress::{Dialect, ErrorStyle, FrontDoor, MintRoute, Refusal};
use crate::telemetry::Metrics;
use crate::transport::Transport;
use crate::upstream::{DialError, Dialer};

use answer::{Answer, name, refuse, refuse_upgrade, text};

pub use callers::{CallersConfig, PhoneLimits, RealtimeLimits};
pub use config::{ListenerConfig, TwilioConfig, is_origin, is_public_url};
#[doc(hidden)]
pub use echo::echo_connection;
pub use routes::Routes;

/// Headers of one request (limits reference).
const MAX_HEADERS: usize = 64;

/// How long to wait before accepting again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long connections that are no call may take to end when the process goes away.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Everything that answers callers.
#[derive(Debug)]
pub struct Gateway {
    config: ListenerConfig,
    routes: Routes,
    front_door: FrontDoor,
    dialer: Dialer,
    tools: ToolRunner,
    metrics: Arc<Metrics>,
    calls: Calls,
    draining: AtomicBool,
    connections: TaskTracker,
    /// Cancelled when connections are to end that are no call.
    closing: CancellationToken,
}

impl Gateway {
    /// A gateway that answers on these routes.
    #[must_use]
    pub fn new(
        config: ListenerConfig,
        routes: Routes,
        dialer: Dialer,
        tools: ToolRunner,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            calls: Calls::new(config.max_calls),
            front_door: FrontDoor {
                lenient_api_version: config.lenient_api_version,
            },
            config,
            routes,
            dialer,
            tools,
            metrics,
            draining: AtomicBool::new(false),
            connections: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    /// The live calls.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Whether new calls are refused because the process is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Refuses new calls, lets the live ones finish for at most `grace`, ends what is left.
    pub async fn drain(&self, grace: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        self.metrics.draining();
        tracing::info!(
            calls = self.calls.active(),
            grace_s = grace.as_secs(),
            "draining"
        );
        self.calls.drain(grace).await;
    }

    /// Ends the connections that are no call: idle ones at once, others after their answer, if that comes soon.
    pub async fn close(&self) {
        self.closing.cancel();
        self.connections.close();
        let left = tokio::time::timeout(CLOSE_PATIENCE, self.connections.wait()).await;
        if left.is_err() {
            let connections = self.connections.len();
            tracing::warn!(connections, "connections were still open at the end");
        }
    }

    /// Accepts callers until `shutdown`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let limit = self.config.connection_limit();
        if limit < self.config.max_calls as usize {
            tracing::warn!(
                max_calls = self.config.max_calls,
                max_connections = limit,
                "fewer connections than calls are allowed"
            );
        }
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, _peer)) => {
                    // An answered call is no longer among the connections.
                    if self.connections.len() + self.calls.active() >= limit {
                        self.metrics.refused("other", "too_many_connections");
                        turn_away(&stream);
                        continue;
                    }
                    // Small frames must not wait for the peer's acknowledgement.
                    if stream.set_nodelay(true).is_ok() {
                        self.serve_connection(Transport::Tcp(stream));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Answers one connection, as a task of its own.
    pub fn serve_connection(self: &Arc<Self>, transport: Transport) {
        let gateway = Arc::clone(self);
        let closing = self.closing.clone();
        self.connections.spawn(async move {
            let timeout = gateway.config.head_timeout;
            let service = service_fn(move |request| {
                let gateway = Arc::clone(&gateway);
                async move { Ok::<_, Infallible>(gateway.answer(request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(timeout)
                .max_headers(MAX_HEADERS)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(transport), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended before a call");
            }
        });
    }

    async fn answer(self: &Arc<Self>, request: Request<Body>) -> Answer {
        let path = normalise(request.uri().path());
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (request.method(), segments.as_slice()) {
            (&Method::POST, ["twilio", "voice"]) => self.twilio_voice(request, None).await,
            (&Method::POST, ["twilio", "voice", agent]) => {
                let agent = (*agent).to_owned();
                self.twilio_voice(request, Some(agent)).await
            }
            (_, ["twilio", "media", agent, ticket @ ..]) if ticket.len() <= 1 => {
                let ticket = ticket.first().copied();
                self.call(request, Door::Phone("twilio", agent, ticket))
                    .await
            }
            (_, ["v1", "audio", agent, ticket @ ..]) if ticket.len() <= 1 => {
                let ticket = ticket.first().copied();
                self.call(request, Door::Phone("audio", agent, ticket))
                    .await
            }
            (&Method::POST, ["v1", "tickets"]) => self.ticket(request).await,
            (&Method::GET, ["livez"]) => text(200, "ok\n"),
            (&Method::POST, _) if let Some(route) = MintRoute::of(&path) => {
                self.mint(route, request).await
            }
            _ if path.ends_with("/realtime") || path.contains("/realtime/") => {
                self.call(request, Door::Sdk(&path)).await
            }
            _ => self.refused("other", &Refusal::not_found(), ErrorStyle::OpenAi),
        }
    }

    /// Answers somebody who wants to call.
    async fn call(self: &Arc<Self>, request: Request<Body>, door: Door<'_>) -> Answer {
        let call_id = new_call_id();
        let request_id = FrontDoor::request_id(request.uri().query(), request.headers());
        let answer = match door {
            Door::Phone(dialect, agent, ticket) => {
                // A path may end in a slash.
                let ticket = ticket.filter(|ticket| !ticket.is_empty());
                self.phone(&call_id, dialect, agent, ticket, request).await
            }
            Door::Sdk(path) => self.sdk(&call_id, path, request).await,
        };
        name(answer, &call_id, request_id.as_deref())
    }

    /// Lets one more call in, if there is room and time.
    fn admit(&self) -> Result<CallPermit, Refusal> {
        if self.is_draining() {
            return Err(Refusal::unavailable(Duration::from_secs(1)));
        }
        self.calls
            .admit()
            .ok_or_else(|| Refusal::unavailable(Duration::from_secs(5)))
    }

    /// Whether a page of this origin may call; callers that are no browser send none. A key does not help: a page
    /// that holds one could be anybody's, and where nobody needs a key, any page in a browser beside the gateway
    /// would be let in. Nobody's page calls in the name of a provider.
    fn check_origin(&self, route: &str, upgrade: &Upgrade) -> Result<(), Refusal> {
        let by_provider =
            Dialect::by_name(route).is_some_and(|dialect| dialect.capabilities().by_provider);
        match &upgrade.origin {
            Some(origin) if by_provider || !self.config.allowed_origins.contains(origin) => {
                Err(Refusal::origin_refused())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Checks what every WebSocket's request must be, whatever is spoken there.
    ///
    /// # Errors
    ///
    /// The answer to give instead, counted.
    fn check_upgrade(
        &self,
        route: &'static str,
        request: &Request<Body>,
        style: ErrorStyle,
    ) -> Result<Upgrade, Box<Answer>> {
        let checked = upgrade::check(
            request.method(),
            request.version(),
            request.uri(),
            request.headers(),
        );
        let upgrade = checked.map_err(|error| {
            self.metrics.refused(route, error.name());
            Box::new(refuse_upgrade(error, style))
        })?;
        match self.check_origin(route, &upgrade) {
            Ok(()) => Ok(upgrade),
            Err(refusal) => Err(Box::new(self.refused(route, &refusal, style))),
        }
    }

    /// Who a caller is.
    ///
    /// # Errors
    ///
    /// The same refusal whatever is wrong with the credential; what it was is counted.
    async fn identify(
        &self,
        route: &'static str,
        shown: Shown<'_>,
        purpose: Purpose<'_>,
    ) -> Result<Identity, Refusal> {
        let identified = self.routes.auth.identify(shown, purpose).await;
        identified.map_err(|denied| {
            self.metrics.denied(route, denied.name());
            Refusal::unauthorized()
        })
    }

    /// Uses up the ticket that a caller showed, if it did: the last thing before a session is opened for it.
    ///
    /// # Errors
    ///
    /// If it was used before, or nobody can say.
    async fn use_up(&self, route: &'static str, identity: &Identity) -> Result<(), Refusal> {
        match self.routes.auth.use_up(identity).await {
            Ok(()) => Ok(()),
            Err(UseError::Replayed) => {
                self.metrics.denied(route, Denied::Replayed.name());
                Err(Refusal::unauthorized())
            }
            Err(UseError::Unknown) => Err(Refusal::unavailable(Duration::from_secs(5))),
        }
    }

    fn refused(&self, route: &'static str, refusal: &Refusal, style: ErrorStyle) -> Answer {
        self.metrics.refused(route, refusal.code);
        refuse(refusal, style)
    }
}

/// Which way a caller comes in.
#[derive(Clone, Copy)]
enum Door<'a> {
    /// By that dialect, to that agent, with that ticket in the path.
    Phone(&'static str, &'a str, Option<&'a str>),
    /// By that path of the Realtime API.
    Sdk(&'a str),
}

/// An id for logs and callers; not a secret.
fn new_call_id() -> String {
    format!("call-{:016x}", fastrand::u64(..))
}

/// Answers and closes without waiting for a request: whoever floods the gateway costs no task. A new socket takes
/// so few bytes at once; if it does not, the caller sees the connection closed.
fn turn_away(stream: &TcpStream) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nx-trunkline-error: too_many_connections\r\n\
        retry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    if let Err(error) = stream.try_write(answer) {
        tracing::debug!(%error, "a caller was turned away without an answer");
    }
}

/// What a caller is told when no session could be opened for it.
fn dial_refusal(error: &DialError) -> Refusal {
    let (status, retry_after) = error.caller_status();
    let (code, message) = match status {
        429 => (
            "rate_limit_exceeded",
            "The deployment's rate limit is reached. Try again later.",
        ),
        503 => (
            "deployment_unavailable",
            "The deployment cannot be reached. Try again later.",
        ),
        504 => (
            "deployment_timeout",
            "The deployment did not answer in time.",
        ),
        _ => ("deployment_error", "The deployment refused the session."),
    };
    Refusal {
        retry_after,
        ..Refusal::new(status, code, message)
    }
}

/// Repeated slashes count as one: some clients join paths carelessly (protocol reference 1.1).
fn normalise(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !normal.ends_with('/') {
            normal.push(c);
        }
    }
    normal
}
