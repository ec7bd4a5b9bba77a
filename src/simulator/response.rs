//! One response: its plan in time, its events in order, its end and its bill (reference chapters 5.4 to 5.7).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::codec::Audio;
use super::config::{FaultKind, FaultRule, RateLimitsPosition, Shape};
use super::conversation::{Body, Item, Part, Role, Segment, assistant_audio_tokens, text_tokens};
use super::error::ApiError;
use super::events::audio_delta_text;
use super::quota::Reservation;
use super::record::ResponseRecord;
use super::reply::{Outcome, Reply, ReplyPart};
use super::schema::{ResponseOptions, TurnMode};
use super::session::{Output, Session};

/// A response that is being generated.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) id: String,
    pub(super) options: ResponseOptions,
    outputs: Vec<OutputItem>,
    steps: VecDeque<(Instant, Step)>,
    outcome: Outcome,
    input: InputUsage,
    reservation: Reservation,
    faults: Vec<FaultRule>,
    n_deltas: u32,
}

impl Response {
    pub(super) fn next_step_at(&self) -> Option<Instant> {
        self.steps.front().map(|(at, _)| *at)
    }

    /// From now on the conversation's copy of this item is not the generator's any more.
    pub(super) fn note_truncated(&mut self, item_id: &str) {
        for output in self
            .outputs
            .iter_mut()
            .filter(|output| output.item.id == item_id)
        {
            output.truncated = true;
        }
    }
}

#[derive(Debug)]
struct OutputItem {
    item: Item,
    goal: ReplyPart,
    phase: Phase,
    truncated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Planned,
    Added,
    PartOpen,
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    AddItem(usize),
    AddPart(usize),
    /// Text, transcript or arguments up to this byte.
    Text(usize, usize),
    /// Audio up to this sample.
    Audio(usize, usize),
    CloseItem(usize),
    Finish,
}

#[derive(Clone, Copy, Debug, Default)]
struct InputUsage {
    text: u64,
    audio: u64,
    image: u64,
    cached_text: u64,
    cached_audio: u64,
}

impl InputUsage {
    fn of(context: &[Segment], previous: &[Segment]) -> Self {
        let mut usage = Self::default();
        for segment in context {
            usage.text += segment.text;
            usage.audio += segment.audio;
            usage.image += segment.image;
        }
        let common = context
            .iter()
            .zip(previous)
            .take_while(|(now, before)| now == before);
        let (text, all) = common.fold((0, 0), |(text, all), (now, _)| {
            (text + now.text, all + now.total())
        });
        // The vendor caches in blocks of 64 tokens.
        let cached = all / 64 * 64;
        usage.cached_text = cached.min(text);
        usage.cached_audio = (cached - usage.cached_text).min(usage.audio);
        usage
    }

    fn total(self) -> u64 {
        self.text + self.audio + self.image
    }

    fn cached(self) -> u64 {
        self.cached_text + self.cached_audio
    }
}

/// How a response ended before its plan did, or as planned.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    AsPlanned,
    Cancelled(&'static str),
}

/// A function call's arguments come in pieces of about this many bytes.
const ARGUMENT_PIECE: usize = 8;

impl Session {
    pub(super) fn active_response(&self) -> Option<&Response> {
        self.responses
            .iter()
            .find(|response| !response.options.out_of_band)
    }

