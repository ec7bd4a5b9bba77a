//! Events of one shape as events of the other, so that any client can talk to any deployment.
//!
//! A [`Translator`] belongs to one client connection and outlives a change of deployment. Audio is never parsed: an
//! append passes as it is, a delta gets its type name replaced. All other events are taken apart one level at a time,
//! and what has the same form in both shapes keeps its text.
//!
//! It does not check values; the deployment does that, and its error events come back with the client's own paths.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::json::{Object, quoted};
use super::scan::{FoundType, ScanError, find_type};
use super::shape::Shape;
use super::translate_error::error_body;
use super::translate_response::{complete_preview_response, item, response};
use super::translate_session::{
    SessionKind, client_to_ga, client_to_preview, server_to_ga, server_to_preview,
};

/// Generated items that are remembered while they grow; a response has a handful.
const MAX_OPEN_ITEMS: usize = 64;

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translated {
    /// Pass it on as it is.
    Unchanged,
    /// Send this instead.
    Replaced(String),
    /// Send these instead, in this order.
    Several(Vec<String>),
    /// Send nothing: the other shape has no such event.
    Dropped,
}

/// Why an event could not be translated.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// Not an event at all.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Not well formed, or a member is there twice.
    #[error("malformed event: {0}")]
    Json(#[from] serde_json::Error),
    /// A client speaks the other shape than its connection. The event must not be passed on.
    #[error("the event has the other shape than its connection")]
    WrongShape {
        /// The `error` event with which a deployment would answer; to be sent to the client.
        event: String,
    },
}

/// Translates the events of one client connection.
#[derive(Debug, Default)]
pub struct Translator {
    /// The temperature that a preview client set, as JSON text. GA has none, preview clients want to see theirs.
    temperature: Option<String>,
    /// Items that responses are generating, oldest first.
    open_items: VecDeque<OpenItem>,
    /// A `conversation.item.created` that came before its `response.output_item.added`; item id and event.
    held: Option<(String, String)>,
    /// Events made here, for their ids.
    n_events: u64,
}

/// An item that a deployment is generating.
#[derive(Debug)]
struct OpenItem {
    id: String,
    /// The function's name as JSON text, for a call.
    function: Option<String>,
    /// `previous_item_id` as JSON text once the item is in the conversation.
    previous: Option<String>,
}

impl Translator {
    /// A translator that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Translates an event of a client that speaks `from` for a deployment that speaks `to`.
    ///
    /// Equal shapes change nothing, but a `session.update` of the other shape is still refused.
    ///
    /// # Errors
    /// See [`TranslateError`].
    pub fn client_event(
        &mut self,
        text: &str,
        from: Shape,
        to: Shape,
    ) -> Result<Translated, TranslateError> {
        let kind = find_type(text)?;
        match &*kind.name {
            "input_audio_buffer.append" => Ok(Translated::Unchanged),
            "session.update" | "transcription_session.update" => {
                self.client_session(text, &kind.name, from, to)
            }
            _ if from == to => Ok(Translated::Unchanged),
            "response.create" => self.client_response(text, from, to),
            "conversation.item.create" => {
                let mut event = client_object(text)?;
                edit_item(&mut event, to);
                Ok(Translated::Replaced(event.write()))
            }
            _ => without_null_id(text),
        }
    }

    fn client_session(
        &mut self,
        text: &str,
        kind: &str,
        from: Shape,
        to: Shape,
    ) -> Result<Translated, TranslateError> {
        let mut event = client_object(text)?;
        let session = event.get("session").and_then(Object::from_value);
        if let Some(fault) = session_fault(kind, session.as_ref(), from) {
            return Err(self.wrong_shape(&event, &fault));
        }
        let Some(session) = session else {
            return Ok(Translated::Unchanged);
        };
        if let (Shape::Preview, Some(temperature)) = (from, session.get("temperature")) {
            let is_number = serde_json::from_str::<f64>(temperature).is_ok();
            self.temperature = is_number.then(|| temperature.to_string());
        }
        match (from, to) {
            (Shape::Preview, Shape::Ga) => {
                let kind = match kind {
                    "transcription_session.update" => SessionKind::Transcription,
                    _ => SessionKind::Realtime,
                };
                event.set("type", "\"session.update\"");
                event.set("session", client_to_ga(session, kind).write());
            }
            (Shape::Ga, Shape::Preview) => {
                if SessionKind::of_ga(&session) == SessionKind::Transcription {
                    event.set("type", "\"transcription_session.update\"");
                }
                event.set("session", client_to_preview(session).write());
            }
            (Shape::Preview, Shape::Preview) | (Shape::Ga, Shape::Ga) => {
                return Ok(Translated::Unchanged);
            }
        }
        Ok(Translated::Replaced(event.write()))
    }

