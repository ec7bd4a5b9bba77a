//! Remembers which tickets were used, so that none is used twice.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::future::ready;
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::clock::Now;
use super::ticket::OneTimeId;

/// Ids that one process remembers. At 200 calls a second (limits reference) 60,000 tickets of 300 s of life each, or
/// 120,000 nonces of 600 s.
const CAPACITY: usize = 150_000;

/// Why an id cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseError {
    /// It was used before.
    Replayed,
    /// Whether it was cannot be said, or could not be remembered: closed on doubt.
    Unknown,
}

/// Where used ids are kept. All processes that accept the same tickets must share one, or a ticket is good once at
/// each of them.
pub trait OneTimeIds: fmt::Debug + Send + Sync {
    /// Marks an id as used that will not be accepted after `expires` (Unix seconds). Of several at once with one
    /// id, one succeeds.
    ///
    /// # Errors
    ///
    /// If the id was used before, or that cannot be said.
    fn use_up(&self, id: OneTimeId, expires: u64, now: Now) -> BoxFuture<'_, Result<(), UseError>>;
}

/// Used ids of this process alone, lost when it ends.
#[derive(Debug)]
pub(super) struct InProcess {
    used: Mutex<Used>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Used {
    ids: HashSet<OneTimeId>,
    /// By the time from which on they may be forgotten.
    by_end: BTreeSet<(u64, OneTimeId)>,
}

impl Default for InProcess {
    fn default() -> Self {
        Self {
            used: Mutex::default(),
            capacity: CAPACITY,
        }
    }
}

impl InProcess {
    fn insert(&self, id: OneTimeId, expires: u64, now: Now) -> Result<(), UseError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        // By the floor, since a clock that is set back makes tickets good again that have expired by the wall.
        while let Some((end, id)) = used.by_end.first().copied()
            && end <= now.floor
        {
            used.by_end.pop_first();
            used.ids.remove(&id);
        }
        if used.ids.contains(&id) {
            return Err(UseError::Replayed);
        }
        if used.ids.len() >= self.capacity {
            return Err(UseError::Unknown);
        }
        used.ids.insert(id);
        used.by_end.insert((expires, id));
        Ok(())
    }
}

impl OneTimeIds for InProcess {
    fn use_up(&self, id: OneTimeId, expires: u64, now: Now) -> BoxFuture<'_, Result<(), UseError>> {
        Box::pin(ready(self.insert(id, expires, now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            wall: seconds,
            floor: seconds,
        }
    }

    fn len(ids: &InProcess) -> usize {
        let used = ids.used.lock().unwrap();
        assert_eq!(used.ids.len(), used.by_end.len());
        used.ids.len()
    }

    #[test]
    fn an_id_is_used_once_and_forgotten_when_it_is_worthless() {
        let ids = InProcess::default();
        assert_eq!(ids.insert([1; 16], 160, at(100)), Ok(()));
        assert_eq!(ids.insert([1; 16], 160, at(100)), Err(UseError::Replayed));
        assert_eq!(ids.insert([2; 16], 160, at(100)), Ok(()));
        assert_eq!(ids.insert([1; 16], 160, at(159)), Err(UseError::Replayed));
        assert_eq!(ids.insert([3; 16], 220, at(160)), Ok(()));
        assert_eq!(len(&ids), 1);
        // What says nothing of its end has another one each time that it is shown.
        assert_eq!(ids.insert([3; 16], 221, at(161)), Err(UseError::Replayed));
        assert_eq!(len(&ids), 1);
    }

    #[test]
    fn a_clock_that_is_set_forgets_nothing_too_early() {
        let ids = InProcess::default();
        // The wall clock is an hour ahead, is set right, and comes by that hour again.
        let ahead = |floor| Now {
            wall: floor + 3_600,
            floor,
        };
        assert_eq!(ids.insert([1; 16], 3_760, ahead(100)), Ok(()));
        assert_eq!(ids.insert([2; 16], 4_000, ahead(300)), Ok(()));
        assert_eq!(
            ids.insert([1; 16], 3_760, at(3_700)),
            Err(UseError::Replayed)
        );
    }

    #[test]
    fn a_full_memory_lets_nobody_in() {
        let ids = InProcess {
            capacity: 2,
            ..InProcess::default()
        };
        assert_eq!(ids.insert([1; 16], 160, at(100)), Ok(()));
        assert_eq!(ids.insert([2; 16], 161, at(100)), Ok(()));
        assert_eq!(ids.insert([3; 16], 162, at(100)), Err(UseError::Unknown));
        assert_eq!(ids.insert([2; 16], 161, at(100)), Err(UseError::Replayed));
        assert_eq!(ids.insert([3; 16], 162, at(160)), Ok(()));
    }
}