    /// Starts a response or says why not.
    pub(super) fn start_response(
        &mut self,
        options: ResponseOptions,
        now: Instant,
    ) -> Result<(), ApiError> {
        if !options.out_of_band
            && let Some(active) = self.active_response()
        {
            let message = format!(
                "Conversation already has an active response in progress: {}. Wait until the response is finished \
                 before creating a new one.",
                active.id
            );
            return Err(ApiError::request(
                "conversation_already_has_active_response",
                message,
            ));
        }
        let items = self.context_items(&options)?;
        let segments = self.fitted_context(&options, &items)?;
        let faults = self.response_faults();
        if faults
            .iter()
            .any(|fault| fault.kind == FaultKind::ServerError)
        {
            // It counts, or `first_responses` would never be over.
            self.n_responses += 1;
            return Err(ApiError::server(self.server_fault_message()));
        }
        let input = InputUsage::of(&segments, &self.previous_context);
        let reserved = self.lock_quota().reserve(
            input.total(),
            input.cached(),
            options.max_output_tokens,
            now,
        );
        let refs: Vec<_> = items.iter().collect();
        let reply = match reserved {
            Err(_) => Reply {
                parts: Vec::new(),
                outcome: Outcome::Failed(Some("rate_limit_exceeded".to_owned())),
            },
            Ok(_)
                if faults
                    .iter()
                    .any(|fault| fault.kind == FaultKind::FailedResponse) =>
            {
                Reply {
                    parts: Vec::new(),
                    outcome: Outcome::Failed(None),
                }
            }
            Ok(_) => self.replier.reply(&refs, &options),
        };
        if !options.out_of_band {
            self.previous_context = segments;
            self.idle = None;
        }
        let failure = reserved.as_ref().err().map(|exhausted| {
            format!(
                "Rate limit reached for {} on tokens per min (TPM): Limit {}, Used {}, Requested {}. Please try \
                 again in {:.3}s.",
                self.facts.model,
                exhausted.limit,
                exhausted.used,
                exhausted.requested,
                exhausted.retry_after.as_secs_f64()
            )
        });
        let mut response = Response {
            id: self.source.id("resp_"),
            options,
            outputs: Vec::new(),
            steps: VecDeque::new(),
            outcome: reply.outcome,
            input,
            reservation: reserved.unwrap_or_default(),
            faults,
            n_deltas: 0,
        };
        self.announce(&response, now);
        if let Outcome::Failed(code) = response.outcome.clone() {
            self.fail(&response, code, failure, now);
            return Ok(());
        }
        response.outputs = reply
            .parts
            .into_iter()
            .map(|part| self.output_item(part))
            .collect();
        response.steps = self.plan(&response, now);
        self.responses.push(response);
        Ok(())
    }

    fn context_items(&self, options: &ResponseOptions) -> Result<Vec<Item>, ApiError> {
        let Some(input) = &options.input else {
            return Ok(self.conversation.items().to_vec());
        };
        let mut items = Vec::with_capacity(input.len());
        for (n, value) in input.iter().enumerate() {
            let path = format!("response.input[{n}]");
            if value["type"] == "item_reference" {
                let id = value["id"]
                    .as_str()
                    .ok_or_else(|| ApiError::missing(format!("{path}.id")))?;
                let item = self.conversation.get(id).ok_or_else(|| {
                    ApiError::invalid(format!("{path}.id"), &format!("item '{id}' does not exist"))
                })?;
                items.push(item.clone());
            } else {
                items.push(Item::read(
                    value,
                    &path,
                    self.facts.shape,
                    self.settings.input_format,
                )?);
            }
        }
        Ok(items)
    }

    /// Context as segments, the oldest items left out where it is too long (reference chapter 4.1, truncation).
    fn fitted_context(
        &self,
        options: &ResponseOptions,
        items: &[Item],
    ) -> Result<Vec<Segment>, ApiError> {
        let instructions = options
            .instructions
            .as_ref()
            .unwrap_or(&self.settings.instructions);
        let mut segments = vec![Segment::text(instructions)];
        if options
            .tools
            .as_array()
            .is_some_and(|tools| !tools.is_empty())
        {
            segments.push(Segment::text(&options.tools.to_string()));
        }
        let n_fixed = segments.len();
        segments.extend(items.iter().map(Item::segment));
        let limit = self.context_limit();
        let mut total: u64 = segments.iter().map(|segment| segment.total()).sum();
        if total <= limit {
            return Ok(segments);
        }
        let truncation = &self.settings.truncation;
        if truncation == "disabled" {
            let message =
                format!("Conversation has {total} tokens, which exceeds the limit of {limit}.");
            return Err(ApiError::request("context_length_exceeded", message));
        }
        let ratio = truncation["retention_ratio"].as_f64().unwrap_or(1.0);
        let goal = (limit as f64 * ratio) as u64;
        while total > goal && segments.len() > n_fixed + 1 {
            total -= segments.remove(n_fixed).total();
        }
        Ok(segments)
    }

    fn context_limit(&self) -> u64 {
        self.config
            .context_tokens
            .unwrap_or(match self.facts.shape {
                Shape::Preview => 128_000,
                Shape::Ga => 28_672,
            })
    }

