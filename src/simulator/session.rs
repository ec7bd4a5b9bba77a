//! The pure core of one connection: client events and time in, server events out.
//!
//! Reads no clock and owns no socket. Everything random comes from the seed, so that the same input at the same
//! instants gives the same output, byte by byte.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::config::{FaultKind, FaultRule, Shape, SimulatorConfig};
use super::conversation::{AudioFormats, Body, Conversation, Item, Part, Segment};
use super::error::ApiError;
use super::events::event_text;
use super::fields::Fields;
use super::ids::Source;
use super::listener::Listener;
use super::options::ResponseOptions;
use super::quirks::OutputAudioClear;
use super::quota::Quota;
use super::record::{CancelRecord, CloseRecord, ErrorRecord, SessionRecord, TruncateRecord};
use super::reply::Replier;
use super::response::Response;
use super::schema::{Locks, SessionConfig, SessionFacts};
use super::synth::Synthesiser;
use super::turns::{InputBuffer, PendingTranscript, SpeechTurn};
use super::vad::Vad;

/// Characters of a client's `event_id` (reference chapter 2).
const MAX_EVENT_ID: usize = 512;

/// Whose endpoint the client connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Paths below `/openai/`.
    Azure,
    /// `/v1/realtime`.
    OpenAi,
}

/// What the session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// Speech to speech.
    Conversation,
    /// `intent=transcription`: transcripts only, no responses.
    Transcription,
}

/// What is known of a session when its connection is accepted.
#[derive(Clone, Debug)]
pub struct SessionSetup {
    /// The simulator's knobs.
    pub config: Arc<SimulatorConfig>,
    /// The shape spoken.
    pub shape: Shape,
    /// Whose endpoint.
    pub provider: Provider,
    /// What for.
    pub kind: SessionKind,
    /// An `api-version` of 2024: usage without breakdown of cached tokens.
    pub first_preview: bool,
    /// Deployment or model as the client named it.
    pub deployment: String,
    /// Dated model name.
    pub model: String,
    /// Number of the connection.
    pub index: u64,
    /// Unix time of the start, in seconds.
    pub epoch: u64,
    /// Session fields that came with an ephemeral key.
    pub defaults: Option<Value>,
    /// Faults that this session meets.
    pub faults: Vec<FaultRule>,
    /// Refuse at once with this code: `error`, then close.
    pub(super) fatal: Option<(ApiError, u16)>,
    pub(super) quota: Option<Arc<Mutex<Quota>>>,
    /// Sounds that sessions share.
    pub(super) synthesiser: Arc<Synthesiser>,
    /// Who listens in.
    pub(super) listener: Option<Arc<dyn Listener>>,
}

impl SessionSetup {
    /// A plain conversation on an Azure path, for driving a session without a server.
    #[must_use]
    pub fn new(config: Arc<SimulatorConfig>, shape: Shape) -> Self {
        let model = match shape {
            Shape::Preview => "gpt-4o-realtime-preview-2024-12-17",
            Shape::Ga => "gpt-realtime-2025-08-28",
        };
        Self {
            epoch: config.epoch.unwrap_or(0),
            config,
            shape,
            provider: Provider::Azure,
            kind: SessionKind::Conversation,
            first_preview: false,
            deployment: "gpt-realtime".to_owned(),
            model: model.to_owned(),
            index: 0,
            defaults: None,
            faults: Vec::new(),
            fatal: None,
            quota: None,
            synthesiser: Arc::default(),
            listener: None,
        }
    }
}

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a text frame.
    Text(String),
    /// Send a close frame and end.
    Close {
        /// Close code.
        code: u16,
        /// Close reason.
        reason: String,
    },
    /// Drop the connection without a close frame; the peer sees 1006.
    Abort,
}

/// One session of the Realtime API.
#[derive(Debug)]
pub struct Session {
    pub(super) config: Arc<SimulatorConfig>,
    pub(super) facts: SessionFacts,
    pub(super) settings: SessionConfig,
    pub(super) conversation: Conversation,
    pub(super) source: Source,
    pub(super) replier: Replier,
    pub(super) synthesiser: Arc<Synthesiser>,
    pub(super) listener: Option<Arc<dyn Listener>>,
    pub(super) index: u64,
    pub(super) responses: Vec<Response>,
    pub(super) n_responses: u64,
    pub(super) previous_context: Vec<Segment>,
    pub(super) has_assistant_audio: bool,
    pub(super) vad: Vad,
    pub(super) input: InputBuffer,
    pub(super) turn: Option<SpeechTurn>,
    pub(super) transcripts: Vec<PendingTranscript>,
    pub(super) n_transcripts: u64,
    pub(super) idle: Option<Instant>,
    /// When the turn that ended is answered.
    pub(super) answer_at: Option<Instant>,
    pub(super) faults: Vec<FaultRule>,
    cap: Duration,
    cap_at: Instant,
    drop_at: Option<(Instant, u16)>,
    outputs: VecDeque<Output>,
    closed: bool,
    record: Arc<Mutex<SessionRecord>>,
    quota: Arc<Mutex<Quota>>,
}

