//! A report as one file that needs nothing else: no script, no font, no network.

use std::fmt::Write as _;

use super::RunReport;
use super::chart::{Chart, Line, Scale};
use crate::measure::{Measure, Measured};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #6b7480; --rule: #d5dae0; --paper: #fff; --good: #1a7f37;
  --bad: #c2251d; --a: #1f6feb; --b: #d9822b; --c: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --faint: #98a2ae; --rule: #39414b; --paper: #14181d;
  --good: #4cc26b; --bad: #ff7b72; --a: #6ea8fe; --b: #f0a35e; --c: #b794f6; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.faint, td.faint, .faint { color: var(--faint); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--faint); }
.tiles { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; }
.tiles div { min-width: 6rem; } .tiles b { display: block; font-size: 1.4rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--rule); stroke-width: 1; } .line { fill: none; stroke-width: 1.75; }
.c0 { stroke: var(--a); } .c1 { stroke: var(--b); } .c2 { stroke: var(--c); }
";

/// The page.
#[must_use]
pub fn to_html(report: &RunReport) -> String {
    let name = escaped(&report.name);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{name}: load test</title>\
         <style>{STYLE}</style></head><body>\n<h1>{name}</h1>\n"
    );
    head(report, &mut page);
    tiles(report, &mut page);
    verdict(report, &mut page);
    charts(report, &mut page);
    measures(report, &mut page);
    frames(report, &mut page);
    errors(report, &mut page);
    page += "</body></html>\n";
    page
}

fn head(report: &RunReport, page: &mut String) {
    let stopped: Vec<_> = report.stopped_by.keys().map(|why| escaped(why)).collect();
    let _ = writeln!(
        page,
        "<p class=\"faint\">{} ({}), seed {}, begun at {} UTC, {:.1} s, ended by {}, {} run{}</p>",
        escaped(&report.target),
        escaped(&report.dialect),
        report.seed,
        humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(report.begun)
        ),
        report.elapsed_s,
        stopped.join(" and "),
        report.runs.len(),
        if report.runs.len() == 1 { "" } else { "s" },
    );
}

fn tiles(report: &RunReport, page: &mut String) {
    let counts = &report.counts;
    let ms = |measure, quantile| {
        let us = report.quantile(measure, quantile);
        us.map_or("-".to_owned(), |us| format!("{:.0} ms", us as f64 / 1e3))
    };
    let not_answered = counts.refused + counts.failed;
    let all = [
        ("calls", counts.begun.to_string(), ""),
        ("at a time", counts.most_live.to_string(), ""),
        ("completed", counts.completed.to_string(), ""),
        (
            "refused or failed",
            not_answered.to_string(),
            if not_answered > 0 { "bad" } else { "" },
        ),
        (
            "turns answered",
            format!("{} of {}", counts.turns_answered, counts.turns),
            "",
        ),
        ("turn latency p50", ms(Measure::TurnLatency, 0.5), ""),
        ("turn latency p95", ms(Measure::TurnLatency, 0.95), ""),
        (
            "barge-in to silence p95",
            ms(Measure::BargeInSilence, 0.95),
            "",
        ),
        ("underruns", counts.underruns.to_string(), ""),
        ("tokens", report.tokens.total().to_string(), ""),
    ];
    page.push_str("<div class=\"tiles\">");
    for (name, value, class) in all {
        let _ = write!(page, "<div><b class=\"{class}\">{value}</b>{name}</div>");
    }
    page.push_str("</div>\n");
}

fn verdict(report: &RunReport, page: &mut String) {
    if report.missed.is_empty() {
        return;
    }
    page.push_str("<h2 class=\"bad\">Thresholds missed</h2>\n<ul>");
    for miss in &report.missed {
        let _ = write!(page, "<li>{}</li>", escaped(&miss.to_string()));
    }
    page.push_str("</ul>\n");
}