    fn announce(&mut self, response: &Response, now: Instant) {
        self.n_responses += 1;
        self.lock_record().responses.push(ResponseRecord {
            id: response.id.clone(),
            out_of_band: response.options.out_of_band,
            created_at: now,
            first_audio_at: None,
            done_at: None,
            status: "in_progress",
            audio_ms: 0,
        });
        let object = self.response_object(response, "in_progress", Value::Null, Value::Null);
        self.emit("response.created", &json!({ "response": object }));
        self.emit_rate_limits(RateLimitsPosition::Start, now);
    }

    fn emit_rate_limits(&mut self, position: RateLimitsPosition, now: Instant) {
        let report = {
            let mut quota = self.lock_quota();
            (quota.config().rate_limits == position).then(|| quota.report(now))
        };
        if let Some(report) = report {
            self.emit("rate_limits.updated", &json!({ "rate_limits": report }));
        }
    }

    fn fail(
        &mut self,
        response: &Response,
        code: Option<String>,
        message: Option<String>,
        now: Instant,
    ) {
        self.lock_quota().settle(response.reservation, 0, 0, 0, now);
        let error = match code {
            Some(code) => json!({
                "type": "invalid_request_error", "code": code,
                "message": message.unwrap_or_else(|| "The response failed as scripted.".to_owned()),
            }),
            None => {
                json!({"type": "server_error", "code": null, "message": self.server_fault_message()})
            }
        };
        let details = json!({"type": "failed", "error": error});
        let usage = self.usage(InputUsage::default(), 0, 0);
        let object = self.response_object(response, "failed", details, usage);
        self.emit("response.done", &json!({ "response": object }));
        self.emit_rate_limits(RateLimitsPosition::End, now);
        if let Some(record) = self.lock_record().response(&response.id) {
            record.status = "failed";
            record.done_at = Some(now);
        }
    }

    fn output_item(&mut self, goal: ReplyPart) -> OutputItem {
        let body = match &goal {
            ReplyPart::Message { .. } => Body::Message {
                role: Role::Assistant,
                parts: Vec::new(),
            },
            ReplyPart::Call { name, .. } => Body::Call {
                call_id: self.source.call_id(),
                name: name.clone(),
                arguments: String::new(),
            },
        };
        let item = Item {
            id: self.source.id("item_"),
            status: "in_progress",
            body,
        };
        OutputItem {
            item,
            goal,
            phase: Phase::Planned,
            truncated: false,
        }
    }

    /// Lays out all steps: transcript ahead of audio, audio at the generation speed.
    fn plan(&mut self, response: &Response, now: Instant) -> VecDeque<(Instant, Step)> {
        let slow = response
            .faults
            .iter()
            .find(|fault| fault.kind == FaultKind::SlowFirstAudio);
        let added = slow.map_or(Duration::ZERO, |fault| {
            fault.delay.unwrap_or(Duration::from_secs(5))
        });
        let first = self.source.first_delta(&self.config.latency) + added;
        let mut steps = Vec::new();
        let mut start = first.mul_f64(0.85);
        let mut at = first;
        for (n, output) in response.outputs.iter().enumerate() {
            steps.push((start, Step::AddItem(n)));
            let end = match &output.goal {
                ReplyPart::Message { text, audio } => {
                    steps.push((start, Step::AddPart(n)));
                    match audio {
                        Some(audio) => self.plan_audio(&mut steps, n, text, audio, start, at),
                        None => plan_text(&mut steps, n, token_ends(text), at),
                    }
                }
                ReplyPart::Call { arguments, .. } => {
                    plan_text(&mut steps, n, piece_ends(arguments), at)
                }
            };
            start = end + Duration::from_millis(5);
            steps.push((start, Step::CloseItem(n)));
            at = start + Duration::from_millis(40);
        }
        steps.push((start, Step::Finish));
        steps.sort_by_key(|(at, _)| *at);
        steps
            .into_iter()
            .map(|(at, step)| (now + at, step))
            .collect()
    }

