//! The lease of one live call: what it uses is counted by it, and it learns by it that a budget ends.
//!
//! Everything here is a short section under a lock of the call's own; what has to go to the store is left for the
//! keeper, so that no call waits for it. Locks are taken in this order and no other: the quota's, a lease's, an account's.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use crate::call::{RateLimits, Usage};
use crate::telemetry::TraceContext;

use super::account::Reservation;
use super::forecast::CallForecast;
use super::front::{AccountHandle, PoolCapacity, Quota};
use super::price::Cost;
use super::store::{Demand, GroupDemand, LeaseId, LeaseRenewal};
use super::tenants::{Budget, Names, TenantQuota};

/// Share of a budget at which its calls are warned.
const WARN_AT: f64 = 0.9;

/// What a live call is told of its budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nine tenths are used. Comes once for each budget.
    Warning {
        /// Which.
        budget: Budget,
        /// When it will be over, as things stand.
        left: Duration,
    },
    /// It is used up: the call is to end in good order. Comes once.
    Over {
        /// Which.
        budget: Budget,
    },
}

/// The right of one call to be there. Dropped with the call: the store hears of it a little later.
pub struct CallLease {
    pub(super) held: Arc<Held>,
    pub(super) quota: Quota,
    /// What the request that announced the call said of its trace. Quota has no use for it.
    pub(super) trace_context: Option<Box<TraceContext>>,
}

/// What a lease and the keeper share.
pub(super) struct Held {
    pub(super) id: LeaseId,
    pub(super) tenant: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) names: Names,
    pub(super) limits: Arc<TenantQuota>,
    /// By the name in the store, with how much there is.
    pub(super) budgets: Vec<(Arc<str>, Budget, f64)>,
    /// The caller's, where the dialect told it.
    number: Option<Box<str>>,
    pub(super) pool: PoolCapacity,
    state: Mutex<State>,
    waker: AtomicWaker,
}

pub(super) struct State {
    pub(super) forecast: CallForecast,
    max_output: Option<f64>,
    /// What the response that is being written has reserved, and where.
    open: Option<(AccountHandle, Reservation)>,
    /// Where its session is.
    at: Option<AccountHandle>,
    /// A session was opened: what the lease is for has begun.
    pub(super) is_begun: bool,
    has_responded: bool,
    /// Whether the deployment says what is left before a response begins, and not after.
    tells_before: bool,
    /// Until when its time is counted.
    pub(super) metered: Instant,
    /// The minute at whose beginning it was live.
    pub(super) minute: u64,
    warned: u8,
    is_over: bool,
    notices: VecDeque<Notice>,
}

