//! Items, errors, usage and quota of the pure session.

use serde_json::{Value, json};

use super::config::{Enforcement, QuotaConfig, RateLimitsPosition, Shape, SimulatorConfig};
use super::tests::*;

#[test]
fn items_are_ordered_and_checked() {
    let mut bench = Bench::started(Shape::Preview, SimulatorConfig::default());
    let create = |id: &str, previous: Value| {
        let content = json!([{"type": "input_text", "text": "x"}]);
        json!({"type": "conversation.item.create", "previous_item_id": previous,
               "item": {"id": id, "type": "message", "role": "user", "content": content}})
    };
    assert_eq!(
        bench.send(create("a", Value::Null))[0]["previous_item_id"],
        Value::Null
    );
    assert_eq!(
        bench.send(create("b", "a".into()))[0]["previous_item_id"],
        "a"
    );
    assert_eq!(
        bench.send(create("c", "a".into()))[0]["previous_item_id"],
        "a"
    );
    assert_eq!(
        bench.send(create("d", "root".into()))[0]["previous_item_id"],
        Value::Null
    );
    assert_eq!(
        bench.send(create("e", Value::Null))[0]["previous_item_id"],
        "b"
    );
    assert_eq!(
        bench.error_code(create("a", Value::Null)),
        "item_create_duplicate_item_id"
    );
    assert_eq!(
        bench.error_code(create("f", "zz".into())),
        "item_create_invalid_previous_item_id"
    );
}

#[test]
fn each_error_of_the_catalogue() {
    let mut bench = Bench::started(Shape::Ga, tone(1_000));
    let mut check =
        |event: Value, code: &str| assert_eq!(bench.error_code(event.clone()), code, "{event}");
    check(json!({"type": "nonsense"}), "invalid_event");
    check(json!({"event_id": "x"}), "invalid_event");
    check(json!([1]), "invalid_event");
    check(
        json!({"type": "input_audio_buffer.append"}),
        "missing_required_parameter",
    );
    check(
        json!({"type": "input_audio_buffer.append", "audio": "***"}),
        "invalid_value",
    );
    check(
        json!({"type": "input_audio_buffer.append", "audio": 7}),
        "invalid_type",
    );
    check(
        json!({"type": "input_audio_buffer.append", "audio": "A".repeat(21 << 20)}),
        "invalid_value",
    );
    check(
        json!({"type": "input_audio_buffer.commit", "x": 1}),
        "unknown_parameter",
    );
    check(
        json!({"type": "output_audio_buffer.clear"}),
        "invalid_event",
    );
    check(
        json!({"type": "conversation.item.create"}),
        "missing_required_parameter",
    );
    check(
        json!({"type": "conversation.item.delete", "item_id": "no"}),
        "item_delete_invalid_item_id",
    );
    check(
        json!({"type": "conversation.item.retrieve", "item_id": "no"}),
        "item_retrieve_invalid_item_id",
    );
    check(
        json!({"type": "conversation.item.truncate", "item_id": "no", "content_index": 0, "audio_end_ms": 1}),
        "item_truncate_invalid_item_id",
    );
    check(
        json!({"type": "conversation.item.truncate", "item_id": "no"}),
        "missing_required_parameter",
    );
    let output = json!({"type": "function_call_output", "call_id": "call_no", "output": "x"});
    check(
        json!({"type": "conversation.item.create", "item": output}),
        "invalid_tool_call_id",
    );
    let message = |content: Value| {
        let item = json!({"type": "message", "role": "assistant", "content": [content]});
        json!({"type": "conversation.item.create", "item": item})
    };
    check(
        message(json!({"type": "output_audio", "audio": "AAAA"})),
        "missing_required_parameter",
    );
    check(
        message(json!({"type": "text", "text": "preview"})),
        "invalid_value",
    );
    check(
        json!({"type": "response.create", "response": {"modalities": ["text"]}}),
        "unknown_parameter",
    );
    check(
        json!({"type": "response.create", "response": {"metadata": {"k": "v".repeat(513)}}}),
        "invalid_value",
    );
    check(
        json!({"type": "response.cancel"}),
        "response_cancel_not_active",
    );
    check(
        json!({"type": "response.cancel", "response_id": "resp_no"}),
        "response_cancel_not_active",
    );
    bench.respond(Value::Null);
    let voice = json!({"type": "realtime", "audio": {"output": {"voice": "marin"}}});
    assert_eq!(
        bench.update(voice)[0]["error"]["code"],
        "cannot_update_voice"
    );
    bench.session.handle_message("{nonsense", bench.now);
    assert_eq!(bench.drain()[0]["error"]["code"], "invalid_event");
    assert!(bench.session.record().lock().unwrap().errors.len() > 20);
}

