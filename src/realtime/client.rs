//! Building client events, in both shapes.
//!
//! Audio goes through a template and the SIMD base64 engine: a general serialiser would look for escapes in text that
//! cannot have any (reference, costs 5 and 6). Everything else is rare and written for clarity.

use super::base64::encode_into;
use super::format::WireFormat;
use super::json::{push_quoted, quoted};
use super::settings::{Eagerness, MaxOutputTokens, SessionSettings, TurnDetection};
use super::shape::Shape;

const APPEND_HEAD: &str = r#"{"type":"input_audio_buffer.append","audio":""#;
const APPEND_TAIL: &str = r#""}"#;

/// Bytes encoded at a time: 20 ms of PCM, and a multiple of 3, so that only the last chunk may need padding.
const CHUNK_BYTES: usize = 960;
const CHUNK_CHARS: usize = CHUNK_BYTES / 3 * 4;

/// Appends an `input_audio_buffer.append` event to `out`, from audio that is base64 already.
///
/// `audio` is copied as it is and not checked to be base64; text that would need escapes gets them, so that no text
/// can add members to the event.
pub fn append_base64_into(out: &mut String, audio: &str) {
    let bytes = audio.as_bytes();
    if memchr::memchr2(b'"', b'\\', bytes).is_some() || bytes.iter().any(|byte| *byte < b' ') {
        out.push_str(APPEND_HEAD.strip_suffix('"').unwrap_or(APPEND_HEAD));
        push_quoted(out, audio);
        out.push('}');
        return;
    }
    out.reserve(APPEND_HEAD.len() + audio.len() + APPEND_TAIL.len());
    out.push_str(APPEND_HEAD);
    out.push_str(audio);
    out.push_str(APPEND_TAIL);
}

/// Appends an `input_audio_buffer.append` event to `out`, from audio bytes in the session's input format.
pub fn append_bytes_into(out: &mut String, audio: &[u8]) {
    out.reserve(APPEND_HEAD.len() + audio.len().div_ceil(3) * 4 + APPEND_TAIL.len());
    out.push_str(APPEND_HEAD);
    for chunk in audio.chunks(CHUNK_BYTES) {
        push_base64(out, chunk);
    }
    out.push_str(APPEND_TAIL);
}

/// Appends an `input_audio_buffer.append` event to `out`, from samples of a session whose input is PCM.
pub fn append_pcm_into(out: &mut String, samples: &[i16]) {
    out.reserve(APPEND_HEAD.len() + (samples.len() * 2).div_ceil(3) * 4 + APPEND_TAIL.len());
    out.push_str(APPEND_HEAD);
    let mut bytes = [0; CHUNK_BYTES];
    for chunk in samples.chunks(CHUNK_BYTES / 2) {
        for (pair, sample) in bytes.chunks_exact_mut(2).zip(chunk) {
            pair.copy_from_slice(&sample.to_le_bytes());
        }
        push_base64(out, &bytes[..chunk.len() * 2]);
    }
    out.push_str(APPEND_TAIL);
}

/// Appends the base64 of at most [`CHUNK_BYTES`] bytes.
fn push_base64(out: &mut String, chunk: &[u8]) {
    let mut chars = [0; CHUNK_CHARS];
    out.push_str(encode_into(chunk, &mut chars));
}

/// A `session.update` with these settings and formats. Settings that are absent are not sent.
#[must_use]
pub fn session_update(
    settings: &SessionSettings,
    input: WireFormat,
    output: WireFormat,
    shape: Shape,
    event_id: &str,
) -> String {
    let session = match shape {
        Shape::Preview => preview_session(settings, input, output),
        Shape::Ga => ga_session(settings, input, output),
    };
    event("session.update", event_id, |members| {
        members.raw("session", &session)
    })
}

