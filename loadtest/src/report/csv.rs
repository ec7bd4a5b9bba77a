//! One line for each call.

use std::fmt::Write as _;

use super::RunReport;

const HEAD: &str = "call,at_s,outcome,set_up_ms,length_ms,turns,turns_answered,turn_latency_mean_ms,turn_latency_max_ms,\
barge_in_silence_max_ms,underruns,frames_sent,frames_expected,frames_lost,frames_duplicated,frames_reordered,\
frames_damaged,frames_foreign,tokens";

/// All calls of a report.
#[must_use]
pub fn to_csv(report: &RunReport) -> String {
    let mut text = format!("{HEAD}\n");
    for call in &report.calls {
        let latencies: Vec<f64> = call
            .turns
            .iter()
            .filter_map(|(_, latency)| *latency)
            .collect();
        let mean = latencies.iter().sum::<f64>() / latencies.len().max(1) as f64;
        let most = |values: &[f64]| values.iter().copied().reduce(f64::max);
        let frames = &call.frames;
        let _ = writeln!(
            text,
            "{},{:.3},{},{},{:.1},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            call.n,
            call.at_s,
            quoted(&call.outcome),
            number(call.set_up_ms),
            call.length_ms,
            call.turns.len(),
            call.turns_answered,
            number((!latencies.is_empty()).then_some(mean)),
            number(most(&latencies)),
            number(most(&call.barge_ins_ms)),
            call.underruns,
            frames.sent,
            frames.expected,
            frames.lost,
            frames.duplicated,
            frames.reordered,
            frames.damaged,
            frames.foreign,
            call.tokens,
        );
    }
    text
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.1}"))
}

/// As RFC 4180 wants it. Spreadsheets take what begins with these signs for a formula.
pub(crate) fn quoted(text: &str) -> String {
    let safe = text.trim_start_matches(['=', '+', '-', '@']);
    if safe.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::CallRow;

    #[test]
    fn a_call_is_a_line() {
        let mut report = RunReport::default();
        report.calls.push(CallRow {
            n: 7,
            outcome: "refused 503, \"busy\"".into(),
            turns: vec![(1.0, Some(400.0)), (2.0, None), (3.0, Some(600.0))],
            turns_answered: 2,
            ..CallRow::default()
        });
        let text = to_csv(&report);
        let lines: Vec<_> = text.lines().collect();
        let expected =
            "7,0.000,\"refused 503, \"\"busy\"\"\",,0.0,3,2,500.0,600.0,,0,0,0,0,0,0,0,0,0";
        assert_eq!(lines[1], expected);
        assert_eq!(lines[0].split(',').count(), 19);
    }
}
