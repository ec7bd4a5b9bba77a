//! The server events that the gateway reads, as values.
//!
//! Lenient on purpose: unknown members are ignored, missing and `null` ones read as empty, since deployments of three
//! generations differ in them. Events that the gateway does not act on are [`ServerEvent::Other`]. Where a deployment
//! is relayed, the message itself travels on; these values do not replace it.

use serde::Deserialize;

use super::format::WireFormat;
use super::json::{Count, Text};
use super::scan::{
    AudioDelta, JsonLimit, ScanError, audio_delta, check_depth, event_type, is_audio_delta,
};

/// Why a message is no server event.
#[derive(Debug, thiserror::Error)]
pub enum ServerEventError {
    /// The type cannot be found.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The event is not what its type promises.
    #[error("{kind} event: {source}")]
    Body {
        /// The event's type, from the closed set that is read here.
        kind: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is nested too deeply or has too many keys to be read.
    #[error(transparent)]
    Limit(#[from] JsonLimit),
}

/// Nesting of an event; tool schemas in a session nest deepest, and callers' may have half of it (limits reference).
const MAX_DEPTH: usize = 64;

/// Keys of an event: eight times what callers may put into a session, which comes back in events.
const MAX_KEYS: usize = 65_536;

/// A server event of either shape.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEvent<'a> {
    /// `error`
    Error(ErrorBody<'a>),
    /// `session.created`, `transcription_session.created`
    SessionCreated(Session<'a>),
    /// `session.updated`, `transcription_session.updated`
    SessionUpdated(Session<'a>),
    /// `input_audio_buffer.speech_started`
    SpeechStarted(Speech<'a>),
    /// `input_audio_buffer.speech_stopped`
    SpeechStopped(Speech<'a>),
    /// `input_audio_buffer.committed`
    Committed(ItemRef<'a>),
    /// `conversation.item.created`, `conversation.item.added`
    ItemAdded(Item<'a>),
    /// `conversation.item.done`
    ItemDone(Item<'a>),
    /// `conversation.item.truncated`
    ItemTruncated(ItemRef<'a>),
    /// `conversation.item.deleted`
    ItemDeleted(ItemRef<'a>),
    /// `conversation.item.input_audio_transcription.completed`
    InputTranscript(Part<'a>),
    /// `conversation.item.input_audio_transcription.failed`
    InputTranscriptFailed(TranscriptionFailure<'a>),
    /// `response.created`
    ResponseCreated(Response<'a>),
    /// `response.done`
    ResponseDone(Response<'a>),
    /// `response.output_item.added`
    OutputItemAdded(OutputItem<'a>),
    /// `response.output_item.done`
    OutputItemDone(OutputItem<'a>),
    /// `response.audio.delta`, `response.output_audio.delta`
    AudioDelta(AudioDelta<'a>),
    /// `response.audio.done`, `response.output_audio.done`
    AudioDone(Part<'a>),
    /// `response.audio_transcript.delta`, `response.output_audio_transcript.delta`
    TranscriptDelta(Part<'a>),
    /// `response.audio_transcript.done`, `response.output_audio_transcript.done`
    TranscriptDone(Part<'a>),
    /// `response.text.delta`, `response.output_text.delta`
    TextDelta(Part<'a>),
    /// `response.text.done`, `response.output_text.done`
    TextDone(Part<'a>),
    /// `response.function_call_arguments.done`
    FunctionArguments(FunctionArguments<'a>),
    /// `rate_limits.updated`
    RateLimits(Vec<RateLimitEntry<'a>>),
    /// Any other type.
    Other,
}

impl<'a> ServerEvent<'a> {
    /// Reads an event of either shape.
    ///
    /// # Errors
    /// See [`ServerEventError`].
    pub fn parse(text: &'a str) -> Result<Self, ServerEventError> {
        if let Some(delta) = audio_delta(text) {
            return Ok(Self::AudioDelta(delta));
        }
        check_depth(text, MAX_DEPTH, MAX_KEYS)?;
        let kind = event_type(text)?;
        Ok(match &*kind {
            "error" => Self::Error(
                body::<ErrorEvent<'_>>("error", text)?
                    .error
                    .unwrap_or_default(),
            ),
            "session.created" | "transcription_session.created" => {
                Self::SessionCreated(session(text)?)
            }
            "session.updated" | "transcription_session.updated" => {
                Self::SessionUpdated(session(text)?)
            }
            "input_audio_buffer.speech_started" => {
                Self::SpeechStarted(body("speech_started", text)?)
            }
            "input_audio_buffer.speech_stopped" => {
                Self::SpeechStopped(body("speech_stopped", text)?)
            }
            "input_audio_buffer.committed" => Self::Committed(body("committed", text)?),
            "conversation.item.created" | "conversation.item.added" => Self::ItemAdded(item(text)?),
            "conversation.item.done" => Self::ItemDone(item(text)?),
            "conversation.item.truncated" => Self::ItemTruncated(body("item.truncated", text)?),
            "conversation.item.deleted" => Self::ItemDeleted(body("item.deleted", text)?),
            "conversation.item.input_audio_transcription.completed" => {
                Self::InputTranscript(body("input_audio_transcription.completed", text)?)
            }
            "conversation.item.input_audio_transcription.failed" => {
                Self::InputTranscriptFailed(body("input_audio_transcription.failed", text)?)
            }
            "response.created" => Self::ResponseCreated(response(text)?),
            "response.done" => Self::ResponseDone(response(text)?),
            "response.output_item.added" => Self::OutputItemAdded(body("output_item.added", text)?),
            "response.output_item.done" => Self::OutputItemDone(body("output_item.done", text)?),
            name if is_audio_delta(name) => Self::AudioDelta(body("audio.delta", text)?),
            "response.audio.done" | "response.output_audio.done" => {
                Self::AudioDone(body("audio.done", text)?)
            }
            "response.audio_transcript.delta" | "response.output_audio_transcript.delta" => {
                Self::TranscriptDelta(body("audio_transcript.delta", text)?)
            }
            "response.audio_transcript.done" | "response.output_audio_transcript.done" => {
                Self::TranscriptDone(body("audio_transcript.done", text)?)
            }
            "response.text.delta" | "response.output_text.delta" => {
                Self::TextDelta(body("text.delta", text)?)
            }
            "response.text.done" | "response.output_text.done" => {
                Self::TextDone(body("text.done", text)?)
            }
            "response.function_call_arguments.done" => {
                Self::FunctionArguments(body("function_call_arguments.done", text)?)
            }
            "rate_limits.updated" => {
                let event: RateLimitsEvent<'_> = body("rate_limits.updated", text)?;
                Self::RateLimits(event.rate_limits.unwrap_or_default())
            }
            _ => Self::Other,
        })
    }
}

fn body<'a, T: Deserialize<'a>>(kind: &'static str, text: &'a str) -> Result<T, ServerEventError> {
    serde_json::from_str(text).map_err(|source| ServerEventError::Body { kind, source })
}

fn session(text: &str) -> Result<Session<'_>, ServerEventError> {
    let event: SessionEvent<'_> = body("session", text)?;
    Ok(event.session.unwrap_or_default().into())
}

fn item(text: &str) -> Result<Item<'_>, ServerEventError> {
    let event: ItemEvent<'_> = body("conversation.item", text)?;
    Ok(event.item.unwrap_or_default())
}

fn response(text: &str) -> Result<Response<'_>, ServerEventError> {
    let event: ResponseEvent<'_> = body("response", text)?;
    Ok(event.response.unwrap_or_default())
}

#[derive(Deserialize)]
struct ErrorEvent<'a> {
    #[serde(borrow)]
    error: Option<ErrorBody<'a>>,
}

/// What went wrong; part of `error`, of failed responses and of failed transcriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ErrorBody<'a> {
    /// `invalid_request_error`, `server_error`, ...
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    /// Stable name, where the vendor gives one.
    #[serde(borrow)]
    pub code: Option<Text<'a>>,
    /// For people.
    #[serde(borrow)]
    pub message: Text<'a>,
    /// Path of the member that is to blame.
    #[serde(borrow)]
    pub param: Option<Text<'a>>,
    /// Id of the client event that is to blame.
    #[serde(borrow)]
    pub event_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct SessionEvent<'a> {
    #[serde(borrow)]
    session: Option<SessionWire<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SessionWire<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    expires_at: Option<Count>,
    #[serde(borrow)]
    input_audio_format: Option<Text<'a>>,
    #[serde(borrow)]
    output_audio_format: Option<Text<'a>>,
    #[serde(borrow)]
    audio: Option<AudioWire<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AudioWire<'a> {
    #[serde(borrow)]
    input: Option<DirectionWire<'a>>,
    #[serde(borrow)]
    output: Option<DirectionWire<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DirectionWire<'a> {
    #[serde(borrow)]
    format: Option<FormatWire<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FormatWire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
}

/// A session as the deployment describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session<'a> {
    /// The vendor's id.
    pub id: Text<'a>,
    /// The model's full name; not the deployment's.
    pub model: Option<Text<'a>>,
    /// When the vendor will end it, seconds since the Unix epoch. A zero counts as absent.
    pub expires_at: Option<u64>,
    /// Format of the caller's audio; `None` if unknown.
    pub input: Option<WireFormat>,
    /// Format of the reply audio; `None` if unknown.
    pub output: Option<WireFormat>,
}

impl<'a> From<SessionWire<'a>> for Session<'a> {
    fn from(wire: SessionWire<'a>) -> Self {
        let audio = wire.audio.unwrap_or_default();
        let format = |flat: Option<Text<'a>>, nested: Option<DirectionWire<'a>>| match nested
            .and_then(|n| n.format)
        {
            Some(format) => WireFormat::from_media_type(&format.kind),
            None => WireFormat::from_preview_name(&flat?),
        };
        Self {
            id: wire.id,
            model: wire.model,
            expires_at: wire
                .expires_at
                .map(|seconds| seconds.0)
                .filter(|seconds| *seconds > 0),
            input: format(wire.input_audio_format, audio.input),
            output: format(wire.output_audio_format, audio.output),
        }
    }
}

/// A place where the model heard speech begin or end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Speech<'a> {
    /// The user item that the speech becomes.
    #[serde(borrow)]
    pub item_id: Text<'a>,
    /// Milliseconds of appended audio at its start, padding subtracted; 0 where the event has none.
    pub audio_start_ms: Count,
    /// Milliseconds of appended audio at its end; 0 where the event has none.
    pub audio_end_ms: Count,
}

/// An event about an item that names only its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ItemRef<'a> {
    /// The item.
    #[serde(borrow)]
    pub item_id: Text<'a>,
}

#[derive(Deserialize)]
struct ItemEvent<'a> {
    #[serde(borrow)]
    item: Option<Item<'a>>,
}

/// An item of the conversation, without its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Item<'a> {
    /// Its id.
    #[serde(borrow)]
    pub id: Text<'a>,
    /// `message`, `function_call`, `function_call_output`, ...
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    /// `user`, `assistant`, `system`; absent for function items.
    #[serde(borrow)]
    pub role: Option<Text<'a>>,
    /// `in_progress`, `completed`, `incomplete`.
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    /// Function calls: names the call.
    #[serde(borrow)]
    pub call_id: Option<Text<'a>>,
    /// Function calls: the function.
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
}

/// An item in its place in a response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OutputItem<'a> {
    /// The response.
    #[serde(borrow)]
    pub response_id: Text<'a>,
    /// The item's place in the response.
    pub output_index: Count,
    /// The item.
    #[serde(borrow)]
    pub item: Option<Item<'a>>,
}

/// An event about one content part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Part<'a> {
    /// The response; empty for transcriptions of the caller.
    #[serde(borrow)]
    pub response_id: Text<'a>,
    /// The item.
    #[serde(borrow)]
    pub item_id: Text<'a>,
    /// The item's place in the response.
    pub output_index: Count,
    /// The part's place in the item.
    pub content_index: Count,
    /// The transcript, text or piece of it; empty where the event has none.
    #[serde(borrow, alias = "transcript", alias = "delta")]
    pub text: Text<'a>,
}

/// A transcription of the caller that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TranscriptionFailure<'a> {
    /// The user item.
    #[serde(borrow)]
    pub item_id: Text<'a>,
    /// Why.
    #[serde(borrow)]
    pub error: Option<ErrorBody<'a>>,
}

/// A function call, complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FunctionArguments<'a> {
    /// The response.
    #[serde(borrow)]
    pub response_id: Text<'a>,
    /// The item.
    #[serde(borrow)]
    pub item_id: Text<'a>,
    /// Names the call in its result.
    #[serde(borrow)]
    pub call_id: Text<'a>,
    /// The function; older deployments name it only in `response.output_item.added`.
    #[serde(borrow)]
    pub name: Text<'a>,
    /// A JSON text.
    #[serde(borrow)]
    pub arguments: Text<'a>,
}

#[derive(Deserialize)]
struct ResponseEvent<'a> {
    #[serde(borrow)]
    response: Option<Response<'a>>,
}

/// A response, without its output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Response<'a> {
    /// Its id.
    #[serde(borrow)]
    pub id: Text<'a>,
    /// `in_progress`, `completed`, `cancelled`, `incomplete`, `failed`.
    #[serde(borrow)]
    pub status: Text<'a>,
    /// Why it ended that way.
    #[serde(borrow)]
    pub status_details: Option<StatusDetails<'a>>,
    /// What it cost; `None` until it is done.
    pub usage: Option<TokenUsage>,
    /// The conversation that it writes to: `None` if the deployment does not say, `Some(None)` if it writes to none.
    #[serde(borrow, deserialize_with = "present")]
    pub conversation_id: Option<Option<Text<'a>>>,
}

impl Response<'_> {
    /// Whether it writes to the default conversation. Old deployments do not say, and have no other kind.
    #[must_use]
    pub const fn is_in_conversation(&self) -> bool {
        !matches!(self.conversation_id, Some(None))
    }
}

/// Tells `null` from a member that is not there.
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// Why a response ended as it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StatusDetails<'a> {
    /// `turn_detected`, `client_cancelled`, `max_output_tokens`, `content_filter`.
    #[serde(borrow)]
    pub reason: Option<Text<'a>>,
    /// What failed.
    #[serde(borrow)]
    pub error: Option<ErrorBody<'a>>,
}

/// Tokens of a response as the deployment counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TokenUsage {
    /// Read and written.
    pub total_tokens: Count,
    /// Read.
    pub input_tokens: Count,
    /// Written.
    pub output_tokens: Count,
    /// Read, by kind.
    pub input_token_details: Option<InputTokens>,
    /// Written, by kind.
    pub output_token_details: Option<OutputTokens>,
}

/// Tokens read, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InputTokens {
    /// Text.
    pub text_tokens: Count,
    /// Audio.
    pub audio_tokens: Count,
    /// Images.
    pub image_tokens: Count,
    /// Of all of those, from the cache.
    pub cached_tokens: Count,
    /// The cached ones by kind; old deployments do not say.
    pub cached_tokens_details: Option<OutputTokens>,
}

/// Tokens by text and audio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OutputTokens {
    /// Text.
    pub text_tokens: Count,
    /// Audio.
    pub audio_tokens: Count,
}

#[derive(Deserialize)]
struct RateLimitsEvent<'a> {
    #[serde(borrow)]
    rate_limits: Option<Vec<RateLimitEntry<'a>>>,
}

/// One rate limit of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RateLimitEntry<'a> {
    /// `requests` or `tokens`.
    #[serde(borrow)]
    pub name: Text<'a>,
    /// Per minute.
    pub limit: Count,
    /// Of that, now.
    pub remaining: Count,
    /// Until all of it is there again.
    pub reset_seconds: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::samples;

    #[test]
    fn both_shapes_read_alike() {
        for pair in samples::SERVER_PAIRS {
            let read = |texts: &[&'static str]| -> Vec<ServerEvent<'static>> {
                let events = texts.iter().map(|text| ServerEvent::parse(text).unwrap());
                // GA alone has the second; errors quote each shape's own paths.
                events
                    .filter(|event| {
                        !matches!(event, ServerEvent::ItemDone(_) | ServerEvent::Error(_))
                    })
                    .collect()
            };
            assert_eq!(read(pair.preview), read(pair.ga));
        }
    }

    #[test]
    fn sessions() {
        let text = r#"{"type":"session.created","session":{"id":"s","expires_at":17.0,"audio":{"input":{"format":{"type":"audio/pcmu"}},"output":null}}}"#;
        let ServerEvent::SessionCreated(session) = ServerEvent::parse(text).unwrap() else {
            panic!("{text}");
        };
        assert_eq!((&*session.id, session.expires_at), ("s", Some(17)));
        assert_eq!(
            (session.input, session.output),
            (Some(WireFormat::Ulaw), None)
        );
    }

    #[test]
    fn conversation_of_a_response() {
        let check = |text: &str, expected: bool| {
            let text = format!(r#"{{"type":"response.created","response":{text}}}"#);
            let ServerEvent::ResponseCreated(response) = ServerEvent::parse(&text).unwrap() else {
                panic!("{text}");
            };
            assert_eq!(response.is_in_conversation(), expected, "{text}");
        };
        check(r#"{"id":"r"}"#, true);
        check(r#"{"id":"r","conversation_id":"c"}"#, true);
        check(r#"{"id":"r","conversation_id":null}"#, false);
    }

    #[test]
    fn null_and_missing_members_are_fine() {
        for kind in samples::server_types() {
            let text = format!(
                r#"{{"type":"{kind}","session":null,"item":null,"response":null,"error":null,"item_id":null,"rate_limits":null,"transcript":null,"audio_start_ms":null}}"#
            );
            ServerEvent::parse(&text).unwrap();
            ServerEvent::parse(&format!(r#"{{"type":"{kind}"}}"#)).unwrap();
        }
    }
}
