//! Opens sessions: connect, TLS, upgrade, `session.created`, each phase timed and bounded.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::routing::Load;
use crate::telemetry::{Metrics, SetupPhase};
use crate::transport::{Transport, UNACKNOWLEDGED, WebSocket, system_roots, tune};

use super::credential::{NoToken, Shown};
use super::deployment::Deployment;
use super::dial_error::DialError;
use super::resolve::{Addresses, PATIENCE, Resolve, System};
use super::setup::{PhaseClock, SessionSetup};
use super::state::now;
use super::upgrade::{session_created, upgrade};

/// Sessions end after an hour at most (protocol reference 1.6). A deployment that promises more than a day is not believed.
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
