//! What a process knows of one deployment, shared by all pools that it is in: health, dial times, sessions.
//!
//! A thin shell: it holds the pure cores of `routing`, reads the clock, and turns errors into their words.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::routing::{
    Condition, DialTimes, Failed, Grant, Health, Need, Refused, Stage, Standing, Window,
};
use crate::telemetry::Metrics;

use super::deployment::Deployment;
use super::dial_error::DialError;
use super::pool::Trouble;

/// A deployment that does not say how long it wants to be left alone is left alone for so long.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// The same inside a session: what is used up there is tokens, which come back by the minute.
const SESSION_PAUSE: Duration = Duration::from_secs(5);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct DeploymentState {
    inner: Mutex<Inner>,
    /// Sessions that are used, stand by or are being opened.
    held: AtomicU32,
    /// Of these, those that stand by.
    waiting: AtomicU32,
    /// An operator wants no session to be opened there.
    drained: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    health: Health,
    window: Window,
    times: DialTimes,
    /// The version of the credential that was refused.
    refused: Option<u64>,
}

impl DeploymentState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Deployment {
    /// What may be done with it now.
    pub(super) fn standing(&self) -> Standing {
        let mut inner = self.state.lock();
        let now = now();
        if inner
            .refused
            .is_some_and(|refused| refused != self.credential().version())
        {
            inner.refused = None;
            inner.health.credential_changed(now);
        }
        inner.health.standing(now)
    }

    /// Whether it came back of late. Its dials are few then, and for those that wait.
    pub(super) fn is_returning(&self) -> bool {
        self.state.lock().health.is_returning(now())
    }

    /// The condition that metrics show.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.state.lock().health.condition(now())
    }

    /// From now on no session is opened there, or again.
    pub fn set_drained(&self, is_drained: bool, metrics: &Metrics) {
        self.state.drained.store(is_drained, Ordering::Relaxed);
        metrics.routing().drained(self.name(), is_drained);
    }

    /// Whether an operator wants no session to be opened there.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.state.drained.load(Ordering::Relaxed)
    }

    /// Whether it can be counted on: it is neither failing nor refusing the credential nor drained. One that wants to be
    /// left alone for a while can.
    #[must_use]
    pub fn is_dependable(&self) -> bool {
        let is_well = matches!(
            self.standing(),
            Standing::Well | Standing::Returning(_) | Standing::Paused(_)
        );
        is_well && !self.is_drained()
    }

    /// Sessions there that are used, stand by or are being opened.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Of these, those that stand by.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.state.waiting.load(Ordering::Relaxed)
    }

    /// Of these, those that have a call or are opened for one.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.held().saturating_sub(self.waiting())
    }

    /// After how long another deployment is dialled besides this one.
    pub(super) fn hedge_after(&self) -> Duration {
        self.state.lock().times.hedge_after()
    }

    /// Good and bad outcomes of late.
    pub(super) fn outcomes(&self) -> (u32, u32) {
        self.state.lock().window.counts(now())
    }

    pub(super) fn forget_outcomes(&self) {
        self.state.lock().window = Window::default();
    }

    /// A session that had been opened failed.
    /// `shown` is the version of the credential that it was opened with.
    pub(super) fn session_failed(&self, trouble: Trouble, shown: u64, metrics: &Metrics) {
        let now = now();
        {
            let mut inner = self.state.lock();
            match trouble {
                Trouble::RateLimited(wait) => {
                    inner.health.rate_limited(None, wait, SESSION_PAUSE, now);
                }
                // It was opened with a key that is not used any more.
                Trouble::Unauthorized if shown != self.credential().version() => {}
                Trouble::Unauthorized => {
                    let deployment = self.name();
                    tracing::error!(deployment, "out of use: it does not know what it was shown");
                    inner.refused = Some(shown);
                    inner.health.unauthorized(now, fastrand::f64());
                }
                Trouble::Closed | Trouble::Gone if !inner.health.ended(now) => {}
                Trouble::Stalled
                | Trouble::Closed
                | Trouble::Gone
                | Trouble::Protocol
                | Trouble::ServerError => {
                    inner.window.add(false, now);
                    let of = Failed::At(Stage::Session);
                    if inner.health.failed(of, now, fastrand::f64()) {
                        tracing::warn!(
                            deployment = self.name(),
                            ?trouble,
                            "its sessions fail: it is left alone for a while"
                        );
                    }
                }
            }
        }
        self.show(metrics);
    }

    /// A session there did what it should, for the first time or again. Shares are of sessions, not of what each did.
    pub(super) fn session_went_well(&self, is_first: bool) {
        let mut inner = self.state.lock();
        if is_first {
            inner.window.add(true, now());
        }
        inner.health.session_went_well();
    }

    /// Goes on with what was learnt of `old`, the deployment of that name in the configuration before, if both are the same
    /// place that is shown the same: how it fares has nothing to do with what else is said of it.
    pub fn go_on_from(&self, old: &Self, metrics: &Metrics) {
        if !self.is_same_place(old) {
            return;
        }
        let learnt = old.state.lock().clone();
        *self.state.lock() = learnt;
        self.show(metrics);
    }

    /// Whatever was seen of a deployment of that name says nothing of it.
    pub fn forget_condition(&self, metrics: &Metrics) {
        let all = Condition::ALL.map(Condition::name);
        metrics.routing().forget_condition(self.name(), &all);
    }

    fn show(&self, metrics: &Metrics) {
        let condition = self.state.lock().health.condition(now());
        metrics.routing().condition(
            self.name(),
            &Condition::ALL.map(Condition::name),
            condition.name(),
        );
    }
}