impl Held {
    pub(super) fn new(
        id: LeaseId,
        (tenant, kind): (Arc<str>, Arc<str>),
        (names, limits): (Names, Arc<TenantQuota>),
        number: Option<Box<str>>,
        pool: PoolCapacity,
        forecast: CallForecast,
        now: Instant,
    ) -> Self {
        Self {
            id,
            tenant,
            kind,
            budgets: limits.budgets(&names),
            names,
            limits,
            number,
            pool,
            state: Mutex::new(State {
                forecast,
                max_output: None,
                open: None,
                at: None,
                is_begun: false,
                has_responded: false,
                tells_before: false,
                metered: now,
                minute: 0,
                warned: 0,
                is_over: false,
                notices: VecDeque::new(),
            }),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store is to know of it.
    pub(super) fn renewal(&self, life: Duration, demand: Option<GroupDemand>) -> LeaseRenewal {
        LeaseRenewal {
            lease: self.id.clone(),
            life,
            counted: self.limits.counted(&self.names),
            demands: demand
                .map(|demand| (self.pool.book(), demand))
                .into_iter()
                .collect(),
        }
    }

    /// What it needs, counted as its pool counts.
    pub(super) fn demand(&self, mean_minutes: f64, now: Instant) -> Demand {
        let state = self.state();
        match self.pool.weights() {
            Some(weights) => state.forecast.weighted_demand(weights, mean_minutes, now),
            None => state.forecast.demand(mean_minutes, now),
        }
    }

    /// Tells the deployment where it is what it needs, counted as that one counts.
    pub(super) fn reckon(&self, mean_minutes: f64, now: Instant) {
        let state = self.state();
        let Some(account) = &state.at else {
            return;
        };
        let weights = account.lock().weighted_per_minute();
        let demand = match weights {
            Some((weights, _)) => state.forecast.weighted_demand(&weights, mean_minutes, now),
            None => state.forecast.demand(mean_minutes, now),
        };
        let call = GroupDemand {
            tenant: Arc::clone(&self.tenant),
            weight: self.limits.weight,
            kind: Arc::clone(&self.kind),
            mean_minutes,
            demand,
        };
        account.calls().enter(&self.id, Duration::MAX, &call);
    }

    /// Its session is at that deployment from now on, or nowhere.
    pub(super) fn move_to(&self, account: Option<AccountHandle>) {
        let mut state = self.state();
        if let Some(left) = std::mem::replace(&mut state.at, account) {
            left.calls().leave(&self.id);
        }
    }

    /// Whether the call does not know yet that so much of a budget is used.
    pub(super) fn is_news(&self, budget: Budget, used: f64) -> bool {
        let state = self.state();
        let is_warned = state.warned & budget.bit() != 0;
        !state.is_over && (used >= 1.0 || used >= WARN_AT && !is_warned)
    }

    pub(super) fn tell(&self, notice: Notice) {
        let mut state = self.state();
        match notice {
            Notice::Warning { budget, .. } => state.warned |= budget.bit(),
            Notice::Over { .. } => state.is_over = true,
        }
        state.notices.push_back(notice);
        drop(state);
        self.waker.wake();
    }
}

impl CallLease {
    /// A session for the call was opened at that deployment.
    pub fn opened(&self, deployment: &str, now: Instant) {
        let was_begun = std::mem::replace(&mut self.held.state().is_begun, true);
        let account = self.quota.account(deployment);
        account.opened_at(now);
        if was_begun {
            self.quota.requested(&self.held);
        }
        self.held.move_to(Some(account));
        self.reckon(now);
    }

    /// The most that its responses write, if the session says so.
    pub fn set_max_output(&self, tokens: Option<u32>) {
        self.held.state().max_output = tokens.map(f64::from);
    }

    /// A response began there.
    pub fn began(&self, deployment: &str, now: Instant) {
        let account = self.quota.account(deployment);
        let mut state = self.held.state();
        settle_open(&mut state, now);
        let estimate = state.forecast.next_response(state.max_output);
        let mut account_of = account.lock();
        let reservation = if state.tells_before {
            account_of.reserve_told(&estimate, now)
        } else {
            account_of.reserve(&estimate, now)
        };
        drop(account_of);
        state.has_responded = true;
        state.open = Some((account, reservation));
    }

    /// A response ended there and used that. Says what it cost, if there is a price.
    pub fn used(&self, deployment: &str, usage: &Usage, now: Instant) -> Option<Cost> {
        let account = self.quota.account(deployment);
        let mut state = self.held.state();
        state.has_responded = true;
        match state.open.take_if(|(at, _)| at.name() == account.name()) {
            Some((_, reservation)) => account.lock().settle(reservation, usage, now),
            None => account.lock().used(usage, now),
        }
        state.forecast.responded(usage, now);
        let minute = state.minute;
        drop(state);
        let cost = self.quota.meter(&self.held, deployment, usage, minute);
        self.quota.requested(&self.held);
        self.reckon(now);
        cost
    }

    fn reckon(&self, now: Instant) {
        let mean_minutes = self.quota.state().mean_minutes(&self.held.kind);
        self.held.reckon(mean_minutes, now);
    }

    /// Whose call it is.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.held.tenant
    }

    /// The agent or model that was asked for.
    #[must_use]
    pub fn route(&self) -> &str {
        let kind = self.held.kind.split_once(':');
        kind.map_or("", |(_, name)| name)
    }

    /// What its caller's other calls have in common with it and nobody else's have, if its number is known. Not the
    /// number.
    #[must_use]
    pub fn caller_key(&self) -> Option<&str> {
        self.held.names.caller_key()
    }

    /// The caller's number, as a provider's webhook told it.
    #[must_use]
    pub fn caller_number(&self) -> Option<&str> {
        self.held.number.as_deref()
    }

    /// Whose trace the call belongs to, as a provider's webhook told it.
    #[must_use]
    pub fn trace_context(&self) -> Option<&TraceContext> {
        self.trace_context.as_deref()
    }

    /// A provider's webhook told whose trace the call belongs to.
    pub fn set_trace_context(&mut self, context: Option<TraceContext>) {
        self.trace_context = context.map(Box::new);
    }

    /// The deployment said what is left.
    pub fn rate_limits(&self, deployment: &str, limits: &RateLimits, now: Instant) {
        let mut state = self.held.state();
        if !state.has_responded {
            state.tells_before = true;
        }
        drop(state);
        self.quota.account(deployment).lock().told(limits, now);
    }

    /// The deployment refused a response for its quota.
    pub fn refused(&self, deployment: &str, retry_after: Option<Duration>, now: Instant) {
        let account = self.quota.account(deployment);
        account.lock().refused(retry_after, now);
    }

    /// The next thing to know about budgets. One task may wait.
    ///
    /// # Cancel safety
    ///
    /// A notice is taken when it is returned, and not before.
    pub fn poll_notice(&self, cx: &mut Context<'_>) -> Poll<Notice> {
        if let Some(notice) = self.held.state().notices.pop_front() {
            return Poll::Ready(notice);
        }
        self.held.waker.register(cx.waker());
        // One may have come before the waker was there.
        match self.held.state().notices.pop_front() {
            Some(notice) => Poll::Ready(notice),
            None => Poll::Pending,
        }
    }

    /// The next thing to know about budgets, as [`CallLease::poll_notice`].
    pub async fn notice(&self) -> Notice {
        std::future::poll_fn(|cx| self.poll_notice(cx)).await
    }
}

/// A response of which no end was seen has used something all the same.
fn settle_open(state: &mut State, now: Instant) {
    if let Some((account, reservation)) = state.open.take() {
        let usage = state.forecast.likely_usage();
        account.lock().settle(reservation, &usage, now);
    }
}

impl Drop for CallLease {
    fn drop(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        settle_open(&mut self.held.state(), now);
        self.held.move_to(None);
        self.quota.release(&self.held, now);
        let metrics = self.quota.0.metrics.usage();
        metrics.leased(self.held.pool.name(), -1);
    }
}

impl fmt::Debug for CallLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallLease")
            .field("id", &self.held.id)
            .field("tenant", &self.held.tenant)
            .field("kind", &self.held.kind)
            .finish_non_exhaustive()
    }
}
