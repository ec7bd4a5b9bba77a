//! The fields of a session and of a response that a policy can name, each under its names in both shapes.
//!
//! A policy holds for both names wherever they stand: a deployment that knows both must not be the way around it.

use std::borrow::Cow;

use serde_json::Value;

use super::json::Object;
use super::shape::Shape;
use super::translate_session::{
    SessionKind, client_to_ga, client_to_preview, format_to_ga, modalities_to_ga, none_to_null,
    tool_choice,
};

/// Where a field may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the `session` of an update.
    Session,
    /// In the `response` of a `response.create`.
    Response,
}

impl Place {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Response => "response",
        }
    }
}

/// Who sets a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setter {
    /// Caller or operator; where it may stand besides the session.
    Anybody { in_response: bool },
    /// The caller, in a response only.
    CallerInResponse,
    /// Nobody: the URL or the deployment says what it is.
    Fixed,
}

/// One field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Its path in the GA shape, by which it is known here.
    pub(super) name: &'static str,
    preview: &'static str,
    setter: Setter,
}

const SESSION_ONLY: Setter = Setter::Anybody { in_response: false };
const EVERYWHERE: Setter = Setter::Anybody { in_response: true };

/// Protocol reference 2.1, 3.2 and 4.1.
#[rustfmt::skip]
const FIELDS: &[Field] = &[
    field("instructions", "instructions", EVERYWHERE),
    field("output_modalities", "modalities", EVERYWHERE),
    field("audio.output.voice", "voice", EVERYWHERE),
    field("audio.output.format", "output_audio_format", EVERYWHERE),
    field("audio.output.speed", "speed", SESSION_ONLY),
    field("audio.input.format", "input_audio_format", SESSION_ONLY),
    field("audio.input.transcription", "input_audio_transcription", SESSION_ONLY),
    field("audio.input.noise_reduction", "input_audio_noise_reduction", SESSION_ONLY),
    field("audio.input.turn_detection", "turn_detection", SESSION_ONLY),
    field("tools", "tools", EVERYWHERE),
    field("tool_choice", "tool_choice", EVERYWHERE),
    field("parallel_tool_calls", "parallel_tool_calls", EVERYWHERE),
    field("reasoning", "reasoning", EVERYWHERE),
    field("temperature", "temperature", EVERYWHERE),
    field("max_output_tokens", "max_response_output_tokens", EVERYWHERE),
    field("prompt", "prompt", EVERYWHERE),
    field("tracing", "tracing", SESSION_ONLY),
    field("truncation", "truncation", SESSION_ONLY),
    field("include", "include", SESSION_ONLY),
    field("conversation", "conversation", Setter::CallerInResponse),
    field("metadata", "metadata", Setter::CallerInResponse),
    field("input", "input", Setter::CallerInResponse),
    // What the first preview's clients still send in a response.
    field("input_items", "input_items", Setter::CallerInResponse),
    field("append_input_items", "append_input_items", Setter::CallerInResponse),
    field("commit", "commit", Setter::CallerInResponse),
    field("cancel_previous", "cancel_previous", Setter::CallerInResponse),
    field("type", "type", Setter::Fixed),
    field("model", "model", Setter::Fixed),
    field("id", "id", Setter::Fixed),
    field("object", "object", Setter::Fixed),
    field("expires_at", "expires_at", Setter::Fixed),
    field("client_secret", "client_secret", Setter::Fixed),
];

const fn field(name: &'static str, preview: &'static str, setter: Setter) -> Field {
    Field {
        name,
        preview,
        setter,
    }
}

