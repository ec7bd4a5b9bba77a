//! Answers callers by one configuration. What outlives that (calls, counts, connections) it shares with those that
//! were there before it and come after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming as Body;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Denied, Identity, Purpose, Shown, UseError};
use crate::bridge::{CallPermit, CallTrace, Calls, REALTIME, SessionSource, ToolRunner};
use crate::ingress::upgrade::{self, Upgrade};
use crate::ingress::{Dialect, ErrorStyle, FrontDoor, MintRoute, Refusal, Webex};
use crate::quota::Quota;
use crate::records::Recorder;
use crate::telemetry::Metrics;
use crate::traces::Tracer;
use crate::upstream::{Dialer, Pool};

use super::answer::{Answer, last, name, refuse, refuse_upgrade, secure, text};
use super::config::ListenerConfig;
use super::door::{Connection, Door, Peer, TooFast, Unheard};
use super::phone::{TELNYX, TWILIO};
use super::refusals::Refusals;
use super::routes::Routes;
use super::shed::{ShedConfig, Shedder, Signals};
use super::{jittered, new_call_id};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) config: ListenerConfig,
    pub(super) routes: Routes,
    pub(super) front_door: FrontDoor,
    /// Connections at a time.
    pub(super) connection_limit: usize,
    pub(super) dialer: Arc<Dialer>,
    pub(super) tools: ToolRunner,
    pub(super) metrics: Arc<Metrics>,
    pub(super) calls: Calls,
    pub(super) quota: Quota,
    pub(super) recorder: Recorder,
    pub(super) tracer: Tracer,
    pub(super) door: Arc<Door>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) capacity: Arc<Capacity>,
    /// Connections that are no call.
    pub(super) connections: TaskTracker,
    /// Cancelled when they are to end.
    pub(super) closing: CancellationToken,
}

/// Whether the process takes calls at all.
#[derive(Debug)]
pub(super) struct Capacity {
    draining: AtomicBool,
    shedder: Mutex<Shedder>,
}

impl Capacity {
    pub(super) fn new(config: ShedConfig) -> Self {
        Self {
            draining: AtomicBool::new(false),
            shedder: Mutex::new(Shedder::new(config)),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// No more calls.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn shedder(&self) -> Shedder {
        *self.lock()
    }

    /// What is decided by this measurement.
    pub(super) fn observe(&self, signals: Signals, now: Instant) -> Shedder {
        let mut shedder = self.lock();
        shedder.observe(signals, now);
        *shedder
    }

    pub(super) fn set_config(&self, config: ShedConfig) {
        self.lock().set_config(config);
    }

    fn lock(&self) -> MutexGuard<'_, Shedder> {
        self.shedder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    pub(super) fn is_draining(&self) -> bool {
        self.capacity.is_draining()
    }

    /// Sessions of that pool, for one call of that caller.
    pub(super) fn sessions(
        &self,
        pool: Arc<Pool>,
        identity: &Identity,
        caller: String,
        trace: Option<&CallTrace>,
    ) -> SessionSource {
        SessionSource {
            dialer: Arc::clone(&self.dialer),
            pool,
            tenant: identity.tenant.clone(),
            caller,
            failed_dials: trace.map(CallTrace::failed_dials).unwrap_or_default(),
        }
    }

    /// Answers one request.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Body>,
        connection: &Arc<Connection>,
    ) -> Answer {
        let peer = connection.request(request.headers());
        let mut answer = match self.check_request(&request, &peer) {
            Ok(()) => self.route(request, &peer).await,
            Err((refusal, style)) => self.refused("other", &refusal, style, &peer),
        };
        if answer.status() == StatusCode::UNAUTHORIZED {
            peer.failed();
        }
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            secure(answer.headers_mut(), self.routes.tls.is_some());
            let may_keep_alive = self.capacity.shedder().may_keep_alive();
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
            (&Method::POST, ["twilio", "voice"]) => self.voice(TWILIO, request, None, peer).await,
            (&Method::POST, [provider @ ("twilio" | "telnyx"), "voice", agent]) => {
                let dialect = if *provider == TELNYX { TELNYX } else { TWILIO };
                let agent = (*agent).to_owned();
                self.voice(dialect, request, Some(agent), peer).await
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
            _ => self.refused("other", &Refusal::not_found(), ErrorStyle::OpenAi, peer),
        }
    }

