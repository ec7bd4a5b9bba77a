//! Whose trace a request belongs to, and the trace of a call that it asks for.

use http::HeaderMap;

use crate::bridge::CallTrace;
use crate::ingress::Refusal;
use crate::telemetry::{TRACEPARENT, TRACESTATE, TraceContext};

use super::desk::Desk;

impl Desk {
    /// What the request of somebody who is known says of its trace, if calls are traced. What is not of the right form
    /// is counted, and nothing else.
    pub(super) fn trace_context(&self, headers: &HeaderMap) -> Option<TraceContext> {
        if !self.tracer.is_on() {
            return None;
        }
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next()?;
        let parent = parent.to_str().ok().filter(|_| parents.next().is_none());
        let states = headers.get_all(TRACESTATE).iter();
        let states = states.filter_map(|state| state.to_str().ok());
        let context = parent.and_then(|parent| TraceContext::parse(parent, states).ok());
        self.metrics.traces().context(context.is_some());
        context
    }
}

/// What was made of a request, the trace of one that was refused being over with it.
pub(super) fn traced<T>(
    result: Result<T, Refusal>,
    trace: Option<Box<CallTrace>>,
) -> Result<(T, Option<Box<CallTrace>>), Refusal> {
    match result {
        Ok(made) => Ok((made, trace)),
        Err(refusal) => {
            if let Some(trace) = trace {
                trace.refused(refusal.code);
            }
            Err(refusal)
        }
    }
}
