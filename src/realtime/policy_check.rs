//! Holds the client events of one call to a policy.
//!
//! An event is judged as its caller wrote it, by the names of both shapes at once, and before it is translated. What
//! could be read in two ways is refused: a policed event with the same member twice never passes.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::json::{Object, Text, elements, quoted, unquoted};
use super::policy::{SessionPolicy, ToolType};
use super::policy_fields::{Field, Place};
use super::preset::SessionPreset;
use super::server::ServerEvent;
use super::shape::Shape;
use super::translate_fault::Fault;

/// Function calls of the model that are remembered; a session of an hour has some hundred.
const MAX_CALLS: usize = 1024;

/// The rule that an event broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyRule {
    /// Not to be read, or not in one way only.
    Malformed,
    /// An event that the gateway does not know.
    UnknownEvent,
    /// A field or kind of item that the gateway does not know.
    UnknownField,
    /// A forbidden field.
    Forbidden,
    /// A pinned field, and another value than the pinned one.
    Pinned,
    /// The cap of a reply is neither a number nor `"inf"`.
    OutputTokens,
    /// A function that the tenant may not declare.
    Tool,
    /// A kind of tool that the tenant may not use.
    ToolType,
    /// A prompt stored at the vendor.
    StoredPrompt,
    /// An item that speaks as the system.
    SystemItem,
    /// A function call or its result that the model did not ask for.
    ToolResult,
    /// An event of the other kind of session.
    SessionKind,
}

impl PolicyRule {
    /// The metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownEvent => "unknown_event",
            Self::UnknownField => "unknown_field",
            Self::Forbidden => "forbidden",
            Self::Pinned => "pinned",
            Self::OutputTokens => "output_tokens",
            Self::Tool => "tool",
            Self::ToolType => "tool_type",
            Self::StoredPrompt => "stored_prompt",
            Self::SystemItem => "system_item",
            Self::ToolResult => "tool_result",
            Self::SessionKind => "session_kind",
        }
    }
}

/// What is to become of a client event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on as it is.
    Unchanged,
    /// Pass this on instead.
    Replaced(String),
    /// Pass nothing on.
    Refused {
        /// Why.
        rule: PolicyRule,
        /// The `error` event that answers the caller.
        answer: String,
    },
}

/// Why settings attached to a key are against a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PresetRefused {
    /// The rule.
    pub rule: PolicyRule,
    /// A sentence for whoever attached them.
    pub message: String,
    /// Path of the field that is to blame.
    pub param: Option<String>,
}

impl SessionPolicy {
    /// Whether a caller with these settings attached to its key could have made them itself.
    ///
    /// # Errors
    ///
    /// The first field that it could not.
    pub fn check_preset(&self, preset: &SessionPreset) -> Result<(), PresetRefused> {
        let session = Object::parse(preset.session()).map_err(|_| Broken::malformed("session"));
        let checked = session
            .and_then(|session| self.check_settings(session, Place::Session, &Calls::default()));
        checked.map(|_| ()).map_err(|broken| PresetRefused {
            rule: broken.rule,
            message: broken.fault.message().to_owned(),
            param: broken.fault.param().map(str::to_owned),
        })
    }
}

/// One call that is held to a policy.
#[derive(Debug)]
pub struct PolicedSession {
    pub(super) policy: Arc<SessionPolicy>,
    shape: Shape,
    transcribes: bool,
    calls: Calls,
    n_answers: u64,
}

impl PolicedSession {
    /// A call whose caller speaks that shape, in a session that converses or only transcribes.
    #[must_use]
    pub fn new(policy: Arc<SessionPolicy>, shape: Shape, transcribes: bool) -> Self {
        Self {
            policy,
            shape,
            transcribes,
            calls: Calls::default(),
            n_answers: 0,
        }
    }

    /// Judges an event of the caller other than audio. `kind` is its type, empty if it has none.
    pub fn client_event(&mut self, kind: &str, text: &str) -> Verdict {
        match self.judge(kind, text) {
            Ok(None) => Verdict::Unchanged,
            Ok(Some(event)) => Verdict::Replaced(event),
            Err(broken) => {
                self.n_answers += 1;
                // The vendor's form of an id, and unlike its random ones.
                let event_id = format!("\"event_policy{:015}\"", self.n_answers);
                let client_id = Object::parse(text)
                    .ok()
                    .and_then(|event| Some(quoted(&event.text("event_id")?)));
                let answer = broken
                    .fault
                    .event(event_id, client_id.as_deref().unwrap_or("null"));
                Verdict::Refused {
                    rule: broken.rule,
                    answer,
                }
            }
        }
    }

