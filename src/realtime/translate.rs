//! Events of one shape as events of the other, so that any client can talk to any deployment.
//!
//! A [`Translator`] belongs to one client connection and outlives a change of deployment. Audio is never parsed: an
//! append passes as it is, a delta gets its type name replaced. All other events are taken apart one level at a time,
//! and what has the same form in both shapes keeps its text.
//!
//! It checks values only where translation would hide that they are wrong; all others the deployment checks, and its
//! error events come back with the client's own paths.

use std::collections::VecDeque;

use memchr::memmem;

use super::json::{Object, quoted};
use super::scan::{FoundType, ScanError, find_type};
use super::shape::Shape;
use super::translate_error::error_body;
use super::translate_fault::{Fault, response_fault, session_fault};
use super::translate_first;
use super::translate_response::{complete_preview_response, item, response};
use super::translate_session::{
    SessionKind, client_to_ga, client_to_preview, server_to_ga, server_to_preview,
};
use super::translate_temperature::Temperatures;

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
    /// A deployment's message is not an event at all.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A deployment's event is not well formed, or a member is there twice.
    #[error("malformed event: {0}")]
    Json(#[from] serde_json::Error),
    /// A client's event is not of the shape that its connection speaks: it has members of the other one, values that
    /// its own does not allow, or cannot be read. It must not be passed on, and harms nothing else.
    #[error("the event does not have the shape that its connection speaks")]
    WrongShape {
        /// The `error` event with which a deployment would answer; to be sent to the client.
        event: String,
    },
}

impl TranslateError {
    /// The `error` event with which a deployment would answer, to be sent to the client, whose connection goes on.
    /// There is one for every error of [`Translator::client_event`].
    #[must_use]
    pub fn event_text(&self) -> Option<&str> {
        match self {
            Self::WrongShape { event } => Some(event),
            Self::Scan(_) | Self::Json(_) => None,
        }
    }
}

/// Translates the events of one client connection.
#[derive(Debug, Default)]
pub struct Translator {
    /// Whether the client is of the first preview; then some events change between equal shapes too.
    first_preview: bool,
    temperatures: Temperatures,
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

    /// The same for a client of the first preview (api-version `2024-...`).
    ///
    /// What such clients send of their own is taken out towards any deployment, and what they cannot bear in sessions
    /// is kept from them. So all events have to come this way, even if both sides speak the preview shape.
    #[must_use]
    pub fn for_first_preview() -> Self {
        Self {
            first_preview: true,
            ..Self::default()
        }
    }

    /// Translates an event of a client that speaks `from` for a deployment that speaks `to`.
    ///
    /// Equal shapes change nothing (except [for the first preview](Self::for_first_preview)), but a `session.update`
    /// of the other shape is still refused. An event without a type is passed on, for the deployment to answer.
    ///
    /// # Errors
    /// [`TranslateError::WrongShape`], with the answer for the client.
    pub fn client_event(
        &mut self,
        text: &str,
        from: Shape,
        to: Shape,
    ) -> Result<Translated, TranslateError> {
        match self.translate_client(text, from, to) {
            Err(TranslateError::Scan(ScanError::NoType | ScanError::TypeNotText)) => {
                Ok(Translated::Unchanged)
            }
            Err(TranslateError::Scan(error)) => Err(self.malformed(&error.to_string())),
            Err(TranslateError::Json(error)) => Err(self.malformed(&error.to_string())),
            result => result,
        }
    }

