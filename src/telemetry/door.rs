//! What becomes of connections before they are calls, and what the process has left.

use std::time::Duration;

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Registry};

use super::catalogue;

/// The series of the door.
#[derive(Debug)]
pub struct DoorMetrics {
    calls_limit: Gauge,
    ended: IntCounterVec,
    shedding: GaugeVec,
    loop_lag: Gauge,
    stalls: IntCounter,
    stalled: Gauge,
    memory: Gauge,
    descriptors: Gauge,
    tls_reloads: IntCounterVec,
}

impl DoorMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            calls_limit: catalogue::CALLS_LIMIT.gauge(registry),
            ended: catalogue::CONNECTIONS_ENDED.int_counters(registry),
            shedding: catalogue::SHEDDING.gauges(registry),
            loop_lag: catalogue::LOOP_LAG.gauge(registry),
            stalls: catalogue::STALLS.int_counter(registry),
            stalled: catalogue::STALLED_THREADS.gauge(registry),
            memory: catalogue::MEMORY_USED.gauge(registry),
            descriptors: catalogue::DESCRIPTORS_LEFT.gauge(registry),
            tls_reloads: catalogue::TLS_RELOADS.int_counters(registry),
        }
    }

    /// The process takes so many calls at a time.
    pub fn calls_limit(&self, calls: u32) {
        self.calls_limit.set(calls.into());
    }

    /// A connection was ended; `reason` is from a closed set.
    pub fn ended(&self, reason: &'static str) {
        self.ended.with_label_values(&[reason]).inc();
    }

    /// What was measured; what could not be stays as it is.
    pub fn load(&self, loop_lag: Option<Duration>, memory: Option<f64>, descriptors: Option<u64>) {
        if let Some(lag) = loop_lag {
            self.loop_lag.set(lag.as_secs_f64());
        }
        if let Some(used) = memory {
            self.memory.set(used);
        }
        if let Some(left) = descriptors {
            self.descriptors.set(left as f64);
        }
    }

    /// A thread gets nowhere, or goes on again.
    pub fn stalled(&self, is_stalled: bool) {
        if is_stalled {
            self.stalls.inc();
            self.stalled.inc();
        } else {
            self.stalled.dec();
        }
    }

    /// Whether new calls are refused for that reason.
    pub fn shedding(&self, reason: &'static str, is_on: bool) {
        let gauge = self.shedding.with_label_values(&[reason]);
        gauge.set(f64::from(u8::from(is_on)));
    }

    /// Changed certificate files were taken, or were not.
    pub fn tls_reloaded(&self, is_good: bool) {
        let outcome = if is_good { "taken" } else { "refused" };
        self.tls_reloads.with_label_values(&[outcome]).inc();
    }
}
