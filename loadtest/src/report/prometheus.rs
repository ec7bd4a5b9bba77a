//! A report as Prometheus reads it: text format 0.0.4 (Prometheus documentation, "Exposition formats").

use std::fmt::Write as _;

use super::RunReport;

/// The whole report; `live` calls go on.
#[must_use]
pub fn to_prometheus(report: &RunReport, live: u32) -> String {
    let mut text = String::new();
    calls(&mut text, report);
    family(&mut text, "calls_live", "gauge", "Calls at this moment.");
    sample(&mut text, "calls_live", &[], f64::from(live));
    let (frames, tokens) = (&report.frames, &report.tokens);
    let fates = [
        ("sent", frames.sent),
        ("expected", frames.expected),
        ("lost", frames.lost),
        ("duplicated", frames.duplicated),
        ("reordered", frames.reordered),
        ("damaged", frames.damaged),
        ("foreign", frames.foreign),
    ];
    let help = "Frames of coded speech by what became of them.";
    counters(&mut text, "frames_total", help, "fate", &fates);
    let kinds = [
        ("input", tokens.input),
        ("cached", tokens.cached),
        ("output", tokens.output),
    ];
    let help = "Tokens that the target reported for calls that have ended.";
    counters(&mut text, "tokens_total", help, "kind", &kinds);
    let errors: Vec<_> = report
        .errors
        .iter()
        .map(|(cause, n)| (&**cause, *n))
        .collect();
    counters(
        &mut text,
        "errors_total",
        "Errors by cause.",
        "cause",
        &errors,
    );
    measures(&mut text, report);
    text
}

fn calls(text: &mut String, report: &RunReport) {
    let counts = &report.counts;
    let outcomes = [
        ("completed", counts.completed),
        ("refused", counts.refused),
        ("failed", counts.failed),
        ("skipped", counts.skipped),
    ];
    let help = "Calls by what became of them.";
    counters(text, "calls_total", help, "outcome", &outcomes);
    for (name, help, n) in [
        ("calls_begun_total", "Calls that were begun.", counts.begun),
        (
            "calls_answered_total",
            "Calls in which audio could flow.",
            counts.answered,
        ),
        (
            "turns_total",
            "Things that callers said and waited for a reply to.",
            counts.turns,
        ),
        (
            "turns_answered_total",
            "Turns that were replied to.",
            counts.turns_answered,
        ),
        ("barge_ins_total", "Interrupted replies.", counts.barge_ins),
        ("underruns_total", "Holes in replies.", counts.underruns),
    ] {
        family(text, name, "counter", help);
        sample(text, name, &[], n as f64);
    }
}

/// A counter for each value of one label.
fn counters(text: &mut String, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
    family(text, name, "counter", help);
    for (value, n) in values {
        sample(text, name, &[(label, value)], *n as f64);
    }
}

fn measures(text: &mut String, report: &RunReport) {
    const NAME: &str = "measure_seconds";
    family(text, NAME, "summary", "What took how long.");
    for (measure, it) in report.measures.iter() {
        let seconds = |us: f64| us / 1e6;
        let name = measure.name();
        for (quantile, us) in &it.quantiles {
            // "p99.9" is 0.999.
            let digits = quantile.trim_start_matches('p').replace('.', "");
            let labels = [("measure", name), ("quantile", &format!("0.{digits}"))];
            sample(text, NAME, &labels, seconds(*us as f64));
        }
        let labels = [("measure", name)];
        let sum = seconds(it.mean * it.count as f64);
        sample(text, "measure_seconds_sum", &labels, sum);
        sample(text, "measure_seconds_count", &labels, it.count as f64);
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP trunkline_loadtest_{name} {help}");
    let _ = writeln!(text, "# TYPE trunkline_loadtest_{name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let _ = write!(text, "trunkline_loadtest_{name}");
    for (index, (label, said)) in labels.iter().enumerate() {
        let open = if index == 0 { '{' } else { ',' };
        let said = said.replace('\\', r"\\").replace('"', "\\\"");
        let _ = write!(text, "{open}{label}=\"{}\"", said.replace('\n', r"\n"));
    }
    let close = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(text, "{close} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measure;

    #[test]
    fn a_report_is_exposed() {
        let mut report = RunReport::default();
        report.counts.begun = 3;
        report.counts.refused = 1;
        report.error("reported: \"odd\"\\\n", "");
        for us in [1_000, 2_000, 3_000_000] {
            report.record(Measure::TurnLatency, us);
        }
        let text = to_prometheus(&report, 2);
        for line in [
            "# TYPE trunkline_loadtest_measure_seconds summary",
            "trunkline_loadtest_calls_total{outcome=\"refused\"} 1",
            "trunkline_loadtest_calls_begun_total 3",
            "trunkline_loadtest_calls_live 2",
            r#"trunkline_loadtest_errors_total{cause="reported: \"odd\"\\\n"} 1"#,
            "trunkline_loadtest_measure_seconds{measure=\"turn_latency\",quantile=\"0.50\"} 0.002",
            "trunkline_loadtest_measure_seconds_count{measure=\"turn_latency\"} 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(text.contains("quantile=\"0.999\""));
        // Each line is a comment, or a name with or without labels and a number.
        for line in text.lines().filter(|it| !it.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
