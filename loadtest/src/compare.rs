//! Whether one target is faster than another: ratios of quantiles, with the confidence that calls and rounds allow. Pure.
//!
//! Two intervals are made, and the wider bounds of both are told:
//!
//! - by calls: whole calls of all rounds are drawn anew, because turns of one call resemble each other (a cluster
//!   bootstrap). Few calls make its intervals too narrow, so that its tails are taken further out, as far as Student's t
//!   with that many calls asks for (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015: the expanded
//!   percentile interval);
//! - by rounds: what differs from one run to the next, calls cannot show. With three rounds or more, the ratios of single
//!   rounds are taken for a sample of their own, with Student's t for their number.
//!
//! A quantile of which a side has too few calls to bound it by any method is left out: the largest of fewer than 59
//! values is below the p95 in more than one case of twenty.

use crate::report::{CallRow, RunReport};

/// A ratio and between which bounds it lies with 95 % confidence.
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

/// Of the first and the second in one round.
pub type Round = [RunReport; 2];

/// Redrawings.
const N_DRAWS: usize = 2_000;

/// Rounds from which on they are a sample of their own.
const LEAST_ROUNDS: usize = 3;

/// The values of each call that has any.
type ByCall = Vec<Vec<f64>>;

/// Whatever both sides have enough of, over all rounds.
#[must_use]
pub fn ratios(rounds: &[Round], seed: u64) -> Vec<Ratio> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut found = Vec::new();
    for (name, values) in SUBJECTS {
        let rounds: Vec<[ByCall; 2]> = rounds
            .iter()
            .map(|round| {
                [0, 1].map(|side| {
                    let calls = round[side].calls.iter().map(values);
                    calls.filter(|it| !it.is_empty()).collect()
                })
            })
            .collect();
        for (label, quantile) in [("p50", 0.5), ("p95", 0.95)] {
            let name = format!("{name} {label}");
            found.extend(ratio(name, &rounds, quantile, &mut random));
        }
    }
    found
}

type Values = fn(&CallRow) -> Vec<f64>;

const SUBJECTS: [(&str, Values); 3] = [
    ("set-up", |call| call.set_up_ms.into_iter().collect()),
    ("turn latency", |call| {
        let turns = call.turns.iter();
        turns.filter_map(|(_, latency)| *latency).collect()
    }),
    ("barge-in to silence", |call| call.barge_ins_ms.clone()),
];

fn ratio(
    name: String,
    rounds: &[[ByCall; 2]],
    quantile: f64,
    random: &mut fastrand::Rng,
) -> Option<Ratio> {
    let side = |side: usize| -> Vec<&[f64]> {
        let calls = rounds.iter().flat_map(|round| &round[side]);
        calls.map(Vec::as_slice).collect()
    };
    let (a, b) = (side(0), side(1));
    let n = a.len().min(b.len());
    if n < least_calls(quantile) {
        return None;
    }
    let before = quantile_of(a.concat(), quantile);
    let after = quantile_of(b.concat(), quantile);
    let (mut low, mut high) = by_calls([&a, &b], quantile, random);
    if let Some((lower, higher)) = by_rounds(rounds, quantile) {
        (low, high) = (low.min(lower), high.max(higher));
    }
    Some(Ratio {
        name,
        a: before,
        b: after,
        ratio: after / before.max(f64::MIN_POSITIVE),
        low,
        high,
    })
}

/// With fewer calls, a quantile is larger than all values, or smaller, in more than one case of twenty.
fn least_calls(quantile: f64) -> usize {
    let outermost = quantile.max(1.0 - quantile);
    // For the median, both sides can be wrong.
    let may_be_wrong: f64 = if outermost > 0.5 { 0.05 } else { 0.025 };
    (may_be_wrong.ln() / outermost.ln()).ceil() as usize
}