    /// Learns from an event of the deployment which functions the model called and which of them are answered.
    pub fn heard(&mut self, event: &ServerEvent<'_>) {
        match event {
            ServerEvent::FunctionArguments(call) => self.calls.asked(&call.call_id),
            ServerEvent::OutputItemAdded(output) | ServerEvent::OutputItemDone(output) => {
                if let Some(item) = &output.item
                    && &*item.kind == "function_call"
                    && let Some(call_id) = &item.call_id
                {
                    self.calls.asked(call_id);
                }
            }
            ServerEvent::ItemAdded(item) if &*item.kind == "function_call_output" => {
                if let Some(call_id) = &item.call_id {
                    self.calls.answered(call_id, &item.id);
                }
            }
            ServerEvent::ItemDeleted(item) => self.calls.deleted(&item.item_id),
            _ => {}
        }
    }

    fn judge(&self, kind: &str, text: &str) -> Result<Option<String>, Broken> {
        if !is_client_event(kind) {
            return Err(Broken {
                rule: PolicyRule::UnknownEvent,
                fault: Fault::new(
                    "invalid_event",
                    "The event's type is missing or unknown.".to_owned(),
                    Some("type".to_owned()),
                ),
            });
        }
        serde_json::from_str::<OneReading>(text).map_err(|_| Broken::unreadable())?;
        let mut event = Object::parse(text).map_err(|_| Broken::unreadable())?;
        match kind {
            "session.update" | "transcription_session.update" => {
                self.only_members(&event, &["session"])?;
                self.check_kind(kind, &event)?;
                self.settings(&mut event, Place::Session)
            }
            "response.create" => {
                self.only_members(&event, &["response"])?;
                if self.transcribes {
                    return Err(Broken::kind("type"));
                }
                self.settings(&mut event, Place::Response)
            }
            "conversation.item.create" => {
                self.only_members(&event, &["item", "previous_item_id"])?;
                let item = event.get("item").map_or("null", |item| &**item);
                let check = ItemCheck {
                    policy: &self.policy,
                    calls: &self.calls,
                    joins: true,
                };
                check.item(item, "item")?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn only_members(&self, event: &Object<'_>, known: &[&str]) -> Result<(), Broken> {
        if self.policy.unknown_fields {
            return Ok(());
        }
        let mut names = event.names();
        match names.find(|name| !["type", "event_id"].contains(name) && !known.contains(name)) {
            Some(name) => Err(Broken::unknown(short(name).to_owned())),
            None => Ok(()),
        }
    }

    /// A session stays of its kind: what the operator says of one kind does not hold for the other.
    fn check_kind(&self, kind: &str, event: &Object<'_>) -> Result<(), Broken> {
        let session = event.get("session").and_then(Object::from_value);
        let said = session.as_ref().and_then(|session| session.get("type"));
        let expected = match self.transcribes {
            true => "\"transcription\"",
            false => "\"realtime\"",
        };
        match self.shape {
            _ if said.is_some_and(|said| unquoted(said) != unquoted(expected)) => {
                Err(Broken::kind("session.type"))
            }
            Shape::Preview if (kind == "transcription_session.update") != self.transcribes => {
                Err(Broken::kind("type"))
            }
            Shape::Ga if kind == "transcription_session.update" => Err(Broken::kind("type")),
            Shape::Preview | Shape::Ga => Ok(()),
        }
    }

    fn settings(&self, event: &mut Object<'_>, place: Place) -> Result<Option<String>, Broken> {
        let name = place.name();
        let object = match event.get(name) {
            Some(value) if **value != *"null" => {
                Some(Object::from_value(value).ok_or_else(|| Broken::malformed(name))?)
            }
            Some(_) | None => None,
        };
        let object = match (object, place) {
            (Some(object), _) => object,
            (None, Place::Response) => Object::default(),
            // There is nothing to set, which is for the deployment to say.
            (None, Place::Session) => return Ok(None),
        };
        let Some(checked) = self.policy.check_settings(object, place, &self.calls)? else {
            return Ok(None);
        };
        let checked = checked.write();
        event.set(name, checked);
        Ok(Some(event.write()))
    }
}

/// What a client may send (protocol reference 2).
fn is_client_event(kind: &str) -> bool {
    matches!(
        kind,
        "session.update"
            | "transcription_session.update"
            | "input_audio_buffer.append"
            | "input_audio_buffer.commit"
            | "input_audio_buffer.clear"
            | "output_audio_buffer.clear"
            | "conversation.item.create"
            | "conversation.item.retrieve"
            | "conversation.item.truncate"
            | "conversation.item.delete"
            | "response.create"
            | "response.cancel"
    )
}

/// The beginning of a name that the caller chose, for an answer; the vendor's own paths are shorter.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(200)]
}

/// What is to become of a field.
enum Outcome {
    Keep,
    Set(String),
    Remove,
}

impl SessionPolicy {
    /// Checks a session or response; what it has to become, `None` if it may stay as it is.
    fn check_settings<'a>(
        &self,
        object: Object<'a>,
        place: Place,
        calls: &Calls,
    ) -> Result<Option<Object<'a>>, Broken> {
        let mut out = object.clone();
        let mut has_changed = false;
        for (name, value) in object.into_members() {
            if name == "audio" {
                self.check_audio(&value, place, calls)?;
                continue;
            }
            match self.check_field(&name, &value, place, calls)? {
                Outcome::Keep => continue,
                Outcome::Set(value) => out.set(name, value),
                Outcome::Remove => out.remove(&name),
            }
            has_changed = true;
        }
        if let (Place::Response, Some(most)) = (place, self.max_output_tokens)
            && !out.contains("max_output_tokens")
            && !out.contains("max_response_output_tokens")
        {
            out.set("max_output_tokens", most.to_string());
            has_changed = true;
        }
        Ok(has_changed.then_some(out))
    }

