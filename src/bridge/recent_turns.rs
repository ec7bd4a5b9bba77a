//! How fast turns were answered of late, in steps of time, for operators' eyes. Exact figures are the histogram's.

use std::collections::VecDeque;
use std::time::Duration;

/// Length of a step.
pub const TURN_STEP: Duration = Duration::from_secs(10);

/// Steps that are remembered: a quarter of an hour.
const STEPS: u64 = 90;

/// Turns by which a step is judged, the last of it: as many as some thousand calls have in one.
const JUDGED: usize = 1000;

/// The turns of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnStep {
    /// How long ago it began.
    pub began_ago: Duration,
    /// How many there were.
    pub n_turns: u64,
    /// Half of them were answered within so long.
    pub p50: Duration,
    /// 19 of 20 were.
    pub p95: Duration,
}

/// See the module's documentation. Time is counted from one beginning.
#[derive(Debug, Default)]
pub(super) struct RecentTurns {
    /// What is over, the latest last, each with its number.
    past: VecDeque<(u64, Judged)>,
    /// The step that is not over.
    number: u64,
    n_turns: u64,
    latencies: Vec<Duration>,
}

type Judged = (u64, Duration, Duration);

impl RecentTurns {
    /// A turn was answered.
    pub(super) fn add(&mut self, now: Duration, latency: Duration) {
        let number = now.as_secs() / TURN_STEP.as_secs();
        if number != self.number {
            if let Some(judged) = self.judged() {
                self.past.push_back((self.number, judged));
            }
            let is_old = |of: u64| of + STEPS <= number;
            while self.past.front().is_some_and(|(of, _)| is_old(*of)) {
                self.past.pop_front();
            }
            self.number = number;
            self.n_turns = 0;
            self.latencies.clear();
        }
        let place = usize::try_from(self.n_turns).unwrap_or_default() % JUDGED;
        match self.latencies.get_mut(place) {
            Some(oldest) => *oldest = latency,
            None => self.latencies.push(latency),
        }
        self.n_turns += 1;
    }

    /// The steps in which there were turns, the latest last.
    pub(super) fn steps(&self, now: Duration) -> Vec<TurnStep> {
        let last = self.judged().map(|judged| (self.number, judged));
        let steps = self.past.iter().copied().chain(last);
        steps
            .filter(|(number, _)| number + STEPS > now.as_secs() / TURN_STEP.as_secs())
            .map(|(number, (n_turns, p50, p95))| {
                let began = Duration::from_secs(number * TURN_STEP.as_secs());
                TurnStep {
                    began_ago: now.saturating_sub(began),
                    n_turns,
                    p50,
                    p95,
                }
            })
            .collect()
    }

    /// What is known of the step that is not over, if it has turns.
    fn judged(&self) -> Option<Judged> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let quantile = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied()
        };
        Some((self.n_turns, quantile(50)?, quantile(95)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_step_is_judged_by_its_own_turns() {
        let mut turns = RecentTurns::default();
        assert_eq!(turns.steps(s(5)), []);
        for latency in (1..=20).rev() {
            turns.add(s(3), ms(latency * 10));
        }
        turns.add(s(25), ms(700));
        let step = |began_ago, n_turns, p50, p95| TurnStep {
            began_ago: s(began_ago),
            n_turns,
            p50: ms(p50),
            p95: ms(p95),
        };
        let expected = [step(26, 20, 100, 190), step(6, 1, 700, 700)];
        assert_eq!(turns.steps(s(26)), expected);
    }

    #[test]
    fn a_quarter_of_an_hour_is_remembered() {
        let mut turns = RecentTurns::default();
        for second in 0..4000 {
            turns.add(s(second), ms(100));
        }
        assert_eq!(turns.past.len(), 89);
        assert_eq!(turns.steps(s(3999)).len(), 90);
        // Nobody speaks any more.
        assert_eq!(turns.steps(s(3999 + 600)).len(), 30);
        assert_eq!(turns.steps(s(9000)), []);
        turns.add(s(9000), ms(100));
        assert_eq!((turns.past.len(), turns.steps(s(9000)).len()), (0, 1));
    }

    #[test]
    fn many_turns_are_judged_by_the_last_of_them() {
        let mut turns = RecentTurns::default();
        for n in 0..5000 {
            turns.add(s(1), if n < 4000 { ms(9000) } else { ms(300) });
        }
        let steps = turns.steps(s(1));
        assert_eq!((steps[0].n_turns, steps[0].p95), (5000, ms(300)));
        assert_eq!(turns.latencies.len(), JUDGED);
    }
}
