//! The store of one process: a pure core, and a shell with a lock around it that reads the clocks.
//!
//! Forgets what has run out: when it is next looked at, and all of it every few seconds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::book::{DemandBook, Leases, USUAL_MINUTES, Verdict};
use super::bucket::{Bucket, MAX_KEEP, SLACK, Window, drains_in, finite, from_minutes};
use super::clock::Now;
use super::store::{
    Admitted, Ask, Check, LeaseRenewal, Limit, Shortage, Spend, Store, StoreError, Totals,
};

/// How often everything is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Ids that are remembered as used: 120,000 nonces of 600 s of life, at 200 calls a second (limits reference), and some.
const MAX_IDS: usize = 150_000;

/// Texts that are kept.
const MAX_TEXTS: usize = 10_000;

/// Bounds of [`Shortage::retry_after`].
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Counts and leases of one process.
pub struct InProcess {
    state: Mutex<State>,
    start: Instant,
    wall: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}

impl Default for InProcess {
    fn default() -> Self {
        Self::with_wall_clock(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        })
    }
}

impl InProcess {
    /// One whose windows follow another clock: the time since 1970.
    #[must_use]
    pub fn with_wall_clock(wall: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            state: Mutex::default(),
            start: Instant::now(),
            wall: Box::new(wall),
        }
    }

    /// How many buckets, windows, books, ids and texts it remembers.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.lock().0.remembered()
    }

    fn lock(&self) -> (MutexGuard<'_, State>, Now) {
        // A panic in here leaves counts that are at worst off by one call.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Now {
            steady: self.start.elapsed(),
            wall: (self.wall)(),
        };
        state.sweep(now);
        (state, now)
    }

    pub(super) fn admit_now(&self, ask: &Ask) -> Result<Admitted, Shortage> {
        let (mut state, now) = self.lock();
        state.admit(ask, now)
    }

    pub(super) fn renew_now(&self, leases: &[LeaseRenewal]) {
        let (mut state, now) = self.lock();
        leases.iter().for_each(|lease| state.renew(lease, now));
    }

    pub(super) fn release_now(&self, leases: &[LeaseRenewal]) {
        let (mut state, _) = self.lock();
        leases.iter().for_each(|lease| state.release(lease));
    }

    pub(super) fn spend_now(&self, spends: &[Spend]) -> Vec<Totals> {
        let (mut state, now) = self.lock();
        spends.iter().map(|spend| state.spend(spend, now)).collect()
    }
}

/// Where a shared store is heard, what it says is taken over.
impl InProcess {
    pub(super) fn set_bucket(&self, name: &Arc<str>, per_minute: f64, held: f64) {
        let (mut state, now) = self.lock();
        let known = state.buckets.get(name);
        let before = known.map_or(0.0, |(bucket, _)| bucket.held(per_minute, now));
        state.put(name, held - before, per_minute, now);
    }

    pub(super) fn set_window(&self, name: &Arc<str>, length: Duration, held: f64) {
        let (mut state, now) = self.lock();
        let known = state.windows.get(name);
        let before = known.map_or(0.0, |(window, _)| window.held(length, now).0);
        let spend = Spend::Window {
            name: Arc::clone(name),
            length,
            amount: held - before,
        };
        state.spend(&spend, now);
    }
}

impl Store for InProcess {
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Result<Admitted, Shortage>, StoreError>> {
        Box::pin(ready(Ok(self.admit_now(&ask))))
    }

    fn renew(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.renew_now(&leases);
        Box::pin(ready(Ok(())))
    }

    fn release(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.release_now(&leases);
        Box::pin(ready(Ok(())))
    }

    fn spend(&self, spends: Vec<Spend>) -> BoxFuture<'_, Result<Vec<Totals>, StoreError>> {
        Box::pin(ready(Ok(self.spend_now(&spends))))
    }

    fn use_once(&self, id: Arc<str>, life: Duration) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (mut state, now) = self.lock();
        Box::pin(ready(state.use_once(id, life, now)))
    }

    fn put(
        &self,
        name: Arc<str>,
        text: Arc<str>,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let (mut state, now) = self.lock();
        Box::pin(ready(state.put_text(name, text, life, now)))
    }

    fn get(&self, name: Arc<str>) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        let (state, now) = self.lock();
        let text = state.texts.get(&name).filter(|it| it.1 > now.steady);
        Box::pin(ready(Ok(text.map(|(text, _)| text.to_string()))))
    }
}