    fn plan_audio(
        &mut self,
        steps: &mut Vec<(Duration, Step)>,
        n: usize,
        text: &str,
        audio: &Audio,
        start: Duration,
        first: Duration,
    ) -> Duration {
        let latency = &self.config.latency;
        let speed = if latency.speed > 0.0 {
            latency.speed
        } else {
            5.0
        };
        let mut at = first;
        for (from, to) in delta_spans(audio, &self.config.deltas) {
            if from > 0 {
                let previous = audio.rate.duration_of(from).mul_f64(1.0 / speed) + first;
                // Jitter moves a delta within the gap before it, so that order and overall speed stay.
                let gap = previous.saturating_sub(at);
                at += self.source.jittered(gap, latency.jitter);
            }
            steps.push((at, Step::Audio(n, to)));
        }
        // Five tokens go ahead of the first delta, the others keep ahead of their audio.
        let ends = token_ends(text);
        let n_tokens = ends.len().max(1);
        for (k, end) in ends.into_iter().enumerate() {
            let token_at = if k < 5 {
                start + first.saturating_sub(start).mul_f64((k + 1) as f64 / 6.0)
            } else {
                first
                    + at.saturating_sub(first)
                        .mul_f64(0.8 * (k - 4) as f64 / n_tokens as f64)
            };
            steps.push((token_at, Step::Text(n, end)));
        }
        at
    }

    /// Runs the next step of a response.
    pub(super) fn run_step(&mut self, index: usize, now: Instant) {
        let mut response = self.responses.swap_remove(index);
        let Some((_, step)) = response.steps.pop_front() else {
            return;
        };
        let finished = self.perform(&mut response, step, now);
        if finished {
            self.finish_response(response, Ending::AsPlanned, now);
        } else {
            self.responses.push(response);
        }
    }

    fn perform(&mut self, response: &mut Response, step: Step, now: Instant) -> bool {
        match step {
            Step::AddItem(n) => self.add_item(response, n),
            Step::AddPart(n) => self.add_part(response, n),
            Step::Text(n, end) => self.send_text(response, n, end),
            Step::Audio(n, end) => self.send_audio(response, n, end, now),
            Step::CloseItem(n) => {
                let status = match response.outcome {
                    Outcome::Incomplete(_) if n + 1 == response.outputs.len() => "incomplete",
                    _ => "completed",
                };
                self.close_item(response, n, status);
            }
            Step::Finish => return true,
        }
        let is_delta = match step {
            Step::Audio(..) => true,
            Step::Text(n, _) => !matches!(
                response.outputs[n].goal,
                ReplyPart::Message { audio: Some(_), .. }
            ),
            _ => false,
        };
        if is_delta {
            response.n_deltas += 1;
            self.apply_delta_faults(response);
        }
        false
    }

    fn apply_delta_faults(&mut self, response: &mut Response) {
        for fault in response.faults.clone() {
            if response.n_deltas != fault.after_deltas.unwrap_or(2) {
                continue;
            }
            match fault.kind {
                FaultKind::Stall => match fault.delay {
                    Some(delay) => response.steps.iter_mut().for_each(|(at, _)| *at += delay),
                    None => response.steps.clear(),
                },
                FaultKind::Close => self.end_by_fault(fault.code.unwrap_or(1011)),
                FaultKind::Malformed => {
                    self.push_raw("{\"type\":\"response.done\",\"response\":{".to_owned())
                }
                FaultKind::Oversized => {
                    let padding = "x".repeat(fault.bytes.unwrap_or(24 << 20));
                    self.emit(
                        "rate_limits.updated",
                        &json!({"rate_limits": [], "obfuscation": padding}),
                    );
                }
                _ => {}
            }
        }
    }

    fn add_item(&mut self, response: &mut Response, n: usize) {
        response.outputs[n].phase = Phase::Added;
        let item = &response.outputs[n].item;
        let rendered = item.render(self.facts.shape, None);
        self.emit(
            "response.output_item.added",
            &json!({"response_id": response.id, "output_index": n, "item": rendered}),
        );
        if !response.options.out_of_band {
            let previous = self.conversation.last_id();
            self.conversation.push(item.clone());
            let added = self.facts.shape.names().item_added;
            self.emit(
                added,
                &json!({"previous_item_id": previous, "item": rendered}),
            );
        }
    }