    /// Nothing in `audio` is ever changed, only refused.
    fn check_audio(&self, audio: &str, place: Place, calls: &Calls) -> Result<(), Broken> {
        let at = |path: &str| format!("{}.{}", place.name(), short(path));
        let audio = Object::parse(audio).map_err(|_| Broken::malformed(&at("audio")))?;
        for (direction, value) in audio.into_members() {
            let path = format!("audio.{direction}");
            if !matches!(&*direction, "input" | "output") {
                if self.unknown_fields {
                    continue;
                }
                return Err(Broken::unknown(at(&path)));
            }
            let inner = Object::parse(&value).map_err(|_| Broken::malformed(&at(&path)))?;
            for (name, value) in inner.into_members() {
                self.check_field(&format!("{path}.{name}"), &value, place, calls)?;
            }
        }
        Ok(())
    }

    fn check_field(
        &self,
        path: &str,
        value: &str,
        place: Place,
        calls: &Calls,
    ) -> Result<Outcome, Broken> {
        let param = format!("{}.{}", place.name(), short(path));
        let Some(field) = Field::find(path).filter(|field| field.may_stand_in(place)) else {
            return match self.unknown_fields {
                true => Ok(Outcome::Keep),
                false => Err(Broken::unknown(param)),
            };
        };
        if self.forbidden.contains(&field.name) {
            return Err(Broken::not_allowed(PolicyRule::Forbidden, param));
        }
        if let Some(pinned) = self.pinned.get(field.name) {
            return match field.says(value, pinned) {
                true => Ok(Outcome::Keep),
                false => Err(Broken::pinned(param)),
            };
        }
        match field.name {
            "instructions" => self.check_instructions(value, place, &param),
            "max_output_tokens" => self.check_output_tokens(value, param),
            "tools" => self.check_tools(value, &param).map(|()| Outcome::Keep),
            "prompt" if !self.stored_prompts && value != "null" => {
                Err(Broken::not_allowed(PolicyRule::StoredPrompt, param))
            }
            "input" | "input_items" | "append_input_items" => self
                .check_input(value, &param, calls)
                .map(|()| Outcome::Keep),
            // The URL says it. A deployment that could change it would get past the tenant's models.
            "model" => Ok(Outcome::Remove),
            _ => Ok(Outcome::Keep),
        }
    }