/// The pure core.
#[derive(Debug, Default)]
struct State {
    /// With when each may be forgotten.
    buckets: HashMap<Arc<str>, (Bucket, Duration)>,
    /// With their lengths.
    windows: HashMap<Arc<str>, (Window, Duration)>,
    counted: HashMap<Arc<str>, Leases<()>>,
    demands: HashMap<Arc<str>, DemandBook>,
    used: HashSet<Arc<str>>,
    used_by_end: BTreeSet<(Duration, Arc<str>)>,
    /// With when each is forgotten.
    texts: HashMap<Arc<str>, (Arc<str>, Duration)>,
    swept: Duration,
}

impl State {
    fn admit(&mut self, ask: &Ask, now: Now) -> Result<Admitted, Shortage> {
        let mut expected = 0.0;
        for check in &ask.checks {
            match self.check(check, ask, now) {
                Ok(Some(share)) => expected = share,
                Ok(None) => {}
                Err((unfair, retry_after)) => {
                    return Err(Shortage {
                        name: Arc::clone(&check.name),
                        unfair,
                        retry_after: bounded_retry(retry_after),
                    });
                }
            }
        }
        for check in &ask.checks {
            if let Limit::Bucket {
                per_minute, amount, ..
            } = check.limit
            {
                self.put(&check.name, amount, per_minute, now);
            }
        }
        self.renew(&ask.renewal(), now);
        Ok(Admitted { expected })
    }

    /// Whether one check passes; the demand that its book then expects, or whether the refusal is for fairness and
    /// when to ask again.
    fn check(
        &mut self,
        check: &Check,
        ask: &Ask,
        now: Now,
    ) -> Result<Option<f64>, (bool, Duration)> {
        match &check.limit {
            Limit::Bucket {
                per_minute,
                burst,
                amount,
            } => {
                let bucket = self.buckets.get(&check.name);
                let held = bucket.map_or(0.0, |(bucket, _)| bucket.held(*per_minute, now));
                let over = held + finite(*amount) - finite(*burst).max(0.0) * SLACK;
                if over > 0.0 {
                    return Err((false, drains_in(over, *per_minute)));
                }
            }
            Limit::Window { limit, length } => {
                let window = self
                    .windows
                    .get(&check.name)
                    .map_or_else(Window::default, |it| it.0);
                let (held, left) = window.held(*length, now);
                if held >= finite(*limit) {
                    return Err((false, left));
                }
            }
            Limit::Leases { limit } => {
                let n_leases = self.counted.get_mut(&check.name).map_or(0, |book| {
                    while book.expire(now.steady).is_some() {}
                    book.len()
                });
                if n_leases >= *limit as usize {
                    let minutes = ask.mean_minutes() / (n_leases as f64).max(f64::MIN_POSITIVE);
                    return Err((false, from_minutes(minutes)));
                }
            }
            Limit::Demand(asked) => {
                let unknown = DemandBook::default();
                let book = match self.demands.get_mut(&check.name) {
                    Some(book) => {
                        book.expire(now.steady);
                        &*book
                    }
                    None => &unknown,
                };
                let retry = || from_minutes(book.next_end());
                return match book.judge(asked) {
                    Verdict::Fits(share) => Ok(Some(share)),
                    Verdict::Full => Err((false, retry())),
                    Verdict::Unfair => Err((true, retry())),
                };
            }
        }
        Ok(None)
    }

    fn renew(&mut self, renewal: &LeaseRenewal, now: Now) {
        let end = now.steady.saturating_add(renewal.life.min(MAX_KEEP));
        for name in &renewal.counted {
            let book = self.counted.entry(Arc::clone(name)).or_default();
            book.enter(&renewal.lease, end, ());
        }
        for (name, demand) in &renewal.demands {
            let book = self.demands.entry(Arc::clone(name)).or_default();
            book.enter(&renewal.lease, end, demand);
        }
    }

