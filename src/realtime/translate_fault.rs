//! What a deployment would say to a client's event that must not be passed on (reference, protocol 3.4).

use super::json::{Object, elements, quoted};
use super::shape::Shape;

/// Why an event is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    code: &'static str,
    message: String,
    /// Path of the member that is to blame.
    param: Option<String>,
}

impl Fault {
    /// Not an event at all.
    pub(super) fn malformed(problem: &str) -> Self {
        Self {
            code: "invalid_event",
            message: format!("The event could not be read: {problem}."),
            param: None,
        }
    }

    pub(super) const fn new(code: &'static str, message: String, param: Option<String>) -> Self {
        Self {
            code,
            message,
            param,
        }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    pub(super) fn unknown(param: String) -> Self {
        Self {
            code: "unknown_parameter",
            message: format!("Unknown parameter: '{param}'."),
            param: Some(param),
        }
    }

    pub(super) fn invalid(param: String, expected: &str) -> Self {
        Self {
            code: "invalid_value",
            message: format!("Invalid value for '{param}': expected {expected}."),
            param: Some(param),
        }
    }

    /// The `error` event. Both ids are JSON texts, `client_id` that of the client's event.
    pub(super) fn event(&self, event_id: String, client_id: &str) -> String {
        let param = self.param.as_deref().map_or("null".to_owned(), quoted);
        let mut error = Object::default();
        error.set("type", "\"invalid_request_error\"");
        error.set("code", quoted(self.code));
        error.set("message", quoted(&self.message));
        error.set("param", param);
        error.set("event_id", client_id);
        let mut answer = Object::default();
        answer.set("type", "\"error\"");
        answer.set("event_id", event_id);
        answer.set("error", error.write());
        answer.write()
    }
}

/// What a deployment of the client's shape would say to this session. Values are looked at only if they are to
/// cross to the other shape and would be lost there; all others the deployment itself refuses.
pub(super) fn session_fault(
    kind: &str,
    session: Option<&Object<'_>>,
    shape: Shape,
    crosses: bool,
) -> Option<Fault> {
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
            param: Some("type".to_owned()),
        });
    }
    let session = session?;
    let foreign = match shape {
        Shape::Preview => GA_ONLY,
        Shape::Ga if !session.contains("type") => {
            return Some(Fault {
                code: "missing_required_parameter",
                message: "Missing required parameter: 'session.type'.".to_owned(),
                param: Some("session.type".to_owned()),
            });
        }
        Shape::Ga => PREVIEW_ONLY,
    };
    let unknown = unknown_member("session", session, foreign);
    unknown.or_else(|| crosses.then(|| lost_value("session", session, shape))?)
}

/// The same for the `response` of a `response.create` that crosses to the other shape.
pub(super) fn response_fault(response: &Object<'_>, shape: Shape) -> Option<Fault> {
    let foreign: &[&str] = match shape {
        Shape::Preview => &["output_modalities", "audio"],
        Shape::Ga => &["modalities", "voice", "output_audio_format", "temperature"],
    };
    let unknown = unknown_member("response", response, foreign);
    unknown.or_else(|| lost_value("response", response, shape))
}

fn unknown_member(place: &str, object: &Object<'_>, foreign: &[&str]) -> Option<Fault> {
    let name = object.names().find(|name| foreign.contains(name))?;
    Some(Fault::unknown(format!("{place}.{name}")))
}

/// A value out of range that the other shape would make a good one of, or has no place for (reference, protocol
/// 2.1 and 4.1).
fn lost_value(place: &str, object: &Object<'_>, shape: Shape) -> Option<Fault> {
    let (name, sets, expected): (_, &[&[&str]], _) = match shape {
        Shape::Preview => (
            "modalities",
            &[&["\"text\""], &["\"audio\"", "\"text\""]],
            "['text'] or ['audio', 'text']",
        ),
        Shape::Ga => (
            "output_modalities",
            &[&["\"text\""], &["\"audio\""]],
            "['text'] or ['audio']",
        ),
    };
    if let Some(mut names) = object.get(name).and_then(|value| elements(value)) {
        names.sort_unstable();
        if !sets.contains(&names.as_slice()) {
            return Some(Fault::invalid(format!("{place}.{name}"), expected));
        }
    }
    let temperature = object
        .get("temperature")
        .filter(|value| **value != "null")?;
    let is_good = serde_json::from_str::<f64>(temperature)
        .is_ok_and(|temperature| (0.6..=1.2).contains(&temperature));
    (!is_good).then(|| Fault::invalid(format!("{place}.temperature"), "a number from 0.6 to 1.2"))
}
