//! Where callers come in: accept, HTTP limits, routes, admission, the upgrade, drain.
//!
//! Everything that can refuse a caller happens before the upgrade is answered, the session at the
//! deployment included, so that nobody is answered and then hung up on. Knows no codec and no event.

mod accept;
mod answer;
mod asterisk;
mod audiosocket;
mod callers;
mod config;
mod door;
mod echo;
mod limits;
mod load;
mod mint;
mod one_time;
mod phone;
mod post;
mod proxies;
mod quota;
mod rate;
mod routes;
mod sample;
mod sdk;
mod shared_keys;
mod shed;
mod socket;
mod sources;
mod tickets;
mod tls;
mod webex;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming as Body;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Denied, Identity, Purpose, Shown, UseError};
use crate::bridge::{CallPermit, Calls, REALTIME, SessionSource, ToolRunner};
use crate::ingress::upgrade::{self, Upgrade};
use crate::ingress::{Dialect, ErrorStyle, FrontDoor, MintRoute, Refusal, Webex};
use crate::quota::{InProcess, Quota};
use crate::telemetry::Metrics;
use crate::upstream::{DialError, Dialer, Pool, StandbyLine, keep_standby};

use answer::{Answer, last, name, refuse, refuse_upgrade, text};
use door::{Connection, Door, Peer, TooFast, Unheard};
use load::QuotaLoad;
use shed::Shedder;

pub(crate) use answer::secure;
pub use asterisk::{AsteriskConfig, AsteriskServerConfig, AsteriskServerError, AsteriskServers};
pub use audiosocket::AudioSocketListenerConfig;
pub use callers::{CallersConfig, PhoneLimits, RealtimeLimits};
pub use config::{ListenerConfig, TwilioConfig, is_origin, is_public_url, usual_connections};
#[doc(hidden)]
pub use echo::echo_connection;
pub use limits::LimitsConfig;
pub use one_time::StoredIds;
pub use routes::Routes;
pub use shared_keys::StoredKeys;
pub use shed::{Overload, ShedConfig, Signals};
pub use tls::{ClientAuth, Tls, TlsConfig, TlsError};

/// How long connections that are no call may take to end when the process goes away.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Everything that answers callers.
#[derive(Debug)]
pub struct Gateway {
    config: ListenerConfig,
    routes: Routes,
    front_door: FrontDoor,
    dialer: Arc<Dialer>,
    tools: ToolRunner,
    metrics: Arc<Metrics>,
    calls: Calls,
    quota: Quota,
    door: Arc<Door>,
    connection_limit: usize,
    shedder: Mutex<Shedder>,
    draining: AtomicBool,
    connections: TaskTracker,
    /// Cancelled when connections are to end that are no call.
    closing: CancellationToken,
    /// Cancelled when no session is to stand by any more.
    standing_down: CancellationToken,
}

impl Gateway {
    /// A gateway that answers on these routes, and counts what is used by itself.
    #[must_use]
    pub fn new(
        config: ListenerConfig,
        routes: Routes,
        dialer: Dialer,
        tools: ToolRunner,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let store = Arc::new(InProcess::default());
        let quota = Quota::new(routes.quota.clone(), store, Arc::clone(&metrics));
        Self::with_quota(config, routes, quota, dialer, tools, metrics)
    }

    /// A gateway that shares its quota with others. Its dialler goes by that quota.
    #[must_use]
    pub fn with_quota(
        config: ListenerConfig,
        routes: Routes,
        quota: Quota,
        dialer: Dialer,
        tools: ToolRunner,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let dialer = dialer.with_load(Arc::new(QuotaLoad(quota.clone())));
        metrics.door().calls_limit(config.max_calls);
        Arc::new(Self {
            quota,
            calls: Calls::new(config.max_calls),
            front_door: FrontDoor {
                lenient_api_version: config.lenient_api_version,
            },
            door: Door::new(&config),
            connection_limit: config.connection_limit(),
            shedder: Mutex::new(Shedder::new(config.shed)),
            config,
            routes,
            dialer: Arc::new(dialer),
            tools,
            metrics,
            draining: AtomicBool::new(false),
            connections: TaskTracker::new(),
            closing: CancellationToken::new(),
            standing_down: CancellationToken::new(),
        })
    }

    /// The live calls.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Sessions of that pool, for one call of that caller.
    fn sessions(&self, pool: Arc<Pool>, identity: &Identity, caller: String) -> SessionSource {
        SessionSource {
            dialer: Arc::clone(&self.dialer),
            pool,
            tenant: identity.tenant.clone(),
            caller,
        }
    }

