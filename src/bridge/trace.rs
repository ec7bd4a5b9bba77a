//! The spans of one sampled call, gathered while it goes on. A call that is not sampled has none of this.
//!
//! Names and attributes are those of OpenTelemetry's semantic conventions where there are any (`gen_ai.*`,
//! `server.address`, `error.type`), else ours (`trunkline.*`). None of them holds a number, a word that was said or what
//! the caller attached to the call.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::call::{EndReason, ModelEvent, TurnLatency, Usage};
use crate::quota::CallKind;
use crate::telemetry::{SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
use crate::traces::otlp::{
    AnyValue, ArrayValue, Event, KeyValue, Span, SpanKind, Status, StatusCode, Value,
};
use crate::traces::{Begun, Tracer};
use crate::upstream::FailedDials;

use super::summary::CallSummary;
use super::trace_session::OpenSession;
use super::trace_tool::OpenTool;
use super::trace_turn::{Turn, Turns, new_span_id};

/// Spans of one call beside its root; more are counted.
const MAX_SPANS: usize = 512;

/// Of them, those that are kept for turns, so that nothing is left without the turn that it is in: two can be open.
const KEPT: usize = 2;

/// Texts of others' that become part of a span.
const MAX_TEXT: usize = 128;

/// The trace of a live call.
#[derive(Debug)]
pub struct CallTrace {
    tracer: Tracer,
    pub(super) begun: Begun,
    pub(super) root: SpanId,
    clock: WallClock,
    pub(super) began: Instant,
    dialect: &'static str,
    attributes: Vec<KeyValue>,
    /// Those that are over.
    pub(super) spans: Vec<Span>,
    /// Those that have begun.
    n_spans: usize,
    left_out: u64,
    pub(super) session: Option<OpenSession>,
    /// Since when the call has been without a session, and why.
    pub(super) lost: Option<(Instant, &'static str)>,
    /// Why the session that comes next takes the place of this one.
    pub(super) replacing: Option<&'static str>,
    /// What the call dialled in vain.
    pub(super) failed_dials: FailedDials,
    pub(super) turns: Turns,
    /// By the model's id of the function call.
    pub(super) tools: BTreeMap<String, OpenTool>,
}

/// Whose call it is.
#[derive(Clone, Copy, Debug)]
pub struct TracedCall<'a> {
    /// The gateway's id of the call.
    pub call_id: &'a str,
    /// The caller's dialect.
    pub dialect: &'static str,
    /// Whose.
    pub tenant: &'a str,
    /// For whom.
    pub kind: CallKind<'a>,
    /// When the caller's request came.
    pub received: Instant,
}

/// Moments of the process's clock as times of day.
#[derive(Clone, Copy, Debug)]
struct WallClock {
    at: Instant,
    since_1970: Duration,
}

impl WallClock {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            since_1970: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        }
    }

    fn nanos(self, moment: Instant) -> u64 {
        let later = moment.saturating_duration_since(self.at);
        let earlier = self.at.saturating_duration_since(moment);
        let since = (self.since_1970 + later).saturating_sub(earlier);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl CallTrace {
    /// The trace of a call that is let in; none if it is not sampled. `context` is what came with its request.
    #[must_use]
    pub fn begin(
        tracer: &Tracer,
        call: TracedCall<'_>,
        context: Option<&TraceContext>,
    ) -> Option<Box<Self>> {
        let begun = tracer.begin(context)?;
        let mut attributes = vec![
            KeyValue::new("trunkline.call_id", call.call_id),
            KeyValue::new("trunkline.dialect", call.dialect),
            KeyValue::new("trunkline.tenant", call.tenant),
        ];
        attributes.push(match call.kind {
            CallKind::Agent(agent) => KeyValue::new("gen_ai.agent.name", agent),
            CallKind::Model(model) => KeyValue::new("gen_ai.request.model", bounded(model)),
        });
        Some(Box::new(Self {
            tracer: tracer.clone(),
            begun,
            root: new_span_id(),
            clock: WallClock::now(),
            began: call.received,
            dialect: call.dialect,
            attributes,
            spans: Vec::new(),
            n_spans: 0,
            left_out: 0,
            session: None,
            lost: None,
            replacing: None,
            failed_dials: FailedDials::kept(),
            turns: Turns::default(),
            tools: BTreeMap::new(),
        }))
    }

    /// The id of the trace.
    #[must_use]
    pub fn id(&self) -> TraceId {
        self.begun.trace
    }

    /// Where the call's dials that fail are to be told.
    #[must_use]
    pub fn failed_dials(&self) -> FailedDials {
        self.failed_dials.clone()
    }

    /// The call was refused, by a closed name: it ends before it began.
    pub fn refused(mut self: Box<Self>, code: &'static str) {
        let now = Instant::now();
        self.attributes.push(KeyValue::new("error.type", code));
        self.dialled_in_vain(self.root);
        self.hand_over(error(code), now);
    }

    /// What the caller attached to the call may say whose trace it belongs to.
    pub(super) fn attached(&mut self, parameters: &BTreeMap<String, String>) {
        let Some(parent) = parameters.get(TRACEPARENT).filter(|_| self.begun.may_join) else {
            return;
        };
        let state = parameters.get(TRACESTATE).map(String::as_str);
        let context = TraceContext::parse(parent, state);
        self.tracer.metrics().traces().context(context.is_ok());
        if let Ok(context) = context {
            self.begun = Begun {
                trace: context.trace,
                parent: Some(context.parent),
                state: context.state,
                may_join: false,
            };
        }
    }

    /// Notes an event of the deployment.
    pub(super) fn model_event(&mut self, event: &ModelEvent<'_>) {
        self.turns.model_event(event, Instant::now());
        self.close_turns();
    }

    pub(super) fn turn(&mut self, latency: TurnLatency) {
        self.turns.answered(latency, Instant::now());
    }

    pub(super) fn first_audio(&mut self) {
        self.turns.heard(Instant::now());
    }

    pub(super) fn reply_ended(&mut self) {
        self.turns.reply_ended(Instant::now());
    }

    pub(super) fn barged_in(&mut self) {
        self.turns.barged_in(Instant::now());
    }

    fn close_turns(&mut self) {
        while let Some(turn) = self.turns.take_over() {
            if self.has_room_below(MAX_SPANS) {
                let span = self.turn_span(turn);
                self.spans.push(span);
            }
        }
    }

    fn turn_span(&self, turn: Turn) -> Span {
        let moments = (turn.began, turn.last);
        let span = self.span("turn", SpanKind::Internal, turn.id, self.root, moments);
        let begun_by = if turn.is_callers { "caller" } else { "model" };
        let mut attributes = vec![
            KeyValue::new("trunkline.turn.number", turn.number),
            KeyValue::new("trunkline.turn.begun_by", begun_by),
            KeyValue::new("trunkline.turn.barge_in", turn.barge_in),
        ];
        if let Some(TurnLatency {
            latency,
            model,
            gateway,
        }) = turn.latency
        {
            for (key, took) in [
                ("trunkline.turn.latency", latency),
                ("trunkline.turn.model_latency", model),
                ("trunkline.turn.gateway_latency", gateway),
            ] {
                attributes.push(KeyValue::new(key, took.as_secs_f64()));
            }
        }
        if let Some(response) = turn.responses.last() {
            attributes.push(KeyValue::new("gen_ai.response.id", bounded(response)));
        }
        if let Some(status) = turn.status {
            let value = Some(Value::from(status.name()));
            let values = vec![AnyValue { value }];
            let reasons = Value::Array(ArrayValue { values });
            attributes.push(KeyValue::new("gen_ai.response.finish_reasons", reasons));
        }
        attributes.extend(tokens(&turn.usage));
        let mut status = None;
        if let Some(code) = &turn.error {
            attributes.push(KeyValue::new("error.type", bounded(code)));
            status = error("the response failed");
        }
        let event = |(at, name): &(Instant, &'static str)| Event {
            time_unix_nano: self.clock.nanos(*at),
            name: (*name).to_owned(),
            attributes: Vec::new(),
        };
        let mut events: Vec<_> = turn.events.iter().map(event).collect();
        events.sort_by_key(|event| event.time_unix_nano);
        Span {
            attributes,
            events,
            dropped_events_count: turn.n_left_out,
            status,
            ..span
        }
    }

    /// Hands all spans over.
    pub(super) fn end(mut self: Box<Self>, summary: &CallSummary) {
        let now = Instant::now();
        let left: Vec<_> = self.tools.keys().cloned().collect();
        for call_id in left {
            self.tool_ended(&call_id, "call_ended");
        }
        self.turns.end();
        self.close_turns();
        self.leave_session(now);
        if let Some((since, cause)) = self.lost.take() {
            let attributes = vec![
                KeyValue::new("trunkline.replacement.cause", cause),
                KeyValue::new("error.type", "unavailable"),
            ];
            let (id, parent) = (new_span_id(), self.root);
            let span = (since, now);
            self.add(
                "replace session",
                SpanKind::Internal,
                id,
                parent,
                span,
                attributes,
            );
            if let Some(span) = self.spans.last_mut().filter(|it| it.span_id == id.bytes()) {
                span.status = error("no other session was to be had");
            }
        }
        // Where another session was looked for and none was had, or none was needed in the end.
        self.dialled_in_vain(self.root);
        let reason = summary.end_reason;
        self.attributes.extend([
            KeyValue::new("trunkline.end_reason", reason.name()),
            KeyValue::new("trunkline.sessions", u64::from(summary.n_sessions)),
            KeyValue::new("trunkline.turns", summary.n_turns),
            KeyValue::new("trunkline.barge_ins", summary.n_barge_ins),
        ]);
        self.attributes.extend(tokens(&summary.usage));
        let failed = is_failure(reason);
        if failed {
            self.attributes
                .push(KeyValue::new("error.type", reason.name()));
        }
        let status = failed.then(|| error(reason.name())).flatten();
        self.hand_over(status, now);
    }

    fn hand_over(mut self: Box<Self>, status: Option<Status>, now: Instant) {
        if self.left_out > 0 {
            let left_out = KeyValue::new("trunkline.spans_left_out", self.left_out);
            self.attributes.push(left_out);
            let metrics = self.tracer.metrics().traces();
            metrics.dropped("span_limit", self.left_out);
        }
        let name = format!("call {}", self.dialect);
        let mut root = self.span(
            &name,
            SpanKind::Server,
            self.root,
            self.root,
            (self.began, now),
        );
        root.parent_span_id = self
            .begun
            .parent
            .map_or_else(Vec::new, |it| it.bytes().to_vec());
        root.attributes = std::mem::take(&mut self.attributes);
        root.status = status;
        let mut spans = std::mem::take(&mut self.spans);
        spans.push(root);
        // Whose trace it is may have been told after the first spans were over.
        for span in &mut spans {
            span.trace_id = self.begun.trace.bytes().to_vec();
            span.trace_state.clone_from(&self.begun.state);
        }
        self.tracer.send(spans);
    }

    /// Whether there may be one span more, which is counted either way.
    pub(super) fn has_room(&mut self) -> bool {
        self.has_room_below(MAX_SPANS - KEPT)
    }

    fn has_room_below(&mut self, limit: usize) -> bool {
        let has_room = self.n_spans < limit;
        match has_room {
            true => self.n_spans += 1,
            false => self.left_out += 1,
        }
        has_room
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        kind: SpanKind,
        id: SpanId,
        parent: SpanId,
        moments: (Instant, Instant),
        attributes: Vec<KeyValue>,
    ) {
        if self.has_room() {
            let span = self.span(name, kind, id, parent, moments);
            self.spans.push(Span { attributes, ..span });
        }
    }

    pub(super) fn span(
        &self,
        name: &str,
        kind: SpanKind,
        id: SpanId,
        parent: SpanId,
        (from, to): (Instant, Instant),
    ) -> Span {
        Span {
            span_id: id.bytes().to_vec(),
            parent_span_id: parent.bytes().to_vec(),
            name: name.to_owned(),
            kind: kind.into(),
            start_time_unix_nano: self.clock.nanos(from),
            end_time_unix_nano: self.clock.nanos(to.max(from)),
            // Sampled, as W3C Trace Context has it.
            flags: 1,
            ..Span::default()
        }
    }
}

pub(super) fn error(message: &str) -> Option<Status> {
    Some(Status {
        message: message.to_owned(),
        code: StatusCode::Error.into(),
    })
}

/// Whether a call that ended so is one that somebody looks for: neither side left in good order.
fn is_failure(reason: EndReason) -> bool {
    !matches!(reason.close_code(), 1000 | 1001 | 1012)
}

fn tokens(usage: &Usage) -> [KeyValue; 3] {
    let input = Usage {
        output_text: 0,
        output_audio: 0,
        ..*usage
    };
    [
        KeyValue::new("gen_ai.usage.input_tokens", input.total()),
        KeyValue::new(
            "gen_ai.usage.cache_read.input_tokens",
            usage.cached_text.saturating_add(usage.cached_audio),
        ),
        KeyValue::new(
            "gen_ai.usage.output_tokens",
            usage.output_text.saturating_add(usage.output_audio),
        ),
    ]
}

/// The beginning of a text of others'.
pub(super) fn bounded(text: &str) -> &str {
    let end = text.floor_char_boundary(MAX_TEXT);
    &text[..end]
}