fn by_calls(sides: [&[&[f64]]; 2], quantile: f64, random: &mut fastrand::Rng) -> (f64, f64) {
    let mut drawn: Vec<f64> = (0..N_DRAWS)
        .map(|_| {
            let [before, after] = sides.map(|calls| {
                let again = (0..calls.len()).flat_map(|_| calls[random.usize(..calls.len())]);
                quantile_of(again.copied().collect(), quantile)
            });
            after / before.max(f64::MIN_POSITIVE)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let n = sides[0].len().min(sides[1].len()) as f64;
    let tail = normal_tail((n / (n - 1.0)).sqrt() * student_t(n as usize - 1));
    let from_end = (tail * N_DRAWS as f64).floor() as usize;
    (drawn[from_end], drawn[N_DRAWS - 1 - from_end])
}

/// None if there are too few rounds that have both sides.
fn by_rounds(rounds: &[[ByCall; 2]], quantile: f64) -> Option<(f64, f64)> {
    let logs: Vec<f64> = rounds
        .iter()
        .filter(|round| round.iter().all(|calls| !calls.is_empty()))
        .map(|round| {
            let [before, after] = [0, 1].map(|side| quantile_of(round[side].concat(), quantile));
            (after / before.max(f64::MIN_POSITIVE))
                .max(f64::MIN_POSITIVE)
                .ln()
        })
        .collect();
    if logs.len() < LEAST_ROUNDS {
        return None;
    }
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = student_t(logs.len() - 1) * (variance / n).sqrt();
    Some(((mean - half).exp(), (mean + half).exp()))
}

fn quantile_of(mut values: Vec<f64>, quantile: f64) -> f64 {
    let index = (quantile * values.len() as f64).ceil() as usize;
    let index = index.clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(index, f64::total_cmp).1
}

/// The 97.5 % quantile of Student's t, from any table of it; between its rows the row above, which is the wider.
fn student_t(freedom: usize) -> f64 {
    const ROWS: [(usize, f64); 22] = [
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (5, 2.571),
        (6, 2.447),
        (7, 2.365),
        (8, 2.306),
        (9, 2.262),
        (10, 2.228),
        (11, 2.201),
        (12, 2.179),
        (13, 2.160),
        (14, 2.145),
        (15, 2.131),
        (17, 2.110),
        (20, 2.086),
        (25, 2.060),
        (30, 2.042),
        (60, 2.000),
        (120, 1.980),
        (1_000, 1.962),
    ];
    let row = ROWS.iter().rev().find(|(row, _)| *row <= freedom.max(1));
    row.map_or(12.706, |(_, t)| *t)
}

/// How much of the normal distribution lies above `x`, which is not negative (Abramowitz and Stegun 26.2.17; the error is
/// below 7.5e-8).
fn normal_tail(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let factors = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let polynomial = factors.iter().rev().fold(0.0, |sum, it| (sum + it) * t);
    polynomial * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
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

    /// Calls of three turns: log-normal by call (sigma 0.3), and by turn (sigma 0.1), with the median `median_ms`.
    fn report(median_ms: f64, n_calls: u64, random: &mut fastrand::Rng) -> RunReport {
        let calls = (0..n_calls).map(|n| {
            let of_call = median_ms * (0.3 * normal(random)).exp();
            CallRow {
                n,
                turns: (0..3)
                    .map(|_| (0.0, Some(of_call * (0.1 * normal(random)).exp())))
                    .collect(),
                ..CallRow::default()
            }
        });
        RunReport {
            calls: calls.collect(),
            ..RunReport::default()
        }
    }

    /// By Box and Muller.
    fn normal(random: &mut fastrand::Rng) -> f64 {
        let (u, v) = (1.0 - random.f64(), random.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn rounds(n: usize, a: f64, b: f64, n_calls: u64, random: &mut fastrand::Rng) -> Vec<Round> {
        let mut round = || [report(a, n_calls, random), report(b, n_calls, random)];
        (0..n).map(|_| round()).collect()
    }

    /// How many of 100 comparisons of distributions whose true ratio is 1.2 say anything else.
    fn n_wrong(n_rounds: usize, n_calls: u64, name: &str) -> usize {
        let mut random = fastrand::Rng::with_seed(7);
        let is_wrong = |seed: u64| {
            let rounds = rounds(n_rounds, 500.0, 600.0, n_calls, &mut random);
            let all = ratios(&rounds, seed);
            let ratio = all.iter().find(|it| it.name == name).unwrap();
            ratio.low > 1.2 || ratio.high < 1.2
        };
        (0..100).map(is_wrong).filter(|it| *it).count()
    }

    #[test]
    fn known_ratios_lie_within_the_bounds_in_95_of_100() {
        // A true coverage of 95 % has more than nine misses in 100 once in 35 times; the seed is fixed.
        for (n_rounds, n_calls) in [(1, 6), (1, 12), (2, 20), (4, 3)] {
            let wrong = n_wrong(n_rounds, n_calls, "turn latency p50");
            assert!(wrong <= 9, "{n_rounds} rounds of {n_calls}: {wrong}");
        }
        for (n_rounds, n_calls) in [(1, 60), (4, 15)] {
            let wrong = n_wrong(n_rounds, n_calls, "turn latency p95");
            assert!(wrong <= 9, "{n_rounds} rounds of {n_calls}: {wrong}");
        }
    }

    #[test]
    fn what_differs_by_run_is_not_taken_for_a_difference() {
        // Each run is up to a third slower or faster than the others: 200 calls in it say nothing of that.
        let mut random = fastrand::Rng::with_seed(3);
        let mut n_wrong = 0;
        for seed in 0..40 {
            let mut run = || {
                let median = 500.0 * (0.2 * normal(&mut random)).exp();
                report(median, 50, &mut random)
            };
            let rounds: Vec<Round> = (0..4).map(|_| [run(), run()]).collect();
            let all = ratios(&rounds, seed);
            n_wrong += usize::from(all[0].low > 1.0 || all[0].high < 1.0);
        }
        assert!(n_wrong <= 5, "{n_wrong} of 40");
    }

    #[test]
    fn a_difference_is_shown() {
        let mut random = fastrand::Rng::with_seed(1);
        let all = ratios(&rounds(4, 500.0, 600.0, 50, &mut random), 1);
        let names: Vec<_> = all.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["turn latency p50", "turn latency p95"]);
        assert!(all[0].low > 1.0 && all[0].high < 1.45, "{}", all[0]);
    }

    #[test]
    fn too_few_calls_say_nothing() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut n_said = |n_calls| ratios(&rounds(1, 1.0, 1.0, n_calls, &mut random), 1).len();
        assert_eq!([n_said(5), n_said(6), n_said(58), n_said(59)], [0, 1, 1, 2]);
        assert!(ratios(&[], 1).is_empty());
    }

    #[test]
    fn tables() {
        assert!((normal_tail(0.0) - 0.5).abs() < 1e-6);
        assert!((normal_tail(1.96) - 0.025).abs() < 1e-5);
        assert_eq!(student_t(3), 3.182);
        assert_eq!(student_t(19), 2.110);
        assert_eq!(student_t(5_000), 1.962);
    }
}
