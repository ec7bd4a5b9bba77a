//! Where calls leave their records.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::outbound::Outbound;
use crate::telemetry::Metrics;

use super::config::{RecordsPlan, Sink};
use super::deliver::Delivery;
use super::privacy::Privacy;
use super::record::CallRecord;
use super::shelf::Key;

/// Records that wait for the task that delivers: a drain's worth, while a disk is slow.
const QUEUE: usize = 1_024;

/// All calls' way to the task that delivers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plan: watch::Sender<Arc<RecordsPlan>>,
    queue: mpsc::Sender<Job>,
    /// Until somebody delivers.
    inbox: Mutex<Option<mpsc::Receiver<Job>>>,
    reopen: Arc<Notify>,
    closing: CancellationToken,
    metrics: Arc<Metrics>,
}

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
            reopen: Arc::default(),
            closing: CancellationToken::new(),
            metrics,
        }))
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
        let metrics = self.0.metrics.records();
        match self.0.queue.try_send(job) {
            Ok(()) => metrics.queued(self.n_queued()),
            Err(_) => {
                metrics.dropped("queue_full");
                let call_id = &record.call_id;
                tracing::error!(call_id, "the record of a call was dropped: too many wait");
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
        let (reopen, closing) = (Arc::clone(&self.0.reopen), self.0.closing.clone());
        Delivery::new(inbox, plan, outbound, metrics)
            .run(&reopen, &closing)
            .await;
    }
}