    fn check_instructions(
        &self,
        value: &str,
        place: Place,
        param: &str,
    ) -> Result<Outcome, Broken> {
        if self.prefix.is_none() {
            return Ok(Outcome::Keep);
        }
        let own = match value {
            // A response without instructions has those of its session.
            "null" if place == Place::Response => return Ok(Outcome::Remove),
            "null" => Cow::Borrowed(""),
            _ => unquoted(value).ok_or_else(|| Broken::malformed(param))?,
        };
        let instructions = self.with_prefix(&own);
        Ok(instructions.map_or(Outcome::Keep, |text| Outcome::Set(quoted(&text))))
    }

    fn check_output_tokens(&self, value: &str, param: String) -> Result<Outcome, Broken> {
        let Some(most) = self.max_output_tokens else {
            return Ok(Outcome::Keep);
        };
        let is_unlimited = value == "null" || unquoted(value).is_some_and(|text| text == "inf");
        match value.parse::<f64>() {
            Ok(asked) if asked <= f64::from(most) => Ok(Outcome::Keep),
            Ok(_) => Ok(Outcome::Set(most.to_string())),
            Err(_) if is_unlimited => Ok(Outcome::Set(most.to_string())),
            Err(_) => Err(Broken {
                rule: PolicyRule::OutputTokens,
                fault: Fault::invalid(param, "a number or 'inf'"),
            }),
        }
    }

    fn check_tools(&self, tools: &str, param: &str) -> Result<(), Broken> {
        if tools == "null" {
            return Ok(());
        }
        let tools = elements(tools).ok_or_else(|| Broken::malformed(param))?;
        for (index, tool) in tools.into_iter().enumerate() {
            let at = format!("{param}[{index}]");
            let tool = Object::parse(tool).map_err(|_| Broken::malformed(&at))?;
            let kind = tool.text("type").unwrap_or_default();
            let Some(kind) = self.tool_types.iter().find(|known| known.name() == kind) else {
                let param = format!("{at}.type");
                return Err(Broken::not_allowed(PolicyRule::ToolType, param));
            };
            let name = tool.text("name").unwrap_or_default();
            if let (ToolType::Function, Some(allowed)) = (kind, &self.tools)
                && !allowed.iter().any(|allowed| *allowed == name)
            {
                let param = format!("{at}.name");
                return Err(Broken::not_allowed(PolicyRule::Tool, param));
            }
        }
        Ok(())
    }

    fn check_input(&self, items: &str, param: &str, calls: &Calls) -> Result<(), Broken> {
        if items == "null" {
            return Ok(());
        }
        let check = ItemCheck {
            policy: self,
            calls,
            joins: false,
        };
        let items = elements(items).ok_or_else(|| Broken::malformed(param))?;
        for (index, item) in items.into_iter().enumerate() {
            check.item(item, &format!("{param}[{index}]"))?;
        }
        Ok(())
    }
}

/// Judges items.
struct ItemCheck<'a> {
    policy: &'a SessionPolicy,
    calls: &'a Calls,
    /// Whether the item joins the conversation, where a call is answered once.
    joins: bool,
}

impl ItemCheck<'_> {
    fn item(&self, item: &str, param: &str) -> Result<(), Broken> {
        let item = Object::parse(item).map_err(|_| Broken::malformed(param))?;
        let at = |name: &str| format!("{param}.{name}");
        match item.text("type").as_deref().unwrap_or_default() {
            "message" => match item.text("role").as_deref() {
                Some("user" | "assistant") => Ok(()),
                _ if self.policy.system_items => Ok(()),
                _ => Err(Broken::not_allowed(PolicyRule::SystemItem, at("role"))),
            },
            kind @ ("function_call" | "function_call_output") => {
                let call_id = item.text("call_id").unwrap_or_default();
                let is_pending_only = self.joins && kind == "function_call_output";
                if self.policy.unasked_tool_results || self.calls.knows(&call_id, is_pending_only) {
                    return Ok(());
                }
                let message = format!(
                    "Tool call ID '{}' not found in conversation.",
                    short(&call_id)
                );
                Err(Broken {
                    rule: PolicyRule::ToolResult,
                    fault: Fault::new("invalid_tool_call_id", message, Some(at("call_id"))),
                })
            }
            "item_reference" => Ok(()),
            kind if kind.starts_with("mcp_") => {
                match self.policy.tool_types.contains(&ToolType::Mcp) {
                    true => Ok(()),
                    false => Err(Broken::not_allowed(PolicyRule::ToolType, at("type"))),
                }
            }
            _ if self.policy.unknown_fields => Ok(()),
            _ => Err(Broken::not_allowed(PolicyRule::UnknownField, at("type"))),
        }
    }
}