fn charts(report: &RunReport, page: &mut String) {
    let end = report.elapsed_s.max(1.0);
    let live = Line::new("calls at a time", live_over_time(report));
    section(
        page,
        "Calls",
        &Chart::new("s", "calls", vec![live]).x_to(end),
    );
    let by_quantile = |name, quantile| Line::new(name, latency_over_time(report, quantile, end));
    let lines = vec![
        by_quantile("p50", 0.5),
        by_quantile("p95", 0.95),
        by_quantile("max", 1.0),
    ];
    section(
        page,
        "Turn latency",
        &Chart::new("s", "ms", lines).x_to(end),
    );
    let shown = [
        (
            "Turn latency by quantile",
            &[Measure::TurnLatency, Measure::FirstAudio][..],
        ),
        (
            "Set-up by quantile",
            &[Measure::SetUp, Measure::Connect, Measure::Upgrade],
        ),
        (
            "Barge-in by quantile",
            &[Measure::BargeInClear, Measure::BargeInSilence],
        ),
        (
            "Frames by quantile",
            &[
                Measure::FrameUp,
                Measure::FrameDown,
                Measure::FrameRoundTrip,
            ],
        ),
        ("Rhythm by quantile", &[Measure::Jitter, Measure::SendLag]),
    ];
    for (title, group) in shown {
        let lines = group.iter().filter_map(|measure| {
            let (_, it) = report.measures.iter().find(|(known, _)| known == measure)?;
            Some(Line::new(measure.name(), by_rank(&it)))
        });
        section(
            page,
            title,
            &Chart::new("", "ms", lines.collect()).x_scale(Scale::Quantile),
        );
    }
}

fn section(page: &mut String, title: &str, chart: &Chart) {
    if !chart.is_empty() {
        let _ = writeln!(page, "<h2>{title}</h2>\n{chart}");
    }
}

/// How many calls there were at each moment at which one began or ended.
fn live_over_time(report: &RunReport) -> Vec<(f64, f64)> {
    let edges = report.calls.iter().flat_map(|call| {
        let end = call.at_s + call.length_ms / 1e3;
        [(call.at_s, 1.0), (end, -1.0)]
    });
    let mut edges: Vec<_> = edges.collect();
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut live = 0.0;
    edges
        .into_iter()
        .flat_map(|(at, change)| {
            let before = live;
            live += change;
            [(at, before), (at, live)]
        })
        .collect()
}

/// A quantile of the turn latencies in each stretch of the run; with some ten turns in each, or quantiles would not differ.
fn latency_over_time(report: &RunReport, quantile: f64, end: f64) -> Vec<(f64, f64)> {
    let n_turns: usize = report.calls.iter().map(|call| call.turns.len()).sum();
    let n = (n_turns / 10).clamp(5, 60);
    let mut stretches = vec![Vec::new(); n];
    for (at, latency) in report.calls.iter().flat_map(|call| &call.turns) {
        if let Some(latency) = latency {
            let index = (at / end * n as f64).max(0.0) as usize;
            stretches[index.min(n - 1)].push(*latency);
        }
    }
    let middle = |index: usize| (index as f64 + 0.5) * end / n as f64;
    stretches
        .into_iter()
        .enumerate()
        .filter(|(_, values)| !values.is_empty())
        .map(|(at, mut values)| {
            values.sort_by(f64::total_cmp);
            let index = (quantile * values.len() as f64).ceil() as usize;
            (middle(at), values[index.clamp(1, values.len()) - 1])
        })
        .collect()
}

/// Values in ms by their rank, 0 to 1. The largest of n stands at 1 - 1/2n: it says nothing of what lies beyond.
fn by_rank(it: &Measured) -> Vec<(f64, f64)> {
    let mut seen = 0;
    let last = 1.0 - 0.5 / it.count.max(1) as f64;
    it.buckets
        .iter()
        .map(|(us, n)| {
            seen += n;
            ((seen as f64 / it.count as f64).min(last), *us as f64 / 1e3)
        })
        .collect()
}

