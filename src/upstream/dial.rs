//! Opens sessions: connect, TLS, upgrade, `session.created`, each phase timed and bounded.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Utf8Bytes};

use crate::call::ModelEvent;
use crate::outbound::retry_after;
use crate::realtime::ErrorBody;
use crate::routing::Load;
use crate::telemetry::{Metrics, SetupPhase};
use crate::transport::{
    FrameLimits, Peer, Rate, Received, Transport, UNACKNOWLEDGED, WebSocket, system_roots, tune,
};

use super::credential::{NoToken, Shown};
use super::decode::{Decoded, Decoder};
use super::deployment::Deployment;
use super::resolve::{Addresses, PATIENCE, Resolve, System};
use super::setup::{PhaseClock, SessionSetup};
use super::state::{Verdict, now};

/// The largest event taken from a deployment; items with inline audio of 3.5 MB were seen (protocol reference 1.6).
const MAX_MESSAGE: usize = 32 * 1024 * 1024;

/// Unsent bytes towards the deployment: one upload of 15 MiB of audio as base64, twice.
const MAX_UNSENT: usize = 48 * 1024 * 1024;

/// What a deployment may send. It is trusted with more than callers are, but a broken one must not take the memory
/// or the time of the others' calls. Its messages are not counted: they are relayed or queued within bounds, and it is
/// read no faster than that.
const FRAMES: FrameLimits = FrameLimits {
    from: Peer::Server,
    max_message: MAX_MESSAGE as u64,
    // The largest message in fragments of 2 KiB.
    max_fragments: 16 * 1024,
    control: Rate {
        per_second: 100,
        burst: 100,
    },
    messages: None,
    message_timeout: Duration::from_secs(30),
};

