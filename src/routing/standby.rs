//! How many sessions should stand by for calls that are yet to come.
//!
//! Calls that nobody plans arrive at a rate, and how many of them come while a used session is being replaced follows
//! Poisson's law: enough stand by that fewer than one call in a hundred finds none. Calls that were announced are counted
//! one by one on top.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over what time the rate is measured: short, to follow a rise, and long, to bridge the gaps of few calls.
const MEMORIES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(600)];

/// A rate measured over less than this would make a crowd of the first call.
const LEAST_AGE: Duration = Duration::from_secs(10);

/// Share of the calls that may find nobody.
const MISSES: f64 = 0.01;

/// An announced call that has not come by then will not.
const EXPECTED: Duration = Duration::from_secs(15);

/// Announced calls kept at most.
const MOST_EXPECTED: usize = 1_000;

/// One session stands by as long as it is used with this probability before it is too old.
const WORTH: f64 = 0.5;

/// What is known of the calls to one agent.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Decaying counts of calls, one for each of [`MEMORIES`].
    counts: [f64; 2],
    counted_at: Option<Instant>,
    first_at: Option<Instant>,
    expected: VecDeque<Instant>,
}

impl Demand {
    /// A call came.
    pub fn arrived(&mut self, now: Instant) {
        self.decay(now);
        self.counts.iter_mut().for_each(|count| *count += 1.0);
        self.first_at.get_or_insert(now);
        self.forget(now);
        self.expected.pop_front();
    }

    /// A call is about to come.
    pub fn expect(&mut self, now: Instant) {
        self.forget(now);
        if self.expected.len() < MOST_EXPECTED {
            self.expected.push_back(now);
        }
    }

    /// Calls a second.
    #[must_use]
    pub fn rate(&mut self, now: Instant) -> f64 {
        self.decay(now);
        let Some(first) = self.first_at else {
            return 0.0;
        };
        let age = now.saturating_duration_since(first).max(LEAST_AGE);
        let rate = |(count, memory): (&f64, Duration)| {
            // What a count would be that had run for ever at this rate.
            let share = 1.0 - (-age.as_secs_f64() / memory.as_secs_f64()).exp();
            count / memory.as_secs_f64() / share
        };
        self.counts
            .iter()
            .zip(MEMORIES)
            .map(rate)
            .fold(0.0, f64::max)
    }

    /// How many should stand by, when it takes `lead` to replace one and they keep for `life`.
    #[must_use]
    pub fn target(&mut self, now: Instant, lead: Duration, life: Duration) -> usize {
        self.forget(now);
        let rate = self.rate(now);
        let unplanned = if rate * life.as_secs_f64() < WORTH {
            0
        } else {
            head_room(rate * lead.as_secs_f64())
        };
        unplanned.saturating_add(self.expected.len())
    }

    fn decay(&mut self, now: Instant) {
        let since = self
            .counted_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.counted_at = Some(now);
        for (count, memory) in self.counts.iter_mut().zip(MEMORIES) {
            *count *= (-since.as_secs_f64() / memory.as_secs_f64()).exp();
        }
    }

    fn forget(&mut self, now: Instant) {
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= EXPECTED;
        while self.expected.front().is_some_and(is_over) {
            self.expected.pop_front();
        }
    }
}

/// The smallest stock that so many calls or more, of a Poisson law of that mean, come with at most [`MISSES`].
fn head_room(mean: f64) -> usize {
    // Beyond this mean the first term is no number any more, and the law is as good as normal.
    if mean > 500.0 {
        return (mean + 2.4 * mean.sqrt()).min(1e6) as usize;
    }
    let mut term = (-mean).exp();
    let mut below = 0.0;
    let mut stock = 0;
    while 1.0 - below > MISSES && stock < 10_000 {
        below += term;
        stock += 1;
        term *= mean / stock as f64;
    }
    stock
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIFE: Duration = Duration::from_secs(1_500);

    #[test]
    fn stocks_follow_poissons_law() {
        for (mean, expected) in [(0.0, 1), (0.01, 1), (0.1, 2), (0.5, 4), (1.0, 5), (5.0, 12)] {
            assert_eq!(head_room(mean), expected, "{mean}");
        }
        assert!((550..560).contains(&head_room(500.1)));
        assert!((500..600).contains(&head_room(499.9)));
    }

    #[test]
    fn the_rate_is_found_and_forgotten() {
        let start = Instant::now();
        let mut demand = Demand::default();
        assert_eq!(demand.target(start, SECOND, LIFE), 0);
        let mut now = start;
        for _ in 0..1_200 {
            now += SECOND / 2;
            demand.arrived(now);
        }
        let rate = demand.rate(now);
        assert!((1.9..2.2).contains(&rate), "{rate}");
        assert_eq!(demand.target(now, SECOND, LIFE), 7);
        // An hour of silence: one stays for a while, then none.
        assert_eq!(demand.target(now + 600 * SECOND, SECOND, LIFE), 4);
        assert_eq!(demand.target(now + 5_000 * SECOND, SECOND, LIFE), 0);
    }

    #[test]
    fn the_first_call_makes_no_crowd() {
        let now = Instant::now();
        let mut demand = Demand::default();
        demand.arrived(now);
        assert!(demand.rate(now) < 0.15);
        assert!((1..=2).contains(&demand.target(now, SECOND, LIFE)));
    }

    #[test]
    fn announced_calls_are_added_until_they_come_or_are_late() {
        let now = Instant::now();
        let mut demand = Demand::default();
        (0..3).for_each(|_| demand.expect(now));
        assert_eq!(demand.target(now, SECOND, LIFE), 3);
        demand.arrived(now + SECOND);
        assert!((3..=4).contains(&demand.target(now + SECOND, SECOND, LIFE)));
        assert_eq!(demand.expected.len(), 2);
        demand.forget(now + EXPECTED);
        assert_eq!(demand.expected.len(), 0);
        (0..5_000).for_each(|_| demand.expect(now + 20 * SECOND));
        assert_eq!(demand.expected.len(), MOST_EXPECTED);
    }

    /// One in, one out after `lead`: with the stock that is aimed at, hardly a call finds none.
    #[test]
    fn hardly_a_call_finds_none() {
        let mut random = fastrand::Rng::with_seed(7);
        for (rate, lead) in [(0.02, 0.5), (0.5, 0.5), (5.0, 0.4), (40.0, 1.0)] {
            let start = Instant::now();
            let mut demand = Demand::default();
            let (mut at, mut hits, mut calls) = (0.0, 0u32, 0u32);
            // Moments at which sessions on order come; a negative stock is none.
            let mut ordered: VecDeque<f64> = VecDeque::new();
            let mut stock = 0usize;
            while calls < 20_000 {
                at += -random.f64().max(1e-12).ln() / rate;
                while ordered.front().is_some_and(|due| *due <= at) {
                    ordered.pop_front();
                    stock += 1;
                }
                calls += 1;
                if stock > 0 {
                    stock -= 1;
                    hits += 1;
                }
                let now = start + Duration::from_secs_f64(at);
                demand.arrived(now);
                let target = demand.target(now, Duration::from_secs_f64(lead), LIFE);
                while stock + ordered.len() < target {
                    ordered.push_back(at + lead);
                }
            }
            let share = f64::from(hits) / f64::from(calls);
            println!("{rate} calls a second, {lead} s to replace one: {share:.4} found one");
            assert!(share >= 0.97, "{share}");
        }
    }
}
