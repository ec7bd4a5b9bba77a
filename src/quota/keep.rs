//! The one background task of quota: renews leases, tells the store what was used, and tells calls of their budgets.
//!
//! Calls leave what they have for it and never wait for it. A store that is slow makes this task late and nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::front::{Quota, State, group};
use super::lease::{Held, Notice};
use super::settings::Admission;
use super::store::{LeaseRenewal, Spend, Totals};
use super::tenants::Budget;

/// What was used is told so often.
const FLUSH: Duration = Duration::from_secs(1);

/// Forecasts are compared with what came so often.
const MINUTE: Duration = Duration::from_secs(60);

impl Quota {
    /// Does what has to be done in the background until `stop`; then gives back what is left.
    pub async fn keep(self, stop: CancellationToken) {
        let mut tick = interval(FLUSH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = tokio::time::Instant::now().into_std();
        let (mut renewed, mut minute) = (began, began);
        loop {
            let is_last = tokio::select! {
                _ = tick.tick() => false,
                () = self.0.wake.notified() => false,
                () = stop.cancelled() => true,
            };
            let now = tokio::time::Instant::now().into_std();
            let is_due = |since: Instant, every| now.saturating_duration_since(since) >= every;
            self.drop_unclaimed(now);
            self.tell_released().await;
            let beats = is_last || is_due(renewed, self.plan().config.heartbeat);
            if beats {
                renewed = now;
                self.meter_time(now);
            }
            self.tell_spends(now).await;
            self.watch_calls(now);
            if is_last {
                return;
            }
            if beats {
                self.renew(now).await;
            }
            if is_due(minute, MINUTE) {
                minute = now;
                self.begin_minute(now);
            }
        }
    }

    /// Gives back the leases of calls that were announced and did not come.
    fn drop_unclaimed(&self, now: Instant) {
        let mut state = self.state();
        let mut unclaimed = Vec::new();
        for same in state.parked.values_mut() {
            while let Some((lease, _)) = same.pop_front_if(|(_, until)| *until <= now) {
                unclaimed.push(lease);
            }
        }
        state.parked.retain(|_, same| !same.is_empty());
        drop(state);
        // A lease that is dropped takes the lock that was held.
        drop(unclaimed);
    }

    async fn tell_released(&self) {
        let released = std::mem::take(&mut self.state().released);
        if !released.is_empty()
            && let Err(error) = self.0.store.release(released).await
        {
            tracing::debug!(%error, "leases that were given back expire by themselves");
        }
    }

    fn meter_time(&self, now: Instant) {
        let mut state = self.state();
        let live: Vec<_> = state.live.values().cloned().collect();
        for held in live {
            state.lived(&held, now);
        }
    }

    async fn renew(&self, now: Instant) {
        let renewals = self.renewals(now);
        if !renewals.is_empty()
            && let Err(error) = self.0.store.renew(renewals).await
        {
            tracing::debug!(%error, "leases are renewed next time");
        }
    }

    /// What the store is to know of every live call.
    fn renewals(&self, now: Instant) -> Vec<LeaseRenewal> {
        let plan = self.plan();
        let config = &plan.config;
        let state = self.state();
        for account in state.accounts() {
            let metrics = self.0.metrics.usage();
            metrics.deployment_used(account.name(), account.lock().pressure(now));
        }
        let forecasts = config.admission == Admission::Forecast;
        state
            .live
            .values()
            .map(|held| {
                let mean_minutes = state.mean_minutes(&held.kind);
                held.reckon(mean_minutes, now);
                let demand = forecasts.then(|| group(held, mean_minutes, now));
                held.renewal(config.lease_life, demand)
            })
            .filter(|renewal| !renewal.counted.is_empty() || !renewal.demands.is_empty())
            .collect()
    }

    /// Tells the store what was used, and calls what is left of their budgets.
    async fn tell_spends(&self, now: Instant) {
        let spends = std::mem::take(&mut self.state().spends);
        if spends.is_empty() {
            return;
        }
        let (names, spends): (Vec<_>, Vec<Spend>) = spends.into_iter().unzip();
        let totals = match self.0.store.spend(spends.clone()).await {
            Ok(totals) => totals,
            Err(error) => {
                tracing::debug!(%error, "what was used is told next time");
                return self.state().spend(spends);
            }
        };
        let totals: HashMap<Arc<str>, Totals> = names.into_iter().zip(totals).collect();
        let state = self.state();
        for held in state.live.values() {
            for (name, budget, limit) in &held.budgets {
                if let Some(totals) = totals.get(name) {
                    let left = || state.time_left(held, *budget, limit - totals.held, now);
                    self.tell_call(held, *budget, totals.held / limit, left);
                }
            }
        }
    }

    /// Looks after what each call has by itself.
    fn watch_calls(&self, now: Instant) {
        let state = self.state();
        for held in state.live.values() {
            if state.blocked.contains(&held.tenant) {
                self.tell_call(held, Budget::Blocked, 1.0, || Duration::ZERO);
            }
            if let Some(longest) = held.limits.max_call {
                let age = held.state().forecast.age(now);
                let used = age.as_secs_f64() / longest.as_secs_f64();
                self.tell_call(held, Budget::MaxCall, used, || longest.saturating_sub(age));
            }
        }
    }

    fn tell_call(&self, held: &Held, budget: Budget, used: f64, left: impl FnOnce() -> Duration) {
        if !held.is_news(budget, used) {
            return;
        }
        let (notice, kind) = if used >= 1.0 {
            (Notice::Over { budget }, "over")
        } else {
            let left = left();
            (Notice::Warning { budget, left }, "warning")
        };
        held.tell(notice);
        let metrics = self.0.metrics.usage();
        metrics.noticed(&held.tenant, budget.name(), kind);
    }

    /// Compares the minute that is over with what was expected of it, and says what is expected of the next.
    fn begin_minute(&self, now: Instant) {
        let mut state = self.state();
        for (pool, (expected, used)) in std::mem::take(&mut state.minute.pools) {
            self.0.metrics.usage().minute(&pool, expected, used);
        }
        state.minute.number += 1;
        let number = state.minute.number;
        let live: Vec<_> = state.live.values().cloned().collect();
        for held in live {
            held.state().minute = number;
            let expected = state.expected(&held, now);
            let pool = Arc::from(held.pool.name());
            state.minute.pools.entry(pool).or_default().0 += expected;
        }
    }
}

impl State {
    /// How long a budget lasts of which so much is left, if the calls that use it go on as they do.
    fn time_left(&self, held: &Held, budget: Budget, left: f64, now: Instant) -> Duration {
        let same = self.live.values().filter(|other| match budget {
            Budget::CallerMinutesPerDay => {
                let own = |held: &Held| held.budgets.iter().any(|it| it.1 == budget);
                own(other) && other.names.caller_is(&held.names)
            }
            Budget::TokensPerDay | Budget::MinutesPerDay | Budget::MaxCall | Budget::Blocked => {
                other.tenant == held.tenant
            }
        });
        let a_minute: f64 = match budget {
            Budget::TokensPerDay => same
                .map(|other| {
                    let mean = self.mean_minutes(&other.kind);
                    other.state().forecast.demand(mean, now).now
                })
                .sum(),
            _ => same.count() as f64,
        };
        Duration::try_from_secs_f64((left.max(0.0) / a_minute.max(1e-3)) * 60.0)
            .unwrap_or(Duration::MAX)
            .min(super::tenants::DAY)
    }
}