/// Sessions end after an hour at most (protocol reference 1.6). A deployment that promises more is not believed.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// An open session.
#[derive(Debug)]
pub struct ModelLeg {
    /// The connection, its first event already read.
    pub socket: WebSocket,
    /// That event, `session.created` as the deployment sent it.
    pub session_created: Utf8Bytes,
    /// When the vendor will end the session, if it said so and that is to come.
    pub ends_at: Option<Instant>,
    /// How it came about.
    pub setup: SessionSetup,
    /// The version of the credential that it was opened with.
    pub(super) shown: u64,
}

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no token to show it, and none came in time.
    #[error("no token for deployment {deployment}")]
    NoToken {
        /// Its name.
        deployment: String,
    },
    /// The name could not be looked up or the connection was refused.
    #[error("cannot connect to deployment {deployment}: {source}")]
    Connect {
        /// Its name.
        deployment: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("no TLS with deployment {deployment}: {source}")]
    Tls {
        /// Its name.
        deployment: String,
        /// What was wrong.
        source: io::Error,
    },
    /// It answered the upgrade with something other than 101.
    #[error(
        "deployment {deployment} refused the session with HTTP status {status}{}{}",
        detail("code", .code.as_deref()),
        detail("request", .request_id.as_deref())
    )]
    Refused {
        /// Its name.
        deployment: String,
        /// The HTTP status.
        status: u16,
        /// `error.code` of the body, for the log only.
        code: Option<String>,
        /// The vendor's id of the request, for the log and for asking the vendor.
        request_id: Option<String>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It took the connection and then reported an error.
    #[error("deployment {deployment} refused the session with error {code}")]
    Rejected {
        /// Its name.
        deployment: String,
        /// The error's code.
        code: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It took the connection and closed it before there was a session. Bad keys come as 3000 and dialects that
    /// are no longer spoken as 4000, both with `TYPE.CODE` for a reason (protocol reference 1.6).
    #[error("deployment {deployment} closed the session with code {code}{}", detail("reason", .reason.as_deref()))]
    Closed {
        /// Its name.
        deployment: String,
        /// The close code, 1005 if there was none.
        code: u16,
        /// What it said, without control characters; for the log only.
        reason: Option<String>,
    },
    /// It broke the protocol or the connection.
    #[error("deployment {deployment} broke the handshake: {source}")]
    Handshake {
        /// Its name.
        deployment: String,
        /// What was wrong.
        source: Box<WsError>,
    },
    /// A phase took too long.
    #[error("deployment {deployment} took longer than {limit:?} in phase {}", phase.name())]
    Timeout {
        /// Its name.
        deployment: String,
        /// The phase.
        phase: SetupPhase,
        /// Its limit.
        limit: Duration,
    },
    /// No deployment of a pool is left to ask.
    #[error("no deployment of pool {pool} can be asked{}", after(.last.as_deref()))]
    NoneLeft {
        /// The pool's name.
        pool: String,
        /// When the first of them can be asked again.
        retry_after: Duration,
        /// All that keeps them is that too much was asked of them.
        is_rate_limited: bool,
        /// What the last one said that was asked.
        last: Option<Box<DialError>>,
    },
    /// No deployment of a pool gave a session in time.
    #[error("no deployment of pool {pool} gave a session within {limit:?}")]
    Late {
        /// The pool's name.
        pool: String,
        /// The limit.
        limit: Duration,
    },
}

fn after(last: Option<&DialError>) -> String {
    last.map_or_else(String::new, |last| format!("; the last one said: {last}"))
}

impl DialError {
    /// The metric label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoToken { .. } => "no_token",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Refused {
                status: 401 | 403, ..
            } => "unauthorized",
            Self::Refused { status: 404, .. } => "not_found",
            Self::Refused { status: 429, .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. }
            | Self::Closed {
                code: 3000 | 4000, ..
            } => "rejected",
            Self::Closed { .. } => "closed",
            Self::Handshake { .. } => "handshake",
            Self::Timeout { .. } | Self::Late { .. } => "timeout",
            Self::NoneLeft { .. } => "none_left",
        }
    }

    /// What a caller is answered: the HTTP status, and when to try again.
    ///
    /// A rate limit is passed on as what it is. Everything that the caller cannot mend is the gateway's
    /// trouble with its deployment: 502, 503 or 504.
    #[must_use]
    pub fn caller_status(&self) -> (u16, Option<Duration>) {
        match self {
            Self::Refused {
                status: 429,
                retry_after,
                ..
            } => (429, Some(retry_after.unwrap_or(Duration::from_secs(1)))),
            Self::Refused {
                status: 503,
                retry_after,
                ..
            } => (503, Some(retry_after.unwrap_or(Duration::from_secs(1)))),
            Self::NoToken { .. } | Self::Connect { .. } => (503, Some(Duration::from_secs(1))),
            Self::NoneLeft {
                retry_after,
                is_rate_limited,
                ..
            } => (if *is_rate_limited { 429 } else { 503 }, Some(*retry_after)),
            Self::Timeout { .. } | Self::Late { .. } => (504, None),
            Self::Tls { .. }
            | Self::Refused { .. }
            | Self::Rejected { .. }
            | Self::Closed { .. }
            | Self::Handshake { .. } => (502, None),
        }
    }
}

impl DialError {
    /// Whether what was shown is unknown there. OpenAI says so after the upgrade only (protocol reference 1.5); a 403 is
    /// about what a known key or identity may do.
    fn is_unauthorized(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 401,
            Self::Rejected { code, .. } => code == "invalid_api_key",
            Self::Closed { code, reason, .. } => {
                let reason = reason.as_deref().unwrap_or_default();
                *code == 3000 && reason.ends_with("invalid_api_key")
            }
            _ => false,
        }
    }
}

impl DialError {
    /// Nobody can be asked, for a reason of the gateway's own.
    pub(super) fn none_left(pool: &str) -> Self {
        Self::NoneLeft {
            pool: pool.to_owned(),
            retry_after: Duration::from_secs(1),
            is_rate_limited: false,
            last: None,
        }
    }