fn measures(report: &RunReport, page: &mut String) {
    page.push_str(
        "<h2>Measures, in ms</h2>\n<table><tr><th>measure<th>count<th>min<th>p50<th>p90<th>p95<th>p99<th>p99.9<th>max</tr>\n",
    );
    for (measure, it) in report.measures.iter() {
        let ms = |us: u64| format!("{:.1}", us as f64 / 1e3);
        let _ = write!(
            page,
            "<tr title=\"{}\"><td>{measure}<td>{}<td>{}",
            escaped(measure.meaning()),
            it.count,
            ms(it.min)
        );
        for name in ["p50", "p90", "p95", "p99", "p99.9"] {
            let _ = write!(
                page,
                "<td>{}",
                ms(it.quantiles.get(name).copied().unwrap_or_default())
            );
        }
        let _ = writeln!(page, "<td>{}</tr>", ms(it.max));
    }
    page.push_str("</table>\n<dl class=\"faint\">");
    for (measure, _) in report.measures.iter() {
        let _ = write!(
            page,
            "<dt><b>{measure}</b></dt><dd>{}</dd>",
            escaped(measure.meaning())
        );
    }
    page.push_str("</dl>\n");
}

fn frames(report: &RunReport, page: &mut String) {
    let frames = &report.frames;
    if frames.sent == 0 {
        return;
    }
    let rows = [
        ("sent", frames.sent),
        ("expected back", frames.expected),
        ("received", frames.received),
        ("lost", frames.lost),
        ("duplicated", frames.duplicated),
        ("out of order", frames.reordered),
        ("damaged", frames.damaged),
        ("foreign", frames.foreign),
        ("other sound", frames.other),
    ];
    table(
        page,
        "Frames of coded speech, 20 ms each",
        rows.map(|(name, n)| (name.to_owned(), n.to_string())),
    );
}

fn errors(report: &RunReport, page: &mut String) {
    let causes = report.causes().map(|(cause, n, first)| {
        let comma = if first.is_empty() {
            ""
        } else {
            ", the first: "
        };
        (cause.to_owned(), format!("{n}{comma}{first}"))
    });
    table(page, "What went wrong, by cause", causes);
    let limits = report.rate_limits.iter().map(|(name, state)| {
        (
            name.clone(),
            format!("{} of {} left at least", state.least_remaining, state.limit),
        )
    });
    table(page, "Rate limits", limits);
}

fn table(page: &mut String, title: &str, rows: impl IntoIterator<Item = (String, String)>) {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return;
    }
    let _ = writeln!(page, "<h2>{title}</h2>\n<table>");
    for (name, value) in rows {
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}</tr>",
            escaped(&name),
            escaped(&value)
        );
    }
    page.push_str("</table>\n");
}

/// Text that stays text: some of it comes from the target.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::CallRow;

    #[test]
    fn the_page_stands_alone_and_holds_no_strange_markup() {
        let mut report = RunReport {
            name: "a <b> & \"c\"".into(),
            elapsed_s: 10.0,
            ..RunReport::default()
        };
        report.error(
            "reported: <script>alert(1)</script>",
            "<script>alert(2)</script>",
        );
        for n in 0..40u32 {
            report.record(Measure::TurnLatency, u64::from(n) * 10_000);
            report.calls.push(CallRow {
                at_s: f64::from(n) / 10.0,
                length_ms: 2_000.0,
                turns: vec![(f64::from(n) / 10.0 + 1.0, Some(f64::from(n) * 10.0))],
                ..CallRow::default()
            });
        }
        let page = to_html(&report);
        assert!(page.contains("a &lt;b&gt; &amp; &quot;c&quot;"));
        assert!(page.contains("1, the first: &lt;script&gt;alert(2)"));
        for absent in ["<script", "http://", "https://", "NaN", "inf "] {
            assert!(!page.contains(absent), "{absent}");
        }
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn the_largest_of_few_is_no_high_quantile() {
        let mut report = RunReport::default();
        for us in [1_000, 2_000] {
            report.record(Measure::Connect, us);
        }
        let (_, it) = report.measures.iter().next().unwrap();
        assert_eq!(by_rank(&it), [(0.5, 1.0), (0.75, 2.0)]);
    }

    #[test]
    fn live_calls_are_counted_at_each_edge() {
        let call = |at_s, length_ms| CallRow {
            at_s,
            length_ms,
            ..CallRow::default()
        };
        let report = RunReport {
            calls: vec![call(0.0, 2_000.0), call(1.0, 2_000.0)],
            ..RunReport::default()
        };
        let live: Vec<f64> = live_over_time(&report)
            .iter()
            .map(|(_, live)| *live)
            .collect();
        assert_eq!(live, [0.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 0.0]);
    }
}