    fn client_response(
        &mut self,
        text: &str,
        from: Shape,
        to: Shape,
    ) -> Result<Translated, TranslateError> {
        let mut event = client_object(text)?;
        if let Some(inner) = event.get("response").and_then(Object::from_value) {
            if let Some(fault) = response_fault(&inner, from) {
                return Err(self.wrong_shape(&event, &fault));
            }
            event.set("response", response(inner, to).write());
        }
        Ok(Translated::Replaced(event.write()))
    }

    /// Translates an event of a deployment that speaks `from` for a client that speaks `to`.
    ///
    /// # Errors
    /// [`TranslateError::Scan`] and [`TranslateError::Json`].
    pub fn server_event(
        &mut self,
        text: &str,
        from: Shape,
        to: Shape,
    ) -> Result<Translated, TranslateError> {
        let kind = find_type(text)?;
        if from == to {
            return Ok(Translated::Unchanged);
        }
        let translated = match to {
            Shape::Ga => self.server_to_ga(text, &kind)?,
            Shape::Preview => self.server_to_preview(text, &kind)?,
        };
        Ok(translated)
    }

    fn server_to_ga(
        &mut self,
        text: &str,
        kind: &FoundType<'_>,
    ) -> Result<Translated, TranslateError> {
        if let Some(name) = ga_name(&kind.name) {
            return Ok(Translated::Replaced(with_type(text, kind, name)));
        }
        match &*kind.name {
            "error" => edit_member(text, "error", |error| error_body(error, Shape::Ga)),
            "session.created" | "session.updated" => edit_member(text, "session", |session| {
                server_to_ga(session, SessionKind::Realtime)
            }),
            "transcription_session.created" | "transcription_session.updated" => {
                let mut event = Object::parse(text)?;
                if let Some(session) = event.get("session").and_then(Object::from_value) {
                    event.set(
                        "session",
                        server_to_ga(session, SessionKind::Transcription).write(),
                    );
                }
                event.set(
                    "type",
                    quoted(kind.name.trim_start_matches("transcription_")),
                );
                Ok(Translated::Replaced(event.write()))
            }
            "response.created" | "response.done" => {
                edit_member(text, "response", |inner| response(inner, Shape::Ga))
            }
            "conversation.item.created" => self.created_to_ga(text),
            "conversation.item.retrieved" => translate_item(text, Shape::Ga),
            "response.output_item.added" => self.output_item_added_to_ga(text),
            "response.output_item.done" => self.output_item_done_to_ga(text),
            "response.function_call_arguments.done" => self.arguments_done_to_ga(text),
            "conversation.item.input_audio_transcription.completed" => {
                let mut event = Object::parse(text)?;
                if event.contains("usage") {
                    return Ok(Translated::Unchanged);
                }
                // GA requires it, the older deployments do not count it.
                event.set(
                    "usage",
                    r#"{"type":"tokens","total_tokens":0,"input_tokens":0,"output_tokens":0}"#,
                );
                Ok(Translated::Replaced(event.write()))
            }
            _ => Ok(Translated::Unchanged),
        }
    }

    /// An item joined the conversation. A generated one is done later, any other at once.
    fn created_to_ga(&mut self, text: &str) -> Result<Translated, TranslateError> {
        let mut event = Object::parse(text)?;
        edit_item(&mut event, Shape::Ga);
        event.set("type", "\"conversation.item.added\"");
        let item = event
            .get("item")
            .and_then(Object::from_value)
            .unwrap_or_default();
        let id = item.text("id").unwrap_or_default();
        let previous = event
            .get("previous_item_id")
            .map_or("null", |previous| &**previous)
            .to_owned();
        let is_open = self.open_items.iter().any(|open| open.id == id);
        if is_open || item.is("status", "in_progress") {
            self.open_item(&id, &item).previous = Some(previous);
            return Ok(Translated::Replaced(event.write()));
        }
        let added = event.write();
        event.set("type", "\"conversation.item.done\"");
        event.set("event_id", self.event_id());
        Ok(Translated::Several(vec![added, event.write()]))
    }

