//! The life of a serving process: a gateway with its listeners, until it is told to go.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Access, AdminTokens};
use crate::bridge::{ToolRunner, WatchdogLimits, Workers, watch_threads};
use crate::config::{Config, Loaded, Reloader};
use crate::listener::{Gateway, Routes, StoredIds, StoredKeys, StoredRoll};
use crate::outbound::Outbound;
use crate::quota::{Quota, QuotaConfig, open_store};
use crate::records::RollTiming;
use crate::telemetry::Metrics;
use crate::upstream::Dialer;

use super::bind;
use super::log::LogFilter;

/// Operators that may wait to be accepted.
const ADMIN_BACKLOG: u32 = 64;

/// So long the log has to write why the process is given up.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A gateway that answers callers and operators.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) gateway: Arc<Gateway>,
    pub(super) callers: SocketAddr,
    /// Where callers come in by AudioSocket, if anywhere.
    pub(super) audiosocket: Option<SocketAddr>,
    pub(super) admin: SocketAddr,
    /// What operators have to show.
    tokens: AdminTokens,
    /// What is in force now.
    config: watch::Receiver<Arc<Config>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The signals that ask the process to go: SIGTERM, SIGINT and SIGQUIT. Whatever they do else to a process, they cut no
/// call and lose no record of this one from when it listens on.
#[derive(Debug)]
pub(super) struct Signals([Signal; 3]);

impl Signals {
    /// From now on none of them ends the process.
    pub(super) fn listen() -> Result<Self, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
        Ok(Self([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::quit())?,
        ]))
    }

    /// Is over when one of them comes.
    ///
    /// # Cancel safety
    ///
    /// None is lost.
    async fn next(&mut self) {
        let [terminate, interrupt, quit] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    }
}

impl Process {
    /// Opens the listeners and serves, in the runtime that calls it.
    pub(super) fn start(config: &Config, mut routes: Routes) -> Result<Self, String> {
        let listener = &config.listener;
        let (caller_listener, callers) = bind(listener.address, listener.backlog)?;
        let audiosocket = listener.audiosocket.address;
        let audiosocket = audiosocket.map(|address| bind(address, listener.backlog));
        let (audiosocket, audiosocket_at) = audiosocket.transpose()?.unzip();
        let (admin_listener, admin) = bind(config.admin.address, ADMIN_BACKLOG)?;
        let access = Access::new(&config.admin)
            .map_err(|(field, problem)| format!("admin.{}: {problem}", field.join(".")))?;
        let metrics = Metrics::new();
        let dialer = Dialer::new(Arc::clone(&metrics));
        let outbound = Outbound::new();
        let tools = ToolRunner::new(outbound.clone());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let redis = config.quota.redis.as_ref();
        let open = open_store(redis, &metrics, &tasks, &stop)
            .map_err(|error| format!("quota.redis.{error}"))?;
        let store = open.store;
        if redis.is_some() {
            let used = StoredIds::new(Arc::clone(&store));
            routes.auth.remember_tickets(Arc::new(used));
            let keys = StoredKeys::new(Arc::clone(&store));
            routes.auth.share_ephemeral_keys(Arc::new(keys));
        }
        let quota = Quota::new(routes.quota.clone(), store, Arc::clone(&metrics));
        tasks.spawn(quota.clone().keep(stop.clone()));
        let listener = config.listener.clone();
        let gateway = Gateway::with_quota(listener, routes, quota, dialer, tools, metrics);
        if let Some(replica) = replica_name(config) {
            gateway.recorder().name_replica(replica);
        }
        if let Some(shared) = open.shared {
            let recorder = gateway.recorder();
            let timing = roll_timing(&config.quota);
            let roll = StoredRoll::new(shared, recorder.replica(), timing.life);
            tasks.spawn(recorder.share(Arc::new(roll), timing));
        }
        tasks.spawn(gateway.recorder().clone().deliver(outbound.clone()));
        tasks.spawn(gateway.tracer().clone().export(outbound.clone()));
        tasks.spawn(gateway.keep_credentials(outbound, stop.clone()));
        let process = Self {
            gateway,
            callers,
            audiosocket: audiosocket_at,
            admin,
            tokens: access.tokens(),
            config: watch::Sender::new(Arc::new(config.clone())).subscribe(),
            tasks,
            stop,
        };
        let workers = Workers::start(&process.stop);
        let workers = workers.map_err(|error| format!("cannot start threads: {error}"))?;
        process.gateway.calls().run_on(workers);
        process.watch_threads(config.process.watchdog)?;
        process.spawn(caller_listener, admin_listener, access);
        if let Some(audiosocket) = audiosocket {
            let gateway = Arc::clone(&process.gateway);
            let serving = gateway.serve_audiosocket(audiosocket, process.stop.clone());
            process.tasks.spawn(serving);
        }
        Ok(process)
    }

