//! Details of the reference that a client may stumble over: ids, voices, cut calls, latencies, retrieved audio.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::{LatencyConfig, ScriptTurn, ScriptedCall, Shape, SimulatorConfig};
use super::tests::*;

#[test]
fn retrieved_audio_is_in_the_format_of_its_side() {
    let mut bench = manual(Shape::Preview, tone(500));
    bench.update(json!({"input_audio_format": "g711_ulaw", "output_audio_format": "pcm16"}));
    let caller: Vec<u8> = (0..1_600).map(|n| (n % 251) as u8).collect();
    bench.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(&caller)}));
    let committed = bench.send(json!({"type": "input_audio_buffer.commit"}));
    let answered = bench.respond(Value::Null);
    let mut audio_of = |id: &Value| {
        let events = bench.send(json!({"type": "conversation.item.retrieve", "item_id": id}));
        let part = &events[0]["item"]["content"][0];
        let audio = STANDARD.decode(part["audio"].as_str().unwrap()).unwrap();
        (part["format"].as_str().unwrap().to_owned(), audio)
    };
    let (format, audio) = audio_of(&committed[0]["item_id"]);
    assert_eq!(format, "g711_ulaw");
    // Mu-law has two zeros, 0x7F comes back as 0xFF.
    let same = |(a, b): (&u8, &u8)| a == b || (*a, *b) == (0x7F, 0xFF);
    assert!(audio.len() == caller.len() && caller.iter().zip(&audio).all(same));
    let (format, audio) = audio_of(&find(&answered, "response.output_item.done")["item"]["id"]);
    assert_eq!((format.as_str(), audio.len()), ("pcm16", 24_000));
}

#[test]
fn a_failed_response_does_not_stop_the_idle_timeout() {
    let failing = ScriptTurn {
        outcome: super::config::ScriptOutcome::Failed,
        ..ScriptTurn::default()
    };
    let mut bench = Bench::started(Shape::Ga, script(vec![failing, saying("Yes?", 500)]));
    let detection = json!({"type": "server_vad", "idle_timeout_ms": 5_000});
    bench.update(json!({"type": "realtime", "audio": {"input": {"turn_detection": detection}}}));
    bench.send(json!({"type": "response.create"}));
    let triggered =
        |events: &[Value]| types(events).contains(&"input_audio_buffer.timeout_triggered");
    assert!(!triggered(&bench.speak(&[(0, 4_900)])));
    assert!(triggered(&bench.speak(&[(0, 200)])));
}

fn check_voice(shape: Shape, voice: &Value, expected: Option<&str>) {
    let config = SimulatorConfig {
        quirks: toml::from_str("extra_voices = [\"house\"]").unwrap(),
        ..tone(500)
    };
    let mut bench = Bench::started(shape, config);
    let (update, response) = match shape {
        Shape::Preview => (json!({"voice": voice}), json!({"voice": voice})),
        Shape::Ga => {
            let audio = json!({"output": {"voice": voice}});
            (
                json!({"type": "realtime", "audio": audio}),
                json!({ "audio": audio }),
            )
        }
    };
    let created = bench.send(json!({"type": "response.create", "response": response}));
    let updated = bench.update(update);
    for event in [&created[0], &updated[0]] {
        assert_eq!(
            event["error"]["code"].as_str(),
            expected,
            "{shape:?} {voice}"
        );
    }
}

#[test]
fn voices_are_those_of_the_shape() {
    for name in ["alloy", "verse", "house"] {
        check_voice(Shape::Preview, &name.into(), None);
        check_voice(Shape::Ga, &name.into(), None);
    }
    let (invalid, wrong_type) = (Some("invalid_value"), Some("invalid_type"));
    check_voice(Shape::Ga, &"cedar".into(), None);
    check_voice(Shape::Preview, &"cedar".into(), invalid);
    check_voice(Shape::Ga, &"nobody".into(), invalid);
    let custom = json!({"id": "voice_1"});
    check_voice(Shape::Ga, &custom, None);
    check_voice(Shape::Preview, &custom, wrong_type);
    check_voice(Shape::Ga, &json!({"id": 1}), wrong_type);
    check_voice(
        Shape::Ga,
        &json!({"id": "voice_1", "x": 1}),
        Some("unknown_parameter"),
    );
}