    fn add_part(&mut self, response: &mut Response, n: usize) {
        let output = &mut response.outputs[n];
        output.phase = Phase::PartOpen;
        let ReplyPart::Message { audio, .. } = &output.goal else {
            return;
        };
        let (part, rendered) = match audio {
            Some(audio) => {
                let none = Audio {
                    n_samples: 0,
                    ..audio.clone()
                };
                let part = Part::Audio {
                    audio: none,
                    transcript: Some(String::new()),
                    heard: String::new(),
                };
                (part, json!({"type": "audio", "transcript": ""}))
            }
            None => (
                Part::Text(String::new()),
                json!({"type": "text", "text": ""}),
            ),
        };
        if let Body::Message { parts, .. } = &mut output.item.body {
            parts.push(part);
        }
        let place = self.place(response, n);
        self.emit(
            "response.content_part.added",
            &with(place, "part", rendered),
        );
    }

    fn send_text(&mut self, response: &mut Response, n: usize, end: usize) {
        let output = &mut response.outputs[n];
        let goal = match &output.goal {
            ReplyPart::Message { text, .. } => text,
            ReplyPart::Call { arguments, .. } => arguments,
        };
        let names = self.facts.shape.names();
        let (sent, kind) = match &mut output.item.body {
            Body::Call { arguments, .. } => (arguments, "response.function_call_arguments.delta"),
            Body::Message { parts, .. } => match parts.first_mut() {
                Some(Part::Text(text)) => (text, names.text_delta),
                Some(Part::Audio {
                    transcript: Some(transcript),
                    ..
                }) => (transcript, names.transcript_delta),
                _ => return,
            },
            Body::CallOutput { .. } | Body::Opaque(_) => return,
        };
        let delta = goal.get(sent.len()..end).unwrap_or_default().to_owned();
        sent.push_str(&delta);
        let place = self.place(response, n);
        self.emit(kind, &with(place, "delta", delta.into()));
        self.store(response, n);
    }

    fn send_audio(&mut self, response: &mut Response, n: usize, end: usize, now: Instant) {
        let format = response.options.output_format;
        let output = &mut response.outputs[n];
        let Body::Message { parts, .. } = &mut output.item.body else {
            return;
        };
        let Some(Part::Audio { audio, .. }) = parts.first_mut() else {
            return;
        };
        let delta = format.encode(audio.samples.get(audio.n_samples..end).unwrap_or_default());
        audio.n_samples = end;
        let audio_ms = audio.ms();
        let event_id = self.source.id("event_");
        let kind = self.facts.shape.names().audio_delta;
        let text = audio_delta_text(
            kind,
            &event_id,
            &response.id,
            &output.item.id,
            n,
            &STANDARD.encode(delta),
        );
        self.push_raw(text);
        if let Some(record) = self.lock_record().response(&response.id) {
            record.first_audio_at.get_or_insert(now);
            record.audio_ms = record.audio_ms.max(audio_ms);
        }
        self.has_assistant_audio |= !response.options.out_of_band;
        self.store(response, n);
    }

    /// Brings the conversation's copy of an item up to date.
    fn store(&mut self, response: &Response, n: usize) {
        let output = &response.outputs[n];
        if !response.options.out_of_band
            && !output.truncated
            && let Some(item) = self.conversation.get_mut(&output.item.id)
        {
            item.clone_from(&output.item);
        }
    }

    /// Every `.done` event of an item, with what was really sent.
    fn close_item(&mut self, response: &mut Response, n: usize, status: &'static str) {
        let names = self.facts.shape.names();
        let had_part = response.outputs[n].phase == Phase::PartOpen;
        response.outputs[n].phase = Phase::Done;
        response.outputs[n].item.status = status;
        let place = self.place(response, n);
        match response.outputs[n].item.body.clone() {
            Body::Message { parts, .. } if had_part => match parts.into_iter().next() {
                Some(Part::Audio { transcript, .. }) => {
                    self.emit(names.audio_done, &place);
                    self.emit(
                        names.transcript_done,
                        &with(place.clone(), "transcript", json!(transcript)),
                    );
                    let part = json!({"type": "audio", "transcript": transcript});
                    self.emit("response.content_part.done", &with(place, "part", part));
                }
                Some(Part::Text(text)) => {
                    self.emit(
                        names.text_done,
                        &with(place.clone(), "text", text.as_str().into()),
                    );
                    self.emit(
                        "response.content_part.done",
                        &with(place, "part", json!({"type": "text", "text": text})),
                    );
                }
                _ => {}
            },
            Body::Call {
                name, arguments, ..
            } => {
                let place = with(
                    with(place, "name", name.into()),
                    "arguments",
                    arguments.into(),
                );
                self.emit("response.function_call_arguments.done", &place);
            }
            _ => {}
        }
        self.store(response, n);
        let out_of_band = response.options.out_of_band;
        if !out_of_band && let Some(item) = self.conversation.get_mut(&response.outputs[n].item.id)
        {
            item.status = status;
        }
        let rendered = response.outputs[n].item.render(self.facts.shape, None);
        if !out_of_band && let Some(done) = names.item_done {
            let previous = self.previous_of(&response.outputs[n].item.id);
            self.emit(
                done,
                &json!({"previous_item_id": previous, "item": rendered}),
            );
        }
        self.emit(
            "response.output_item.done",
            &json!({"response_id": response.id, "output_index": n, "item": rendered}),
        );
    }

