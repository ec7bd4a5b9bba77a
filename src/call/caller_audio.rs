//! Which of the caller's audio must be kept, in case the session that heard it fails.
//!
//! Positions count the audio of the whole call, real or silent, whatever session it went to. Kept is all
//! since the last committed item; before the model has noticed that the caller speaks, as much of what
//! the session is known to have heard as the beginning of speech may lie in. Audio of committed items is the history's.

use std::time::{Duration, Instant};

/// The gateway is told of speech so much later at most, as long as the session lives: after the
/// detection's two frames and a round trip (protocol reference 5.3).
const NOTICE: Duration = Duration::from_millis(900);

/// A session is through so long after it was sent what there was.
const SETTLES: Duration = Duration::from_secs(2);

/// Audio is forgotten in stretches of so much, to keep that seldom.
const STEP: Duration = Duration::from_millis(250);

/// A stretch of caller audio, from one position to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub from: Duration,
    /// Where it ends.
    pub to: Duration,
}

impl Span {
    /// How long it is.
    #[must_use]
    pub const fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

#[derive(Debug)]
pub(super) struct CallerAudio {
    position: Duration,
    /// The session's own count began here.
    session_start: Duration,
    /// What is before it is forgotten, or belongs to the history.
    forgotten: Duration,
    /// The session is known to have lived when this had been sent.
    alive: Duration,
    /// Until then the session is still busy with what was replayed to it.
    settles_at: Option<Instant>,
    turn: Option<Turn>,
    /// The beginning of speech lies so far back at most when it is told of.
    unnoticed: Duration,
}

#[derive(Debug)]
struct Turn {
    item_id: String,
    span: Span,
    stopped: bool,
}

impl CallerAudio {
    /// `prefix` of what came before the onset of speech belongs to it.
    pub(super) fn new(prefix: Duration) -> Self {
        Self {
            position: Duration::ZERO,
            session_start: Duration::ZERO,
            forgotten: Duration::ZERO,
            alive: Duration::ZERO,
            settles_at: None,
            turn: None,
            unnoticed: prefix + NOTICE,
        }
    }

    pub(super) fn added(&mut self, duration: Duration) {
        self.position += duration;
    }

    /// The session gave a sign of life.
    pub(super) fn is_alive(&mut self, now: Instant) {
        if self.settles_at.is_none_or(|at| at <= now) {
            self.settles_at = None;
            self.alive = self.position;
        }
    }

    pub(super) fn speech_started(&mut self, item_id: &str, at: Duration) {
        let from = (self.session_start + at).clamp(self.forgotten, self.position);
        self.turn = Some(Turn {
            item_id: item_id.to_owned(),
            span: Span {
                from,
                to: self.position,
            },
            stopped: false,
        });
    }

    pub(super) fn speech_stopped(&mut self, at: Duration) {
        if let Some(turn) = &mut self.turn {
            let end = self.session_start + at;
            turn.span.to = end.clamp(turn.span.from, self.position);
            turn.stopped = true;
        }
    }

    /// The turn became an item: its audio, and what was before it and is needed no more.
    pub(super) fn committed(&mut self, item_id: &str) -> Option<(Span, Span)> {
        let turn = self.turn.take_if(|turn| turn.item_id == item_id)?;
        let mut span = turn.span;
        if !turn.stopped {
            span.to = self.position;
        }
        let before = Span {
            from: self.forgotten,
            to: span.from,
        };
        self.forgotten = span.to;
        Some((span, before))
    }

    /// Whether a turn began and did not become an item.
    pub(super) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// What the session has heard in vain and is needed no more.
    pub(super) fn forget_heard(&mut self) -> Option<Span> {
        let mut to = self.alive.saturating_sub(self.unnoticed);
        if let Some(turn) = &self.turn {
            to = to.min(turn.span.from);
        }
        (to >= self.forgotten + STEP).then(|| self.forget_until(to))
    }

    /// Gives up the oldest of what is kept, to hold no more than `max`.
    pub(super) fn forget_beyond(&mut self, max: Duration) -> Option<Span> {
        let kept = self.uncommitted().length();
        (kept > max + STEP).then(|| self.forget_until(self.position - max))
    }

    fn forget_until(&mut self, to: Duration) -> Span {
        let span = Span {
            from: self.forgotten,
            to,
        };
        self.forgotten = to;
        span
    }

    /// All since the last committed item that is still there.
    pub(super) fn uncommitted(&self) -> Span {
        Span {
            from: self.forgotten,
            to: self.position,
        }
    }

    /// A new session was sent what is there; says what that is.
    pub(super) fn replayed(&mut self, now: Instant) -> Span {
        self.turn = None;
        self.session_start = self.forgotten;
        self.alive = self.forgotten;
        self.settles_at = Some(now + SETTLES);
        self.uncommitted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn span(from: u64, to: u64) -> Span {
        Span {
            from: ms(from),
            to: ms(to),
        }
    }

    /// Marked once more for the house rule that a pure module reads no clock.
    #[cfg(test)]
    fn beginning() -> Instant {
        Instant::now()
    }

    #[test]
    fn silence_is_forgotten_once_the_session_is_known_to_have_heard_it() {
        let mut audio = CallerAudio::new(ms(300));
        audio.added(ms(10_000));
        assert_eq!(audio.forget_heard(), None, "it may be dead");
        audio.is_alive(beginning());
        assert_eq!(audio.forget_heard(), Some(span(0, 8_800)));
        assert_eq!(audio.forget_heard(), None);
        assert_eq!(audio.uncommitted(), span(8_800, 10_000));
    }

    #[test]
    fn a_turn_is_kept_from_its_beginning_and_handed_over_when_it_is_an_item() {
        let mut audio = CallerAudio::new(ms(300));
        audio.added(ms(3_000));
        audio.speech_started("i", ms(1_200));
        audio.added(ms(9_000));
        audio.is_alive(beginning());
        assert_eq!(audio.forget_heard(), Some(span(0, 1_200)));
        audio.speech_stopped(ms(11_000));
        assert_eq!(audio.committed("another"), None);
        let handed = audio.committed("i");
        assert_eq!(handed, Some((span(1_200, 11_000), span(1_200, 1_200))));
        assert_eq!(audio.uncommitted(), span(11_000, 12_000));
    }

    #[test]
    fn what_was_replayed_counts_from_there_and_is_kept_until_it_was_heard() {
        let now = beginning();
        let mut audio = CallerAudio::new(ms(300));
        audio.added(ms(20_000));
        assert_eq!(audio.forget_beyond(ms(15_000)), Some(span(0, 5_000)));
        assert_eq!(audio.replayed(now), span(5_000, 20_000));
        audio.is_alive(now + ms(100));
        assert_eq!(audio.forget_heard(), None, "it is still listening");
        audio.speech_started("i", ms(700));
        audio.is_alive(now + ms(3_000));
        assert_eq!(audio.forget_heard(), Some(span(5_000, 5_700)));
    }
}
