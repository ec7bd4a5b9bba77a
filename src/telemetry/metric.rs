//! What is known of a metric before anything is counted: its name, kind, unit, labels and meaning.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry,
};

/// What is known of a metric before anything is counted.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name of its family of series.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What its values are in.
    pub unit: Unit,
    /// What its series are told apart by.
    pub labels: &'static [Label],
    /// A sentence for people.
    pub help: &'static str,
}

/// How a metric's values behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts observations, by these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The name that Prometheus has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a metric's values are in: a base unit, by which its name ends, or things of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds of time or of audio.
    Seconds,
    /// Seconds since 1970.
    Timestamp,
    /// Bytes.
    Bytes,
    /// A share: 1 is all of it.
    Ratio,
    /// So many of these.
    Count(&'static str),
    /// 1 for yes, 0 for no.
    Flag,
}

impl Unit {
    /// The unit in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Timestamp => "seconds since 1970",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
            Self::Count(what) => what,
            Self::Flag => "0 or 1",
        }
    }
}

/// What a metric's series are told apart by.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub values: Values,
}

/// What a label may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    Closed(&'static [&'static str]),
    /// What this says: names of the configuration or of the build, of which nobody outside makes any.
    Names(&'static str),
}

impl Label {
    /// Whether it may say that.
    #[must_use]
    pub fn allows(&self, value: &str) -> bool {
        match self.values {
            Values::Closed(all) => all.contains(&value),
            Values::Names(_) => true,
        }
    }
}

pub(super) const fn closed(name: &'static str, values: &'static [&'static str]) -> Label {
    Label {
        name,
        values: Values::Closed(values),
    }
}

pub(super) const fn names(name: &'static str, of: &'static str) -> Label {
    Label {
        name,
        values: Values::Names(of),
    }
}

impl Metric {
    pub(super) fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    pub(super) fn int_counters(&self, registry: &Registry) -> IntCounterVec {
        register(
            registry,
            IntCounterVec::new(self.opts(), &self.label_names()),
        )
    }

    pub(super) fn counters(&self, registry: &Registry) -> CounterVec {
        register(registry, CounterVec::new(self.opts(), &self.label_names()))
    }

    pub(super) fn int_counter(&self, registry: &Registry) -> IntCounter {
        register(registry, IntCounter::with_opts(self.opts()))
    }

    pub(super) fn int_gauges(&self, registry: &Registry) -> IntGaugeVec {
        register(registry, IntGaugeVec::new(self.opts(), &self.label_names()))
    }

    pub(super) fn gauges(&self, registry: &Registry) -> GaugeVec {
        register(registry, GaugeVec::new(self.opts(), &self.label_names()))
    }

    pub(super) fn int_gauge(&self, registry: &Registry) -> IntGauge {
        register(registry, IntGauge::with_opts(self.opts()))
    }

    pub(super) fn gauge(&self, registry: &Registry) -> Gauge {
        register(registry, Gauge::with_opts(self.opts()))
    }

    fn buckets(&self) -> HistogramOpts {
        let bounds = match self.kind {
            Kind::Histogram(bounds) => bounds.to_vec(),
            Kind::Counter | Kind::Gauge => Vec::new(),
        };
        HistogramOpts::new(self.name, self.help).buckets(bounds)
    }

    pub(super) fn histograms(&self, registry: &Registry) -> HistogramVec {
        register(
            registry,
            HistogramVec::new(self.buckets(), &self.label_names()),
        )
    }

    pub(super) fn histogram(&self, registry: &Registry) -> Histogram {
        register(registry, Histogram::with_opts(self.buckets()))
    }
}

pub(super) fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("names and labels are constants");
    registry
        .register(Box::new(metric.clone()))
        .expect("each name is registered once");
    metric
}
