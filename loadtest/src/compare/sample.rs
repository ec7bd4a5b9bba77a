//! One thing of both sides, call by call, and the bounds that calls and rounds allow. How they are made is told in `mod.rs`.

use super::student::{normal_tail, student_t};
use super::{Bounds, Comparison, MAY_BE_WRONG, Round, Subject, Unit, Verdict};
use crate::report::CallRow;

/// Redrawings.
const N_DRAWS: usize = 4_000;

/// So many of the outermost redrawings have to lie beyond a bound. With fewer it is taken further out by the spread of all.
const LEAST_BEYOND: f64 = 10.0;

/// Rounds from which on they are a sample of their own.
const LEAST_ROUNDS: usize = 3;

/// Calls without which a share says nothing.
const LEAST_CALLS: usize = 6;

/// Times are told to the microsecond; what takes less is taken for one.
const LEAST_MS: f64 = 1e-3;

/// The calls of one side.
enum Side {
    /// Times, in order: each in ms, of which call, and how often; and how many each call has.
    Times {
        sorted: Vec<(f64, usize, u64)>,
        of_call: Vec<u64>,
        quantile: f64,
    },
    /// For each call, so many of so many.
    Share(Vec<(f64, f64)>),
}

impl Side {
    fn of<'a>(
        calls: impl Iterator<Item = &'a CallRow>,
        subject: Subject,
        quantile: Option<f64>,
    ) -> Self {
        match subject {
            Subject::Times(times) => {
                let calls: Vec<_> = calls.map(times).filter(|it| !it.is_empty()).collect();
                let of_call = calls.iter().map(|it| it.iter().map(|(_, n)| n).sum());
                let of_call = of_call.collect();
                let values = calls.iter().enumerate();
                let mut sorted: Vec<_> = values
                    .flat_map(|(call, it)| it.iter().map(move |(ms, n)| (*ms, call, *n)))
                    .collect();
                sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
                Self::Times {
                    sorted,
                    of_call,
                    quantile: quantile.unwrap_or(0.5),
                }
            }
            Subject::Share(share) => {
                let calls = calls.map(share).filter(|(_, all)| *all > 0);
                Self::Share(calls.map(|(part, all)| (part as f64, all as f64)).collect())
            }
        }
    }

    fn n_calls(&self) -> usize {
        match self {
            Self::Times { of_call, .. } => of_call.len(),
            Self::Share(calls) => calls.len(),
        }
    }

    /// The quantile or the share, if each call is taken so often; there is at least one.
    fn value(&self, often: &[u32]) -> f64 {
        match self {
            Self::Times {
                sorted,
                of_call,
                quantile,
            } => {
                let n: u64 = of_call
                    .iter()
                    .zip(often)
                    .map(|(n, times)| n * u64::from(*times))
                    .sum();
                let rank = ((quantile * n as f64).ceil() as u64).max(1);
                let mut so_far = 0;
                let reached = sorted.iter().find(|(_, call, n)| {
                    so_far += n * u64::from(often[*call]);
                    so_far >= rank
                });
                reached.map_or(0.0, |(ms, ..)| *ms)
            }
            Self::Share(calls) => {
                let sum = |of: fn(&(f64, f64)) -> f64| -> f64 {
                    let calls = calls.iter().zip(often);
                    calls
                        .map(|(call, times)| of(call) * f64::from(*times))
                        .sum()
                };
                sum(|(part, _)| *part) / sum(|(_, all)| *all)
            }
        }
    }

    fn whole(&self) -> f64 {
        self.value(&vec![1; self.n_calls()])
    }

    /// The same with every call drawn anew.
    fn drawn(&self, often: &mut Vec<u32>, random: &mut fastrand::Rng) -> f64 {
        let n = self.n_calls();
        often.clear();
        often.resize(n, 0);
        for _ in 0..n {
            often[random.usize(..n)] += 1;
        }
        self.value(often)
    }
}

/// What is known of one thing: of both sides over all rounds, and in each.
pub(super) struct Sample {
    sides: [Side; 2],
    rounds: Vec<[Side; 2]>,
    quantile: Option<f64>,
}

