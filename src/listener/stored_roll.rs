//! What replicas tell one another of their live calls, in the store that they share.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::quota::{Attendance, FallbackStore, TakeOver};
use crate::records::{Attend, Attended, Roll, TakenOver};

/// Calls that are taken over at once.
const AT_ONCE: usize = 64;

/// The roll in a store, as one replica of several.
#[derive(Debug)]
pub struct StoredRoll {
    store: Arc<FallbackStore>,
    /// Nobody else's, not even of the same process when it is started again.
    replica: String,
    /// When a replica counts as silent.
    life: Duration,
}

impl StoredRoll {
    /// A replica that has not said anything yet. Its name is for people; what follows it is nobody else's.
    #[must_use]
    pub fn new(store: Arc<FallbackStore>, name: Option<&str>, life: Duration) -> Self {
        let name = name.unwrap_or("replica");
        Self {
            store,
            replica: format!("{name}/{:016x}", fastrand::u64(..)),
            life,
        }
    }
}

impl Roll for StoredRoll {
    fn attend(&self, ask: Attend) -> BoxFuture<'_, Option<Attended>> {
        let ask = Attendance {
            replica: self.replica.clone(),
            life: self.life,
            calls: ask.calls,
            ended: ask.ended,
            anew: ask.anew,
        };
        Box::pin(async move {
            let attended = self.store.attend(&ask).await.ok()?;
            Some(Attended {
                n_calls: attended.n_calls,
                taken: attended.taken,
                silent: attended.silent,
            })
        })
    }

    fn take_over(&self, silent: String) -> BoxFuture<'_, Option<TakenOver>> {
        let ask = TakeOver {
            replica: self.replica.clone(),
            silent,
            life: self.life,
            most: AT_ONCE,
        };
        Box::pin(async move {
            let taken = self.store.take_over(&ask).await.ok()?;
            Some(TakenOver {
                silent_for: taken.silent_for,
                calls: taken.calls,
            })
        })
    }

    fn confirm(&self, silent: String, calls: Vec<String>) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let done = self.store.confirm(&silent, &calls).await;
            if let Err(error) = &done {
                tracing::debug!(%error, "calls that were taken over are told again");
            }
            done.is_ok()
        })
    }
}
