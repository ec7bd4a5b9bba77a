//! Pauses between one try and the next, longer each time and different for everybody.

use std::time::Duration;

/// Doubling pauses up to a ceiling, of which a random half is left out, so that not all come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause, before jitter.
    pub first: Duration,
    /// The longest one.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after `failures` earlier pauses. `chance` in 0..1 places it between half of its length and all.
    #[must_use]
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.min(20));
        doubled
            .min(self.longest)
            .mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_ceiling_and_stay_above_half() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        };
        let check = |failures, chance, expected| {
            assert_eq!(
                backoff.pause(failures, chance),
                Duration::from_millis(expected)
            );
        };
        check(0, 1.0, 1_000);
        check(0, 0.0, 500);
        check(3, 1.0, 8_000);
        check(3, 0.5, 6_000);
        check(6, 1.0, 60_000);
        check(u32::MAX, 0.0, 30_000);
        check(0, 7.0, 1_000);
    }
}
