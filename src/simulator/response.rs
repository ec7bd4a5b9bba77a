//! One response from its creation to its end and its bill (reference chapters 5.4 to 5.7).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::config::{FaultKind, FaultRule, RateLimitsPosition};
use super::context::InputUsage;
use super::error::ApiError;
use super::options::ResponseOptions;
use super::output::{OutputItem, Phase};
use super::plan::Step;
use super::quota::{Exhausted, Reservation};
use super::record::ResponseRecord;
use super::reply::{Outcome, ReplyPart};
use super::schema::TurnMode;
use super::session::{Output, Session};

/// A response that is being generated.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) id: String,
    pub(super) options: ResponseOptions,
    pub(super) outputs: Vec<OutputItem>,
    pub(super) steps: VecDeque<(Instant, Step)>,
    pub(super) outcome: Outcome,
    pub(super) input: InputUsage,
    pub(super) reservation: Reservation,
    pub(super) faults: Vec<FaultRule>,
    pub(super) n_deltas: u32,
}

impl Response {
    /// The answer to whoever wants a second response in the same conversation.
    fn collision(&self) -> ApiError {
        let message = format!(
            "Conversation already has an active response in progress: {}. Wait until the response is finished \
             before creating a new one.",
            self.id
        );
        ApiError::request("conversation_already_has_active_response", message)
    }

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

/// How a response ended before its plan did, or as planned.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    AsPlanned,
    Cancelled(&'static str),
}

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
            return Err(active.collision());
        }
        let items = self.context_items(&options)?;
        let segments = self.fitted_context(&options, &items)?;
        let faults = self.response_faults();
        self.n_responses += 1;
        if meets(&faults, FaultKind::ServerError) {
            return Err(ApiError::server(self.server_fault_message()));
        }
        let input = InputUsage::of(&segments, &self.previous_context);
        if !options.out_of_band {
            self.previous_context = segments;
            self.idle = None;
        }
        let reserved = self.lock_quota().reserve(
            input.total(),
            input.cached(),
            options.max_output_tokens,
            now,
        );
        let mut response = Response {
            id: self.source.id("resp_"),
            options,
            outputs: Vec::new(),
            steps: VecDeque::new(),
            outcome: Outcome::Completed,
            input,
            reservation: reserved.unwrap_or_default(),
            faults,
            n_deltas: 0,
        };
        self.announce(&response, now);
        let failure = match reserved {
            Err(exhausted) => Some(self.rate_limit_error(exhausted)),
            Ok(_) if meets(&response.faults, FaultKind::FailedResponse) => Some(self.failure(None)),
            Ok(_) => {
                let context: Vec<_> = items.iter().collect();
                let reply = self.replier.reply(&context, &response.options);
                response.outputs = reply
                    .parts
                    .into_iter()
                    .map(|part| self.output_item(part))
                    .collect();
                response.outcome = reply.outcome;
                match &response.outcome {
                    Outcome::Failed(code) => Some(self.failure(code.as_deref())),
                    Outcome::Completed | Outcome::Incomplete(_) => None,
                }
            }
        };
        match failure {
            Some(error) => self.fail(&response, error, now),
            None => {
                response.steps = self.plan(&response, now);
                self.responses.push(response);
            }
        }
        Ok(())
    }

    fn rate_limit_error(&self, exhausted: Exhausted) -> Value {
        let message = format!(
            "Rate limit reached for {} on tokens per min (TPM): Limit {}, Used {}, Requested {}. Please try \
             again in {:.3}s.",
            self.facts.model,
            exhausted.limit,
            exhausted.used,
            exhausted.requested,
            exhausted.retry_after.as_secs_f64()
        );
        json!({"type": "invalid_request_error", "code": "rate_limit_exceeded", "message": message})
    }

    fn failure(&self, code: Option<&str>) -> Value {
        match code {
            Some(code) => json!({
                "type": "invalid_request_error", "code": code, "message": "The response failed as scripted.",
            }),
            None => {
                json!({"type": "server_error", "code": null, "message": self.server_fault_message()})
            }
        }
    }

    fn announce(&mut self, response: &Response, now: Instant) {
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

    fn fail(&mut self, response: &Response, error: Value, now: Instant) {
        self.lock_quota().settle(response.reservation, 0, 0, 0, now);
        let details = json!({"type": "failed", "error": error});
        let usage = self.usage(InputUsage::default(), 0, 0);
        let object = self.response_object(response, "failed", details, usage);
        self.emit("response.done", &json!({ "response": object }));
        self.emit_rate_limits(RateLimitsPosition::End, now);
        if let Some(record) = self.lock_record().response(&response.id) {
            record.status = "failed";
            record.done_at = Some(now);
        }
        if !response.options.out_of_band {
            self.arm_idle_timeout(Duration::ZERO, now);
        }
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
        let generated: Vec<_> = response.outputs.iter().map(OutputItem::generated).collect();
        let text: u64 = generated.iter().map(|item| item.text_tokens).sum();
        let audio: u64 = generated.iter().map(|item| item.audio_tokens).sum();
        let audio_ms: u64 = generated.iter().map(|item| item.audio_ms).sum();
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

fn meets(faults: &[FaultRule], kind: FaultKind) -> bool {
    faults.iter().any(|fault| fault.kind == kind)
}