    fn release(&mut self, renewal: &LeaseRenewal) {
        for name in &renewal.counted {
            if let Some(book) = self.counted.get_mut(name) {
                book.leave(&renewal.lease);
            }
        }
        for (name, _) in &renewal.demands {
            if let Some(book) = self.demands.get_mut(name) {
                book.leave(&renewal.lease);
            }
        }
    }

    fn spend(&mut self, spend: &Spend, now: Now) -> Totals {
        match spend {
            Spend::Bucket {
                name,
                per_minute,
                amount,
            } => {
                let held = self.put(name, *amount, *per_minute, now);
                Totals {
                    held,
                    resets_in: drains_in(held, *per_minute),
                }
            }
            Spend::Window {
                name,
                length,
                amount,
            } => {
                let (window, its_length) = self.windows.entry(Arc::clone(name)).or_default();
                *its_length = *length;
                let (held, resets_in) = window.count(*amount, *length, now);
                Totals { held, resets_in }
            }
        }
    }

    fn put(&mut self, name: &Arc<str>, amount: f64, per_minute: f64, now: Now) -> f64 {
        let (bucket, forget) = self.buckets.entry(Arc::clone(name)).or_default();
        let held = bucket.put(amount, per_minute, now);
        *forget = now.steady.saturating_add(drains_in(held, per_minute));
        held
    }

    fn use_once(&mut self, id: Arc<str>, life: Duration, now: Now) -> Result<bool, StoreError> {
        self.forget_ids(now);
        if self.used.contains(&id) {
            return Ok(false);
        }
        if self.used.len() >= MAX_IDS {
            return Err(StoreError::Answered("FULL".to_owned()));
        }
        let end = now.steady.saturating_add(life);
        self.used_by_end.insert((end, Arc::clone(&id)));
        Ok(self.used.insert(id))
    }

    fn put_text(
        &mut self,
        name: Arc<str>,
        text: Arc<str>,
        life: Duration,
        now: Now,
    ) -> Result<(), StoreError> {
        self.texts.retain(|_, (_, end)| *end > now.steady);
        if self.texts.len() >= MAX_TEXTS && !self.texts.contains_key(&name) {
            return Err(StoreError::Answered("FULL".to_owned()));
        }
        let end = now.steady.saturating_add(life);
        self.texts.insert(name, (text, end));
        Ok(())
    }

    fn forget_ids(&mut self, now: Now) {
        while let Some((end, _)) = self.used_by_end.first()
            && *end <= now.steady
            && let Some((_, id)) = self.used_by_end.pop_first()
        {
            self.used.remove(&id);
        }
    }

    /// Forgets everything that has run out, now and then.
    fn sweep(&mut self, now: Now) {
        if now.steady < self.swept + SWEEP_EVERY {
            return;
        }
        self.swept = now.steady;
        self.buckets.retain(|_, (_, forget)| *forget > now.steady);
        self.windows
            .retain(|_, (window, length)| window.held(*length, now).0 > 0.0);
        self.counted.retain(|_, book| {
            while book.expire(now.steady).is_some() {}
            book.len() > 0
        });
        self.demands.retain(|_, book| {
            book.expire(now.steady);
            !book.is_empty()
        });
        self.forget_ids(now);
        self.texts.retain(|_, (_, end)| *end > now.steady);
    }

    fn remembered(&self) -> usize {
        self.buckets.len()
            + self.windows.len()
            + self.counted.len()
            + self.demands.len()
            + self.used.len()
            + self.texts.len()
    }
}

/// Never at once, and never so late that nobody comes again.
pub(super) fn bounded_retry(retry_after: Duration) -> Duration {
    let (least, most) = RETRY;
    retry_after.clamp(least, most)
}

impl Ask {
    /// The lease that the call gets.
    pub(super) fn renewal(&self) -> LeaseRenewal {
        let mut renewal = LeaseRenewal {
            lease: self.lease.clone(),
            life: self.life,
            counted: Vec::new(),
            demands: Vec::new(),
        };
        for check in &self.checks {
            let name = Arc::clone(&check.name);
            match &check.limit {
                Limit::Leases { .. } => renewal.counted.push(name),
                Limit::Demand(book) => renewal.demands.push((name, book.group.clone())),
                Limit::Bucket { .. } | Limit::Window { .. } => {}
            }
        }
        renewal
    }

