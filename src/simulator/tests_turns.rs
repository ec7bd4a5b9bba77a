//! Turn detection, barge-in and transcripts of the pure session.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::{FaultKind, ScriptTurn, Shape, SimulatorConfig};
use super::session::SessionKind;
use super::tests::*;

#[test]
fn worked_timeline_of_a_vad_turn() {
    let mut bench = Bench::started(Shape::Ga, SimulatorConfig::default());
    let events = bench.speak(&[(0, 1_312), (3_000, 1_568), (0, 300)]);
    assert_eq!(
        folded(&events),
        [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "rate_limits.updated",
        ]
    );
    let id = &events[0]["item_id"];
    assert_eq!(events[0]["audio_start_ms"], 1_012);
    assert_eq!(
        (&events[1]["audio_end_ms"], &events[1]["item_id"]),
        (&json!(3_104), id)
    );
    assert_eq!(
        (&events[2]["item_id"], &events[2]["previous_item_id"]),
        (id, &Value::Null)
    );
    assert_eq!(
        events[3]["item"]["content"],
        json!([{"type": "input_audio", "transcript": null}])
    );
    let reply = bench.run(20_000);
    // The committed segment, 1,012 to 3,104 ms, said back in full.
    assert_eq!(audio_ms(&reply, "response.output_audio.delta"), 2_092);
    let transcript = &find(&reply, "response.output_audio_transcript.done")["transcript"];
    assert_eq!(transcript, "You said 2.1 seconds of speech.");
}

#[test]
fn turns_in_one_append_are_all_found() {
    let mut bench = Bench::started(Shape::Preview, SimulatorConfig::default());
    bench.update(json!({"turn_detection": {
        "type": "server_vad", "silence_duration_ms": 200, "create_response": false}}));
    let audio = square(&[
        (0, 640),
        (3_000, 640),
        (0, 320),
        (3_000, 640),
        (0, 320),
        (3_000, 320),
    ]);
    let events = bench.append(&audio);
    let starts: Vec<_> = events
        .iter()
        .filter_map(|event| event["audio_start_ms"].as_u64())
        .collect();
    let ends: Vec<_> = events
        .iter()
        .filter_map(|event| event["audio_end_ms"].as_u64())
        .collect();
    assert_eq!(starts, [340, 1_300, 2_260]);
    assert_eq!(ends, [1_504, 2_464]);
    assert!(
        bench.run(60_000).is_empty(),
        "no end of turn while no audio arrives, and no response"
    );
}

#[test]
fn buffer_clock_survives_clear_and_commit() {
    let mut bench = Bench::started(Shape::Ga, SimulatorConfig::default());
    bench.speak(&[(3_000, 640)]);
    assert_eq!(
        types(&bench.send(json!({"type": "input_audio_buffer.clear"}))),
        ["input_audio_buffer.cleared"]
    );
    let events = bench.speak(&[(0, 640), (3_000, 320)]);
    assert_eq!(
        types(&events),
        ["input_audio_buffer.speech_started"],
        "the cleared turn has no end"
    );
    assert_eq!(events[0]["audio_start_ms"], 980);
}