    fn watch_threads(&self, give_up: Duration) -> Result<(), String> {
        let limits = WatchdogLimits {
            notice: WatchdogLimits::NOTICE,
            give_up,
        };
        let calls = self.gateway.calls().clone();
        let metrics = Arc::clone(self.gateway.metrics());
        watch_threads(
            self.gateway.pulses(),
            limits,
            metrics,
            self.stop.clone(),
            move |thread| calls.on_thread(thread),
            || {
                std::thread::sleep(LAST_WORDS);
                std::process::abort();
            },
        )
        .map_err(|error| format!("cannot start threads: {error}"))
    }

    /// From now on takes what is changed in the file that this process was started by: on SIGHUP, and by itself.
    pub(super) fn reload_from(
        &mut self,
        path: &Path,
        loaded: &Loaded,
        filter: LogFilter,
        mut hangups: Signal,
    ) {
        let recorder = self.gateway.recorder().clone();
        let (gateway, tokens) = (Arc::clone(&self.gateway), self.tokens.clone());
        let mut reloader = Reloader::new(path, loaded, gateway, tokens);
        self.config = reloader.config();
        let (stop, config) = (self.stop.clone(), self.config.clone());
        let work = async move {
            loop {
                tokio::select! {
                    Some(()) = hangups.recv() => {
                        recorder.reopen();
                        drop(reloader.reload().await);
                    }
                    () = reloader.is_due() => drop(reloader.look().await),
                }
                filter.follow(&config.borrow().log);
            }
        };
        self.tasks
            .spawn(async move { stop.run_until_cancelled(work).await });
    }

    fn grace(&self) -> Duration {
        self.config.borrow().drain.grace
    }

    fn spawn(&self, callers: TcpListener, operators: TcpListener, access: Access) {
        let gateway = Arc::clone(&self.gateway);
        self.tasks.spawn(gateway.serve(callers, self.stop.clone()));
        let gateway = Arc::clone(&self.gateway);
        self.tasks.spawn(gateway.watch_load(self.stop.clone()));
        let gateway = Arc::clone(&self.gateway);
        self.tasks.spawn(gateway.keep_standby(self.stop.clone()));
        let gateway = Arc::clone(&self.gateway);
        self.tasks
            .spawn(admin::serve(gateway, operators, access, self.stop.clone()));
    }

    /// Serves until one of the signals or an operator's word, then drains; a second signal ends the calls at once, a second
    /// word sets another deadline.
    pub(super) async fn run_until_told(self, mut signals: Signals) {
        let mut wanted = self.gateway.drain_wanted();
        // The gateway holds the other end of `wanted`.
        tokio::select! {
            () = signals.next() => {}
            _ = wanted.changed() => {}
        }
        loop {
            let deadline = wanted.borrow_and_update().flatten();
            let grace = deadline.unwrap_or_else(|| self.grace());
            tokio::select! {
                () = self.gateway.drain(grace) => break,
                () = signals.next() => break self.gateway.drain(Duration::ZERO).await,
                Ok(()) = wanted.changed() => {}
            }
        }
        self.stop().await;
    }

    /// Closes the listeners and what is still connected.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.gateway.recorder().close();
        self.gateway.tracer().close();
        self.tasks.close();
        self.tasks.wait().await;
        self.gateway.close().await;
    }
}

/// What the configuration calls this process, or else its host's name, which in a pod is the pod's.
fn replica_name(config: &Config) -> Option<String> {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = match &config.process.replica {
        Some(name) => name.clone(),
        None => host().ok()?.trim().to_owned(),
    };
    Some(name).filter(|name| !name.is_empty())
}

/// A replica is lost when its leases are: together, the two are as long as a lease lives, but for the second that it takes
/// to look. Where leases live for less than some seconds it takes longer: replicas speak once a second.
fn roll_timing(quota: &QuotaConfig) -> RollTiming {
    RollTiming {
        life: quota
            .lease_life
            .saturating_sub(quota.heartbeat)
            .max(SHORTEST_LIFE),
        watch: quota.heartbeat.saturating_sub(Duration::from_secs(1)),
    }
}

/// Two of a replica's words may be lost before it counts as silent.
const SHORTEST_LIFE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_have_time_for_several_words_before_they_are_lost() {
        let check = |lease_life, heartbeat, life, watch| {
            let [lease_life, heartbeat, life, watch] =
                [lease_life, heartbeat, life, watch].map(Duration::from_secs);
            let quota = QuotaConfig {
                lease_life,
                heartbeat,
                ..QuotaConfig::default()
            };
            assert_eq!(roll_timing(&quota), RollTiming { life, watch });
        };
        check(15, 5, 10, 4);
        check(5, 1, 4, 0);
        check(2, 1, 3, 0);
        check(60, 30, 30, 29);
    }
}
