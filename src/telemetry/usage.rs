//! What was used, by whom and for how much, and what quota decided.

use prometheus::{CounterVec, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::catalogue;
use super::metrics::{Direction, Modality};

/// The series of usage and quota. Tenants, deployments and pools are those of the configuration.
#[derive(Debug)]
pub struct UsageMetrics {
    tokens: IntCounterVec,
    cost: CounterVec,
    refused: IntCounterVec,
    notices: IntCounterVec,
    forecast_error: HistogramVec,
    pool_expected: GaugeVec,
    deployment_used: GaugeVec,
    leases: IntGaugeVec,
}

impl UsageMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            tokens: catalogue::USAGE_TOKENS.int_counters(registry),
            cost: catalogue::USAGE_COST.counters(registry),
            refused: catalogue::QUOTA_REFUSED_CALLS.int_counters(registry),
            notices: catalogue::BUDGET_NOTICES.int_counters(registry),
            forecast_error: catalogue::FORECAST_ERROR.histograms(registry),
            pool_expected: catalogue::POOL_EXPECTED.gauges(registry),
            deployment_used: catalogue::DEPLOYMENT_USED.gauges(registry),
            leases: catalogue::QUOTA_LEASES.int_gauges(registry),
        }
    }

    /// Tokens were billed.
    pub fn tokens(
        &self,
        (tenant, deployment): (&str, &str),
        direction: Direction,
        modality: Modality,
        cached: bool,
        n: u64,
    ) {
        if n == 0 {
            return;
        }
        let direction = match direction {
            Direction::ToModel => "input",
            Direction::ToCaller => "output",
        };
        let cached = if cached { "true" } else { "false" };
        self.tokens
            .with_label_values(&[tenant, deployment, direction, modality.name(), cached])
            .inc_by(n);
    }

    /// Tokens cost so much.
    pub fn cost(&self, (tenant, deployment): (&str, &str), currency: &str, cost: f64) {
        if cost > 0.0 {
            self.cost
                .with_label_values(&[tenant, deployment, currency])
                .inc_by(cost);
        }
    }

    /// A call was refused for that reason, a closed name.
    pub fn refused(&self, tenant: &str, reason: &'static str) {
        self.refused.with_label_values(&[tenant, reason]).inc();
    }

    /// A live call was told of a budget: `warning` or `over`.
    pub fn noticed(&self, tenant: &str, budget: &'static str, kind: &'static str) {
        self.notices
            .with_label_values(&[tenant, budget, kind])
            .inc();
    }

    /// What was expected of a minute and what was used in it, in tokens.
    pub fn minute(&self, pool: &str, expected: f64, used: f64) {
        if used > 0.0 {
            self.forecast_error
                .with_label_values(&[pool])
                .observe((expected - used).abs() / used);
        }
    }

    /// The highest demand that is expected of a pool, as a share of what it may carry.
    pub fn pool_expected(&self, pool: &str, share: f64) {
        self.pool_expected.with_label_values(&[pool]).set(share);
    }

    /// The process holds one more right to call at a pool, or one less.
    pub fn leased(&self, pool: &str, change: i64) {
        self.leases.with_label_values(&[pool]).add(change);
    }

    /// So much of a deployment's quota is used.
    pub fn deployment_used(&self, deployment: &str, share: f64) {
        self.deployment_used
            .with_label_values(&[deployment])
            .set(share);
    }

    /// There is no such deployment any more.
    pub fn forget_deployment(&self, deployment: &str) {
        // There may be no such series.
        let _ = self.deployment_used.remove_label_values(&[deployment]);
    }
}
