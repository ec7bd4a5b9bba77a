//! What the reference leaves open: the default of each knob and its other settings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::{Shape, SimulatorConfig};
use super::tests::*;

/// A configuration whose `[quirks]` table holds this line.
fn quirk(line: &str) -> SimulatorConfig {
    let config = SimulatorConfig {
        quirks: toml::from_str(line).unwrap(),
        ..tone(500)
    };
    assert!(toml::from_str::<SimulatorConfig>(&format!("[quirks]\n{line}")).is_ok());
    config
}

fn append(bytes: &[u8]) -> Value {
    json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)})
}

fn check_truncate_code(config: SimulatorConfig, expected: &str) {
    let mut bench = Bench::started(Shape::Ga, config);
    let events = bench.respond(Value::Null);
    let id = &find(&events, "response.output_item.done")["item"]["id"];
    let truncate = json!({"type": "conversation.item.truncate", "item_id": id, "content_index": 0, "audio_end_ms": 501});
    assert_eq!(bench.error_code(truncate), expected);
}

#[test]
fn codes_of_truncate_and_unknown_items() {
    check_truncate_code(tone(500), "invalid_value");
    check_truncate_code(quirk("truncate_too_long_code = \"too_long\""), "too_long");
    check_truncate_code(quirk("truncate_too_long_code = \"\""), "null");
    let delete = json!({"type": "conversation.item.delete", "item_id": "no"});
    for (line, expected) in [
        ("", "item_delete_invalid_item_id"),
        (
            "unknown_item_code = \"no_item_to_{verb}\"",
            "no_item_to_delete",
        ),
        ("unknown_item_code = \"\"", "null"),
    ] {
        let mut bench = Bench::started(Shape::Ga, quirk(line));
        assert_eq!(bench.error_code(delete.clone()), expected);
    }
}

#[test]
fn answers_to_what_is_no_base64() {
    for (line, expected) in [
        ("", &["error"][..]),
        ("bad_base64 = \"ignore\"", &[]),
        ("bad_base64 = \"close\"", &["error", "CLOSE"]),
    ] {
        let mut bench = Bench::started(Shape::Ga, quirk(line));
        let events = bench.send(json!({"type": "input_audio_buffer.append", "audio": "***"}));
        assert_eq!(types(&events), expected, "{line}");
    }
    let mut bench = Bench::started(Shape::Ga, quirk("bad_base64_code = \"invalid_base64\""));
    let append = json!({"type": "input_audio_buffer.append", "audio": "***"});
    assert_eq!(bench.error_code(append), "invalid_base64");
}

#[test]
fn half_samples_wait_or_are_refused() {
    let config = SimulatorConfig {
        record_audio: true,
        ..quirk("odd_bytes = \"reject\"")
    };
    let mut bench = manual(Shape::Ga, config);
    assert_eq!(bench.error_code(append(&[1, 0, 2])), "invalid_value");
    assert!(bench.send(append(&[3, 0])).is_empty());
    assert_eq!(bench.session.record().lock().unwrap().appended.pcm, [3]);
    // A byte is a whole sample of G.711.
    let format =
        json!({"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcmu"}}}});
    bench.update(format);
    assert!(bench.send(append(&[0xFF])).is_empty());
}

#[test]
fn clearing_an_output_buffer_that_is_not_there() {
    for (line, expected) in [
        ("", &["error"][..]),
        ("output_audio_clear = \"ignore\"", &[]),
        (
            "output_audio_clear = \"cleared\"",
            &["output_audio_buffer.cleared"],
        ),
    ] {
        let mut bench = Bench::started(Shape::Ga, quirk(line));
        let events = bench.send(json!({"type": "output_audio_buffer.clear"}));
        assert_eq!(types(&events), expected, "{line}");
    }
}

#[test]
fn item_done_stands_before_or_after_output_item_done() {
    let order = |line| {
        let events = Bench::started(Shape::Ga, quirk(line)).respond(Value::Null);
        let place = |kind: &str| types(&events).iter().position(|&t| t == kind).unwrap();
        (
            place("conversation.item.done"),
            place("response.output_item.done"),
        )
    };
    let (item, output) = order("");
    assert_eq!(item + 1, output);
    let (item, output) = order("item_done = \"after\"");
    assert_eq!(item, output + 1);
}

#[test]
fn turn_detection_is_merged_whole_or_deep() {
    let merged = |line, update: Value| {
        let mut bench = Bench::started(Shape::Preview, quirk(line));
        bench.update(json!({"turn_detection": {"type": "server_vad", "threshold": 0.7, "create_response": false}}));
        bench.update(json!({ "turn_detection": update }))[0]["session"]["turn_detection"].clone()
    };
    let update = json!({"type": "server_vad", "silence_duration_ms": 400});
    let whole = merged("", update.clone());
    assert_eq!(
        (&whole["threshold"], &whole["create_response"]),
        (&json!(0.5), &json!(true))
    );
    let deep = "turn_detection_merge = \"deep\"";
    let kept = merged(deep, update);
    assert_eq!(
        (
            &kept["threshold"],
            &kept["create_response"],
            &kept["silence_duration_ms"]
        ),
        (&json!(0.7), &json!(false), &json!(400))
    );
    assert_eq!(merged(deep, json!({"threshold": 0.3}))["threshold"], 0.3);
    // Another type starts from its own defaults.
    let other = merged(deep, json!({"type": "semantic_vad"}));
    assert_eq!(
        (&other["eagerness"], &other["create_response"]),
        (&json!("auto"), &json!(true))
    );
    assert_eq!(merged(deep, Value::Null), Value::Null);
}

#[test]
fn preview_usage_may_lack_the_details_of_what_was_cached() {
    let details = |shape, line| {
        let events = Bench::started(shape, quirk(line)).respond(Value::Null);
        find(&events, "response.done")["response"]["usage"]["input_token_details"].clone()
    };
    let without = "preview_cached_details = false";
    let azure = details(Shape::Preview, without);
    assert!(azure["cached_tokens"].is_u64() && azure.get("cached_tokens_details").is_none());
    assert!(details(Shape::Preview, "")["cached_tokens_details"].is_object());
    assert!(details(Shape::Ga, without)["cached_tokens_details"].is_object());
}

#[test]
fn the_first_preview_does_not_echo_what_it_did_not_know() {
    let mut bench = Bench::with(Shape::Preview, tone(500), |setup| {
        setup.first_preview = true;
    });
    let created = bench.drain().remove(0);
    let expected = json!({"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 200});
    assert_eq!(created["session"]["turn_detection"], expected);
}
