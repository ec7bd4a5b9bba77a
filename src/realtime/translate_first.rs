//! Clients of the first preview (api-version `2024-...`): what they send that nobody knows any more, and what they
//! cannot bear to be sent (reference, protocol 2.1 and 7).
//!
//! Between these clients and a deployment some events change even if both speak the preview shape.

use std::borrow::Cow;

use super::json::Object;
use super::translate_session::{DEFAULT_TURN_DETECTION, none_to_null};

/// The voices of the preview shape; strict clients take no other.
const VOICES: &[&str] = &[
    "alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse",
];

/// Members of a client's `response` that every later deployment ignores or refuses.
pub(super) fn is_leftover(name: &str) -> bool {
    matches!(
        name,
        "commit" | "cancel_previous" | "append_input_items" | "input_items"
    )
}

/// A client's `response` without leftovers.
pub(super) fn client_response(response: Object<'_>) -> Object<'_> {
    let mut out = Object::default();
    for (name, value) in response.into_members() {
        if !is_leftover(&name) {
            out.set(name, value);
        }
    }
    out
}

/// A client's session for a deployment that knows no turn detection of type `none`.
pub(super) fn client_session(mut session: Object<'_>) -> Object<'_> {
    if let Some(detection) = session.get("turn_detection").cloned() {
        session.set("turn_detection", none_to_null(detection));
    }
    session
}

/// A deployment's session of the preview shape for such a client: voices and turn detections that it does not know
/// become the nearest that it does. Only the echo changes, not the session.
pub(super) fn server_session(mut session: Object<'_>) -> Object<'_> {
    if session.contains("voice") && !VOICES.iter().any(|voice| session.is("voice", voice)) {
        session.set("voice", "\"alloy\"");
    }
    if let Some(detection) = session.get("turn_detection").cloned() {
        session.set("turn_detection", known_detection(detection));
    }
    session
}

fn known_detection(detection: Cow<'_, str>) -> Cow<'_, str> {
    match Object::from_value(&detection) {
        Some(object) if object.is("type", "server_vad") || object.is("type", "none") => detection,
        Some(_) => Cow::Borrowed(DEFAULT_TURN_DETECTION),
        None => Cow::Borrowed(r#"{"type":"none"}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_for_strict_clients() {
        let check = |session: &str, expected: &str| {
            assert_eq!(
                server_session(Object::parse(session).unwrap()).write(),
                expected
            );
        };
        check(r#"{"voice":"sage"}"#, r#"{"voice":"sage"}"#);
        check(r#"{"voice":"marin"}"#, r#"{"voice":"alloy"}"#);
        check(r#"{"voice":{"id":"voice_1"}}"#, r#"{"voice":"alloy"}"#);
        check("{}", "{}");
        check(
            r#"{"turn_detection":null}"#,
            r#"{"turn_detection":{"type":"none"}}"#,
        );
        let kept = r#"{"turn_detection":{"type":"server_vad","threshold":0.7}}"#;
        check(kept, kept);
        check(
            r#"{"turn_detection":{"type":"semantic_vad"}}"#,
            &format!("{{\"turn_detection\":{DEFAULT_TURN_DETECTION}}}"),
        );
    }
}