    fn previous_of(&self, id: &str) -> Option<String> {
        let items = self.conversation.items();
        let position = items.iter().position(|item| item.id == id)?;
        position.checked_sub(1).map(|n| items[n].id.clone())
    }

    /// Where an event belongs; argument events name the call instead of the part.
    fn place(&self, response: &Response, n: usize) -> Value {
        let item = &response.outputs[n].item;
        let mut place = json!({"response_id": response.id, "item_id": item.id, "output_index": n});
        match &item.body {
            Body::Call { call_id, .. } => place["call_id"] = call_id.as_str().into(),
            _ => place["content_index"] = 0.into(),
        }
        place
    }

    /// Ends the response with this id as cancelled; answers whether there was one.
    pub(super) fn cancel_response(&mut self, id: &str, reason: &'static str, now: Instant) -> bool {
        let Some(index) = self.responses.iter().position(|response| response.id == id) else {
            return false;
        };
        let mut response = self.responses.swap_remove(index);
        for n in 0..response.outputs.len() {
            if matches!(response.outputs[n].phase, Phase::Added | Phase::PartOpen) {
                self.close_item(&mut response, n, "incomplete");
            }
        }
        self.finish_response(response, Ending::Cancelled(reason), now);
        true
    }

    fn finish_response(&mut self, mut response: Response, ending: Ending, now: Instant) {
        response
            .outputs
            .retain(|output| output.phase == Phase::Done);
        let (status, details) = match (&ending, &response.outcome) {
            (Ending::Cancelled(reason), _) => {
                ("cancelled", json!({"type": "cancelled", "reason": reason}))
            }
            (Ending::AsPlanned, Outcome::Incomplete(reason)) => (
                "incomplete",
                json!({"type": "incomplete", "reason": reason}),
            ),
            (Ending::AsPlanned, _) => ("completed", Value::Null),
        };
        let (mut text, mut audio, mut audio_ms) = (0, 0, 0);
        for output in &response.outputs {
            match &output.item.body {
                Body::Message { parts, .. } => {
                    for part in parts {
                        match part {
                            Part::Text(said) => text += text_tokens(said),
                            Part::Audio {
                                audio: said,
                                transcript,
                                ..
                            } => {
                                text += transcript.as_deref().map_or(0, text_tokens);
                                audio += assistant_audio_tokens(said.ms());
                                audio_ms += said.ms();
                            }
                            Part::Image(_) => {}
                        }
                    }
                }
                Body::Call {
                    name, arguments, ..
                } => text += text_tokens(name) + text_tokens(arguments),
                Body::CallOutput { .. } | Body::Opaque(_) => {}
            }
        }
        let input = response.input;
        self.lock_quota().settle(
            response.reservation,
            input.total(),
            input.cached(),
            text + audio,
            now,
        );
        let usage = self.usage(input, text, audio);
        let object = self.response_object(&response, status, details, usage);
        self.emit("response.done", &json!({ "response": object }));
        self.emit_rate_limits(RateLimitsPosition::End, now);
        if let Some(record) = self.lock_record().response(&response.id) {
            record.status = status;
            record.done_at = Some(now);
            record.audio_ms = audio_ms;
        }
        if !response.options.out_of_band {
            self.conversation
                .forget_audio(self.config.retained_audio.as_millis() as u64);
            self.arm_idle_timeout(Duration::from_millis(audio_ms), now);
        }
    }

