//! The connections that are no call yet: who is behind them, how long they may stay, whom to end first.
//!
//! The state is behind one lock that is held for look-ups only; what it decides lies in `sources` and `rate`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::ClientCertificate;

use super::config::ListenerConfig;
use super::limits::LimitsConfig;
use super::proxies::TrustedProxies;
use super::rate::{Bucket, Rate};
use super::sources::{NoHandshake, Source, Sources};

/// Tenants whose rate is remembered; beyond it those that used nothing lately are forgotten.
const MAX_TENANTS: usize = 64 * 1024;

/// Knows all connections that are no call yet.
#[derive(Debug)]
pub(super) struct Door {
    rules: RwLock<Arc<Rules>>,
    state: Mutex<State>,
}

/// What the configuration says of it.
#[derive(Debug)]
struct Rules {
    limits: LimitsConfig,
    proxies: TrustedProxies,
    call_rate: Option<Rate>,
    tenant_rate: Option<Rate>,
}

impl Rules {
    fn new(config: &ListenerConfig) -> Arc<Self> {
        let limits = config.limits.clone();
        let second = Duration::from_secs(1);
        Arc::new(Self {
            proxies: TrustedProxies::new(&config.trusted_proxies),
            call_rate: Rate::new(limits.calls_per_second, second),
            tenant_rate: Rate::new(limits.calls_per_second_per_tenant, second),
            limits,
        })
    }
}

#[derive(Debug)]
struct State {
    sources: Sources,
    /// Connections that wait for a request of somebody unknown, the oldest first.
    idle: BTreeMap<u64, CancellationToken>,
    n_opened: u64,
    calls: Bucket,
    tenants: HashMap<String, Bucket>,
}

/// Which rate a new call would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooFast {
    /// That of all.
    All,
    /// That of its tenant.
    Tenant,
}

impl Door {
    pub(super) fn new(config: &ListenerConfig) -> Arc<Self> {
        Arc::new(Self {
            rules: RwLock::new(Rules::new(config)),
            state: Mutex::new(State {
                sources: Sources::new(&config.limits),
                idle: BTreeMap::new(),
                n_opened: 0,
                calls: Bucket::full(now()),
                tenants: HashMap::new(),
            }),
        })
    }