#[test]
fn leftovers_of_the_first_preview_are_ignored() {
    let mut bench = Bench::started(Shape::Preview, tone(200));
    let event = json!({"type": "response.create", "event_id": null, "response": {
        "commit": true, "cancel_previous": true, "append_input_items": null}});
    assert_eq!(types(&bench.send(event))[0], "response.created");
}

#[test]
fn second_create_is_refused_and_out_of_band_runs_beside() {
    let mut bench = Bench::started(Shape::Ga, tone(5_000));
    let created = bench.send(json!({"type": "response.create"}));
    let id = created[0]["response"]["id"].as_str().unwrap().to_owned();
    let events = bench.send(json!({"type": "response.create", "event_id": "again"}));
    let expected = format!(
        "Conversation already has an active response in progress: {id}. Wait until the response is finished before \
         creating a new one."
    );
    assert_eq!(events[0]["error"]["message"], expected);
    assert_eq!(events[0]["error"]["event_id"], "again");
    let mut events = bench.send(json!({"type": "response.create", "response": {
        "conversation": "none", "metadata": {"k": "v"}, "output_modalities": ["text"], "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sum up"}]}]}}));
    assert_eq!(events[0]["response"]["conversation_id"], Value::Null);
    let aside = events[0]["response"]["id"].clone();
    events = bench.run(60_000);
    let done: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "response.done")
        .collect();
    assert_eq!(done.len(), 2);
    assert_eq!(
        (
            &done[0]["response"]["id"],
            &done[0]["response"]["metadata"]["k"]
        ),
        (&aside, &json!("v"))
    );
    let added = events
        .iter()
        .filter(|event| event["type"] == "conversation.item.added");
    assert_eq!(
        added.count(),
        1,
        "only the default conversation has item events"
    );
    let refused = bench.send(json!({"type": "response.create", "response": {
        "input": [{"type": "item_reference", "id": "no"}]}}));
    assert_eq!(refused[0]["error"]["param"], "response.input[0].id");
}

// Usage, quota, context

#[test]
fn usage_follows_the_token_model() {
    // Instructions of 400 characters are 102 tokens.
    let config = SimulatorConfig {
        instructions: "i".repeat(400),
        ..script(vec![saying("12345678", 1_010)])
    };
    let mut bench = manual(Shape::Ga, config);
    bench.append(&square(&[(3_000, 1_010)]));
    bench.send(json!({"type": "input_audio_buffer.commit"}));
    let events = bench.respond(Value::Null);
    let usage = find(&events, "response.done")["response"]["usage"].clone();
    // Audio in: 1,010 ms in tenths, rounded up. Out: eight characters and the frame; 1,010 ms in twentieths.
    let expected = json!({
        "total_tokens": 138, "input_tokens": 113, "output_tokens": 25,
        "input_token_details": {"text_tokens": 102, "audio_tokens": 11, "image_tokens": 0, "cached_tokens": 0,
            "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}},
        "output_token_details": {"text_tokens": 4, "audio_tokens": 21},
    });
    assert_eq!(usage, expected);
    let item = find(&events, "response.output_item.done")["item"]["id"].clone();

    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    assert_eq!(usage["input_tokens"], 113 + 25);
    assert_eq!(
        usage["input_token_details"]["cached_tokens"], 64,
        "113 in common, in blocks of 64"
    );

    let truncate = json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0,
        "audio_end_ms": 500});
    bench.send(truncate);
    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    // Ten tokens of audio stay of the first answer, no transcript; the second answer counts in full.
    assert_eq!(usage["input_tokens"], 113 + 10 + 25);
    assert_eq!(
        usage["input_token_details"]["cached_tokens"], 64,
        "the truncated item ends the common prefix"
    );
}

#[test]
fn preview_usage_has_its_own_shape() {
    let mut bench = Bench::started(Shape::Preview, tone(200));
    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    assert!(usage["input_token_details"].get("image_tokens").is_none());
    let mut bench = Bench::with(Shape::Preview, tone(200), |setup| {
        setup.first_preview = true
    });
    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    assert!(
        usage["input_token_details"]
            .get("cached_tokens_details")
            .is_none()
    );
}

#[test]
fn output_cap_cuts_the_answer() {
    let mut bench = Bench::started(Shape::Ga, script(vec![saying("12345678", 5_000)]));
    let events = bench.respond(json!({"max_output_tokens": 24}));
    let response = &find(&events, "response.done")["response"];
    assert_eq!(
        response["status_details"],
        json!({"type": "incomplete", "reason": "max_output_tokens"})
    );
    assert_eq!(response["usage"]["output_tokens"], 24);
    assert_eq!(audio_ms(&events, "response.output_audio.delta"), 1_000);
}