/// Everything that happens by itself.
#[derive(Clone, Copy, Debug)]
enum Timer {
    Drop(u16),
    Cap,
    Transcript(usize),
    Answer,
    Response(usize),
    Idle,
}

impl Session {
    /// Begins a session; `session.created` is the first output.
    #[must_use]
    pub fn new(setup: &SessionSetup, seed: u64, now: Instant) -> Self {
        let config = Arc::clone(&setup.config);
        let mut source = Source::new(seed);
        let cap = match setup.provider {
            Provider::Azure => config.azure_session_cap,
            Provider::OpenAi => config.openai_session_cap,
        };
        let facts = SessionFacts {
            id: source.id("sess_"),
            model: setup.model.clone(),
            deployment: setup.deployment.clone(),
            kind: setup.kind,
            shape: setup.shape,
            expires_at: setup.epoch + cap.as_secs(),
            first_preview: setup.first_preview,
            config: Arc::clone(&config),
        };
        let drop = setup
            .faults
            .iter()
            .find(|fault| fault.kind == FaultKind::Drop);
        let drop_at = drop.map(|fault| {
            (
                now + fault.delay.unwrap_or(Duration::from_secs(10)),
                fault.code.unwrap_or(1011),
            )
        });
        let record = SessionRecord::new(
            facts.id.clone(),
            setup.index,
            setup.deployment.clone(),
            setup.shape,
            now,
        );
        let quota = setup.quota.clone();
        let mut session = Self {
            settings: SessionConfig::new(setup.shape, &config.instructions),
            conversation: Conversation::new(source.id("conv_")),
            replier: Replier::new(Arc::clone(&config), Arc::clone(&setup.synthesiser)),
            synthesiser: Arc::clone(&setup.synthesiser),
            listener: setup.listener.clone(),
            index: setup.index,
            responses: Vec::new(),
            n_responses: 0,
            previous_context: Vec::new(),
            has_assistant_audio: false,
            vad: Vad::default(),
            input: InputBuffer::default(),
            turn: None,
            transcripts: Vec::new(),
            n_transcripts: 0,
            idle: None,
            answer_at: None,
            faults: setup.faults.clone(),
            cap,
            cap_at: now + cap,
            drop_at,
            outputs: VecDeque::new(),
            closed: false,
            record: Arc::new(Mutex::new(record)),
            quota: quota
                .unwrap_or_else(|| Arc::new(Mutex::new(Quota::new(config.quota.clone(), now)))),
            config,
            facts,
            source,
        };
        session.open(setup);
        session
    }

    fn open(&mut self, setup: &SessionSetup) {
        if let Some((error, code)) = &setup.fatal {
            self.emit_error(error, None);
            self.end(Output::Close {
                code: *code,
                reason: error.close_reason(),
            });
            return;
        }
        if let Some(defaults) = &setup.defaults
            && let Ok(settings) = self
                .settings
                .updated(defaults, &self.facts, Locks::default())
        {
            self.settings = settings;
        }
        self.emit_session("created");
        if self.config.conversation_created && self.facts.kind == SessionKind::Conversation {
            let conversation =
                json!({"id": self.conversation.id, "object": "realtime.conversation"});
            self.emit(
                "conversation.created",
                &json!({ "conversation": conversation }),
            );
        }
    }

    /// A text frame from the client.
    pub fn handle_message(&mut self, text: &str, now: Instant) {
        if self.closed {
            return;
        }
        let event: Value = match serde_json::from_str(text) {
            Ok(event) => event,
            Err(_) => {
                let error = ApiError::request("invalid_event", "The event is not valid JSON.");
                return self.emit_error(&error, None);
            }
        };
        let event_id = match checked_event_id(&event) {
            Ok(event_id) => event_id,
            Err(error) => return self.emit_error(&error, None),
        };
        if let Err(error) = self.dispatch(&event, now) {
            self.emit_error(&error, event_id);
        }
    }

    /// The client is gone; `code` is 1006 without a close frame.
    pub fn handle_close(&mut self, code: u16, reason: &str) {
        self.closed = true;
        self.note_conversation();
        let mut record = self.lock_record();
        record.closed.get_or_insert_with(|| CloseRecord {
            by_client: true,
            code,
            reason: reason.to_owned(),
        });
    }

