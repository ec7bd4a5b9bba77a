//! Where calls leave their records.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::outbound::Outbound;
use crate::telemetry::Metrics;

use super::config::{RecordsPlan, Sink};
use super::deliver::Delivery;
use super::privacy::Privacy;
use super::record::CallRecord;
use super::roll::{Decided, Muster, Roll, RollTiming, TakenOver, finish};
use super::shelf::Key;

/// Records that wait for the task that delivers: a drain's worth, while a disk is slow.
const QUEUE: usize = 1_024;

/// Other replicas are told so often what is new of live calls.
const TELL: Duration = Duration::from_secs(1);

/// All calls' way to the task that delivers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plan: watch::Sender<Arc<RecordsPlan>>,
    queue: mpsc::Sender<Job>,
    /// Until somebody delivers.
    inbox: Mutex<Option<mpsc::Receiver<Job>>>,
    /// What records name this process by.
    replica: OnceLock<String>,
    /// Live calls, where other replicas are told of them.
    muster: OnceLock<Mutex<Muster>>,
    /// A call began or ended that others are to hear of.
    news: Notify,
    reopen: Arc<Notify>,
    closing: CancellationToken,
    /// Cancelled when no more records come to whoever delivers.
    all_there: CancellationToken,
    metrics: Arc<Metrics>,
}

/// By lost replicas, those of their calls whose records were handed over while the store may not know it yet.
type Handed = HashMap<String, HashSet<String>>;

/// A record on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) body: Bytes,
}

