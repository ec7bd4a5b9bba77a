//! Whether one target is worse than another: ratios of quantiles and differences of shares, with the confidence that calls
//! and rounds allow. Pure.
//!
//! Times are compared by the ratio of a quantile, shares by their difference, which there is also where a share is 0. Two
//! intervals are made of each, and the wider bounds of both are told:
//!
//! - by calls: whole calls of all rounds are drawn anew, because turns and frames of one call resemble each other (a cluster
//!   bootstrap). Few calls make its intervals too narrow, so that its tails are taken further out, as far as Student's t
//!   with that many calls asks for (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015: the expanded
//!   percentile interval). What did not happen cannot be drawn: for shares, each side is given two calls more, one like the
//!   best of both sides and one like the worst (as Agresti and Caffo do for single trials, "Simple and Effective Confidence
//!   Intervals for Proportions and Differences of Proportions Result from Adding Two Successes and Two Failures", 2000);
//! - by rounds: what differs from one run to the next, calls cannot show. With three rounds or more, the contrasts of single
//!   rounds are taken for a sample of their own, with Student's t for their number.
//!
//! A quantile of which a side has too few calls to bound it by any method is left out: the largest of fewer than 59
//! values is below the p95 in more than one case of twenty.
//!
//! Of many comparisons, some are outside their bounds by chance. The second is shown to be worse only by bounds that hold for
//! all judged comparisons together in 95 of 100 cases (Bonferroni: each has its share of the 5).

mod sample;
mod student;
mod table;

use serde::Serialize;

use crate::report::{CallRow, RunIdentity, RunReport};

use sample::Sample;

/// Of the first and the second in one round.
pub type Round = [RunReport; 2];

/// The layout of the JSON.
pub const VERSION: u32 = 1;

/// All that was compared, and what was not.
#[derive(Clone, Debug, Serialize)]
pub struct Comparisons {
    /// [`VERSION`].
    pub version: u32,
    /// Rounds that were run whole.
    pub rounds: usize,
    /// The first.
    pub a: Target,
    /// The second.
    pub b: Target,
    /// How sure the bounds are: each by itself, or all that are judged together.
    pub confidence: f64,
    /// Comparisons that share in the bounds for all together.
    pub n_judged: usize,
    /// Whether any is [`Verdict::Worse`].
    pub is_worse: bool,
    /// One by one.
    pub comparisons: Vec<Comparison>,
}

/// Who was called on one side.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Target {
    /// Of the scenario.
    pub name: String,
    /// Its address.
    pub target: String,
    /// In which wire format.
    pub dialect: String,
    /// The runs of all rounds.
    pub runs: Vec<RunIdentity>,
}

/// One thing of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What, by its name in thresholds: `turn_latency p95`, `lost_frames`.
    pub name: String,
    /// Of the first and the second.
    pub unit: Unit,
    /// In the first.
    pub a: Option<f64>,
    /// In the second.
    pub b: Option<f64>,
    /// The second to the first; none where the first is 0.
    pub ratio: Option<f64>,
    /// Of the ratio of times, of the difference of shares (the second less the first); right in 95 of 100 cases.
    pub bounds: Option<Bounds>,
    /// Of the same; those of all judged comparisons are right together in 95 of 100 cases. None if this is not judged, or if
    /// there are too few calls to be that sure.
    pub bounds_together: Option<Bounds>,
    /// Whether it is one of those that decide.
    pub is_judged: bool,
    /// What follows.
    pub verdict: Verdict,
    /// Why it was not compared.
    pub why: Option<String>,
}

/// What a comparison is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A time.
    Ms,
    /// Of 1.
    Share,
}

/// Between which values something lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
}

/// What a comparison shows of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is worse, by the bounds for all together.
    Worse,
    /// It is worse by the bounds of this comparison alone.
    PerhapsWorse,
    /// No difference is shown.
    NotShown,
    /// It is better by the bounds of this comparison alone.
    PerhapsBetter,
    /// It is better, by the bounds for all together.
    Better,
    /// There is too little to compare.
    NotCompared,
}

/// How often bounds may be wrong.
const MAY_BE_WRONG: f64 = 0.05;

/// What is compared of a call.
#[derive(Clone, Copy)]
enum Subject {
    /// Times in ms, and how often each.
    Times(fn(&CallRow) -> Vec<(f64, u64)>),
    /// So many of so many.
    Share(fn(&CallRow) -> (u64, u64)),
}

