//! A histogram for each measure, as JSON that can be added to another run's.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Measure;

/// Three digits from a microsecond to an hour; what is longer counts as an hour.
const DIGITS: u8 = 3;
const LONGEST_US: u64 = 3_600_000_000;

/// A histogram that is read has no more, so that thousands can be added up.
const MOST_VALUES: u64 = 1 << 50;

/// A histogram for each measure that has values.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    all: BTreeMap<Measure, Histogram<u64>>,
}

/// A histogram as it stands in a report. Summaries are there to be read; the buckets say everything, and are what
/// other programs, and `merge`, read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Of all values: microseconds.
    pub unit: String,
    /// Values.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// Their mean.
    pub mean: f64,
    /// By name, p50 to p99.9.
    pub quantiles: BTreeMap<String, u64>,
    /// The largest.
    pub max: u64,
    /// A value of each bucket that is not empty, and how many there are.
    pub buckets: Vec<(u64, u64)>,
}

/// What reports show.
pub(crate) const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.9", 0.999),
];

impl Measures {
    /// One more value, in microseconds.
    pub fn record(&mut self, measure: Measure, us: u64) {
        self.record_n(measure, us, 1);
    }

    fn record_n(&mut self, measure: Measure, us: u64, n: u64) {
        let histogram = self.all.entry(measure).or_insert_with(|| {
            Histogram::new_with_bounds(1, LONGEST_US, DIGITS)
                .expect("the bounds are good ones, a test makes one")
        });
        let within = us.clamp(1, LONGEST_US);
        histogram
            .record_n(within, n)
            .expect("the value is within the bounds");
    }

    /// Adds what another has.
    pub fn add(&mut self, other: &Self) {
        for (measure, histogram) in &other.all {
            match self.all.get_mut(measure) {
                Some(own) => own.add(histogram).expect("all have the same bounds"),
                None => {
                    self.all.insert(*measure, histogram.clone());
                }
            }
        }
    }

    /// A quantile in microseconds; none without values.
    #[must_use]
    pub fn quantile(&self, measure: Measure, quantile: f64) -> Option<u64> {
        let histogram = self.all.get(&measure).filter(|it| !it.is_empty())?;
        Some(histogram.value_at_quantile(quantile).min(histogram.max()))
    }

    /// Values of a measure.
    #[must_use]
    pub fn count(&self, measure: Measure) -> u64 {
        self.all.get(&measure).map_or(0, Histogram::len)
    }

    /// Those that have values, in the order of reports.
    pub fn iter(&self) -> impl Iterator<Item = (Measure, Measured)> {
        self.all
            .iter()
            .filter(|(_, it)| !it.is_empty())
            .map(|(measure, it)| (*measure, measured(it)))
    }
}

fn measured(histogram: &Histogram<u64>) -> Measured {
    let quantile = |(name, at): (&str, f64)| {
        let value = histogram.value_at_quantile(at).min(histogram.max());
        (name.to_owned(), value)
    };
    Measured {
        unit: "us".to_owned(),
        count: histogram.len(),
        min: histogram.min(),
        mean: histogram.mean(),
        quantiles: QUANTILES.into_iter().map(quantile).collect(),
        max: histogram.max(),
        buckets: histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect(),
    }
}

impl Serialize for Measures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Measures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = BTreeMap::<Measure, Measured>::deserialize(deserializer)?;
        let mut measures = Self::default();
        for (measure, it) in read {
            let n_values = it
                .buckets
                .iter()
                .try_fold(0u64, |sum, (_, n)| sum.checked_add(*n));
            if n_values.is_none_or(|n| n > MOST_VALUES) {
                return Err(D::Error::custom(format_args!(
                    "{measure} has too many values"
                )));
            }
            for (value, n) in it.buckets {
                measures.record_n(measure, value, n);
            }
        }
        Ok(measures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_added() {
        let mut measures = Measures::default();
        for us in [1, 500, 1_000, 70_000, 5_000_000_000] {
            measures.record(Measure::TurnLatency, us);
        }
        measures.record(Measure::Connect, 0);
        let text = serde_json::to_string(&measures).unwrap();
        let mut read: Measures = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        read.add(&measures);
        assert_eq!(read.count(Measure::TurnLatency), 10);
        assert_eq!(read.quantile(Measure::TurnLatency, 0.5), Some(1_000));
        assert_eq!(read.quantile(Measure::Underrun, 0.5), None);
    }
}