impl Recorder {
    /// A recorder that goes by that plan.
    #[must_use]
    pub fn new(plan: Arc<RecordsPlan>, metrics: Arc<Metrics>) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE);
        Self(Arc::new(Shared {
            plan: watch::Sender::new(plan),
            queue,
            inbox: Mutex::new(Some(inbox)),
            replica: OnceLock::new(),
            muster: OnceLock::new(),
            news: Notify::new(),
            reopen: Arc::default(),
            closing: CancellationToken::new(),
            all_there: CancellationToken::new(),
            metrics,
        }))
    }

    /// What records name this process by; the first word counts. Nothing of it before.
    pub fn name_replica(&self, name: String) {
        self.0.replica.get_or_init(|| name);
    }

    /// What records name this process by, if anything.
    #[must_use]
    pub fn replica(&self) -> Option<&str> {
        self.0.replica.get().map(String::as_str)
    }

    /// Goes by another plan. Calls that have begun keep what the old one says of callers.
    pub fn replace(&self, plan: Arc<RecordsPlan>) {
        self.0.plan.send_replace(plan);
    }

    /// What the record of a call that begins now may say; none if there is to be no record.
    #[must_use]
    pub fn privacy(&self) -> Option<Privacy> {
        let plan = self.0.plan.borrow();
        let is_on = !matches!(plan.sink, Sink::Off);
        is_on.then(|| plan.privacy.clone())
    }

    /// Takes a call's record, which ended so many milliseconds after 1970. Never waits.
    pub fn record(&self, record: &CallRecord, ended_ms: u64) {
        let Ok(body) = serde_json::to_vec(record) else {
            return;
        };
        let job = Job {
            key: Key {
                ended_ms,
                call_id: record.call_id.clone(),
            },
            body: body.into(),
        };
        match self.muster() {
            Some(mut muster) => {
                let decided = muster.end(job, Instant::now());
                drop(muster);
                self.0.news.notify_one();
                self.hand_over(decided);
            }
            None => drop(self.queue(job)),
        }
    }

    /// What the record of a live call would be if it ended now, for other replicas to write if this process does not.
    pub fn tell(&self, record: CallRecord) {
        if let Some(mut muster) = self.muster()
            && muster.enter(record)
        {
            self.0.news.notify_one();
        }
    }

    /// Whether other replicas are told of live calls.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.0.muster.get().is_some()
    }

    fn muster(&self) -> Option<MutexGuard<'_, Muster>> {
        let muster = self.0.muster.get()?;
        Some(muster.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there was room.
    fn queue(&self, job: Job) -> bool {
        let metrics = self.0.metrics.records();
        match self.0.queue.try_send(job) {
            Ok(()) => {
                metrics.queued(self.n_queued());
                true
            }
            Err(error) => {
                metrics.dropped("queue_full");
                let call_id = error.into_inner().key.call_id;
                tracing::error!(call_id, "the record of a call was dropped: too many wait");
                false
            }
        }
    }

    fn n_queued(&self) -> usize {
        self.0.queue.max_capacity() - self.0.queue.capacity()
    }

    /// The file of records is opened anew.
    pub fn reopen(&self) {
        self.0.reopen.notify_one();
    }

    /// No more records come: what is there is delivered or spooled, soon, and [`Recorder::deliver`] is over.
    pub fn close(&self) {
        self.0.closing.cancel();
        if !self.tells() {
            self.0.all_there.cancel();
        }
    }

    /// Tells other replicas of live calls until [`Recorder::close`], and writes what they leave behind. From now on, not
    /// only when it is polled. One task may.
    pub fn share(
        &self,
        roll: Arc<dyn Roll>,
        timing: RollTiming,
    ) -> impl Future<Output = ()> + use<> {
        let muster = Mutex::new(Muster::new(timing));
        let is_first = self.0.muster.set(muster).is_ok();
        let recorder = self.clone();
        async move {
            if is_first {
                let _all_there = recorder.0.all_there.clone().drop_guard();
                recorder.keep_roll(&*roll).await;
            }
        }
    }

    async fn keep_roll(&self, roll: &dyn Roll) {
        let mut tick = interval(TELL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut handed = Handed::new();
        loop {
            let is_last = tokio::select! {
                _ = tick.tick() => false,
                () = self.0.news.notified() => false,
                () = self.0.closing.cancelled() => true,
            };
            if self.is_wanted() {
                self.attend(roll).await;
            }
            if is_last {
                let rest = self.muster().map(|mut muster| muster.rest());
                for job in rest.unwrap_or_default() {
                    self.queue(job);
                }
                return;
            }
            self.take_over(roll, &mut handed).await;
        }
    }

    /// Whether there is anything to tell, or to be asked because records are wanted.
    fn is_wanted(&self) -> bool {
        let Some(mut muster) = self.muster() else {
            return false;
        };
        let is_wanted = self.privacy().is_some() || !muster.is_empty();
        if !is_wanted {
            muster.pause();
        }
        is_wanted
    }

    async fn attend(&self, roll: &dyn Roll) {
        loop {
            let Some(ask) = self.muster().map(|mut muster| muster.ask()) else {
                return;
            };
            let asked_at = Instant::now();
            let answer = roll.attend(ask).await;
            let Some(mut muster) = self.muster() else {
                return;
            };
            let is_answered = answer.is_some();
            let decided = match answer {
                Some(answer) => muster.answered(answer, asked_at),
                None => muster.failed(Instant::now()),
            };
            let has_more = muster.has_more();
            drop(muster);
            self.hand_over(decided);
            if !(is_answered && has_more) {
                return;
            }
        }
    }

    fn hand_over(&self, decided: Decided) {
        for job in decided.jobs {
            self.queue(job);
        }
        for call_id in decided.superseded {
            self.0.metrics.records().taken_over("superseded");
            tracing::warn!(
                call_id,
                "this process was taken for lost: another one has written the record of its call"
            );
        }
    }

    /// Writes the records of calls whose process is gone.
    async fn take_over(&self, roll: &dyn Roll, handed: &mut Handed) {
        let lost = self.muster().map(|muster| muster.lost(Instant::now()));
        // Only who writes records.
        for replica in lost
            .filter(|_| self.privacy().is_some())
            .unwrap_or_default()
        {
            while let Some(taken) = roll.take_over(replica.clone()).await
                && !self.0.closing.is_cancelled()
            {
                if taken.calls.is_empty() {
                    handed.remove(&replica);
                    break;
                }
                // What is told again, because the store was not heard to know, is not written again.
                let known = handed.entry(replica.clone()).or_default();
                let done = self.write_taken(&replica, taken, known);
                let is_full = done.is_empty();
                known.extend(done.iter().cloned());
                if !roll.confirm(replica.clone(), done).await || is_full {
                    return;
                }
            }
        }
    }

    /// Hands over the records of calls that were taken over, unless that is `known` to be done; those of which it is done.
    fn write_taken(&self, replica: &str, taken: TakenOver, known: &HashSet<String>) -> Vec<String> {
        let TakenOver { silent_for, calls } = taken;
        let (mut done, rest): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|(id, _)| known.contains(id));
        if !rest.is_empty() {
            tracing::warn!(
                replica,
                calls = rest.len(),
                silent_s = silent_for.as_secs(),
                "a gateway process was lost with live calls: their records are written here"
            );
        }
        let metrics = self.0.metrics.records();
        for (call_id, text) in rest {
            if self.n_queued() >= QUEUE / 2 {
                break;
            }
            match finish(&text, silent_for, SystemTime::now()) {
                Some(job) => match self.queue(job) {
                    true => metrics.taken_over("written"),
                    // Another time.
                    false => break,
                },
                // Nobody could ever make a record of it.
                None => {
                    metrics.dropped("unreadable");
                    tracing::error!(call_id, "what was told of a lost call is no record");
                }
            }
            done.push((call_id, text));
        }
        done.into_iter().map(|(call_id, _)| call_id).collect()
    }

    /// Delivers until [`Recorder::close`]. One task may.
    pub async fn deliver(self, outbound: Outbound) {
        let inbox = self
            .0
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(inbox) = inbox else { return };
        let plan = self.0.plan.subscribe();
        let metrics = Arc::clone(&self.0.metrics);
        let (reopen, closing) = (Arc::clone(&self.0.reopen), self.0.all_there.clone());
        Delivery::new(inbox, plan, outbound, metrics)
            .run(&reopen, &closing)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{BoxFuture, ready};

    use super::super::roll::{Attend, Attended};
    use super::*;

    /// A store in which `x` has been silent for long, with calls of which it forgets the first confirmation.
    #[derive(Debug, Default)]
    struct Forgetful {
        confirmed: Mutex<Vec<Vec<String>>>,
    }

    impl Roll for Forgetful {
        fn attend(&self, _: Attend) -> BoxFuture<'_, Option<Attended>> {
            Box::pin(ready(Some(Attended {
                silent: vec!["x".to_owned()],
                ..Attended::default()
            })))
        }

        fn take_over(&self, _: String) -> BoxFuture<'_, Option<TakenOver>> {
            let calls = match self.confirmed.lock().unwrap().len() {
                0 | 1 => ["a", "b"].map(|id| {
                    let began_at = "2026-03-02T09:15:04.000Z";
                    let text = format!(r#"{{"call_id":"{id}","began_at":"{began_at}"}}"#);
                    (id.to_owned(), text)
                }),
                _ => return Box::pin(ready(Some(TakenOver::default()))),
            };
            Box::pin(ready(Some(TakenOver {
                silent_for: Duration::from_secs(15),
                calls: calls.into(),
            })))
        }

        fn confirm(&self, _: String, calls: Vec<String>) -> BoxFuture<'_, bool> {
            let mut confirmed = self.confirmed.lock().unwrap();
            confirmed.push(calls);
            Box::pin(ready(confirmed.len() > 1))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_again_because_a_confirmation_was_lost_is_written_once() {
        let config: super::super::RecordsConfig = toml::from_str("sink = 'log'").unwrap();
        let plan = Arc::new(config.plan().expect("good"));
        let recorder = Recorder::new(plan, Metrics::new());
        let roll = Arc::new(Forgetful::default());
        let timing = RollTiming {
            life: Duration::from_secs(10),
            watch: Duration::from_secs(4),
        };
        let sharing = recorder.share(Arc::clone(&roll) as Arc<dyn Roll>, timing);
        let shared = tokio::time::timeout(Duration::from_secs(60), sharing);
        shared.await.expect_err("goes on");
        assert_eq!(*roll.confirmed.lock().unwrap(), [["a", "b"]; 2]);
        assert_eq!(recorder.n_queued(), 2);
    }
}
