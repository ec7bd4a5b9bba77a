//! Opens sessions: connect, TLS, upgrade, `session.created`, each phase timed and bounded.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::call::ModelEvent;
use crate::telemetry::{Metrics, SetupPhase};
use crate::transport::{Transport, system_roots};

use super::decode::{Decoded, Decoder};
use super::deployment::Deployment;

/// The model leg's read buffer: the tungstenite default of 128 KiB costs 7 us a message (costs reference 7).
const READ_BUFFER: usize = 16 * 1024;

/// The largest event taken from a deployment; items with inline audio of 3.5 MB were seen (protocol reference 1.6).
const MAX_MESSAGE: usize = 32 * 1024 * 1024;

/// Unsent bytes towards the deployment: one upload of 15 MiB of audio as base64, twice.
const MAX_UNSENT: usize = 48 * 1024 * 1024;

/// An open session.
#[derive(Debug)]
pub struct ModelLeg {
    /// The connection, its first event already read.
    pub socket: WebSocketStream<Transport>,
    /// That event, `session.created` as the deployment sent it.
    pub session_created: Utf8Bytes,
}

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
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
    #[error("deployment {deployment} refused the session with HTTP status {status}")]
    Refused {
        /// Its name.
        deployment: String,
        /// The HTTP status.
        status: u16,
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
}

impl DialError {
    /// The metric label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Refused {
                status: 401 | 403, ..
            } => "unauthorized",
            Self::Refused { status: 404, .. } => "not_found",
            Self::Refused { status: 429, .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. } => "rejected",
            Self::Handshake { .. } => "handshake",
            Self::Timeout { .. } => "timeout",
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
            Self::Connect { .. } => (503, Some(Duration::from_secs(1))),
            Self::Timeout { .. } => (504, None),
            Self::Tls { .. }
            | Self::Refused { .. }
            | Self::Rejected { .. }
            | Self::Handshake { .. } => (502, None),
        }
    }
}

/// Opens sessions for all calls.
pub struct Dialer {
    tls: TlsConnector,
    metrics: Arc<Metrics>,
    in_memory: HashMap<String, mpsc::Sender<DuplexStream>>,
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
    ///
    /// # Panics
    ///
    /// Never: ring supports the default protocol versions.
    #[must_use]
    pub fn with_roots(metrics: Arc<Metrics>, roots: rustls::RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            tls: TlsConnector::from(Arc::new(config)),
            metrics,
            in_memory: HashMap::new(),
        }
    }

    /// Reaches the deployment of that name through memory instead of the network.
    #[must_use]
    pub fn with_memory(mut self, deployment: &str, accept: mpsc::Sender<DuplexStream>) -> Self {
        self.in_memory.insert(deployment.to_owned(), accept);
        self
    }

    /// Opens a session.
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
        let mut clock = PhaseClock::new(deployment, &self.metrics);
        let limits = deployment.timeouts;
        let transport = self.connect(deployment, &mut clock).await?;
        let upgrade = upgrade(deployment, transport, transcription);
        let mut socket = clock
            .time(SetupPhase::Upgrade, limits.upgrade, upgrade)
            .await?;
        let first = clock
            .time(
                SetupPhase::SessionCreated,
                limits.session,
                session_created(deployment, &mut socket),
            )
            .await?;
        Ok(ModelLeg {
            socket,
            session_created: first,
        })
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
        let connect = async {
            let stream = TcpStream::connect((deployment.host.as_str(), deployment.port)).await?;
            // Small frames must not wait for the peer's acknowledgement.
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = clock
            .time(SetupPhase::Dial, limits.connect, async {
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
            self.tls.connect(name, stream).await.map_err(tls_error)
        };
        let stream = clock.time(SetupPhase::Tls, limits.tls, handshake).await?;
        Ok(Transport::Tls(Box::new(stream)))
    }
}

/// Times one phase after another.
struct PhaseClock<'a> {
    deployment: &'a Deployment,
    metrics: &'a Metrics,
}

impl<'a> PhaseClock<'a> {
    fn new(deployment: &'a Deployment, metrics: &'a Metrics) -> Self {
        Self {
            deployment,
            metrics,
        }
    }

    async fn time<T>(
        &mut self,
        phase: SetupPhase,
        limit: Duration,
        work: impl Future<Output = Result<T, DialError>>,
    ) -> Result<T, DialError> {
        let began = Instant::now();
        let Ok(result) = timeout(limit, work).await else {
            return Err(DialError::Timeout {
                deployment: self.deployment.name.clone(),
                phase,
                limit,
            });
        };
        if result.is_ok() {
            self.metrics
                .setup(self.deployment.name(), phase, began.elapsed());
        }
        result
    }
}

async fn upgrade(
    deployment: &Deployment,
    transport: Transport,
    transcription: bool,
) -> Result<WebSocketStream<Transport>, DialError> {
    let mut request = deployment.request(transcription);
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
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(READ_BUFFER)
        .max_write_buffer_size(MAX_UNSENT)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    match client_async_with_config(request, transport, Some(config)).await {
        Ok((socket, _response)) => Ok(socket),
        Err(WsError::Http(response)) => Err(DialError::Refused {
            deployment: deployment.name.clone(),
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers()),
        }),
        Err(source) => Err(handshake_error(deployment, source)),
    }
}

fn handshake_error(deployment: &Deployment, source: WsError) -> DialError {
    DialError::Handshake {
        deployment: deployment.name.clone(),
        source: Box::new(source),
    }
}

/// `retry-after-ms` if there, else `retry-after` in seconds (protocol reference 1.5).
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u32>().ok();
    number("retry-after-ms")
        .map(|ms| Duration::from_millis(ms.into()))
        .or_else(|| number("retry-after").map(|seconds| Duration::from_secs(seconds.into())))
}

async fn session_created(
    deployment: &Deployment,
    socket: &mut WebSocketStream<Transport>,
) -> Result<Utf8Bytes, DialError> {
    loop {
        let message = match socket.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(handshake_error(deployment, error)),
            None => return Err(handshake_error(deployment, WsError::ConnectionClosed)),
        };
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => {
                return Err(handshake_error(deployment, WsError::ConnectionClosed));
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                continue;
            }
        };
        let decoded = Decoder::new().decode(&text);
        match decoded.as_ref().map(Decoded::event) {
            Ok(ModelEvent::SessionCreated { .. }) => return Ok(text),
            Ok(ModelEvent::Error(error)) => {
                return Err(DialError::Rejected {
                    deployment: deployment.name.clone(),
                    code: error.code.unwrap_or(error.kind).to_owned(),
                });
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_preferred() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert("retry-after", http::HeaderValue::from_static("7"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert("retry-after-ms", http::HeaderValue::from_static("6500"));
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(6500)));
    }
}
