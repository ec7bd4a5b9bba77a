//! What became of the spans of calls.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::catalogue;
use super::labels;

/// The series of traces.
#[derive(Debug)]
pub struct TraceMetrics {
    exported: IntCounter,
    dropped: IntCounterVec,
    retried: IntCounterVec,
    contexts: IntCounterVec,
    queued: IntGauge,
}

impl TraceMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let metrics = Self {
            exported: catalogue::SPANS_EXPORTED.int_counter(registry),
            dropped: catalogue::SPANS_DROPPED.int_counters(registry),
            retried: catalogue::TRACE_RETRIES.int_counters(registry),
            contexts: catalogue::TRACE_CONTEXTS.int_counters(registry),
            queued: catalogue::SPANS_QUEUED.int_gauge(registry),
        };
        // A counter that begins at one has not increased, for who looks at it by `increase`.
        for cause in labels::SPAN_DROPS {
            metrics.dropped.with_label_values(&[cause]);
        }
        metrics
    }

    /// A collector has taken so many spans.
    pub fn exported(&self, n: u64) {
        self.exported.inc_by(n);
    }

    /// So many spans are nowhere any more; `cause` is from a closed set.
    pub fn dropped(&self, cause: &'static str, n: u64) {
        self.dropped.with_label_values(&[cause]).inc_by(n);
    }

    /// An attempt failed that is to be repeated; `cause` is from a closed set.
    pub fn retried(&self, cause: &'static str) {
        self.retried.with_label_values(&[cause]).inc();
    }

    /// A request told whose trace it belongs to, in the right form or not.
    pub fn context(&self, is_good: bool) {
        let outcome = if is_good { "read" } else { "malformed" };
        self.contexts.with_label_values(&[outcome]).inc();
    }

    /// So many spans wait to be sent.
    pub fn queued(&self, n: usize) {
        self.queued.set(i64::try_from(n).unwrap_or(i64::MAX));
    }
}
