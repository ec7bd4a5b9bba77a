//! What became of the dials of one call that brought no session, for its trace.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Failed dials that are remembered until somebody asks.
const MAX_DIALS: usize = 32;

/// A dial that brought no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedDial {
    /// The deployment that was dialled.
    pub deployment: String,
    /// Why it failed: a name of `trunkline_dial_failures_total`, or `too_slow` where it was given up for another.
    pub cause: &'static str,
    /// What it answered, if that was a refusal by HTTP.
    pub http_status: Option<u16>,
    /// When it began.
    pub from: Instant,
    /// When it was over.
    pub to: Instant,
}

/// The failed dials of a call; nothing is kept by default. Clones share what they keep.
#[derive(Clone, Debug, Default)]
pub struct FailedDials(Option<Arc<Mutex<Vec<FailedDial>>>>);

impl FailedDials {
    /// Keeps them.
    #[must_use]
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    pub(super) fn add(&self, dial: FailedDial) {
        if let Some(kept) = &self.0 {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < MAX_DIALS {
                kept.push(dial);
            }
        }
    }

    /// Those that came since this was last asked, in the order in which they were over.
    #[must_use]
    pub fn take(&self) -> Vec<FailedDial> {
        let Some(kept) = &self.0 else {
            return Vec::new();
        };
        std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
