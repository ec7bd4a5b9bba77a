//! Seeded randomness: ids of the shapes in reference chapter 0.4, latencies, jitter.

use std::time::Duration;

use super::config::LatencyConfig;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// One session's source of everything random.
#[derive(Debug)]
pub(super) struct Source {
    rng: fastrand::Rng,
    n_ids: u64,
}

impl Source {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            n_ids: 0,
        }
    }

    /// Prefix and 21 characters of which the leading five count up, so that ids sort by age.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        let mut id = String::with_capacity(prefix.len() + 21);
        id.push_str(prefix);
        let mut rest = self.n_ids;
        let mut leading = [b'0'; 5];
        for digit in leading.iter_mut().rev() {
            *digit = ALPHABET[(rest % 62) as usize];
            rest /= 62;
        }
        self.n_ids += 1;
        id.extend(leading.map(char::from));
        self.push_random(&mut id, 16);
        id
    }

    /// `call_` and 16 characters.
    pub(super) fn call_id(&mut self) -> String {
        let mut id = "call_".to_owned();
        self.push_random(&mut id, 16);
        id
    }

    /// A number in 0..1.
    pub(super) fn unit(&mut self) -> f64 {
        self.rng.f64()
    }

    pub(super) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + high.saturating_sub(low).mul_f64(self.unit())
    }

    /// Something within `share` of `value`, uniformly.
    pub(super) fn jittered(&mut self, value: Duration, share: f64) -> Duration {
        let factor = 1.0 + share.clamp(0.0, 1.0) * (2.0 * self.unit() - 1.0);
        value.mul_f64(factor.max(0.0))
    }

    /// Time to the first delta: lognormal through median and 95th percentile if both are known.
    pub(super) fn first_delta(&mut self, latency: &LatencyConfig) -> Duration {
        let Some(p95) = latency.first_delta_p95 else {
            return self.jittered(latency.first_delta, latency.jitter);
        };
        let median = latency.first_delta.as_secs_f64().max(0.001);
        // 1.645 standard deviations lie below the 95th percentile of a normal distribution.
        let sigma = (p95.as_secs_f64().max(median) / median).ln() / 1.645;
        let (u, v) = (self.unit().max(1e-9), self.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        Duration::from_secs_f64((median * (sigma * normal).exp()).min(600.0))
    }

    fn push_random(&mut self, id: &mut String, n: usize) {
        id.extend((0..n).map(|_| char::from(ALPHABET[self.rng.usize(..ALPHABET.len())])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_and_repeat_under_a_seed() {
        let (mut a, mut b) = (Source::new(7), Source::new(7));
        let (first, second) = (a.id("item_"), a.id("item_"));
        assert_eq!(first.len(), 26);
        assert!(first < second);
        assert_eq!(first, b.id("item_"));
    }

    #[test]
    fn lognormal_latency_meets_its_percentiles() {
        let latency = LatencyConfig {
            first_delta_p95: Some(Duration::from_millis(800)),
            ..LatencyConfig::default()
        };
        let mut source = Source::new(3);
        let mut all: Vec<_> = (0..4_000)
            .map(|_| source.first_delta(&latency).as_millis())
            .collect();
        all.sort_unstable();
        assert!((230..270).contains(&all[2_000]), "median {}", all[2_000]);
        assert!((700..900).contains(&all[3_800]), "p95 {}", all[3_800]);
    }
}