    /// What it says of the deployment.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::NoToken { .. } | Self::Refused { status: 403, .. } => Verdict::Unauthorized,
            _ if self.is_unauthorized() => Verdict::Unauthorized,
            Self::Refused {
                status: 429,
                retry_after,
                ..
            } => Verdict::RateLimited(*retry_after),
            Self::Refused { retry_after, .. } => Verdict::Failed(*retry_after),
            Self::Rejected {
                code, retry_after, ..
            } if code == "rate_limit_exceeded" => Verdict::RateLimited(*retry_after),
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Rejected { .. }
            | Self::Closed { .. }
            | Self::Handshake { .. }
            | Self::Timeout { .. }
            | Self::NoneLeft { .. }
            | Self::Late { .. } => Verdict::Failed(None),
        }
    }
}

/// A detail of a log message, if it is known.
fn detail(name: &str, value: Option<&str>) -> String {
    value.map_or_else(String::new, |value| format!(", {name} {value}"))
}

/// Opens sessions for all calls.
pub struct Dialer {
    tls: TlsConnector,
    roots: RootCertStore,
    pub(super) metrics: Arc<Metrics>,
    in_memory: HashMap<String, mpsc::Sender<DuplexStream>>,
    resolver: Arc<dyn Resolve>,
    addresses: Addresses,
    pub(super) load: Option<Arc<dyn Load>>,
    wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialler that trusts the system's certificate authorities.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::with_roots(metrics, system_roots())
    }

    /// A dialler that trusts these certificate authorities only.
    #[must_use]
    pub fn with_roots(metrics: Arc<Metrics>, roots: RootCertStore) -> Self {
        Self {
            tls: connector(roots.clone()),
            roots,
            metrics,
            in_memory: HashMap::new(),
            resolver: Arc::new(System),
            addresses: Addresses::default(),
            load: None,
            wall: Arc::new(SystemTime::now),
        }
    }

    /// Looks names up in this way.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Compares deployments by what this says that they carry, asks those last that are full by it, and tells it of
    /// refusals. Without it, sessions count.
    #[must_use]
    pub fn with_load(mut self, load: Arc<dyn Load>) -> Self {
        self.load = Some(load);
        self
    }

    /// Reads the time of day there. Only the ends of sessions are told in it.
    #[must_use]
    pub fn with_wall_clock(
        mut self,
        wall: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        self.wall = Arc::new(wall);
        self
    }

    /// Reaches the deployment of that name through memory instead of the network.
    #[must_use]
    pub fn with_memory(mut self, deployment: &str, accept: mpsc::Sender<DuplexStream>) -> Self {
        self.in_memory.insert(deployment.to_owned(), accept);
        self
    }

    /// Opens a session. If the deployment does not know what it is shown, something newer is shown once, if there is
    /// any.
    ///
    /// # Errors
    ///
    /// If any phase fails; the failure is counted.
    pub async fn dial(
        &self,
        deployment: &Deployment,
        transcription: bool,
    ) -> Result<ModelLeg, DialError> {
        let result = self.try_dial(deployment, transcription).await;
        if let Err(error) = &result {
            self.metrics.dial_failed(deployment.name(), error.name());
        }
        result
    }

    async fn try_dial(
        &self,
        deployment: &Deployment,
        transcription: bool,
    ) -> Result<ModelLeg, DialError> {
        let credential = deployment.credential();
        let limit = deployment.timeouts.token;
        let shown = credential
            .show(limit)
            .await
            .map_err(|NoToken| DialError::NoToken {
                deployment: deployment.name.clone(),
            })?;
        let refusal = match self.open(deployment, transcription, &shown).await {
            Err(error) if error.is_unauthorized() => error,
            opened => return opened,
        };
        let Some(newer) = credential.renew(&shown, limit, &self.metrics).await else {
            return Err(refusal);
        };
        self.metrics.dial_retried(deployment.name());
        tracing::info!(deployment = deployment.name, %refusal, "dialled again with a newer credential");
        self.open(deployment, transcription, &newer).await
    }

    async fn open(
        &self,
        deployment: &Deployment,
        transcription: bool,
        shown: &Shown,
    ) -> Result<ModelLeg, DialError> {
        let mut clock = PhaseClock::new(deployment, &self.metrics);
        let limits = deployment.timeouts;
        let transport = self.connect(deployment, &mut clock).await?;
        let upgrade = upgrade(deployment, transport, transcription, shown);
        let mut socket = clock
            .time(SetupPhase::Upgrade, limits.upgrade, upgrade)
            .await?;
        let (first, expires_at) = clock
            .time(
                SetupPhase::SessionCreated,
                limits.session,
                session_created(deployment, &mut socket),
            )
            .await?;
        Ok(ModelLeg {
            socket,
            session_created: first,
            setup: clock.setup,
            shown: shown.version(),
            ends_at: expires_at.and_then(|at| self.instant(at)),
        })
    }

    /// The moment that is so many seconds after 1970 by the wall clock, if that is to come.
    fn instant(&self, unix_seconds: u64) -> Option<Instant> {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix_seconds))?;
        let left = at.duration_since((self.wall)()).ok()?;
        Some(Instant::now() + left.min(LONGEST_LIFE))
    }

    async fn connect(
        &self,
        deployment: &Deployment,
        clock: &mut PhaseClock<'_>,
    ) -> Result<Transport, DialError> {
        let limits = deployment.timeouts;
        let connect_error = |source| DialError::Connect {
            deployment: deployment.name.clone(),
            source,
        };
        if let Some(accept) = self.in_memory.get(deployment.name()) {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            accept
                .send(theirs)
                .await
                .map_err(|_| connect_error(io::ErrorKind::ConnectionRefused.into()))?;
            return Ok(Transport::Memory(ours));
        }
        let began = Instant::now();
        let addresses = match deployment.host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, deployment.port)],
            Err(_) => {
                let found = self.addresses_of(deployment);
                clock
                    .time(SetupPhase::Resolve, limits.connect, async {
                        found.await.map_err(connect_error)
                    })
                    .await?
            }
        };
        let connect = async {
            let stream = TcpStream::connect(&addresses[..]).await?;
            tune(&stream, UNACKNOWLEDGED)?;
            Ok(stream)
        };
        // The two have one limit.
        let left = limits.connect.saturating_sub(began.elapsed());
        let stream = clock
            .time(SetupPhase::Dial, left, async {
                connect.await.map_err(connect_error)
            })
            .await?;
        if !deployment.tls {
            return Ok(Transport::Tcp(stream));
        }
        let tls_error = |source| DialError::Tls {
            deployment: deployment.name.clone(),
            source,
        };
        let handshake = async {
            let name = ServerName::try_from(deployment.host.clone())
                .map_err(|error| tls_error(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let tls = match deployment.authorities() {
                Some(authorities) => authorities.connector(|| self.roots.clone()),
                None => &self.tls,
            };
            let stream = Transport::Tcp(stream);
            tls.connect(name, stream).await.map_err(tls_error)
        };
        let stream = clock.time(SetupPhase::Tls, limits.tls, handshake).await?;
        Ok(Transport::Tls(Box::new(stream)))
    }
}

