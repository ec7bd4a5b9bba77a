//! What the store of this process goes by.

use std::time::Duration;

/// The time, read twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    /// Since some moment in the past, by a clock that nobody sets: leases and buckets go by it.
    pub(super) steady: Duration,
    /// Since 1970, by the wall clock: windows follow days.
    pub(super) wall: Duration,
}
