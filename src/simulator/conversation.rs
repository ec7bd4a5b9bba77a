//! The conversation: items in order, their rendering in both shapes, and what they cost as context.

use std::hash::{DefaultHasher, Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::codec::{Audio, WireFormat};
use super::config::Shape;
use super::error::ApiError;
use super::fields::Fields;
use super::record::ItemRecord;

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Message {
        role: Role,
        parts: Vec<Part>,
    },
    Call {
        call_id: String,
        name: String,
        arguments: String,
    },
    CallOutput {
        call_id: String,
        output: String,
    },
    /// Accepted, counted and echoed, not understood: MCP items.
    Opaque(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    System,
    User,
    Assistant,
}

/// What audio is written in when an item is retrieved: the caller's as it came, the model's as it went.
#[derive(Clone, Copy, Debug)]
pub(super) struct AudioFormats {
    pub(super) input: WireFormat,
    pub(super) output: WireFormat,
}

impl AudioFormats {
    fn of(self, role: Role) -> WireFormat {
        match role {
            Role::Assistant => self.output,
            Role::System | Role::User => self.input,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Text(String),
    /// `heard` is what the stand-in "understood"; the client sees it only as a transcript.
    Audio {
        audio: Audio,
        transcript: Option<String>,
        heard: String,
    },
    Image(Value),
}

/// One stretch of context: equal keys mean equal content, so that a common prefix can be cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    key: u64,
    pub(super) text: u64,
    pub(super) audio: u64,
    pub(super) image: u64,
}

impl Segment {
    pub(super) fn text(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self {
            key: hasher.finish(),
            text: text_tokens(text),
            ..Self::default()
        }
    }

    pub(super) fn total(self) -> u64 {
        self.text + self.audio + self.image
    }
}

/// `ceil(characters / 4) + 2`: about what the tokenizer makes of English, and the frame of a message.
pub(super) fn text_tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4) + 2
}

/// Assistant audio is one token per 50 ms.
pub(super) fn assistant_audio_tokens(ms: u64) -> u64 {
    ms.div_ceil(50)
}

/// User audio is one token per 100 ms.
pub(super) fn user_audio_tokens(ms: u64) -> u64 {
    ms.div_ceil(100)
}

/// Tokens of an image at automatic detail; the vendor publishes no formula for sessions.
const IMAGE_TOKENS: u64 = 85;

impl Item {
    pub(super) fn segment(&self) -> Segment {
        let mut segment = Segment::default();
        match &self.body {
            Body::Message { role, parts } => {
                for part in parts {
                    match part {
                        Part::Text(text) => segment.text += text_tokens(text),
                        Part::Image(_) => segment.image += IMAGE_TOKENS,
                        Part::Audio {
                            audio, transcript, ..
                        } if *role == Role::Assistant => {
                            segment.audio += assistant_audio_tokens(audio.ms());
                            segment.text += transcript.as_deref().map_or(0, text_tokens);
                        }
                        Part::Audio { audio, .. } => segment.audio += user_audio_tokens(audio.ms()),
                    }
                }
            }
            Body::Call {
                name, arguments, ..
            } => segment.text = text_tokens(name) + text_tokens(arguments),
            Body::CallOutput { output, .. } => segment.text = text_tokens(output),
            Body::Opaque(value) => segment.text = text_tokens(&value.to_string()),
        }
        let mut hasher = DefaultHasher::new();
        (&self.id, segment.text, segment.audio, segment.image).hash(&mut hasher);
        segment.key = hasher.finish();
        segment
    }

