//! The store that the gateway uses where replicas share one: asks Redis, and decides here while Redis cannot say.
//!
//! Once Redis failed, nobody asks it again until it was found to work in the background; until then this process gives
//! out its share of what was left when Redis was last heard. What Redis was not told is told when it is back. Whether an
//! id was used is never decided here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::secret::SecretError;
use crate::telemetry::Metrics;

use super::backlog::{Backlog, Work};
use super::bucket::finite;
use super::config::{OnStoreFailure, RedisConfig};
use super::in_process::InProcess;
use super::redis::{MarkedSpends, RedisStore, Told};
use super::roll::{Attendance, Attended, TakeOver, TakenOver};
use super::store::{
    Admitted, Ask, LeaseRenewal, Limit, Shortage, Spend, Store, StoreError, Totals,
};

/// Leases that Redis is told of at once when it is back.
const LEASES_AT_ONCE: usize = 256;

/// When what Redis refused for the sake of one key is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Redis, and this process in its place.
pub struct FallbackStore {
    shared: RedisStore,
    /// This process's leases, and its share of what buckets and windows hold: by it calls are let in.
    own: InProcess,
    /// What buckets and windows hold as far as this process knows.
    known: InProcess,
    share: f64,
    on_failure: OnStoreFailure,
    backlog: Mutex<Backlog>,
    /// Whether Redis is asked: it answers, and was told everything.
    is_asked: AtomicBool,
    /// There is something to tell although Redis is asked.
    untold: Notify,
    start: Instant,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for FallbackStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackStore")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl FallbackStore {
    /// A store that is not connected yet: [`Self::keep`] does that.
    ///
    /// # Errors
    ///
    /// If the address of Redis cannot be read.
    pub fn new(config: &RedisConfig, metrics: Arc<Metrics>) -> Result<Self, SecretError> {
        Ok(Self {
            shared: RedisStore::new(config, Arc::clone(&metrics))?,
            own: InProcess::default(),
            known: InProcess::default(),
            share: config.fallback_share,
            on_failure: config.on_store_failure,
            backlog: Mutex::default(),
            is_asked: AtomicBool::new(false),
            untold: Notify::new(),
            start: Instant::now(),
            metrics,
        })
    }

    /// Keeps Redis connected and told while it is polled.
    pub async fn keep(&self) {
        tokio::join!(self.shared.keep(), self.reconcile());
    }

