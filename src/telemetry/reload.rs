//! What became of changed configurations.

use prometheus::{Gauge, IntCounterVec, Registry};

use super::catalogue;

/// The series of reloads.
#[derive(Debug)]
pub struct ReloadMetrics {
    reloads: IntCounterVec,
    success: Gauge,
    applied_at: Gauge,
}

impl ReloadMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let metrics = Self {
            reloads: catalogue::CONFIG_RELOADS.int_counters(registry),
            success: catalogue::CONFIG_LAST_RELOAD_SUCCESS.gauge(registry),
            applied_at: catalogue::CONFIG_LAST_RELOAD.gauge(registry),
        };
        for outcome in ["applied", "unchanged", "failed"] {
            metrics.reloads.with_label_values(&[outcome]);
        }
        // Nobody serves by one that is not good.
        metrics.success.set(1.0);
        metrics
    }

    /// A configuration came into force at that time, in seconds since 1970: the first one.
    pub fn began(&self, at: f64) {
        self.applied_at.set(at);
    }

    /// A changed configuration is in force since that time, in seconds since 1970.
    pub fn applied(&self, at: f64) {
        self.told("applied", true);
        self.applied_at.set(at);
    }

    /// Somebody asked for what is in force already.
    pub fn unchanged(&self) {
        self.told("unchanged", true);
    }

    /// A changed configuration cannot be used; the old one stays in force.
    pub fn failed(&self) {
        self.told("failed", false);
    }

    /// What could not be used is gone, without another in its place.
    pub fn recovered(&self) {
        self.success.set(1.0);
    }

    fn told(&self, outcome: &'static str, is_good: bool) {
        self.reloads.with_label_values(&[outcome]).inc();
        self.success.set(f64::from(u8::from(is_good)));
    }
}