const SUBJECTS: [(&str, Subject); 11] = [
    (
        "failed_calls",
        Subject::Share(|call| (u64::from(call.outcome != "completed"), 1)),
    ),
    (
        "unanswered_turns",
        Subject::Share(|call| {
            let n = call.turns.len() as u64;
            (n.saturating_sub(call.turns_answered), n)
        }),
    ),
    (
        "lost_frames",
        Subject::Share(|call| (call.frames.lost, call.frames.expected)),
    ),
    (
        "faulty_frames",
        Subject::Share(|call| (call.frames.faulty(), call.frames.came())),
    ),
    (
        "foreign_frames",
        Subject::Share(|call| (call.frames.foreign, call.frames.came())),
    ),
    ("set_up", Subject::Times(|call| once(call.set_up_ms))),
    (
        "first_audio",
        Subject::Times(|call| once(call.first_audio_ms.iter().copied())),
    ),
    (
        "turn_latency",
        Subject::Times(|call| once(call.turns.iter().filter_map(|(_, latency)| *latency))),
    ),
    (
        "barge_in_silence",
        Subject::Times(|call| once(call.barge_ins_ms.iter().copied())),
    ),
    (
        "frame_up",
        Subject::Times(|call| {
            let ways = call.frames_up_us.iter();
            ways.map(|(us, n)| (*us as f64 / 1e3, *n)).collect()
        }),
    ),
    (
        "frame_down",
        Subject::Times(|call| once(call.frames_down_ms.iter().copied())),
    ),
];

fn once(values: impl IntoIterator<Item = f64>) -> Vec<(f64, u64)> {
    values.into_iter().map(|ms| (ms, 1)).collect()
}

/// Of each time.
const QUANTILES: [(&str, f64); 2] = [("p50", 0.5), ("p95", 0.95)];

/// The names of all comparisons.
#[must_use]
pub fn names() -> Vec<String> {
    let all = statistics().into_iter();
    all.map(|(name, ..)| name).collect()
}