    /// Keeps sessions ready at the pools that are configured for it, until the gateway drains or is told to stop.
    pub async fn keep_standby(self: Arc<Self>, stop: CancellationToken) {
        let pools: Vec<_> = self.routes.pools.values().cloned().collect();
        let lines = self.routes.agents.values().filter_map(|agent| {
            let pool = Arc::clone(self.routes.pools.get(agent.pool())?);
            let name = agent.name.clone();
            let agent = Arc::clone(agent);
            Some(StandbyLine {
                pool,
                agent: name,
                configure: Arc::new(move |deployment, formats| {
                    agent.configuration(deployment, formats)
                }),
            })
        });
        let until = self.standing_down.child_token();
        let keep = keep_standby(
            Arc::clone(&self.dialer),
            pools,
            lines.collect(),
            until.clone(),
        );
        let stop = async {
            stop.cancelled().await;
            until.cancel();
            std::future::pending::<()>().await;
        };
        // The keeper closes its sessions before it returns.
        tokio::select! {
            () = keep => {}
            () = stop => {}
        }
    }

    /// What calls may use; somebody must run its [`Quota::keep`].
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.quota
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
        self.standing_down.cancel();
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

    /// Notes what the process has left, by which new calls are let in.
    ///
    /// # Panics
    ///
    /// Never: the lock is held for a comparison only.
    pub fn observe_load(&self, signals: Signals) {
        let door = self.metrics.door();
        door.load(signals.loop_lag, signals.memory, signals.descriptors);
        let now = tokio::time::Instant::now().into_std();
        let mut shedder = self.shedder.lock().expect("no panic while held");
        let before = shedder.overload();
        shedder.observe(signals, now);
        for overload in Overload::ALL {
            door.shedding(overload.name(), shedder.is_on(overload));
        }
        match (before, shedder.overload()) {
            (None, Some(overload)) => {
                tracing::warn!(
                    reason = overload.name(),
                    ?signals,
                    "new calls are refused for now"
                );
            }
            (Some(_), None) => tracing::info!("new calls are taken again"),
            _ => {}
        }
    }

