//! Metrics as text of OpenMetrics 1.0, which is the one that has exemplars. Families in, text out.
//!
//! The same series as in the Prometheus text format, but for bounds of buckets, which OpenMetrics wants written as
//! floating-point numbers (`le="1.0"`).

use std::fmt::Write as _;

use prometheus::proto::{Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::Exemplars;

/// The media type of it.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Units by which families' names may end and that are told.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

/// Whether who asks with this `Accept` is to be answered so: those who name it are.
#[must_use]
pub fn wants_open_metrics(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_it = parts
            .next()
            .is_some_and(|it| it.eq_ignore_ascii_case("application/openmetrics-text"));
        let is_refused = |it: &str| {
            let quality = it.strip_prefix("q=").map(str::parse::<f64>);
            let version = it.strip_prefix("version=");
            quality.is_some_and(|it| it.is_ok_and(|it| it <= 0.0))
                || version.is_some_and(|it| !matches!(it, "1.0.0" | "0.0.1"))
        };
        is_it && !parts.any(is_refused)
    })
}

/// The text of these families.
pub(super) fn open_metrics(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a text cannot fail.
        let _ = write_family(&mut text, family, exemplars);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(
    out: &mut String,
    family: &MetricFamily,
    exemplars: &Exemplars,
) -> std::fmt::Result {
    let full = family.name();
    let (name, kind) = match family.get_field_type() {
        // Its samples are called `_total`, not the family.
        MetricType::COUNTER => (full.strip_suffix("_total").unwrap_or(full), "counter"),
        MetricType::GAUGE => (full, "gauge"),
        MetricType::HISTOGRAM => (full, "histogram"),
        MetricType::SUMMARY | MetricType::UNTYPED => (full, "unknown"),
    };
    writeln!(out, "# TYPE {name} {kind}")?;
    let unit = UNITS.iter().find(|unit| {
        let rest = name.strip_suffix(*unit);
        rest.is_some_and(|rest| rest.ends_with('_'))
    });
    if let Some(unit) = unit {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    writeln!(out, "# HELP {name} {}", escaped(family.help()))?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => {
                let value = metric.get_counter().get_value();
                write_sample(out, (name, "_total"), labels, None, value)?;
                out.push('\n');
            }
            MetricType::HISTOGRAM => write_histogram(out, name, metric, exemplars)?,
            MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                write_sample(
                    out,
                    (name, ""),
                    labels,
                    None,
                    metric.get_gauge().get_value(),
                )?;
                out.push('\n');
            }
        }
    }
    Ok(())
}

fn write_histogram(
    out: &mut String,
    name: &str,
    metric: &Metric,
    exemplars: &Exemplars,
) -> std::fmt::Result {
    let labels = metric.get_label();
    let histogram: &Histogram = metric.get_histogram();
    // Exemplars are kept of histograms with one label.
    let label = labels.first().map_or("", LabelPair::value);
    let buckets = histogram.get_bucket();
    let finite = buckets.iter().filter(|it| it.upper_bound().is_finite());
    let bounds = finite.map(|it| (it.upper_bound(), it.cumulative_count()));
    let all = bounds.chain([(f64::INFINITY, histogram.get_sample_count())]);
    for (n, (bound, count)) in all.enumerate() {
        write_sample(out, (name, "_bucket"), labels, Some(bound), count as f64)?;
        if let Some(exemplar) = exemplars.of(name, label, n) {
            let (trace, value) = (exemplar.trace, exemplar.value);
            let at = exemplar.at.as_secs_f64();
            write!(out, " # {{trace_id=\"{trace}\"}} {value} {at:.3}")?;
        }
        out.push('\n');
    }
    let (sum, count) = (histogram.get_sample_sum(), histogram.get_sample_count());
    write_sample(out, (name, "_sum"), labels, None, sum)?;
    out.push('\n');
    write_sample(out, (name, "_count"), labels, None, count as f64)?;
    out.push('\n');
    Ok(())
}

