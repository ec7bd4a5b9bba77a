//! What is asked of a run, and what it missed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::span::parse_time;
use crate::measure::Measure;
use crate::report::RunReport;

/// The `[thresholds]` table, and an SLO file. What is left out is not asked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Share of the calls that may fail, refused ones included.
    pub failed_calls: Option<f64>,
    /// Share of the arrivals that may make no call, because as many calls were live as the scenario allows: what a slow
    /// target would hide behind.
    pub skipped_calls: Option<f64>,
    /// Share of the turns that may stay without a reply.
    pub unanswered_turns: Option<f64>,
    /// Share of the expected frames that may be lost.
    pub lost_frames: Option<f64>,
    /// Share of the frames that came that may be doubled, damaged, or out of order.
    pub faulty_frames: Option<f64>,
    /// Frames that may be of another call.
    pub foreign_frames: Option<u64>,
    /// Underruns for each minute of calls.
    pub underruns_per_minute: Option<f64>,
    /// By measure and quantile, as `turn_latency = { p50 = "600ms", p95 = "900ms" }`.
    pub measures: BTreeMap<Measure, BTreeMap<String, String>>,
}

/// Something asked for that did not come true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Miss {
    /// What was asked for.
    pub threshold: String,
    /// At most.
    pub allowed: f64,
    /// It was; none if it could not be measured.
    pub measured: Option<f64>,
    /// Of both.
    pub unit: String,
}

impl Thresholds {
    pub(super) fn check(&self) -> Result<(), String> {
        let shares = [
            ("failed_calls", self.failed_calls),
            ("skipped_calls", self.skipped_calls),
            ("unanswered_turns", self.unanswered_turns),
            ("lost_frames", self.lost_frames),
            ("faulty_frames", self.faulty_frames),
        ];
        for (name, share) in shares {
            if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                return Err(format!("thresholds.{name}: a share is from 0 to 1"));
            }
        }
        let is_number = |n: &f64| n.is_finite() && *n >= 0.0;
        if !self.underruns_per_minute.as_ref().is_none_or(is_number) {
            return Err("thresholds.underruns_per_minute: a number from 0 on".to_owned());
        }
        for (measure, quantiles) in &self.measures {
            for (quantile, time) in quantiles {
                let name = format!("thresholds.measures.{}.{quantile}", measure.name());
                quantile_of(quantile)
                    .ok_or_else(|| format!("{name}: quantiles are p0 to p100, as p50 or p99.9"))?;
                parse_time(time).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Parses the text of an SLO file, which is this table alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        parsed.check().map(|()| parsed)
    }

    /// Is nothing asked?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What a run missed. What was asked for and could not be measured is missed, too.
    #[must_use]
    pub fn missed(&self, report: &RunReport) -> Vec<Miss> {
        let (counts, frames) = (&report.counts, &report.frames);
        let share = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
        let minutes = counts.call_ms as f64 / 60_000.0;
        let mut missed = Vec::new();
        let mut ask = |name: &str, allowed: Option<f64>, measured: Option<f64>, unit: &str| {
            let Some(allowed) = allowed else { return };
            if measured.is_none_or(|measured| measured > allowed) {
                missed.push(Miss {
                    threshold: name.to_owned(),
                    allowed,
                    measured,
                    unit: unit.to_owned(),
                });
            }
        };
        let failed = share(counts.failed + counts.refused, counts.begun);
        ask("failed_calls", self.failed_calls, failed, "");
        let skipped = share(counts.skipped, counts.begun + counts.skipped);
        ask("skipped_calls", self.skipped_calls, skipped, "");
        let unanswered = share(
            counts.turns - counts.turns_answered.min(counts.turns),
            counts.turns,
        );
        ask("unanswered_turns", self.unanswered_turns, unanswered, "");
        ask(
            "lost_frames",
            self.lost_frames,
            share(frames.lost, frames.expected),
            "",
        );
        let (faulty, came) = (frames.faulty(), frames.came());
        ask("faulty_frames", self.faulty_frames, share(faulty, came), "");
        let foreign = (came > 0).then_some(frames.foreign as f64);
        ask(
            "foreign_frames",
            self.foreign_frames.map(|n| n as f64),
            foreign,
            "",
        );
        let underruns = (minutes > 0.0).then(|| counts.underruns as f64 / minutes);
        ask(
            "underruns_per_minute",
            self.underruns_per_minute,
            underruns,
            "",
        );
        for (measure, quantiles) in &self.measures {
            for (name, time) in quantiles {
                let quantile = quantile_of(name).unwrap_or(1.0);
                let allowed = parse_time(time).ok().map(|time| time.as_secs_f64() * 1e3);
                let measured = report
                    .quantile(*measure, quantile)
                    .map(|us| us as f64 / 1e3);
                let name = format!("{} {name}", measure.name());
                ask(&name, allowed, measured, "ms");
            }
        }
        missed
    }
}

/// `p99.9` as 0.999.
fn quantile_of(name: &str) -> Option<f64> {
    let percent: f64 = name.strip_prefix('p')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            threshold,
            allowed,
            measured,
            unit,
        } = self;
        let unit = if unit.is_empty() {
            String::new()
        } else {
            format!(" {unit}")
        };
        match measured {
            Some(measured) => write!(
                f,
                "{threshold}: {measured:.4}{unit}, at most {allowed}{unit} asked for"
            ),
            None => write!(
                f,
                "{threshold}: not measured, at most {allowed}{unit} asked for"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let mut report = RunReport::default();
        report.counts.begun = 10;
        report.counts.failed = 1;
        report.counts.skipped = 10;
        report.counts.turns = 10;
        report.counts.turns_answered = 10;
        for ms in 1..=100 {
            report.record(Measure::TurnLatency, ms * 1_000);
        }
        let missed = Thresholds::parse(text).unwrap().missed(&report);
        let names: Vec<_> = missed.iter().map(|miss| miss.threshold.as_str()).collect();
        assert_eq!(names, expected, "{text}");
    }

    #[test]
    fn what_is_missed_is_told() {
        check("", &[]);
        check("failed_calls = 0.1\nunanswered_turns = 0.0", &[]);
        check("failed_calls = 0.05", &["failed_calls"]);
        check("skipped_calls = 0.5", &[]);
        check("skipped_calls = 0.4", &["skipped_calls"]);
        check("lost_frames = 0.5", &["lost_frames"]);
        check(
            "[measures]\nturn_latency = { p50 = '51ms', p99.9 = '1s' }"
                .replace("p99.9", "'p99.9'")
                .as_str(),
            &[],
        );
        check(
            "[measures]\nturn_latency = { p50 = '40ms' }",
            &["turn_latency p50"],
        );
        check("[measures]\nunderrun = { p50 = '40ms' }", &["underrun p50"]);
        for wrong in [
            "[measures]\nturn_latency = { q5 = '1s' }",
            "[measures]\nnone = { p5 = '1s' }",
            "underruns_per_minute = nan",
            "underruns_per_minute = -1.0",
            "x = 1",
        ] {
            assert!(Thresholds::parse(wrong).is_err(), "{wrong}");
        }
    }
}
