//! A run that goes on, for the terminal: a view of some lines that is drawn anew each second, and a single line for
//! logs. Pure: who draws says how long it has been.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Counts, RunReport};
use crate::measure::Measure;

/// What is known of a run before its end.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Without the calls one by one. What a call tells at its end is of calls that have ended.
    pub report: RunReport,
    /// Since it began.
    pub elapsed: Duration,
    /// Calls at this moment.
    pub live: u32,
    /// Tokens so far, also of calls that go on.
    pub tokens: u64,
    /// When it ends, calls and tokens that end it.
    pub time: Duration,
    /// Calls that end it.
    pub most_calls: u64,
    /// Tokens that end it.
    pub most_tokens: u64,
}

/// What there was when the view was drawn last, for rates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    elapsed: Duration,
    begun: u64,
    n_frames: u64,
}

/// Errors that are told by name.
const MOST_ERRORS: usize = 5;

/// Cells of the bar.
const BAR: usize = 24;

/// The view, and what the next one wants to know of this.
#[must_use]
pub fn live_view(now: &Progress, before: Before) -> (String, Before) {
    let mut text = String::new();
    let Progress { report, .. } = now;
    let (counts, frames) = (&report.counts, &report.frames);
    let _ = writeln!(text, "{}", progress_line(now));
    let n_frames = report.measures.count(Measure::SendLag);
    let seconds = now.elapsed.saturating_sub(before.elapsed).as_secs_f64();
    let rate = |n: u64, before: u64| n.saturating_sub(before) as f64 / seconds.max(1e-3);
    let _ = writeln!(
        text,
        "calls    {} live (most {}), {:.1}/s begun; ended: {} completed, {} refused, {} failed; {} skipped",
        now.live,
        counts.most_live,
        rate(counts.begun, before.begun),
        counts.completed,
        counts.refused,
        counts.failed,
        counts.skipped,
    );
    let _ = writeln!(
        text,
        "audio    {:.0} frames/s sent, {} late at p99; {} of {} lost, {} faulty; {} underruns",
        rate(n_frames, before.n_frames),
        ms(report, Measure::SendLag, 0.99),
        frames.lost,
        frames.expected,
        faulty(report),
        counts.underruns,
    );
    let _ = writeln!(
        text,
        "turns    {} of {} answered; latency p50 {}, p95 {}, p99 {}; set-up p99 {}; {} interrupted, silent after {}",
        counts.turns_answered,
        counts.turns,
        ms(report, Measure::TurnLatency, 0.5),
        ms(report, Measure::TurnLatency, 0.95),
        ms(report, Measure::TurnLatency, 0.99),
        ms(report, Measure::SetUp, 0.99),
        counts.barge_ins,
        ms(report, Measure::BargeInSilence, 0.5),
    );
    let _ = writeln!(text, "tokens   {} of {}", now.tokens, now.most_tokens);
    let _ = writeln!(text, "errors   {}", errors(report));
    let next = Before {
        elapsed: now.elapsed,
        begun: counts.begun,
        n_frames,
    };
    (text, next)
}

fn progress_line(now: &Progress) -> String {
    let share = |done: f64, all: f64| if all > 0.0 { done / all } else { 0.0 };
    let by_time = share(now.elapsed.as_secs_f64(), now.time.as_secs_f64());
    let Counts { begun, .. } = now.report.counts;
    let by_calls = share(begun as f64, now.most_calls as f64);
    let done = by_time.max(by_calls).clamp(0.0, 1.0);
    let n_full = (done * BAR as f64) as usize;
    let bar: String = (0..BAR)
        .map(|n| if n < n_full { '#' } else { '.' })
        .collect();
    let left = now.time.saturating_sub(now.elapsed).as_secs();
    format!(
        "{}  [{bar}] {} s, at most {left} s left; call {begun} of {}",
        now.report.name,
        now.elapsed.as_secs(),
        now.most_calls
    )
}

fn errors(report: &RunReport) -> String {
    let mut all: Vec<_> = report.errors.iter().collect();
    all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let mut told: Vec<String> = all
        .iter()
        .take(MOST_ERRORS)
        .map(|(cause, n)| format!("{n} x {}", printable(cause)))
        .collect();
    if all.len() > MOST_ERRORS {
        told.push(format!("and {} more causes", all.len() - MOST_ERRORS));
    }
    if told.is_empty() {
        told.push("none".to_owned());
    }
    told.join(", ")
}

/// Causes hold words of the target's, which must not steer the terminal.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).collect()
}

fn faulty(report: &RunReport) -> u64 {
    report.frames.faulty() + report.frames.foreign
}

fn ms(report: &RunReport, measure: Measure, quantile: f64) -> String {
    let us = report.quantile(measure, quantile);
    us.map_or("-".to_owned(), |us| {
        let ms = us as f64 / 1_000.0;
        let digits = usize::from(ms < 100.0);
        format!("{ms:.digits$} ms")
    })
}

/// The same in one line, for where nothing can be drawn.
#[must_use]
pub fn live_line(now: &Progress) -> String {
    let Progress { report, .. } = now;
    let counts = &report.counts;
    format!(
        "{} s: {} live, {} begun, {} completed, {} refused, {} failed; turn latency p50 {}, p99 {}; frames lost {}, faulty {}; {} tokens",
        now.elapsed.as_secs(),
        now.live,
        counts.begun,
        counts.completed,
        counts.refused,
        counts.failed,
        ms(report, Measure::TurnLatency, 0.5),
        ms(report, Measure::TurnLatency, 0.99),
        report.frames.lost,
        faulty(report),
        now.tokens,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(elapsed_s: u64, begun: u64) -> Progress {
        let mut report = RunReport {
            name: "desk".to_owned(),
            ..RunReport::default()
        };
        report.counts.begun = begun;
        report.counts.turns = 2;
        report.counts.turns_answered = 2;
        report.record(Measure::TurnLatency, 700_000);
        report.record(Measure::TurnLatency, 42_000);
        for n in 0..7 {
            report.errors.insert(format!("cause {n}"), n);
        }
        report.errors.insert("bad\x1b[2J".to_owned(), 100);
        Progress {
            report,
            elapsed: Duration::from_secs(elapsed_s),
            live: 3,
            tokens: 500,
            time: Duration::from_secs(40),
            most_calls: 1_000,
            most_tokens: 9_000,
        }
    }

    #[test]
    fn a_view_tells_rates_since_the_last() {
        let (_, before) = live_view(&progress(10, 20), Before::default());
        let (text, _) = live_view(&progress(12, 30), before);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(lines[0].starts_with("desk  [#######.....") && lines[0].contains("28 s left"));
        assert!(lines[1].contains("3 live") && lines[1].contains("5.0/s begun"));
        assert!(lines[3].contains("p50 42.0 ms") && lines[3].contains("p99 700 ms"));
        assert_eq!(lines[4], "tokens   500 of 9000");
        assert!(lines[5].starts_with("errors   100 x bad [2J, 6 x cause 6"));
        assert!(lines[5].ends_with("and 3 more causes"));
    }

    #[test]
    fn a_line_is_one() {
        let line = live_line(&progress(12, 30));
        assert!(line.starts_with("12 s: 3 live, 30 begun"), "{line}");
        assert!(!line.contains('\n'));
    }
}
