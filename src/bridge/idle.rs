//! Silence for lines that must never be quiet: a far end without a clock of its own, or one that hangs up on a gap.
//!
//! Pure: time is a parameter. It only counts how far what was sent reaches; a reply always goes first.

use std::time::{Duration, Instant};

use crate::media::FRAME;

/// How far what was sent to the caller reaches.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Idle {
    covered_until: Option<Instant>,
}

impl Idle {
    /// The line is to be kept busy from now on.
    pub(super) fn start(&mut self, now: Instant) {
        self.covered_until.get_or_insert(now);
    }

    /// So much was sent.
    pub(super) fn sent(&mut self, duration: Duration, now: Instant) {
        if let Some(until) = &mut self.covered_until {
            *until = (*until).max(now) + duration;
        }
    }

    /// What was sent was thrown away.
    pub(super) fn cleared(&mut self, now: Instant) {
        if let Some(until) = &mut self.covered_until {
            *until = (*until).min(now + FRAME);
        }
    }

    /// When a frame of silence is due, if nothing is sent before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.covered_until
    }

    /// Whether a frame of silence is to be sent now. After a late wake-up it is one and not all that were missed.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.covered_until.is_some_and(|until| until <= now);
        if let (true, Some(until)) = (is_due, &mut self.covered_until) {
            *until += FRAME;
            if *until <= now {
                *until = now + FRAME;
            }
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of silence that are sent from 0 to `until_ms`, with replies of `(at, length)` in between.
    fn check(replies_ms: &[(u64, u64)], until_ms: u64, expected_at_ms: &[u64]) {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut idle = Idle::default();
        idle.start(start);
        let mut sent = Vec::new();
        for t in 0..until_ms {
            let now = start + ms(t);
            for (_, length) in replies_ms.iter().filter(|(at, _)| *at == t) {
                idle.sent(ms(*length), now);
            }
            if idle.take(now) {
                sent.push(t);
            }
        }
        assert_eq!(sent, expected_at_ms);
    }

    #[test]
    fn a_quiet_line_gets_a_frame_every_20_ms() {
        check(&[], 100, &[0, 20, 40, 60, 80]);
    }

    #[test]
    fn a_reply_takes_the_place_of_silence() {
        // What was sent reaches to 20, the reply from there to 80.
        check(&[(10, 60)], 130, &[0, 80, 100, 120]);
    }

    #[test]
    fn what_was_not_started_stays_quiet() {
        let mut idle = Idle::default();
        idle.sent(FRAME, Instant::now());
        assert_eq!(idle.due(), None);
        assert!(!idle.take(Instant::now()));
    }

    #[test]
    fn after_a_clear_silence_follows_at_once() {
        let now = Instant::now();
        let mut idle = Idle::default();
        idle.start(now);
        idle.sent(Duration::from_secs(1), now);
        idle.cleared(now);
        assert_eq!(idle.due(), Some(now + FRAME));
    }
}
