//! What became of the records of calls.

use prometheus::{Gauge, IntCounterVec, IntGauge, Registry};

use super::catalogue;
use super::labels;

/// The series of call records.
#[derive(Debug)]
pub struct RecordMetrics {
    delivered: IntCounterVec,
    retried: IntCounterVec,
    failed: IntCounterVec,
    dropped: IntCounterVec,
    taken_over: IntCounterVec,
    queued: IntGauge,
    spooled: IntGauge,
    spool_bytes: IntGauge,
    oldest: Gauge,
}

impl RecordMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let metrics = Self {
            delivered: catalogue::RECORDS_DELIVERED.int_counters(registry),
            retried: catalogue::RECORDS_RETRIED.int_counters(registry),
            failed: catalogue::RECORDS_FAILED.int_counters(registry),
            dropped: catalogue::RECORDS_DROPPED.int_counters(registry),
            taken_over: catalogue::RECORDS_TAKEN_OVER.int_counters(registry),
            queued: catalogue::RECORDS_QUEUED.int_gauge(registry),
            spooled: catalogue::RECORDS_SPOOLED.int_gauge(registry),
            spool_bytes: catalogue::RECORDS_SPOOL_BYTES.int_gauge(registry),
            oldest: catalogue::RECORDS_OLDEST.gauge(registry),
        };
        // A counter that begins at one has not increased, for who looks at it by `increase`.
        for cause in labels::RECORD_FAILURES {
            metrics.failed.with_label_values(&[cause]);
        }
        for cause in labels::RECORD_DROPS {
            metrics.dropped.with_label_values(&[cause]);
        }
        for outcome in labels::RECORD_TAKE_OVERS {
            metrics.taken_over.with_label_values(&[outcome]);
        }
        metrics
    }

    /// A record is where it was to go: `log`, `file` or `webhook`.
    pub fn delivered(&self, sink: &'static str) {
        self.delivered.with_label_values(&[sink]).inc();
    }

    /// An attempt failed that is to be repeated; `cause` is from a closed set.
    pub fn retried(&self, cause: &'static str) {
        self.retried.with_label_values(&[cause]).inc();
    }

    /// A record was refused or could not be written; `cause` is from a closed set.
    pub fn failed(&self, cause: &'static str) {
        self.failed.with_label_values(&[cause]).inc();
    }

    /// A record is nowhere any more; `cause` is from a closed set.
    pub fn dropped(&self, cause: &'static str) {
        self.dropped.with_label_values(&[cause]).inc();
    }

    /// A replica was taken for lost: its call's record was `written` here, or this one's own is `superseded`.
    pub fn taken_over(&self, outcome: &'static str) {
        self.taken_over.with_label_values(&[outcome]).inc();
    }

    /// So many wait for the task that delivers.
    pub fn queued(&self, n: usize) {
        self.queued.set(gauge(n as u64));
    }

    /// So many wait in the spool, with so many bytes; the oldest since then, in milliseconds since 1970.
    pub fn spooled(&self, n: usize, bytes: u64, oldest_ms: Option<u64>) {
        self.oldest.set(oldest_ms.map_or(0.0, |ms| ms as f64 / 1e3));
        self.spooled.set(gauge(n as u64));
        self.spool_bytes.set(gauge(bytes));
    }
}

fn gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