    /// Goes by these limits and proxies from now on. What was counted stays.
    pub(super) fn set_rules(&self, config: &ListenerConfig) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        *rules = Rules::new(config);
        self.state().sources.set_limits(&config.limits);
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in a connection; `None` if its source has too many.
    pub(super) fn open(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Connection>> {
        // A proxy's connections are counted for whom it speaks, once there is a request.
        let source = (!self.rules().proxies.include(address)).then(|| Source::from(address));
        let mut state = self.state();
        if source.is_some_and(|source| !state.sources.open(source, now())) {
            return None;
        }
        state.n_opened += 1;
        let id = state.n_opened;
        let evicted = CancellationToken::new();
        state.idle.insert(id, evicted.clone());
        Some(Arc::new(Connection {
            id,
            door: Arc::clone(self),
            address,
            source,
            accepted: Instant::now(),
            evicted,
            counted: Mutex::new(source),
            is_known: AtomicBool::new(false),
            is_overdue: AtomicBool::new(false),
            n_open: AtomicU32::new(0),
            n_requests: AtomicU32::new(0),
            certificate: OnceLock::new(),
        }))
    }

    /// Ends the connection that has waited for longest without anybody known behind it; false if there is none.
    pub(super) fn evict(&self) -> bool {
        let oldest = self.state().idle.pop_first();
        oldest.is_some_and(|(_, evicted)| {
            evicted.cancel();
            true
        })
    }

    /// Counts a new call of this tenant, if the rates allow it. What one refuses does not use up the other.
    pub(super) fn count_call(&self, tenant: Option<&str>) -> Result<(), TooFast> {
        let (rules, now) = (self.rules(), now());
        let mut state = self.state();
        if let Some(rate) = rules.call_rate
            && state.calls.wait(rate, now).is_some()
        {
            return Err(TooFast::All);
        }
        if let (Some(rate), Some(tenant)) = (rules.tenant_rate, tenant) {
            if state.tenants.len() >= MAX_TENANTS {
                state.tenants.retain(|_, bucket| !bucket.is_full(now));
            }
            let bucket = state.tenants.entry(tenant.to_owned());
            let bucket = bucket.or_insert_with(|| Bucket::full(now));
            bucket.take(rate, now).map_err(|_| TooFast::Tenant)?;
        }
        if let Some(rate) = rules.call_rate {
            // There was one to take a few lines above.
            let _ = state.calls.take(rate, now);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// A connection from its accept until it is closed or becomes a call.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    door: Arc<Door>,
    /// The other end.
    address: IpAddr,
    /// Whom its handshake is counted for.
    source: Option<Source>,
    pub(super) accepted: Instant,
    /// Cancelled when it has to make room.
    pub(super) evicted: CancellationToken,
    /// Whom it is counted for as long as nobody is known.
    counted: Mutex<Option<Source>>,
    is_known: AtomicBool,
    is_overdue: AtomicBool,
    /// Requests that are being answered.
    n_open: AtomicU32,
    n_requests: AtomicU32,
    certificate: OnceLock<Arc<ClientCertificate>>,
}

impl Connection {
    /// Lets a TLS handshake begin, if there are not too many; it is counted until the answer is dropped.
    pub(super) fn begin_handshake(self: &Arc<Self>) -> Result<Handshake, NoHandshake> {
        let mut state = self.door.state();
        state.sources.begin_handshake(self.source, now())?;
        Ok(Handshake(Arc::clone(self)))
    }

    /// The caller has shown a certificate that was verified.
    pub(super) fn certified(&self, certificate: ClientCertificate) {
        // A connection has one handshake.
        let _ = self.certificate.set(Arc::new(certificate));
    }

    /// Nobody was known in time. True if nobody waits for an answer, so that the connection may be cut.
    pub(super) fn is_wasted(&self) -> bool {
        self.is_overdue.store(true, Ordering::Relaxed);
        !self.is_known.load(Ordering::Relaxed) && self.n_open.load(Ordering::Relaxed) == 0
    }

    /// Requests so far.
    pub(super) fn n_requests(&self) -> u32 {
        self.n_requests.load(Ordering::Relaxed)
    }

    /// Whether the connection must end with the answer to this request.
    pub(super) fn is_last_answer(&self) -> bool {
        let is_used_up = self.n_requests() >= self.door.rules().limits.requests_per_connection;
        let is_overdue = self.is_overdue.load(Ordering::Relaxed);
        is_used_up || (is_overdue && !self.is_known.load(Ordering::Relaxed))
    }

    /// A request came in.
    pub(super) fn request(self: &Arc<Self>, headers: &HeaderMap) -> Peer {
        // Who claims to be a proxy and does not tell for whom is a source like any other.
        let rules = self.door.rules();
        let caller = rules.proxies.caller(self.address, headers);
        let caller = caller.unwrap_or(self.address);
        self.door.state().idle.remove(&self.id);
        self.n_open.fetch_add(1, Ordering::Relaxed);
        let is_first = self.n_requests.fetch_add(1, Ordering::Relaxed) == 0;
        let begin = if is_first {
            self.accepted
        } else {
            Instant::now()
        };
        Peer {
            connection: Arc::clone(self),
            source: Source::from(caller),
            counted: Mutex::new(None),
            tenant: OnceLock::new(),
            decide_by: begin + rules.limits.upgrade,
        }
    }

    /// Somebody known is behind it: it is not counted for its source any more.
    fn known(&self) {
        self.is_known.store(true, Ordering::Relaxed);
        self.release(&self.counted);
    }

    fn release(&self, counted: &Mutex<Option<Source>>) {
        let source = counted.lock().expect("no panic while held").take();
        if let Some(source) = source {
            self.door.state().sources.close(source, now());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.door.state().idle.remove(&self.id);
        self.release(&self.counted);
    }
}

/// A TLS handshake that is counted.
#[derive(Debug)]
pub(super) struct Handshake(Arc<Connection>);

impl Drop for Handshake {
    fn drop(&mut self) {
        let Self(connection) = self;
        let mut state = connection.door.state();
        state.sources.end_handshake(connection.source, now());
    }
}

/// Who sent a request, as far as the connection tells; dropped when it is answered.
#[derive(Debug)]
pub(super) struct Peer {
    connection: Arc<Connection>,
    source: Source,
    /// Whom a request through a proxy is counted for as long as nobody is known.
    counted: Mutex<Option<Source>>,
    /// Whose it is, once that is known.
    tenant: OnceLock<Arc<str>>,
    /// When it must be known who calls.
    pub(super) decide_by: Instant,
}

/// Why a request is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// Too many credentials of its source were refused; for so long.
    Blocked(Duration),
    /// Its source has too many connections on which nobody is known.
    TooManyFromSource,
}

impl Peer {
    /// Where it comes from: an address, or a network where callers have one each.
    pub(super) fn source(&self) -> String {
        self.source.0.to_string()
    }

    /// The certificate that was verified in the handshake. That of a trusted proxy is not its callers'.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        self.connection.source?;
        self.connection.certificate.get().map(Arc::as_ref)
    }

    /// Whether a request of this source is looked at. One through a proxy is counted from here on.
    pub(super) fn check(&self) -> Result<(), Unheard> {
        let (source, now) = (self.source, now());
        let mut state = self.connection.door.state();
        if let Some(wait) = state.sources.blocked(source, now) {
            return Err(Unheard::Blocked(wait));
        }
        if self.connection.source.is_none() {
            if !state.sources.open(source, now) {
                return Err(Unheard::TooManyFromSource);
            }
            *self.counted.lock().expect("no panic while held") = Some(source);
        }
        Ok(())
    }

    /// What it showed was good: it belongs to that tenant.
    pub(super) fn known(&self, tenant: &str) {
        self.tenant.get_or_init(|| tenant.into());
        let connection = &self.connection;
        connection
            .door
            .state()
            .sources
            .succeeded(self.source, now());
        connection.known();
        connection.release(&self.counted);
    }

    /// Whose it is, if that is known.
    pub(super) fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.get()
    }

    /// What it showed was refused.
    pub(super) fn failed(&self) {
        let mut state = self.connection.door.state();
        state.sources.failed(self.source, now());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.release(&self.counted);
        let n_open = connection.n_open.fetch_sub(1, Ordering::Relaxed) - 1;
        if n_open == 0 && !connection.is_known.load(Ordering::Relaxed) {
            let evicted = connection.evicted.clone();
            connection.door.state().idle.insert(connection.id, evicted);
        }
    }
}
