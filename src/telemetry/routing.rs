//! Which deployments are asked, how they fare, and what stands by.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::metrics::{counters, opts, register};

/// The series of routing.
#[derive(Debug)]
pub struct RoutingMetrics {
    sessions: IntGaugeVec,
    conditions: IntGaugeVec,
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
        let gauges = |name, help, labels: &[&str]| {
            register(registry, IntGaugeVec::new(opts(name, help), labels))
        };
        let counters = |name, help, labels: &[&str]| counters(registry, name, help, labels);
        Self {
            sessions: gauges(
                "trunkline_deployment_sessions",
                "Sessions that calls use at a deployment.",
                &["deployment"],
            ),
            conditions: gauges(
                "trunkline_deployment_condition",
                "1 for the condition that a deployment was last seen in.",
                &["deployment", "condition"],
            ),
            ejections: counters(
                "trunkline_pool_ejections_total",
                "Times that a deployment was left out of a pool because it failed more often than the others.",
                &["pool", "deployment"],
            ),
            choices: counters(
                "trunkline_dial_choices_total",
                "Sessions that were asked for, by what made the deployment the choice.",
                &["pool", "deployment", "reason"],
            ),
            hedges: counters(
                "trunkline_hedges_total",
                "Second dials beside a slow first one, by which of them won.",
                &["pool", "outcome"],
            ),
            retries: counters(
                "trunkline_dial_retries_total",
                "Dials after a failed one of the same call.",
                &["pool", "outcome"],
            ),
            budget: counters(
                "trunkline_retry_budget_exhausted_total",
                "Repeats and hedges that were not made because there had been too many.",
                &["pool"],
            ),
            dns: counters(
                "trunkline_dns_fallbacks_total",
                "Dials to an address known from before, because the name could not be looked up.",
                &["deployment"],
            ),
            waiting: gauges(
                "trunkline_standby_sessions",
                "Sessions that stand by for a call.",
                &["pool", "agent"],
            ),
            standby: counters(
                "trunkline_standby_total",
                "Calls that asked for a session of a pool with standby, by whether one was there.",
                &["pool", "outcome"],
            ),
            retired: counters(
                "trunkline_standby_retired_total",
                "Sessions that stood by and were closed unused.",
                &["pool", "reason"],
            ),
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

    /// There is no deployment of that name any more, or another one: what it was seen in says nothing now.
    pub fn forget_condition(&self, deployment: &str, all: &[&'static str]) {
        for name in all {
            // There may be no such series.
            let _ = self.conditions.remove_label_values(&[deployment, name]);
        }
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