/// Whether somebody who names this means that comparison: `turn_latency` are both its quantiles.
#[must_use]
pub fn means(named: &str, name: &str) -> bool {
    let rest = name.strip_prefix(named);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn statistics() -> Vec<(String, Subject, Option<f64>)> {
    let mut all = Vec::new();
    for (name, subject) in SUBJECTS {
        match subject {
            Subject::Share(_) => all.push((name.to_owned(), subject, None)),
            Subject::Times(_) => all.extend(
                QUANTILES
                    .map(|(label, quantile)| (format!("{name} {label}"), subject, Some(quantile))),
            ),
        }
    }
    all
}

/// Compares over all rounds. Those that are named in `judged` decide whether the second is worse; all, if none is.
#[must_use]
pub fn compare(rounds: &[Round], judged: &[String], seed: u64) -> Comparisons {
    let mut random = fastrand::Rng::with_seed(seed);
    let is_judged = |name: &str| judged.is_empty() || judged.iter().any(|named| means(named, name));
    let samples: Vec<_> = statistics()
        .into_iter()
        .map(|(name, subject, quantile)| {
            let sample = Sample::of(rounds, subject, quantile);
            (is_judged(&name), name, sample)
        })
        .collect();
    let decides = |sample: &Sample| sample.too_few(MAY_BE_WRONG).is_none();
    let n_judged = samples
        .iter()
        .filter(|(is_judged, _, it)| *is_judged && decides(it))
        .count();
    let comparisons: Vec<_> = samples
        .into_iter()
        .map(|(is_judged, name, sample)| {
            let together = is_judged.then(|| MAY_BE_WRONG / n_judged.max(1) as f64);
            sample.compare(name, together, &mut random)
        })
        .collect();
    let side = |side: usize| {
        let runs = rounds.iter().flat_map(|round| round[side].runs.clone());
        let first = rounds.first().map(|round| &round[side]);
        let of =
            |text: fn(&RunReport) -> &String| first.map_or_else(String::new, |it| text(it).clone());
        Target {
            name: of(|it| &it.name),
            target: of(|it| &it.target),
            dialect: of(|it| &it.dialect),
            runs: runs.collect(),
        }
    };
    Comparisons {
        version: VERSION,
        rounds: rounds.len(),
        a: side(0),
        b: side(1),
        confidence: 1.0 - MAY_BE_WRONG,
        n_judged,
        is_worse: comparisons.iter().any(|it| it.verdict == Verdict::Worse),
        comparisons,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Tally;

    /// By Box and Muller.
    fn normal(random: &mut fastrand::Rng) -> f64 {
        let (u, v) = (1.0 - random.f64(), random.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// A call of three turns: log-normal by call (sigma 0.3), and by turn (sigma 0.1), with the median `median_ms`.
    fn slow(median_ms: f64, random: &mut fastrand::Rng) -> CallRow {
        let of_call = median_ms * (0.3 * normal(random)).exp();
        let mut turn = || (0.0, Some(of_call * (0.1 * normal(random)).exp()));
        CallRow {
            turns: vec![turn(), turn(), turn()],
            turns_answered: 3,
            outcome: "completed".to_owned(),
            ..CallRow::default()
        }
    }

    /// A call that fails so often, and loses frames in one of five cases, a tenth of `lost` to twice as many.
    fn bad(fails: f64, lost: f64, random: &mut fastrand::Rng) -> CallRow {
        let expected = random.u64(100..400);
        let lost = match random.u8(..5) {
            0 => (expected as f64 * lost * (0.1 + 1.9 * random.f64())) as u64,
            _ => 0,
        };
        let outcome = if random.f64() < fails {
            "refused 503"
        } else {
            "completed"
        };
        CallRow {
            outcome: outcome.to_owned(),
            frames: Tally {
                expected,
                lost,
                ..Tally::default()
            },
            ..CallRow::default()
        }
    }

    type Call<'a> = &'a mut dyn FnMut(usize) -> CallRow;

    /// Rounds of so many calls on each side, each made for its side.
    fn rounds(n_rounds: usize, n_calls: usize, call: Call<'_>) -> Vec<Round> {
        let mut report = |side| RunReport {
            calls: (0..n_calls).map(|_| call(side)).collect(),
            ..RunReport::default()
        };
        (0..n_rounds).map(|_| [report(0), report(1)]).collect()
    }

    fn one(rounds: &[Round], name: &str, seed: u64) -> Comparison {
        let mut all = statistics().into_iter();
        let (_, subject, quantile) = all.find(|(own, ..)| own == name).unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        let sample = Sample::of(rounds, subject, quantile);
        sample.compare(name.to_owned(), Some(MAY_BE_WRONG), &mut random)
    }

    /// How many of 100 comparisons say anything but the truth. A true coverage of 95 % has more than nine misses in 100 once in
    /// 35 times; the seed is fixed.
    fn check_covered(
        n_rounds: usize,
        n_calls: usize,
        name: &str,
        truth: f64,
        call: &dyn Fn(usize, &mut fastrand::Rng) -> CallRow,
    ) {
        let mut random = fastrand::Rng::with_seed(7);
        let mut n_wrong = 0;
        for seed in 0..100 {
            let rounds = rounds(n_rounds, n_calls, &mut |side| call(side, &mut random));
            let bounds = one(&rounds, name, seed).bounds.unwrap();
            n_wrong += u32::from(bounds.low > truth || bounds.high < truth);
        }
        assert!(
            n_wrong <= 9,
            "{name}, {n_rounds} rounds of {n_calls}: {n_wrong}"
        );
    }

    #[test]
    fn known_ratios_lie_within_the_bounds_in_95_of_100() {
        let call = |side, random: &mut fastrand::Rng| slow([500.0, 600.0][side], random);
        for (n_rounds, n_calls) in [(1, 6), (1, 12), (2, 20), (4, 3)] {
            check_covered(n_rounds, n_calls, "turn_latency p50", 1.2, &call);
        }
        for (n_rounds, n_calls) in [(1, 60), (4, 15)] {
            check_covered(n_rounds, n_calls, "turn_latency p95", 1.2, &call);
        }
    }

    #[test]
    fn known_differences_of_shares_do_so_too() {
        for (a, b) in [(0.1, 0.25), (0.0, 0.02), (0.02, 0.02), (0.9, 0.5)] {
            let call = |side, random: &mut fastrand::Rng| bad([a, b][side], 0.0, random);
            for (n_rounds, n_calls) in [(1, 20), (4, 15)] {
                check_covered(n_rounds, n_calls, "failed_calls", b - a, &call);
            }
        }
        // One call of five loses 1.05 times as much on average.
        let call = |side, random: &mut fastrand::Rng| bad(0.0, [0.1, 0.3][side], random);
        for (n_rounds, n_calls) in [(1, 30), (4, 15)] {
            check_covered(n_rounds, n_calls, "lost_frames", 0.2 * 0.2 * 1.05, &call);
        }
    }

    #[test]
    fn frames_of_one_call_are_one_call() {
        // Of a thousand frames, all take as long as the call lets them: as many calls, not as many frames, say something.
        let call = |_, random: &mut fastrand::Rng| CallRow {
            frames_up_us: vec![((1_000.0 * (0.5 * normal(random)).exp()) as u64, 1_000)],
            ..CallRow::default()
        };
        check_covered(1, 12, "frame_up p50", 1.0, &call);
    }

    #[test]
    fn what_differs_by_run_is_not_taken_for_a_difference() {
        // Each run is up to a third slower or faster than the others: 200 calls in it say nothing of that.
        let mut random = fastrand::Rng::with_seed(3);
        let mut n_wrong = 0;
        for seed in 0..40 {
            let mut run = || {
                let median = 500.0 * (0.2 * normal(&mut random)).exp();
                RunReport {
                    calls: (0..50).map(|_| slow(median, &mut random)).collect(),
                    ..RunReport::default()
                }
            };
            let rounds: Vec<Round> = (0..4).map(|_| [run(), run()]).collect();
            let verdict = one(&rounds, "turn_latency p50", seed).verdict;
            n_wrong += u32::from(verdict != Verdict::NotShown);
        }
        assert!(n_wrong <= 5, "{n_wrong} of 40");
    }

    /// A call of which everything is measured.
    fn whole(random: &mut fastrand::Rng) -> CallRow {
        let mut ms = |median: f64| median * (0.3 * normal(random)).exp();
        let times = |of: &mut dyn FnMut(f64) -> f64| vec![of(300.0), of(300.0)];
        let (first_audio_ms, barge_ins_ms, frames_down_ms) =
            (times(&mut ms), times(&mut ms), times(&mut ms));
        CallRow {
            set_up_ms: Some(ms(5.0)),
            frames_up_us: vec![(ms(1_500.0) as u64, 100), (ms(2_500.0) as u64, 20)],
            first_audio_ms,
            barge_ins_ms,
            frames_down_ms,
            turns: slow(600.0, random).turns,
            turns_answered: random.u64(2..=3),
            ..bad(0.1, 0.1, random)
        }
    }

    #[test]
    fn of_many_comparisons_none_is_worse_by_chance() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut n_worse, mut n_perhaps) = (0, 0);
        for seed in 0..20 {
            let rounds = rounds(1, 120, &mut |_| whole(&mut random));
            let all = compare(&rounds, &[], seed);
            // All but faulty and foreign frames: none came.
            assert_eq!(all.n_judged, names().len() - 2);
            n_worse += u32::from(all.is_worse);
            let perhaps = |it: &Comparison| it.verdict == Verdict::PerhapsWorse;
            n_perhaps += u32::from(all.comparisons.iter().any(perhaps));
        }
        // By the bounds of each alone, every third would be.
        assert!(n_worse <= 2, "{n_worse} of 20");
        assert!(n_perhaps > 2, "{n_perhaps} of 20");
    }

    #[test]
    fn fewer_judged_comparisons_show_more() {
        let mut random = fastrand::Rng::with_seed(1);
        let rounds = rounds(1, 120, &mut |_| whole(&mut random));
        let all = compare(&rounds, &["turn_latency".to_owned()], 1);
        assert_eq!(all.n_judged, 2);
        let alone = one(&rounds, "turn_latency p95", 1);
        assert_eq!(alone.bounds, alone.bounds_together);
        let of_all = compare(&rounds, &[], 1).comparisons;
        for it in of_all
            .iter()
            .filter(|it| it.verdict != Verdict::NotCompared)
        {
            let (narrow, wide) = (it.bounds.unwrap(), it.bounds_together);
            assert!(
                wide.is_none_or(|wide| wide.low < narrow.low && wide.high > narrow.high),
                "{it}"
            );
        }
        assert!(
            means("turn_latency", "turn_latency p50")
                && means("turn_latency p50", "turn_latency p50")
        );
        assert!(
            !means("turn", "turn_latency p50") && !means("turn_latency p5", "turn_latency p50")
        );
    }

    #[test]
    fn a_difference_is_shown() {
        let mut random = fastrand::Rng::with_seed(1);
        let rounds = rounds(4, 50, &mut |side| slow([500.0, 600.0][side], &mut random));
        let all = compare(&rounds, &[], 1);
        let ratio = &all
            .comparisons
            .iter()
            .find(|it| it.name == "turn_latency p50")
            .unwrap();
        assert!(ratio.bounds.unwrap().high < 1.45, "{ratio}");
        let names: Vec<_> = all
            .comparisons
            .iter()
            .filter(|it| it.verdict != Verdict::NotCompared)
            .map(|it| it.name.as_str())
            .collect();
        let expected = [
            "failed_calls",
            "unanswered_turns",
            "turn_latency p50",
            "turn_latency p95",
        ];
        assert_eq!(names, expected);
        let alone = compare(&rounds, &["turn_latency p50".to_owned()], 1);
        assert!(alone.is_worse, "{}", alone.to_text());
    }

    #[test]
    fn nothing_in_the_first_is_no_infinity() {
        // So many of 40 calls fail on each side.
        let failing = |n: [usize; 2]| {
            let mut made = [0; 2];
            let rounds = rounds(1, 40, &mut |side| {
                made[side] += 1;
                let outcome = if made[side] <= n[side] {
                    "connect"
                } else {
                    "completed"
                };
                CallRow {
                    outcome: outcome.to_owned(),
                    ..CallRow::default()
                }
            });
            one(&rounds, "failed_calls", 1)
        };
        let worse = failing([0, 10]);
        assert_eq!((worse.ratio, worse.verdict), (None, Verdict::Worse));
        assert!(
            worse.to_string().ends_with("worse, none in the first"),
            "{worse}"
        );
        assert_eq!(failing([0, 3]).verdict, Verdict::NotShown);
        assert_eq!(failing([10, 0]).verdict, Verdict::Better);
        // Nothing happened, and nothing is certain by that.
        for n in [[0, 0], [40, 40]] {
            let none = failing(n);
            let bounds = none.bounds.unwrap();
            assert_eq!(none.verdict, Verdict::NotShown);
            assert!(bounds.low < -0.02 && bounds.high > 0.02, "{none}");
        }
    }

    #[test]
    fn shares_differ_by_no_more_than_all() {
        // Each round tells another story: by rounds alone, bounds would be far beyond.
        let mut n_made = 0;
        let rounds = rounds(3, 10, &mut |side| {
            let round = n_made / 20;
            n_made += 1;
            let fails = round != 1 && (round == 2) == (side == 1);
            CallRow {
                outcome: if fails { "connect" } else { "completed" }.to_owned(),
                ..CallRow::default()
            }
        });
        let bounds = one(&rounds, "failed_calls", 1).bounds.unwrap();
        assert_eq!((bounds.low, bounds.high), (-1.0, 1.0));
    }

    #[test]
    fn too_little_says_nothing() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut n_said = |n_calls| {
            let rounds = rounds(1, n_calls, &mut |_| slow(1.0, &mut random));
            let all = compare(&rounds, &[], 1).comparisons;
            let is_said =
                |it: &&Comparison| it.name.starts_with("turn_latency") && it.why.is_none();
            all.iter().filter(is_said).count()
        };
        assert_eq!([n_said(5), n_said(6), n_said(58), n_said(59)], [0, 1, 1, 2]);
        let nothing = compare(&[], &[], 1);
        assert_eq!((nothing.n_judged, nothing.is_worse), (0, false));
        let lopsided = rounds(1, 10, &mut |side| bad(0.0, side as f64, &mut random));
        let mut lopsided = lopsided;
        for call in &mut lopsided[0][0].calls {
            call.frames = Tally::default();
        }
        let lost = one(&lopsided, "lost_frames", 1);
        assert_eq!(lost.why.as_deref(), Some("nothing of it in the first"));
        assert_eq!((lost.a, lost.ratio, lost.bounds), (None, None, None));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut random = fastrand::Rng::with_seed(2);
        let all = compare(&rounds(1, 30, &mut |_| whole(&mut random)), &[], 1);
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
        assert_eq!(json["is_worse"], all.is_worse);
        let written = json["comparisons"].as_array().unwrap();
        for (it, written) in all.comparisons.iter().zip(written) {
            assert_eq!(written["name"], it.name);
            assert_eq!(written["verdict"], it.verdict.name());
            let low = it.bounds.map(|it| it.low);
            assert_eq!(written["bounds"]["low"].as_f64(), low);
        }
        let csv = all.to_csv();
        let mut lines = csv.lines();
        assert!(lines.next().unwrap().starts_with("name,unit,a,b,ratio,"));
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.len(), names().len());
        assert_eq!(
            (rows[0][0], rows[0][1], rows[0].len()),
            ("failed_calls", "share", 12)
        );
    }
}
