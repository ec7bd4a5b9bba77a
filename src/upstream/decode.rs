//! A deployment's events as [`ModelEvent`]s.
//!
//! Both shapes are understood at once: their event names never mean different things. Reading audio builds nothing;
//! the base64 text is borrowed from the message.

use std::collections::VecDeque;
use std::time::Duration;

use crate::call::{ModelError, ModelEvent, RateLimit, RateLimits, ResponseStatus, Usage};
use crate::realtime::{
    Count, ErrorBody, OutputItem, RateLimitEntry, Response, ServerEvent, ServerEventError, Text,
    TokenUsage, retry_after,
};

/// Function calls whose name is remembered until their arguments are complete.
const MAX_OPEN_CALLS: usize = 64;

/// Reads the events of one deployment connection.
///
/// Keeps the names of functions that are being called: preview deployments tell them when the call begins and not
/// when it is complete.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Item id and function name, oldest first.
    open_calls: VecDeque<(String, String)>,
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads one event.
    ///
    /// # Errors
    /// The message is no event, or not what its type promises. Nothing else depends on it: it can be counted and
    /// skipped.
    pub fn decode<'a>(&mut self, text: &'a str) -> Result<Decoded<'a>, ServerEventError> {
        let mut event = ServerEvent::parse(text)?;
        match &mut event {
            ServerEvent::OutputItemAdded(added) => self.remember_call(added),
            ServerEvent::FunctionArguments(call) => {
                let known = self.take_call(&call.item_id);
                if let Some(name) = known.filter(|_| call.name.is_empty()) {
                    call.name = Text::new(name);
                }
            }
            _ => {}
        }
        Ok(Decoded { event })
    }

    fn remember_call(&mut self, added: &OutputItem<'_>) {
        let Some(item) = &added.item else { return };
        let Some(name) = item
            .name
            .as_ref()
            .filter(|_| &*item.kind == "function_call")
        else {
            return;
        };
        if self.open_calls.len() == MAX_OPEN_CALLS {
            self.open_calls.pop_front();
        }
        self.open_calls
            .push_back((item.id.to_string(), name.to_string()));
    }

    fn take_call(&mut self, item_id: &str) -> Option<String> {
        let index = self.open_calls.iter().position(|(id, _)| id == item_id)?;
        self.open_calls.remove(index).map(|(_, name)| name)
    }
}

/// An event that was read. Owns what could not be borrowed from the message.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<'a> {
    event: ServerEvent<'a>,
}

impl Decoded<'_> {
    /// The event in the words of the call.
    #[must_use]
    pub fn event(&self) -> ModelEvent<'_> {
        match &self.event {
            ServerEvent::AudioDelta(delta) => ModelEvent::AudioDelta {
                response_id: &delta.response_id,
                item_id: &delta.item_id,
                content_index: delta.content_index,
                audio: &delta.delta,
            },
            ServerEvent::AudioDone(part) => ModelEvent::AudioDone {
                item_id: &part.item_id,
            },
            ServerEvent::SessionCreated(session) => ModelEvent::SessionCreated {
                session_id: &session.id,
                expires_at: session.expires_at,
            },
            ServerEvent::SessionUpdated(_) => ModelEvent::SessionUpdated,
            ServerEvent::SpeechStarted(speech) => ModelEvent::SpeechStarted {
                item_id: &speech.item_id,
                audio_start_ms: speech.audio_start_ms.0,
            },
            ServerEvent::SpeechStopped(speech) => ModelEvent::SpeechStopped {
                audio_end_ms: speech.audio_end_ms.0,
            },
            ServerEvent::Committed(item) => ModelEvent::Committed {
                item_id: &item.item_id,
            },
            ServerEvent::InputTranscript(part) => ModelEvent::InputTranscript {
                item_id: &part.item_id,
                text: &part.text,
            },
            ServerEvent::ResponseCreated(response) => ModelEvent::ResponseCreated {
                response_id: &response.id,
                in_conversation: response.is_in_conversation(),
            },
            ServerEvent::OutputItemAdded(added) => ModelEvent::OutputItemAdded {
                response_id: &added.response_id,
                item_id: added.item.as_ref().map_or("", |item| &*item.id),
                is_message: added
                    .item
                    .as_ref()
                    .is_some_and(|item| &*item.kind == "message"),
            },
            ServerEvent::TranscriptDelta(part) => ModelEvent::OutputTranscriptDelta {
                response_id: &part.response_id,
                item_id: &part.item_id,
                text: &part.text,
            },
            ServerEvent::TranscriptDone(part) | ServerEvent::TextDone(part) => {
                ModelEvent::OutputTranscript {
                    item_id: &part.item_id,
                    text: &part.text,
                }
            }
            ServerEvent::FunctionArguments(call) => ModelEvent::FunctionCall {
                call_id: &call.call_id,
                name: &call.name,
                arguments: &call.arguments,
            },
            ServerEvent::ResponseDone(response) => response_done(response),
            ServerEvent::RateLimits(entries) => ModelEvent::RateLimits(rate_limits(entries)),
            ServerEvent::Error(error) => ModelEvent::Error(model_error(error)),
            ServerEvent::ItemAdded(_)
            | ServerEvent::ItemDone(_)
            | ServerEvent::ItemTruncated(_)
            | ServerEvent::ItemDeleted(_)
            | ServerEvent::InputTranscriptFailed(_)
            | ServerEvent::OutputItemDone(_)
            | ServerEvent::TextDelta(_)
            | ServerEvent::Other => ModelEvent::Other,
        }
    }

    /// How long the deployment wants to be left alone, if the event is a refusal for its quota that says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let error = match &self.event {
            ServerEvent::Error(error) => error,
            ServerEvent::ResponseDone(response) => {
                response.status_details.as_ref()?.error.as_ref()?
            }
            _ => return None,
        };
        let is_limit = error_name(error)?.contains("rate_limit");
        is_limit.then(|| retry_after(&error.message)).flatten()
    }

    /// The event in the vendor's words, for what a call has no word for.
    #[must_use]
    pub const fn server_event(&self) -> &ServerEvent<'_> {
        &self.event
    }
}

