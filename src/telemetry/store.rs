//! The store of counts and leases that replicas share.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::catalogue;
use super::labels;

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
            seconds: catalogue::STORE_SECONDS.histograms(registry),
            errors: catalogue::STORE_ERRORS.int_counters(registry),
            fallbacks: catalogue::STORE_FALLBACKS.int_counters(registry),
            lost: catalogue::STORE_LOST.int_counters(registry),
            up: catalogue::STORE_UP.int_gauges(registry),
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
        let kind = if labels::STORE_ERROR.allows(kind) {
            kind
        } else {
            "other"
        };
        self.errors.with_label_values(&[kind]).inc();
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
