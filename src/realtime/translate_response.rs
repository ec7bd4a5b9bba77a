//! Responses, items and content parts between the shapes (reference, protocol 2.1, 2.2, 3.2, 4.5, 4.6).
//!
//! Lost towards the preview shape: `parallel_tool_calls`, `reasoning`. Lost towards GA: `temperature` and the
//! leftovers of the first preview (`commit`, `cancel_previous`, `append_input_items`, `input_items`).

use std::borrow::Cow;

use super::json::{Object, elements};
use super::shape::Shape;
use super::translate_first::is_leftover;
use super::translate_session::{
    flatten_output, format_to_ga, modalities_to_ga, modalities_to_preview, tool_choice,
};

/// The `response` object of `response.create`, `response.created` and `response.done`.
pub(super) fn response(response: Object<'_>, to: Shape) -> Object<'_> {
    match to {
        Shape::Ga => response_to_ga(response),
        Shape::Preview => response_to_preview(response),
    }
}

fn response_to_ga(response: Object<'_>) -> Object<'_> {
    let mut out = Object::default();
    let mut output = Object::default();
    for (name, value) in response.into_members() {
        match &*name {
            "modalities" => out.set("output_modalities", modalities_to_ga(value)),
            "max_response_output_tokens" => out.set("max_output_tokens", value),
            "voice" => output.set(name, value),
            "output_audio_format" => output.set("format", format_to_ga(value)),
            "tool_choice" => out.set(name, tool_choice(value)),
            "input" | "output" => out.set(name, items(value, Shape::Ga)),
            "temperature" => {}
            name if is_leftover(name) => {}
            _ => out.set(name, value),
        }
    }
    if !output.is_empty() {
        out.set("audio", format!("{{\"output\":{}}}", output.write()));
    }
    out
}

fn response_to_preview(response: Object<'_>) -> Object<'_> {
    let mut out = Object::default();
    for (name, value) in response.into_members() {
        match &*name {
            "output_modalities" => out.set("modalities", modalities_to_preview(value)),
            "audio" => match Object::from_value(&value) {
                Some(audio) => {
                    if let Some(output) = audio.get("output").and_then(Object::from_value) {
                        flatten_output(output, &mut out);
                    }
                }
                None => out.set(name, value),
            },
            "tool_choice" => out.set(name, tool_choice(value)),
            "input" | "output" => out.set(name, items(value, Shape::Preview)),
            "parallel_tool_calls" | "reasoning" => {}
            _ => out.set(name, value),
        }
    }
    out
}

/// Adds what strict preview clients need in a server's response.
pub(super) fn complete_preview_response(response: &mut Object<'_>, temperature: &str) {
    response.set("temperature", temperature.to_owned());
    let Some(mut usage) = response.get("usage").and_then(Object::from_value) else {
        return;
    };
    let input = details(
        &usage,
        "input_token_details",
        &["cached_tokens", "text_tokens", "audio_tokens"],
    );
    let output = details(
        &usage,
        "output_token_details",
        &["text_tokens", "audio_tokens"],
    );
    usage.set("input_token_details", input);
    usage.set("output_token_details", output);
    response.set("usage", usage.write());
}

fn details(usage: &Object<'_>, name: &str, needed: &[&'static str]) -> String {
    let mut details = usage
        .get(name)
        .and_then(Object::from_value)
        .unwrap_or_default();
    needed
        .iter()
        .for_each(|name| details.set_default(name, "0"));
    details.write()
}

fn items(value: Cow<'_, str>, to: Shape) -> Cow<'_, str> {
    map_elements(value, |element| item(element, to))
}

/// One item. Only what the assistant said is named differently.
pub(super) fn item(value: Cow<'_, str>, to: Shape) -> Cow<'_, str> {
    let Some(mut item) = Object::from_value(&value) else {
        return value;
    };
    if item.is("role", "user") || item.is("role", "system") {
        return value;
    }
    let Some(content) = item.get("content").cloned() else {
        return value;
    };
    item.set(
        "content",
        map_elements(content, |part| content_part(part, to)),
    );
    Cow::Owned(item.write())
}

fn content_part(value: Cow<'_, str>, to: Shape) -> Cow<'_, str> {
    let Some(mut part) = Object::from_value(&value) else {
        return value;
    };
    let renamed = match (part.text("type").as_deref(), to) {
        (Some("text"), Shape::Ga) => "\"output_text\"",
        (Some("audio"), Shape::Ga) => "\"output_audio\"",
        (Some("output_text"), Shape::Preview) => "\"text\"",
        (Some("output_audio"), Shape::Preview) => "\"audio\"",
        _ => return value,
    };
    part.set("type", renamed);
    Cow::Owned(part.write())
}

fn map_elements<'a>(
    value: Cow<'a, str>,
    map: impl Fn(Cow<'_, str>) -> Cow<'_, str>,
) -> Cow<'a, str> {
    let Some(elements) = elements(&value) else {
        return value;
    };
    let mapped: Vec<_> = elements
        .into_iter()
        .map(|element| map(Cow::Borrowed(element)))
        .collect();
    Cow::Owned(format!("[{}]", mapped.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ours: &str, to: Shape, expected: &str) {
        assert_eq!(response(Object::parse(ours).unwrap(), to).write(), expected);
    }

    #[test]
    fn leftovers_of_the_first_preview_are_dropped() {
        check(
            r#"{"commit":true,"cancel_previous":true,"append_input_items":[],"input_items":[],"instructions":"x"}"#,
            Shape::Ga,
            r#"{"instructions":"x"}"#,
        );
    }

    #[test]
    fn the_callers_content_is_left_alone() {
        let user = r#"{"role":"user","content":[{"type":"text","text":"x"}]}"#;
        assert_eq!(item(Cow::Borrowed(user), Shape::Ga), user);
    }

    #[test]
    fn usage_is_completed() {
        let mut response = Object::parse(
            r#"{"usage":{"total_tokens":3,"input_token_details":{"text_tokens":2}}}"#,
        )
        .unwrap();
        complete_preview_response(&mut response, "0.8");
        assert_eq!(
            response.write(),
            r#"{"usage":{"total_tokens":3,"input_token_details":{"text_tokens":2,"cached_tokens":0,"audio_tokens":0},"output_token_details":{"text_tokens":0,"audio_tokens":0}},"temperature":0.8}"#
        );
    }
}
