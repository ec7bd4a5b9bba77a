//! The live calls of this process: how many there may be, and how all of them end.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::live::{CallNews, LiveCall, Watched};
use super::recent_turns::{RecentTurns, TurnStep};
use super::summary::CallSummary;
use super::watchdog::Pulse;
use super::workers::Workers;

/// How many ended calls are remembered.
const REMEMBERED: usize = 64;

/// Calls that are left when the grace period is over end within so long, one after the other: whoever calls again does
/// so then, and elsewhere (limits reference).
const SPREAD: Duration = Duration::from_secs(10);

/// Events that wait for a watcher: a thousand calls of which each has a turn in ten seconds make so many in ten.
const NEWS: usize = 1024;

/// All calls of the process.
#[derive(Clone, Debug)]
pub struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Calls that hold a permit; written by each permit, when it is given and when it is dropped.
    active: watch::Sender<u32>,
    limit: AtomicU32,
    tasks: TaskTracker,
    /// Where calls run; without any, in the runtime that spawns them.
    workers: OnceLock<Workers>,
    /// Cancelled when the grace period is over.
    over: CancellationToken,
    /// Cancelled when nobody wants to wait any more.
    end_now: CancellationToken,
    /// Calls that asked when they are to end.
    n_asked: AtomicU32,
    /// Calls that run, by their number; written by each when it begins and when it ends.
    live: Mutex<BTreeMap<u64, Arc<LiveCall>>>,
    n_listed: AtomicU64,
    news: broadcast::Sender<CallNews>,
    /// From when on turns are counted.
    began: Instant,
    /// Written by each call when it has answered a turn.
    turns: Mutex<RecentTurns>,
    /// Written by each call when it ends.
    ended: Mutex<VecDeque<CallSummary>>,
}

/// When a call is to end.
pub(super) type ToldToEnd = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The right to run one call; dropped with it.
#[derive(Debug)]
pub struct CallPermit(Arc<Inner>);

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.0.active.send_modify(|active| *active -= 1);
    }
}