    fn output_item_added_to_ga(&mut self, text: &str) -> Result<Translated, TranslateError> {
        let mut event = Object::parse(text)?;
        edit_item(&mut event, Shape::Ga);
        if let Some(item) = event.get("item").and_then(Object::from_value) {
            self.open_item(&item.text("id").unwrap_or_default(), &item);
        }
        Ok(Translated::Replaced(event.write()))
    }

    fn output_item_done_to_ga(&mut self, text: &str) -> Result<Translated, TranslateError> {
        let mut event = Object::parse(text)?;
        edit_item(&mut event, Shape::Ga);
        let done = event
            .get("item")
            .and_then(Object::from_value)
            .and_then(|item| {
                let id = item.text("id")?;
                let index = self.open_items.iter().position(|open| open.id == id)?;
                // Items of responses outside of the conversation never joined it.
                let previous = self.open_items.remove(index)?.previous?;
                let mut done = Object::default();
                done.set("type", "\"conversation.item.done\"");
                done.set("event_id", self.event_id());
                done.set("previous_item_id", previous);
                done.set("item", item.write());
                Some(done.write())
            });
        Ok(match done {
            Some(done) => Translated::Several(vec![done, event.write()]),
            None => Translated::Replaced(event.write()),
        })
    }

    /// GA names the function here; the preview shape only when the item begins.
    fn arguments_done_to_ga(&self, text: &str) -> Result<Translated, TranslateError> {
        let mut event = Object::parse(text)?;
        if event.contains("name") {
            return Ok(Translated::Unchanged);
        }
        let id = event.text("item_id").unwrap_or_default();
        let open = self.open_items.iter().find(|open| open.id == id);
        let name = open
            .and_then(|open| open.function.clone())
            .unwrap_or_else(|| "\"\"".to_owned());
        event.set("name", name);
        Ok(Translated::Replaced(event.write()))
    }

    fn open_item(&mut self, id: &str, item: &Object<'_>) -> &mut OpenItem {
        let index = match self.open_items.iter().position(|open| open.id == id) {
            Some(index) => index,
            None => {
                if self.open_items.len() == MAX_OPEN_ITEMS {
                    self.open_items.pop_front();
                }
                self.open_items.push_back(OpenItem {
                    id: id.to_owned(),
                    function: item.get("name").map(|name| name.to_string()),
                    previous: None,
                });
                self.open_items.len() - 1
            }
        };
        &mut self.open_items[index]
    }

    /// Clients of the preview shape wait for `response.output_item.added` before `conversation.item.created`, so a
    /// generated item's `created` that comes first changes places with the next event, if that is the one.
    fn server_to_preview(
        &mut self,
        text: &str,
        kind: &FoundType<'_>,
    ) -> Result<Translated, TranslateError> {
        let Some((held_id, held)) = self.held.take() else {
            return self.server_to_preview_in_order(text, kind);
        };
        let is_its_turn = kind.name == "response.output_item.added" && names_item(text, &held_id);
        let mut events = match self.server_to_preview_in_order(text, kind) {
            Ok(Translated::Unchanged) => vec![text.to_owned()],
            Ok(Translated::Replaced(event)) => vec![event],
            Ok(Translated::Several(events)) => events,
            Ok(Translated::Dropped) => Vec::new(),
            Err(error) => {
                self.held = Some((held_id, held));
                return Err(error);
            }
        };
        events.insert(if is_its_turn { events.len() } else { 0 }, held);
        Ok(Translated::Several(events))
    }

