//! A report for the terminal.

use std::fmt::Write as _;

use super::RunReport;
use crate::measure::Measures;

/// The whole report, some thirty lines.
#[must_use]
pub fn to_text(report: &RunReport) -> String {
    let mut text = String::new();
    let (counts, frames) = (&report.counts, &report.frames);
    let _ = writeln!(
        text,
        "{}: {} ({})",
        report.name, report.target, report.dialect
    );
    let stopped: Vec<_> = report.stopped_by.keys().map(String::as_str).collect();
    let _ = writeln!(
        text,
        "{:.1} s, ended by {}; {} calls begun ({} at a time at most), {} answered, {} completed, {} refused, {} failed, {} skipped",
        report.elapsed_s,
        stopped.join(" and "),
        counts.begun,
        counts.most_live,
        counts.answered,
        counts.completed,
        counts.refused,
        counts.failed,
        counts.skipped
    );
    let _ = writeln!(
        text,
        "{} turns, {} answered, {} interruptions, {} underruns",
        counts.turns, counts.turns_answered, counts.barge_ins, counts.underruns
    );
    if frames.sent > 0 {
        let _ = writeln!(
            text,
            "frames: {} sent, {} expected back, {} lost, {} duplicated, {} out of order, {} damaged, {} foreign; {} of other sound",
            frames.sent,
            frames.expected,
            frames.lost,
            frames.duplicated,
            frames.reordered,
            frames.damaged,
            frames.foreign,
            frames.other
        );
    }
    if report.tokens.responses > 0 {
        let tokens = &report.tokens;
        let _ = writeln!(
            text,
            "tokens: {} read ({} cached), {} written in {} responses",
            tokens.input, tokens.cached, tokens.output, tokens.responses
        );
    }
    for (name, state) in &report.rate_limits {
        let _ = writeln!(
            text,
            "rate limit {name}: {} of {} left at least",
            state.least_remaining, state.limit
        );
    }
    text += &table(&report.measures);
    text += &what_went_wrong(report);
    for miss in &report.missed {
        let _ = writeln!(text, "MISSED {miss}");
    }
    text
}

/// A line for each cause, with how often it was met and the first of it.
#[must_use]
pub fn what_went_wrong(report: &RunReport) -> String {
    let mut text = String::new();
    for (cause, n, first) in report.causes() {
        let colon = if first.is_empty() { "" } else { ": " };
        // What comes from the target must not steer the terminal.
        let first: String = first.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(text, "{n:>8} x {cause}{colon}{first}");
    }
    text
}

fn table(measures: &Measures) -> String {
    let mut text = format!(
        "\n{:<18}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}  ms\n",
        "", "count", "min", "p50", "p90", "p95", "p99", "max"
    );
    for (measure, it) in measures.iter() {
        let ms = |us: u64| us as f64 / 1_000.0;
        let _ = write!(
            text,
            "{:<18}{:>10}{:>10.1}",
            measure.name(),
            it.count,
            ms(it.min)
        );
        for name in ["p50", "p90", "p95", "p99"] {
            let _ = write!(
                text,
                "{:>10.1}",
                ms(it.quantiles.get(name).copied().unwrap_or_default())
            );
        }
        let _ = writeln!(text, "{:>10.1}", ms(it.max));
    }
    text.push('\n');
    text
}