    /// Answers somebody who wants to call.
    async fn call(self: &Arc<Self>, request: Request<Body>, way: Way<'_>, peer: &Peer) -> Answer {
        let call_id = new_call_id();
        let request_id = FrontDoor::request_id(request.uri().query(), request.headers());
        let answer = match (self.overload(), way) {
            (Some(refusal), Way::Phone(dialect, ..)) => {
                self.refused(dialect, &refusal, ErrorStyle::OpenAi, peer)
            }
            (Some(refusal), Way::Sdk(path)) => {
                self.refused(REALTIME, &refusal, FrontDoor::style_of(path), peer)
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
    pub(super) fn overload(&self) -> Option<Refusal> {
        let overload = self.capacity.shedder().overload()?;
        Some(Refusal {
            code: overload.name(),
            ..Refusal::unavailable(jittered())
        })
    }

    /// Lets one more call in, if there is room and time.
    pub(super) fn admit(&self, identity: &Identity) -> Result<CallPermit, Refusal> {
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
    pub(super) fn check_upgrade(
        &self,
        route: &'static str,
        request: &Request<Body>,
        style: ErrorStyle,
        peer: &Peer,
    ) -> Result<Upgrade, Box<Answer>> {
        let checked = upgrade::check(
            request.method(),
            request.version(),
            request.uri(),
            request.headers(),
        );
        let upgrade = checked.map_err(|error| {
            let status = Some(error.status());
            self.refusals.note(route, error.name(), status, None);
            Box::new(refuse_upgrade(error, style))
        })?;
        match self.check_origin(route, &upgrade) {
            Ok(()) => Ok(upgrade),
            Err(refusal) => Err(Box::new(self.refused(route, &refusal, style, peer))),
        }
    }

    /// Who a caller is.
    ///
    /// # Errors
    ///
    /// The same refusal whatever is wrong with the credential; what it was is counted.
    pub(super) async fn identify(
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
                _ => unauthorized(denied),
            }
        })?;
        peer.known(&identity.tenant);
        Ok(identity)
    }

    /// Uses up the ticket that a caller showed, if it did: the last thing before a session is opened for it.
    ///
    /// # Errors
    ///
    /// If it was used before, or nobody can say.
    pub(super) async fn use_up(
        &self,
        route: &'static str,
        identity: &Identity,
    ) -> Result<(), Refusal> {
        match self.routes.auth.use_up(identity).await {
            Ok(()) => Ok(()),
            Err(UseError::Replayed) => {
                self.metrics.denied(route, Denied::Replayed.name());
                Err(unauthorized(Denied::Replayed))
            }
            Err(UseError::Unknown) => Err(Refusal::store_unavailable(Duration::from_secs(5))),
        }
    }

    /// The answer, told to metrics and operators.
    pub(super) fn refused(
        &self,
        route: &'static str,
        refusal: &Refusal,
        style: ErrorStyle,
        peer: &Peer,
    ) -> Answer {
        let status = Some(refusal.status);
        self.refusals
            .note_caused(route, refusal, status, peer.tenant());
        refuse(refusal, style)
    }
}

/// The one answer to whatever is wrong with a credential; what it was is for operators.
fn unauthorized(denied: Denied) -> Refusal {
    Refusal {
        cause: Some(denied.name()),
        ..Refusal::unauthorized()
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

/// Repeated slashes count as one: some clients join paths carelessly (protocol reference 1.1).
pub(super) fn normalise(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !normal.ends_with('/') {
            normal.push(c);
        }
    }
    normal
}