#[test]
fn ids_of_the_client_have_limits() {
    let mut bench = Bench::started(Shape::Ga, SimulatorConfig::default());
    let clear = |id: Value| json!({"type": "input_audio_buffer.clear", "event_id": id});
    let cleared = ["input_audio_buffer.cleared"];
    assert_eq!(types(&bench.send(clear(Value::Null))), cleared);
    assert_eq!(types(&bench.send(clear("é".repeat(512).into()))), cleared);
    assert_eq!(
        bench.error_code(clear("e".repeat(513).into())),
        "invalid_value"
    );
    assert_eq!(bench.error_code(clear(7.into())), "invalid_type");

    let create = |id: &str| {
        let content = json!([{"type": "input_text", "text": "x"}]);
        let item = json!({"id": id, "type": "message", "role": "user", "content": content});
        json!({"type": "conversation.item.create", "item": item})
    };
    for id in ["a", "A-z_0", &"x".repeat(32)] {
        assert_eq!(bench.send(create(id))[0]["item"]["id"], id);
    }
    for id in ["", "a b", "a\"b", "é", &"x".repeat(33)] {
        assert_eq!(bench.error_code(create(id)), "invalid_value", "{id}");
    }
}

/// Caps a call of `weather`, which is 4 tokens of name and 2 + 5 of arguments.
fn check_cut_call(cap: u64, arguments: Option<&str>) {
    let call = ScriptedCall {
        name: "weather".to_owned(),
        arguments: r#"{"city":"Reykjavik"}"#.to_owned(),
    };
    let turn = ScriptTurn {
        calls: vec![call],
        ..ScriptTurn::default()
    };
    let mut bench = Bench::started(Shape::Ga, script(vec![turn]));
    let events = bench.respond(json!({ "max_output_tokens": cap }));
    let response = &find(&events, "response.done")["response"];
    let complete = arguments == Some(r#"{"city":"Reykjavik"}"#);
    let status = if complete { "completed" } else { "incomplete" };
    assert_eq!(response["status"], status);
    assert!(response["usage"]["output_tokens"].as_u64() <= Some(cap));
    let item = &response["output"][0];
    assert_eq!(item["arguments"].as_str(), arguments, "{cap}");
    if let Some(arguments) = arguments {
        assert_eq!(item["status"], status);
        let done = find(&events, "response.function_call_arguments.done");
        assert_eq!(done["arguments"], arguments);
    }
}

#[test]
fn a_cut_call_shows_what_was_written() {
    check_cut_call(11, Some(r#"{"city":"Reykjavik"}"#));
    check_cut_call(9, Some(r#"{"city":"Rey"#));
    check_cut_call(6, Some(""));
    check_cut_call(5, None);
}

fn answered_after(config: SimulatorConfig) -> (Vec<Value>, u64) {
    let mut bench = Bench::started(Shape::Ga, config);
    let update =
        json!({"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}});
    bench.update(update);
    let mut events = bench.append(&square(&[(3_000, 640), (0, 320)]));
    assert!(!types(&events).contains(&"response.created"));
    let mut ms = 0;
    while !types(&events).contains(&"response.created") {
        ms += 1;
        events.extend(bench.run(1));
    }
    (events, ms)
}

#[test]
fn answers_begin_some_milliseconds_after_the_turn() {
    let (events, ms) = answered_after(tone(500));
    assert!((5..=20).contains(&ms), "{ms}");
    assert_eq!(answered_after(tone(500)), (events, ms), "same seed");
    let fixed = Duration::from_millis(100);
    let config = SimulatorConfig {
        latency: LatencyConfig {
            created_min: fixed,
            created_max: fixed,
            ..LatencyConfig::default()
        },
        ..tone(500)
    };
    assert_eq!(answered_after(config).1, 100);
}

#[test]
fn a_transcript_without_delay_comes_before_the_answer() {
    let mut config = tone(500);
    config.transcription.min_delay = Duration::ZERO;
    config.transcription.max_delay = Duration::ZERO;
    config.latency.created_min = Duration::from_millis(20);
    let (events, _) = answered_after(config);
    let place = |kind: &str| types(&events).iter().position(|&t| t == kind).unwrap();
    let transcript = place("conversation.item.input_audio_transcription.completed");
    assert!(transcript < place("response.created"));
}

#[test]
fn a_new_turn_interrupts_the_answer_to_the_last() {
    let mut bench = Bench::started(Shape::Ga, tone(500));
    let events = bench.append(&square(&[(3_000, 640), (0, 320), (3_000, 320)]));
    assert_eq!(
        types(&events)[5..],
        [
            "response.created",
            "rate_limits.updated",
            "input_audio_buffer.speech_started",
            "response.done",
        ]
    );
}
