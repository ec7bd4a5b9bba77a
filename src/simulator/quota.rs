//! Requests and tokens a minute, and provisioned throughput, of one deployment (reference chapters 6.3 to 6.5).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::config::{Enforcement, QuotaConfig};

/// Output that is reserved when a response names no cap (openai/openai-realtime-console#42).
pub(super) const DEFAULT_RESERVATION: u64 = 4_096;

/// The buckets of one deployment, shared by its sessions.
#[derive(Debug)]
pub(super) struct Quota {
    config: QuotaConfig,
    requests: Bucket,
    tokens: Bucket,
    utilisation: Bucket,
    counted: f64,
}

/// What a deployment keeps of its quota.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaCounts {
    /// Tokens that ended responses used, in all.
    pub tokens: f64,
    /// Tokens that are taken from those of a minute.
    pub tokens_used: f64,
    /// Requests that are taken from those of a minute.
    pub requests_used: f64,
    /// Of provisioned throughput; 1 is 100 %.
    pub utilisation: f64,
}

/// Tokens taken at a response's start, to be corrected at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reservation {
    tokens: f64,
    utilisation: f64,
}

/// The quota is used up for so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exhausted {
    pub(super) retry_after: Duration,
    pub(super) limit: u64,
    pub(super) used: u64,
    pub(super) requested: u64,
}

impl Quota {
    pub(super) fn new(config: QuotaConfig, now: Instant) -> Self {
        let units = config.provisioned_units.unwrap_or(1);
        let capacity = f64::from(units) * f64::from(config.input_tpm_per_unit);
        Self {
            requests: Bucket::new(f64::from(config.requests_per_minute), now),
            tokens: Bucket::new(f64::from(config.tokens_per_minute), now),
            utilisation: Bucket::new(capacity, now),
            counted: 0.0,
            config,
        }
    }

    pub(super) fn config(&self) -> &QuotaConfig {
        &self.config
    }

    /// Counts an upgrade.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Exhausted> {
        let enforced = matches!(
            self.config.enforce,
            Enforcement::Upgrade | Enforcement::Both
        );
        let cost = self.config.upgrade_requests;
        if self.config.provisioned_units.is_some() {
            if enforced {
                self.utilisation.check_not_over(now)?;
            }
            return Ok(());
        }
        if enforced {
            self.requests.check(cost, now)?;
            self.tokens.check(1.0, now)?;
        }
        self.requests.take(cost, now);
        Ok(())
    }

    /// Reserves what a response may use.
    pub(super) fn reserve(
        &mut self,
        input: u64,
        cached: u64,
        max_output: Option<u64>,
        now: Instant,
    ) -> Result<Reservation, Exhausted> {
        let enforced = matches!(
            self.config.enforce,
            Enforcement::Response | Enforcement::Both
        );
        let output = max_output.unwrap_or(DEFAULT_RESERVATION);
        let reservation = Reservation {
            tokens: (input + output) as f64,
            utilisation: input.saturating_sub(cached) as f64
                + self.config.output_weight * output as f64,
        };
        if enforced && self.config.provisioned_units.is_some() {
            self.utilisation.check_not_over(now)?;
        } else if enforced {
            self.requests.check(self.config.response_requests, now)?;
            self.tokens.check(reservation.tokens, now)?;
        }
        self.requests.take(self.config.response_requests, now);
        self.tokens.take(reservation.tokens, now);
        self.utilisation.take(reservation.utilisation, now);
        Ok(reservation)
    }

    /// Corrects a reservation to what was used.
    pub(super) fn settle(
        &mut self,
        reservation: Reservation,
        input: u64,
        cached: u64,
        output: u64,
        now: Instant,
    ) {
        let utilisation =
            input.saturating_sub(cached) as f64 + self.config.output_weight * output as f64;
        self.counted += (input + output) as f64;
        self.tokens
            .take((input + output) as f64 - reservation.tokens, now);
        self.utilisation
            .take(utilisation - reservation.utilisation, now);
    }

    pub(super) fn counts(&mut self, now: Instant) -> QuotaCounts {
        for bucket in [&mut self.tokens, &mut self.requests, &mut self.utilisation] {
            bucket.refill(now);
        }
        QuotaCounts {
            tokens: self.counted,
            tokens_used: self.tokens.used,
            requests_used: self.requests.used,
            utilisation: self.utilisation.used / self.utilisation.limit,
        }
    }

    /// The `rate_limits` array.
    pub(super) fn report(&mut self, now: Instant) -> Value {
        let tokens = self.tokens.report("tokens", now);
        if self.config.omit_requests {
            json!([tokens])
        } else {
            json!([self.requests.report("requests", now), tokens])
        }
    }
}