fn preview_session(settings: &SessionSettings, input: WireFormat, output: WireFormat) -> String {
    let mut session = Members::new();
    session.raw("modalities", r#"["text","audio"]"#);
    session.text_if("instructions", settings.instructions.as_deref());
    session.text_if("voice", settings.voice.as_deref());
    session.raw_if("speed", settings.speed);
    session.text("input_audio_format", input.preview_name());
    session.text("output_audio_format", output.preview_name());
    session.raw_if("input_audio_transcription", transcription(settings));
    session.raw_if("input_audio_noise_reduction", noise_reduction(settings));
    session.raw_if("turn_detection", turn_detection(settings, Shape::Preview));
    push_tools(&mut session, settings);
    session.raw_if("temperature", settings.temperature);
    session.raw_if("max_response_output_tokens", max_output_tokens(settings));
    session.end()
}

fn ga_session(settings: &SessionSettings, input: WireFormat, output: WireFormat) -> String {
    let mut hears = Members::new();
    hears.raw("format", input.ga_object());
    hears.raw_if("transcription", transcription(settings));
    hears.raw_if("noise_reduction", noise_reduction(settings));
    hears.raw_if("turn_detection", turn_detection(settings, Shape::Ga));
    let mut says = Members::new();
    says.raw("format", output.ga_object());
    says.text_if("voice", settings.voice.as_deref());
    says.raw_if("speed", settings.speed);
    let mut audio = Members::new();
    audio.raw("input", &hears.end());
    audio.raw("output", &says.end());

    let mut session = Members::new();
    session.text("type", "realtime");
    session.raw("output_modalities", r#"["audio"]"#);
    session.text_if("instructions", settings.instructions.as_deref());
    session.raw("audio", &audio.end());
    push_tools(&mut session, settings);
    session.raw_if("max_output_tokens", max_output_tokens(settings));
    session.raw_if(
        "truncation",
        settings.truncation.map(|truncation| truncation.json()),
    );
    if let Some(effort) = settings.reasoning_effort {
        session.raw(
            "reasoning",
            &format!("{{\"effort\":\"{}\"}}", effort.name()),
        );
    }
    session.end()
}

fn push_tools(session: &mut Members, settings: &SessionSettings) {
    let tools: Vec<String> = settings.tools.iter().map(tool).collect();
    session.raw("tools", &format!("[{}]", tools.join(",")));
    session.raw_if(
        "tool_choice",
        settings.tool_choice.as_ref().map(|choice| choice.json()),
    );
}

fn tool(tool: &super::settings::Tool) -> String {
    let mut members = Members::new();
    members.text("type", "function");
    members.text("name", &tool.name);
    members.text("description", &tool.description);
    members.raw("parameters", &tool.parameters.to_string());
    members.end()
}

fn transcription(settings: &SessionSettings) -> Option<String> {
    let transcription = settings.transcription.as_ref()?;
    let mut members = Members::new();
    members.text("model", &transcription.model);
    members.text_if("language", transcription.language.as_deref());
    members.text_if("prompt", transcription.prompt.as_deref());
    Some(members.end())
}

fn noise_reduction(settings: &SessionSettings) -> Option<String> {
    let kind = settings.noise_reduction?;
    Some(format!("{{\"type\":\"{}\"}}", kind.name()))
}

fn max_output_tokens(settings: &SessionSettings) -> Option<String> {
    Some(match settings.max_output_tokens? {
        MaxOutputTokens::Limit(n) => n.to_string(),
        MaxOutputTokens::Unlimited(_) => "\"inf\"".to_owned(),
    })
}

fn turn_detection(settings: &SessionSettings, shape: Shape) -> Option<String> {
    let mut members = Members::new();
    match settings.turn_detection.as_ref()? {
        TurnDetection::None {} => return Some("null".to_owned()),
        TurnDetection::ServerVad {
            threshold,
            prefix_padding,
            silence_duration,
            idle_timeout,
            create_response,
            interrupt_response,
        } => {
            members.text("type", "server_vad");
            members.raw_if("threshold", *threshold);
            members.raw_if(
                "prefix_padding_ms",
                prefix_padding.map(|padding| padding.as_millis()),
            );
            members.raw_if(
                "silence_duration_ms",
                silence_duration.map(|silence| silence.as_millis()),
            );
            if shape == Shape::Ga {
                members.raw_if(
                    "idle_timeout_ms",
                    idle_timeout.map(|timeout| timeout.as_millis()),
                );
            }
            members.raw_if("create_response", *create_response);
            members.raw_if("interrupt_response", *interrupt_response);
        }
        TurnDetection::SemanticVad {
            eagerness,
            create_response,
            interrupt_response,
        } => {
            members.text("type", "semantic_vad");
            members.text_if("eagerness", eagerness.map(eagerness_name));
            members.raw_if("create_response", *create_response);
            members.raw_if("interrupt_response", *interrupt_response);
        }
    }
    Some(members.end())
}

const fn eagerness_name(eagerness: Eagerness) -> &'static str {
    match eagerness {
        Eagerness::Low => "low",
        Eagerness::Medium => "medium",
        Eagerness::High => "high",
        Eagerness::Auto => "auto",
    }
}

/// A `response.create`; the same in both shapes.
#[must_use]
pub fn create_response(instructions: Option<&str>, event_id: &str) -> String {
    event("response.create", event_id, |members| {
        if let Some(instructions) = instructions {
            members.raw(
                "response",
                &format!("{{\"instructions\":{}}}", quoted(instructions)),
            );
        }
    })
}

/// A `response.cancel` of that response; without an id, of the conversation's active one, whichever that is by then.
#[must_use]
pub fn cancel_response(response_id: Option<&str>, event_id: &str) -> String {
    event("response.cancel", event_id, |members| {
        members.text_if("response_id", response_id);
    })
}

/// A `conversation.item.truncate`: `audio_end_ms` milliseconds of the content part were heard.
#[must_use]
pub fn truncate_item(
    item_id: &str,
    content_index: u32,
    audio_end_ms: u64,
    event_id: &str,
) -> String {
    event("conversation.item.truncate", event_id, |members| {
        members.text("item_id", item_id);
        members.raw("content_index", &content_index.to_string());
        members.raw("audio_end_ms", &audio_end_ms.to_string());
    })
}

/// A `conversation.item.delete`.
#[must_use]
pub fn delete_item(item_id: &str, event_id: &str) -> String {
    event("conversation.item.delete", event_id, |members| {
        members.text("item_id", item_id)
    })
}

/// A `conversation.item.create` with a message as if the caller had typed it.
#[must_use]
pub fn create_user_text(text: &str, event_id: &str) -> String {
    create_text("user", text, event_id)
}

/// A `conversation.item.create` with a message of the operator's.
#[must_use]
pub fn create_system_text(text: &str, event_id: &str) -> String {
    create_text("system", text, event_id)
}

fn create_text(role: &str, text: &str, event_id: &str) -> String {
    let mut part = Members::new();
    part.text("type", "input_text");
    part.text("text", text);
    create_item(&message(role, part).end(), event_id)
}

/// A `conversation.item.create` with something the caller said, base64 in the session's input format.
#[must_use]
pub fn create_user_audio(audio: &[u8], event_id: &str) -> String {
    let mut base64 = String::with_capacity(audio.len().div_ceil(3) * 4);
    for chunk in audio.chunks(CHUNK_BYTES) {
        push_base64(&mut base64, chunk);
    }
    let mut part = Members::new();
    part.text("type", "input_audio");
    part.text("audio", &base64);
    create_item(&message("user", part).end(), event_id)
}

/// A `conversation.item.create` with something the model said in another session, under that id.
#[must_use]
pub fn create_assistant_text(item_id: &str, text: &str, shape: Shape, event_id: &str) -> String {
    let mut part = Members::new();
    part.text(
        "type",
        match shape {
            Shape::Preview => "text",
            Shape::Ga => "output_text",
        },
    );
    part.text("text", text);
    let mut item = message("assistant", part);
    item.text("id", item_id);
    create_item(&item.end(), event_id)
}

/// A `conversation.item.create` with a function call that the model made in another session.
#[must_use]
pub fn create_function_call(call_id: &str, name: &str, arguments: &str, event_id: &str) -> String {
    let mut item = Members::new();
    item.text("type", "function_call");
    item.text("call_id", call_id);
    item.text("name", name);
    item.text("arguments", arguments);
    create_item(&item.end(), event_id)
}

/// A message of one part.
fn message(role: &str, part: Members) -> Members {
    let mut item = Members::new();
    item.text("type", "message");
    item.text("role", role);
    item.raw("content", &format!("[{}]", part.end()));
    item
}

fn create_item(item: &str, event_id: &str) -> String {
    event("conversation.item.create", event_id, |members| {
        members.raw("item", item)
    })
}

/// A `conversation.item.create` with the result of a function call.
#[must_use]
pub fn create_function_output(call_id: &str, output: &str, event_id: &str) -> String {
    let mut item = Members::new();
    item.text("type", "function_call_output");
    item.text("call_id", call_id);
    item.text("output", output);
    create_item(&item.end(), event_id)
}

/// An event of that type with whatever else `fill` adds. An empty `event_id` is left out.
fn event(kind: &str, event_id: &str, fill: impl FnOnce(&mut Members)) -> String {
    let mut members = Members::new();
    members.text("type", kind);
    members.text_if("event_id", Some(event_id).filter(|id| !id.is_empty()));
    fill(&mut members);
    members.end()
}

/// A JSON object under construction.
struct Members {
    out: String,
}

impl Members {
    fn new() -> Self {
        Self {
            out: "{".to_owned(),
        }
    }

    fn raw(&mut self, name: &str, json: &str) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        push_quoted(&mut self.out, name);
        self.out.push(':');
        self.out.push_str(json);
    }

    fn raw_if(&mut self, name: &str, json: Option<impl ToString>) {
        if let Some(json) = json {
            self.raw(name, &json.to_string());
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        self.raw(name, &quoted(text));
    }

    fn text_if(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn end(mut self) -> String {
        self.out.push('}');
        self.out
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::realtime::append_audio;

    fn check(text: &str, expected: Value) {
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), expected);
    }

    fn settings() -> SessionSettings {
        toml::from_str(
            r#"
            instructions = "Say \"hi\"."
            voice = "alloy"
            speed = 1.25
            temperature = 0.7
            max_output_tokens = 300
            noise_reduction = "far_field"
            tool_choice = { function = "f" }
            tools = [{ name = "f", description = "d" }]
            transcription = { model = "whisper-1", prompt = "p" }
            turn_detection = { type = "server_vad", threshold = 0.5, silence_duration = "400ms", idle_timeout = "6s" }
            "#,
        )
        .unwrap()
    }

    #[test]
    fn sessions_in_both_shapes() {
        let tools = json!([{"type":"function","name":"f","description":"d","parameters":{"type":"object","properties":{}}}]);
        let choice = json!({"type":"function","name":"f"});
        check(
            &session_update(
                &settings(),
                WireFormat::Ulaw,
                WireFormat::Pcm24k,
                Shape::Preview,
                "e",
            ),
            json!({"type":"session.update","event_id":"e","session":{
                "modalities":["text","audio"],"instructions":"Say \"hi\".","voice":"alloy","speed":1.25,
                "input_audio_format":"g711_ulaw","output_audio_format":"pcm16",
                "input_audio_transcription":{"model":"whisper-1","prompt":"p"},
                "input_audio_noise_reduction":{"type":"far_field"},
                "turn_detection":{"type":"server_vad","threshold":0.5,"silence_duration_ms":400},
                "tools":tools,"tool_choice":choice,"temperature":0.7,"max_response_output_tokens":300}}),
        );
        check(
            &session_update(
                &settings(),
                WireFormat::Ulaw,
                WireFormat::Pcm24k,
                Shape::Ga,
                "e",
            ),
            json!({"type":"session.update","event_id":"e","session":{
                "type":"realtime","output_modalities":["audio"],"instructions":"Say \"hi\".",
                "audio":{
                    "input":{"format":{"type":"audio/pcmu"},"transcription":{"model":"whisper-1","prompt":"p"},
                        "noise_reduction":{"type":"far_field"},
                        "turn_detection":{"type":"server_vad","threshold":0.5,"silence_duration_ms":400,"idle_timeout_ms":6000}},
                    "output":{"format":{"type":"audio/pcm","rate":24000},"voice":"alloy","speed":1.25}},
                "tools":tools,"tool_choice":choice,"max_output_tokens":300}}),
        );
    }

    #[test]
    fn absent_settings_are_not_sent() {
        let bare = SessionSettings::default();
        check(
            &session_update(
                &bare,
                WireFormat::Pcm24k,
                WireFormat::Alaw,
                Shape::Preview,
                "",
            ),
            json!({"type":"session.update","session":{"modalities":["text","audio"],
                "input_audio_format":"pcm16","output_audio_format":"g711_alaw","tools":[]}}),
        );
    }

    #[test]
    fn ga_alone_knows_truncation_and_reasoning() {
        let session = |text: &str, shape| {
            let settings: SessionSettings = toml::from_str(text).unwrap();
            let update = session_update(&settings, WireFormat::Ulaw, WireFormat::Ulaw, shape, "");
            let update: Value = serde_json::from_str(&update).unwrap();
            [
                &update["session"]["truncation"],
                &update["session"]["reasoning"],
            ]
            .map(Value::clone)
        };
        let text = "truncation = { retention_ratio = 0.8 }\nreasoning_effort = \"xhigh\"";
        assert_eq!(
            session(text, Shape::Ga),
            [
                json!({"type":"retention_ratio","retention_ratio":0.8}),
                json!({"effort":"xhigh"})
            ]
        );
        assert_eq!(session(text, Shape::Preview), [Value::Null, Value::Null]);
        assert_eq!(
            session("truncation = \"disabled\"", Shape::Ga),
            [json!("disabled"), Value::Null]
        );
    }

    #[test]
    fn turn_detection_variants() {
        let check = |text: &str, expected: &str| {
            let settings: SessionSettings = toml::from_str(text).unwrap();
            assert_eq!(
                turn_detection(&settings, Shape::Ga).as_deref(),
                Some(expected)
            );
        };
        check("turn_detection = { type = \"none\" }", "null");
        check(
            "turn_detection = { type = \"semantic_vad\", eagerness = \"high\", create_response = false }",
            r#"{"type":"semantic_vad","eagerness":"high","create_response":false}"#,
        );
    }

    #[test]
    fn text_that_is_not_base64_cannot_break_out() {
        let hostile = "AA\",\"type\":\"response.cancel\\\n";
        let mut out = String::new();
        append_base64_into(&mut out, hostile);
        check(
            &out,
            json!({"type":"input_audio_buffer.append","audio":hostile}),
        );
    }

    #[test]
    fn control_events() {
        check(
            &create_response(None, "e"),
            json!({"type":"response.create","event_id":"e"}),
        );
        check(
            &create_response(Some("Greet."), "e"),
            json!({"type":"response.create","event_id":"e","response":{"instructions":"Greet."}}),
        );
        check(
            &cancel_response(None, "e"),
            json!({"type":"response.cancel","event_id":"e"}),
        );
        check(
            &cancel_response(Some("r"), "e"),
            json!({"type":"response.cancel","event_id":"e","response_id":"r"}),
        );
        check(
            &truncate_item("i", 1, 1500, "e"),
            json!({"type":"conversation.item.truncate","event_id":"e","item_id":"i","content_index":1,"audio_end_ms":1500}),
        );
        check(
            &delete_item("i", "e"),
            json!({"type":"conversation.item.delete","event_id":"e","item_id":"i"}),
        );
        check(
            &create_user_text("a\n\"b\"", "e"),
            json!({"type":"conversation.item.create","event_id":"e","item":{"type":"message","role":"user",
                "content":[{"type":"input_text","text":"a\n\"b\""}]}}),
        );
        check(
            &create_function_output("c", "{\"ok\":true}", "e"),
            json!({"type":"conversation.item.create","event_id":"e","item":{"type":"function_call_output",
                "call_id":"c","output":"{\"ok\":true}"}}),
        );
    }

    proptest! {
        #[test]
        fn audio_arrives_as_it_was(samples in prop::collection::vec(any::<i16>(), 0..1500)) {
            let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            let mut by_sample = String::new();
            append_pcm_into(&mut by_sample, &samples);
            let mut by_byte = String::new();
            append_bytes_into(&mut by_byte, &bytes);
            let mut by_text = String::new();
            append_base64_into(&mut by_text, &STANDARD.encode(&bytes));
            prop_assert_eq!(&by_sample, &by_text);
            prop_assert_eq!(&by_byte, &by_text);
            prop_assert_eq!(STANDARD.decode(append_audio(&by_text).unwrap().as_bytes()).unwrap(), bytes);
        }
    }
}