    fn server_to_preview_in_order(
        &mut self,
        text: &str,
        kind: &FoundType<'_>,
    ) -> Result<Translated, TranslateError> {
        if let Some(name) = preview_name(&kind.name) {
            return Ok(Translated::Replaced(with_type(text, kind, name)));
        }
        let temperature = self.temperature.clone().unwrap_or_else(|| "0.8".to_owned());
        match &*kind.name {
            "error" => edit_member(text, "error", |error| error_body(error, Shape::Preview)),
            "session.created" | "session.updated" => {
                let mut event = Object::parse(text)?;
                if let Some(session) = event.get("session").and_then(Object::from_value) {
                    if SessionKind::of_ga(&session) == SessionKind::Transcription {
                        event.set("type", quoted(&format!("transcription_{}", kind.name)));
                    }
                    event.set("session", server_to_preview(session, &temperature).write());
                }
                Ok(Translated::Replaced(event.write()))
            }
            "response.created" | "response.done" => edit_member(text, "response", |inner| {
                let mut inner = response(inner, Shape::Preview);
                complete_preview_response(&mut inner, &temperature);
                inner
            }),
            "conversation.item.added" => self.added_to_preview(text),
            "conversation.item.done" => Ok(Translated::Dropped),
            "conversation.item.created" | "conversation.item.retrieved" => {
                translate_item(text, Shape::Preview)
            }
            "response.output_item.added" => {
                let mut event = Object::parse(text)?;
                if let Some(item) = event.get("item").and_then(Object::from_value) {
                    self.open_item(&item.text("id").unwrap_or_default(), &item);
                }
                edit_item(&mut event, Shape::Preview);
                Ok(Translated::Replaced(event.write()))
            }
            "response.output_item.done" => {
                let event = Object::parse(text)?;
                if let Some(item) = event.get("item").and_then(Object::from_value) {
                    let id = item.text("id").unwrap_or_default().into_owned();
                    self.open_items.retain(|open| open.id != id);
                }
                translate_item(text, Shape::Preview)
            }
            name if is_ga_only(name) => Ok(Translated::Dropped),
            _ => Ok(Translated::Unchanged),
        }
    }

    fn added_to_preview(&mut self, text: &str) -> Result<Translated, TranslateError> {
        let mut event = Object::parse(text)?;
        event.set("type", "\"conversation.item.created\"");
        edit_item(&mut event, Shape::Preview);
        let item = event
            .get("item")
            .and_then(Object::from_value)
            .unwrap_or_default();
        let id = item.text("id").unwrap_or_default();
        let is_generated = item.is("status", "in_progress")
            && (item.is("role", "assistant") || item.is("type", "function_call"));
        if is_generated && !self.open_items.iter().any(|open| open.id == id) {
            self.held = Some((id.into_owned(), event.write()));
            return Ok(Translated::Dropped);
        }
        Ok(Translated::Replaced(event.write()))
    }

    fn wrong_shape(&mut self, event: &Object<'_>, fault: &Fault) -> TranslateError {
        let mut error = Object::default();
        error.set("type", "\"invalid_request_error\"");
        error.set("code", quoted(fault.code));
        error.set("message", quoted(&fault.message));
        error.set("param", quoted(&fault.param));
        error.set(
            "event_id",
            event
                .get("event_id")
                .cloned()
                .unwrap_or(Cow::Borrowed("null")),
        );
        let mut answer = Object::default();
        answer.set("type", "\"error\"");
        answer.set("event_id", self.event_id());
        answer.set("error", error.write());
        TranslateError::WrongShape {
            event: answer.write(),
        }
    }

    /// An id for an event that no deployment sent, as JSON text: the vendor's form, and unlike its random ones.
    fn event_id(&mut self) -> String {
        self.n_events += 1;
        format!("\"event_{:021}\"", self.n_events)
    }
}

/// A member that gives the wrong shape away.
struct Fault {
    code: &'static str,
    message: String,
    param: String,
}

impl Fault {
    fn unknown(param: String) -> Self {
        Self {
            code: "unknown_parameter",
            message: format!("Unknown parameter: '{param}'."),
            param,
        }
    }
}

/// What a deployment of shape `shape` would say to this session, if it is of the other one.
fn session_fault(kind: &str, session: Option<&Object<'_>>, shape: Shape) -> Option<Fault> {
    const GA_ONLY: &[&str] = &["type", "output_modalities", "audio", "max_output_tokens"];
    const PREVIEW_ONLY: &[&str] = &[
        "modalities",
        "voice",
        "speed",
        "input_audio_format",
        "output_audio_format",
        "input_audio_transcription",
        "input_audio_noise_reduction",
        "turn_detection",
        "temperature",
        "max_response_output_tokens",
    ];
    if shape == Shape::Ga && kind == "transcription_session.update" {
        return Some(Fault {
            code: "invalid_event",
            message: format!("Unknown event type: '{kind}'."),
            param: "type".to_owned(),
        });
    }
    let session = session?;
    let foreign = match shape {
        Shape::Preview => GA_ONLY,
        Shape::Ga if !session.contains("type") => {
            return Some(Fault {
                code: "missing_required_parameter",
                message: "Missing required parameter: 'session.type'.".to_owned(),
                param: "session.type".to_owned(),
            });
        }
        Shape::Ga => PREVIEW_ONLY,
    };
    let name = session.names().find(|name| foreign.contains(name))?;
    Some(Fault::unknown(format!("session.{name}")))
}

