//! What becomes of connections before they are calls, and what the process has left.

use std::time::Duration;

use prometheus::{Gauge, GaugeVec, IntCounterVec, Registry};

use super::metrics::{counters, opts, register};

/// The series of the door.
#[derive(Debug)]
pub struct DoorMetrics {
    ended: IntCounterVec,
    shedding: GaugeVec,
    loop_lag: Gauge,
    memory: Gauge,
    descriptors: Gauge,
    tls_reloads: IntCounterVec,
}

impl DoorMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name, help| register(registry, Gauge::with_opts(opts(name, help)));
        Self {
            ended: counters(
                registry,
                "trunkline_connections_ended_total",
                "Connections that were ended before they became a call.",
                &["reason"],
            ),
            shedding: register(
                registry,
                GaugeVec::new(
                    opts(
                        "trunkline_shedding",
                        "1 while new calls are refused for this reason.",
                    ),
                    &["reason"],
                ),
            ),
            loop_lag: gauge(
                "trunkline_loop_lag_seconds",
                "How late tasks wake up: 99th percentile over 2 s.",
            ),
            memory: gauge(
                "trunkline_memory_used_ratio",
                "Share of the control group's memory that is used; 0 without a limit.",
            ),
            descriptors: gauge(
                "trunkline_descriptors_left",
                "File descriptors that the process may still open.",
            ),
            tls_reloads: counters(
                registry,
                "trunkline_tls_reloads_total",
                "Changed certificate files of the listener, by whether they could be taken.",
                &["outcome"],
            ),
        }
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