#[test]
fn manual_commit() {
    let mut bench = manual(Shape::Preview, SimulatorConfig::default());
    bench.append(&square(&[(3_000, 60)]));
    let events = bench.send(json!({"type": "input_audio_buffer.commit", "event_id": "c7"}));
    let error = &events[0]["error"];
    assert_eq!(error["code"], "input_audio_buffer_commit_empty");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .ends_with("but buffer only has 60.00ms of audio."),
        "{error}"
    );
    assert_eq!(error["event_id"], "c7");
    bench.append(&square(&[(3_000, 60)]));
    let events = bench.send(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(
        types(&events),
        ["input_audio_buffer.committed", "conversation.item.created"]
    );
    assert!(bench.run(5_000).is_empty(), "a commit starts no response");
    let code = bench.error_code(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(code, "input_audio_buffer_commit_empty");
}

fn detection(create: bool, interrupt: bool) -> Value {
    json!({"type": "realtime", "audio": {"input": {"turn_detection": {
        "type": "server_vad", "silence_duration_ms": 200, "create_response": create,
        "interrupt_response": interrupt}}}})
}

#[test]
fn barge_in_cancels_what_is_being_generated() {
    let mut bench = Bench::started(Shape::Ga, tone(20_000));
    bench.send(json!({"type": "response.create"}));
    let sent = bench.run(1_000);
    let heard = audio_ms(&sent, "response.output_audio.delta");
    let item_id = find(&sent, "response.output_item.added")["item"]["id"].clone();
    let events = bench.append(&square(&[(3_000, 96)]));
    assert_eq!(
        types(&events),
        [
            "input_audio_buffer.speech_started",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
    );
    let response = &find(&events, "response.done")["response"];
    assert_eq!(
        response["status_details"],
        json!({"type": "cancelled", "reason": "turn_detected"})
    );
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(
        response["usage"]["output_token_details"]["audio_tokens"],
        heard.div_ceil(50)
    );
    // Only what was sent can be truncated.
    let truncate = |ms: usize| json!({"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": ms});
    let events = bench.send(truncate(heard + 1));
    let expected = format!(
        "Audio content of {heard}ms is already shorter than {}ms",
        heard + 1
    );
    assert_eq!(events[0]["error"]["message"], expected);
    assert_eq!(
        types(&bench.send(truncate(300))),
        ["conversation.item.truncated"]
    );
    assert_eq!(
        types(&bench.send(truncate(301))),
        ["error"],
        "truncated audio is gone"
    );
    let record = bench.session.record();
    let record = record.lock().unwrap();
    let seen: Vec<_> = record
        .truncates
        .iter()
        .map(|t| (t.audio_end_ms, t.sent_ms, t.accepted))
        .collect();
    let heard = heard as u64;
    assert_eq!(
        seen,
        [
            (heard + 1, heard, false),
            (300, heard, true),
            (301, 300, false)
        ]
    );
}

#[test]
fn barge_in_after_generation_only_reports_speech() {
    let mut bench = Bench::started(Shape::Ga, tone(1_000));
    bench.respond(Value::Null);
    assert_eq!(
        types(&bench.append(&square(&[(3_000, 96)]))),
        ["input_audio_buffer.speech_started"]
    );
    let code = bench.error_code(json!({"type": "response.cancel"}));
    assert_eq!(code, "response_cancel_not_active");
}

#[test]
fn without_interrupt_the_client_cancels() {
    let mut bench = Bench::started(Shape::Ga, tone(20_000));
    bench.update(detection(false, false));
    bench.send(json!({"type": "response.create"}));
    bench.run(1_000);
    assert_eq!(
        types(&bench.append(&square(&[(3_000, 96)]))),
        ["input_audio_buffer.speech_started"]
    );
    assert!(types(&bench.run(200)).contains(&"response.output_audio.delta"));
    let events = bench.send(json!({"type": "response.cancel"}));
    let response = &find(&events, "response.done")["response"];
    assert_eq!(
        response["status_details"],
        json!({"type": "cancelled", "reason": "client_cancelled"})
    );
    assert_eq!(bench.session.record().lock().unwrap().cancels.len(), 1);
}

#[test]
fn create_response_without_interrupt_collides() {
    let mut bench = Bench::started(Shape::Ga, tone(60_000));
    bench.update(detection(true, false));
    bench.send(json!({"type": "response.create"}));
    bench.append(&square(&[(3_000, 320), (0, 320)]));
    let events = bench.run(20);
    let error = &find(&events, "error")["error"];
    assert_eq!(error["code"], "conversation_already_has_active_response");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("in progress: resp_")
    );
}

#[test]
fn interrupted_before_audio_cannot_be_truncated() {
    let mut bench = Bench::started(Shape::Ga, tone(5_000));
    bench.send(json!({"type": "response.create"}));
    let mut added = None;
    while added.is_none() {
        let events = bench.run(1);
        added = events
            .iter()
            .find(|event| event["type"] == "response.output_item.added")
            .cloned();
    }
    bench.send(json!({"type": "response.cancel"}));
    let id = added.unwrap()["item"]["id"].clone();
    let truncate = json!({"type": "conversation.item.truncate", "item_id": id, "content_index": 0, "audio_end_ms": 0});
    assert_eq!(bench.error_code(truncate), "unsupported_content_type");
    let events = bench.send(json!({"type": "conversation.item.delete", "item_id": id}));
    assert_eq!(types(&events), ["conversation.item.deleted"]);
}

#[test]
fn idle_timeout_nudges() {
    let mut bench = Bench::started(Shape::Ga, tone(1_000));
    let mut update = detection(true, true);
    update["audio"]["input"]["turn_detection"]["idle_timeout_ms"] = 6_000.into();
    bench.update(update);
    bench.send(json!({"type": "response.create"}));
    let events = bench.speak(&[(0, 9_000)]);
    let triggered = find(&events, "input_audio_buffer.timeout_triggered");
    let ms = |name: &str| triggered[name].as_u64().unwrap();
    assert_eq!(ms("audio_end_ms") - ms("audio_start_ms"), 6_016);
    let position = types(&events)
        .iter()
        .position(|&t| t == "input_audio_buffer.timeout_triggered")
        .unwrap();
    assert_eq!(
        types(&events)[position + 1..position + 5],
        [
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created"
        ]
    );
}

#[test]
fn semantic_turns_wait_for_unfinished_ones() {
    for (unfinished, expected) in [(false, 320), (true, 2_000)] {
        let turn = ScriptTurn {
            unfinished,
            ..saying("Yes.", 200)
        };
        let mut bench = Bench::started(Shape::Ga, script(vec![turn]));
        bench.update(
            json!({"type": "realtime", "audio": {"input": {"turn_detection": {
            "type": "semantic_vad", "eagerness": "high"}}}}),
        );
        let events = bench.append(&square(&[(3_000, 640), (0, 4_000)]));
        let end = find(&events, "input_audio_buffer.speech_stopped")["audio_end_ms"]
            .as_u64()
            .unwrap();
        assert_eq!(
            end.next_multiple_of(32) - 640,
            u64::next_multiple_of(expected, 32),
            "unfinished: {unfinished}"
        );
    }
}

#[test]
fn g711_callers_are_heard() {
    let mut bench = Bench::started(Shape::Preview, SimulatorConfig::default());
    bench.update(json!({"input_audio_format": "g711_ulaw", "output_audio_format": "g711_alaw"}));
    // 0x8F and 0x0F are loud and of opposite sign; 0xFF is silence.
    let mut bytes: Vec<u8> = (0..640 * 8)
        .map(|n| if n % 16 < 8 { 0x8F } else { 0x0F })
        .collect();
    bytes.extend([0xFF; 320 * 8]);
    let events =
        bench.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)}));
    assert_eq!(
        find(&events, "input_audio_buffer.speech_stopped")["audio_end_ms"],
        864
    );
    let done = find(&bench.run(10_000), "response.done").clone();
    assert_eq!(
        done["response"]["output"][0]["content"][0]["transcript"],
        "You said 0.9 seconds of speech."
    );
}