fn response_fault(response: &Object<'_>, shape: Shape) -> Option<Fault> {
    let foreign: &[&str] = match shape {
        Shape::Preview => &["output_modalities", "audio"],
        Shape::Ga => &["modalities", "voice", "output_audio_format", "temperature"],
    };
    let name = response.names().find(|name| foreign.contains(name))?;
    Some(Fault::unknown(format!("response.{name}")))
}

/// The GA name of a preview event that has another name and is alike otherwise.
fn ga_name(preview: &str) -> Option<&'static str> {
    RENAMED
        .iter()
        .find(|(name, _)| *name == preview)
        .map(|(_, ga)| *ga)
}

/// The reverse of [`ga_name`].
fn preview_name(ga: &str) -> Option<&'static str> {
    RENAMED
        .iter()
        .find(|(_, name)| *name == ga)
        .map(|(preview, _)| *preview)
}

/// Preview name, GA name.
const RENAMED: &[(&str, &str)] = &[
    ("response.audio.delta", "response.output_audio.delta"),
    (
        "response.audio_transcript.delta",
        "response.output_audio_transcript.delta",
    ),
    ("response.text.delta", "response.output_text.delta"),
    ("response.audio.done", "response.output_audio.done"),
    (
        "response.audio_transcript.done",
        "response.output_audio_transcript.done",
    ),
    ("response.text.done", "response.output_text.done"),
];

/// Events that the preview shape never had; some of its clients give up on types that they do not know.
fn is_ga_only(kind: &str) -> bool {
    matches!(
        kind,
        "input_audio_buffer.timeout_triggered" | "input_audio_buffer.dtmf_event_received"
    ) || kind.starts_with("mcp_list_tools.")
        || kind.starts_with("response.mcp_call")
}

/// The message with another type, everything else as it was.
fn with_type(text: &str, kind: &FoundType<'_>, name: &str) -> String {
    let mut out = String::with_capacity(text.len() + name.len());
    out.push_str(&text[..kind.literal.start]);
    out.push('"');
    out.push_str(name);
    out.push('"');
    out.push_str(&text[kind.literal.end..]);
    out
}

/// Takes a client event apart. Azure's own example sends `"event_id":null`, which GA does not know.
fn client_object(text: &str) -> Result<Object<'_>, TranslateError> {
    let mut event = Object::parse(text)?;
    if event.get("event_id").is_some_and(|id| *id == "null") {
        event.remove("event_id");
    }
    Ok(event)
}

fn without_null_id(text: &str) -> Result<Translated, TranslateError> {
    let event = Object::parse(text)?;
    if event.get("event_id").is_none_or(|id| *id != "null") {
        return Ok(Translated::Unchanged);
    }
    Ok(Translated::Replaced(client_object(text)?.write()))
}

/// Whether the event's item has that id.
fn names_item(text: &str, id: &str) -> bool {
    let item = Object::parse(text)
        .ok()
        .and_then(|event| Object::from_value(event.get("item")?));
    item.is_some_and(|item| item.is("id", id))
}

fn translate_item(text: &str, to: Shape) -> Result<Translated, TranslateError> {
    let mut event = Object::parse(text)?;
    edit_item(&mut event, to);
    Ok(Translated::Replaced(event.write()))
}

fn edit_item(event: &mut Object<'_>, to: Shape) {
    if let Some(value) = event.get("item").cloned() {
        event.set("item", item(value, to));
    }
}

fn edit_member<'a>(
    text: &'a str,
    name: &'static str,
    edit: impl FnOnce(Object<'a>) -> Object<'a>,
) -> Result<Translated, TranslateError> {
    let mut event = Object::parse(text)?;
    let Some(inner) = event.get(name).and_then(Object::from_value) else {
        return Ok(Translated::Unchanged);
    };
    event.set(name, edit(inner).write());
    Ok(Translated::Replaced(event.write()))
}
