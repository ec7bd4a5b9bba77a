//! Somebody on the line of a call of the phone: hears what comes, and may speak in the caller's place.

use std::fmt;

use tokio::time::Instant;

use super::phone_dialect::{RateLimit, TokenTotals};

/// A listener on one call. Its methods run within the call's task, between two frames: they must not block.
pub trait Tap: Send {
    /// 20 ms of the caller's voice that were due at `due` and are sent now. What they are changed to is sent instead.
    fn speak(&mut self, due: Instant, now: Instant, samples: &mut [i16]) {
        let _ = (due, now, samples);
    }

    /// One message's audio came. It is heard later, when what waits before it has sounded.
    fn hear(&mut self, now: Instant, samples: &[i16]) {
        let _ = (now, samples);
    }

    /// What waited to be heard was dropped.
    fn cleared(&mut self, now: Instant) {
        let _ = now;
    }

    /// A reply is complete, where the dialect tells; `tokens` of all replies so far.
    fn replied(&mut self, tokens: TokenTotals) {
        let _ = tokens;
    }

    /// The deployment said what is left of a limit, where the dialect tells.
    fn limited(&mut self, limit: &RateLimit) {
        let _ = limit;
    }

    /// Asked before each frame: is the caller to hang up, whatever is left of the script?
    fn wants_to_hang_up(&mut self) -> bool {
        false
    }

    /// The call is over.
    fn ended(&mut self, now: Instant) {
        let _ = now;
    }
}

impl fmt::Debug for dyn Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}