    /// The shell shall close with this code, for a frame that no event can answer.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.end(Output::Close {
            code,
            reason: reason.to_owned(),
        });
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.next_timer()
            && at <= now
        {
            // What is late is done as of when it was due, so that the order does not depend on the shell.
            match timer {
                Timer::Cap => self.expire(),
                Timer::Drop(code) => self.end_by_fault(code),
                Timer::Transcript(index) => self.send_transcript(index),
                Timer::Response(index) => self.run_step(index, at),
                Timer::Answer => self.answer_pending(at),
                Timer::Idle => self.idle_timeout(at),
            }
        }
    }

    /// When [`Session::handle_timeout`] is due next; `None` after the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_timer().map(|(at, _)| at)
    }

    /// What to send next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The record of what the client did, shared with whoever asserts on it.
    #[must_use]
    pub fn record(&self) -> Arc<Mutex<SessionRecord>> {
        Arc::clone(&self.record)
    }

    fn next_timer(&self) -> Option<(Instant, Timer)> {
        if self.closed {
            return None;
        }
        let responses = self.responses.iter().enumerate();
        let transcripts = self.transcripts.iter().enumerate();
        std::iter::once((self.cap_at, Timer::Cap))
            .chain(self.drop_at.map(|(at, code)| (at, Timer::Drop(code))))
            .chain(transcripts.map(|(n, transcript)| (transcript.at, Timer::Transcript(n))))
            .chain(
                responses.filter_map(|(n, response)| {
                    Some((response.next_step_at()?, Timer::Response(n)))
                }),
            )
            .chain(self.answer_at.map(|at| (at, Timer::Answer)))
            .chain(self.idle.map(|at| (at, Timer::Idle)))
            .min_by_key(|(at, _)| *at)
    }

    fn dispatch(&mut self, event: &Value, now: Instant) -> Result<(), ApiError> {
        let Some(kind) = event["type"].as_str() else {
            return Err(ApiError::request("invalid_event", "The event has no 'type'.").at("type"));
        };
        *self
            .lock_record()
            .received
            .entry(kind.to_owned())
            .or_default() += 1;
        let fields = Fields::of(event, "")?;
        let conversing = self.facts.kind == SessionKind::Conversation;
        match kind {
            "session.update" => {
                fields.allow(&["type", "event_id", "session"])?;
                if !conversing && self.facts.shape == Shape::Preview {
                    let why = "a transcription session takes transcription_session.update";
                    return Err(ApiError::invalid("type", why));
                }
                self.update_session(&fields)
            }
            "transcription_session.update" if !conversing && self.facts.shape == Shape::Preview => {
                fields.allow(&["type", "event_id", "session"])?;
                self.update_session(&fields)
            }
            "input_audio_buffer.append" => {
                fields.allow(&["type", "event_id", "audio"])?;
                self.append(fields.text("audio")?, now)
            }
            "input_audio_buffer.commit" => {
                fields.allow(&["type", "event_id"])?;
                self.commit(now)
            }
            "input_audio_buffer.clear" => {
                fields.allow(&["type", "event_id"])?;
                self.clear();
                Ok(())
            }
            "output_audio_buffer.clear" => self.clear_output(),
            "conversation.item.create" => self.create_item(&fields),
            "conversation.item.retrieve" => self.retrieve_item(&fields),
            "conversation.item.truncate" => self.truncate_item(&fields, now),
            "conversation.item.delete" => self.delete_item(&fields),
            "response.create" if conversing => {
                fields.allow(&["type", "event_id", "response"])?;
                let options = ResponseOptions::read(
                    &event["response"],
                    &self.settings,
                    &self.facts,
                    self.locks(),
                )?;
                self.start_response(options, now)
            }
            "response.cancel" if conversing => {
                fields.allow(&["type", "event_id", "response_id"])?;
                self.cancel(fields.get_set("response_id").and_then(Value::as_str), now)
            }
            _ => {
                let message = format!("Invalid value: '{kind}' is no event of this session.");
                Err(ApiError::request("invalid_event", message).at("type"))
            }
        }
    }

    /// There is nothing to clear: the client plays the audio.
    fn clear_output(&mut self) -> Result<(), ApiError> {
        match self.config.quirks.output_audio_clear {
            OutputAudioClear::Error => {
                let message = "output_audio_buffer.clear is only available over WebRTC and SIP.";
                Err(ApiError::request("invalid_event", message).at("type"))
            }
            OutputAudioClear::Ignore => Ok(()),
            OutputAudioClear::Cleared => {
                let response = self.active_response().map(|response| response.id.clone());
                self.emit(
                    "output_audio_buffer.cleared",
                    &json!({ "response_id": response }),
                );
                Ok(())
            }
        }
    }

    fn update_session(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        let update = fields
            .get_set("session")
            .ok_or_else(|| ApiError::missing("session"))?;
        let settings = self.settings.updated(update, &self.facts, self.locks())?;
        let old_format = std::mem::replace(&mut self.settings, settings).input_format;
        if old_format != self.settings.input_format {
            self.input.change_rate(self.settings.input_format.rate());
        }
        if self.settings.turn_detection.is_none() {
            self.vad.reset();
            self.turn = None;
            self.idle = None;
        }
        self.emit_session("updated");
        Ok(())
    }

    fn locks(&self) -> Locks {
        Locks {
            voice: self.has_assistant_audio,
        }
    }

    fn create_item(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        fields.allow(&["type", "event_id", "previous_item_id", "item"])?;
        let value = fields
            .get_set("item")
            .ok_or_else(|| ApiError::missing("item"))?;
        let mut item = Item::read(value, "item", self.facts.shape, self.settings.input_format)?;
        if item.id.is_empty() {
            item.id = self.source.id("item_");
        }
        if let Body::Message { parts, .. } = &mut item.body {
            // A model hears audio in whatever way it comes.
            for part in parts {
                if let Part::Audio { audio, heard, .. } = part
                    && heard.is_empty()
                    && self.config.transcription.recognise
                {
                    *heard = self.replier.heard(audio);
                }
            }
        }
        let previous = fields.get_set("previous_item_id").and_then(Value::as_str);
        let rendered = item.render(self.facts.shape, None);
        let before = self.conversation.insert(item, previous)?;
        self.emit_item(before, &rendered);
        Ok(())
    }

    /// The item events of something that is complete when it joins the conversation.
    pub(super) fn emit_item(&mut self, previous: Option<String>, item: &Value) {
        let names = self.facts.shape.names();
        let fields = json!({"previous_item_id": previous, "item": item});
        self.emit(names.item_added, &fields);
        if let Some(done) = names.item_done {
            self.emit(done, &fields);
        }
    }

    fn retrieve_item(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        fields.allow(&["type", "event_id", "item_id"])?;
        let id = fields.text("item_id")?;
        let Some(item) = self.conversation.get(id) else {
            return Err(self.unknown_item("retrieve", id));
        };
        let formats = AudioFormats {
            input: self.settings.input_format,
            output: self.settings.output_format,
        };
        let rendered = item.render(self.facts.shape, Some(formats));
        self.emit("conversation.item.retrieved", &json!({ "item": rendered }));
        Ok(())
    }

    fn delete_item(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        fields.allow(&["type", "event_id", "item_id"])?;
        let id = fields.text("item_id")?;
        if !self.conversation.remove(id) {
            return Err(self.unknown_item("delete", id));
        }
        self.emit("conversation.item.deleted", &json!({ "item_id": id }));
        Ok(())
    }

    fn truncate_item(&mut self, fields: &Fields<'_>, now: Instant) -> Result<(), ApiError> {
        fields.allow(&[
            "type",
            "event_id",
            "item_id",
            "content_index",
            "audio_end_ms",
        ])?;
        let item_id = fields.text("item_id")?;
        let content_index = required_integer(fields, "content_index")?;
        let audio_end_ms = required_integer(fields, "audio_end_ms")?;
        let sent_ms = self
            .conversation
            .get_mut(item_id)
            .and_then(|item| {
                item.assistant_audio(usize::try_from(content_index).unwrap_or(usize::MAX))
            })
            .map_or(0, |(audio, _)| audio.ms());
        let result = self.truncate(item_id, content_index, audio_end_ms);
        self.lock_record().truncates.push(TruncateRecord {
            at: now,
            item_id: item_id.to_owned(),
            content_index,
            audio_end_ms,
            sent_ms,
            accepted: result.is_ok(),
        });
        result
    }

    fn truncate(
        &mut self,
        item_id: &str,
        content_index: u64,
        audio_end_ms: u64,
    ) -> Result<(), ApiError> {
        let Some(item) = self.conversation.get_mut(item_id) else {
            return Err(self.unknown_item("truncate", item_id));
        };
        let index = usize::try_from(content_index).unwrap_or(usize::MAX);
        let Some((audio, transcript)) = item.assistant_audio(index) else {
            let message = "Only model output audio messages can be truncated";
            return Err(ApiError::request("unsupported_content_type", message).at("item_id"));
        };
        let have = audio.ms();
        if audio_end_ms > have {
            let message =
                format!("Audio content of {have}ms is already shorter than {audio_end_ms}ms");
            let code = &self.config.quirks.truncate_too_long_code;
            return Err(ApiError::request(code, message).at("audio_end_ms"));
        }
        audio.truncate_ms(audio_end_ms);
        *transcript = None;
        for response in &mut self.responses {
            response.note_truncated(item_id);
        }
        let fields = json!({"item_id": item_id, "content_index": content_index, "audio_end_ms": audio_end_ms});
        self.emit("conversation.item.truncated", &fields);
        Ok(())
    }

    fn unknown_item(&self, verb: &str, id: &str) -> ApiError {
        let message = format!("Error: the item with id '{id}' does not exist.");
        let code = self.config.quirks.unknown_item_code.replace("{verb}", verb);
        ApiError::request(&code, message).at("item_id")
    }

    fn cancel(&mut self, id: Option<&str>, now: Instant) -> Result<(), ApiError> {
        let id = match id {
            Some(id) => Some(id.to_owned()),
            None => self.active_response().map(|response| response.id.clone()),
        };
        let cancelled = id.filter(|id| self.cancel_response(id, "client_cancelled", now));
        let found = cancelled.is_some();
        self.lock_record().cancels.push(CancelRecord {
            at: now,
            response_id: cancelled,
        });
        if found {
            return Ok(());
        }
        let message = "Cancellation failed: no active response found";
        Err(ApiError::request("response_cancel_not_active", message))
    }

    fn expire(&mut self) {
        let minutes = self.cap.as_secs().div_ceil(60);
        let message = format!("Your session hit the maximum duration of {minutes} minutes.");
        self.emit_error(
            &ApiError::request("session_expired", message.as_str()),
            None,
        );
        self.end(Output::Close {
            code: 1001,
            reason: message,
        });
    }

    pub(super) fn end(&mut self, output: Output) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.note_conversation();
        let (code, reason) = match &output {
            Output::Close { code, reason } => (*code, reason.clone()),
            Output::Abort | Output::Text(_) => (1006, String::new()),
        };
        self.lock_record().closed = Some(CloseRecord {
            by_client: false,
            code,
            reason,
        });
        self.outputs.push_back(output);
    }

    fn note_conversation(&self) {
        let items = self.conversation.items().iter().map(Item::record).collect();
        self.lock_record().conversation = items;
    }

    fn emit_session(&mut self, what: &str) {
        let prefix = match (self.facts.shape, self.facts.kind) {
            (Shape::Preview, SessionKind::Transcription) => "transcription_session",
            _ => "session",
        };
        let session = self.settings.echo(&self.facts);
        self.emit(&format!("{prefix}.{what}"), &json!({ "session": session }));
    }

    pub(super) fn emit_error(&mut self, error: &ApiError, event_id: Option<&str>) {
        self.lock_record().errors.push(ErrorRecord {
            code: error.code.clone(),
            message: error.message.clone(),
            event_id: event_id.map(str::to_owned),
        });
        let fields = json!({"error": {
            "type": error.kind, "code": error.code, "message": error.message, "param": error.param,
            "event_id": event_id,
        }});
        self.emit("error", &fields);
    }

    pub(super) fn emit(&mut self, kind: &str, fields: &Value) {
        let event_id = self.source.id("event_");
        self.push_raw(event_text(kind, &event_id, fields));
    }

    pub(super) fn push_raw(&mut self, text: String) {
        if !self.closed {
            self.lock_record().n_sent += 1;
            self.outputs.push_back(Output::Text(text));
        }
    }

    pub(super) fn server_fault_message(&self) -> String {
        format!(
            "The server had an error while processing your request. Sorry about that! Please contact us if the \
             error persists. (include session ID in your message: {})",
            self.facts.id
        )
    }

    pub(super) fn lock_record(&self) -> MutexGuard<'_, SessionRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_quota(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's name for its event; null counts as none, as Azure's own examples send it.
fn checked_event_id(event: &Value) -> Result<Option<&str>, ApiError> {
    match &event["event_id"] {
        Value::Null => Ok(None),
        Value::String(id) if id.chars().count() <= MAX_EVENT_ID => Ok(Some(id)),
        Value::String(_) => Err(ApiError::invalid(
            "event_id",
            "expected at most 512 characters",
        )),
        other => Err(ApiError::wrong_type("event_id", "a string", other)),
    }
}

fn required_integer(fields: &Fields<'_>, name: &str) -> Result<u64, ApiError> {
    fields
        .integer(name, 0, u64::MAX)?
        .ok_or_else(|| ApiError::missing(fields.path(name)))
}
