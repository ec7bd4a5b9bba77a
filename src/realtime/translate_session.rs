//! Session objects between the shapes (reference, protocol 3.2 and 4).
//!
//! Lost towards the preview shape, which has no place for it: `truncation`, `parallel_tool_calls`, `reasoning`,
//! `idle_timeout_ms`. Lost towards GA: `temperature`, `client_secret`.

use std::borrow::Cow;

use super::format::WireFormat;
use super::json::{Object, elements, quoted, unquoted};

/// Turn detection of an untouched session (reference, protocol 4.2).
pub(super) const DEFAULT_TURN_DETECTION: &str = r#"{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"silence_duration_ms":200,"create_response":true,"interrupt_response":true}"#;

/// The kind of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKind {
    Realtime,
    Transcription,
}

impl SessionKind {
    pub(super) fn of_ga(session: &Object<'_>) -> Self {
        if session.is("type", "transcription") {
            Self::Transcription
        } else {
            Self::Realtime
        }
    }

    pub(super) const fn ga_type(self) -> &'static str {
        match self {
            Self::Realtime => "\"realtime\"",
            Self::Transcription => "\"transcription\"",
        }
    }

    const fn object(self) -> &'static str {
        match self {
            Self::Realtime => "\"realtime.session\"",
            Self::Transcription => "\"realtime.transcription_session\"",
        }
    }
}

