//! Leaky buckets and counts of a running window. Pure: the time comes in. The scripts in `redis/` compute the same.

use std::time::Duration;

use super::clock::Now;

/// What nobody asks after for so long is forgotten, even if it did not drain by then.
pub(super) const MAX_KEEP: Duration = Duration::from_secs(86_400);

/// Of a limit, by which it may be exceeded: sums of fractions are not exact.
pub(super) const SLACK: f64 = 1.0 + 1e-9;

/// Drains at a steady rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bucket {
    held: f64,
    at: Duration,
}

impl Bucket {
    /// What it holds now if it drains by `per_minute`.
    pub(super) fn held(&self, per_minute: f64, now: Now) -> f64 {
        let passed = now.steady.saturating_sub(self.at);
        drained(self.held, per_minute, passed)
    }

    /// Puts something in, or takes it out if negative, and says what it holds then. Never less than nothing.
    pub(super) fn put(&mut self, amount: f64, per_minute: f64, now: Now) -> f64 {
        self.held = (self.held(per_minute, now) + finite(amount)).max(0.0);
        self.at = now.steady;
        self.held
    }
}

/// What is left of `held` after a while.
pub(super) fn drained(held: f64, per_minute: f64, passed: Duration) -> f64 {
    (held - finite(per_minute).max(0.0) * minutes(passed)).max(0.0)
}

/// How long it takes to drain so much, [`MAX_KEEP`] at most.
pub(super) fn drains_in(amount: f64, per_minute: f64) -> Duration {
    if amount <= 0.0 {
        return Duration::ZERO;
    }
    if per_minute <= 0.0 {
        return MAX_KEEP;
    }
    from_minutes(amount / per_minute).min(MAX_KEEP)
}

/// Counts to the end of a window that begins at multiples of its length since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Window {
    index: u64,
    count: f64,
}

impl Window {
    /// What it holds now, and until when. A clock that is set back by less than a window does not empty it, so that
    /// nobody gains by that.
    pub(super) fn held(&self, length: Duration, now: Now) -> (f64, Duration) {
        let running = index(length, now);
        let is_ahead = self.index == running.saturating_add(1);
        let (index, count) = if self.index == running || is_ahead {
            (self.index, self.count)
        } else {
            (running, 0.0)
        };
        (count, end(index, length).saturating_sub(now.wall))
    }

    /// Counts so much, and says what it holds then, and until when.
    pub(super) fn count(&mut self, amount: f64, length: Duration, now: Now) -> (f64, Duration) {
        let (count, left) = self.held(length, now);
        self.count = (count + finite(amount)).max(0.0);
        let running = index(length, now);
        self.index = if self.index == running.saturating_add(1) {
            self.index
        } else {
            running
        };
        (self.count, left)
    }
}

fn index(length: Duration, now: Now) -> u64 {
    let index = now.wall.as_nanos() / length.as_nanos().max(1);
    u64::try_from(index).unwrap_or(u64::MAX)
}

fn end(index: u64, length: Duration) -> Duration {
    let nanos = u128::from(index)
        .saturating_add(1)
        .saturating_mul(length.as_nanos());
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    // Less than a second's, so it fits.
    let rest = u32::try_from(nanos % 1_000_000_000).unwrap_or_default();
    Duration::new(seconds, rest)
}

pub(super) fn minutes(duration: Duration) -> f64 {
    duration.as_secs_f64() / 60.0
}

/// A duration of so many minutes, [`MAX_KEEP`] at most.
pub(super) fn from_minutes(minutes: f64) -> Duration {
    Duration::try_from_secs_f64(minutes.max(0.0) * 60.0)
        .unwrap_or(MAX_KEEP)
        .min(MAX_KEEP)
}

/// What is no number counts as nothing.
pub(super) fn finite(number: f64) -> f64 {
    if number.is_finite() { number } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            steady: Duration::from_secs(seconds),
            wall: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_bucket_drains_and_never_holds_less_than_nothing() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.put(90.0, 60.0, at(0)), 90.0);
        assert_eq!(bucket.held(60.0, at(30)), 60.0);
        assert_eq!(bucket.put(-100.0, 60.0, at(30)), 0.0);
        assert_eq!(bucket.put(f64::NAN, 60.0, at(31)), 0.0);
        assert_eq!(bucket.put(5.0, 60.0, at(31)), 5.0);
        // Time that goes back drains nothing.
        assert_eq!(bucket.held(60.0, at(3)), 5.0);
        assert_eq!(bucket.held(-60.0, at(60)), 5.0);
    }

    #[test]
    fn draining_takes_its_time() {
        assert_eq!(drains_in(30.0, 60.0), Duration::from_secs(30));
        assert_eq!(drains_in(0.0, 0.0), Duration::ZERO);
        assert_eq!(drains_in(1.0, 0.0), MAX_KEEP);
        assert_eq!(drains_in(f64::MAX, f64::MIN_POSITIVE), MAX_KEEP);
    }

    #[test]
    fn a_window_rolls_over() {
        let length = Duration::from_secs(100);
        let mut window = Window::default();
        let left = |seconds| Duration::from_secs(seconds);
        assert_eq!(window.count(3.0, length, at(950)), (3.0, left(50)));
        assert_eq!(window.count(4.0, length, at(999)), (7.0, left(1)));
        assert_eq!(window.held(length, at(1_000)), (0.0, left(100)));
        assert_eq!(window.count(1.0, length, at(1_010)), (1.0, left(90)));
    }

    #[test]
    fn a_clock_that_is_set_does_no_harm() {
        let length = Duration::from_secs(100);
        let mut window = Window::default();
        window.count(3.0, length, at(1_010));
        // Back over the window's beginning: the count stays.
        assert_eq!(window.count(1.0, length, at(990)).0, 4.0);
        assert_eq!(window.held(length, at(1_050)).0, 4.0);
        // Far back, as after a clock that was far ahead: it would never end.
        assert_eq!(window.held(length, at(700)).0, 0.0);
        assert_eq!(window.held(Duration::ZERO, at(700)).0, 0.0);
        assert_eq!(window.held(Duration::MAX, at(700)).0, 0.0);
    }
}