impl Calls {
    /// A registry that admits at most `limit` calls at a time.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self(Arc::new(Inner {
            active: watch::Sender::new(0),
            limit: AtomicU32::new(limit),
            tasks: TaskTracker::new(),
            workers: OnceLock::new(),
            over: CancellationToken::new(),
            end_now: CancellationToken::new(),
            n_asked: AtomicU32::new(0),
            live: Mutex::default(),
            n_listed: AtomicU64::new(0),
            news: broadcast::Sender::new(NEWS),
            began: Instant::now(),
            turns: Mutex::default(),
            ended: Mutex::default(),
        }))
    }

    /// Admits one call, if there is room.
    #[must_use]
    pub fn admit(&self) -> Option<CallPermit> {
        let limit = self.limit();
        let admitted = self.0.active.send_if_modified(|active| {
            let may = *active < limit;
            *active += u32::from(may);
            may
        });
        admitted.then(|| CallPermit(Arc::clone(&self.0)))
    }

    /// Admits at most so many calls at a time from now on. Those beyond it that are there go on.
    pub fn set_limit(&self, limit: u32) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// How many may be admitted at a time.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// How many calls hold a permit.
    #[must_use]
    pub fn active(&self) -> usize {
        *self.0.active.borrow() as usize
    }

    /// Whether one more would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        *self.0.active.borrow() >= self.limit()
    }

    /// From now on calls run there. The first word counts.
    pub fn run_on(&self, workers: Workers) {
        let _ = self.0.workers.set(workers);
    }

    /// Runs a call as a task of its own.
    pub fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        match self.0.workers.get() {
            Some(workers) => workers.spawn(self.0.tasks.track_future(call)),
            None => drop(self.0.tasks.spawn(call)),
        }
    }

    /// By how much the threads that run calls were late since this was asked last, as [`Workers`] counts it; nothing if
    /// calls have no threads of their own.
    #[must_use]
    pub fn take_lag(&self) -> Duration {
        let workers = self.0.workers.get();
        workers.map_or(Duration::ZERO, Workers::take_lag)
    }

    /// What shows that the threads that run calls go on.
    #[must_use]
    pub fn pulses(&self) -> Vec<Arc<Pulse>> {
        let workers = self.0.workers.get().into_iter();
        workers.flat_map(Workers::pulses).cloned().collect()
    }

    /// Is over when the call that asks is to end, for the sake of the process.
    pub(super) fn told_to_end(&self) -> ToldToEnd {
        let calls = Arc::clone(&self.0);
        let n = calls.n_asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            calls.over.cancelled().await;
            tokio::select! {
                () = tokio::time::sleep(SPREAD.mul_f64(place(n))) => {}
                () = calls.end_now.cancelled() => {}
            }
        })
    }

    /// Lets the calls finish for at most `grace`, then ends what is left, within 10 s; without any grace at once.
    /// Returns when none is left.
    pub async fn drain(&self, grace: Duration) {
        if tokio::time::timeout(grace, self.all_ended()).await.is_err() {
            self.0.over.cancel();
            if grace.is_zero() {
                self.0.end_now.cancel();
            }
            self.all_ended().await;
        }
    }

    async fn all_ended(&self) {
        // A call that is still being connected has a permit and no task yet.
        let mut active = self.0.active.subscribe();
        // The sender lives as long as `self`.
        let _ = active.wait_for(|active| *active == 0).await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(super) fn next_number(&self) -> u64 {
        self.0.n_listed.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A call is there.
    pub(super) fn enter(&self, call: &Arc<LiveCall>) {
        let mut live = self.lock_live();
        live.insert(call.number(), Arc::clone(call));
        self.tell(CallNews::Began(Arc::clone(call)));
    }

    /// A call is over.
    pub(super) fn leave(&self, call: &Arc<LiveCall>) {
        let mut live = self.lock_live();
        live.remove(&call.number());
        self.tell(CallNews::Ended(Arc::clone(call)));
    }

    pub(super) fn tell(&self, news: CallNews) {
        // Nobody may be watching.
        let _ = self.0.news.send(news);
    }

    /// The calls that run, in the order in which they began.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<LiveCall>> {
        self.lock_live().values().cloned().collect()
    }

    /// The ids of the calls that this thread runs; none if somebody keeps the register locked, for which this does not wait.
    #[must_use]
    pub fn on_thread(&self, thread: &str) -> Vec<String> {
        let Ok(live) = self.0.live.try_lock() else {
            return Vec::new();
        };
        let calls = live.values().filter(|call| call.is_on(thread));
        calls.map(|call| call.facts().call_id.clone()).collect()
    }

    /// The call of that id, if it runs.
    #[must_use]
    pub fn find(&self, call_id: &str) -> Option<Arc<LiveCall>> {
        let live = self.lock_live();
        let mut calls = live.values();
        calls.find(|call| call.facts().call_id == call_id).cloned()
    }

    /// The calls that run, and all that becomes of them from then on.
    #[must_use]
    pub fn watch(&self) -> Watched {
        let live = self.lock_live();
        Watched {
            calls: live.values().cloned().collect(),
            news: self.0.news.subscribe(),
        }
    }

    fn lock_live(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<LiveCall>>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has answered a turn.
    pub(super) fn answered(&self, latency: Duration) {
        self.lock_turns().add(self.0.began.elapsed(), latency);
    }

    /// How fast turns were answered of late, the latest last.
    #[must_use]
    pub fn recent_turns(&self) -> Vec<TurnStep> {
        self.lock_turns().steps(self.0.began.elapsed())
    }

    fn lock_turns(&self) -> MutexGuard<'_, RecentTurns> {
        self.0.turns.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Where in a stretch of 1 the `n`th of some has its place, so that any of them that follow each other lie far apart:
/// multiples of the golden ratio.
fn place(n: u32) -> f64 {
    (f64::from(n) * 0.618_033_988_749_895).fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_ends_one_after_the_other() {
        let calls = Calls::new(100);
        let ended: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let began = Instant::now();
        for _ in 0..100 {
            let permit = calls.admit().unwrap();
            let (told, ended) = (calls.told_to_end(), Arc::clone(&ended));
            calls.spawn(async move {
                told.await;
                ended.lock().unwrap().push(began.elapsed());
                drop(permit);
            });
        }
        calls.drain(Duration::from_secs(60)).await;
        let mut ended = ended.lock().unwrap().clone();
        ended.sort();
        assert_eq!(ended.len(), 100);
        assert!(ended[0] >= Duration::from_secs(60));
        assert!(ended[99] <= Duration::from_secs(60) + SPREAD);
        // None waits for the next much longer than if they were evenly apart.
        for pair in ended.windows(2) {
            assert!(pair[1] - pair[0] < SPREAD / 50, "{pair:?}");
        }
    }

    #[tokio::test]
    async fn a_lower_limit_ends_no_call() {
        let calls = Calls::new(2);
        let (first, second) = (calls.admit().unwrap(), calls.admit().unwrap());
        assert!(calls.is_full() && calls.admit().is_none());
        calls.set_limit(1);
        assert_eq!(calls.active(), 2);
        drop(first);
        assert!(calls.is_full() && calls.admit().is_none());
        calls.set_limit(3);
        let third = calls.admit();
        assert_eq!((calls.active(), calls.is_full()), (2, false));
        drop((second, third));
        assert_eq!(calls.active(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_word_ends_all_at_once() {
        let calls = Calls::new(2);
        let permit = calls.admit().unwrap();
        let _first = calls.told_to_end();
        let told = calls.told_to_end();
        calls.spawn(async move {
            told.await;
            drop(permit);
        });
        let began = Instant::now();
        let patient = calls.drain(Duration::from_secs(60));
        assert!(
            tokio::time::timeout(Duration::from_secs(61), patient)
                .await
                .is_err()
        );
        calls.drain(Duration::ZERO).await;
        assert!(began.elapsed() < Duration::from_millis(61_010));
    }
}