impl Dialer {
    /// The addresses of a deployment; those of before if the resolver fails or is silent.
    async fn addresses_of(&self, deployment: &Deployment) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = (deployment.host.as_str(), deployment.port);
        let now = now();
        let last_good = self.addresses.last_good(host, port, now);
        let fall_back = |addresses| {
            self.metrics.routing().dns_fell_back(deployment.name());
            addresses
        };
        let looked_up = match last_good {
            Some((addresses, true)) => return Ok(fall_back(addresses)),
            Some((addresses, false)) => {
                match timeout(PATIENCE, self.resolver.resolve(host, port)).await {
                    Ok(Ok(found)) if !found.is_empty() => found,
                    Ok(_) => return Ok(fall_back(addresses)),
                    Err(_) => {
                        self.addresses.silent(host, port, now);
                        return Ok(fall_back(addresses));
                    }
                }
            }
            None => self.resolver.resolve(host, port).await?,
        };
        if looked_up.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
        }
        self.addresses.found(host, port, &looked_up, now);
        Ok(looked_up)
    }
}

/// TLS 1.2 and 1.3 with certificates checked against `roots`; there is no way to leave that out.
///
/// # Panics
///
/// Never: ring supports the default protocol versions.
pub(super) fn connector(roots: RootCertStore) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn upgrade(
    deployment: &Deployment,
    transport: Transport,
    transcription: bool,
    shown: &Shown,
) -> Result<WebSocket, DialError> {
    let mut request = deployment.request(transcription, shown);
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let headers = request.headers_mut();
    for (name, value) in [
        ("host", authority.unwrap_or_default()),
        ("connection", "Upgrade".to_owned()),
        ("upgrade", "websocket".to_owned()),
        ("sec-websocket-version", "13".to_owned()),
        ("sec-websocket-key", generate_key()),
    ] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    match WebSocket::dial(transport, request, FRAMES, MAX_UNSENT).await {
        Ok(socket) => Ok(socket),
        Err(WsError::Http(response)) => Err(DialError::Refused {
            deployment: deployment.name.clone(),
            status: response.status().as_u16(),
            code: response.body().as_deref().and_then(body_code),
            request_id: request_id(response.headers()),
            retry_after: retry_after(response.headers()),
        }),
        Err(source) => Err(handshake_error(deployment, source)),
    }
}