/// A place among the sessions of a deployment, for comparing it with others.
#[derive(Debug)]
pub(super) struct Held(pub(super) Arc<Deployment>);

impl Held {
    fn new(deployment: &Arc<Deployment>) -> Self {
        deployment.state.held.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(deployment))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session that stands by, as long as it does.
#[derive(Debug)]
pub(super) struct StandsBy(Arc<Deployment>);

impl StandsBy {
    pub(super) fn new(deployment: &Arc<Deployment>) -> Self {
        deployment.state.waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(deployment))
    }
}

impl Drop for StandsBy {
    fn drop(&mut self) {
        self.0.state.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A dial under way. Dropped before its outcome is told, it counts as given up.
#[derive(Debug)]
pub(super) struct Dialling {
    held: Option<Held>,
    deployment: Arc<Deployment>,
    metrics: Arc<Metrics>,
    grant: Grant,
}

impl Dialling {
    /// Asks to dial a deployment.
    pub(super) fn begin(
        deployment: &Arc<Deployment>,
        metrics: &Arc<Metrics>,
        need: Need,
    ) -> Result<Self, Refused> {
        let mut inner = deployment.state.lock();
        let grant = inner.health.ask(now(), need)?;
        drop(inner);
        if grant.is_probe {
            deployment.show(metrics);
        }
        Ok(Self {
            held: Some(Held::new(deployment)),
            deployment: Arc::clone(deployment),
            metrics: Arc::clone(metrics),
            grant,
        })
    }

    pub(super) fn grant(&self) -> Grant {
        self.grant
    }

    pub(super) fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// It brought a session.
    ///
    /// # Panics
    ///
    /// Never: the outcome of a dial is told once.
    pub(super) fn succeeded(mut self) -> Held {
        let now = now();
        let mut inner = self.deployment.state.lock();
        inner.health.dialled(self.grant, now);
        inner
            .times
            .add(now.saturating_duration_since(self.grant.at));
        inner.refused = None;
        drop(inner);
        self.deployment.show(&self.metrics);
        self.held.take().expect("not told yet")
    }

    /// It failed.
    pub(super) fn failed(mut self, error: &DialError) {
        self.held = None;
        let now = now();
        let chance = fastrand::f64();
        let name = self.deployment.name();
        let mut inner = self.deployment.state.lock();
        match error.verdict() {
            Verdict::RateLimited(wait) => {
                let grant = Some(self.grant);
                inner.health.rate_limited(grant, wait, PAUSE, now);
            }
            Verdict::Unauthorized => {
                inner.refused = Some(self.deployment.credential().version());
                inner.health.unauthorized(now, chance);
                tracing::error!(
                    deployment = name,
                    "out of use: it does not know what it is shown"
                );
            }
            Verdict::Failed(wait) => {
                inner.window.add(false, now);
                if inner.health.failed(Failed::dial(self.grant), now, chance) {
                    tracing::warn!(deployment = name, "it is left alone for a while");
                }
                if let Some(wait) = wait {
                    inner.health.sent_away(wait, now);
                }
            }
        }
        drop(inner);
        self.deployment.show(&self.metrics);
    }

    /// It took so long that nobody waits for it any more.
    pub(super) fn too_slow(mut self) {
        self.held = None;
        let now = now();
        let mut inner = self.deployment.state.lock();
        // How long it would have taken is not known. One that has merely become slower is given more time before it
        // has lost so often in a row that it seems broken.
        let took = now.saturating_duration_since(self.grant.at);
        inner.times.add(took * 3);
        inner.window.add(false, now);
        let of = Failed::dial(self.grant);
        inner.health.failed(of, now, fastrand::f64());
        drop(inner);
        self.deployment.show(&self.metrics);
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if self.held.is_some() {
            let mut inner = self.deployment.state.lock();
            inner.health.abandoned(self.grant, now());
        }
    }
}

/// What a failed dial says of its deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is well and has too much to do: when it wants to be asked again.
    RateLimited(Option<Duration>),
    /// It does not know what it was shown, or there is nothing to show.
    Unauthorized,
    /// It is in trouble, and may say for how long.
    Failed(Option<Duration>),
}
