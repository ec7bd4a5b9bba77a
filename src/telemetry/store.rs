//! The store of counts and leases that replicas share.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::metrics::{counters, histograms, opts, register};

/// Buckets from 0.1 ms to 1 s: one round trip to a store nearby, up to where it is given up.
const ROUND_TRIP_BUCKETS: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0,
];

/// The first words of errors that get a series of their own; any other is counted as `other`, because the text comes
/// from outside.
const ERRORS: &[&str] = &[
    "AUTH",
    "BUSY",
    "CLUSTERDOWN",
    "ERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "WRONGPASS",
    "WRONGTYPE",
    "timeout",
    "unreachable",
];

/// The series of the shared store.
#[derive(Debug)]
pub struct StoreMetrics {
    seconds: HistogramVec,
    errors: IntCounterVec,
    fallbacks: IntCounterVec,
    lost: IntCounterVec,
    up: IntGaugeVec,
}

impl StoreMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            seconds: histograms(
                registry,
                "trunkline_store_seconds",
                "Time that an answer of the shared store took, errors included, by operation.",
                &["operation"],
                ROUND_TRIP_BUCKETS,
            ),
            errors: counters(
                registry,
                "trunkline_store_errors_total",
                "Operations that the shared store did not do, by the first word of its answer.",
                &["kind"],
            ),
            fallbacks: counters(
                registry,
                "trunkline_store_fallbacks_total",
                "Operations that were decided in this process because the shared store could not say.",
                &["operation"],
            ),
            lost: counters(
                registry,
                "trunkline_store_lost_total",
                "What was to be told to the shared store when it is back, and was too much to remember.",
                &["kind"],
            ),
            up: register(
                registry,
                IntGaugeVec::new(
                    opts("trunkline_store_up", "1 while the shared store answers."),
                    &["store"],
                ),
            ),
        }
    }

    /// The store answered; `operation` is from a closed set.
    pub fn answered(&self, operation: &'static str, after: Duration) {
        self.seconds
            .with_label_values(&[operation])
            .observe(after.as_secs_f64());
    }

    /// The store did not do something.
    pub fn failed(&self, kind: &str) {
        let known = ERRORS.iter().find(|known| **known == kind);
        self.errors
            .with_label_values(&[known.copied().unwrap_or("other")])
            .inc();
    }

    /// Something was decided here; `operation` is from a closed set.
    pub fn fell_back(&self, operation: &'static str) {
        self.fallbacks.with_label_values(&[operation]).inc();
    }

    /// Something will never be told to the store; `kind` is from a closed set.
    pub fn lost(&self, kind: &'static str, how_many: u64) {
        self.lost.with_label_values(&[kind]).inc_by(how_many);
    }

    /// Whether the store answers.
    pub fn up(&self, is_up: bool) {
        self.up.with_label_values(&["redis"]).set(i64::from(is_up));
    }
}
