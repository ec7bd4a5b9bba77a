//! Sessions that are opened and configured before there is a call for them.
//!
//! A task for each reads and pings it while it waits, so that a dead one is found then and not by a caller. One keeper
//! for all pools replaces what was used, retires what is old, and opens what is wanted, so many a second. They are no
//! calls: nothing is sent on them but their configuration, and they cost no tokens.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::routing::{Backoff, Standing};

use super::deployment::Deployment;
use super::dial::{Dialer, ModelLeg};
use super::dial_error::DialError;
use super::pool::{Place, Pool, Session, SessionFormats, SessionRequest};
use super::state::{StandsBy, now};
use super::stock::{Line, SDK, SDK_AGE, Stock, Waiting};

/// How often a waiting session is pinged; without an answer until the next time it is dead (faults reference, 9).
const PING: Duration = Duration::from_secs(5);

/// A ping or close that cannot be written out for so long will not be.
const WRITE: Duration = Duration::from_secs(1);

/// How often it is looked whether sessions are to be retired.
const LOOK: Duration = Duration::from_secs(1);

/// Until a used session is replaced, where nothing goes wrong: a dial across an ocean, and the configuration.
const LEAD: Duration = Duration::from_secs(1);

/// A session is retired so long before the deployment would end it.
const BEFORE_CAP: Duration = Duration::from_secs(300);

/// After a session could not be opened. Recovery is noticed within 5 s (faults reference, 13).
const AFTER_FAILURE: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(4),
};

/// Makes the `session.update` for an agent's sessions at a deployment, with these formats.
pub type Configure = Arc<dyn Fn(&Deployment, SessionFormats) -> String + Send + Sync>;

/// Whose sessions stand by, and where.
#[derive(Clone)]
pub struct StandbyLine {
    /// Where they are opened.
    pub pool: Arc<Pool>,
    /// The agent that they are configured for, as metrics name it.
    pub agent: String,
    /// Tells them from others, those of an agent of the same name with other settings included.
    pub line: String,
    /// How.
    pub configure: Configure,
}

impl fmt::Debug for StandbyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandbyLine")
            .field("pool", &self.pool.name())
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// Keeps sessions ready at the pools that are configured for it, a task for each.
#[derive(Debug)]
pub struct Standby {
    dialer: Arc<Dialer>,
    /// The pools that are kept now, and what ends that.
    kept: Vec<(Arc<Pool>, CancellationToken)>,
    tasks: TaskTracker,
}

