//! The traces that stand for what histograms counted: for each bucket the last one that was sampled.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::trace_context::TraceId;

/// One observation and whose it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace: TraceId,
    pub(super) value: f64,
    /// After 1970.
    pub(super) at: Duration,
}

/// What series of a histogram: the family's name and the value of its only label.
type Series = (&'static str, String);

/// All of them. Written once a sampled turn, read by scrapers; as many as there are buckets.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<BTreeMap<Series, Vec<Option<Exemplar>>>>);

impl Exemplars {
    /// That trace's call was `value`, among buckets with these upper bounds.
    pub(super) fn observe(
        &self,
        (family, label): (&'static str, &str),
        bounds: &[f64],
        value: f64,
        trace: TraceId,
    ) {
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let bucket = bounds.partition_point(|bound| *bound < value);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = all
            .entry((family, label.to_owned()))
            .or_insert_with(|| vec![None; bounds.len() + 1]);
        buckets[bucket] = Some(Exemplar { trace, value, at });
    }

    /// The one of that bucket, counted from the lowest.
    pub(super) fn of(&self, family: &str, label: &str, bucket: usize) -> Option<Exemplar> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = all
            .iter()
            .find(|((name, of), _)| *name == family && of == label);
        series.and_then(|(_, buckets)| buckets.get(bucket).copied().flatten())
    }
}
