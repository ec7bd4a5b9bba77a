//! What ends a session before its call, and how long the call goes on looking for another one.

use std::time::{Duration, Instant};

/// Sessions that may fail in a row, without one good response between them.
const MAX_FAILURES: u32 = 8;

/// A session that held for so long did not fail because the one before it did.
const HELD: Duration = Duration::from_secs(30);

/// Waits before the next attempt, by how many failed in a row; the last one repeats. The second is made at once too: it
/// goes elsewhere, where there is somebody else.
const BACKOFF_MS: [u64; 6] = [0, 0, 250, 500, 1_000, 2_000];

/// Why a session is of no more use to its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The deployment closed it.
    Closed,
    /// The connection broke.
    Gone,
    /// The deployment sent what the protocol does not allow.
    Protocol,
    /// No event, or no sign of life, came while one was due.
    Stalled,
    /// The deployment refused what the agent's configuration asks for.
    Rejected,
    /// The deployment refused the gateway's credential after the connection stood.
    Unauthorized,
    /// The vendor's session cap was reached.
    Expired,
    /// The deployment could not begin or finish a response, twice.
    ServerError,
    /// The deployment's quota is used up.
    RateLimited,
}

impl Loss {
    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Gone => "gone",
            Self::Protocol => "protocol",
            Self::Stalled => "stalled",
            Self::Rejected => "rejected",
            Self::Unauthorized => "unauthorized",
            Self::Expired => "expired",
            Self::ServerError => "server_error",
            Self::RateLimited => "rate_limited",
        }
    }

    /// Where the same deployment refused the same settings there is little hope, and each stall costs the caller much
    /// time.
    const fn weight(self) -> u32 {
        match self {
            Self::Rejected | Self::Stalled => 2,
            _ => 1,
        }
    }
}

/// The call's way from session to session.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Why there is none now.
    pub(super) lost: Option<Loss>,
    /// Another one was opened ahead of its use: whether it is configured.
    pub(super) spare: Option<bool>,
    /// One is being opened.
    pub(super) is_opening: bool,
    n_failures: u32,
    /// The same, counted once each.
    n_losses: u32,
    /// Attempts to open one that failed since the last one that stood.
    n_refused: u32,
    up_since: Instant,
    /// What was left to be played ran out then, and an answer is due of a session that is not there.
    silent_from: Option<Instant>,
    /// The caller had heard nothing for so long before, because of other sessions that failed to give that answer. How
    /// long they were waited for is not in it.
    silent_for: Duration,
    /// When the session in use was asked for that answer.
    asked_at: Option<Instant>,
}

impl Sessions {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lost: None,
            spare: None,
            is_opening: false,
            n_failures: 0,
            n_losses: 0,
            n_refused: 0,
            up_since: now,
            silent_from: None,
            silent_for: Duration::ZERO,
            asked_at: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.lost.is_none()
    }

    /// Notes a failure; false if it was one too many.
    pub(super) fn failed(&mut self, loss: Loss, now: Instant) -> bool {
        if now.saturating_duration_since(self.up_since) >= HELD {
            self.succeeded();
        }
        self.n_failures += loss.weight();
        self.n_losses += 1;
        self.lost = Some(loss);
        self.n_failures < MAX_FAILURES
    }

    /// Nobody gave a session.
    pub(super) fn refused(&mut self) {
        self.n_refused += 1;
    }

    /// How long to wait before the next attempt.
    pub(super) fn backoff(&self) -> Duration {
        let n = (self.n_losses + self.n_refused).saturating_sub(1) as usize;
        Duration::from_millis(BACKOFF_MS[n.min(BACKOFF_MS.len() - 1)])
    }

    /// Another session is used from now on; says whose place it takes.
    pub(super) fn replaced(&mut self, now: Instant) -> Option<Loss> {
        self.up_since = now;
        self.n_refused = 0;
        self.spare = None;
        self.lost.take()
    }

    /// A response went well.
    pub(super) fn succeeded(&mut self) {
        self.n_failures = 0;
        self.n_losses = 0;
    }

    /// An answer is due, and nothing is left to be played from then on.
    pub(super) fn silent_from(&mut self, at: Instant) {
        if let (Some(from), Some(asked)) = (self.silent_from, self.asked_at.take()) {
            self.silent_for += asked.saturating_duration_since(from);
            self.silent_from = None;
        }
        self.silent_from.get_or_insert(at);
    }

    /// The session in use is asked for an answer. What it takes from here on is the model's own time, and that of the
    /// tools that it calls.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked_at.get_or_insert(now);
    }

    /// Nobody waits for that answer any more.
    pub(super) fn no_answer_due(&mut self) {
        self.silent_from = None;
        self.silent_for = Duration::ZERO;
        self.asked_at = None;
    }

    /// The answer is heard: how long the caller heard nothing, beyond the time in which a session was waited for.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Duration> {
        let from = self.silent_from.take()?;
        let until = self.asked_at.take().unwrap_or(now);
        let earlier = std::mem::take(&mut self.silent_for);
        Some(earlier + until.saturating_duration_since(from))
    }
}
