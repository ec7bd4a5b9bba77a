//! All deadlines of a call in one table; the shell sleeps until the earliest.

use std::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The caller's first message.
    Start,
    /// The caller's audio.
    CallerMedia,
    /// The deployment's next event.
    ModelEvent,
    /// The end of a DTMF entry.
    Dtmf,
    /// The good-bye of a call that is to end in good order.
    Goodbye,
    /// The last words being played.
    Farewell,
    /// The whole call.
    MaxDuration,
    /// The next attempt to open a session.
    Reopen,
    /// A session in place of the one that failed.
    Replacement,
    /// The session's cap comes near: another one is opened.
    Rotate,
    /// The session's cap is there: the other one is used, whoever speaks.
    RotateNow,
}

const TIMERS: [Timer; 11] = [
    Timer::Start,
    Timer::CallerMedia,
    Timer::ModelEvent,
    Timer::Dtmf,
    Timer::Goodbye,
    Timer::Farewell,
    Timer::MaxDuration,
    Timer::Reopen,
    Timer::Replacement,
    Timer::Rotate,
    Timer::RotateNow,
];

#[derive(Debug, Default)]
pub(super) struct Deadlines([Option<Instant>; TIMERS.len()]);

impl Deadlines {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    /// Sets it unless it is set for an earlier time.
    pub(super) fn set_no_later(&mut self, timer: Timer, at: Instant) {
        let set = &mut self.0[timer as usize];
        *set = Some(set.map_or(at, |before| before.min(at)));
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    pub(super) fn earliest(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes out one timer that has expired.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Timer> {
        let timer = TIMERS
            .into_iter()
            .find(|timer| self.0[*timer as usize].is_some_and(|at| at <= now))?;
        self.stop(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn expired_timers_come_once_and_the_others_stay() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.set(Timer::Dtmf, now);
        deadlines.set(Timer::Start, now + Duration::from_secs(1));
        assert_eq!(deadlines.earliest(), Some(now));
        assert_eq!(deadlines.expired(now), Some(Timer::Dtmf));
        assert_eq!(deadlines.expired(now), None);
        assert!(deadlines.is_set(Timer::Start));
    }
}
