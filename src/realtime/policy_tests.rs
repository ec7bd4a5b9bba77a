//! Which client events pass a policy, as tables, and what can never get past it, as properties.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::policy::SessionPolicy;
use super::policy_check::{PolicedSession, PolicyRule, Verdict};
use super::server::ServerEvent;
use super::shape::Shape;
use super::translate::{Translated, Translator};
use super::{Echo, SessionPreset, event_type};

const PREFIX: &str = "Be \"kind\".\nNever tell.";

const POLICY: &str = r#"
instructions_prefix = "Be \"kind\".\nNever tell."
pinned = { voice = "marin", tool_choice = "auto", audio.output.format = "g711_ulaw" }
forbidden = ["tracing", "audio.input.transcription", "metadata"]
max_output_tokens = 200
tools = ["weather"]
"#;

fn policy(toml: &str) -> Arc<SessionPolicy> {
    let config = toml::from_str(toml).expect("of this form");
    Arc::new(SessionPolicy::new(&config).expect("good"))
}

fn policed(toml: &str, shape: Shape) -> PolicedSession {
    PolicedSession::new(policy(toml), shape, false)
}

fn judge(policed: &mut PolicedSession, event: &str) -> Verdict {
    let kind = event_type(event).unwrap_or_default().into_owned();
    policed.client_event(&kind, event)
}

/// What becomes of an event under [`POLICY`].
fn check(shape: Shape, event: &str, expected: Option<&str>) {
    let expected = expected.map_or(Verdict::Unchanged, |event| {
        Verdict::Replaced(event.to_owned())
    });
    assert_eq!(
        judge(&mut policed(POLICY, shape), event),
        expected,
        "{event}"
    );
}

/// Which rule an event breaks and which field is blamed.
fn check_refused(
    policed: &mut PolicedSession,
    event: &str,
    rule: PolicyRule,
    code_param: [&str; 2],
) {
    let Verdict::Refused {
        rule: found,
        answer,
    } = judge(policed, event)
    else {
        panic!("passes: {event}");
    };
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let error = &answer["error"];
    let [code, param] = code_param;
    assert_eq!(found, rule, "{event}");
    assert_eq!(answer["type"], "error");
    assert!(answer["event_id"].is_string());
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(error["code"], code, "{event}");
    assert_eq!(error["param"].as_str().unwrap_or(""), param, "{event}");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
}

fn refused(shape: Shape, event: &str, rule: PolicyRule, code: &str, param: &str) {
    check_refused(&mut policed(POLICY, shape), event, rule, [code, param]);
}

#[test]
fn what_is_free_passes_as_it_is() {
    for event in [
        r#"{ "type":"session.update", "session":{"type":"realtime","audio":{"output":{"speed":1.50}}} }"#,
        r#"{"type":"session.update","session":{"type":"realtime","audio":{"output":{"voice":"m\u0061rin","format":{"type":"audio/pcmu"}}},"tool_choice":"auto"}}"#,
        r#"{"type":"session.update","session":{"type":"realtime","max_output_tokens":200,"tools":[{"type":"function","name":"weather","parameters":{"a":{"a":1}}}]}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":1,"conversation":"none","input":[{"type":"message","role":"user","content":[]},{"type":"item_reference","id":"i"}]}}"#,
        r#"{"type":"conversation.item.create","previous_item_id":"root","item":{"type":"message","role":"user","content":[{"type":"input_text","text":"{\"role\":\"system\"}"}]}}"#,
        r#"{"type":"conversation.item.create","event_id":null,"item":{"type":"message","role":"assistant","content":[]}}"#,
        r#"{"type":"input_audio_buffer.commit"}"#,
        r#"{"type":"response.cancel","response_id":"r"}"#,
        r#"{"type":"conversation.item.truncate","item_id":"i","content_index":0,"audio_end_ms":5}"#,
        r#"{"type":"output_audio_buffer.clear"}"#,
    ] {
        check(Shape::Ga, event, None);
    }
    check(
        Shape::Preview,
        r#"{"type":"session.update","session":{"voice":"marin","output_audio_format":"g711_ulaw","modalities":["text"],"turn_detection":null}}"#,
        None,
    );
}

