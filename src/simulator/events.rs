//! Names of server events in both shapes, and their text.
//!
//! `type` and `event_id` stand first, as on the vendor's wire.

use serde_json::Value;

use super::config::Shape;

/// Event types that differ between the shapes.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) text_delta: &'static str,
    pub(super) text_done: &'static str,
    pub(super) audio_delta: &'static str,
    pub(super) audio_done: &'static str,
    pub(super) transcript_delta: &'static str,
    pub(super) transcript_done: &'static str,
    pub(super) item_added: &'static str,
    pub(super) item_done: Option<&'static str>,
}

impl Shape {
    pub(super) fn names(self) -> &'static Names {
        match self {
            Self::Preview => &Names {
                text_delta: "response.text.delta",
                text_done: "response.text.done",
                audio_delta: "response.audio.delta",
                audio_done: "response.audio.done",
                transcript_delta: "response.audio_transcript.delta",
                transcript_done: "response.audio_transcript.done",
                item_added: "conversation.item.created",
                item_done: None,
            },
            Self::Ga => &Names {
                text_delta: "response.output_text.delta",
                text_done: "response.output_text.done",
                audio_delta: "response.output_audio.delta",
                audio_done: "response.output_audio.done",
                transcript_delta: "response.output_audio_transcript.delta",
                transcript_done: "response.output_audio_transcript.done",
                item_added: "conversation.item.added",
                item_done: Some("conversation.item.done"),
            },
        }
    }
}

/// An event with these further fields (an object).
pub(super) fn event_text(kind: &str, event_id: &str, fields: &Value) -> String {
    let fields = fields.to_string();
    let rest = fields.strip_prefix('{').unwrap_or("}");
    let comma = if rest == "}" { "" } else { "," };
    format!(r#"{{"type":"{kind}","event_id":"{event_id}"{comma}{rest}"#)
}

/// An audio delta. None of its strings needs escaping: ids and base64.
pub(super) fn audio_delta_text(
    kind: &str,
    event_id: &str,
    response_id: &str,
    item_id: &str,
    output_index: usize,
    delta: &str,
) -> String {
    format!(
        r#"{{"type":"{kind}","event_id":"{event_id}","response_id":"{response_id}","item_id":"{item_id}","output_index":{output_index},"content_index":0,"delta":"{delta}"}}"#
    )
}

/// The same fields and one more.
pub(super) fn with(mut fields: Value, name: &str, value: Value) -> Value {
    fields[name] = value;
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn type_and_id_come_first() {
        assert_eq!(
            event_text("a.b", "e", &json!({})),
            r#"{"type":"a.b","event_id":"e"}"#
        );
        assert_eq!(
            event_text("a.b", "e", &json!({"x": 1})),
            r#"{"type":"a.b","event_id":"e","x":1}"#
        );
    }
}