    /// Whether Redis is asked: it answers, and was told everything.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.shared.is_up() && self.is_asked.load(Ordering::Acquire)
    }

    /// Tells Redis what it was not told, whenever there is something and it answers.
    async fn reconcile(&self) {
        let mut up = self.shared.watch();
        loop {
            changed_to(&mut up, true).await;
            let is_told = self.tell().await;
            let lost = self.lock().take_lost();
            self.metrics.store().lost("release", lost.releases);
            self.metrics.store().lost("spend", lost.spends);
            if !is_told {
                // Redis failed again, or one key is in the way.
                sleep(TRY_AGAIN.mul_f64(if self.shared.is_up() { 1.0 } else { 0.01 })).await;
                continue;
            }
            tokio::select! {
                () = changed_to(&mut up, false) => self.stop_asking(),
                () = self.untold.notified() => sleep(TRY_AGAIN).await,
            }
        }
    }

    /// Whether all was told. Of what one key stands in the way of, the rest is told.
    async fn tell(&self) -> bool {
        let mut refused = Vec::new();
        let is_up = loop {
            let work = {
                let mut backlog = self.lock();
                let work = backlog.next(LEASES_AT_ONCE, self.now());
                if work.is_none() && refused.is_empty() {
                    // With the lock held: whatever comes now finds that Redis is asked.
                    self.is_asked.store(true, Ordering::Release);
                }
                work
            };
            let Some(work) = work else {
                break true;
            };
            match self.tell_one(&work).await {
                Ok(()) => {}
                Err(error) if error.is_of_the_store() => {
                    refused.push(work);
                    break false;
                }
                Err(_) => refused.push(work),
            }
        };
        let all = refused.is_empty();
        let mut backlog = self.lock();
        for work in refused {
            for part in split(work) {
                backlog.failed(part, self.now());
            }
        }
        if is_up && !all {
            // One key in the way is no reason to ask nothing.
            self.is_asked.store(true, Ordering::Release);
        }
        all
    }

    async fn tell_one(&self, work: &Work) -> Result<(), StoreError> {
        match work {
            Work::Release(leases) => self.shared.release(leases.clone()).await,
            Work::Renew(leases) => self.shared.renew(leases.clone()).await,
            Work::Spend(marked) => {
                let totals = self.shared.spend_marked(marked).await?;
                self.learn(&marked.spends, &totals);
                Ok(())
            }
        }
    }

    async fn admit_shared(&self, ask: &Ask) -> Result<Result<Admitted, Shortage>, StoreError> {
        let told = match self.shared.admit_and_tell(ask).await? {
            Ok(told) => told,
            Err(shortage) => return Ok(Err(shortage)),
        };
        let renewal = ask.renewal();
        self.own.renew_now(std::slice::from_ref(&renewal));
        self.lock().hold(renewal, true, self.now());
        self.learn_checks(ask, &told);
        Ok(Ok(told.admitted))
    }

    /// Lets a call in by this process's share.
    fn admit_here(
        &self,
        ask: &Ask,
        error: StoreError,
    ) -> Result<Result<Admitted, Shortage>, StoreError> {
        self.metrics.store().fell_back("admit");
        if self.on_failure == OnStoreFailure::Closed {
            self.give_up(ask);
            return Err(error);
        }
        let admitted = self.own.admit_now(&self.scaled(ask));
        match admitted {
            Ok(admitted) => {
                let spends = bucket_spends(ask);
                self.known.spend_now(&spends);
                let mut backlog = self.lock();
                backlog.hold(ask.renewal(), false, self.now());
                if !spends.is_empty() {
                    backlog.spend(spends, self.now());
                }
                self.untold.notify_one();
                Ok(Ok(admitted))
            }
            Err(shortage) => {
                self.give_up(ask);
                Ok(Err(shortage))
            }
        }
    }

    /// Redis may have let a call in that comes to nothing. One that it was not asked about it does not know.
    fn give_up(&self, ask: &Ask) {
        if self.is_asked.load(Ordering::Acquire) {
            self.lock().release(ask.renewal(), false);
        }
    }

    /// The same question with this process's share of each limit. Of what is counted in ones, at least one.
    fn scaled(&self, ask: &Ask) -> Ask {
        let mut ask = ask.clone();
        for check in &mut ask.checks {
            match &mut check.limit {
                Limit::Bucket {
                    per_minute,
                    burst,
                    amount,
                } => {
                    let has_room = *amount <= *burst;
                    *per_minute *= self.share;
                    *burst *= self.share;
                    if has_room {
                        *burst = burst.max(*amount);
                    }
                }
                Limit::Window { limit, .. } => *limit *= self.share,
                Limit::Leases { limit } => {
                    let share = (f64::from(*limit) * self.share).floor() as u32;
                    *limit = share.max(u32::from(*limit > 0));
                }
                Limit::Demand(book) => book.capacity *= self.share,
            }
        }
        ask
    }

    /// Takes over what Redis says that buckets and windows hold.
    fn learn(&self, spends: &[Spend], totals: &[Totals]) {
        for (spend, totals) in spends.iter().zip(totals) {
            match spend {
                Spend::Bucket {
                    name, per_minute, ..
                } => self.learn_bucket(name, *per_minute, totals.held),
                Spend::Window { name, length, .. } => {
                    self.learn_window(name, *length, totals.held);
                }
            }
        }
    }

    fn learn_checks(&self, ask: &Ask, told: &Told) {
        for (check, held) in ask.checks.iter().zip(&told.held) {
            match &check.limit {
                Limit::Bucket { per_minute, .. } => {
                    self.learn_bucket(&check.name, *per_minute, *held);
                }
                Limit::Window { length, .. } => self.learn_window(&check.name, *length, *held),
                Limit::Leases { .. } | Limit::Demand(_) => {}
            }
        }
    }

    fn learn_bucket(&self, name: &Arc<str>, per_minute: f64, held: f64) {
        self.known.set_bucket(name, per_minute, held);
        let (rate, held) = (per_minute * self.share, held * self.share);
        self.own.set_bucket(name, rate, held);
    }

    fn learn_window(&self, name: &Arc<str>, length: Duration, held: f64) {
        self.known.set_window(name, length, held);
        self.own.set_window(name, length, held * self.share);
    }

    fn spend_here(&self, spends: &[Spend]) -> Vec<Totals> {
        self.metrics.store().fell_back("spend");
        let mut scaled = spends.to_vec();
        for spend in &mut scaled {
            if let Spend::Bucket { per_minute, .. } = spend {
                *per_minute *= self.share;
            }
        }
        self.own.spend_now(&scaled);
        self.known.spend_now(spends)
    }

    /// Notes that Redis failed, if it was not only for one key.
    fn failed(&self, error: &StoreError) {
        if error.is_of_the_store() {
            self.stop_asking();
        } else {
            self.untold.notify_one();
        }
    }

    fn stop_asking(&self) {
        let mut backlog = self.lock();
        if self.is_asked.swap(false, Ordering::AcqRel) {
            backlog.doubt();
            drop(backlog);
            tracing::debug!("the shared store is not asked until it works again");
        }
    }

    /// Says that this replica lives, and what is new of its calls.
    ///
    /// # Errors
    ///
    /// Whenever Redis cannot say; what was told may have come through all the same.
    pub async fn attend(&self, ask: &Attendance) -> Result<Attended, StoreError> {
        self.ask_shared(self.shared.attend(ask)).await
    }

    /// Takes over calls of a replica that is silent; none if it is not, or if another one does.
    ///
    /// # Errors
    ///
    /// Whenever Redis cannot say; what was taken all the same is told when asked again.
    pub async fn take_over(&self, ask: &TakeOver) -> Result<TakenOver, StoreError> {
        self.ask_shared(self.shared.take_over(ask)).await
    }

    /// What was taken over of that replica is in good hands, and not to be told again.
    ///
    /// # Errors
    ///
    /// Whenever Redis cannot say.
    pub async fn confirm(&self, silent: &str, calls: &[String]) -> Result<(), StoreError> {
        self.ask_shared(self.shared.confirm(silent, calls)).await
    }

    /// Asks Redis what nobody can decide here.
    async fn ask_shared<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if !self.is_asked() {
            return Err(StoreError::Unreachable);
        }
        work.await.inspect_err(|error| self.failed(error))
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for FallbackStore {
    /// Where Redis cannot say, an error only if new calls are to be refused then.
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Result<Admitted, Shortage>, StoreError>> {
        Box::pin(async move {
            if !self.is_asked() {
                return self.admit_here(&ask, StoreError::Unreachable);
            }
            match self.admit_shared(&ask).await {
                Ok(answer) => Ok(answer),
                Err(error) => {
                    let answer = self.admit_here(&ask, error.clone());
                    self.failed(&error);
                    answer
                }
            }
        })
    }

    /// Never an error: what Redis was not told, it will be.
    fn renew(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.own.renew_now(&leases);
        Box::pin(async move {
            let is_asked = self.is_asked();
            {
                let mut backlog = self.lock();
                for lease in &leases {
                    backlog.hold(lease.clone(), is_asked, self.now());
                }
            }
            if is_asked && let Err(error) = self.shared.renew(leases.clone()).await {
                self.lock().failed(Work::Renew(leases), self.now());
                self.failed(&error);
            }
            Ok(())
        })
    }

    /// Never an error: what Redis was not told, it will be.
    fn release(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.own.release_now(&leases);
        Box::pin(async move {
            let is_asked = self.is_asked();
            {
                let mut backlog = self.lock();
                for lease in &leases {
                    backlog.release(lease.clone(), is_asked);
                }
            }
            if is_asked && let Err(error) = self.shared.release(leases.clone()).await {
                self.lock().failed(Work::Release(leases), self.now());
                self.failed(&error);
            }
            Ok(())
        })
    }

    /// Never an error: what Redis was not told, it will be. What is said is then as far as this process knows.
    fn spend(&self, spends: Vec<Spend>) -> BoxFuture<'_, Result<Vec<Totals>, StoreError>> {
        Box::pin(async move {
            if !self.is_asked() {
                let totals = self.spend_here(&spends);
                self.lock().spend(spends, self.now());
                self.untold.notify_one();
                return Ok(totals);
            }
            let marked = MarkedSpends::new(spends);
            match self.shared.spend_marked(&marked).await {
                Ok(totals) => {
                    self.learn(&marked.spends, &totals);
                    Ok(totals)
                }
                Err(error) => {
                    let totals = self.spend_here(&marked.spends);
                    self.lock().failed(Work::Spend(marked), self.now());
                    self.failed(&error);
                    Ok(totals)
                }
            }
        })
    }

    /// An error whenever Redis cannot say: an id that was used elsewhere must not be good here.
    fn use_once(&self, id: Arc<str>, life: Duration) -> BoxFuture<'_, Result<bool, StoreError>> {
        if !self.is_asked() {
            return Box::pin(ready(Err(StoreError::Unreachable)));
        }
        Box::pin(async move {
            let used = self.shared.use_once(id, life).await;
            if let Err(error) = &used {
                self.failed(error);
            }
            used
        })
    }

    /// An error whenever Redis cannot say: what is kept here, no other replica would find.
    fn put(
        &self,
        name: Arc<str>,
        text: Arc<str>,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if !self.is_asked() {
                return Err(StoreError::Unreachable);
            }
            let done = self.shared.put(name, text, life).await;
            done.inspect_err(|error| self.failed(error))
        })
    }

    /// An error whenever Redis cannot say.
    fn get(&self, name: Arc<str>) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(async move {
            if !self.is_asked() {
                return Err(StoreError::Unreachable);
            }
            let found = self.shared.get(name).await;
            found.inspect_err(|error| self.failed(error))
        })
    }
}

async fn changed_to(up: &mut watch::Receiver<bool>, wanted: bool) {
    // No error: the sender lives as long as the store does, which whoever waits here has.
    let _ = up.wait_for(|is_up| *is_up == wanted).await;
}

/// What an admission puts into buckets.
fn bucket_spends(ask: &Ask) -> Vec<Spend> {
    let spends = ask.checks.iter().filter_map(|check| match check.limit {
        Limit::Bucket {
            per_minute, amount, ..
        } if finite(amount) != 0.0 => Some(Spend::Bucket {
            name: Arc::clone(&check.name),
            per_minute,
            amount,
        }),
        _ => None,
    });
    spends.collect()
}

/// Spends that one key stood in the way of are told one by one from then on. Redis was told none of them.
fn split(work: Work) -> Vec<Work> {
    match work {
        Work::Spend(marked) if marked.spends.len() > 1 => {
            let singles = marked.spends.into_iter().enumerate().map(|(n, spend)| {
                Work::Spend(MarkedSpends {
                    mark: format!("{}.{n}", marked.mark).into(),
                    age: marked.age,
                    spends: vec![spend],
                })
            });
            singles.collect()
        }
        other => vec![other],
    }
}
