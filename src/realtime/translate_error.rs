//! The paths that error events quote, between the shapes, so that a client finds the member that it sent.

use std::borrow::Cow;

use super::json::{Object, quoted};
use super::shape::Shape;

/// Preview path, GA path. Both shapes append to them (`.threshold`, `[0]`).
const PATHS: &[(&str, &str)] = &[
    ("session.modalities", "session.output_modalities"),
    ("session.voice", "session.audio.output.voice"),
    ("session.speed", "session.audio.output.speed"),
    ("session.output_audio_format", "session.audio.output.format"),
    ("session.input_audio_format", "session.audio.input.format"),
    (
        "session.input_audio_transcription",
        "session.audio.input.transcription",
    ),
    (
        "session.input_audio_noise_reduction",
        "session.audio.input.noise_reduction",
    ),
    (
        "session.turn_detection",
        "session.audio.input.turn_detection",
    ),
    (
        "session.max_response_output_tokens",
        "session.max_output_tokens",
    ),
    ("response.modalities", "response.output_modalities"),
    ("response.voice", "response.audio.output.voice"),
    (
        "response.output_audio_format",
        "response.audio.output.format",
    ),
];

/// Translates `param` and the paths quoted in `message` of an error body.
pub(super) fn error_body(mut error: Object<'_>, to: Shape) -> Object<'_> {
    let param = error.text("param").map(|param| quoted(&path(&param, to)));
    if let Some(param) = param {
        error.set("param", param);
    }
    let message = error
        .text("message")
        .map(|message| quoted(&message_paths(&message, to)));
    if let Some(message) = message {
        error.set("message", message);
    }
    error
}

fn path(path: &str, to: Shape) -> Cow<'_, str> {
    for &(preview, ga) in PATHS {
        let (from, into) = match to {
            Shape::Ga => (preview, ga),
            Shape::Preview => (ga, preview),
        };
        let Some(rest) = path.strip_prefix(from) else {
            continue;
        };
        if !(rest.is_empty() || rest.starts_with(['.', '['])) {
            continue;
        }
        // A preview format is a plain name: it has nothing below it.
        let is_format = to == Shape::Preview && from.ends_with(".format");
        return Cow::Owned(format!("{into}{}", if is_format { "" } else { rest }));
    }
    Cow::Borrowed(path)
}

/// Every second piece between single quotes may be a path.
fn message_paths(message: &str, to: Shape) -> String {
    let mut out = String::with_capacity(message.len());
    for (index, piece) in message.split('\'').enumerate() {
        if index > 0 {
            out.push('\'');
        }
        out.push_str(&path(piece, to));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_both_directions() {
        let check = |preview: &str, ga: &str| {
            assert_eq!(path(preview, Shape::Ga), ga);
            assert_eq!(path(ga, Shape::Preview), preview);
        };
        check("session.voice", "session.audio.output.voice");
        check(
            "session.turn_detection.threshold",
            "session.audio.input.turn_detection.threshold",
        );
        check("session.modalities[0]", "session.output_modalities[0]");
        check("session.tools[0].name", "session.tools[0].name");
        check("session.voices", "session.voices");
        assert_eq!(
            path("session.audio.input.format.type", Shape::Preview),
            "session.input_audio_format"
        );
    }

    #[test]
    fn messages_keep_their_other_words() {
        assert_eq!(
            message_paths(
                "Invalid 'session.audio.output.voice': can't be 'x'.",
                Shape::Preview
            ),
            "Invalid 'session.voice': can't be 'x'."
        );
        assert_eq!(message_paths("no quotes", Shape::Ga), "no quotes");
    }
}
