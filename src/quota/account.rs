//! The account of one deployment: what is used of its requests and tokens a minute, or of its provisioned units.
//!
//! Counts as the vendor is known to count (protocol reference 6.3 to 6.5): a response reserves its input and its
//! largest output when it begins and is corrected when it ends, and both buckets refill continuously. What the
//! deployment itself says is left, other gateways' use included, overrules what was counted here. Reads no clock.

use std::time::{Duration, Instant};

use crate::call::{RateLimit, RateLimits, Usage};

use super::provisioned::{Utilisation, Weights, cached, input, output};
use super::settings::DeploymentQuota;

/// Output that is reserved for a response without a cap (openai/openai-realtime-console#42).
pub const DEFAULT_OUTPUT: f64 = 4_096.0;

/// How fast the account learns how many tokens come to one weighted one.
const LEARN: f64 = 0.05;

/// A response that is about to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Tokens that it will read.
    pub input: f64,
    /// Of these, tokens from the cache.
    pub cached: f64,
    /// The most that it may write; 4,096 without a cap.
    pub max_output: Option<f64>,
}

impl Estimate {
    fn output(&self) -> f64 {
        self.max_output.unwrap_or(DEFAULT_OUTPUT)
    }
}

/// What a response reserved, to be given back to [`Account::settle`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a reservation that is not settled stays counted"]
pub struct Reservation {
    tokens: f64,
    weighted: f64,
}

/// The account of one deployment.
#[derive(Debug)]
pub struct Account {
    requests: Bucket,
    tokens: Bucket,
    provisioned: Option<Utilisation>,
    paused_until: Option<Instant>,
    /// When the deployment last said how many tokens are left.
    told_at: Option<Instant>,
    /// Tokens that come to one weighted token, by what was used so far.
    tokens_per_weighted: f64,
}

impl Account {
    /// An account of which nothing is used yet.
    #[must_use]
    pub fn new(config: &DeploymentQuota, now: Instant) -> Self {
        Self {
            requests: Bucket::new(f64::from(config.requests_per_minute), now),
            tokens: Bucket::new(f64::from(config.tokens_per_minute), now),
            provisioned: Utilisation::new(config, now),
            paused_until: None,
            told_at: None,
            tokens_per_weighted: 1.0,
        }
    }