/// What it is that nothing more can be received.
pub(super) fn lost(ended: Received) -> WsError {
    match ended {
        Received::Broken(fault) => io::Error::new(io::ErrorKind::InvalidData, fault).into(),
        _ => WsError::ConnectionClosed,
    }
}

pub(super) fn handshake_error(deployment: &Deployment, source: WsError) -> DialError {
    DialError::Handshake {
        deployment: deployment.name.clone(),
        source: Box::new(source),
    }
}

/// `error.code` of a refusal's body, both vendors' forms (protocol reference 1.5). Only as much of the body is here
/// as came together with the headers.
fn body_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        error: ErrorBody<'a>,
    }
    // The body may be sent in chunks; the first one has a length before it.
    let begin = body.iter().position(|byte| *byte == b'{')?;
    let mut values = serde_json::Deserializer::from_slice(&body[begin..]).into_iter::<Body<'_>>();
    let error = values.next()?.ok()?.error;
    label(&error.code?)
}

/// The vendor's id of a refused request (protocol reference 1.4).
fn request_id(headers: &http::HeaderMap) -> Option<String> {
    let value = headers
        .get("apim-request-id")
        .or_else(|| headers.get("x-request-id"))?;
    label(value.to_str().ok()?)
}

/// Longest code or request id that is kept; ids are UUIDs of 36 characters.
const MAX_LABEL: usize = 64;

/// Longest close reason (RFC 6455, 5.5).
const MAX_REASON: usize = 123;

/// The characters of a word that can do no harm in a log; `None` if there are none.
pub(super) fn label(text: &str) -> Option<String> {
    let is_harmless = |c: &char| c.is_ascii_alphanumeric() || "_.-".contains(*c);
    let kept: String = text.chars().filter(is_harmless).take(MAX_LABEL).collect();
    (!kept.is_empty()).then_some(kept)
}

pub(super) fn closed(deployment: &Deployment, frame: Option<&CloseFrame>) -> DialError {
    let reason = frame.map_or("", |frame| frame.reason.as_str());
    let mut reason: String = reason.chars().filter(|c| !c.is_control()).collect();
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    DialError::Closed {
        deployment: deployment.name.clone(),
        code: frame.map_or(1005, |frame| frame.code.into()),
        reason: (!reason.is_empty()).then_some(reason),
    }
}

