//! The live calls of this process: how many there may be, and how all of them end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::summary::CallSummary;

/// How many ended calls are remembered.
const REMEMBERED: usize = 64;

/// All calls of the process.
#[derive(Clone, Debug)]
pub struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    permits: Arc<Semaphore>,
    limit: u32,
    tasks: TaskTracker,
    /// Cancelled when the grace period is over.
    end_now: CancellationToken,
    /// Written by each call when it ends.
    ended: Mutex<VecDeque<CallSummary>>,
}

/// The right to run one call; dropped with it.
#[derive(Debug)]
pub struct CallPermit {
    _permit: OwnedSemaphorePermit,
}

impl Calls {
    /// A registry that admits at most `limit` calls at a time.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(limit as usize)),
            limit,
            tasks: TaskTracker::new(),
            end_now: CancellationToken::new(),
            ended: Mutex::default(),
        }))
    }

    /// Admits one call, if there is room.
    #[must_use]
    pub fn admit(&self) -> Option<CallPermit> {
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok()?;
        Some(CallPermit { _permit: permit })
    }

    /// How many calls hold a permit.
    #[must_use]
    pub fn active(&self) -> usize {
        self.0.limit as usize - self.0.permits.available_permits()
    }

    /// Whether one more would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.permits.available_permits() == 0
    }

    /// Runs a call as a task of its own.
    pub fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(call);
    }

    /// Fires when the remaining calls are to end.
    #[must_use]
    pub fn end_now(&self) -> CancellationToken {
        self.0.end_now.clone()
    }

    /// Lets the calls finish for at most `grace`, then ends what is left; returns when none is.
    pub async fn drain(&self, grace: Duration) {
        if tokio::time::timeout(grace, self.all_ended()).await.is_err() {
            self.0.end_now.cancel();
            self.all_ended().await;
        }
    }

    async fn all_ended(&self) {
        // A call that is still being connected has a permit and no task yet.
        let _all = self.0.permits.acquire_many(self.0.limit).await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Remembers an ended call.
    ///
    /// # Panics
    ///
    /// Never: the lock is held to move a value only.
    pub(super) fn remember(&self, summary: CallSummary) {
        let mut ended = self.0.ended.lock().expect("no panic while held");
        if ended.len() == REMEMBERED {
            ended.pop_front();
        }
        ended.push_back(summary);
    }

    /// The last calls that ended, oldest first.
    ///
    /// # Panics
    ///
    /// Never: the lock is held to copy values only.
    #[must_use]
    pub fn ended(&self) -> Vec<CallSummary> {
        let ended = self.0.ended.lock().expect("no panic while held");
        ended.iter().cloned().collect()
    }
}
