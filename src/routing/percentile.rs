//! How long a deployment's dials usually take, so that an unusual one is noticed.

use std::time::Duration;

/// Dials remembered: enough that the 95th percentile is not one of the two slowest.
const REMEMBERED: usize = 64;

/// With fewer, nothing is known.
const ENOUGH: usize = 8;

/// A hedge before this would double the dials of a deployment that is merely a continent away.
const SHORTEST: Duration = Duration::from_millis(150);

/// A hedge after this would be heard (faults reference, 5).
const LONGEST: Duration = Duration::from_millis(1_500);

/// The times that the last dials of one deployment took.
#[derive(Clone, Debug, Default)]
pub struct DialTimes {
    last: Vec<Duration>,
    next: usize,
}

impl DialTimes {
    /// A dial that takes longer is slow whatever is usual.
    pub const SLOW: Duration = LONGEST;

    /// A dial took so long.
    pub fn add(&mut self, took: Duration) {
        if self.last.len() < REMEMBERED {
            self.last.push(took);
        } else {
            self.last[self.next] = took;
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// What 95 of 100 dials do not exceed, once enough are known.
    #[must_use]
    pub fn p95(&self) -> Option<Duration> {
        if self.last.len() < ENOUGH {
            return None;
        }
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        // The nearest-rank method.
        let rank = (sorted.len() * 95).div_ceil(100);
        sorted.get(rank - 1).copied()
    }

    /// After how long another deployment is dialled as well.
    #[must_use]
    pub fn hedge_after(&self) -> Duration {
        self.p95()
            .map_or(LONGEST, |p95| p95.clamp(SHORTEST, LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: impl IntoIterator<Item = u64>) -> DialTimes {
        let mut times = DialTimes::default();
        ms.into_iter()
            .for_each(|ms| times.add(Duration::from_millis(ms)));
        times
    }

    #[test]
    fn the_slowest_few_are_left_out() {
        let check = |times: DialTimes, p95: Option<u64>, hedge: u64| {
            assert_eq!(times.p95(), p95.map(Duration::from_millis));
            assert_eq!(times.hedge_after(), Duration::from_millis(hedge));
        };
        check(times([]), None, 1_500);
        check(times(1..8), None, 1_500);
        check(times(1..=20), Some(19), 150);
        check(times((1..=60).map(|n| n * 10)), Some(570), 570);
        check(times(std::iter::repeat_n(9_000, 10)), Some(9_000), 1_500);
        // Old ones are forgotten.
        check(
            times((0..64).map(|_| 9_000).chain((0..64).map(|_| 300))),
            Some(300),
            300,
        );
    }
}
