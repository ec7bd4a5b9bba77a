//! Somebody who listens to what the stand-in hears and says: with the phone's [`Tap`](super::phone_tap::Tap) at the
//! other end, the way of each frame between the two can be timed.

use std::fmt;
use std::time::Instant;

use trunkline_media::SampleRate;

/// A listener to all sessions. Its methods run within a session's task, one after the other for each session: they
/// must not block. `session` is the number of the connection, from 0, as in the
/// [`SessionRecord`](super::SessionRecord).
pub trait Listener: Send + Sync {
    /// A client appended audio.
    fn appended(&self, session: u64, now: Instant, samples: &[i16], rate: SampleRate);

    /// A delta is sent.
    fn said(&self, session: u64, now: Instant, samples: &[i16], rate: SampleRate);
}

impl fmt::Debug for dyn Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