impl Sample {
    pub(super) fn of(rounds: &[Round], subject: Subject, quantile: Option<f64>) -> Self {
        let sides = [0, 1].map(|side| {
            let calls = rounds.iter().flat_map(|round| &round[side].calls);
            Side::of(calls, subject, quantile)
        });
        let round = |round: &Round| {
            [0, 1].map(|side| Side::of(round[side].calls.iter(), subject, quantile))
        };
        Self {
            sides,
            rounds: rounds.iter().map(round).collect(),
            quantile,
        }
    }

    fn unit(&self) -> Unit {
        self.quantile.map_or(Unit::Share, |_| Unit::Ms)
    }

    /// What bounds are of: the logarithm of a ratio, or a difference.
    fn contrast(&self, [a, b]: [f64; 2]) -> f64 {
        match self.unit() {
            Unit::Ms => (b.max(LEAST_MS) / a.max(LEAST_MS)).ln(),
            Unit::Share => b - a,
        }
    }

    /// Why bounds cannot be as sure as that, if so.
    pub(super) fn too_few(&self, may_be_wrong: f64) -> Option<String> {
        let [a, b] = [0, 1].map(|side: usize| self.sides[side].n_calls());
        let least = least_calls(self.quantile, may_be_wrong);
        match (a, b) {
            (0, 0) => Some("nothing of it on either side".to_owned()),
            (0, _) => Some("nothing of it in the first".to_owned()),
            (_, 0) => Some("nothing of it in the second".to_owned()),
            _ if a.min(b) < least => Some(format!(
                "too few calls: {a} and {b}, where {least} are needed"
            )),
            _ => None,
        }
    }

    pub(super) fn compare(
        self,
        name: String,
        together: Option<f64>,
        random: &mut fastrand::Rng,
    ) -> Comparison {
        let [a, b] = self
            .sides
            .each_ref()
            .map(|side| (side.n_calls() > 0).then(|| side.whole()));
        let mut comparison = Comparison {
            name,
            unit: self.unit(),
            a,
            b,
            ratio: a.zip(b).filter(|(a, _)| *a > 0.0).map(|(a, b)| b / a),
            bounds: None,
            bounds_together: None,
            is_judged: together.is_some(),
            verdict: Verdict::NotCompared,
            why: self.too_few(MAY_BE_WRONG),
        };
        let (Some(a), Some(b), None) = (a, b, &comparison.why) else {
            return comparison;
        };
        let draws = Draws::of(&self, [a, b], random);
        let bounds = draws.bounds(&self, MAY_BE_WRONG);
        let surer = together.filter(|it| self.too_few(*it).is_none());
        let surer = surer.map(|may_be_wrong| draws.bounds(&self, may_be_wrong));
        comparison.verdict = verdict(bounds, surer);
        let told = |bounds: Bounds| match self.unit() {
            Unit::Share => bounds,
            Unit::Ms => Bounds {
                low: bounds.low.exp(),
                high: bounds.high.exp(),
            },
        };
        comparison.bounds = Some(told(bounds));
        comparison.bounds_together = surer.map(told);
        comparison
    }

    /// With as many rounds as it takes, from their contrasts.
    fn by_rounds(&self, may_be_wrong: f64) -> Option<Bounds> {
        let rounds = self.rounds.iter();
        let contrasts: Vec<f64> = rounds
            .filter(|round| round.iter().all(|side| side.n_calls() > 0))
            .map(|round| self.contrast(round.each_ref().map(Side::whole)))
            .collect();
        if contrasts.len() < LEAST_ROUNDS {
            return None;
        }
        let (mean, deviation) = spread(&contrasts);
        let n = contrasts.len();
        let half = student_t(n - 1, may_be_wrong) * deviation / (n as f64).sqrt();
        Some(Bounds {
            low: mean - half,
            high: mean + half,
        })
    }
}