    fn translate_client(
        &mut self,
        text: &str,
        from: Shape,
        to: Shape,
    ) -> Result<Translated, TranslateError> {
        let kind = find_type(text)?;
        let changes = from != to || self.is_first_preview(from);
        match &*kind.name {
            "session.update" | "transcription_session.update" => {
                self.client_session(text, &kind.name, from, to)
            }
            _ if !changes => Ok(Translated::Unchanged),
            // Base64 has no quotes, so this finds members only.
            "input_audio_buffer.append" => match memmem::find(text.as_bytes(), b"\"event_id\"") {
                Some(_) => without_null_id(text),
                None => Ok(Translated::Unchanged),
            },
            "response.create" => self.client_response(text, from, to),
            "conversation.item.create" if from != to => {
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
        if let Some(fault) = session_fault(kind, session.as_ref(), from, from != to) {
            return Err(self.wrong_shape(&event, &fault));
        }
        let Some(session) = session else {
            return Ok(Translated::Unchanged);
        };
        if let (Shape::Preview, Some(temperature)) = (from, session.get("temperature")) {
            self.temperatures.set_session(temperature);
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
            (Shape::Preview, Shape::Preview) if self.first_preview => {
                event.set("session", translate_first::client_session(session).write());
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
        let inner = event.get("response").and_then(Object::from_value);
        if let Some(inner) = &inner
            && from != to
            && let Some(fault) = response_fault(inner, from)
        {
            return Err(self.wrong_shape(&event, &fault));
        }
        if from == Shape::Preview && to == Shape::Ga {
            self.temperatures.ask(&event, inner.as_ref());
        }
        if let Some(inner) = inner {
            let inner = match from == to {
                true => translate_first::client_response(inner),
                false => response(inner, to),
            };
            event.set("response", inner.write());
        }
        Ok(Translated::Replaced(event.write()))
    }

    /// Whether it is so for a client of that shape: an operator may know better than the client's URL.
    fn is_first_preview(&self, client: Shape) -> bool {
        self.first_preview && client == Shape::Preview
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
            return match &*kind.name {
                "session.created" | "session.updated" if self.is_first_preview(to) => {
                    edit_member(text, "session", translate_first::server_session)
                }
                _ => Ok(Translated::Unchanged),
            };
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
                if has_value(&event, "usage") {
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
        if is_open || is_generated(&item) {
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
        if has_value(&event, "name") {
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
                    function: item
                        .get("name")
                        .filter(|name| **name != "null")
                        .map(|name| name.to_string()),
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
        match &*kind.name {
            "error" => edit_member(text, "error", |error| {
                self.temperatures.refuse(&error);
                error_body(error, Shape::Preview)
            }),
            "session.created" | "session.updated" => {
                let mut event = Object::parse(text)?;
                if kind.name == "session.created" {
                    self.temperatures.forget_asked();
                }
                if let Some(session) = event.get("session").and_then(Object::from_value) {
                    if SessionKind::of_ga(&session) == SessionKind::Transcription {
                        event.set("type", quoted(&format!("transcription_{}", kind.name)));
                    }
                    let mut session = server_to_preview(session, self.temperatures.session());
                    if self.first_preview {
                        session = translate_first::server_session(session);
                    }
                    event.set("session", session.write());
                }
                Ok(Translated::Replaced(event.write()))
            }
            "response.created" | "response.done" => edit_member(text, "response", |inner| {
                let temperature = match &*kind.name {
                    "response.created" => self.temperatures.begin(&inner),
                    _ => self.temperatures.finish(&inner),
                };
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
        if is_generated(&item) && !self.open_items.iter().any(|open| open.id == id) {
            self.held = Some((id.into_owned(), event.write()));
            return Ok(Translated::Dropped);
        }
        Ok(Translated::Replaced(event.write()))
    }

    fn wrong_shape(&mut self, event: &Object<'_>, fault: &Fault) -> TranslateError {
        let client_id = event.get("event_id").map_or("null", |id| &**id);
        TranslateError::WrongShape {
            event: fault.event(self.event_id(), client_id),
        }
    }

    fn malformed(&mut self, problem: &str) -> TranslateError {
        self.wrong_shape(&Object::default(), &Fault::malformed(problem))
    }

    /// An id for an event that no deployment sent, as JSON text: the vendor's form, and unlike its random ones.
    fn event_id(&mut self) -> String {
        self.n_events += 1;
        format!("\"event_{:021}\"", self.n_events)
    }
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

/// Whether a member is there and not null.
fn has_value(event: &Object<'_>, name: &str) -> bool {
    event.get(name).is_some_and(|value| *value != "null")
}

/// Whether a response is at work on an item; those of clients are complete whatever their status says.
fn is_generated(item: &Object<'_>) -> bool {
    item.is("status", "in_progress")
        && (item.is("role", "assistant") || item.is("type", "function_call"))
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
