//! The task that brings records where they are to go.
//!
//! A record for a webhook is spooled before it is sent and removed when it was taken, so that no end of the process loses
//! it; what cannot be spooled is remembered, and sent as well. What is decided here is decided by `schedule.rs` and
//! `shelf.rs`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::outbound::Outbound;
use crate::telemetry::Metrics;

use super::config::{RecordsPlan, Sink, SpoolConfig};
use super::file::RecordFile;
use super::recorder::Job;
use super::schedule::{Schedule, Verdict};
use super::shelf::Key;
use super::spool::Spool;
use super::webhook::Webhook;

/// How long the end of the process waits for a receiver. What is left then is in the spool.
const FAREWELL: Duration = Duration::from_secs(3);

/// Records that are written in one go.
const BATCH: usize = 64;

/// See the module's documentation.
pub(super) struct Delivery {
    inbox: mpsc::Receiver<Job>,
    plan: watch::Receiver<Arc<RecordsPlan>>,
    outbound: Outbound,
    metrics: Arc<Metrics>,
    target: Target,
    schedule: Schedule,
    under_way: JoinSet<Attempt>,
}

/// Where records go now.
enum Target {
    Off,
    Log,
    /// None while a thread has it.
    File(PathBuf, Option<RecordFile>),
    Webhook(Arc<Webhook>, SpoolConfig, Option<Spool>),
}

/// An attempt that is over.
struct Attempt {
    key: Key,
    /// None if there was nothing to send.
    verdict: Option<Verdict>,
    /// How many had failed when it began.
    before: u32,
}

enum Wake {
    Came(usize),
    Tried(Attempt),
    Time,
    Plan,
    Reopen,
    Closing,
}

impl Delivery {
    pub(super) fn new(
        inbox: mpsc::Receiver<Job>,
        plan: watch::Receiver<Arc<RecordsPlan>>,
        outbound: Outbound,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            inbox,
            plan,
            outbound,
            metrics,
            target: Target::Off,
            schedule: Schedule::default(),
            under_way: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, reopen: &Notify, closing: &CancellationToken) {
        self.set_target().await;
        let mut batch = Vec::new();
        loop {
            self.send_what_waits();
            let wake = self.wake(&mut batch, reopen, closing).await;
            match wake {
                Wake::Came(0) | Wake::Closing => break,
                Wake::Came(_) => self.take(std::mem::take(&mut batch)).await,
                Wake::Tried(attempt) => self.tried(attempt).await,
                Wake::Time => {}
                Wake::Plan => self.set_target().await,
                Wake::Reopen => {
                    if let Target::File(_, Some(file)) = &mut self.target {
                        file.reopen();
                    }
                }
            }
        }
        self.farewell(batch).await;
    }