#[test]
fn torn_samples_are_joined() {
    let config = SimulatorConfig {
        record_audio: true,
        ..SimulatorConfig::default()
    };
    let mut bench = manual(Shape::Ga, config);
    for bytes in [&[1u8, 0, 2][..], &[0, 3, 0][..]] {
        bench.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)}));
    }
    let record = bench.session.record();
    assert_eq!(record.lock().unwrap().appended.pcm, [1, 2, 3]);
    assert_eq!(record.lock().unwrap().appended.n_appends, 2);
}

// Transcription

#[test]
fn transcripts_come_by_themselves() {
    let mut bench = manual(Shape::Ga, SimulatorConfig::default());
    bench.update(json!({"type": "realtime", "audio": {"input": {
        "transcription": {"model": "gpt-4o-transcribe"}}}}));
    bench.append(&square(&[(3_000, 2_000)]));
    bench.send(json!({"type": "input_audio_buffer.commit"}));
    let events = bench.run(2_000);
    assert_eq!(
        folded(&events),
        [
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed"
        ]
    );
    let completed = events.last().unwrap();
    assert_eq!(completed["transcript"], "2.0 seconds of speech.");
    assert_eq!(
        completed["usage"]["input_token_details"],
        json!({"text_tokens": 0, "audio_tokens": 20})
    );
    let id = completed["item_id"].clone();
    let events = bench.send(json!({"type": "conversation.item.retrieve", "item_id": id}));
    let part = &events[0]["item"]["content"][0];
    assert_eq!(part["transcript"], "2.0 seconds of speech.");
    assert_eq!(
        STANDARD
            .decode(part["audio"].as_str().unwrap())
            .unwrap()
            .len(),
        96_000
    );
}

