//! Provisioned throughput: a leaky bucket over utilisation (protocol reference 6.5).
//!
//! A request comes in as long as utilisation is at most 100 %, is counted by an estimate then, and corrected when what
//! it used is known. Short bursts above 100 % therefore pass.

use std::time::{Duration, Instant};

use crate::call::Usage;

use super::settings::DeploymentQuota;

/// What tokens count for under provisioned throughput.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Input tokens that one output token counts for.
    pub output: f64,
    /// Share of a cached input token that is not counted.
    pub cached_discount: f64,
}

impl Weights {
    /// What a response counts for, in input tokens.
    #[must_use]
    pub fn of(&self, input: f64, cached: f64, output: f64) -> f64 {
        (input - self.cached_discount * cached).max(0.0) + self.output * output
    }

    /// The same of what a response used.
    #[must_use]
    pub fn of_usage(&self, usage: &Usage) -> f64 {
        self.of(
            input(usage) as f64,
            cached(usage) as f64,
            output(usage) as f64,
        )
    }
}

/// Tokens read.
pub(super) fn input(usage: &Usage) -> u64 {
    usage
        .input_text
        .saturating_add(usage.input_audio)
        .saturating_add(usage.input_image)
}

/// Of these, tokens from the cache.
pub(super) fn cached(usage: &Usage) -> u64 {
    usage.cached_text.saturating_add(usage.cached_audio)
}

/// Tokens written.
pub(super) fn output(usage: &Usage) -> u64 {
    usage.output_text.saturating_add(usage.output_audio)
}

/// The utilisation of one provisioned deployment.
#[derive(Debug)]
pub(super) struct Utilisation {
    pub(super) weights: Weights,
    /// Input tokens a minute that its units carry: what drains, and what 100 % is.
    capacity: f64,
    held: f64,
    at: Instant,
}

impl Utilisation {
    /// Of a deployment with that grant, if it is a provisioned one.
    pub(super) fn new(config: &DeploymentQuota, now: Instant) -> Option<Self> {
        let units = config.provisioned_units?;
        Some(Self {
            weights: Weights {
                output: config.output_weight,
                cached_discount: config.cached_discount,
            },
            capacity: (f64::from(units) * config.input_tokens_per_unit).max(1.0),
            held: 0.0,
            at: now,
        })
    }

    pub(super) fn capacity(&self) -> f64 {
        self.capacity
    }

    /// 1 is 100 %.
    pub(super) fn utilisation(&mut self, now: Instant) -> f64 {
        self.drain(now);
        self.held / self.capacity
    }

    /// Until it is below 100 %, if it is above.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), Duration> {
        self.drain(now);
        let over = self.held - self.capacity;
        if over <= 0.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64(over * 60.0 / self.capacity))
    }

    /// Counts an estimate, or corrects one.
    pub(super) fn add(&mut self, amount: f64, now: Instant) {
        self.drain(now);
        self.held = (self.held + amount).max(0.0);
    }

    /// The deployment said that it is over 100 %, for so long.
    pub(super) fn is_over_for(&mut self, time: Duration, now: Instant) {
        self.drain(now);
        let held = self.capacity * (1.0 + time.as_secs_f64() / 60.0);
        self.held = self.held.max(held);
    }

    fn drain(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        self.held = (self.held - minutes * self.capacity).max(0.0);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(n: u32, now: Instant) -> Utilisation {
        let config = DeploymentQuota {
            provisioned_units: Some(n),
            ..DeploymentQuota::default()
        };
        Utilisation::new(&config, now).unwrap()
    }

    #[test]
    fn tokens_count_as_the_reference_says() {
        let check = |output, cached_discount, expected: f64| {
            let weights = Weights {
                output,
                cached_discount,
            };
            // The usage of the reference's sample (6.1): 132 read, 64 of them cached, 121 written.
            assert!((weights.of(132.0, 64.0, 121.0) - expected).abs() < 1e-9);
        };
        check(3.0, 1.0, 68.0 + 363.0);
        check(4.0, 1.0, 68.0 + 484.0);
        check(8.0, 1.0, 68.0 + 968.0);
        check(4.0, 0.5, 100.0 + 484.0);
        check(4.0, 0.0, 132.0 + 484.0);
    }

    #[test]
    fn no_count_is_too_large_to_be_added_up() {
        let usage = Usage {
            input_text: u64::MAX,
            input_audio: u64::MAX,
            cached_text: u64::MAX,
            cached_audio: u64::MAX,
            output_text: u64::MAX,
            output_audio: u64::MAX,
            ..Usage::default()
        };
        for sum in [input, cached, output] {
            assert_eq!(sum(&usage), u64::MAX);
        }
    }

    #[test]
    fn a_burst_passes_once_and_then_waits_until_below_100_percent() {
        let now = Instant::now();
        let mut bucket = units(15, now);
        assert_eq!(bucket.capacity(), 37_500.0);
        assert_eq!(bucket.check(now), Ok(()));
        // Estimated with the cap of 4,096 tokens, then corrected by what was used.
        bucket.add(bucket.weights.of(30_000.0, 0.0, 4_096.0), now);
        assert_eq!(
            bucket.check(now),
            Err(Duration::from_secs_f64(8_884.0 * 60.0 / 37_500.0)),
            "46,384 of 37,500"
        );
        assert!(bucket.check(now + Duration::from_millis(14_214)).is_err());
        assert_eq!(bucket.check(now + Duration::from_millis(14_215)), Ok(()));
        let estimate = bucket.weights.of(30_000.0, 0.0, 4_096.0);
        let actual = bucket.weights.of(30_000.0, 29_952.0, 121.0);
        bucket.add(actual - estimate, now + Duration::from_millis(14_215));
        assert!(bucket.utilisation(now + Duration::from_millis(14_215)) < 0.01);
    }

    #[test]
    fn no_units_is_no_provisioned_deployment() {
        assert!(Utilisation::new(&DeploymentQuota::default(), Instant::now()).is_none());
    }

    #[test]
    fn what_the_deployment_says_counts_more() {
        let now = Instant::now();
        let mut bucket = units(1, now);
        bucket.is_over_for(Duration::from_secs(6), now);
        assert_eq!(bucket.check(now), Err(Duration::from_secs(6)));
        bucket.is_over_for(Duration::from_secs(2), now);
        assert_eq!(bucket.check(now), Err(Duration::from_secs(6)));
        assert_eq!(bucket.check(now + Duration::from_secs(6)), Ok(()));
    }
}