impl Standby {
    /// Keeps nothing yet.
    #[must_use]
    pub fn new(dialer: Arc<Dialer>) -> Self {
        Self {
            dialer,
            kept: Vec::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// From now on keeps sessions of these lines, and for SDK callers where a pool is configured for that. What stands
    /// by at a pool that is the same, for a line that is the same, stays; all else is closed.
    pub fn keep(&mut self, pools: impl IntoIterator<Item = Arc<Pool>>, lines: &[StandbyLine]) {
        let pools = pools.into_iter().filter(|pool| pool.stock().is_some());
        let pools: Vec<_> = pools.collect();
        self.kept.retain(|(kept, stop)| {
            let stays = pools.iter().any(|pool| Arc::ptr_eq(pool, kept));
            if !stays {
                stop.cancel();
            }
            stays
        });
        for pool in pools {
            let Some(stock) = pool.stock() else {
                continue;
            };
            let of_pool = lines.iter().filter(|line| line.pool.name() == pool.name());
            for gone in stock.set_lines(of_pool) {
                retire_all(&self.dialer, &pool, &gone);
            }
            if self.kept.iter().any(|(kept, _)| Arc::ptr_eq(kept, &pool)) {
                continue;
            }
            let stop = CancellationToken::new();
            let keeper = Keeper {
                dialer: Arc::clone(&self.dialer),
                pool: Arc::clone(&pool),
                tasks: TaskTracker::new(),
                stop: stop.clone(),
                next_at: now(),
            };
            self.tasks.spawn(keeper.run());
            self.kept.push((pool, stop));
        }
    }

    /// Closes all sessions, and returns when they are.
    pub async fn close(self) {
        for (_, stop) in &self.kept {
            stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Counts what stood by there for nothing.
fn retire_all(dialer: &Dialer, pool: &Pool, gone: &Line) {
    let metrics = dialer.metrics.routing();
    metrics.waiting(pool.name(), &gone.label, 0);
    for _ in gone.waiting.iter().filter(|it| !it.is_gone()) {
        metrics.standby_retired(pool.name(), "reconfigured");
    }
}

impl Dialer {
    /// Takes a session that stands by for such a call, if there is one.
    pub(super) async fn take_standby(
        &self,
        pool: &Pool,
        request: &SessionRequest,
    ) -> Option<Session> {
        let stock = pool.stock()?;
        if request.transcription {
            return None;
        }
        let agent = request.standby_line.as_deref().unwrap_or(SDK);
        {
            let mut lines = stock.lines();
            lines.get_mut(agent)?.demand.arrived(now());
        }
        stock.changed.notify_one();
        let metrics = self.metrics.routing();
        // Where a call would be dialled to: a session at a deployment of a lower tier is no gain.
        let ranked = self.with_room(pool, self.ranked(pool, request));
        let mut outcome = "empty";
        loop {
            let waiting = match pick(stock, agent, pool, request, &ranked) {
                Picked::Session(waiting) => waiting,
                Picked::Unsuitable if outcome == "empty" => {
                    outcome = "unsuitable";
                    break;
                }
                Picked::Unsuitable | Picked::Empty => break,
            };
            let (give, given) = oneshot::channel();
            let leg = match waiting.ask.send(give) {
                Ok(()) => given.await.ok(),
                Err(_) => None,
            };
            let Some(leg) = leg else {
                outcome = "dead";
                continue;
            };
            metrics.standby(pool.name(), "hit");
            metrics.chosen(pool.name(), waiting.held.0.name(), "standby");
            return Some(Session {
                place: Place::new(
                    waiting.held,
                    leg.shown,
                    pool,
                    request.standby_line.clone(),
                    &self.metrics,
                ),
                configured: waiting.formats,
                leg,
            });
        }
        metrics.standby(pool.name(), outcome);
        None
    }
}

enum Picked {
    Session(Waiting),
    /// There are some, and none at a deployment that would be asked.
    Unsuitable,
    Empty,
}

/// Takes the oldest session of an agent that is where a call would be dialled to.
fn pick(
    stock: &Stock,
    agent: &str,
    pool: &Pool,
    request: &SessionRequest,
    ranked: &[usize],
) -> Picked {
    let mut lines = stock.lines();
    let Some(line) = lines.get_mut(agent) else {
        return Picked::Empty;
    };
    line.waiting.retain(|it| !it.is_gone());
    if line.waiting.is_empty() {
        return Picked::Empty;
    }
    let Some(best) = ranked.first() else {
        return Picked::Unsuitable;
    };
    let is_sticky = pool.config().sticky.is_some();
    let tier = |member: usize| pool.table(member).priority;
    let is_good = |it: &Waiting| {
        let deployment = it.deployment();
        ranked.contains(&it.member)
            && tier(it.member) == tier(*best)
            && (!is_sticky || it.member == *best)
            && !request.avoid.iter().any(|name| name == deployment.name())
            && it.rotation == deployment.credential().rotation()
            && (agent != SDK || now().saturating_duration_since(it.began) <= SDK_AGE)
    };
    match line.waiting.iter().position(is_good) {
        Some(found) => Picked::Session(line.waiting.remove(found)),
        None => Picked::Unsuitable,
    }
}

/// One pool's keeper.
struct Keeper {
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// When the next session may be opened.
    next_at: Instant,
}

impl Keeper {
    async fn run(mut self) {
        let pool = Arc::clone(&self.pool);
        let Some(stock) = pool.stock() else {
            return;
        };
        let stop = self.stop.clone();
        let work = async {
            loop {
                let wake_at = self.round(stock);
                tokio::select! {
                    () = stock.changed.notified() => {}
                    () = sleep_until(wake_at.into()) => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
        for line in stock.clear() {
            self.show(&line.label, 0);
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Retires what is stale and opens what is wanted; when to look again at the latest.
    fn round(&mut self, stock: &Stock) -> Instant {
        let now = now();
        let mut lines = stock.lines();
        for line in lines.values_mut() {
            self.retire(line);
            self.show(&line.label, line.waiting.len());
        }
        let mut wake_at = now + LOOK;
        loop {
            let total: usize = lines.values().map(Line::n_sessions).sum();
            let missing = |(agent, line): (&String, &mut Line)| {
                let is_pausing = line.not_before.is_some_and(|at| now < at);
                let missing = line.missing(agent, stock, now);
                (missing > 0 && !is_pausing).then(|| (missing, agent.clone()))
            };
            let most = lines.iter_mut().filter_map(missing).max();
            let Some((_, agent)) = most.filter(|_| total < stock.config.max) else {
                break;
            };
            if now < self.next_at {
                wake_at = wake_at.min(self.next_at);
                break;
            }
            let gap = Duration::from_secs(1) / stock.config.per_second.max(1);
            self.next_at = self.next_at.max(now) + gap;
            let line = lines.get_mut(&agent);
            let configure = line.and_then(|line| {
                line.n_opening += 1;
                line.configure.clone()
            });
            let fill = Fill {
                dialer: Arc::clone(&self.dialer),
                pool: Arc::clone(&self.pool),
                configure,
                agent,
                stop: self.stop.clone(),
                tasks: self.tasks.clone(),
            };
            self.tasks.spawn(fill.run());
        }
        let pausing = lines.values().filter_map(|line| line.not_before);
        pausing.filter(|at| now < *at).fold(wake_at, Instant::min)
    }

    fn retire(&self, line: &mut Line) {
        let metrics = self.dialer.metrics.routing();
        line.waiting.retain(|it| {
            let deployment = it.deployment();
            let reason = match deployment.standing() {
                // Its task told what became of it.
                _ if it.is_gone() => return false,
                _ if deployment.is_drained() => "drained",
                Standing::Open(_) | Standing::Probe | Standing::Probing | Standing::Out(_) => {
                    "unhealthy"
                }
                _ if it.rotation != deployment.credential().rotation() => "rotated",
                _ if self.dialer.is_ejected(&self.pool, it.member) => "unhealthy",
                Standing::Well | Standing::Returning(_) | Standing::Paused(_) => return true,
            };
            metrics.standby_retired(self.pool.name(), reason);
            false
        });
    }

    fn show(&self, label: &str, n: usize) {
        let metrics = self.dialer.metrics.routing();
        metrics.waiting(self.pool.name(), label, n);
    }
}

impl Line {
    fn n_sessions(&self) -> usize {
        self.waiting.len() + self.n_opening
    }

    /// How many more are wanted.
    fn missing(&mut self, agent: &str, stock: &Stock, now: Instant) -> usize {
        let lead = self.opened_in.p95().unwrap_or(LEAD);
        let wanted = if agent == SDK {
            self.demand.target(now, lead, SDK_AGE)
        } else {
            let target = self.demand.target(now, lead, stock.config.max_age);
            target.max(stock.config.min)
        };
        wanted.saturating_sub(self.n_sessions())
    }
}

/// One session being opened for an agent.
struct Fill {
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
    agent: String,
    configure: Option<Configure>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Fill {
    async fn run(self) {
        let began = now();
        let stop = self.stop.clone();
        let opened = stop.run_until_cancelled(self.open()).await;
        let Some(stock) = self.pool.stock() else {
            return;
        };
        let mut lines = stock.lines();
        // Whoever keeps no line any more has no use for it.
        let Some(line) = lines.get_mut(&self.agent) else {
            return;
        };
        line.n_opening -= 1;
        match opened {
            Some(Ok((waiting, task))) => {
                line.failures = 0;
                line.not_before = None;
                line.opened_in.add(now().saturating_duration_since(began));
                line.waiting.push(waiting);
                self.tasks
                    .spawn(task.run(self.pool.clone(), self.dialer.clone(), stop));
            }
            Some(Err(error)) => {
                let pause = AFTER_FAILURE.pause(line.failures, fastrand::f64());
                line.failures = line.failures.saturating_add(1);
                line.not_before = Some(now() + pause);
                let pool = self.pool.name();
                tracing::debug!(%error, pool, "no session to stand by");
            }
            None => {}
        }
        stock.changed.notify_one();
    }

    async fn open(&self) -> Result<(Waiting, Guarded), DialError> {
        let rotations: Vec<u64> = self
            .pool
            .members()
            .iter()
            .map(|it| it.credential().rotation())
            .collect();
        let (member, mut leg, held) = self.dialer.open_ahead(&self.pool).await?;
        let began = now();
        let stock = self.pool.stock();
        let max_age = match (&self.configure, stock) {
            (Some(_), Some(stock)) => stock.config.max_age,
            _ => SDK_AGE,
        };
        let life = max_age.mul_f64(0.8 + 0.2 * fastrand::f64());
        let retire_at = leg.ends_at.map_or(began + life, |ends_at| {
            let left = ends_at.into_std().saturating_duration_since(began);
            began + life.min(left.saturating_sub(BEFORE_CAP).max(left / 2))
        });
        let formats = match (&self.configure, stock) {
            (Some(configure), Some(stock)) => {
                let deployment = &held.0;
                let audio = deployment.audio();
                let formats = stock.lines().get(&self.agent).map(|it| it.formats(audio));
                let Some(formats) = formats else {
                    return Err(DialError::none_left(self.pool.name()));
                };
                let update = configure(deployment, formats);
                if let Err(error) = self.dialer.configure(deployment, &mut leg, update).await {
                    if let Some(trouble) = error.trouble_of_settings() {
                        deployment.session_failed(trouble, leg.shown, &self.dialer.metrics);
                        self.pool.judge(&self.dialer.metrics);
                    }
                    return Err(error);
                }
                Some(formats)
            }
            _ => None,
        };
        let (ask, asked) = oneshot::channel();
        let waiting = Waiting {
            member,
            formats,
            rotation: rotations[member],
            began,
            _stands_by: StandsBy::new(&held.0),
            held,
            ask,
        };
        let task = Guarded {
            leg,
            asked,
            retire_at,
        };
        Ok((waiting, task))
    }
}

/// A waiting session, with whom it waits.
struct Guarded {
    leg: ModelLeg,
    asked: oneshot::Receiver<oneshot::Sender<ModelLeg>>,
    retire_at: Instant,
}

impl Guarded {
    async fn run(self, pool: Arc<Pool>, dialer: Arc<Dialer>, stop: CancellationToken) {
        let Self {
            mut leg,
            mut asked,
            retire_at,
        } = self;
        let mut ping_at = now() + PING;
        let mut is_awaited = false;
        let ended = loop {
            tokio::select! {
                biased;
                asked = &mut asked => match asked {
                    Ok(_) if is_dead(&mut leg) => break Some("dead"),
                    Ok(give) => match give.send(leg) {
                        Ok(()) => return,
                        Err(unwanted) => {
                            leg = unwanted;
                            break Some("unwanted");
                        }
                    },
                    // The keeper wants it no more, and has counted that.
                    Err(_) if stop.is_cancelled() => break Some("drained"),
                    Err(_) => break None,
                },
                message = leg.socket.next() => match message {
                    ended if ended.is_end() => break Some("dead"),
                    _ => is_awaited = false,
                },
                () = sleep_until(ping_at.into()) => {
                    let is_sendable = leg.socket.send_ping().is_ok();
                    let written = timeout(WRITE, leg.socket.flush());
                    if is_awaited || !is_sendable || !matches!(written.await, Ok(Ok(()))) {
                        break Some("dead");
                    }
                    is_awaited = true;
                    ping_at = now() + PING;
                }
                () = sleep_until(retire_at.into()) => break Some("age"),
            }
        };
        // Nobody can ask for it from here on.
        drop(asked);
        if let Some(reason) = ended {
            dialer
                .metrics
                .routing()
                .standby_retired(pool.name(), reason);
        }
        if let Some(stock) = pool.stock() {
            stock.changed.notify_one();
        }
        let _ = timeout(WRITE, leg.socket.close(None)).await;
    }
}

/// Whether what has come in by now ends the session.
fn is_dead(leg: &mut ModelLeg) -> bool {
    loop {
        match leg.socket.next().now_or_never() {
            None => return false,
            Some(received) if received.is_end() => return true,
            Some(_) => {}
        }
    }
}