/// The session's first event, and when it will end by the vendor's clock.
async fn session_created(
    deployment: &Deployment,
    socket: &mut WebSocket,
) -> Result<(Utf8Bytes, Option<u64>), DialError> {
    loop {
        let text = match socket.next().await {
            Received::Text(text) => text,
            Received::Binary(_) | Received::SignOfLife => continue,
            Received::Closed(frame) => return Err(closed(deployment, frame.as_ref())),
            ended => return Err(handshake_error(deployment, lost(ended))),
        };
        let decoded = Decoder::new().decode(&text);
        let retry_after = decoded.as_ref().ok().and_then(Decoded::retry_after);
        match decoded.as_ref().map(Decoded::event) {
            Ok(ModelEvent::SessionCreated { expires_at, .. }) => {
                // Zero means that no session exists yet.
                let expires_at = expires_at.filter(|at| *at > 0);
                return Ok((text, expires_at));
            }
            Ok(ModelEvent::Error(error)) => {
                return Err(DialError::Rejected {
                    deployment: deployment.name.clone(),
                    code: label(error.code.unwrap_or(error.kind)).unwrap_or_default(),
                    retry_after,
                });
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::accept_async;

    use super::*;

    /// Dials a deployment in memory whose side of the connection is `serve`; why there was no session.
    async fn fail<F: Future<Output = ()>>(serve: impl FnOnce(DuplexStream) -> F) -> DialError {
        let config = toml::from_str("url = 'ws://127.0.0.1:1'\nmodel = 'm'").expect("good");
        let deployment = Deployment::new("east", config).expect("good");
        let (accept, mut accepted) = mpsc::channel(1);
        let dialer = Dialer::with_roots(Metrics::new(), rustls::RootCertStore::empty())
            .with_memory("east", accept);
        let serve = async { serve(accepted.recv().await.expect("a connection")).await };
        let (dialled, ()) = tokio::join!(dialer.dial(&deployment, false), serve);
        dialled.expect_err("no session")
    }

    async fn refuse(answer: &str) -> DialError {
        fail(async |mut stream: DuplexStream| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(answer.as_bytes()).await.expect("room");
        })
        .await
    }

    #[tokio::test]
    async fn refusals_keep_what_the_vendor_can_be_asked_about() {
        let check = async |answer: &str, expected: &str| {
            let error = refuse(answer).await;
            assert_eq!(
                error.to_string(),
                format!("deployment east refused the session with HTTP status {expected}")
            );
        };
        check(
            "HTTP/1.1 404 Not Found\r\napim-request-id: 1-a\r\nx-request-id: 2\r\n\r\n{\"error\":{\"code\":\"DeploymentNotFound\",\"message\":\"m\"}}",
            "404, code DeploymentNotFound, request 1-a",
        )
        .await;
        check(
            "HTTP/1.1 429 Too Many\r\nx-request-id: a b\\\"c\r\n\r\n1f\r\n{\"error\":{\"code\":\"x\\ny<z\"}}\r\n0\r\n",
            "429, code xyz, request abc",
        )
        .await;
        check("HTTP/1.1 500 No\r\n\r\n{\"error\":{\"co", "500").await;
        check("HTTP/1.1 500 No\r\n\r\n{\"error\":{\"code\":null}}", "500").await;
        check("HTTP/1.1 500 No\r\n\r\n", "500").await;
    }

    #[tokio::test]
    async fn a_close_before_the_session_is_told_apart() {
        let check = async |code: u16, reason: &str, name: &str, expected: &str| {
            let error = fail(async |stream: DuplexStream| {
                let mut socket = accept_async(stream).await.expect("an upgrade");
                let frame = CloseFrame {
                    code: code.into(),
                    reason: reason.into(),
                };
                socket.close(Some(frame)).await.expect("room");
                while let Some(Ok(_)) = socket.next().await {}
            })
            .await;
            assert_eq!((error.name(), error.caller_status().0), (name, 502));
            assert_eq!(
                error.to_string(),
                format!("deployment east closed the session with code {expected}")
            );
        };
        check(
            3000,
            "invalid_request_error.invalid_api_key",
            "rejected",
            "3000, reason invalid_request_error.invalid_api_key",
        )
        .await;
        check(4000, "", "rejected", "4000").await;
        check(1013, "try\n\u{1b}later", "closed", "1013, reason trylater").await;
    }

    #[test]
    fn codes_and_ids_are_bounded() {
        assert_eq!(
            label(&"a".repeat(200)).map(|label| label.len()),
            Some(MAX_LABEL)
        );
        assert_eq!(label("\u{e4}\n"), None);
    }
}