fn response_done<'e>(response: &'e Response<'_>) -> ModelEvent<'e> {
    let error = response
        .status_details
        .as_ref()
        .and_then(|details| details.error.as_ref());
    ModelEvent::ResponseDone {
        response_id: &response.id,
        status: match &*response.status {
            "completed" => ResponseStatus::Completed,
            "cancelled" => ResponseStatus::Cancelled,
            "incomplete" => ResponseStatus::Incomplete,
            // A status that nobody knows is nothing to rely on.
            _ => ResponseStatus::Failed,
        },
        error_code: error.and_then(error_name),
        usage: response.usage.as_ref().map(usage).unwrap_or_default(),
    }
}

/// The stable name of an error. Server faults often come with `code` null and nothing but a type (protocol 3.4).
fn error_name<'e>(error: &'e ErrorBody<'_>) -> Option<&'e str> {
    let code = error.code.as_deref().filter(|code| !code.is_empty());
    code.or(Some(&*error.kind).filter(|kind| !kind.is_empty()))
}

/// Tokens by kind. Those of which the deployment does not tell the kind count as text, so that the total is right.
fn usage(usage: &TokenUsage) -> Usage {
    let input = usage.input_token_details.unwrap_or_default();
    let output = usage.output_token_details.unwrap_or_default();
    let mut ours = Usage {
        input_text: input.text_tokens.0,
        input_audio: input.audio_tokens.0,
        input_image: input.image_tokens.0,
        output_text: output.text_tokens.0,
        output_audio: output.audio_tokens.0,
        ..Usage::default()
    };
    let told = [ours.input_text, ours.input_audio, ours.input_image];
    ours.input_text += untold(usage.input_tokens, &told);
    ours.output_text += untold(usage.output_tokens, &[ours.output_text, ours.output_audio]);
    match input.cached_tokens_details {
        Some(cached) => {
            ours.cached_text = cached.text_tokens.0;
            ours.cached_audio = cached.audio_tokens.0;
        }
        // The instructions come first in every context, so text is what a cache holds first.
        None => {
            let cached = input.cached_tokens.0;
            ours.cached_text = cached.min(ours.input_text);
            ours.cached_audio = (cached - ours.cached_text).min(ours.input_audio);
        }
    }
    ours
}

/// What is left of a total once the kinds are told.
fn untold(Count(total): Count, told: &[u64]) -> u64 {
    let told = told.iter().fold(0, |sum: u64, n| sum.saturating_add(*n));
    total.saturating_sub(told)
}

