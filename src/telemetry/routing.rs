//! Which deployments are asked, how they fare, and what stands by.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::catalogue;

/// The series of routing.
#[derive(Debug)]
pub struct RoutingMetrics {
    sessions: IntGaugeVec,
    conditions: IntGaugeVec,
    drained: IntGaugeVec,
    ejections: IntCounterVec,
    choices: IntCounterVec,
    hedges: IntCounterVec,
    retries: IntCounterVec,
    budget: IntCounterVec,
    dns: IntCounterVec,
    waiting: IntGaugeVec,
    standby: IntCounterVec,
    retired: IntCounterVec,
}

impl RoutingMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            sessions: catalogue::DEPLOYMENT_SESSIONS.int_gauges(registry),
            conditions: catalogue::DEPLOYMENT_CONDITION.int_gauges(registry),
            drained: catalogue::DEPLOYMENT_DRAINED.int_gauges(registry),
            ejections: catalogue::POOL_EJECTIONS.int_counters(registry),
            choices: catalogue::DIAL_CHOICES.int_counters(registry),
            hedges: catalogue::HEDGES.int_counters(registry),
            retries: catalogue::DIAL_RETRIES.int_counters(registry),
            budget: catalogue::RETRY_BUDGET_EXHAUSTED.int_counters(registry),
            dns: catalogue::DNS_FALLBACKS.int_counters(registry),
            waiting: catalogue::STANDBY_SESSIONS.int_gauges(registry),
            standby: catalogue::STANDBY.int_counters(registry),
            retired: catalogue::STANDBY_RETIRED.int_counters(registry),
        }
    }

    /// One more call uses a session there, or one less.
    pub fn session(&self, deployment: &str, change: i64) {
        self.sessions.with_label_values(&[deployment]).add(change);
    }

    /// A deployment is in this of all conditions, closed names.
    pub fn condition(&self, deployment: &str, all: &[&'static str], current: &'static str) {
        for name in all {
            self.conditions
                .with_label_values(&[deployment, name])
                .set(i64::from(*name == current));
        }
    }

    /// An operator wants no session to be opened there, or wants it again.
    pub fn drained(&self, deployment: &str, is_drained: bool) {
        let drained = self.drained.with_label_values(&[deployment]);
        drained.set(i64::from(is_drained));
    }

    /// There is no deployment of that name any more, or another one: what it was seen in says nothing now.
    pub fn forget_condition(&self, deployment: &str, all: &[&'static str]) {
        for name in all {
            // There may be no such series.
            let _ = self.conditions.remove_label_values(&[deployment, name]);
        }
        let _ = self.drained.remove_label_values(&[deployment]);
    }

    /// A deployment was left out of a pool.
    pub fn ejected(&self, pool: &str, deployment: &str) {
        self.ejections.with_label_values(&[pool, deployment]).inc();
    }

    /// A deployment was asked for a session.
    pub fn chosen(&self, pool: &str, deployment: &str, reason: &'static str) {
        self.choices
            .with_label_values(&[pool, deployment, reason])
            .inc();
    }

    /// A second dial beside a slow first one came to this.
    pub fn hedged(&self, pool: &str, outcome: &'static str) {
        self.hedges.with_label_values(&[pool, outcome]).inc();
    }

    /// A dial after a failed one came to this.
    pub fn retried(&self, pool: &str, outcome: &'static str) {
        self.retries.with_label_values(&[pool, outcome]).inc();
    }

    /// There was no budget for one more dial.
    pub fn budget_exhausted(&self, pool: &str) {
        self.budget.with_label_values(&[pool]).inc();
    }

    /// A name could not be looked up.
    pub fn dns_fell_back(&self, deployment: &str) {
        self.dns.with_label_values(&[deployment]).inc();
    }

    /// So many sessions stand by for an agent.
    pub fn waiting(&self, pool: &str, agent: &str, n: usize) {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.waiting.with_label_values(&[pool, agent]).set(n);
    }

    /// A call asked for a session of a pool with standby.
    pub fn standby(&self, pool: &str, outcome: &'static str) {
        self.standby.with_label_values(&[pool, outcome]).inc();
    }

    /// A session that stood by was closed unused.
    pub fn standby_retired(&self, pool: &str, reason: &'static str) {
        self.retired.with_label_values(&[pool, reason]).inc();
    }
}
