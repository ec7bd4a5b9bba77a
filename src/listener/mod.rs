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
mod desk;
mod door;
mod echo;
mod limits;
mod load;
mod mint;
mod one_time;
mod operate;
mod phone;
mod post;
mod proxies;
mod quota;
mod rate;
mod refusals;
mod reload;
mod routes;
mod sample;
mod sdk;
mod shared_keys;
mod shed;
mod socket;
mod sources;
mod stored_roll;
mod tickets;
mod tls;
mod traced;
mod webex;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bridge::{Calls, Pulse, ToolRunner};
use crate::ingress::{FrontDoor, Refusal};
use crate::quota::{InProcess, Quota};
use crate::records::Recorder;
use crate::telemetry::Metrics;
use crate::traces::Tracer;
use crate::upstream::{DialError, Dialer};

use desk::{Capacity, Desk};
use door::Door;
use load::QuotaLoad;
use operate::DrainWanted;
use refusals::Refusals;

pub(crate) use answer::secure;
pub use asterisk::{AsteriskConfig, AsteriskServerConfig, AsteriskServerError, AsteriskServers};
pub use audiosocket::AudioSocketListenerConfig;
pub use callers::{CallersConfig, PhoneLimits, RealtimeLimits};
pub use config::{ListenerConfig, TwilioConfig, is_origin, is_public_url, usual_connections};
#[doc(hidden)]
pub use echo::echo_connection;
pub use limits::LimitsConfig;
pub use one_time::StoredIds;
pub use operate::{DeploymentStatus, QuotaStatus};
pub use refusals::RefusedCallers;
pub use reload::Unchanged;
pub use routes::Routes;
pub use shared_keys::StoredKeys;
pub use shed::{Overload, ShedConfig, Signals};
pub use stored_roll::StoredRoll;
pub(crate) use tls::Alpn;
pub use tls::{ClientAuth, Tls, TlsConfig, TlsError};

/// How long connections that are no call may take to end when the process goes away.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Everything that answers callers.
#[derive(Debug)]
pub struct Gateway {
    /// By what callers are answered at the moment; replaced as a whole when the configuration changes.
    desk: watch::Sender<Arc<Desk>>,
    /// Never another: connections must know what to begin with.
    tls: Option<Arc<Tls>>,
    dialer: Arc<Dialer>,
    metrics: Arc<Metrics>,
    calls: Calls,
    quota: Quota,
    recorder: Recorder,
    tracer: Tracer,
    door: Arc<Door>,
    refusals: Arc<Refusals>,
    capacity: Arc<Capacity>,
    connections: TaskTracker,
    /// Cancelled when connections are to end that are no call.
    closing: CancellationToken,
    /// Cancelled when no session is to stand by any more.
    standing_down: CancellationToken,
    /// Written by operators.
    drain_wanted: DrainWanted,
    /// That of the threads that everything but calls runs on.
    pulse: Arc<Pulse>,
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
        let recorder = Recorder::new(Arc::clone(&routes.records), Arc::clone(&metrics));
        let tracer = Tracer::new(Arc::clone(&routes.traces), Arc::clone(&metrics));
        let desk = Desk {
            front_door: FrontDoor {
                lenient_api_version: config.lenient_api_version,
            },
            connection_limit: connections(&config),
            dialer: Arc::new(dialer),
            tools,
            refusals: Arc::new(Refusals::new(Arc::clone(&metrics))),
            metrics,
            calls: Calls::new(config.max_calls),
            quota,
            recorder,
            tracer,
            door: Door::new(&config),
            capacity: Arc::new(Capacity::new(config.shed)),
            connections: TaskTracker::new(),
            closing: CancellationToken::new(),
            config,
            routes,
        };
        Arc::new(Self {
            tls: desk.routes.tls.clone(),
            dialer: Arc::clone(&desk.dialer),
            metrics: Arc::clone(&desk.metrics),
            calls: desk.calls.clone(),
            quota: desk.quota.clone(),
            recorder: desk.recorder.clone(),
            tracer: desk.tracer.clone(),
            door: Arc::clone(&desk.door),
            refusals: Arc::clone(&desk.refusals),
            capacity: Arc::clone(&desk.capacity),
            connections: desk.connections.clone(),
            closing: desk.closing.clone(),
            desk: watch::Sender::new(Arc::new(desk)),
            standing_down: CancellationToken::new(),
            drain_wanted: DrainWanted::new(None),
            pulse: Pulse::new("main"),
        })
    }

    /// Who answers now. To be asked once for each request, so that none is answered by two configurations.
    fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk.borrow())
    }

    /// The live calls.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// What calls may use; somebody must run its [`Quota::keep`].
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Where calls leave their records; somebody must run its [`Recorder::deliver`].
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Where calls leave their traces; somebody must run its [`Tracer::export`].
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What shows that the process's threads go on.
    #[must_use]
    pub fn pulses(&self) -> Vec<Arc<Pulse>> {
        let mut pulses = self.calls.pulses();
        pulses.push(Arc::clone(&self.pulse));
        pulses
    }

    /// Whether a thread gets nowhere, and calls with it.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.pulses().iter().any(|pulse| pulse.is_stalled())
    }

    /// Whether new calls are refused because the process is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.capacity.is_draining()
    }

    /// Refuses new calls, lets the live ones finish for at most `grace`, ends what is left.
    pub async fn drain(&self, grace: Duration) {
        self.capacity.drain();
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
    pub fn observe_load(&self, signals: Signals) {
        let door = self.metrics.door();
        door.load(signals.loop_lag, signals.memory, signals.descriptors);
        let now = tokio::time::Instant::now().into_std();
        let before = self.capacity.shedder().overload();
        let shedder = self.capacity.observe(signals, now);
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
}

/// Connections at a time.
fn connections(config: &ListenerConfig) -> usize {
    let limit = config.connection_limit();
    if limit < config.max_calls as usize {
        tracing::warn!(
            max_calls = config.max_calls,
            max_connections = limit,
            "fewer connections than calls are allowed"
        );
    }
    limit
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