    /// The item as the client sees it, with audio only if formats for it are given (retrieve).
    pub(super) fn render(&self, shape: Shape, audio: Option<AudioFormats>) -> Value {
        let mut item = match &self.body {
            Body::Message { role, parts } => {
                let content: Vec<_> = parts
                    .iter()
                    .map(|part| part.render(*role, shape, audio))
                    .collect();
                json!({"type": "message", "role": role.name(), "content": content})
            }
            Body::Call {
                call_id,
                name,
                arguments,
            } => {
                json!({"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments})
            }
            Body::CallOutput { call_id, output } => {
                json!({"type": "function_call_output", "call_id": call_id, "output": output})
            }
            Body::Opaque(value) => value.clone(),
        };
        item["id"] = self.id.as_str().into();
        item["object"] = "realtime.item".into();
        item["status"] = self.status.into();
        item
    }

    /// The item as whoever asserts on a session sees it.
    pub(super) fn record(&self) -> ItemRecord {
        let (kind, text, call_id) = match &self.body {
            Body::Message { role, parts } => {
                let texts: Vec<_> = parts.iter().filter_map(Part::words).collect();
                (role.name(), texts.join(" "), None)
            }
            Body::Call {
                call_id,
                name,
                arguments,
            } => (
                "function_call",
                format!("{name} {arguments}"),
                Some(call_id.clone()),
            ),
            Body::CallOutput { call_id, output } => (
                "function_call_output",
                output.clone(),
                Some(call_id.clone()),
            ),
            Body::Opaque(value) => ("opaque", value.to_string(), None),
        };
        ItemRecord {
            id: self.id.clone(),
            kind,
            text,
            call_id,
        }
    }

    /// Assistant audio of a message, if there is some.
    pub(super) fn assistant_audio(
        &mut self,
        content_index: usize,
    ) -> Option<(&mut Audio, &mut Option<String>)> {
        match &mut self.body {
            Body::Message {
                role: Role::Assistant,
                parts,
            } => match parts.get_mut(content_index) {
                Some(Part::Audio {
                    audio, transcript, ..
                }) if audio.n_samples > 0 => Some((audio, transcript)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Reads an item that a client made. `id` is empty if the client gave none.
    pub(super) fn read(
        value: &Value,
        path: &str,
        shape: Shape,
        format: WireFormat,
    ) -> Result<Self, ApiError> {
        let fields = Fields::of(value, path)?;
        let id = match fields.get_set("id") {
            None => String::new(),
            Some(Value::String(id)) if is_item_id(id) => id.clone(),
            Some(_) => {
                return Err(ApiError::invalid(
                    fields.path("id"),
                    "expected 1 to 32 letters, digits, hyphens or underscores",
                ));
            }
        };
        let body = match fields.text("type")? {
            "message" => read_message(&fields, shape, format)?,
            "function_call" => {
                fields.allow(&[
                    "id",
                    "object",
                    "status",
                    "type",
                    "call_id",
                    "name",
                    "arguments",
                ])?;
                Body::Call {
                    call_id: fields
                        .get_set("call_id")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                    name: fields.text("name")?.to_owned(),
                    arguments: fields.text("arguments")?.to_owned(),
                }
            }
            "function_call_output" => {
                fields.allow(&["id", "object", "status", "type", "call_id", "output"])?;
                Body::CallOutput {
                    call_id: fields.text("call_id")?.to_owned(),
                    output: fields.text("output")?.to_owned(),
                }
            }
            "mcp_approval_response" | "mcp_list_tools" | "mcp_call" | "mcp_approval_request"
                if shape == Shape::Ga =>
            {
                Body::Opaque(value.clone())
            }
            _ => {
                let why =
                    "supported values are 'message', 'function_call' and 'function_call_output'";
                return Err(ApiError::invalid(fields.path("type"), why));
            }
        };
        Ok(Self {
            id,
            status: "completed",
            body,
        })
    }
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl Part {
    /// What was written, said or understood.
    fn words(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Audio { heard, .. } => Some(heard),
            Self::Image(_) => None,
        }
    }

    fn render(&self, role: Role, shape: Shape, formats: Option<AudioFormats>) -> Value {
        match self {
            Self::Text(text) => {
                let kind = match (role, shape) {
                    (Role::Assistant, Shape::Preview) => "text",
                    (Role::Assistant, Shape::Ga) => "output_text",
                    _ => "input_text",
                };
                json!({"type": kind, "text": text})
            }
            Self::Audio {
                audio, transcript, ..
            } => {
                let kind = match (role, shape) {
                    (Role::Assistant, Shape::Preview) => "audio",
                    (Role::Assistant, Shape::Ga) => "output_audio",
                    _ => "input_audio",
                };
                let mut part = json!({"type": kind, "transcript": transcript});
                if let Some(formats) = formats {
                    let format = formats.of(role);
                    part["audio"] = STANDARD
                        .encode(format.encode(audio.at_rate(format.rate()).heard()))
                        .into();
                    part["format"] = format.preview_name().into();
                }
                part
            }
            Self::Image(value) => value.clone(),
        }
    }
}

fn read_message(fields: &Fields<'_>, shape: Shape, format: WireFormat) -> Result<Body, ApiError> {
    fields.allow(&["id", "object", "status", "type", "role", "content", "phase"])?;
    let role = match fields.text("role")? {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => {
            return Err(ApiError::invalid(
                fields.path("role"),
                "expected system, user or assistant",
            ));
        }
    };
    let path = fields.path("content");
    let content = fields
        .get_set("content")
        .ok_or_else(|| ApiError::missing(path.as_str()))?;
    let content = content
        .as_array()
        .ok_or_else(|| ApiError::wrong_type(path.as_str(), "an array", content))?;
    let parts = content
        .iter()
        .enumerate()
        .map(|(n, part)| read_part(part, &format!("{path}[{n}]"), role, shape, format))
        .collect::<Result<_, _>>()?;
    Ok(Body::Message { role, parts })
}

fn read_part(
    value: &Value,
    path: &str,
    role: Role,
    shape: Shape,
    format: WireFormat,
) -> Result<Part, ApiError> {
    let fields = Fields::of(value, path)?;
    let assistant_text = match shape {
        Shape::Preview => "text",
        Shape::Ga => "output_text",
    };
    match (role, fields.text("type")?) {
        // The vendor asks for the text it wants rather than naming the audio it refuses.
        (Role::Assistant, "audio" | "output_audio") => Err(ApiError::missing(fields.path("text"))),
        (Role::Assistant, kind) if kind == assistant_text => {
            Ok(Part::Text(fields.text("text")?.to_owned()))
        }
        (Role::Assistant, _) => Err(ApiError::invalid(
            fields.path("type"),
            &format!("the supported value is '{assistant_text}'"),
        )),
        (_, "input_text") => Ok(Part::Text(fields.text("text")?.to_owned())),
        (Role::User, "input_audio") => {
            let bytes = STANDARD
                .decode(fields.text("audio")?)
                .map_err(|_| ApiError::invalid(fields.path("audio"), "expected base64"))?;
            let audio = Audio::new(format.decode(&bytes), format.rate());
            let transcript = fields
                .get_set("transcript")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let heard = transcript.clone().unwrap_or_default();
            Ok(Part::Audio {
                audio,
                transcript,
                heard,
            })
        }
        (Role::User, "input_image") if shape == Shape::Ga => {
            fields.text("image_url")?;
            Ok(Part::Image(value.clone()))
        }
        _ => Err(ApiError::invalid(
            fields.path("type"),
            "this content is not supported for this role",
        )),
    }
}

/// The alphabet of the vendor's own SDK; the length is the vendor's limit (reference chapter 0.4).
fn is_item_id(id: &str) -> bool {
    (1..=32).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The default conversation.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) id: String,
    items: Vec<Item>,
}

impl Conversation {
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            items: Vec::new(),
        }
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(super) fn last_id(&self) -> Option<String> {
        self.items.last().map(|item| item.id.clone())
    }

    pub(super) fn get(&self, id: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.id == id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Item> {
        self.items.iter_mut().rev().find(|item| item.id == id)
    }

    pub(super) fn push(&mut self, item: Item) {
        self.items.push(item);
    }

    /// Puts a client's item where it asked; answers with the id before it.
    pub(super) fn insert(
        &mut self,
        item: Item,
        previous: Option<&str>,
    ) -> Result<Option<String>, ApiError> {
        if self.get(&item.id).is_some() {
            let message = format!(
                "Error adding item: an item with id '{}' already exists.",
                item.id
            );
            return Err(ApiError::request("item_create_duplicate_item_id", message).at("item.id"));
        }
        if let Body::CallOutput { call_id, .. } = &item.body
            && !self.has_call(call_id)
        {
            let message = format!("Tool call ID '{call_id}' not found in conversation.");
            return Err(ApiError::request("invalid_tool_call_id", message).at("item.call_id"));
        }
        let position = match previous {
            None => self.items.len(),
            Some("root") => 0,
            Some(id) => match self.items.iter().position(|item| item.id == id) {
                Some(position) => position + 1,
                None => {
                    let message = format!(
                        "Error adding item: the previous item with id '{id}' does not exist."
                    );
                    let error = ApiError::request("item_create_invalid_previous_item_id", message);
                    return Err(error.at("previous_item_id"));
                }
            },
        };
        let before = position.checked_sub(1).map(|n| self.items[n].id.clone());
        self.items.insert(position, item);
        Ok(before)
    }

    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.items.len();
        self.items.retain(|item| item.id != id);
        self.items.len() < before
    }

    /// Forgets the oldest audio beyond `max_ms`; lengths, and with them usage, stay.
    pub(super) fn forget_audio(&mut self, max_ms: u64) {
        let mut kept = 0;
        for item in self.items.iter_mut().rev() {
            let Body::Message { parts, .. } = &mut item.body else {
                continue;
            };
            for part in parts {
                if let Part::Audio { audio, .. } = part
                    && !audio.samples.is_empty()
                {
                    kept += audio.ms();
                    if kept > max_ms {
                        audio.samples = [].into();
                    }
                }
            }
        }
    }

    fn has_call(&self, call_id: &str) -> bool {
        self.items
            .iter()
            .any(|item| matches!(&item.body, Body::Call { call_id: id, .. } if id == call_id))
    }
}
