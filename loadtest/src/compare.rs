//! Whether one target is faster than another: ratios of quantiles, with the confidence that the calls allow.
//!
//! Turns of one call resemble each other, so whole calls are drawn anew, not turns (a cluster bootstrap). Pure.

use crate::report::{CallRow, RunReport};

/// A ratio and where it lies in 95 of 100 redrawings.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// Of what.
    pub name: String,
    /// In the first, in ms.
    pub a: f64,
    /// In the second, in ms.
    pub b: f64,
    /// The second to the first.
    pub ratio: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Redrawings; the bounds are then the 25th value from each end.
const N_DRAWS: usize = 1_000;

/// Fewer calls on a side say nothing.
const LEAST_CALLS: usize = 5;

/// Whatever both reports have enough of.
#[must_use]
pub fn ratios(a: &RunReport, b: &RunReport, seed: u64) -> Vec<Ratio> {
    type Values = fn(&CallRow) -> Vec<f64>;
    let subjects: [(&str, Values); 3] = [
        ("set-up", |call| call.set_up_ms.into_iter().collect()),
        ("turn latency", |call| {
            call.turns
                .iter()
                .filter_map(|(_, latency)| *latency)
                .collect()
        }),
        ("barge-in to silence", |call| call.barge_ins_ms.clone()),
    ];
    let mut random = fastrand::Rng::with_seed(seed);
    let mut found = Vec::new();
    for (name, values) in subjects {
        let of = |report: &RunReport| -> Vec<Vec<f64>> {
            report
                .calls
                .iter()
                .map(values)
                .filter(|it| !it.is_empty())
                .collect()
        };
        let (a, b) = (of(a), of(b));
        if a.len() < LEAST_CALLS || b.len() < LEAST_CALLS {
            continue;
        }
        for (label, quantile) in [("p50", 0.5), ("p95", 0.95)] {
            found.push(ratio(
                format!("{name} {label}"),
                &a,
                &b,
                quantile,
                &mut random,
            ));
        }
    }
    found
}

fn ratio(
    name: String,
    a: &[Vec<f64>],
    b: &[Vec<f64>],
    quantile: f64,
    random: &mut fastrand::Rng,
) -> Ratio {
    let all = |calls: &[Vec<f64>]| quantile_of(calls.iter().flatten().copied().collect(), quantile);
    let mut drawn: Vec<f64> = (0..N_DRAWS)
        .map(|_| {
            let mut draw = |calls: &[Vec<f64>]| {
                let again =
                    (0..calls.len()).flat_map(|_| calls[random.usize(..calls.len())].iter());
                quantile_of(again.copied().collect(), quantile)
            };
            let before = draw(a);
            draw(b) / before.max(f64::MIN_POSITIVE)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let (before, after) = (all(a), all(b));
    Ratio {
        name,
        a: before,
        b: after,
        ratio: after / before.max(f64::MIN_POSITIVE),
        low: drawn[N_DRAWS / 40],
        high: drawn[N_DRAWS - 1 - N_DRAWS / 40],
    }
}

fn quantile_of(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (quantile * values.len() as f64).ceil() as usize;
    values[index.clamp(1, values.len()) - 1]
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            a,
            b,
            ratio,
            low,
            high,
        } = self;
        let verdict = if *low > 1.0 {
            "the second is slower"
        } else if *high < 1.0 {
            "the second is faster"
        } else {
            "no difference shown"
        };
        write!(
            f,
            "{name:<26}{a:>10.1}{b:>10.1} ms   {ratio:.3} [{low:.3}, {high:.3}]  {verdict}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of three turns that vary by call and by turn.
    fn report(mean_ms: f64, seed: u64) -> RunReport {
        let mut random = fastrand::Rng::with_seed(seed);
        let calls = (0..60).map(|n| {
            let of_call = mean_ms * (0.9 + 0.2 * random.f64());
            CallRow {
                n,
                set_up_ms: Some(20.0),
                turns: (0..3)
                    .map(|_| (0.0, Some(of_call * (0.95 + 0.1 * random.f64()))))
                    .collect(),
                ..CallRow::default()
            }
        });
        RunReport {
            calls: calls.collect(),
            ..RunReport::default()
        }
    }

    fn turn_p50(a: &RunReport, b: &RunReport) -> Ratio {
        let all = ratios(a, b, 1);
        assert_eq!(all.len(), 4);
        all.into_iter()
            .find(|it| it.name == "turn latency p50")
            .unwrap()
    }

    #[test]
    fn a_difference_is_shown_and_none_is_not() {
        let slower = turn_p50(&report(500.0, 1), &report(600.0, 2));
        assert!(slower.low > 1.1 && slower.high < 1.3, "{slower}");
        // One in twenty may be wrong.
        let n_wrong = (10..30).filter(|seed| {
            let same = turn_p50(&report(500.0, *seed), &report(500.0, seed + 100));
            same.low > 1.0 || same.high < 1.0
        });
        assert!(n_wrong.count() <= 3);
        assert!(ratios(&RunReport::default(), &report(500.0, 1), 1).is_empty());
    }
}
