//! What a call's trace says of its tools, and what their requests carry so that tools' own spans join it.

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::telemetry::{SpanId, TRACEPARENT, TRACESTATE, TraceContext};
use crate::traces::otlp::{KeyValue, SpanKind};

use super::trace::{CallTrace, bounded, error};
use super::trace_turn::new_span_id;

/// A tool that runs.
#[derive(Debug)]
pub(super) struct OpenTool {
    id: SpanId,
    parent: SpanId,
    since: Instant,
    name: String,
}

impl CallTrace {
    /// A tool begins to run. Returns what its request is to carry so that the tool's own spans join.
    pub(super) fn tool_began(&mut self, call_id: &str, name: &str) -> Option<ToolContext> {
        if !self.has_room() {
            return None;
        }
        let id = new_span_id();
        let tool = OpenTool {
            id,
            parent: self.turns.current().unwrap_or(self.root),
            since: Instant::now(),
            name: bounded(name).to_owned(),
        };
        self.tools.insert(call_id.to_owned(), tool);
        Some(ToolContext {
            traceparent: TraceContext::of_span(self.begun.trace, id).to_string(),
            tracestate: self.begun.state.clone(),
        })
    }

    /// It returned.
    pub(super) fn tool_ended(&mut self, call_id: &str, outcome: &'static str) {
        let Some(tool) = self.tools.remove(call_id) else {
            return;
        };
        let OpenTool {
            id,
            parent,
            since,
            name,
        } = tool;
        let span = (since, Instant::now());
        let mut span = self.span("execute_tool", SpanKind::Client, id, parent, span);
        span.attributes = vec![
            KeyValue::new("gen_ai.operation.name", "execute_tool"),
            KeyValue::new("gen_ai.tool.name", name.as_str()),
            KeyValue::new("gen_ai.tool.call.id", bounded(call_id)),
        ];
        if outcome != "ok" {
            span.attributes.push(KeyValue::new("error.type", outcome));
            span.status = error(outcome);
        }
        self.spans.push(span);
    }
}

/// What a tool's request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ToolContext {
    pub(super) traceparent: String,
    /// Empty for none.
    pub(super) tracestate: String,
}

impl ToolContext {
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        let texts = [
            (TRACEPARENT, &self.traceparent),
            (TRACESTATE, &self.tracestate),
        ];
        for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
    }
}