/// A sample without the end of its line.
fn write_sample(
    out: &mut String,
    (name, ending): (&str, &str),
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) -> std::fmt::Result {
    write!(out, "{name}{ending}")?;
    let mut separator = '{';
    for label in labels {
        write!(
            out,
            "{separator}{}=\"{}\"",
            label.name(),
            escaped(label.value())
        )?;
        separator = ',';
    }
    if let Some(bound) = bound {
        write!(out, "{separator}le=\"{}\"", canonical(bound))?;
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    write!(out, " {}", number(value))
}

/// A bound as OpenMetrics wants it: never without a point.
fn canonical(bound: f64) -> String {
    if bound == f64::INFINITY {
        return "+Inf".to_owned();
    }
    format!("{bound:?}")
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' => escaped.push_str("\\\""),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use prometheus::{CounterVec, Gauge, HistogramOpts, HistogramVec, Opts, Registry};

    use super::*;
    use crate::telemetry::trace_context::TraceId;

    #[test]
    fn only_who_names_it_gets_it() {
        let check = |accept: &str, expected| {
            assert_eq!(wants_open_metrics(accept), expected, "{accept}");
        };
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            true,
        );
        check("Application/OpenMetrics-Text", true);
        check(
            "text/plain, application/openmetrics-text; version=0.0.1; q=0.75",
            true,
        );
        check("application/openmetrics-text; version=2.0.0", false);
        check("application/openmetrics-text; q=0", false);
        check("text/plain", false);
        check("*/*", false);
        check("", false);
    }

    #[test]
    fn every_kind_is_written_as_openmetrics_has_it() {
        let registry = Registry::new();
        let opts = Opts::new("a_seconds_total", "So much \"of\" it.\nAnd \\ more.");
        let counter = CounterVec::new(opts, &["of"]).expect("good");
        registry.register(Box::new(counter.clone())).expect("once");
        counter.with_label_values(&["x\"y\\z\n"]).inc_by(1.5);
        let gauge = Gauge::new("b_ratio", "A share.").expect("good");
        registry.register(Box::new(gauge.clone())).expect("once");
        gauge.set(f64::NAN);
        let opts = HistogramOpts::new("c_seconds", "Times.").buckets(vec![0.25, 1.0, 2.0]);
        let histogram = HistogramVec::new(opts, &["dialect"]).expect("good");
        registry
            .register(Box::new(histogram.clone()))
            .expect("once");
        let exemplars = Exemplars::default();
        for value in [0.25, 1.5, 7.0] {
            histogram.with_label_values(&["audio"]).observe(value);
        }
        let bounds = [0.25, 1.0, 2.0];
        let trace = |n| TraceId::new(n).expect("an id");
        exemplars.observe(("c_seconds", "audio"), &bounds, 0.25, trace(1));
        exemplars.observe(("c_seconds", "audio"), &bounds, 6.0, trace(2));
        exemplars.observe(("c_seconds", "audio"), &bounds, 7.0, trace(3));
        exemplars.observe(("c_seconds", "twilio"), &bounds, 1.5, trace(4));
        let text = open_metrics(&registry.gather(), &exemplars);
        // The time of an exemplar is the clock's.
        let lines = text.lines().map(|line| match line.rsplit_once("\"} ") {
            Some((head, tail)) if line.contains(" # ") && head.contains("trace_id") => {
                let mut parts = tail.split(' ');
                let value = parts.next().unwrap_or_default();
                let at: f64 = parts.next().expect("a time").parse().expect("seconds");
                assert!(at > 1e9, "{line}");
                format!("{head}\"}} {value}")
            }
            _ => line.to_owned(),
        });
        let expected = [
            "# TYPE a_seconds counter",
            "# UNIT a_seconds seconds",
            r#"# HELP a_seconds So much \"of\" it.\nAnd \\ more."#,
            r#"a_seconds_total{of="x\"y\\z\n"} 1.5"#,
            "# TYPE b_ratio gauge",
            "# UNIT b_ratio ratio",
            "# HELP b_ratio A share.",
            "b_ratio NaN",
            "# TYPE c_seconds histogram",
            "# UNIT c_seconds seconds",
            "# HELP c_seconds Times.",
            r#"c_seconds_bucket{dialect="audio",le="0.25"} 1 # {trace_id="00000000000000000000000000000001"} 0.25"#,
            r#"c_seconds_bucket{dialect="audio",le="1.0"} 1"#,
            r#"c_seconds_bucket{dialect="audio",le="2.0"} 2"#,
            r#"c_seconds_bucket{dialect="audio",le="+Inf"} 3 # {trace_id="00000000000000000000000000000003"} 7"#,
            r#"c_seconds_sum{dialect="audio"} 8.75"#,
            r#"c_seconds_count{dialect="audio"} 3"#,
            "# EOF",
        ];
        assert_eq!(lines.collect::<Vec<_>>(), expected);
        assert!(text.ends_with("# EOF\n"));
    }
}
