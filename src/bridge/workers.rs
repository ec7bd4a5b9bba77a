//! Threads that run calls: one for each processor, each with a runtime of its own, and a call stays where it began.
//!
//! A call is one task that is woken a hundred times a second. In a shared runtime each burst of wake-ups wakes other
//! threads to help, which costs more than the work that they take over (`src/DECISIONS.md`). Connections are
//! accepted, upgraded and dialled elsewhere; a leg's socket moves to the thread of its call with the leg.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::watchdog::Pulse;

/// What a thread oversleeps is measured by naps of so long.
const NAP: Duration = Duration::from_millis(10);

/// The threads.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    n_calls: Arc<AtomicU32>,
    /// The longest that it overslept since it was asked, in microseconds.
    lag_us: Arc<AtomicU64>,
    pulse: Arc<Pulse>,
}

impl Workers {
    /// Starts a thread for each processor that this process may use. They end, and all that they run, when `stop` is
    /// cancelled.
    ///
    /// # Errors
    ///
    /// If the system has no more threads, timers or descriptors.
    pub fn start(stop: &CancellationToken) -> io::Result<Self> {
        let n = thread::available_parallelism().map_or(1, usize::from);
        let start = |n| Worker::start(n, stop.clone());
        let workers = (0..n).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers })
    }

    /// What shows that they go on.
    pub(super) fn pulses(&self) -> impl Iterator<Item = &Arc<Pulse>> {
        self.workers.iter().map(|worker| &worker.pulse)
    }

    /// Runs a call where the fewest are, among the threads that get anywhere.
    pub(super) fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        let load = |worker: &&Worker| {
            let n_calls = worker.n_calls.load(Ordering::Relaxed);
            (worker.pulse.is_stalled(), n_calls)
        };
        let Some(worker) = self.workers.iter().min_by_key(load) else {
            return;
        };
        let counted = Counted::new(&worker.n_calls);
        worker.runtime.spawn(async move {
            let _counted = counted;
            call.await;
        });
    }

    /// By how much the threads were late since this was asked last: the median, and the better of two, so that a call
    /// that keeps one thread busy does not turn callers away whom the others can take.
    pub(super) fn take_lag(&self) -> Duration {
        let lag = |worker: &Worker| worker.lag_us.swap(0, Ordering::Relaxed);
        let mut lags: Vec<u64> = self.workers.iter().map(lag).collect();
        lags.sort_unstable();
        let median = lags.get(lags.len().saturating_sub(1) / 2);
        Duration::from_micros(median.copied().unwrap_or(0))
    }
}

impl Worker {
    fn start(n: usize, stop: CancellationToken) -> io::Result<Self> {
        let lag_us = Arc::new(AtomicU64::new(0));
        let overslept = Arc::clone(&lag_us);
        let name = format!("calls-{n}");
        let pulse = Pulse::new(name.clone());
        let beaten = Arc::clone(&pulse);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = watch_lag(&overslept, &beaten) => {}
                }
            });
        })?;
        Ok(Self {
            runtime: handle,
            n_calls: Arc::default(),
            lag_us,
            pulse,
        })
    }
}

async fn watch_lag(lag_us: &AtomicU64, pulse: &Pulse) {
    loop {
        pulse.beat();
        let asleep = Instant::now();
        sleep(NAP).await;
        let lag = asleep.elapsed().saturating_sub(NAP).as_micros();
        lag_us.fetch_max(u64::try_from(lag).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A call that is counted as long as it runs.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(n_calls: &Arc<AtomicU32>) -> Self {
        n_calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(n_calls))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::mpsc;

    use crate::bridge::watchdog::{Limits, watch};
    use crate::telemetry::Metrics;

    use super::*;

    #[tokio::test]
    async fn calls_are_spread_evenly_and_end_with_the_process() {
        let stop = CancellationToken::new();
        let workers = Workers::start(&stop).unwrap();
        let n_threads = workers.workers.len();
        let (say, mut said) = mpsc::channel(3 * n_threads);
        let (end, ended) = tokio::sync::watch::channel(false);
        for _ in 0..3 * n_threads {
            let (say, mut ended) = (say.clone(), ended.clone());
            workers.spawn(async move {
                say.try_send(thread::current().name().map(str::to_owned))
                    .unwrap();
                let _ = ended.wait_for(|ended| *ended).await;
            });
        }
        let mut counts: BTreeMap<Option<String>, usize> = BTreeMap::new();
        for _ in 0..3 * n_threads {
            *counts.entry(said.recv().await.unwrap()).or_default() += 1;
        }
        assert_eq!(counts.len(), n_threads);
        assert!(counts.values().all(|n| *n == 3), "{counts:?}");
        end.send(true).unwrap();
        drop((say, ended));
        // All senders are dropped when all calls have ended.
        assert_eq!(said.recv().await, None);
        stop.cancel();
    }

    #[tokio::test]
    async fn a_thread_that_is_stuck_gets_no_new_calls() {
        let stop = CancellationToken::new();
        let workers = Workers::start(&stop).unwrap();
        let n_threads = workers.workers.len();
        let (go_on, blocked) = std::sync::mpsc::channel::<()>();
        workers.spawn(async move { _ = blocked.recv() });
        let limits = Limits {
            notice: Duration::from_millis(200),
            give_up: Duration::ZERO,
        };
        let pulses: Vec<_> = workers.pulses().cloned().collect();
        let metrics = Metrics::new();
        watch(pulses, limits, metrics, stop.clone(), |_| Vec::new(), || {}).unwrap();
        let is_stuck = |worker: &&Worker| worker.pulse.is_stalled();
        while !workers.workers.iter().any(|worker| is_stuck(&worker)) {
            sleep(NAP).await;
        }
        let (say, mut said) = mpsc::channel(1);
        if n_threads > 1 {
            for _ in 0..3 * n_threads {
                let say = say.clone();
                workers.spawn(async move { say.send(()).await.unwrap() });
                said.recv().await.unwrap();
            }
        }
        drop(go_on);
        while workers.workers.iter().any(|worker| is_stuck(&worker)) {
            sleep(NAP).await;
        }
        stop.cancel();
    }
}