impl Field {
    /// The field that goes by this path in either shape.
    pub(super) fn find(path: &str) -> Option<&'static Self> {
        FIELDS
            .iter()
            .find(|field| field.name == path || field.preview == path)
    }

    /// Whether it belongs there.
    pub(super) const fn may_stand_in(&self, place: Place) -> bool {
        match (self.setter, place) {
            (Setter::Anybody { .. } | Setter::Fixed, Place::Session) => true,
            (Setter::Anybody { in_response }, Place::Response) => in_response,
            (Setter::CallerInResponse, place) => matches!(place, Place::Response),
            (Setter::Fixed, Place::Response) => false,
        }
    }

    /// Whether an operator can give it a value.
    pub(super) const fn is_setting(&self) -> bool {
        matches!(self.setter, Setter::Anybody { .. })
    }

    /// Whether an operator can forbid it.
    pub(super) const fn can_be_forbidden(&self) -> bool {
        !matches!(self.setter, Setter::Fixed)
    }

    /// Whether a session that only transcribes has it (protocol reference 4.1).
    pub(super) fn is_of_transcription(name: &str) -> bool {
        name.starts_with("audio.input.") || name == "include"
    }

    /// A value of this field, written as either shape writes it, as GA writes it.
    pub(super) fn ga_value<'a>(&self, value: Cow<'a, str>) -> Cow<'a, str> {
        match self.name {
            "output_modalities" => modalities_to_ga(value),
            "audio.output.format" | "audio.input.format" => format_to_ga(value),
            "audio.input.turn_detection" => none_to_null(value),
            "tool_choice" => tool_choice(value),
            _ => value,
        }
    }

    /// Whether a caller's value says the same as this one, which is written as GA writes it.
    pub(super) fn says(&self, value: &str, ga_value: &str) -> bool {
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        match (parse(&self.ga_value(Cow::Borrowed(value))), parse(ga_value)) {
            (Some(ours), Some(theirs)) => is_same(&ours, &theirs),
            _ => false,
        }
    }
}

/// Equality that takes `1` and `1.0` for the same number.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| is_same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Settings of a session by their paths in the GA shape, values as JSON texts in the GA shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    members: Vec<(String, String)>,
}

impl Settings {
    /// Takes a client's session apart. What only the deployment can say is left out.
    pub(super) fn of_session(mut session: Object<'_>, shape: Shape, kind: SessionKind) -> Self {
        let temperature = session.get("temperature").map(|value| value.to_string());
        for name in ["id", "object", "expires_at", "client_secret", "model"] {
            session.remove(name);
        }
        if shape == Shape::Preview {
            session = client_to_ga(session, kind);
        }
        session.remove("type");
        let mut settings = Self::default();
        for (name, value) in session.into_members() {
            match Object::from_value(&value).filter(|_| name == "audio") {
                Some(audio) => settings.set_audio(audio),
                None => settings.set(&name, &value),
            }
        }
        if let Some(temperature) = temperature {
            settings.set("temperature", &temperature);
        }
        settings
    }