    async fn wake(
        &mut self,
        batch: &mut Vec<Job>,
        reopen: &Notify,
        closing: &CancellationToken,
    ) -> Wake {
        let due = self.due();
        let time = async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            n = self.inbox.recv_many(batch, BATCH) => Wake::Came(n),
            Some(tried) = self.under_way.join_next() => match tried {
                Ok(attempt) => Wake::Tried(attempt),
                Err(_) => Wake::Time,
            },
            () = time => Wake::Time,
            Ok(()) = self.plan.changed() => Wake::Plan,
            () = reopen.notified() => Wake::Reopen,
            () = closing.cancelled() => Wake::Closing,
        }
    }

    /// When the receiver may be tried again, if anything is to be sent there.
    fn due(&self) -> Option<Instant> {
        let Target::Webhook(_, _, Some(spool)) = &self.target else {
            return None;
        };
        let may = spool.shelf.has_waiting() && self.under_way.is_empty();
        self.schedule.not_before().filter(|_| may)
    }

    /// Goes by the plan that is in force now.
    async fn set_target(&mut self) {
        let plan = Arc::clone(&self.plan.borrow_and_update());
        let old = std::mem::replace(&mut self.target, Target::Off);
        self.target = match (&plan.sink, old) {
            (Sink::Off, _) => Target::Off,
            (Sink::Log, _) => Target::Log,
            (Sink::File(path), Target::File(old, file)) if *path == old => Target::File(old, file),
            (Sink::File(path), _) => {
                Target::File(path.clone(), Some(RecordFile::new(path.clone())))
            }
            (Sink::Webhook(webhook, config), Target::Webhook(_, old, spool)) if *config == old => {
                // Another receiver may be well where the one before was not.
                self.schedule.answered();
                Target::Webhook(Arc::new(Webhook::clone(webhook)), old, spool)
            }
            (Sink::Webhook(webhook, config), _) => {
                self.under_way.abort_all();
                self.schedule.answered();
                let spool = self.open(config.clone()).await;
                Target::Webhook(Arc::new(Webhook::clone(webhook)), config.clone(), spool)
            }
        };
        self.tell();
    }

    async fn open(&self, config: SpoolConfig) -> Option<Spool> {
        let opened = spawn_blocking(move || match Spool::open(config.clone()) {
            Ok(spool) => (spool, None),
            Err(error) => (Spool::without_folder(config), Some(error)),
        });
        let (spool, error) = opened.await.ok()?;
        if let Some(error) = error {
            self.metrics.records().failed("spool");
            tracing::error!(%error, "the spool of call records cannot be opened");
        }
        Some(spool)
    }

    /// Does something with the spool on a thread that may wait for the disk.
    async fn with_spool<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let Target::Webhook(_, _, held) = &mut self.target else {
            return None;
        };
        let mut spool = held.take()?;
        let done = spawn_blocking(move || {
            let result = work(&mut spool);
            (spool, result)
        });
        let (spool, result) = done.await.ok()?;
        *held = Some(spool);
        Some(result)
    }

    async fn take(&mut self, jobs: Vec<Job>) {
        match &mut self.target {
            Target::Off => {}
            Target::Log => {
                for job in &jobs {
                    let call_id = job.key.call_id.as_str();
                    let record = String::from_utf8_lossy(&job.body);
                    tracing::info!(target: "trunkline::records", call_id, %record, "call record");
                    self.metrics.records().delivered("log");
                }
            }
            Target::File(..) => self.write(jobs).await,
            Target::Webhook(..) => self.spool(jobs).await,
        }
        self.tell();
    }

    async fn write(&mut self, jobs: Vec<Job>) {
        let Target::File(_, held) = &mut self.target else {
            return;
        };
        let Some(mut file) = held.take() else { return };
        let written = spawn_blocking(move || {
            let each = jobs.iter().map(|job| file.append(&job.body));
            let results: Vec<_> = each.collect();
            (file, results)
        });
        let Ok((file, results)) = written.await else {
            return;
        };
        *held = Some(file);
        for result in results {
            match result {
                Ok(()) => self.metrics.records().delivered("file"),
                Err(error) => {
                    self.metrics.records().failed("file");
                    tracing::error!(%error, "a call record cannot be written");
                }
            }
        }
    }

    async fn spool(&mut self, jobs: Vec<Job>) {
        let put = |spool: &mut Spool| {
            let put = jobs.into_iter().map(|job| spool.put(job.key, job.body));
            put.collect::<Vec<_>>()
        };
        for put in self.with_spool(put).await.unwrap_or_default() {
            let metrics = self.metrics.records();
            if let Some(error) = put.error {
                metrics.failed("spool");
                tracing::error!(%error, "a call record cannot be spooled");
            }
            if put.is_lost {
                metrics.dropped("spool_unwritable");
            }
            for key in put.overflowed {
                metrics.dropped("spool_full");
                let call_id = &key.call_id;
                tracing::error!(call_id, "a call record was dropped: the spool is full");
            }
        }
    }

    /// Begins as many attempts as may be.
    fn send_what_waits(&mut self) {
        let Target::Webhook(webhook, _, Some(spool)) = &mut self.target else {
            return;
        };
        while self.schedule.has_room(self.under_way.len(), Instant::now())
            && let Some(key) = spool.shelf.next()
        {
            let (webhook, outbound) = (Arc::clone(webhook), self.outbound.clone());
            let before = self.schedule.n_failures();
            let body = spool.reader(&key);
            self.under_way.spawn(async move {
                let body = spawn_blocking(body).await.ok().flatten();
                let verdict = match body {
                    Some(body) => {
                        let sent = webhook.send(&outbound, &key.call_id, body, unix_seconds());
                        Some(sent.await)
                    }
                    None => None,
                };
                Attempt {
                    key,
                    verdict,
                    before,
                }
            });
        }
    }

    async fn tried(&mut self, attempt: Attempt) {
        let Attempt {
            key,
            verdict,
            before,
        } = attempt;
        let call_id = key.call_id.clone();
        match verdict {
            Some(Verdict::Delivered) => {
                self.schedule.answered();
                self.metrics.records().delivered("webhook");
                self.with_spool(move |spool| spool.remove(&key)).await;
            }
            Some(Verdict::Again { cause, retry_after }) => {
                self.metrics.records().retried(cause);
                tracing::warn!(call_id, cause, "a call record is to be sent again");
                let (chance, now) = (fastrand::f64(), Instant::now());
                self.schedule.failed(before, retry_after, chance, now);
                if let Target::Webhook(_, _, Some(spool)) = &mut self.target {
                    spool.shelf.failed(key);
                }
            }
            Some(Verdict::Refused(status)) => {
                self.schedule.answered();
                self.metrics.records().failed("refused");
                tracing::error!(call_id, status, "a call record was refused and put aside");
                let aside = self.with_spool(move |spool| spool.refuse(&key)).await;
                if let Some(Err(error)) = aside {
                    self.metrics.records().failed("spool");
                    tracing::error!(call_id, %error, "a refused call record cannot be put aside");
                }
            }
            None => {
                self.metrics.records().dropped("spool_unreadable");
                tracing::error!(call_id, "a spooled call record cannot be read");
                self.with_spool(move |spool| spool.remove(&key)).await;
            }
        }
        self.tell();
    }

    /// Takes what was queued until now, and sends it while there is time.
    async fn farewell(mut self, mut batch: Vec<Job>) {
        let until = Instant::now() + FAREWELL;
        self.inbox.close();
        while let Some(job) = self.inbox.recv().await {
            batch.push(job);
        }
        self.take(batch).await;
        loop {
            self.send_what_waits();
            // Who has failed is not waited for.
            let is_failing = self.schedule.n_failures() > 0;
            if self.under_way.is_empty() || is_failing {
                break;
            }
            match tokio::time::timeout_at(until, self.under_way.join_next()).await {
                Ok(Some(Ok(attempt))) => self.tried(attempt).await,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if let Target::Webhook(_, _, Some(spool)) = &self.target
            && spool.shelf.len() > 0
        {
            let records = spool.shelf.len();
            tracing::warn!(records, "call records wait in the spool for the next start");
        }
    }

    fn tell(&self) {
        let metrics = self.metrics.records();
        metrics.queued(self.inbox.len());
        match &self.target {
            Target::Webhook(_, _, Some(spool)) => {
                let shelf = &spool.shelf;
                metrics.spooled(shelf.len(), shelf.bytes(), shelf.oldest_ms());
            }
            _ => metrics.spooled(0, 0, None),
        }
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_secs())
}