    /// Whether a response that takes so many tokens, its reserved output included, could begin now.
    ///
    /// # Errors
    ///
    /// When it could.
    pub fn can_take(&mut self, tokens: f64, now: Instant) -> Result<(), Duration> {
        let paused = self.paused_until.unwrap_or(now);
        let paused = paused.saturating_duration_since(now);
        let full = match &mut self.provisioned {
            Some(utilisation) => utilisation.check(now).err().unwrap_or_default(),
            None => {
                let requests = self.requests.until(1.0, now);
                requests.max(self.tokens.until(tokens, now))
            }
        };
        let wait = paused.max(full);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// A session was opened, which counts as a request (protocol reference 6.4).
    pub fn opened(&mut self, now: Instant) {
        self.requests.take(1.0, now);
    }

    /// A response begins: takes what it may need.
    pub fn reserve(&mut self, response: &Estimate, now: Instant) -> Reservation {
        let reservation = self.reservation(response);
        self.requests.take(1.0, now);
        self.tokens.take(reservation.tokens, now);
        if let Some(utilisation) = &mut self.provisioned {
            utilisation.add(reservation.weighted, now);
        }
        reservation
    }

    /// A response begins for which the deployment's own words have already taken what it may need.
    pub fn reserve_told(&mut self, response: &Estimate, now: Instant) -> Reservation {
        let reservation = self.reservation(response);
        if let Some(utilisation) = &mut self.provisioned {
            utilisation.add(reservation.weighted, now);
        }
        reservation
    }

    fn reservation(&self, response: &Estimate) -> Reservation {
        let weights = self.weights();
        Reservation {
            tokens: response.input + response.output(),
            weighted: weights.map_or(0.0, |weights| {
                weights.of(response.input, response.cached, response.output())
            }),
        }
    }

    /// A response ended: corrects what was reserved for it to what it used.
    pub fn settle(&mut self, reservation: Reservation, usage: &Usage, now: Instant) {
        self.correct(reservation, usage, now);
    }

    /// A response ended of which no beginning was seen.
    pub fn used(&mut self, usage: &Usage, now: Instant) {
        let none = Reservation {
            tokens: 0.0,
            weighted: 0.0,
        };
        self.requests.take(1.0, now);
        self.correct(none, usage, now);
    }

    fn correct(&mut self, reservation: Reservation, usage: &Usage, now: Instant) {
        let tokens = (input(usage) + output(usage)) as f64;
        self.tokens.take(tokens - reservation.tokens, now);
        let Some(utilisation) = &mut self.provisioned else {
            return;
        };
        let weights = utilisation.weights;
        let weighted = weights.of(
            input(usage) as f64,
            cached(usage) as f64,
            output(usage) as f64,
        );
        utilisation.add(weighted - reservation.weighted, now);
        if weighted > 0.0 {
            let error = tokens / weighted - self.tokens_per_weighted;
            self.tokens_per_weighted += LEARN * error;
        }
    }

    /// The deployment said what is left.
    pub fn told(&mut self, limits: &RateLimits, now: Instant) {
        if let Some(limit) = limits.requests {
            self.requests.told(limit, now);
        }
        if let Some(limit) = limits.tokens {
            self.told_at = Some(now);
            self.tokens.told(limit, now);
        }
    }

    /// The deployment refused for its quota: nothing begins for `retry_after`. If it does not say for how long, until
    /// a response has room in what it has just said is left, or in a bucket that was full.
    pub fn refused(&mut self, retry_after: Option<Duration>, now: Instant) {
        match (retry_after, &mut self.provisioned) {
            (Some(wait), provisioned) => {
                let wait = wait.min(LONGEST_PAUSE);
                let until = now + wait;
                self.paused_until = Some(self.paused_until.map_or(until, |at| at.max(until)));
                if let Some(utilisation) = provisioned {
                    utilisation.is_over_for(wait, now);
                }
            }
            (None, Some(utilisation)) => utilisation.is_over_for(UNTOLD, now),
            (None, None) => {
                let was_told = |at: Instant| now.saturating_duration_since(at) < TOLD_LATELY;
                if !self.told_at.is_some_and(was_told) {
                    self.tokens.fill(now);
                }
            }
        }
    }

    /// How full it is: 0 for unused, 1 for no room. Above 1 if the deployment has taken more than it grants, or
    /// refuses.
    pub fn pressure(&mut self, now: Instant) -> f64 {
        let paused = match self.paused_until {
            Some(until) if until > now => 1.0,
            _ => 0.0,
        };
        let full = match &mut self.provisioned {
            Some(utilisation) => utilisation.utilisation(now),
            None => self.tokens.share(now).max(self.requests.share(now)),
        };
        full.max(paused)
    }

    /// Tokens a minute that it can carry in the long run. Of a provisioned one, by what a token weighed so far.
    #[must_use]
    pub fn tokens_per_minute(&self) -> f64 {
        match &self.provisioned {
            Some(utilisation) => utilisation.capacity() * self.tokens_per_weighted,
            None => self.tokens.limit,
        }
    }

    /// Requests a minute that it grants; a provisioned one counts none.
    #[must_use]
    pub fn requests_per_minute(&self) -> Option<f64> {
        self.provisioned.is_none().then_some(self.requests.limit)
    }

    /// What tokens count for, if it is provisioned, and how many weighted ones it carries a minute.
    #[must_use]
    pub fn weighted_per_minute(&self) -> Option<(Weights, f64)> {
        let utilisation = self.provisioned.as_ref()?;
        Some((utilisation.weights, utilisation.capacity()))
    }

    fn weights(&self) -> Option<Weights> {
        self.provisioned.as_ref().map(|it| it.weights)
    }

    /// Tokens that are left of those of a minute.
    pub fn tokens_left(&mut self, now: Instant) -> f64 {
        self.tokens.left(now)
    }

    /// Requests that are left of those of a minute.
    pub fn requests_left(&mut self, now: Instant) -> f64 {
        self.requests.left(now)
    }
}

/// A deployment is left alone for no longer, whatever it says: as long as routing does.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// For how long a provisioned deployment is left alone that refused without saying for how long.
const UNTOLD: Duration = Duration::from_secs(5);

/// What a deployment has said of its tokens is believed for so long when it refuses.
const TOLD_LATELY: Duration = Duration::from_secs(10);

/// A minute's worth that refills continuously.
#[derive(Debug)]
struct Bucket {
    limit: f64,
    used: f64,
    at: Instant,
}

impl Bucket {
    fn new(limit: f64, now: Instant) -> Self {
        Self {
            limit: limit.max(1.0),
            used: 0.0,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        self.used = (self.used - minutes * self.limit).max(0.0);
        self.at = self.at.max(now);
    }

    fn take(&mut self, amount: f64, now: Instant) {
        self.refill(now);
        self.used = (self.used + amount).max(0.0);
    }

    /// Until there is room for `amount`; what is larger than the whole bucket wants an empty one.
    fn until(&mut self, amount: f64, now: Instant) -> Duration {
        self.refill(now);
        let over = self.used + amount.min(self.limit) - self.limit;
        Duration::from_secs_f64(over.max(0.0) * 60.0 / self.limit)
    }

    fn told(&mut self, told: RateLimit, now: Instant) {
        self.refill(now);
        self.limit = (told.limit as f64).max(1.0);
        self.used = told.limit.saturating_sub(told.remaining) as f64;
    }

    fn fill(&mut self, now: Instant) {
        self.refill(now);
        self.used = self.used.max(self.limit);
    }

    fn share(&mut self, now: Instant) -> f64 {
        self.refill(now);
        self.used / self.limit
    }

    fn left(&mut self, now: Instant) -> f64 {
        self.refill(now);
        (self.limit - self.used).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(tokens: u32, requests: u32, now: Instant) -> Account {
        let config = DeploymentQuota {
            tokens_per_minute: tokens,
            requests_per_minute: requests,
            ..DeploymentQuota::default()
        };
        Account::new(&config, now)
    }

    fn estimate(input: f64, max_output: Option<f64>) -> Estimate {
        Estimate {
            input,
            cached: 0.0,
            max_output,
        }
    }

    fn usage(input_text: u64, output_audio: u64) -> Usage {
        Usage {
            input_text,
            output_audio,
            ..Usage::default()
        }
    }

    #[test]
    fn a_reservation_is_input_and_largest_output() {
        // The figures of the reference (6.3): 20,000 a minute, 422 read, 15,482 left, full again in 13.554 s.
        let now = Instant::now();
        let mut account = account(20_000, 5_000, now);
        let reservation = account.reserve(&estimate(422.0, None), now);
        assert_eq!(account.tokens_left(now), 15_482.0);
        assert_eq!(account.requests_left(now), 4_999.0);
        assert_eq!(
            account.can_take(20_000.0, now),
            Err(Duration::from_secs_f64(13.554))
        );
        assert_eq!(
            account.requests.until(5_000.0, now),
            Duration::from_secs_f64(0.012)
        );
        account.settle(reservation, &usage(422, 121), now);
        assert_eq!(account.tokens_left(now), 20_000.0 - 543.0);
        let later = now + Duration::from_secs_f64(543.0 * 60.0 / 20_000.0 + 0.001);
        assert_eq!(account.tokens_left(later), 20_000.0);
    }

    #[test]
    fn either_entry_of_what_is_told_may_be_missing() {
        let now = Instant::now();
        let limit = |limit, remaining| {
            Some(RateLimit {
                limit,
                remaining,
                reset_seconds: 0.0,
            })
        };
        let check = |told: RateLimits, tokens: f64, requests: f64| {
            let mut account = account(100_000, 1_000, now);
            let _open = account.reserve(&estimate(904.0, None), now);
            account.told(&told, now);
            assert_eq!(account.tokens_left(now), tokens);
            assert_eq!(account.requests_left(now), requests);
        };
        check(RateLimits::default(), 95_000.0, 999.0);
        check(
            RateLimits {
                requests: None,
                tokens: limit(20_000, 15_482),
            },
            15_482.0,
            999.0,
        );
        check(
            RateLimits {
                requests: limit(200, 3),
                tokens: None,
            },
            95_000.0,
            3.0,
        );
    }

    #[test]
    fn what_was_told_at_the_start_is_corrected_at_the_end() {
        let now = Instant::now();
        let mut account = account(20_000, 1_000, now);
        let told = RateLimits {
            requests: None,
            tokens: Some(RateLimit {
                limit: 20_000,
                remaining: 15_482,
                reset_seconds: 13.554,
            }),
        };
        // Before the response and after its beginning, it comes to the same.
        account.told(&told, now);
        let before = account.reserve_told(&estimate(422.0, None), now);
        assert_eq!(account.tokens_left(now), 15_482.0);
        account.settle(before, &usage(422, 100), now);
        assert_eq!(account.tokens_left(now), 20_000.0 - 522.0);
        let after = account.reserve(&estimate(500.0, None), now);
        account.told(&told, now);
        account.settle(after, &usage(500, 18), now);
        assert_eq!(account.tokens_left(now), 15_482.0 + 4_096.0 - 18.0);
    }

    #[test]
    fn a_refusal_pauses_for_exactly_its_time() {
        let now = Instant::now();
        let mut account = account(100_000, 1_000, now);
        account.refused(Some(Duration::from_secs(7)), now);
        assert_eq!(account.can_take(1.0, now), Err(Duration::from_secs(7)));
        assert_eq!(account.pressure(now), 1.0);
        let then = now + Duration::from_secs(7);
        assert_eq!(account.can_take(1.0, then), Ok(()));
        assert_eq!(account.pressure(then), 0.0);
    }

    #[test]
    fn a_refusal_without_a_time_waits_for_room() {
        let now = Instant::now();
        let mut account = account(60_000, 1_000, now);
        account.refused(None, now);
        assert_eq!(account.can_take(5_000.0, now), Err(Duration::from_secs(5)));
        assert_eq!(
            account.can_take(5_000.0, now + Duration::from_secs(5)),
            Ok(())
        );
        // Unless it has just said how much is left, which was not enough for that one.
        let told = RateLimits {
            requests: None,
            tokens: Some(RateLimit {
                limit: 60_000,
                remaining: 20_000,
                reset_seconds: 40.0,
            }),
        };
        account.told(&told, now);
        account.refused(None, now);
        assert_eq!(account.can_take(20_000.0, now), Ok(()));
        assert_eq!(account.can_take(25_000.0, now), Err(Duration::from_secs(5)));
    }

    #[test]
    fn requests_run_out_too() {
        let now = Instant::now();
        let mut account = account(100_000, 2, now);
        account.opened(now);
        account.used(&usage(1, 1), now);
        assert_eq!(account.can_take(1.0, now), Err(Duration::from_secs(30)));
    }

    #[test]
    fn a_provisioned_one_goes_by_utilisation() {
        let now = Instant::now();
        let config = DeploymentQuota {
            provisioned_units: Some(1),
            input_tokens_per_unit: 6_000.0,
            ..DeploymentQuota::default()
        };
        let mut account = Account::new(&config, now);
        let cached = Estimate {
            input: 200.0,
            cached: 200.0,
            max_output: Some(2_000.0),
        };
        let reservation = account.reserve(&cached, now);
        assert_eq!(account.can_take(1.0, now), Err(Duration::from_secs(20)));
        assert!((account.pressure(now) - 8_000.0 / 6_000.0).abs() < 1e-9);
        let used = Usage {
            input_text: 200,
            cached_text: 200,
            output_audio: 100,
            ..Usage::default()
        };
        account.settle(reservation, &used, now);
        assert_eq!(account.can_take(1.0, now), Ok(()));
        assert!((account.pressure(now) - 400.0 / 6_000.0).abs() < 1e-9);
        // 300 tokens weighed 400.
        let learned = 6_000.0 * (1.0 + LEARN * (0.75 - 1.0));
        assert!((account.tokens_per_minute() - learned).abs() < 1e-6);
    }

    proptest! {
        /// Whoever asks first and then reserves never takes more than there is.
        #[test]
        fn never_over(steps in proptest::collection::vec((0_u64..40_000, 0_u64..5_000, 0_u64..20_000), 1..60)) {
            let mut now = Instant::now();
            let mut account = account(50_000, 30, now);
            for (input, output, ms) in steps {
                now += Duration::from_millis(ms);
                let response = estimate(input as f64, Some(output as f64));
                let needed = response.input + response.output();
                if account.can_take(needed, now).is_ok() {
                    let _open = account.reserve(&response, now);
                    prop_assert!(account.tokens.used <= account.tokens.limit + 1e-6);
                    prop_assert!(account.requests.used <= account.requests.limit + 1e-6);
                } else {
                    let wait = account.can_take(needed, now).unwrap_err();
                    let then = now + wait + Duration::from_micros(1);
                    prop_assert!(account.can_take(needed, then).is_ok(), "it says when");
                    now = then;
                }
            }
        }

        /// In the end only what was used counts, whatever was reserved for it.
        #[test]
        fn correction_conserves(responses in proptest::collection::vec((0_u64..4_000, 0_u64..4_000, 0_u64..400, 0_u64..400), 1..20)) {
            let now = Instant::now();
            let mut account = account(1_000_000, 1_000, now);
            let mut total = 0;
            let mut open = Vec::new();
            for (guess, cap, input, output) in responses {
                open.push((account.reserve(&estimate(guess as f64, Some(cap as f64)), now), input, output));
                total += input + output;
            }
            for (reservation, input, output) in open {
                account.settle(reservation, &usage(input, output), now);
            }
            // Corrections in between may not take the account below zero.
            prop_assert!((account.tokens.used - total as f64).abs() < 1e-6);
        }
    }
}