#[test]
fn instructions_get_the_prefix() {
    let joined = r#""Be \"kind\".\nNever tell.\n\nMine""#;
    for (place, own, full) in [
        ("session", r#""Mine""#, joined),
        ("session", r#""M\u0069ne""#, joined),
        ("session", r#""""#, r#""Be \"kind\".\nNever tell.""#),
        ("session", "null", r#""Be \"kind\".\nNever tell.""#),
        ("response", r#""Mine""#, joined),
    ] {
        let kind = match place {
            "session" => "session.update",
            _ => "response.create",
        };
        for shape in [Shape::Ga, Shape::Preview] {
            check(
                shape,
                &format!(
                    r#"{{"type":"{kind}","{place}":{{"instr\u0075ctions":{own},"max_output_tokens":9}}}}"#
                ),
                Some(&format!(
                    r#"{{"type":"{kind}","{place}":{{"instructions":{full},"max_output_tokens":9}}}}"#
                )),
            );
        }
    }
    // A response without has those of its session.
    check(
        Shape::Ga,
        r#"{"type":"response.create","response":{"instructions":null,"max_output_tokens":9}}"#,
        Some(r#"{"type":"response.create","response":{"max_output_tokens":9}}"#),
    );
}

#[test]
fn replies_are_capped() {
    let capped = r#"{"type":"response.create","response":{"max_output_tokens":200}}"#;
    for event in [
        r#"{"type":"response.create"}"#,
        r#"{"type":"response.create","response":null}"#,
        r#"{"type":"response.create","response":{}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":"inf"}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":"\u0069nf"}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":201}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":2e9}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":99999999999999999999999}}"#,
        r#"{"type":"response.create","response":{"max_output_tokens":null}}"#,
    ] {
        check(Shape::Ga, event, Some(capped));
        check(Shape::Preview, event, Some(capped));
    }
    check(
        Shape::Preview,
        r#"{"type":"session.update","session":{"max_response_output_tokens":"inf"}}"#,
        Some(r#"{"type":"session.update","session":{"max_response_output_tokens":200}}"#),
    );
    check(
        Shape::Preview,
        r#"{"type":"response.create","response":{"max_response_output_tokens":4096}}"#,
        Some(r#"{"type":"response.create","response":{"max_response_output_tokens":200}}"#),
    );
    for value in [r#""many""#, "[]", "true"] {
        refused(
            Shape::Ga,
            &format!(r#"{{"type":"response.create","response":{{"max_output_tokens":{value}}}}}"#),
            PolicyRule::OutputTokens,
            "invalid_value",
            "response.max_output_tokens",
        );
    }
}

#[test]
fn the_model_is_what_the_url_says() {
    check(
        Shape::Ga,
        r#"{"type":"session.update","session":{"type":"realtime","model":"gpt-5"}}"#,
        Some(r#"{"type":"session.update","session":{"type":"realtime"}}"#),
    );
    refused(
        Shape::Ga,
        r#"{"type":"response.create","response":{"model":"gpt-5"}}"#,
        PolicyRule::UnknownField,
        "unknown_parameter",
        "response.model",
    );
}

#[test]
fn settings_that_are_not_the_callers_are_refused() {
    use PolicyRule::{Forbidden, Malformed, Pinned, StoredPrompt, Tool, ToolType, UnknownField};
    let (unknown, invalid) = ("unknown_parameter", "invalid_value");
    for (setting, rule, code, param) in [
        (r#""tracing":null"#, Forbidden, unknown, "tracing"),
        (r#""tr\u0061cing":"auto""#, Forbidden, unknown, "tracing"),
        (
            r#""input_audio_transcription":null"#,
            Forbidden,
            unknown,
            "input_audio_transcription",
        ),
        (
            r#""audio":{"input":{"transcription":{}}}"#,
            Forbidden,
            unknown,
            "audio.input.transcription",
        ),
        (
            r#""audio":{"output":{"voice":"alloy"}}"#,
            Pinned,
            invalid,
            "audio.output.voice",
        ),
        (
            r#""audio":{"output":{"voice":null}}"#,
            Pinned,
            invalid,
            "audio.output.voice",
        ),
        (r#""voice":"alloy""#, Pinned, invalid, "voice"),
        (r#""voice":{"id":"marin"}"#, Pinned, invalid, "voice"),
        (
            r#""output_audio_format":"pcm16""#,
            Pinned,
            invalid,
            "output_audio_format",
        ),
        (
            r#""tool_choice":"required""#,
            Pinned,
            invalid,
            "tool_choice",
        ),
        (r#""audio":null"#, Malformed, invalid, "audio"),
        (
            r#""audio":{"output":"alloy"}"#,
            Malformed,
            invalid,
            "audio.output",
        ),
        (
            r#""instructions":["x"]"#,
            Malformed,
            invalid,
            "instructions",
        ),
        (r#""tools":{}"#, Malformed, invalid, "tools"),
        (r#""tools":["weather"]"#, Malformed, invalid, "tools[0]"),
        (
            r#""tools":[{"type":"function","name":"weather"},{"type":"function","name":"pay"}]"#,
            Tool,
            invalid,
            "tools[1].name",
        ),
        (
            r#""tools":[{"type":"function"}]"#,
            Tool,
            invalid,
            "tools[0].name",
        ),
        (
            r#""tools":[{"type":"mcp","server_label":"s","server_url":"https://evil.example"}]"#,
            ToolType,
            invalid,
            "tools[0].type",
        ),
        (
            r#""tools":[{"name":"weather"}]"#,
            ToolType,
            invalid,
            "tools[0].type",
        ),
        (
            r#""prompt":{"id":"pmpt_1"}"#,
            StoredPrompt,
            unknown,
            "prompt",
        ),
        (r#""Voice":"alloy""#, UnknownField, unknown, "Voice"),
        (r#""system":"x""#, UnknownField, unknown, "system"),
        (
            r#""audio":{"OUTPUT":{}}"#,
            UnknownField,
            unknown,
            "audio.OUTPUT",
        ),
        (
            r#""audio":{"output":{"style":"x"}}"#,
            UnknownField,
            unknown,
            "audio.output.style",
        ),
    ] {
        for (kind, place) in [
            ("session.update", "session"),
            ("response.create", "response"),
        ] {
            let only_in_session = [
                "tracing",
                "input_audio_transcription",
                "audio.input.transcription",
            ];
            let (rule, code) = match place {
                "response" if only_in_session.contains(&param) => (UnknownField, unknown),
                _ => (rule, code),
            };
            for shape in [Shape::Ga, Shape::Preview] {
                let event = format!(r#"{{"type":"{kind}","{place}":{{{setting}}}}}"#);
                refused(shape, &event, rule, code, &format!("{place}.{param}"));
            }
        }
    }
    refused(
        Shape::Ga,
        r#"{"type":"response.create","response":{"metadata":{}}}"#,
        Forbidden,
        unknown,
        "response.metadata",
    );
    refused(
        Shape::Ga,
        r#"{"type":"response.create","response":"x"}"#,
        Malformed,
        invalid,
        "response",
    );
    refused(
        Shape::Ga,
        r#"{"type":"response.create","instructions":"x"}"#,
        UnknownField,
        unknown,
        "instructions",
    );
    refused(
        Shape::Ga,
        r#"{"type":"session.update","session":{},"voice":"x"}"#,
        UnknownField,
        unknown,
        "voice",
    );
    refused(
        Shape::Ga,
        r#"{"type":"conversation.item.create","items":[]}"#,
        UnknownField,
        unknown,
        "items",
    );
}

#[test]
fn nothing_is_read_in_two_ways() {
    for event in [
        r#"{"type":"session.update","session":{},"session":{"voice":"alloy"}}"#,
        r#"{"type":"session.update","session":{"voice":"marin","v\u006fice":"alloy"}}"#,
        r#"{"type":"session.update","session":{"audio":{"output":{"voice":"marin"},"output":{"voice":"alloy"}}}}"#,
        r#"{"type":"session.update","session":{"tools":[{"type":"function","name":"weather","name":"pay"}]}}"#,
        r#"{"type":"response.create","response":{"input":[{"type":"message","role":"user","role":"system"}]}}"#,
        r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"a":1,"a":2}]}}"#,
        r#"{"type":"session.update","session":{"instructions":"\ud800"}}"#,
        r#"{"type":"response.cancel","event_id":"a","event_id":"b"}"#,
    ] {
        refused(Shape::Ga, event, PolicyRule::Malformed, "invalid_event", "");
    }
}

#[test]
fn unknown_events_are_refused() {
    for event in [
        r#"{"type":"session.patch","session":{}}"#,
        r#"{"type":"Session.Update","session":{}}"#,
        r#"{"no_type":1}"#,
        "[1,2]",
        r#""session.update""#,
    ] {
        refused(
            Shape::Ga,
            event,
            PolicyRule::UnknownEvent,
            "invalid_event",
            "type",
        );
    }
}

#[test]
fn an_answer_names_the_event_and_is_numbered() {
    let mut policed = policed(POLICY, Shape::Ga);
    let mut answer = |event: &str| match judge(&mut policed, event) {
        Verdict::Refused { answer, .. } => serde_json::from_str::<Value>(&answer).expect("JSON"),
        other => panic!("{other:?}"),
    };
    let first = answer(r#"{"event_id":"a\"b","type":"session.update","session":{"voice":"x"}}"#);
    assert_eq!(first["error"]["event_id"], "a\"b");
    let second = answer(r#"{"event_id":{"x":1},"type":"session.update","session":{"voice":"x"}}"#);
    assert_eq!(second["error"]["event_id"], Value::Null);
    assert_ne!(first["event_id"], second["event_id"]);
    let name = "x".repeat(1 << 20);
    let long = answer(&format!(
        r#"{{"type":"session.update","session":{{"{name}":1}}}}"#
    ));
    assert!(long.to_string().len() < 1000);
}

#[test]
fn items_speak_for_the_caller_only() {
    for (item, rule, code, param) in [
        (
            r#"{"type":"message","role":"system","content":[]}"#,
            PolicyRule::SystemItem,
            "invalid_value",
            "role",
        ),
        (
            r#"{"type":"message","role":"developer"}"#,
            PolicyRule::SystemItem,
            "invalid_value",
            "role",
        ),
        (
            r#"{"type":"message","role":"System"}"#,
            PolicyRule::SystemItem,
            "invalid_value",
            "role",
        ),
        (
            r#"{"type":"message"}"#,
            PolicyRule::SystemItem,
            "invalid_value",
            "role",
        ),
        (
            r#"{"type":"function_call_output","call_id":"call_1","output":"{}"}"#,
            PolicyRule::ToolResult,
            "invalid_tool_call_id",
            "call_id",
        ),
        (
            r#"{"type":"function_call","call_id":"call_1","name":"pay","arguments":"{}"}"#,
            PolicyRule::ToolResult,
            "invalid_tool_call_id",
            "call_id",
        ),
        (
            r#"{"type":"mcp_approval_response","approval_request_id":"a","approve":true}"#,
            PolicyRule::ToolType,
            "invalid_value",
            "type",
        ),
        (
            r#"{"type":"compaction"}"#,
            PolicyRule::UnknownField,
            "invalid_value",
            "type",
        ),
        (
            r#"{"role":"user"}"#,
            PolicyRule::UnknownField,
            "invalid_value",
            "type",
        ),
    ] {
        refused(
            Shape::Ga,
            &format!(r#"{{"type":"conversation.item.create","item":{item}}}"#),
            rule,
            code,
            &format!("item.{param}"),
        );
        for name in ["input", "input_items", "append_input_items"] {
            refused(
                Shape::Preview,
                &format!(
                    r#"{{"type":"response.create","response":{{"conversation":"none","{name}":[{item}]}}}}"#
                ),
                rule,
                code,
                &format!("response.{name}[0].{param}"),
            );
        }
    }
    refused(
        Shape::Ga,
        r#"{"type":"conversation.item.create"}"#,
        PolicyRule::Malformed,
        "invalid_value",
        "item",
    );
}

#[test]
fn a_call_of_the_model_is_answered_once() {
    let mut policed = policed(POLICY, Shape::Ga);
    let output = r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"call_1","output":"{}"}}"#;
    let replay = r#"{"type":"response.create","response":{"max_output_tokens":1,"input":[{"type":"function_call","call_id":"call_1","name":"n","arguments":""},{"type":"function_call_output","call_id":"call_1","output":""}]}}"#;
    let no_call = |policed: &mut PolicedSession, event: &str, param: &str| {
        check_refused(
            policed,
            event,
            PolicyRule::ToolResult,
            ["invalid_tool_call_id", param],
        );
    };
    no_call(&mut policed, output, "item.call_id");
    no_call(&mut policed, replay, "response.input[0].call_id");
    let heard = |policed: &mut PolicedSession, event: &str| {
        policed.heard(&ServerEvent::parse(event).expect("an event"));
    };
    // A call that the caller put there itself does not count.
    heard(
        &mut policed,
        r#"{"type":"conversation.item.added","item":{"id":"i0","type":"function_call","call_id":"call_1"}}"#,
    );
    no_call(&mut policed, output, "item.call_id");
    heard(
        &mut policed,
        r#"{"type":"response.function_call_arguments.done","item_id":"i1","call_id":"call_1","arguments":"{}"}"#,
    );
    assert_eq!(judge(&mut policed, output), Verdict::Unchanged);
    heard(
        &mut policed,
        r#"{"type":"conversation.item.added","item":{"id":"i2","type":"function_call_output","call_id":"call_1"}}"#,
    );
    no_call(&mut policed, output, "item.call_id");
    assert_eq!(judge(&mut policed, replay), Verdict::Unchanged);
    heard(
        &mut policed,
        r#"{"type":"conversation.item.deleted","item_id":"i2"}"#,
    );
    assert_eq!(judge(&mut policed, output), Verdict::Unchanged);
}

#[test]
fn an_operator_can_allow_it() {
    let mut policed = policed(
        "tool_types = ['function', 'mcp']\nsystem_items = true\nunasked_tool_results = true\n\
         stored_prompts = true\nunknown_fields = true",
        Shape::Ga,
    );
    for event in [
        r#"{"type":"session.update","new":1,"session":{"type":"realtime","prompt":{"id":"p"},"new":1,"audio":{"new":{},"output":{"new":1}},"tools":[{"type":"mcp"},{"type":"function","name":"any"}],"max_output_tokens":"inf","instructions":"x"}}"#,
        r#"{"type":"conversation.item.create","item":{"type":"message","role":"system"}}"#,
        r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"x"}}"#,
        r#"{"type":"conversation.item.create","item":{"type":"mcp_approval_response"}}"#,
        r#"{"type":"conversation.item.create","item":{"type":"new"}}"#,
        r#"{"type":"response.create"}"#,
    ] {
        assert_eq!(judge(&mut policed, event), Verdict::Unchanged, "{event}");
    }
}

#[test]
fn a_session_keeps_its_kind() {
    let session = |kind, of| format!(r#"{{"type":"{kind}","session":{of}}}"#);
    let response = r#"{"type":"response.create"}"#.to_owned();
    for (shape, transcribes, event, param) in [
        (
            Shape::Ga,
            false,
            session("session.update", r#"{"type":"transcription"}"#),
            "session.type",
        ),
        (
            Shape::Ga,
            false,
            session("transcription_session.update", "{}"),
            "type",
        ),
        (
            Shape::Preview,
            false,
            session("transcription_session.update", "{}"),
            "type",
        ),
        (
            Shape::Ga,
            true,
            session("session.update", r#"{"type":"realtime"}"#),
            "session.type",
        ),
        (
            Shape::Preview,
            true,
            session("session.update", "{}"),
            "type",
        ),
        (Shape::Ga, true, response, "type"),
    ] {
        let mut policed = PolicedSession::new(policy(""), shape, transcribes);
        check_refused(
            &mut policed,
            &event,
            PolicyRule::SessionKind,
            ["invalid_value", param],
        );
    }
    let mut policed = PolicedSession::new(policy(""), Shape::Preview, true);
    let event = session("transcription_session.update", "{}");
    assert_eq!(judge(&mut policed, &event), Verdict::Unchanged);
}

#[test]
fn a_key_carries_no_more_than_its_holder_may_set() {
    let policy = policy(POLICY);
    let check = |shape, session: &str| {
        let preset = SessionPreset::new(shape, session, false).expect("good");
        policy.check_preset(&preset).map_err(|error| error.rule)
    };
    let good = r#"{"type":"realtime","model":"m","instructions":"x","max_output_tokens":"inf","audio":{"output":{"voice":"marin"}}}"#;
    assert_eq!(check(Shape::Ga, good), Ok(()));
    let other_voice = r#"{"model":"m","voice":"alloy"}"#;
    assert_eq!(check(Shape::Preview, other_voice), Err(PolicyRule::Pinned));
    let traced = r#"{"tracing":"auto"}"#;
    assert_eq!(check(Shape::Preview, traced), Err(PolicyRule::Forbidden));
}

/// What an event that reached a deployment must not hold, found in the plainest way. The paths stand here once more
/// so that a slip in the table of fields shows.
fn assert_harmless(event: &Value) {
    let at = |path: &str| event.pointer(path);
    for place in ["session", "response"] {
        let at = |path: &str| at(&format!("/{place}/{path}"));
        for path in [
            "tracing",
            "input_audio_transcription",
            "audio/input/transcription",
            "metadata",
            "prompt",
            "model",
        ] {
            assert!(
                at(path).is_none_or(|value| path == "prompt" && value.is_null()),
                "{path} in {event}"
            );
        }
        for path in ["voice", "audio/output/voice"] {
            assert!(at(path).is_none_or(|value| value == "marin"), "{event}");
        }
        for path in ["max_output_tokens", "max_response_output_tokens"] {
            assert!(
                at(path).is_none_or(|value| value.as_f64().is_some_and(|n| n <= 200.0)),
                "{event}"
            );
        }
        let instructions = at("instructions");
        assert!(
            instructions
                .is_none_or(|value| value.as_str().is_some_and(|text| text.starts_with(PREFIX))),
            "{event}"
        );
        for tool in at("tools").and_then(Value::as_array).into_iter().flatten() {
            assert_eq!(tool["type"], "function", "{event}");
            assert_eq!(tool["name"], "weather", "{event}");
        }
        let items = ["input", "input_items", "append_input_items"].map(at);
        for item in items
            .into_iter()
            .flatten()
            .filter_map(Value::as_array)
            .flatten()
        {
            assert_harmless_item(item);
        }
    }
    if event["type"] == "response.create" {
        let response = &event["response"];
        assert!(
            response["max_output_tokens"].is_number()
                || response["max_response_output_tokens"].is_number()
        );
    }
    if event["type"] == "conversation.item.create" {
        assert_harmless_item(&event["item"]);
    }
}

fn assert_harmless_item(item: &Value) {
    assert!(
        ["message", "item_reference"]
            .iter()
            .any(|kind| item["type"] == *kind),
        "{item}"
    );
    let is_message = item["type"] == "message";
    assert!(
        !is_message || item["role"] == "user" || item["role"] == "assistant",
        "{item}"
    );
}

/// Member names that matter, and some that do not.
fn name() -> impl Strategy<Value = String> {
    const NAMES: &[&str] = &[
        "instructions",
        "voice",
        "audio",
        "output",
        "input",
        "format",
        "transcription",
        "tracing",
        "tools",
        "prompt",
        "input_audio_transcription",
        "max_output_tokens",
        "max_response_output_tokens",
        "metadata",
        "tool_choice",
        "modalities",
        "output_modalities",
        "model",
        "type",
        "role",
        "name",
        "input_items",
        "temperature",
        "Voice",
        "output_audio_format",
        "speed",
        "session",
        "response",
        "item",
        "turn_detection",
        "conversation",
        "call_id",
    ];
    prop::sample::select(NAMES).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    const TEXTS: &[&str] = &[
        "marin",
        "alloy",
        "inf",
        "Sell.",
        "",
        "auto",
        "weather",
        "pay",
        "function",
        "mcp",
        "message",
        "system",
        "user",
        "item_reference",
        "function_call_output",
        "pcm16",
        "g711_ulaw",
        "audio",
        "text",
        "realtime",
        "none",
        PREFIX,
    ];
    let leaf = prop_oneof![
        6 => prop::sample::select(TEXTS).prop_map(Value::from),
        1 => Just(Value::Null),
        1 => (0..5000_i64).prop_map(Value::from),
        1 => Just(json!({"type": "message", "role": "user"})),
        1 => Just(json!({"type": "function", "name": "weather"})),
        1 => Just(json!({"output": {"voice": "marin"}})),
        1 => Just(json!({"output": {"voice": "alloy"}})),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Settings of which most pass, so that the property is not empty.
fn settings() -> impl Strategy<Value = Value> {
    let good = prop::collection::btree_map(
        prop::sample::select(
            &[
                "instructions",
                "max_output_tokens",
                "speed",
                "tools",
                "input",
                "max_response_output_tokens",
            ][..],
        )
        .prop_map(str::to_owned),
        value(),
        0..4,
    );
    let rest = prop::collection::btree_map(name(), value(), 0..3);
    (good, rest, any::<bool>()).prop_map(|(mut good, rest, mix)| {
        if mix {
            good.extend(rest);
        }
        Value::Object(good.into_iter().collect())
    })
}

/// Writes JSON with some characters of its strings escaped and, now and then, a member twice.
fn write(value: &Value, seed: &mut u64, out: &mut String) {
    let mut draw = |n: u64| {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % n
    };
    match value {
        Value::String(text) => {
            out.push('"');
            for c in text.chars() {
                let mut units = [0; 2];
                if draw(4) == 0 || c < ' ' || c == '"' || c == '\\' {
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                } else {
                    out.push(c);
                }
            }
            out.push('"');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { " ," } else { "" });
                write(item, seed, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let twice = draw(12) == 0;
            out.push('{');
            let mut is_first = true;
            for (name, item) in members {
                for _ in 0..=usize::from(twice) {
                    out.push_str(if is_first { "" } else { ", " });
                    is_first = false;
                    write(&Value::from(name.as_str()), seed, out);
                    out.push(':');
                    write(item, seed, out);
                }
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// What reaches the deployment of an event.
fn passed(event: &str, from: Shape, to: Shape) -> Vec<String> {
    let event = match judge(&mut policed(POLICY, from), event) {
        Verdict::Unchanged => event.to_owned(),
        Verdict::Replaced(event) => event,
        Verdict::Refused { .. } => return Vec::new(),
    };
    match Translator::new().client_event(&event, from, to) {
        Ok(Translated::Unchanged) => vec![event],
        Ok(Translated::Replaced(event)) => vec![event],
        Ok(Translated::Several(events)) => events,
        Ok(Translated::Dropped) | Err(_) => Vec::new(),
    }
}

const SHAPES: [Shape; 2] = [Shape::Ga, Shape::Preview];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_gets_past_a_policy(
        settings in settings(),
        item in value(),
        kind in 0..3_usize,
        ga_type in any::<bool>(),
        mut seed in any::<u64>(),
    ) {
        let mut event = match kind {
            0 => json!({"type": "session.update", "session": settings}),
            1 => json!({"type": "response.create", "response": settings}),
            _ => json!({"type": "conversation.item.create", "item": item}),
        };
        if ga_type && kind == 0 {
            event["session"]["type"] = json!("realtime");
        }
        let mut text = String::new();
        write(&event, &mut seed, &mut text);
        for (from, to) in SHAPES.into_iter().flat_map(|from| SHAPES.map(|to| (from, to))) {
            for event in passed(&text, from, to) {
                let Ok(parsed) = serde_json::from_str::<Value>(&event) else {
                    panic!("not JSON: {event}");
                };
                assert_harmless(&parsed);
            }
        }
    }

    #[test]
    fn no_echo_gives_the_prefix_away(
        own in "[a-z\"\\\\\n é]{0,12}",
        kind in prop::sample::select(&["session.created", "session.updated", "response.created", "response.done", "error", "new"][..]),
        cut in 0..40_usize,
        other in value(),
        mut seed in any::<u64>(),
    ) {
        let policed = policed(POLICY, Shape::Ga);
        let full = policed.policy.with_prefix(&own).expect("there is one");
        let event = match kind {
            "error" | "new" => json!({"type": kind, "error": {"message": format!("x{full}x{full}")}, "x": [other, full]}),
            // A deployment may cut what it repeats.
            _ => {
                let place = kind.split('.').next().expect("a dot");
                let text = full.chars().take(full.chars().count() - cut.min(own.len())).collect::<String>();
                let text = if cut == 39 { PREFIX[..20].to_owned() } else { text };
                json!({"type": kind, place: {"id": "x", "instructions": text}})
            }
        };
        let mut text = String::new();
        write(&event, &mut seed, &mut text);
        let parsed = ServerEvent::parse(&text).ok();
        match policed.echo(&text, parsed.as_ref()) {
            Echo::Withheld => {}
            Echo::Unchanged => prop_assert!(false, "{}", text),
            Echo::Replaced(event) => {
                let event: Value = serde_json::from_str(&event).expect("JSON");
                prop_assert!(!event.to_string().contains(r#"Be \"kind\"."#), "{}", event);
                if cut == 0 && kind.starts_with("session") {
                    prop_assert_eq!(event["session"]["instructions"].as_str(), Some(own.as_str()));
                }
            }
        }
    }
}
