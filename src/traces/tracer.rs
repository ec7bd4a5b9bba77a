//! Where calls leave their spans, and whether a call is to have any.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::outbound::Outbound;
use crate::telemetry::{Metrics, SpanId, TraceContext, TraceId};

use super::config::{CallerContext, TracesPlan};
use super::export::Export;
use super::otlp::Span;

/// All calls' way to the task that sends. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plan: watch::Sender<Arc<TracesPlan>>,
    queue: mpsc::UnboundedSender<Vec<Span>>,
    /// Spans in the queue or with the task that sends, by which the queue is bounded.
    waiting: Arc<AtomicUsize>,
    /// Until somebody sends.
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Vec<Span>>>>,
    closing: CancellationToken,
    metrics: Arc<Metrics>,
}

/// Who a sampled call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its trace.
    pub trace: TraceId,
    /// Whose part it is, if somebody began the trace before.
    pub parent: Option<SpanId>,
    /// What vendors have said of it.
    pub state: String,
    /// Whether it may yet turn out to be part of another trace.
    pub may_join: bool,
}

impl Tracer {
    /// A tracer that goes by that plan.
    #[must_use]
    pub fn new(plan: Arc<TracesPlan>, metrics: Arc<Metrics>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "bounded by the spans that wait")]
        let (queue, inbox) = mpsc::unbounded_channel();
        Self(Arc::new(Shared {
            plan: watch::Sender::new(plan),
            queue,
            waiting: Arc::default(),
            inbox: Mutex::new(Some(inbox)),
            closing: CancellationToken::new(),
            metrics,
        }))
    }

    /// Goes by another plan. Calls that have begun keep to what was decided of them.
    pub fn replace(&self, plan: Arc<TracesPlan>) {
        self.0.plan.send_replace(plan);
    }

    /// Whether any call is traced now.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.plan.borrow().collector.is_some()
    }

    /// Decides of a call that begins now, once.
    #[must_use]
    pub fn begin(&self, context: Option<&TraceContext>) -> Option<Begun> {
        let plan = self.0.plan.borrow();
        plan.collector.as_ref()?;
        decide(&plan, context, fastrand::f64(), fastrand::u128(1..))
    }

    /// What is counted of traces.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Takes the spans of a call that ended. Never waits.
    pub fn send(&self, spans: Vec<Span>) {
        let (shared, n) = (&*self.0, spans.len());
        let most = shared.plan.borrow().queue_spans;
        let metrics = shared.metrics.traces();
        let add = |waiting: usize| waiting.checked_add(n).filter(|it| *it <= most);
        let counted = shared
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        match counted {
            Ok(before) if shared.queue.send(spans).is_ok() => metrics.queued(before + n),
            _ => metrics.dropped("queue_full", n as u64),
        }
    }

    /// No more spans come: what is there is sent, for a short time, and [`Tracer::export`] is over.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    /// Sends until [`Tracer::close`]. One task may.
    pub async fn export(self, outbound: Outbound) {
        let inbox = self
            .0
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(inbox) = inbox else { return };
        let plan = self.0.plan.subscribe();
        let waiting = Arc::clone(&self.0.waiting);
        let metrics = Arc::clone(&self.0.metrics);
        let closing = self.0.closing.clone();
        Export::new(inbox, plan, waiting, outbound, metrics)
            .run(&closing)
            .await;
    }
}

/// Whether a call is sampled, and in which trace: `chance` from 0 to 1, and an id for a trace of its own.
fn decide(
    plan: &TracesPlan,
    context: Option<&TraceContext>,
    chance: f64,
    own: u128,
) -> Option<Begun> {
    let context = context.filter(|_| plan.caller_context != CallerContext::Ignore);
    let is_sampled = match (plan.caller_context, context) {
        (CallerContext::Follow, Some(context)) => context.is_sampled,
        _ => chance < plan.sample,
    };
    if !is_sampled {
        return None;
    }
    Some(match context {
        Some(context) => Begun {
            trace: context.trace,
            parent: Some(context.parent),
            state: context.state.clone(),
            may_join: false,
        },
        None => Begun {
            trace: TraceId::new(own)?,
            parent: None,
            state: String::new(),
            may_join: plan.caller_context != CallerContext::Ignore,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(flags: &str) -> TraceContext {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        TraceContext::parse(&parent, ["a=b"]).expect("good")
    }

    #[test]
    fn a_share_of_calls_is_sampled_and_joins_who_called() {
        let check =
            |caller_context, sample, flags: Option<&str>, chance, expected: Option<bool>| {
                let plan = TracesPlan {
                    sample,
                    caller_context,
                    ..TracesPlan::default()
                };
                let context = flags.map(context);
                let begun = decide(&plan, context.as_ref(), chance, 7);
                let joined = begun.map(|it| {
                    assert_eq!(it.parent.is_some(), it.state == "a=b");
                    assert_eq!(
                        it.trace == TraceId::new(7).expect("an id"),
                        it.parent.is_none()
                    );
                    it.parent.is_some()
                });
                assert_eq!(
                    joined, expected,
                    "{caller_context:?} {sample} {flags:?} {chance}"
                );
            };
        use CallerContext::{Follow, Ignore, Join};
        check(Join, 1.0, None, 0.999, Some(false));
        check(Join, 0.0, None, 0.0, None);
        check(Join, 0.5, None, 0.49, Some(false));
        check(Join, 0.5, None, 0.5, None);
        // The caller's flag decides only where it is followed.
        check(Join, 0.5, Some("01"), 0.7, None);
        check(Join, 0.5, Some("00"), 0.2, Some(true));
        check(Follow, 0.0, Some("01"), 0.7, Some(true));
        check(Follow, 1.0, Some("00"), 0.2, None);
        check(Follow, 1.0, None, 0.2, Some(false));
        check(Ignore, 1.0, Some("01"), 0.2, Some(false));
        check(Ignore, 0.0, Some("01"), 0.2, None);
    }
}
