//! When a token is fetched: a pure core, given the time.
//!
//! A token is refreshed at half of its life, so that a token endpoint may be away for the other half without anybody
//! noticing (faults reference, 19). Life is counted on the monotonic clock, which no operator and no time server can
//! set; the wall clock is believed as well when it says that a token is over. Knows nothing of tokens themselves, of
//! tasks or of the network.

use std::time::{Duration, Instant, SystemTime};

use crate::routing::Backoff;

/// Least time between two fetches, whatever the life of the tokens.
const MIN_GAP: Duration = Duration::from_secs(1);

/// First pause after a failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause while there is a token (limits reference, breaker).
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Longest pause while there is none and calls are refused: recovery is noticed within 5 s (faults reference, 13).
const MAX_PAUSE_WITHOUT: Duration = Duration::from_secs(5);

/// Longest time that a token endpoint can send us away by `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A deployment that refuses every token causes one fetch in so long (threats reference, 8).
const FORCED_GAP: Duration = Duration::from_secs(30);

/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) wall: SystemTime,
}

/// The life of the current token.
#[derive(Clone, Copy, Debug)]
struct Life {
    began: Instant,
    length: Duration,
    expires: SystemTime,
}

/// What to do about a token that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// There is a newer one already.
    Newer,
    /// A fetch is under way or due at once: wait for it.
    Wait,
    /// A fetch was forced just before, or the endpoint wants to be left alone: the refusal stands.
    Stands,
}

/// The state of one identity's token.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Counts the tokens; 0 before the first.
    version: u64,
    life: Option<Life>,
    is_fetching: bool,
    is_forced: bool,
    forced_at: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    /// Until when the endpoint wants to be left alone.
    sent_away_until: Option<Instant>,
}

impl Schedule {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// How many fetches failed since the last that did not.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How long the token may still be used.
    pub(super) fn left(&self, now: Now) -> Option<Duration> {
        let life = self.life?;
        let by_clock = (life.began + life.length).checked_duration_since(now.at)?;
        let by_wall = life.expires.duration_since(now.wall).ok()?;
        let left = by_clock.min(by_wall);
        (!left.is_zero()).then_some(left)
    }

    /// How long to wait before asking again; zero if a fetch is due.
    pub(super) fn wait(&self, now: Now) -> Duration {
        let pause = self.pause(now);
        let due_in = match self.life {
            Some(life) if !self.is_forced && !life.is_half_over_by_wall(now) => {
                (life.began + life.length / 2).saturating_duration_since(now.at)
            }
            _ => Duration::ZERO,
        };
        due_in.max(pause).min(LOOK)
    }

    /// Whether a token can be expected within `limit`.
    pub(super) fn is_due_within(&self, now: Now, limit: Duration) -> bool {
        self.is_fetching || self.pause(now) <= limit
    }

    fn pause(&self, now: Now) -> Duration {
        let until = self.not_before.max(self.sent_away_until);
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(now.at)
        })
    }

    pub(super) fn fetching(&mut self) {
        self.is_fetching = true;
    }

    /// A token came `now` that was asked for at `asked`, from when its life is counted; whether it can be used at all.
    pub(super) fn fetched(&mut self, asked: Now, now: Now, expires: SystemTime) -> bool {
        self.settled();
        if expires <= now.wall {
            return false;
        }
        let Some(length) = expires
            .duration_since(asked.wall)
            .ok()
            .filter(|length| !length.is_zero() && asked.at.checked_add(*length).is_some())
        else {
            return false;
        };
        self.version += 1;
        self.failures = 0;
        self.life = Some(Life {
            began: asked.at,
            length,
            expires,
        });
        self.not_before = Some(asked.at + MIN_GAP);
        self.sent_away_until = None;
        true
    }

    /// A fetch failed. `chance` in 0..1 spreads the retries of many gateways.
    pub(super) fn failed(&mut self, now: Now, retry_after: Option<Duration>, chance: f64) {
        self.settled();
        // The less is left of the token, the more often it is tried: an outage may end with the token's last second.
        let longest = self.left(now).map_or(MAX_PAUSE_WITHOUT, |left| {
            (left / 4).clamp(FIRST_PAUSE, MAX_PAUSE)
        });
        let backoff = Backoff {
            first: FIRST_PAUSE,
            longest,
        };
        let pause = backoff.pause(self.failures, chance);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now.at + pause);
        self.sent_away_until = retry_after.map(|wait| now.at + wait.min(MAX_RETRY_AFTER));
    }

    /// A deployment refused the token of that version.
    pub(super) fn rejected(&mut self, now: Now, version: u64) -> Rejected {
        if version != self.version {
            return Rejected::Newer;
        }
        if self.is_fetching || self.is_forced {
            return Rejected::Wait;
        }
        let is_recent = |at: Instant| now.at.saturating_duration_since(at) < FORCED_GAP;
        if self.forced_at.is_some_and(is_recent)
            || self.sent_away_until.is_some_and(|until| now.at < until)
        {
            return Rejected::Stands;
        }
        self.is_forced = true;
        self.forced_at = Some(now.at);
        self.not_before = None;
        Rejected::Wait
    }

    fn settled(&mut self) {
        self.is_fetching = false;
        self.is_forced = false;
    }
}

