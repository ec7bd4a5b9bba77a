//! A rate with bursts, as the generic cell rate algorithm keeps it: one instant a bucket, no fractions.

use std::time::{Duration, Instant};

/// So many in so long, and as many at once after a pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    interval: Duration,
    tolerance: Duration,
}

impl Rate {
    /// `n` in `period`; `None` for zero, which stands for no limit.
    pub(super) fn new(n: u32, period: Duration) -> Option<Self> {
        let interval = period.checked_div(n)?;
        Some(Self {
            interval,
            tolerance: interval * (n - 1),
        })
    }
}

/// How much of a rate is used up: the instant at which nothing will be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket(Instant);

impl Bucket {
    /// Nothing is used up.
    pub(super) fn full(now: Instant) -> Self {
        Self(now)
    }

    /// Whether nothing is used up any more.
    pub(super) fn is_full(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// How long until there is one to take; `None` if there is.
    pub(super) fn wait(self, rate: Rate, now: Instant) -> Option<Duration> {
        let used = self.0.saturating_duration_since(now);
        used.checked_sub(rate.tolerance)
            .filter(|wait| !wait.is_zero())
    }

    /// Takes one, or says how long until there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        match self.wait(rate, now) {
            Some(wait) => Err(wait),
            None => {
                self.0 = self.0.max(now) + rate.interval;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_the_rate_and_one_more_comes_after_an_interval() {
        let rate = Rate::new(20, Duration::from_secs(1)).expect("a rate");
        let now = Instant::now();
        let mut bucket = Bucket::full(now);
        for n in 0..20 {
            assert_eq!(bucket.take(rate, now), Ok(()), "{n}");
        }
        let interval = Duration::from_millis(50);
        assert_eq!(bucket.take(rate, now), Err(interval));
        let almost = now + interval - Duration::from_nanos(1);
        assert_eq!(bucket.take(rate, almost), Err(Duration::from_nanos(1)));
        assert_eq!(bucket.take(rate, now + interval), Ok(()));
        assert_eq!(bucket.take(rate, now + interval), Err(interval));
        assert!(!bucket.is_full(now + Duration::from_secs(1)));
        assert!(bucket.is_full(now + Duration::from_millis(1050)));
        assert!(Rate::new(0, Duration::from_secs(1)).is_none());
    }

    proptest! {
        /// In no window of any length are more let through than the burst and what the rate gives back.
        #[test]
        fn it_is_never_exceeded(n in 1u32..50, gaps in prop::collection::vec(0u64..200, 1..300)) {
            let rate = Rate::new(n, Duration::from_secs(1)).expect("a rate");
            let begin = Instant::now();
            let (mut now, mut bucket, mut taken) = (begin, Bucket::full(begin), Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                if bucket.take(rate, now).is_ok() {
                    taken.push(now);
                }
            }
            for (i, from) in taken.iter().enumerate() {
                for (j, to) in taken.iter().enumerate().skip(i) {
                    let most = f64::from(n) + (*to - *from).as_secs_f64() * f64::from(n) + 1e-3;
                    prop_assert!((j - i + 1) as f64 <= most);
                }
            }
        }
    }
}