    fn set_audio(&mut self, audio: Object<'_>) {
        for (direction, value) in audio.into_members() {
            let Some(inner) = Object::from_value(&value) else {
                self.set(&format!("audio.{direction}"), &value);
                continue;
            };
            for (name, value) in inner.into_members() {
                self.set(&format!("audio.{direction}.{name}"), &value);
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.members.iter().find(|(member, _)| member == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.members.iter_mut().find(|(member, _)| member == name) {
            Some(member) => value.clone_into(&mut member.1),
            None => self.members.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Sets what the other settings say.
    pub(super) fn set_all(&mut self, other: &Self) {
        for (name, value) in &other.members {
            self.set(name, value);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.members.retain(|(name, _)| keep(name));
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The event that sets a session to this at a deployment of that shape. What the shape has no place for is left
    /// out.
    pub(super) fn update(&self, event_id: &str, shape: Shape, kind: SessionKind) -> String {
        let mut parts = [Object::default(), Object::default(), Object::default()];
        parts[0].set("type", kind.ga_type());
        for (name, value) in &self.members {
            let (part, name) = match name.split_once('.') {
                Some(("audio", rest)) => match rest.split_once('.') {
                    Some(("input", name)) => (1, name),
                    Some(("output", name)) => (2, name),
                    _ => continue,
                },
                _ => (0, name.as_str()),
            };
            parts[part].set(name, value.as_str());
        }
        let [mut session, input, output] = parts;
        let mut audio = Object::default();
        for (name, part) in [("input", input), ("output", output)] {
            if !part.is_empty() {
                audio.set(name, part.write());
            }
        }
        if !audio.is_empty() {
            session.set("audio", audio.write());
        }
        let (session, event_type) = match (shape, kind) {
            (Shape::Ga, _) => {
                session.remove("temperature");
                (session, "\"session.update\"")
            }
            (Shape::Preview, SessionKind::Realtime) => {
                (client_to_preview(session), "\"session.update\"")
            }
            (Shape::Preview, SessionKind::Transcription) => (
                client_to_preview(session),
                "\"transcription_session.update\"",
            ),
        };
        let mut event = Object::default();
        event.set("type", event_type);
        event.set("event_id", super::json::quoted(event_id));
        event.set("session", session.write());
        event.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_go_by_both_names() {
        for (name, expected) in [
            ("voice", Some("audio.output.voice")),
            ("audio.output.voice", Some("audio.output.voice")),
            ("max_response_output_tokens", Some("max_output_tokens")),
            ("turn_detection", Some("audio.input.turn_detection")),
            ("audio.output", None),
            ("Voice", None),
            ("", None),
        ] {
            assert_eq!(Field::find(name).map(|field| field.name), expected);
        }
    }

    #[test]
    fn values_say_the_same_in_both_shapes() {
        let check = |name: &str, value: &str, ga_value: &str, expected: bool| {
            let field = Field::find(name).expect("known");
            assert_eq!(field.says(value, ga_value), expected, "{name} {value}");
        };
        check("voice", r#""mar\u0069n""#, r#""marin""#, true);
        check("voice", r#""Marin""#, r#""marin""#, false);
        check("voice", "null", r#""marin""#, false);
        check("speed", "1", "1.0", true);
        check("speed", "1.5", "1", false);
        check(
            "output_audio_format",
            r#""pcm16""#,
            r#"{"rate":24000,"type":"audio/pcm"}"#,
            true,
        );
        check("modalities", r#"["audio","text"]"#, r#"["audio"]"#, true);
        check("turn_detection", r#"{"type":"none"}"#, "null", true);
        check("tools", "[{},{}]", "[{}]", false);
        check("reasoning", r#"{"effort":"low"}"#, "{}", false);
    }

    #[test]
    fn settings_come_out_in_either_shape() {
        let session = r#"{"id":"s","model":"m","client_secret":{},"voice":"verse","temperature":0.7,"modalities":["text","audio"],"input_audio_format":"g711_ulaw","turn_detection":{"type":"none"}}"#;
        let settings = Settings::of_session(
            Object::parse(session).unwrap(),
            Shape::Preview,
            SessionKind::Realtime,
        );
        assert_eq!(
            settings.update("e", Shape::Ga, SessionKind::Realtime),
            r#"{"type":"session.update","event_id":"e","session":{"type":"realtime","output_modalities":["audio"],"audio":{"input":{"format":{"type":"audio/pcmu"},"turn_detection":null},"output":{"voice":"verse"}}}}"#
        );
        assert_eq!(
            settings.update("e", Shape::Preview, SessionKind::Realtime),
            r#"{"type":"session.update","event_id":"e","session":{"modalities":["text","audio"],"temperature":0.7,"input_audio_format":"g711_ulaw","turn_detection":null,"voice":"verse"}}"#
        );
    }

    #[test]
    fn a_transcription_session_has_its_own_event() {
        let session =
            r#"{"type":"transcription","audio":{"input":{"transcription":{"model":"whisper-1"}}}}"#;
        let settings = Settings::of_session(
            Object::parse(session).unwrap(),
            Shape::Ga,
            SessionKind::Transcription,
        );
        assert_eq!(
            settings.update("e", Shape::Preview, SessionKind::Transcription),
            r#"{"type":"transcription_session.update","event_id":"e","session":{"input_audio_transcription":{"model":"whisper-1"}}}"#
        );
    }
}