    /// Answers one request.
    async fn answer(
        self: &Arc<Self>,
        request: Request<Body>,
        connection: &Arc<Connection>,
    ) -> Answer {
        let peer = connection.request(request.headers());
        let mut answer = match self.check_request(&request, &peer) {
            Ok(()) => self.route(request, &peer).await,
            Err((refusal, style)) => self.refused("other", &refusal, style),
        };
        if answer.status() == StatusCode::UNAUTHORIZED {
            peer.failed();
        }
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            secure(answer.headers_mut(), self.routes.tls.is_some());
            let may_keep_alive = self.shedder().may_keep_alive();
            if connection.is_last_answer() || !may_keep_alive {
                last(&mut answer);
            }
        }
        answer
    }

    /// Whether a request is looked at at all, whatever it asks for.
    fn check_request(
        &self,
        request: &Request<Body>,
        peer: &Peer,
    ) -> Result<(), (Refusal, ErrorStyle)> {
        let path = request.uri().path();
        let target = request.uri().path_and_query();
        if target.is_some_and(|target| target.as_str().len() > self.config.limits.target_bytes) {
            let refusal = Refusal::new(414, "target_too_long", "Path and query are too long.");
            return Err((refusal, ErrorStyle::OpenAi));
        }
        if path == "/livez" {
            return Ok(());
        }
        let refusal = match peer.check() {
            Ok(()) => return Ok(()),
            Err(Unheard::Blocked(wait)) => Refusal {
                code: "too_many_failures",
                message: "Too many credentials were refused. Try again later.".into(),
                ..Refusal::too_many_requests(wait)
            },
            Err(Unheard::TooManyFromSource) => Refusal {
                code: "too_many_from_source",
                message: "Too many connections on which nobody is known yet.".into(),
                ..Refusal::too_many_requests(jittered())
            },
        };
        Err((refusal, FrontDoor::style_of(path)))
    }

    async fn route(self: &Arc<Self>, request: Request<Body>, peer: &Peer) -> Answer {
        let path = normalise(request.uri().path());
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (request.method(), segments.as_slice()) {
            (&Method::POST, ["twilio", "voice"]) => self.twilio_voice(request, None, peer).await,
            (&Method::POST, ["twilio", "voice", agent]) => {
                let agent = (*agent).to_owned();
                self.twilio_voice(request, Some(agent), peer).await
            }
            _ if let Some((dialect, agent, ticket)) = Dialect::at(&path) => {
                self.call(request, Way::Phone(dialect, agent, ticket), peer)
                    .await
            }
            _ if Webex::listed_agent(&path).is_some() => self.webex_agents(request, peer).await,
            (&Method::POST, ["asterisk", "dial"]) => self.dial_asterisk(request, peer).await,
            (&Method::POST, ["v1", "tickets"]) => self.ticket(request, peer).await,
            (&Method::GET, ["livez"]) => text(200, "ok\n"),
            (&Method::POST, _) if let Some(route) = MintRoute::of(&path) => {
                self.mint(route, request, peer).await
            }
            _ if path.ends_with("/realtime") || path.contains("/realtime/") => {
                self.call(request, Way::Sdk(&path), peer).await
            }
            _ => self.refused("other", &Refusal::not_found(), ErrorStyle::OpenAi),
        }
    }

    /// Answers somebody who wants to call.
    async fn call(self: &Arc<Self>, request: Request<Body>, way: Way<'_>, peer: &Peer) -> Answer {
        let call_id = new_call_id();
        let request_id = FrontDoor::request_id(request.uri().query(), request.headers());
        let answer = match (self.overload(), way) {
            (Some(refusal), Way::Phone(dialect, ..)) => {
                self.refused(dialect, &refusal, ErrorStyle::OpenAi)
            }
            (Some(refusal), Way::Sdk(path)) => {
                self.refused(REALTIME, &refusal, FrontDoor::style_of(path))
            }
            (None, Way::Phone(dialect, agent, ticket)) => {
                // A path may end in a slash.
                let ticket = ticket.filter(|ticket| !ticket.is_empty());
                self.phone(&call_id, dialect, agent, ticket, request, peer)
                    .await
            }
            (None, Way::Sdk(path)) => self.sdk(&call_id, path, request, peer).await,
        };
        name(answer, &call_id, request_id.as_deref())
    }

    /// Why nobody is let in at the moment whoever it is: the process has too little left.
    fn overload(&self) -> Option<Refusal> {
        let overload = self.shedder().overload()?;
        Some(Refusal {
            code: overload.name(),
            ..Refusal::unavailable(jittered())
        })
    }

    fn shedder(&self) -> Shedder {
        *self.shedder.lock().expect("no panic while held")
    }

    /// Lets one more call in, if there is room and time.
    fn admit(&self, identity: &Identity) -> Result<CallPermit, Refusal> {
        if self.is_draining() {
            return Err(Refusal::draining());
        }
        let tenant = (!self.routes.auth.is_off()).then_some(identity.tenant.as_str());
        self.door.count_call(tenant).map_err(|too_fast| {
            let code = match too_fast {
                TooFast::All => "call_rate_exceeded",
                TooFast::Tenant => "tenant_call_rate_exceeded",
            };
            Refusal {
                code,
                ..Refusal::unavailable(jittered())
            }
        })?;
        self.calls.admit().ok_or_else(Refusal::calls_full)
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
        peer: &Peer,
    ) -> Result<Identity, Refusal> {
        let shown = Shown {
            certificate: peer.certificate(),
            ..shown
        };
        let identified = self.routes.auth.identify(shown, purpose);
        let Ok(identified) = tokio::time::timeout_at(peer.decide_by, identified).await else {
            self.metrics.denied(route, "timeout");
            let message = "It took too long to find out who calls. Try again later.";
            return Err(Refusal {
                retry_after: Some(jittered()),
                ..Refusal::new(503, "authentication_timeout", message)
            });
        };
        let identity = identified.map_err(|denied| {
            self.metrics.denied(route, denied.name());
            match denied {
                // Not the caller's fault, and nothing that it gets to know by this.
                Denied::KeysUnavailable => Refusal {
                    code: "signing_keys_unavailable",
                    ..Refusal::unavailable(jittered())
                },
                Denied::StoreUnavailable => Refusal::store_unavailable(jittered()),
                _ => Refusal::unauthorized(),
            }
        })?;
        peer.known();
        Ok(identity)
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
            Err(UseError::Unknown) => Err(Refusal::store_unavailable(Duration::from_secs(5))),
        }
    }

    fn refused(&self, route: &'static str, refusal: &Refusal, style: ErrorStyle) -> Answer {
        self.metrics.refused(route, refusal.code);
        refuse(refusal, style)
    }
}

/// Which way a caller comes in.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// By that dialect, to that agent, with that ticket in the path.
    Phone(&'static str, &'a str, Option<&'a str>),
    /// By that path of the Realtime API.
    Sdk(&'a str),
}

/// An id for logs and callers; not a secret.
fn new_call_id() -> String {
    format!("call-{:016x}", fastrand::u64(..))
}

/// When whoever is refused now should try again; spread, so that not all come back at once.
fn jittered() -> Duration {
    Duration::from_millis(fastrand::u64(1_000..=5_000))
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