/// A rule that an event breaks, and what its caller is told.
struct Broken {
    rule: PolicyRule,
    fault: Fault,
}

impl Broken {
    fn unreadable() -> Self {
        Self {
            rule: PolicyRule::Malformed,
            fault: Fault::malformed("it is not well formed, or a member is there twice"),
        }
    }

    fn malformed(param: &str) -> Self {
        Self {
            rule: PolicyRule::Malformed,
            fault: Fault::invalid(param.to_owned(), "a value of another type"),
        }
    }

    fn unknown(param: String) -> Self {
        Self {
            rule: PolicyRule::UnknownField,
            fault: Fault::unknown(param),
        }
    }

    fn not_allowed(rule: PolicyRule, param: String) -> Self {
        let code = match rule {
            PolicyRule::Forbidden | PolicyRule::StoredPrompt => "unknown_parameter",
            _ => "invalid_value",
        };
        let message = format!("'{param}' is not allowed for this caller.");
        Self {
            rule,
            fault: Fault::new(code, message, Some(param)),
        }
    }

    fn pinned(param: String) -> Self {
        let message = format!("'{param}' is set by the operator and cannot be changed.");
        Self {
            rule: PolicyRule::Pinned,
            fault: Fault::new("invalid_value", message, Some(param)),
        }
    }

    fn kind(param: &str) -> Self {
        let message = "This session is of another kind, and a session's kind cannot be changed.";
        Self {
            rule: PolicyRule::SessionKind,
            fault: Fault::new("invalid_value", message.to_owned(), Some(param.to_owned())),
        }
    }
}

/// The functions that the model called in this session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Calls {
    seen: VecDeque<Call>,
}

#[derive(Debug)]
struct Call {
    id: String,
    /// The item that answers it.
    answer: Option<String>,
}

impl Calls {
    fn asked(&mut self, id: &str) {
        if id.is_empty() || self.knows(id, false) {
            return;
        }
        if self.seen.len() == MAX_CALLS {
            self.seen.pop_front();
        }
        self.seen.push_back(Call {
            id: id.to_owned(),
            answer: None,
        });
    }

    fn answered(&mut self, id: &str, item_id: &str) {
        if let Some(call) = self.seen.iter_mut().find(|call| call.id == id) {
            call.answer = Some(item_id.to_owned());
        }
    }

    /// An answer that is deleted may be given again: clients edit their history so.
    fn deleted(&mut self, item_id: &str) {
        let is_answer = |call: &&mut Call| call.answer.as_deref() == Some(item_id);
        if let Some(call) = self.seen.iter_mut().find(is_answer) {
            call.answer = None;
        }
    }

    fn knows(&self, id: &str, is_pending_only: bool) -> bool {
        let is_it = |call: &Call| call.id == id && !(is_pending_only && call.answer.is_some());
        self.seen.iter().any(is_it)
    }
}

/// A JSON text that everybody reads in the same way: no object has a member twice.
pub(super) struct OneReading;

impl<'de> Deserialize<'de> for OneReading {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneReadingVisitor)
    }
}

struct OneReadingVisitor;

impl<'de> Visitor<'de> for OneReadingVisitor {
    type Value = OneReading;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OneReading, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<Text<'de>>()? {
            if !names.insert(name.as_str().to_owned()) {
                return Err(A::Error::custom("a member is there twice"));
            }
            map.next_value::<OneReading>()?;
        }
        Ok(OneReading)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneReading, A::Error> {
        while seq.next_element::<OneReading>()?.is_some() {}
        Ok(OneReading)
    }

    fn visit_bool<E>(self, _: bool) -> Result<OneReading, E> {
        Ok(OneReading)
    }

    fn visit_i64<E>(self, _: i64) -> Result<OneReading, E> {
        Ok(OneReading)
    }

    fn visit_u64<E>(self, _: u64) -> Result<OneReading, E> {
        Ok(OneReading)
    }

    fn visit_f64<E>(self, _: f64) -> Result<OneReading, E> {
        Ok(OneReading)
    }

    fn visit_str<E>(self, _: &str) -> Result<OneReading, E> {
        Ok(OneReading)
    }

    fn visit_unit<E>(self) -> Result<OneReading, E> {
        Ok(OneReading)
    }
}