fn rate_limits(entries: &[RateLimitEntry<'_>]) -> RateLimits {
    let find = |name: &str| {
        let entry = entries.iter().find(|entry| &*entry.name == name)?;
        let (Count(limit), Count(remaining)) = (entry.limit, entry.remaining);
        Some(RateLimit {
            limit,
            remaining,
            reset_seconds: entry.reset_seconds.unwrap_or_default(),
        })
    };
    RateLimits {
        requests: find("requests"),
        tokens: find("tokens"),
    }
}

fn model_error<'e>(error: &'e ErrorBody<'_>) -> ModelError<'e> {
    ModelError {
        kind: &error.kind,
        code: error.code.as_deref(),
        message: &error.message,
        event_id: error.event_id.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::realtime::samples;

    fn check(text: &str, expected: ModelEvent<'_>) {
        assert_eq!(
            Decoder::new().decode(text).unwrap().event(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn refusals_for_quota_say_when_to_come_again() {
        let check = |text: &str, expected: Option<u64>| {
            let decoded = Decoder::new().decode(text).unwrap().retry_after();
            assert_eq!(decoded, expected.map(Duration::from_millis), "{text}");
        };
        let done = |error: &str| {
            format!(
                r#"{{"type":"response.done","response":{{"id":"r","status":"failed","status_details":{{"error":{error}}}}}}}"#
            )
        };
        let limit = r#"{"code":"rate_limit_exceeded","message":"Please try again in 1.2s."}"#;
        check(&done(limit), Some(1_200));
        check(
            &format!(r#"{{"type":"error","error":{limit}}}"#),
            Some(1_200),
        );
        check(
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"Please retry after 2 seconds."}}"#,
            Some(2_000),
        );
        check(&done(r#"{"code":"rate_limit_exceeded"}"#), None);
        check(
            &done(r#"{"type":"server_error","message":"Try again in 9s."}"#),
            None,
        );
        check(r#"{"type":"session.updated","session":{}}"#, None);
    }

    #[test]
    fn reads_what_a_call_needs() {
        check(
            r#"{"type":"session.created","session":{"id":"s","expires_at":9}}"#,
            ModelEvent::SessionCreated {
                session_id: "s",
                expires_at: Some(9),
            },
        );
        check(
            r#"{"type":"session.updated","session":{}}"#,
            ModelEvent::SessionUpdated,
        );
        check(
            r#"{"type":"input_audio_buffer.speech_started","audio_start_ms":1012,"item_id":"i"}"#,
            ModelEvent::SpeechStarted {
                item_id: "i",
                audio_start_ms: 1012,
            },
        );
        check(
            r#"{"type":"input_audio_buffer.speech_stopped","audio_end_ms":3104.0,"item_id":"i"}"#,
            ModelEvent::SpeechStopped { audio_end_ms: 3104 },
        );
        check(
            r#"{"type":"input_audio_buffer.committed","item_id":"i"}"#,
            ModelEvent::Committed { item_id: "i" },
        );
        check(
            r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","transcript":"a\n\"b\""}"#,
            ModelEvent::InputTranscript {
                item_id: "i",
                text: "a\n\"b\"",
            },
        );
        check(
            r#"{"type":"response.created","response":{"id":"r","conversation_id":null}}"#,
            ModelEvent::ResponseCreated {
                response_id: "r",
                in_conversation: false,
            },
        );
        check(
            r#"{"type":"response.output_item.added","response_id":"r","item":{"id":"i","type":"message"}}"#,
            ModelEvent::OutputItemAdded {
                response_id: "r",
                item_id: "i",
                is_message: true,
            },
        );
        for kind in ["response.audio", "response.output_audio"] {
            check(
                &format!(
                    r#"{{"type":"{kind}.delta","response_id":"r","item_id":"i","content_index":1,"delta":"AA\/A"}}"#
                ),
                ModelEvent::AudioDelta {
                    response_id: "r",
                    item_id: "i",
                    content_index: 1,
                    audio: "AA/A",
                },
            );
            check(
                &format!(
                    r#"{{"type":"{kind}_transcript.delta","response_id":"r","item_id":"i","delta":" one"}}"#
                ),
                ModelEvent::OutputTranscriptDelta {
                    response_id: "r",
                    item_id: "i",
                    text: " one",
                },
            );
            check(
                &format!(r#"{{"type":"{kind}.done","item_id":"i"}}"#),
                ModelEvent::AudioDone { item_id: "i" },
            );
            check(
                &format!(
                    r#"{{"type":"{kind}_transcript.done","item_id":"i","transcript":"Sure."}}"#
                ),
                ModelEvent::OutputTranscript {
                    item_id: "i",
                    text: "Sure.",
                },
            );
        }
        check(r#"{"type":"something.new","x":1}"#, ModelEvent::Other);
        check(
            r#"{"type":"error","error":{"type":"server_error","code":null,"message":"m","event_id":"c"}}"#,
            ModelEvent::Error(ModelError {
                kind: "server_error",
                code: None,
                message: "m",
                event_id: Some("c"),
            }),
        );
    }

    #[test]
    fn responses_end_with_status_and_usage() {
        check(
            r#"{"type":"response.done","response":{"id":"r","status":"completed","usage":{"total_tokens":180,"input_tokens":132,"output_tokens":48,"input_token_details":{"text_tokens":119,"audio_tokens":13,"cached_tokens":64,"cached_tokens_details":{"text_tokens":60,"audio_tokens":4}},"output_token_details":{"text_tokens":12,"audio_tokens":36}}}}"#,
            ModelEvent::ResponseDone {
                response_id: "r",
                status: ResponseStatus::Completed,
                error_code: None,
                usage: Usage {
                    input_text: 119,
                    input_audio: 13,
                    input_image: 0,
                    cached_text: 60,
                    cached_audio: 4,
                    output_text: 12,
                    output_audio: 36,
                },
            },
        );
        check(
            r#"{"type":"response.done","response":{"id":"r","status":"failed","status_details":{"error":{"code":"rate_limit_exceeded"}},"usage":{"input_tokens":7,"output_tokens":2}}}"#,
            ModelEvent::ResponseDone {
                response_id: "r",
                status: ResponseStatus::Failed,
                error_code: Some("rate_limit_exceeded"),
                usage: Usage {
                    input_text: 7,
                    output_text: 2,
                    ..Usage::default()
                },
            },
        );
    }

    #[test]
    fn usage_adds_up_however_little_is_told() {
        let check = |usage: &str, expected: Usage| {
            check(
                &format!(
                    r#"{{"type":"response.done","response":{{"status":"completed","usage":{usage}}}}}"#
                ),
                ModelEvent::ResponseDone {
                    response_id: "",
                    status: ResponseStatus::Completed,
                    error_code: None,
                    usage: expected,
                },
            );
        };
        let cached = |cached: u64, cached_text: u64, cached_audio: u64| {
            check(
                &format!(
                    r#"{{"input_tokens":50,"input_token_details":{{"text_tokens":20,"audio_tokens":30,"cached_tokens":{cached}}}}}"#
                ),
                Usage {
                    input_text: 20,
                    input_audio: 30,
                    cached_text,
                    cached_audio,
                    ..Usage::default()
                },
            );
        };
        cached(0, 0, 0);
        cached(15, 15, 0);
        cached(44, 20, 24);
        cached(64, 20, 30);
        check(
            r#"{"input_tokens":50,"output_tokens":9,"input_token_details":{"audio_tokens":30},"output_token_details":{"audio_tokens":4}}"#,
            Usage {
                input_text: 20,
                input_audio: 30,
                output_text: 5,
                output_audio: 4,
                ..Usage::default()
            },
        );
        check(
            r#"{"input_tokens":1,"input_token_details":{"text_tokens":18446744073709551615,"audio_tokens":2}}"#,
            Usage {
                input_text: u64::MAX,
                input_audio: 2,
                ..Usage::default()
            },
        );
    }

    #[test]
    fn a_failure_without_a_code_is_named_by_its_type() {
        let check = |error: &str, expected: Option<&str>| {
            check(
                &format!(
                    r#"{{"type":"response.done","response":{{"status":"failed","status_details":{{"type":"failed","error":{error}}}}}}}"#
                ),
                ModelEvent::ResponseDone {
                    response_id: "",
                    status: ResponseStatus::Failed,
                    error_code: expected,
                    usage: Usage::default(),
                },
            );
        };
        check(
            r#"{"type":"server_error","code":null}"#,
            Some("server_error"),
        );
        check(r#"{"type":"server_error","code":""}"#, Some("server_error"));
        check(r#"{"type":"server_error","code":"c"}"#, Some("c"));
        check(r#"{"type":null}"#, None);
        check("null", None);
    }

    #[test]
    fn rate_limits_may_be_partial() {
        check(
            r#"{"type":"rate_limits.updated","rate_limits":[{"name":"tokens","limit":20000,"remaining":15482,"reset_seconds":13.554}]}"#,
            ModelEvent::RateLimits(RateLimits {
                requests: None,
                tokens: Some(RateLimit {
                    limit: 20_000,
                    remaining: 15_482,
                    reset_seconds: 13.554,
                }),
            }),
        );
    }

    #[test]
    fn preview_calls_get_their_name_from_the_item() {
        let mut decoder = Decoder::new();
        let added = r#"{"type":"response.output_item.added","item":{"id":"i","type":"function_call","name":"f"}}"#;
        decoder.decode(added).unwrap();
        let done = r#"{"type":"response.function_call_arguments.done","item_id":"i","call_id":"c","arguments":"{}"}"#;
        let decoded = decoder.decode(done).unwrap();
        assert_eq!(
            decoded.event(),
            ModelEvent::FunctionCall {
                call_id: "c",
                name: "f",
                arguments: "{}"
            }
        );
    }

    #[test]
    fn every_sample_is_read() {
        let mut decoder = Decoder::new();
        for text in samples::server_events() {
            decoder.decode(text).unwrap();
        }
    }

    proptest! {
        #[test]
        fn is_total(
            index in any::<prop::sample::Index>(),
            edits in prop::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 0..6),
            noise in ".{0,80}",
        ) {
            let events = samples::server_events();
            let mutated = samples::mutated(events[index.index(events.len())], &edits);
            let mut decoder = Decoder::new();
            for text in [&mutated, &noise] {
                if let Ok(decoded) = decoder.decode(text) {
                    let _ = decoded.event();
                }
            }
        }
    }
}