#[test]
fn rate_limits_stand_where_they_are_told_to() {
    for (position, expected) in [
        (RateLimitsPosition::Start, Some(1)),
        (RateLimitsPosition::End, None),
        (RateLimitsPosition::Off, None),
    ] {
        let quota = QuotaConfig {
            rate_limits: position,
            ..QuotaConfig::default()
        };
        let mut bench = Bench::started(Shape::Ga, SimulatorConfig { quota, ..tone(300) });
        let events = bench.respond(Value::Null);
        let kinds = types(&events);
        let at = kinds.iter().position(|&kind| kind == "rate_limits.updated");
        match position {
            RateLimitsPosition::End => assert_eq!(at, Some(kinds.len() - 1)),
            RateLimitsPosition::Start | RateLimitsPosition::Off => assert_eq!(at, expected),
        }
    }
}

#[test]
fn an_exhausted_quota_fails_the_response() {
    let quota = QuotaConfig {
        tokens_per_minute: 4_200,
        enforce: Enforcement::Response,
        ..QuotaConfig::default()
    };
    let config = SimulatorConfig {
        quota,
        instructions: String::new(),
        ..tone(60_000)
    };
    let mut bench = Bench::started(Shape::Ga, config);
    bench.send(json!({"type": "response.create"}));
    bench.run(500);
    let events =
        bench.send(json!({"type": "response.create", "response": {"conversation": "none"}}));
    assert_eq!(
        folded(&events),
        ["response.created", "rate_limits.updated", "response.done"]
    );
    let response = &events[2]["response"];
    assert_eq!(response["status"], "failed");
    let error = &response["status_details"]["error"];
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("tokens per min (TPM): Limit 4200"),
        "{error}"
    );
    assert_eq!(response["usage"]["total_tokens"], 0);
}

#[test]
fn context_limit_drops_the_oldest_or_refuses() {
    let config = SimulatorConfig {
        context_tokens: Some(60),
        instructions: String::new(),
        ..tone(200)
    };
    let mut bench = Bench::started(Shape::Ga, config);
    for _ in 0..3 {
        bench.say(&"x".repeat(100));
    }
    let response = find(
        &bench.respond(json!({"output_modalities": ["text"]})),
        "response.done",
    )
    .clone();
    // Two of 27 tokens, less than 60 with the frame of the instructions.
    assert_eq!(response["response"]["usage"]["input_tokens"], 56);
    bench.update(json!({"type": "realtime", "truncation": "disabled"}));
    assert_eq!(
        bench.error_code(json!({"type": "response.create"})),
        "context_length_exceeded"
    );
}

// Hostile input

/// A JSON value of words that the protocol knows, in places where they do not belong.
fn random_value(rng: &mut fastrand::Rng, depth: u32) -> Value {
    const KEYS: &[&str] = &[
        "type",
        "event_id",
        "session",
        "audio",
        "input",
        "output",
        "format",
        "turn_detection",
        "item",
        "content",
        "id",
        "item_id",
        "call_id",
        "response",
        "conversation",
        "previous_item_id",
        "content_index",
        "audio_end_ms",
        "tools",
        "tool_choice",
        "modalities",
        "metadata",
        "role",
        "text",
        "truncation",
        "max_output_tokens",
    ];
    const WORDS: &[&str] = &[
        "session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "conversation.item.create",
        "conversation.item.truncate",
        "conversation.item.retrieve",
        "response.create",
        "response.cancel",
        "realtime",
        "message",
        "user",
        "assistant",
        "input_text",
        "input_audio",
        "function_call",
        "function_call_output",
        "server_vad",
        "semantic_vad",
        "none",
        "root",
        "inf",
        "AAAA",
        "AA==",
        "pcm16",
        "audio/pcmu",
        "",
        "\u{1F600}",
    ];
    match rng.u32(..if depth == 0 { 5 } else { 9 }) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.u64(..).into(),
        3 => (rng.f64() * 1e6 - 5e5).into(),
        4 => WORDS[rng.usize(..WORDS.len())].into(),
        5 => (0..rng.usize(..3))
            .map(|_| random_value(rng, depth - 1))
            .collect(),
        _ => {
            let pairs = (0..rng.usize(..5)).map(|_| {
                let key = KEYS[rng.usize(..KEYS.len())].to_owned();
                (key, random_value(rng, depth - 1))
            });
            Value::Object(pairs.collect())
        }
    }
}

#[test]
fn no_event_can_upset_a_session() {
    let mut rng = fastrand::Rng::with_seed(11);
    for shape in [Shape::Preview, Shape::Ga] {
        let mut bench = Bench::started(shape, SimulatorConfig::default());
        let kinds = [
            "session.update",
            "input_audio_buffer.append",
            "conversation.item.create",
            "conversation.item.truncate",
            "response.create",
            "response.cancel",
        ];
        for n in 0..5_000 {
            let mut event = random_value(&mut rng, 4);
            if n % 2 == 0 && event.is_object() {
                event["type"] = kinds[rng.usize(..kinds.len())].into();
            }
            bench.send(event);
            bench.run(rng.u64(..50));
        }
        bench.session.handle_message("\u{0}{\"type\":", bench.now);
        assert_eq!(types(&bench.drain()), ["error"]);
    }
}