/// A client's preview session for a GA deployment.
pub(super) fn client_to_ga(session: Object<'_>, kind: SessionKind) -> Object<'_> {
    to_ga(session, kind).join()
}

/// A preview deployment's session for a GA client; members that strict clients need are filled in.
pub(super) fn server_to_ga(session: Object<'_>, kind: SessionKind) -> Object<'_> {
    let mut parts = to_ga(session, kind);
    parts.session.set("object", kind.object());
    let input = &mut parts.input;
    input.set_default("format", WireFormat::Pcm24k.ga_object());
    input.set_default("transcription", "null");
    input.set_default("noise_reduction", "null");
    let turn_detection = input
        .get("turn_detection")
        .cloned()
        .unwrap_or(Cow::Borrowed(DEFAULT_TURN_DETECTION));
    input.set("turn_detection", complete_turn_detection(turn_detection));
    if kind == SessionKind::Realtime {
        parts
            .output
            .set_default("format", WireFormat::Pcm24k.ga_object());
        parts.output.set_default("voice", "\"alloy\"");
        parts.output.set_default("speed", "1.0");
        let defaults = [
            ("output_modalities", r#"["audio"]"#),
            ("instructions", "\"\""),
            ("tools", "[]"),
            ("tool_choice", "\"auto\""),
            ("max_output_tokens", "\"inf\""),
            ("tracing", "null"),
            ("truncation", "\"auto\""),
            ("prompt", "null"),
        ];
        defaults
            .into_iter()
            .for_each(|(name, value)| parts.session.set_default(name, value));
    }
    parts.session.set_default("include", "null");
    parts.join()
}

/// A GA client's session for a preview deployment.
pub(super) fn client_to_preview(session: Object<'_>) -> Object<'_> {
    to_preview(session)
}

/// A GA deployment's session for a preview client; members that strict clients need are filled in.
pub(super) fn server_to_preview<'a>(session: Object<'a>, temperature: &str) -> Object<'a> {
    let kind = SessionKind::of_ga(&session);
    let mut out = to_preview(session);
    out.set("object", kind.object());
    let common = [
        ("turn_detection", DEFAULT_TURN_DETECTION),
        ("input_audio_format", "\"pcm16\""),
        ("input_audio_transcription", "null"),
        ("input_audio_noise_reduction", "null"),
        ("client_secret", "null"),
        ("include", "null"),
    ];
    common
        .into_iter()
        .for_each(|(name, value)| out.set_default(name, value));
    if kind == SessionKind::Realtime {
        let defaults = [
            ("modalities", r#"["text","audio"]"#),
            ("instructions", "\"\""),
            ("voice", "\"alloy\""),
            ("output_audio_format", "\"pcm16\""),
            ("tools", "[]"),
            ("tool_choice", "\"auto\""),
            ("max_response_output_tokens", "\"inf\""),
        ];
        defaults
            .into_iter()
            .for_each(|(name, value)| out.set_default(name, value));
        out.set("temperature", temperature.to_owned());
    }
    out
}

/// A GA session whose nested parts are not in their place yet.
struct GaParts<'a> {
    session: Object<'a>,
    input: Object<'a>,
    output: Object<'a>,
}

impl<'a> GaParts<'a> {
    fn join(mut self) -> Object<'a> {
        let mut audio = Object::default();
        if !self.input.is_empty() {
            audio.set("input", self.input.write());
        }
        if !self.output.is_empty() {
            audio.set("output", self.output.write());
        }
        if !audio.is_empty() {
            self.session.set("audio", audio.write());
        }
        self.session
    }
}

fn to_ga(session: Object<'_>, kind: SessionKind) -> GaParts<'_> {
    let mut parts = GaParts {
        session: Object::default(),
        input: Object::default(),
        output: Object::default(),
    };
    parts.session.set("type", kind.ga_type());
    for (name, value) in session.into_members() {
        match &*name {
            "modalities" => parts
                .session
                .set("output_modalities", modalities_to_ga(value)),
            "max_response_output_tokens" => parts.session.set("max_output_tokens", value),
            "tool_choice" => parts.session.set(name, tool_choice(value)),
            "input_audio_format" => parts.input.set("format", format_to_ga(value)),
            "input_audio_transcription" => parts.input.set("transcription", value),
            "input_audio_noise_reduction" => parts.input.set("noise_reduction", value),
            "turn_detection" => parts.input.set(name, none_to_null(value)),
            "output_audio_format" => parts.output.set("format", format_to_ga(value)),
            "voice" | "speed" => parts.output.set(name, value),
            "temperature" | "client_secret" => {}
            _ => parts.session.set(name, value),
        }
    }
    parts
}

fn to_preview(session: Object<'_>) -> Object<'_> {
    let mut out = Object::default();
    for (name, value) in session.into_members() {
        match &*name {
            "output_modalities" => out.set("modalities", modalities_to_preview(value)),
            "max_output_tokens" => out.set("max_response_output_tokens", value),
            "tool_choice" => out.set(name, tool_choice(value)),
            "audio" => match Object::from_value(&value) {
                Some(audio) => flatten_audio(&audio, &mut out),
                None => out.set(name, value),
            },
            "type" | "truncation" | "parallel_tool_calls" | "reasoning" => {}
            _ => out.set(name, value),
        }
    }
    out
}

fn flatten_audio<'a>(audio: &Object<'a>, out: &mut Object<'a>) {
    if let Some(input) = audio.get("input").and_then(Object::from_value) {
        for (name, value) in input.into_members() {
            match &*name {
                "format" => out.set("input_audio_format", format_to_preview(value)),
                "transcription" => out.set("input_audio_transcription", value),
                "noise_reduction" => out.set("input_audio_noise_reduction", value),
                "turn_detection" => out.set("turn_detection", without_idle_timeout(value)),
                _ => {}
            }
        }
    }
    if let Some(output) = audio.get("output").and_then(Object::from_value) {
        flatten_output(output, out);
    }
}

/// `audio.output` of a session or response, into the flat object `out`.
pub(super) fn flatten_output<'a>(output: Object<'a>, out: &mut Object<'a>) {
    for (name, value) in output.into_members() {
        match &*name {
            "format" => out.set("output_audio_format", format_to_preview(value)),
            "voice" | "speed" => out.set(name, value),
            _ => {}
        }
    }
}

/// GA answers in audio (with a transcript) or in text, never both.
pub(super) fn modalities_to_ga(value: Cow<'_, str>) -> Cow<'_, str> {
    match elements(&value) {
        Some(names) if names.contains(&"\"audio\"") => Cow::Borrowed(r#"["audio"]"#),
        _ => value,
    }
}

/// The preview shape has no audio without text.
pub(super) fn modalities_to_preview(value: Cow<'_, str>) -> Cow<'_, str> {
    match elements(&value) {
        Some(names) if names.contains(&"\"audio\"") => Cow::Borrowed(r#"["text","audio"]"#),
        _ => value,
    }
}

/// A format's name to its object. Unknown names become the type of one, so that the deployment can refuse them.
pub(super) fn format_to_ga(value: Cow<'_, str>) -> Cow<'_, str> {
    let Some(name) = unquoted(&value) else {
        return value;
    };
    match WireFormat::from_preview_name(&name) {
        Some(format) => Cow::Borrowed(format.ga_object()),
        None => Cow::Owned(format!("{{\"type\":{}}}", quoted(&name))),
    }
}

fn format_to_preview(value: Cow<'_, str>) -> Cow<'_, str> {
    let Some(name) = preview_name(&value) else {
        return value;
    };
    Cow::Owned(quoted(&name))
}

fn preview_name(format: &str) -> Option<String> {
    let format = Object::parse(format).ok()?;
    let media_type = format.text("type")?;
    Some(match WireFormat::from_media_type(&media_type) {
        Some(format) => format.preview_name().to_owned(),
        None => media_type.into_owned(),
    })
}

/// `{"type":"none"}`, which Azure's previews know, is `null` elsewhere.
pub(super) fn none_to_null(value: Cow<'_, str>) -> Cow<'_, str> {
    match Object::parse(&value) {
        Ok(detection) if detection.is("type", "none") => Cow::Borrowed("null"),
        _ => value,
    }
}

fn without_idle_timeout(value: Cow<'_, str>) -> Cow<'_, str> {
    match Object::from_value(&value) {
        Some(mut detection) if detection.contains("idle_timeout_ms") => {
            detection.remove("idle_timeout_ms");
            Cow::Owned(detection.write())
        }
        _ => value,
    }
}

/// Adds what the earlier generations of `server_vad` do not have.
fn complete_turn_detection(value: Cow<'_, str>) -> Cow<'_, str> {
    match Object::from_value(&value) {
        Some(mut detection) if detection.is("type", "server_vad") => {
            detection.set_default("create_response", "true");
            detection.set_default("interrupt_response", "true");
            detection.set_default("idle_timeout_ms", "null");
            Cow::Owned(detection.write())
        }
        _ => value,
    }
}

/// Two older spellings of a forced function, `function:{name}` (Azure) and `function:"name"` (rtclient), to the one
/// that both shapes know.
pub(super) fn tool_choice(value: Cow<'_, str>) -> Cow<'_, str> {
    let name = Object::parse(&value).ok().and_then(|choice| {
        let function = choice.get("function")?;
        match Object::parse(function) {
            Ok(nested) => nested.text("name").map(Cow::into_owned),
            Err(_) => unquoted(function).map(Cow::into_owned),
        }
    });
    match name {
        Some(name) => Cow::Owned(format!(
            "{{\"type\":\"function\",\"name\":{}}}",
            quoted(&name)
        )),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_choices() {
        let check =
            |text: &str, expected: &str| assert_eq!(tool_choice(Cow::Borrowed(text)), expected);
        let canonical = r#"{"type":"function","name":"f"}"#;
        check(r#"{"type":"function","function":{"name":"f"}}"#, canonical);
        check(r#"{"type":"function","function":"f"}"#, canonical);
        check(canonical, canonical);
        check("\"required\"", "\"required\"");
        check(
            r#"{"type":"mcp","server_label":"s"}"#,
            r#"{"type":"mcp","server_label":"s"}"#,
        );
    }

    #[test]
    fn formats() {
        let to_ga = |text: &'static str| format_to_ga(Cow::Borrowed(text));
        let to_preview = |text: &'static str| format_to_preview(Cow::Borrowed(text));
        assert_eq!(to_ga("\"pcm16\""), WireFormat::Pcm24k.ga_object());
        assert_eq!(to_ga("\"g711-alaw\""), WireFormat::Alaw.ga_object());
        assert_eq!(to_ga("\"mp3\""), r#"{"type":"mp3"}"#);
        assert_eq!(to_ga("null"), "null");
        assert_eq!(to_preview(WireFormat::Ulaw.ga_object()), "\"g711_ulaw\"");
        assert_eq!(to_preview(r#"{"type":"audio/opus"}"#), "\"audio/opus\"");
        assert_eq!(to_preview("null"), "null");
    }

    #[test]
    fn turn_detection() {
        assert_eq!(none_to_null(Cow::Borrowed(r#"{"type":"none"}"#)), "null");
        assert_eq!(
            without_idle_timeout(Cow::Borrowed(
                r#"{"type":"server_vad","idle_timeout_ms":6000}"#
            )),
            r#"{"type":"server_vad"}"#
        );
        assert_eq!(complete_turn_detection(Cow::Borrowed("null")), "null");
    }
}