    /// How long the call can be expected to last, in minutes.
    pub(super) fn mean_minutes(&self) -> f64 {
        let mut means = self.checks.iter().filter_map(|check| match &check.limit {
            Limit::Demand(book) => Some(book.group.sane().mean_minutes),
            Limit::Bucket { .. } | Limit::Window { .. } | Limit::Leases { .. } => None,
        });
        means.next_back().unwrap_or(USUAL_MINUTES)
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::LeaseId;
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            steady: Duration::from_secs(seconds),
            wall: Duration::from_secs(1_000_000 + seconds),
        }
    }

    fn ask(n: u32, life: u64) -> Ask {
        let check = |name: &str, limit| Check {
            name: name.into(),
            limit,
        };
        Ask {
            lease: LeaseId(format!("call-{n}").into()),
            life: Duration::from_secs(life),
            checks: vec![
                check("calls", Limit::Leases { limit: 2 }),
                check(
                    "rate",
                    Limit::Bucket {
                        per_minute: 60.0,
                        burst: 10.0,
                        amount: 1.0,
                    },
                ),
            ],
        }
    }

    #[test]
    fn what_has_run_out_is_forgotten() {
        let mut state = State::default();
        for n in 0..2 {
            assert!(state.admit(&ask(n, 15), at(0)).is_ok());
        }
        let window = Spend::Window {
            name: "day".into(),
            length: Duration::from_secs(60),
            amount: 5.0,
        };
        state.spend(&window, at(0));
        let life = Duration::from_secs(15);
        assert_eq!(state.use_once("id".into(), life, at(0)), Ok(true));
        assert_eq!(state.remembered(), 4);
        state.sweep(at(14));
        assert_eq!(state.remembered(), 3, "the bucket has drained");
        state.sweep(at(90));
        assert_eq!(state.remembered(), 0);
    }

    #[test]
    fn the_memory_for_ids_is_bounded_and_closed_when_full() {
        let mut state = State::default();
        let life = Duration::from_secs(60);
        for n in 0..MAX_IDS {
            assert_eq!(state.use_once(n.to_string().into(), life, at(0)), Ok(true));
        }
        assert_eq!(state.use_once("7".into(), life, at(59)), Ok(false));
        assert!(state.use_once("one more".into(), life, at(59)).is_err());
        assert_eq!(state.use_once("one more".into(), life, at(60)), Ok(true));
    }

    #[test]
    fn when_to_come_again_is_neither_now_nor_never() {
        let mut state = State::default();
        for n in 0..2 {
            assert!(state.admit(&ask(n, 3_600), at(0)).is_ok());
        }
        let shortage = state.admit(&ask(2, 3_600), at(0)).expect_err("full");
        assert_eq!(&*shortage.name, "calls");
        // Two calls of three minutes: one of them ends in a minute and a half.
        assert_eq!(shortage.retry_after, Duration::from_secs(90));
        assert_eq!(bounded_retry(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(bounded_retry(Duration::MAX), Duration::from_secs(300));
    }

    #[test]
    fn clocks_that_are_set_and_times_without_end_do_no_harm() {
        let mut state = State::default();
        let wall = |seconds: u64| Now {
            steady: Duration::from_secs(5),
            wall: Duration::from_secs(seconds),
        };
        let spend = |length| Spend::Window {
            name: "w".into(),
            length,
            amount: 1.0,
        };
        for seconds in [u64::MAX, 0, 1_000_000, 992_800, 1_003_600] {
            for length in [Duration::ZERO, Duration::MAX, Duration::from_secs(86_400)] {
                let totals = state.spend(&spend(length), wall(seconds));
                assert!(totals.held >= 1.0);
            }
        }
        assert!(
            state
                .admit(&ask(1, u64::MAX), at(u64::MAX - 2_000_000))
                .is_ok()
        );
        state.sweep(at(1));
    }
}