    fn arm_idle_timeout(&mut self, playback: Duration, now: Instant) {
        let timeout = match self
            .settings
            .turn_detection
            .as_ref()
            .map(|detection| &detection.mode)
        {
            Some(TurnMode::Server {
                idle_timeout_ms: Some(ms),
                ..
            }) => Duration::from_millis(*ms),
            _ => return,
        };
        self.idle = (!self.vad.in_speech()).then(|| now + playback + timeout);
    }

    fn response_object(
        &self,
        response: &Response,
        status: &str,
        details: Value,
        usage: Value,
    ) -> Value {
        let output: Vec<_> = response
            .outputs
            .iter()
            .map(|output| output.item.render(self.facts.shape, None))
            .collect();
        let conversation = (!response.options.out_of_band).then(|| self.conversation.id.clone());
        let mut object = json!({
            "object": "realtime.response", "id": response.id, "status": status, "status_details": details,
            "output": output, "conversation_id": conversation, "usage": usage,
        });
        response.options.echo_into(&mut object, self.facts.shape);
        object
    }

    fn usage(&self, input: InputUsage, text: u64, audio: u64) -> Value {
        let ga = self.facts.shape == Shape::Ga;
        let mut details = json!({"text_tokens": input.text, "audio_tokens": input.audio, "cached_tokens": input.cached()});
        // The first preview had no breakdown of what was cached, and only GA knows images.
        if !self.first_preview {
            details["cached_tokens_details"] =
                json!({"text_tokens": input.cached_text, "audio_tokens": input.cached_audio});
        }
        if ga {
            details["image_tokens"] = input.image.into();
            details["cached_tokens_details"]["image_tokens"] = 0.into();
        }
        json!({
            "total_tokens": input.total() + text + audio, "input_tokens": input.total(),
            "output_tokens": text + audio, "input_token_details": details,
            "output_token_details": {"text_tokens": text, "audio_tokens": audio},
        })
    }

    fn response_faults(&self) -> Vec<FaultRule> {
        let meets = |fault: &&FaultRule| fault.first_responses.is_none_or(|n| self.n_responses < n);
        self.faults.iter().filter(meets).cloned().collect()
    }

    /// Ends the connection the way a fault asks for.
    pub(super) fn end_by_fault(&mut self, code: u16) {
        let output = match code {
            1006 => Output::Abort,
            code => Output::Close {
                code,
                reason: String::new(),
            },
        };
        self.end(output);
    }
}

fn with(mut fields: Value, name: &str, value: Value) -> Value {
    fields[name] = value;
    fields
}

fn plan_text(
    steps: &mut Vec<(Duration, Step)>,
    n: usize,
    ends: Vec<usize>,
    first: Duration,
) -> Duration {
    let mut at = first;
    for end in ends {
        steps.push((at, Step::Text(n, end)));
        // Text comes at about 65 tokens a second.
        at += Duration::from_millis(15);
    }
    at
}

/// Ends of word pieces, each with the space before it.
fn token_ends(text: &str) -> Vec<usize> {
    let mut ends: Vec<_> = text
        .match_indices(' ')
        .map(|(at, _)| at)
        .filter(|&at| at > 0)
        .collect();
    if !text.is_empty() {
        ends.push(text.len());
    }
    ends
}

fn piece_ends(text: &str) -> Vec<usize> {
    let inner = (ARGUMENT_PIECE..text.len())
        .step_by(ARGUMENT_PIECE)
        .filter(|&at| text.is_char_boundary(at));
    let mut ends: Vec<_> = inner.collect();
    if !text.is_empty() {
        ends.push(text.len());
    }
    ends
}

/// Where deltas begin and end, in samples.
fn delta_spans(audio: &Audio, sizes: &super::config::DeltaSizes) -> Vec<(usize, usize)> {
    let samples =
        |length: Duration| (length.as_millis() as usize * audio.rate.hz() as usize / 1_000).max(1);
    let mut spans = Vec::new();
    let mut from = 0;
    while from < audio.n_samples {
        let size = match spans.len() {
            0 => sizes.first,
            1 => sizes.second,
            _ if audio.n_samples - from <= samples(sizes.last) => sizes.last,
            _ => sizes.steady,
        };
        let to = (from + samples(size)).min(audio.n_samples);
        spans.push((from, to));
        from = to;
    }
    spans
}