fn verdict(bounds: Bounds, together: Option<Bounds>) -> Verdict {
    if together.is_some_and(|it| it.low > 0.0) {
        Verdict::Worse
    } else if together.is_some_and(|it| it.high < 0.0) {
        Verdict::Better
    } else if bounds.low > 0.0 {
        Verdict::PerhapsWorse
    } else if bounds.high < 0.0 {
        Verdict::PerhapsBetter
    } else {
        Verdict::NotShown
    }
}

/// Contrasts of calls that were drawn anew.
struct Draws {
    sorted: Vec<f64>,
    /// Of what was measured.
    contrast: f64,
    /// Calls of the smaller side.
    n_calls: usize,
}

impl Draws {
    fn of(sample: &Sample, whole: [f64; 2], random: &mut fastrand::Rng) -> Self {
        let more = with_two_more(&sample.sides);
        let [a, b] = more.as_ref().unwrap_or(&sample.sides);
        let mut often = Vec::new();
        let mut sorted: Vec<f64> = (0..N_DRAWS)
            .map(|_| sample.contrast([a, b].map(|side| side.drawn(&mut often, random))))
            .collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            sorted,
            contrast: sample.contrast(whole),
            n_calls: sample.sides[0].n_calls().min(sample.sides[1].n_calls()),
        }
    }

    /// The wider ones of calls and rounds; what was measured lies between them.
    fn bounds(&self, sample: &Sample, may_be_wrong: f64) -> Bounds {
        let n = self.n_calls as f64;
        let deviations = (n / (n - 1.0)).sqrt() * student_t(self.n_calls - 1, may_be_wrong);
        let n_beyond = normal_tail(deviations) * N_DRAWS as f64;
        let from_end = n_beyond.floor() as usize;
        let mut low = self.sorted[from_end].min(self.contrast);
        let mut high = self.sorted[N_DRAWS - 1 - from_end].max(self.contrast);
        if n_beyond < LEAST_BEYOND {
            let (mean, deviation) = spread(&self.sorted);
            low = low.min(mean - deviations * deviation);
            high = high.max(mean + deviations * deviation);
        }
        if let Some(rounds) = sample.by_rounds(may_be_wrong) {
            (low, high) = (low.min(rounds.low), high.max(rounds.high));
        }
        match sample.unit() {
            Unit::Ms => Bounds { low, high },
            // Shares cannot differ by more than all.
            Unit::Share => Bounds {
                low: low.max(-1.0),
                high: high.min(1.0),
            },
        }
    }
}

/// Shares with two calls more on each side, like the best and the worst of all. Where none is bad the worst is wholly bad,
/// where all are the best is wholly good. They are as long as the others are on average.
fn with_two_more(sides: &[Side; 2]) -> Option<[Side; 2]> {
    let [Side::Share(a), Side::Share(b)] = sides else {
        return None;
    };
    let shares = || a.iter().chain(b).map(|(part, all)| part / all);
    let (best, worst) = (shares().fold(1.0, f64::min), shares().fold(0.0, f64::max));
    let worst = if worst > 0.0 { worst } else { 1.0 };
    let best = if best < 1.0 { best } else { 0.0 };
    Some([a, b].map(|calls| {
        let length = calls.iter().map(|(_, all)| all).sum::<f64>() / calls.len().max(1) as f64;
        let two = [best, worst].map(|share| (share * length, length));
        Side::Share(calls.iter().copied().chain(two).collect())
    }))
}

/// Calls without which bounds cannot be as sure as that. With fewer, a quantile is larger than all values, or smaller, more
/// often than they may be wrong.
fn least_calls(quantile: Option<f64>, may_be_wrong: f64) -> usize {
    let Some(quantile) = quantile else {
        return LEAST_CALLS;
    };
    let outermost = quantile.max(1.0 - quantile);
    // For the median, both sides can be wrong.
    let one_side = if outermost > 0.5 {
        may_be_wrong
    } else {
        may_be_wrong / 2.0
    };
    (one_side.ln() / outermost.ln()).ceil() as usize
}

/// Mean and standard deviation of a sample of two or more.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance.sqrt())
}
