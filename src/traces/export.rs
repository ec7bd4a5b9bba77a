//! The task that sends spans to the collector: batches, one at a time, each tried a few times.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HeaderValue};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::outbound::{Limits, Outbound, OutboundError, Reach, retry_after};
use crate::telemetry::Metrics;

use super::config::{Collector, TracesPlan};
use super::otlp::{
    ExportTraceServiceRequest, InstrumentationScope, ResourceSpans, ScopeSpans, Span,
};
use super::verdict::{MAX_ATTEMPTS, Verdict, wait};

/// How long the end of the process waits for a collector.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a collector says beside its status is short; more than this is no answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Of what it says, what is logged.
const MAX_SAID: usize = 200;

/// See the module's documentation.
pub(super) struct Export {
    inbox: mpsc::UnboundedReceiver<Vec<Span>>,
    plan: watch::Receiver<Arc<TracesPlan>>,
    /// Spans in the inbox and in `batch`.
    waiting: Arc<AtomicUsize>,
    outbound: Outbound,
    metrics: Arc<Metrics>,
    /// What is to be sent next.
    batch: Vec<Span>,
    /// When the collector did not take a batch, so that it is said once.
    is_failing: bool,
}

impl Export {
    pub(super) fn new(
        inbox: mpsc::UnboundedReceiver<Vec<Span>>,
        plan: watch::Receiver<Arc<TracesPlan>>,
        waiting: Arc<AtomicUsize>,
        outbound: Outbound,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            inbox,
            plan,
            waiting,
            outbound,
            metrics,
            batch: Vec::new(),
            is_failing: false,
        }
    }

    pub(super) async fn run(mut self, closing: &CancellationToken) {
        let sending = async {
            while let Some(spans) = self.inbox.recv().await {
                self.batch.extend(spans);
                self.fill().await;
                self.send_batch().await;
            }
        };
        closing.run_until_cancelled(sending).await;
        self.farewell().await;
    }

    /// Waits for more, until the batch is full or old enough.
    async fn fill(&mut self) {
        let (size, delay) = match &self.plan.borrow().collector {
            Some(collector) => (collector.batch_spans, collector.delay),
            None => (0, Duration::ZERO),
        };
        let until = Instant::now() + delay;
        while self.batch.len() < size
            && let Ok(Some(spans)) = timeout_at(until, self.inbox.recv()).await
        {
            self.batch.extend(spans);
        }
    }

    /// Sends what is in the batch, in messages of the size that is wanted. Cancelled, what was not answered stays.
    async fn send_batch(&mut self) {
        while !self.batch.is_empty() {
            let collector = self.plan.borrow().collector.clone();
            let Some(collector) = collector else {
                return self.lose(self.batch.len(), "refused");
            };
            let n = self.batch.len().min(collector.batch_spans);
            self.send(&collector, n).await;
        }
    }

    /// Sends the first `n` spans until they are taken or given up.
    async fn send(&mut self, collector: &Collector, n: usize) {
        let body = message(collector, &self.batch[..n]);
        for attempts in 1..=MAX_ATTEMPTS {
            match self.attempt(collector, body.clone()).await {
                Verdict::Taken { rejected, message } => {
                    let rejected = rejected.min(n as u64);
                    if !message.is_empty() {
                        let message: String = message.chars().take(MAX_SAID).collect();
                        tracing::warn!(rejected, message, "the collector of traces warns");
                    }
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the collector takes traces again");
                    }
                    self.metrics.traces().exported(n as u64 - rejected);
                    self.metrics.traces().dropped("rejected", rejected);
                    return self.done(n);
                }
                Verdict::Refused(cause) => {
                    self.say_failed(cause);
                    return self.lose(n, "refused");
                }
                Verdict::Again { cause, .. } if attempts == MAX_ATTEMPTS => {
                    self.say_failed(cause);
                }
                Verdict::Again { cause, retry_after } => {
                    self.metrics.traces().retried(cause);
                    sleep(wait(attempts, retry_after, fastrand::f64())).await;
                }
            }
        }
        self.lose(n, "not_taken");
    }

    async fn attempt(&self, collector: &Collector, body: Bytes) -> Verdict {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = collector.endpoint.clone();
        *request.headers_mut() = collector.headers.clone();
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(CONTENT_TYPE, protobuf);
        let limits = Limits {
            timeout: collector.timeout,
            max_answer: MAX_ANSWER,
        };
        match self.outbound.send(request, Reach::Any, limits).await {
            Ok(answer) => {
                let after = retry_after(answer.headers());
                Verdict::of(Ok((answer.status(), after, answer.body())))
            }
            Err(error) => Verdict::of(Err::<_, OutboundError>(error)),
        }
    }

    fn say_failed(&mut self, cause: &'static str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(cause, "the collector does not take traces");
        }
    }

    fn lose(&mut self, n: usize, cause: &'static str) {
        self.metrics.traces().dropped(cause, n as u64);
        self.done(n);
    }

    /// The first `n` spans wait no more.
    fn done(&mut self, n: usize) {
        self.batch.drain(..n);
        let before = self.waiting.fetch_sub(n, Ordering::Relaxed);
        self.metrics.traces().queued(before - n);
    }

    /// Takes what was queued until now, and sends it while there is time.
    async fn farewell(&mut self) {
        self.inbox.close();
        while let Some(spans) = self.inbox.recv().await {
            self.batch.extend(spans);
        }
        let until = Instant::now() + FAREWELL;
        let sent = timeout_at(until, self.send_batch()).await;
        if sent.is_err() {
            let spans = self.batch.len();
            tracing::warn!(spans, "spans were left at the end");
            self.lose(spans, "shutdown");
        }
    }
}

fn message(collector: &Collector, spans: &[Span]) -> Bytes {
    let scope = InstrumentationScope {
        name: "trunkline".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(collector.resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.to_vec(),
            }],
        }],
    };
    request.encode_to_vec().into()
}
