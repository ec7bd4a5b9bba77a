//! Lets a scenario's callers call, until a limit says that it is enough.
//!
//! Nothing waits for an answer that an honest caller would not wait for: open arrivals come on time whatever the
//! target does, frames are due by an absolute schedule, and latencies count from when something was due.

mod caller;
mod ear;
mod lines;
mod wiretap;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::simulator::SoftPhone;

use crate::code::Encoder;
use crate::report::{CallRow, Progress, RunIdentity, RunReport, VERSION};
use crate::scenario::{Arrivals, Limits, Scenario, ScenarioError, Voices};

pub use lines::Lines;
pub use wiretap::Wiretap;

/// How long live calls may take to hang up when the run is over.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(15);

/// One of several processes that share a scenario: the arrivals are dealt out among them, and so are the limits of calls,
/// calls at a time and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub index: u32,
    /// How many there are.
    pub of: u32,
}

impl Default for Part {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl Part {
    /// What this part may have of a scenario's limits, so that all parts together stay within them; what cannot be divided
    /// goes to the first parts. Times are the same for all.
    ///
    /// # Errors
    /// [`ScenarioError::Value`] if a limit, or the callers that are kept up, are not enough for every part to have one:
    /// a part would make no calls.
    pub fn share(self, limits: &Limits, arrivals: &Arrivals) -> Result<Limits, ScenarioError> {
        let (index, of) = (u64::from(self.index), u64::from(self.of));
        let share = |name: &str, all: u64| {
            if all < of {
                let text = format!("{name}: {all} cannot be shared out to {of} parts");
                return Err(ScenarioError::Value(text));
            }
            Ok(all / of + u64::from(index < all % of))
        };
        if let Arrivals::Hold { calls, .. } = arrivals {
            // Callers are dealt out one by one.
            share("arrivals.calls", u64::from(*calls))?;
        }
        Ok(Limits {
            calls: share("limits.calls", limits.calls)?,
            concurrent: share("limits.concurrent", u64::from(limits.concurrent))? as u32,
            tokens: share("limits.tokens", limits.tokens)?,
            ..*limits
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.of)
    }
}

/// A run, ready to go.
#[derive(Clone)]
pub struct Run {
    shared: Arc<Shared>,
}

/// What all calls of a run share.
struct Shared {
    scenario: Scenario,
    part: Part,
    phone: SoftPhone,
    voices: Voices,
    encoder: Encoder,
    lines: Arc<dyn Lines>,
    wiretap: Option<Arc<Wiretap>>,
    start: Instant,
    /// Written by every call when it ends, and by the taps in batches.
    report: Mutex<RunReport>,
    n_begun: AtomicU64,
    /// Calls that were begun and not reported yet, by number, and when each was due.
    live: Mutex<BTreeMap<u64, Instant>>,
    /// Read and written so far.
    n_tokens: AtomicU64,
    /// No call begins any more, and live ones hang up.
    enough: CancellationToken,
}

impl Run {
    /// Prepares a run of this part's share of a scenario. Its clock starts now.
    ///
    /// # Errors
    /// [`ScenarioError`] if the target or the recordings cannot be used, or the limits not be shared out.
    pub fn new(
        mut scenario: Scenario,
        part: Part,
        lines: Arc<dyn Lines>,
        wiretap: Option<Arc<Wiretap>>,
    ) -> Result<Self, ScenarioError> {
        scenario.limits = part.share(&scenario.limits, &scenario.arrivals)?;
        let phone = scenario.target.phone().map_err(ScenarioError::Value)?;
        let codec = |error: trunkline::simulator::phone::PhoneError| {
            ScenarioError::Value(format!("target: {error}"))
        };
        let rate = phone.wire_format().map_err(codec)?.rate.hz();
        let voices = scenario.voices(rate)?;
        let dialect = scenario.target.dialect().map_err(ScenarioError::Value)?;
        let begun = SystemTime::now().duration_since(UNIX_EPOCH);
        let begun = begun.map_or(0, |time| time.as_secs());
        let report = RunReport {
            version: VERSION,
            name: scenario.name.clone(),
            target: phone.address(),
            dialect: dialect.name().to_owned(),
            seed: scenario.seed,
            begun,
            runs: vec![RunIdentity::draw(scenario.seed, begun, part.to_string())],
            ..RunReport::default()
        };
        let shared = Shared {
            part,
            phone: phone.reply_gap(scenario.call.reply_gap),
            encoder: Encoder::new(rate),
            voices,
            lines,
            wiretap,
            start: Instant::now(),
            report: Mutex::new(report),
            n_begun: AtomicU64::new(0),
            live: Mutex::default(),
            n_tokens: AtomicU64::new(0),
            enough: CancellationToken::new(),
            scenario,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Runs to its end. Calls that do not hang up in time are given up and count as failed.
    pub async fn finish(&self) -> RunReport {
        let shared = &self.shared;
        let tasks = TaskTracker::new();
        let end = shared.start + shared.scenario.limits.time;
        let all = async {
            shared.let_call(&tasks).await;
            tasks.close();
            tasks.wait().await;
        };
        tokio::pin!(all);
        tokio::select! {
            () = &mut all => return shared.conclude(false),
            () = shared.enough.cancelled() => {}
            () = sleep_until(end) => shared.stop("time"),
        }
        let left = timeout(LEAVE_TIMEOUT, &mut all).await.is_err();
        shared.conclude(left)
    }

    /// Ends the run before its time.
    pub fn interrupt(&self) {
        self.shared.stop("interrupt");
    }

    /// What is known so far, without the calls one by one.
    #[must_use]
    pub fn so_far(&self) -> Progress {
        let shared = &self.shared;
        let report = {
            let full = shared.report();
            RunReport {
                name: full.name.clone(),
                counts: full.counts,
                frames: full.frames,
                tokens: full.tokens,
                errors: full.errors.clone(),
                measures: full.measures.clone(),
                ..RunReport::default()
            }
        };
        let limits = &shared.scenario.limits;
        Progress {
            report,
            elapsed: shared.start.elapsed(),
            live: shared.live().len() as u32,
            tokens: shared.n_tokens.load(Ordering::Relaxed),
            time: limits.time,
            most_calls: limits.calls,
            most_tokens: limits.tokens,
        }
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, RunReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, why: &str) {
        if !self.enough.is_cancelled() {
            *self.report().stopped_by.entry(why.to_owned()).or_default() += 1;
            self.enough.cancel();
        }
    }

    /// Begins all calls. Returns when no more begin.
    async fn let_call(self: &Arc<Self>, tasks: &TaskTracker) {
        if let Arrivals::Hold { calls, over } = self.scenario.arrivals {
            for n in (0..calls).filter(|n| n % self.part.of == self.part.index) {
                let due = self.start + over * n / calls;
                tasks.spawn(Arc::clone(self).keep_calling(due, n));
            }
            return;
        }
        let times = self.scenario.arrivals.times(self.scenario.seed);
        let mine = times
            .enumerate()
            .filter(|(n, _)| *n as u32 % self.part.of == self.part.index);
        for (_, at) in mine {
            let Some(due) = self.start.checked_add(at) else {
                break;
            };
            let is_enough = self
                .enough
                .run_until_cancelled(sleep_until(due))
                .await
                .is_none();
            if is_enough {
                return;
            }
            if self.live().len() >= self.scenario.limits.concurrent as usize {
                self.report().counts.skipped += 1;
                continue;
            }
            let Some(n) = self.begin() else { return };
            tasks.spawn(Arc::clone(self).place(n, due));
        }
        // A ramp down to nothing, or the end of a trace: what is live may end by itself.
        tasks.close();
        tasks.wait().await;
        self.stop("trace");
    }

    /// One caller who calls again and again.
    async fn keep_calling(self: Arc<Self>, first_due: Instant, caller: u32) {
        let mut random = fastrand::Rng::with_seed(self.scenario.seed ^ u64::from(caller) << 32);
        let mut due = first_due;
        loop {
            if self
                .enough
                .run_until_cancelled(sleep_until(due))
                .await
                .is_none()
            {
                return;
            }
            let Some(n) = self.begin() else { return };
            let begun = Instant::now();
            Arc::clone(&self).place(n, due).await;
            due = Instant::now() + self.scenario.call.pause.draw(&mut random);
            // A target that refuses at once is not to be called a thousand times a second by one caller.
            due = due.max(begun + Duration::from_millis(200));
        }
    }

    /// The number of the next call, unless there were enough.
    fn begin(&self) -> Option<u64> {
        let n = self.n_begun.fetch_add(1, Ordering::Relaxed);
        if n >= self.scenario.limits.calls {
            self.n_begun.fetch_sub(1, Ordering::Relaxed);
            let mut report = self.report();
            report.stopped_by.entry("calls".to_owned()).or_insert(1);
            return None;
        }
        Some(n)
    }

    fn conclude(&self, left: bool) -> RunReport {
        let mut report = std::mem::take(&mut *self.report());
        if left {
            let cause = "did not hang up";
            for (n, due) in self.live().iter() {
                report.counts.failed += 1;
                report.error(cause, "");
                report.calls.push(CallRow {
                    n: *n,
                    at_s: (*due - self.start).as_secs_f64(),
                    outcome: cause.to_owned(),
                    length_ms: due.elapsed().as_secs_f64() * 1e3,
                    ..CallRow::default()
                });
            }
        }
        report.elapsed_s = self.start.elapsed().as_secs_f64();
        report.missed = self.scenario.thresholds.missed(&report);
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_within_the_limits_together() {
        let limits = Limits {
            calls: 11,
            concurrent: 9,
            tokens: 100_000,
            ..Limits::default()
        };
        let hold = |calls| Arrivals::Hold {
            calls,
            over: Duration::ZERO,
        };
        for of in 1..=9 {
            let parts = (0..of).map(|index| Part { index, of }.share(&limits, &hold(9)).unwrap());
            let parts: Vec<_> = parts.collect();
            assert_eq!(parts.iter().map(|it| it.calls).sum::<u64>(), 11);
            assert_eq!(parts.iter().map(|it| it.concurrent).sum::<u32>(), 9);
            assert_eq!(parts.iter().map(|it| it.tokens).sum::<u64>(), 100_000);
            assert!(parts.is_sorted_by(|a, b| a.calls >= b.calls && a.concurrent >= b.concurrent));
            // Callers that are kept up are dealt out in the same way: each part has room for its own.
            for (index, part) in parts.iter().enumerate() {
                let n_held = (0..9).filter(|n| n % of as usize == index).count();
                assert_eq!(part.concurrent as usize, n_held);
            }
        }
        let refused = |of, arrivals| {
            let part = Part { index: 0, of };
            part.share(&limits, &arrivals).unwrap_err().to_string()
        };
        let error = refused(10, hold(10));
        assert!(error.contains("limits.concurrent: 9 cannot"), "{error}");
        let error = refused(9, hold(8));
        assert!(error.contains("arrivals.calls: 8 cannot"), "{error}");
    }
}