impl Life {
    fn is_half_over_by_wall(&self, now: Now) -> bool {
        self.expires
            .duration_since(now.wall)
            .map_or(true, |left| left <= self.length / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    struct Clocks {
        at: Instant,
        wall: SystemTime,
    }

    impl Clocks {
        fn new() -> Self {
            Self {
                at: Instant::now(),
                wall: SystemTime::UNIX_EPOCH + 500_000 * HOUR,
            }
        }

        fn after(&self, time: Duration) -> Now {
            Now {
                at: self.at + time,
                wall: self.wall + time,
            }
        }
    }

    fn with_token(clocks: &Clocks, life: Duration) -> Schedule {
        let mut schedule = Schedule::default();
        let now = clocks.after(Duration::ZERO);
        assert_eq!(schedule.wait(now), Duration::ZERO);
        schedule.fetching();
        assert!(schedule.fetched(now, now, clocks.wall + life));
        schedule
    }

    /// Whether a fetch is due `after` the first token of that life came.
    #[track_caller]
    fn check_due(life: Duration, after: Duration, expected: bool) {
        let clocks = Clocks::new();
        let schedule = with_token(&clocks, life);
        assert_eq!(schedule.wait(clocks.after(after)).is_zero(), expected);
    }

    #[test]
    fn a_token_is_refreshed_at_half_of_its_life() {
        check_due(HOUR, Duration::ZERO, false);
        check_due(HOUR, 30 * MINUTE - Duration::from_millis(1), false);
        check_due(HOUR, 30 * MINUTE, true);
        check_due(24 * HOUR, 12 * HOUR, true);
        check_due(Duration::from_secs(4), Duration::from_secs(2), true);
        // Tokens of no life to speak of do not make a busy loop.
        check_due(Duration::from_millis(10), Duration::from_millis(999), false);
        check_due(Duration::from_millis(10), Duration::from_secs(1), true);
    }

    /// An outage of 30 min that begins `before` the refresh is due leaves no time without a token that a dial would not
    /// wait for: less than a second.
    #[track_caller]
    fn check_outage(before: Duration, chance: f64) {
        let clocks = Clocks::new();
        let mut schedule = with_token(&clocks, HOUR);
        let over = 30 * MINUTE - before + 30 * MINUTE;
        let mut at = Duration::ZERO;
        let mut tries = 0;
        while schedule.version() == 1 {
            let now = clocks.after(at);
            let in_time = schedule.left(now).is_some() || at < HOUR + Duration::from_secs(1);
            assert!(in_time, "no token after {at:?}");
            let wait = schedule.wait(now);
            at += wait;
            if !wait.is_zero() {
                continue;
            }
            tries += 1;
            schedule.fetching();
            if at < over {
                schedule.failed(now, None, chance);
            } else {
                assert!(schedule.fetched(now, now, now.wall + HOUR));
            }
        }
        assert!((1..150).contains(&tries), "{tries} tries");
    }

    #[test]
    fn half_an_hour_of_outage_goes_unnoticed() {
        for chance in [0.0, 0.5, 0.999] {
            for before in [0, 1, 2, 59, 600, 1799] {
                check_outage(
                    Duration::from_secs(before) + Duration::from_millis(1),
                    chance,
                );
            }
        }
    }

    #[test]
    fn failures_are_retried_with_growing_pauses() {
        let clocks = Clocks::new();
        let mut schedule = with_token(&clocks, HOUR);
        let now = clocks.after(30 * MINUTE);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            schedule.failed(now, None, 1.0);
            pauses.push(schedule.pause(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.failed(now, None, 0.0);
        assert_eq!(schedule.pause(now).as_secs(), 30);
        // Near the end, and without any token, it is tried more often.
        let late = clocks.after(HOUR - Duration::from_secs(8));
        schedule.failed(late, None, 1.0);
        assert_eq!(schedule.pause(late).as_secs(), 2);
        let after = clocks.after(HOUR);
        schedule.failed(after, None, 1.0);
        assert_eq!(schedule.pause(after).as_secs(), 5);
        assert!(schedule.is_due_within(after, Duration::from_secs(5)));
        assert!(!schedule.is_due_within(after, Duration::from_secs(3)));
    }

    #[test]
    fn an_endpoint_that_sends_us_away_is_left_alone() {
        let clocks = Clocks::new();
        for (retry_after, expected) in [(20, 20), (0, 1), (86_400, 300), (u64::MAX, 300)] {
            let mut schedule = with_token(&clocks, HOUR);
            let now = clocks.after(30 * MINUTE);
            schedule.failed(now, Some(Duration::from_secs(retry_after)), 1.0);
            assert_eq!(schedule.pause(now).as_secs(), expected);
            let verdict = schedule.rejected(now, 1);
            let away = retry_after > 0;
            assert_eq!(verdict == Rejected::Stands, away, "{retry_after}");
        }
    }

    #[test]
    fn a_refused_token_is_replaced_once() {
        let clocks = Clocks::new();
        let mut schedule = with_token(&clocks, HOUR);
        let now = clocks.after(MINUTE);
        assert_eq!(schedule.rejected(now, 0), Rejected::Newer);
        assert_eq!(schedule.rejected(now, 1), Rejected::Wait);
        assert_eq!(schedule.wait(now), Duration::ZERO);
        // Other calls that were refused meanwhile wait for the same fetch.
        assert_eq!(schedule.rejected(now, 1), Rejected::Wait);
        schedule.fetching();
        assert_eq!(schedule.rejected(now, 1), Rejected::Wait);
        assert!(schedule.fetched(now, now, now.wall + HOUR));
        assert_eq!(schedule.rejected(now, 1), Rejected::Newer);
        // The new one is refused too: no loop.
        assert_eq!(schedule.rejected(now, 2), Rejected::Stands);
        assert!(!schedule.wait(now).is_zero());
        let later = clocks.after(MINUTE + FORCED_GAP);
        assert_eq!(schedule.rejected(later, 2), Rejected::Wait);
    }

    #[test]
    fn clocks_that_jump_do_no_harm() {
        let clocks = Clocks::new();
        let jumped = |after: Duration, wall: SystemTime| Now {
            at: clocks.at + after,
            wall,
        };
        let schedule = with_token(&clocks, HOUR);
        // Forward: over by the wall clock, so a new one is fetched at once and this one is not used.
        let now = jumped(MINUTE, clocks.wall + HOUR);
        assert_eq!(schedule.left(now), None);
        assert_eq!(schedule.wait(now), Duration::ZERO);
        // Backward: the monotonic clock counts.
        let now = jumped(MINUTE, clocks.wall - 2 * HOUR);
        assert_eq!(schedule.left(now), Some(59 * MINUTE));
        assert!(!schedule.wait(now).is_zero());
        let now = jumped(31 * MINUTE, clocks.wall - 2 * HOUR);
        assert_eq!(schedule.wait(now), Duration::ZERO);
        assert_eq!(schedule.left(jumped(HOUR, SystemTime::UNIX_EPOCH)), None);
        // Small steps change nothing that matters.
        for wall in [clocks.wall - 5 * Duration::from_secs(1), clocks.wall] {
            assert!(schedule.left(jumped(Duration::ZERO, wall)).is_some());
        }
        // A token that is over when it comes is none.
        let mut schedule = with_token(&clocks, HOUR);
        let now = clocks.after(MINUTE);
        for expires in [SystemTime::UNIX_EPOCH, now.wall] {
            assert!(!schedule.fetched(now, now, expires));
            assert_eq!(schedule.version(), 1);
        }
    }
}
