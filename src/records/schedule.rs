//! What becomes of a record that was sent, and when the next may be: pure.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::outbound::OutboundError;

/// Attempts at a time, while all goes well.
const AT_ONCE: usize = 8;

/// Before the first repetition; doubled with each that fails.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// No wait of the gateway's own is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// A receiver that asks for more is asked again after this.
const LONGEST_ASKED: Duration = Duration::from_secs(60 * 60);

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The receiver has it.
    Delivered,
    /// To be tried again.
    Again {
        /// A closed name.
        cause: &'static str,
        /// What the receiver said of when.
        retry_after: Option<Duration>,
    },
    /// The receiver will never take it.
    Refused(u16),
}

impl Verdict {
    /// What an answer means, by its status and what it says of when to come again.
    pub(super) fn of(answer: Result<(StatusCode, Option<Duration>), OutboundError>) -> Self {
        let again = |cause| Self::Again {
            cause,
            retry_after: None,
        };
        let (status, retry_after) = match answer {
            Ok(answer) => answer,
            Err(OutboundError::Redirect(status)) => return Self::Refused(status),
            Err(OutboundError::Timeout) => return again("timeout"),
            Err(OutboundError::Unreachable) => return again("unreachable"),
            Err(OutboundError::Answer) => return again("answer"),
            Err(OutboundError::Url | OutboundError::PlainText | OutboundError::Forbidden) => {
                return again("forbidden");
            }
        };
        let cause = match status.as_u16() {
            200..=299 => return Self::Delivered,
            408 => "status_408",
            429 => "status_429",
            500..=599 => "status_5xx",
            other => return Self::Refused(other),
        };
        Self::Again { cause, retry_after }
    }
}

/// When attempts may begin.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// In a row.
    n_failures: u32,
    not_before: Option<Instant>,
}

impl Schedule {
    /// Whether one more may begin beside those that are under way. A receiver that failed is tried by one.
    pub(super) fn has_room(&self, n_under_way: usize, now: Instant) -> bool {
        let is_time = self.not_before.is_none_or(|at| at <= now);
        let most = if self.n_failures == 0 { AT_ONCE } else { 1 };
        is_time && n_under_way < most
    }

    /// Until when none may begin.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// How many had failed in a row; to be told again when the attempt that begins now fails.
    pub(super) fn n_failures(&self) -> u32 {
        self.n_failures
    }

    /// The receiver answered.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// An attempt failed that began when `before` had; those that began together count once. `chance` from 0 to 1
    /// spreads the waits of many gateways.
    pub(super) fn failed(
        &mut self,
        before: u32,
        retry_after: Option<Duration>,
        chance: f64,
        now: Instant,
    ) {
        self.n_failures = self.n_failures.max(before.saturating_add(1));
        let doubled = 2_u32.saturating_pow(self.n_failures - 1);
        let wait = FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT);
        let wait = wait.mul_f64(0.5 + chance / 2.0);
        let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
        let at = now + wait.max(asked);
        self.not_before = Some(self.not_before.map_or(at, |before| before.max(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_they_say() {
        let check = |status: u16, expected: Verdict| {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(Verdict::of(Ok((status, None))), expected);
        };
        let again = |cause| Verdict::Again {
            cause,
            retry_after: None,
        };
        for status in [200, 202, 204] {
            check(status, Verdict::Delivered);
        }
        for status in [400, 401, 404, 410, 413, 422] {
            check(status, Verdict::Refused(status));
        }
        check(408, again("status_408"));
        check(429, again("status_429"));
        for status in [500, 502, 503, 599] {
            check(status, again("status_5xx"));
        }
        let after = Some(Duration::from_secs(7));
        let asked = Verdict::of(Ok((StatusCode::TOO_MANY_REQUESTS, after)));
        assert!(matches!(asked, Verdict::Again { retry_after, .. } if retry_after == after));
        let lost = |error| Verdict::of(Err(error));
        assert_eq!(lost(OutboundError::Redirect(302)), Verdict::Refused(302));
        assert_eq!(lost(OutboundError::Timeout), again("timeout"));
        assert_eq!(lost(OutboundError::Unreachable), again("unreachable"));
        assert_eq!(lost(OutboundError::Forbidden), again("forbidden"));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_five_minutes() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        assert!(schedule.has_room(AT_ONCE - 1, now) && !schedule.has_room(AT_ONCE, now));
        let mut waits = Vec::new();
        for _ in 0..11 {
            schedule.failed(schedule.n_failures(), None, 1.0, now);
            let at = schedule.not_before().expect("a wait");
            assert!(!schedule.has_room(0, at - Duration::from_millis(1)));
            assert!(schedule.has_room(0, at) && !schedule.has_room(1, at));
            waits.push((at - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        schedule.answered();
        assert!(schedule.has_room(1, now));
    }

    #[tokio::test(start_paused = true)]
    async fn chance_halves_a_wait_at_most() {
        let now = Instant::now();
        let wait = |chance| {
            let mut schedule = Schedule::default();
            schedule.failed(3, None, chance, now);
            schedule.not_before().expect("a wait") - now
        };
        assert_eq!(wait(0.0), Duration::from_secs(4));
        assert_eq!(wait(0.5), Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_began_together_count_once() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        for _ in 0..AT_ONCE {
            schedule.failed(0, None, 1.0, now);
        }
        assert_eq!(schedule.n_failures(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_is_left_alone_for_as_long_as_it_asks() {
        let now = Instant::now();
        let wait = |asked| {
            let mut schedule = Schedule::default();
            schedule.failed(0, Some(Duration::from_secs(asked)), 1.0, now);
            (schedule.not_before().expect("a wait") - now).as_secs()
        };
        assert_eq!(wait(0), 1);
        assert_eq!(wait(90), 90);
        assert_eq!(wait(1_000_000), 3_600);
    }
}