/// A bucket of one minute's worth that refills continuously.
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

    fn check(&mut self, amount: f64, now: Instant) -> Result<(), Exhausted> {
        self.refill(now);
        let over = self.used + amount - self.limit;
        if over <= 0.0 {
            Ok(())
        } else {
            Err(self.exhausted(over, amount))
        }
    }

    /// Provisioned throughput lets a request in as long as utilisation is at most 100 %.
    fn check_not_over(&mut self, now: Instant) -> Result<(), Exhausted> {
        self.refill(now);
        let over = self.used - self.limit;
        if over <= 0.0 {
            Ok(())
        } else {
            Err(self.exhausted(over, 0.0))
        }
    }

    fn exhausted(&self, over: f64, requested: f64) -> Exhausted {
        Exhausted {
            retry_after: Duration::from_secs_f64(over * 60.0 / self.limit),
            limit: self.limit as u64,
            used: self.used as u64,
            requested: requested as u64,
        }
    }

    fn report(&mut self, name: &str, now: Instant) -> Value {
        self.refill(now);
        let remaining = (self.limit - self.used).max(0.0).floor();
        let reset = (self.limit - remaining) * 60.0 / self.limit;
        json!({
            "name": name, "limit": self.limit as u64, "remaining": remaining as u64,
            "reset_seconds": (reset * 1_000.0).round() / 1_000.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(config: QuotaConfig, now: Instant) -> Quota {
        Quota::new(
            QuotaConfig {
                enforce: Enforcement::Both,
                ..config
            },
            now,
        )
    }

    #[test]
    fn report_has_the_arithmetic_of_the_reference() {
        let now = Instant::now();
        let config = QuotaConfig {
            requests_per_minute: 5_000,
            tokens_per_minute: 20_000,
            ..QuotaConfig::default()
        };
        let mut quota = quota(config, now);
        quota.reserve(422, 0, None, now).expect("room for one");
        let expected = json!([
            {"name": "requests", "limit": 5_000, "remaining": 4_999, "reset_seconds": 0.012},
            {"name": "tokens", "limit": 20_000, "remaining": 15_482, "reset_seconds": 13.554},
        ]);
        assert_eq!(quota.report(now), expected);
    }

    #[test]
    fn reservation_is_corrected_and_time_refills() {
        let now = Instant::now();
        let mut quota = quota(
            QuotaConfig {
                tokens_per_minute: 6_000,
                ..QuotaConfig::default()
            },
            now,
        );
        let first = quota.reserve(100, 0, None, now).expect("room for one");
        let refused = quota
            .reserve(2_000, 0, None, now)
            .expect_err("no room for two");
        assert_eq!(
            refused.retry_after,
            Duration::from_secs_f64(42.92),
            "over by 4,292 of 6,000 a minute"
        );
        quota.settle(first, 100, 0, 400, now);
        assert_eq!(quota.report(now)[1]["remaining"], 5_500);
        assert_eq!(
            quota.report(now + Duration::from_secs(5))[1]["remaining"],
            6_000
        );
    }

    #[test]
    fn requests_run_out_at_the_upgrade() {
        let now = Instant::now();
        let mut quota = quota(
            QuotaConfig {
                requests_per_minute: 2,
                ..QuotaConfig::default()
            },
            now,
        );
        assert!(quota.admit(now).is_ok() && quota.admit(now).is_ok());
        assert_eq!(
            quota.admit(now).expect_err("third").retry_after,
            Duration::from_secs(30)
        );
        assert!(quota.admit(now + Duration::from_secs(31)).is_ok());
    }

    #[test]
    fn provisioned_throughput_overshoots_once_and_drains() {
        let now = Instant::now();
        let config = QuotaConfig {
            provisioned_units: Some(1),
            input_tpm_per_unit: 6_000,
            ..QuotaConfig::default()
        };
        let mut quota = quota(config, now);
        let first = quota
            .reserve(200, 200, Some(2_000), now)
            .expect("below 100 %");
        let refused = quota
            .reserve(1, 0, Some(1), now)
            .expect_err("8,000 of 6,000");
        assert_eq!(refused.retry_after, Duration::from_secs(20));
        quota.settle(first, 200, 200, 100, now);
        assert!(quota.reserve(1, 0, Some(1), now).is_ok());
    }
}
