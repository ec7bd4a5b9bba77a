//! What was used, by whom and for how much, and what quota decided.

use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Registry};

use super::metrics::{Direction, Modality, counters, opts, register};

/// Buckets from 1 % to three times as much: how far a forecast was off.
const ERROR_BUCKETS: &[f64] = &[
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0,
];

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
}

impl UsageMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauges = |name, help, labels: &[&str]| {
            register(registry, GaugeVec::new(opts(name, help), labels))
        };
        Self {
            tokens: counters(
                registry,
                "trunkline_usage_tokens_total",
                "Tokens as billed by the deployment.",
                &["tenant", "deployment", "direction", "modality", "cached"],
            ),
            cost: register(
                registry,
                CounterVec::new(
                    opts(
                        "trunkline_usage_cost_total",
                        "What these tokens cost by the prices of the configuration.",
                    ),
                    &["tenant", "deployment", "currency"],
                ),
            ),
            refused: counters(
                registry,
                "trunkline_quota_refused_total",
                "Calls that were refused for a quota.",
                &["tenant", "reason"],
            ),
            notices: counters(
                registry,
                "trunkline_budget_notices_total",
                "Live calls that were told that a budget nears its end (warning) or is used up (over).",
                &["tenant", "budget", "kind"],
            ),
            forecast_error: register(
                registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "trunkline_forecast_error_ratio",
                        "What a pool's live calls used in a minute against what was expected at its beginning: the \
                         difference as a share of what was used.",
                    )
                    .buckets(ERROR_BUCKETS.to_vec()),
                    &["pool"],
                ),
            ),
            pool_expected: gauges(
                "trunkline_pool_expected_ratio",
                "The highest demand that a pool's live calls were expected to have when one was last admitted by \
                 forecast, as a share of what it may carry.",
                &["pool"],
            ),
            deployment_used: gauges(
                "trunkline_deployment_used_ratio",
                "How much of a deployment's quota is used; 1 and more while it refuses.",
                &["deployment"],
            ),
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