#[test]
fn transcription_faults() {
    let transcripts = |kind| {
        let mut bench = faulty(kind);
        bench.update(json!({"type": "realtime", "audio": {"input": {
            "turn_detection": null, "transcription": {"model": "whisper-1"}}}}));
        let mut ids = Vec::new();
        for _ in 0..2 {
            bench.append(&square(&[(3_000, 200)]));
            ids.push(
                bench.send(json!({"type": "input_audio_buffer.commit"}))[0]["item_id"].clone(),
            );
        }
        let events = bench.run(10_000);
        let ends = events
            .into_iter()
            .filter(|event| !event["type"].as_str().unwrap().ends_with("delta"));
        (ids, ends.collect::<Vec<_>>())
    };
    let (_, events) = transcripts(FaultKind::DuplicateTranscription);
    assert_eq!(events.len(), 4);
    let (ids, events) = transcripts(FaultKind::ReorderedTranscription);
    assert_eq!(
        (&events[0]["item_id"], &events[1]["item_id"]),
        (&ids[1], &ids[0])
    );
    let (ids, events) = transcripts(FaultKind::FailedTranscription);
    let failed = find(
        &events,
        "conversation.item.input_audio_transcription.failed",
    );
    let expected = format!(
        "Input transcription failed for item '{}'.",
        ids[0].as_str().unwrap()
    );
    assert!(
        events
            .iter()
            .any(|event| event["error"]["message"] == expected)
    );
    assert_eq!(failed["error"]["type"], "server_error");
}

fn check_transcription_session(shape: Shape, update: Value, names: [&str; 2]) {
    let config = SimulatorConfig::default();
    let mut bench = Bench::with(shape, config, |setup| {
        setup.kind = SessionKind::Transcription
    });
    assert_eq!(types(&bench.drain()), [names[0]]);
    assert_eq!(types(&bench.send(update)), [names[1]]);
    let mut events = bench.speak(&[(3_000, 640), (0, 320)]);
    events.extend(bench.run(3_000));
    assert!(types(&events).contains(&"conversation.item.input_audio_transcription.completed"));
    assert!(
        !types(&events)
            .iter()
            .any(|kind| kind.starts_with("response."))
    );
    assert_eq!(
        bench.error_code(json!({"type": "response.create"})),
        "invalid_event"
    );
}

#[test]
fn transcription_sessions_have_no_responses() {
    let update = json!({"type": "transcription_session.update", "session": {
        "input_audio_transcription": {"model": "whisper-1"}}});
    let names = [
        "transcription_session.created",
        "transcription_session.updated",
    ];
    check_transcription_session(Shape::Preview, update, names);
    let update = json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
        "transcription": {"model": "gpt-4o-transcribe"}}}}});
    check_transcription_session(Shape::Ga, update, ["session.created", "session.updated"]);
}
