//! What a mirror knows after a session's events, and what it tells another session.

use serde_json::{Value, json};

use super::base64::encode_audio;
use super::mirror::Mirror;
use super::mirror_audio::Companding;
use super::seam::{Seam, Shown};
use super::server::ServerEvent;
use super::shape::Shape;

/// Keeps the upper byte of a sample, and takes it for the lower one too.
const HALF: Companding = Companding {
    compand: |pcm, codes| {
        for (code, sample) in codes.iter_mut().zip(pcm.chunks(2)) {
            *code = sample[1];
        }
    },
    expand: |codes, pcm| {
        for (sample, code) in pcm.chunks_mut(2).zip(codes) {
            sample.fill(*code);
        }
    },
};

fn mirror(shape: Shape) -> Mirror<String> {
    bounded(shape, 1 << 20)
}

fn bounded(shape: Shape, max_bytes: usize) -> Mirror<String> {
    Mirror::new(shape, shape, false, max_bytes, HALF)
}

fn down(mirror: &mut Mirror<String>, event: Value) {
    let text = event.to_string();
    mirror.server_event(&ServerEvent::parse(&text).unwrap(), &text);
}

fn up(mirror: &mut Mirror<String>, event: Value) {
    let text = event.to_string();
    mirror.client_event(event["type"].as_str().unwrap(), text);
}

/// Appends so many milliseconds, each byte of which is `n`.
fn append(mirror: &mut Mirror<String>, n: u8, ms: usize) {
    mirror.append(&base64(n, ms));
}

fn base64(n: u8, ms: usize) -> String {
    let mut text = Vec::new();
    encode_audio(&vec![n; ms * 48], &mut text);
    String::from_utf8(text).unwrap()
}

fn parsed(events: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Value> {
    let parse = |event: &str| serde_json::from_str(event).unwrap();
    events.into_iter().map(|it| parse(it.as_ref())).collect()
}

#[test]
fn settings_are_those_that_can_be_sent() {
    let check = |shape, session: Value, to, expected: Value| {
        let mut mirror = mirror(shape);
        down(
            &mut mirror,
            json!({"type": "session.updated", "session": session}),
        );
        let update: Value = serde_json::from_str(&mirror.update(to).unwrap()).unwrap();
        assert_eq!(update["type"], "session.update");
        assert_eq!(update["session"], expected, "{shape} to {to}");
    };
    let ga = json!({"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "m", "expires_at": 9,
        "instructions": "x", "prompt": null, "tracing": null, "include": null, "tools": [],
        "audio": {"input": {"format": {"type": "audio/pcmu"}, "transcription": null, "turn_detection": null},
            "output": {"voice": "marin"}}});
    check(
        Shape::Ga,
        ga.clone(),
        Shape::Ga,
        json!({"type": "realtime", "instructions": "x", "tools": [],
            "audio": {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": null}, "output": {"voice": "marin"}}}),
    );
    // No preview deployment has that voice.
    check(
        Shape::Ga,
        ga,
        Shape::Preview,
        json!({"instructions": "x", "tools": [], "input_audio_format": "g711_ulaw", "turn_detection": null}),
    );
    let preview = json!({"object": "realtime.session", "id": "sess_1", "model": "m", "expires_at": 9,
        "client_secret": null, "modalities": ["audio", "text"], "voice": "alloy", "temperature": 0.7,
        "input_audio_transcription": {"model": "whisper-1"}});
    check(
        Shape::Preview,
        preview.clone(),
        Shape::Preview,
        json!({"modalities": ["text", "audio"], "voice": "alloy", "temperature": 0.7,
            "input_audio_transcription": {"model": "whisper-1"}}),
    );
    check(
        Shape::Preview,
        preview,
        Shape::Ga,
        json!({"type": "realtime", "output_modalities": ["audio"],
            "audio": {"input": {"transcription": {"model": "whisper-1"}}, "output": {"voice": "alloy"}}}),
    );
    assert_eq!(mirror(Shape::Ga).update(Shape::Ga), None);
}

/// Without turn detection, so that nothing happens by itself.
fn by_hand(shape: Shape) -> Mirror<String> {
    let mut mirror = mirror(shape);
    let session = match shape {
        Shape::Ga => json!({"audio": {"input": {"turn_detection": null}}}),
        Shape::Preview => json!({"turn_detection": null}),
    };
    down(
        &mut mirror,
        json!({"type": "session.created", "session": session}),
    );
    mirror
}

fn added(mirror: &mut Mirror<String>, previous: Option<&str>, item: Value) {
    down(
        mirror,
        json!({"type": "conversation.item.added", "previous_item_id": previous, "item": item}),
    );
}

/// An answer in progress: so much of it was said in so many milliseconds.
fn answering(mirror: &mut Mirror<String>, id: &str, text: &str, audio_ms: usize) {
    let response_id = format!("resp_{id}");
    let item = json!({"id": id, "type": "message", "role": "assistant", "status": "in_progress", "content": []});
    for event in [
        json!({"type": "response.created", "response": {"id": response_id, "conversation_id": "conv"}}),
        json!({"type": "response.output_item.added", "response_id": response_id, "output_index": 0, "item": item}),
        json!({"type": "conversation.item.added", "item": item}),
        json!({"type": "response.content_part.added", "response_id": response_id, "item_id": id, "content_index": 0,
            "part": {"type": "audio", "transcript": ""}}),
        json!({"type": "response.output_audio_transcript.delta", "response_id": response_id, "item_id": id,
            "content_index": 0, "delta": text}),
        json!({"type": "response.output_audio.delta", "response_id": response_id, "item_id": id, "content_index": 0,
            "delta": base64(1, audio_ms)}),
    ] {
        down(mirror, event);
    }
}

/// The rest of it.
fn answered(mirror: &mut Mirror<String>, id: &str) {
    let response_id = format!("resp_{id}");
    let item = json!({"id": id, "type": "message", "status": "completed"});
    down(
        mirror,
        json!({"type": "response.output_item.done", "response_id": response_id, "output_index": 0, "item": item}),
    );
    down(
        mirror,
        json!({"type": "response.done", "response": {"id": response_id, "status": "completed"}}),
    );
}

fn told(mirror: &mut Mirror<String>, shape: Shape) -> Vec<Value> {
    let events = parsed(mirror.replay(shape).items);
    events.into_iter().map(|it| it["item"].clone()).collect()
}

#[test]
fn items_are_told_by_their_ids_and_in_their_order() {
    let mut mirror = by_hand(Shape::Ga);
    let text = |text: &str| json!([{"type": "input_text", "text": text}]);
    let message = |content: Value| json!({"type": "message", "role": "user", "content": content});
    up(
        &mut mirror,
        json!({"type": "conversation.item.create", "item": message(text("one"))}),
    );
    added(
        &mut mirror,
        None,
        json!({"id": "i1", "type": "message", "role": "user", "status": "completed"}),
    );
    answering(&mut mirror, "a1", "Hello there, you.", 1_000);
    answered(&mut mirror, "a1");
    down(
        &mut mirror,
        json!({"type": "conversation.item.truncated", "item_id": "a1", "content_index": 0, "audio_end_ms": 300}),
    );
    added(
        &mut mirror,
        Some("i1"),
        json!({"id": "i2", "type": "message", "role": "user", "content": text("between")}),
    );
    added(
        &mut mirror,
        None,
        json!({"id": "gone", "type": "message", "role": "user", "content": []}),
    );
    down(
        &mut mirror,
        json!({"type": "conversation.item.deleted", "item_id": "gone"}),
    );
    // Audio of which the words are known, and audio of which they are not.
    for (n, id) in [(1, "s1"), (2, "s2")] {
        append(&mut mirror, n, 20);
        up(&mut mirror, json!({"type": "input_audio_buffer.commit"}));
        append(&mut mirror, 9, 20);
        down(
            &mut mirror,
            json!({"type": "input_audio_buffer.committed", "item_id": id}),
        );
        up(&mut mirror, json!({"type": "input_audio_buffer.clear"}));
        down(&mut mirror, json!({"type": "input_audio_buffer.cleared"}));
    }
    down(
        &mut mirror,
        json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": "s1", "transcript": "Ah."}),
    );
    let call = |status: &str, id: &str| json!({"id": id, "type": "function_call", "status": status, "call_id": format!("c_{id}"), "name": "f", "arguments": "{}"});
    for (id, status) in [("f1", "completed"), ("f2", "incomplete")] {
        added(&mut mirror, None, call("in_progress", id));
        down(
            &mut mirror,
            json!({"type": "response.output_item.done", "response_id": "r", "item": call(status, id)}),
        );
    }
    let user = |id: &str, content: Value| json!({"id": id, "type": "message", "role": "user", "content": content});
    let spoken = |kind: &str| json!({"id": "a1", "type": "message", "role": "assistant", "content": [{"type": kind, "text": "Hello"}]});
    let expected = |kind: &str| {
        vec![
            user("i1", text("one")),
            user("i2", text("between")),
            spoken(kind),
            user("s1", text("Ah.")),
            user(
                "s2",
                json!([{"type": "input_audio", "audio": base64(2, 20)}]),
            ),
            json!({"id": "f1", "type": "function_call", "call_id": "c_f1", "name": "f", "arguments": "{}"}),
        ]
    };
    assert_eq!(told(&mut mirror, Shape::Ga), expected("output_text"));
    assert_eq!(told(&mut mirror, Shape::Preview), expected("text"));
}

fn ms_of(events: &[Value]) -> usize {
    let audio = events.iter().filter_map(|event| event["audio"].as_str());
    audio.map(|audio| audio.len() * 3 / 4 / 48).sum()
}

#[test]
fn audio_is_kept_as_long_as_it_matters() {
    // Nobody spoke: what comes before speech is known of is enough.
    let mut mirror = mirror(Shape::Ga);
    (0..10_000 / 20).for_each(|_| append(&mut mirror, 0, 20));
    let replay = mirror.replay(Shape::Ga);
    assert_eq!(ms_of(&parsed(replay.events)), 1_200);
    assert_eq!(replay.clock_ms, 8_800);
    // Somebody did, from where the new session's clock is at 1 s.
    down(
        &mut mirror,
        json!({"type": "input_audio_buffer.speech_started", "item_id": "s", "audio_start_ms": 1_000}),
    );
    (0..5_000 / 20).for_each(|_| append(&mut mirror, 1, 20));
    assert!(!mirror.is_quiet());
    let replay = mirror.replay(Shape::Ga);
    assert_eq!(
        (ms_of(&parsed(replay.events)), replay.clock_ms),
        (6_200, 8_800)
    );
    // What came after the end of speech is of the next turn.
    for (kind, name, at) in [
        ("started", "audio_start_ms", 1_000),
        ("stopped", "audio_end_ms", 4_000),
    ] {
        let mut event =
            json!({"type": format!("input_audio_buffer.speech_{kind}"), "item_id": "s"});
        event[name] = at.into();
        down(&mut mirror, event);
    }
    assert!(!mirror.is_due());
    down(
        &mut mirror,
        json!({"type": "input_audio_buffer.committed", "item_id": "s"}),
    );
    assert!(mirror.is_due(), "the turn is to be answered");
    mirror.lose();
    let replay = mirror.replay(Shape::Ga);
    let events = parsed(replay.events);
    assert_eq!((ms_of(&events), replay.clock_ms), (2_200, 12_800));
    assert_eq!(events[0]["type"], "response.create");
    let item = &parsed(replay.items)[0]["item"]["content"][0];
    assert!((2_950..=3_050).contains(&ms_of(std::slice::from_ref(item))));
}

#[test]
fn as_much_is_kept_as_padding_asks_for() {
    let check = |turn_detection: Value, ms: usize| {
        let mut mirror = mirror(Shape::Ga);
        down(
            &mut mirror,
            json!({"type": "session.updated", "session": {"audio": {"input": {"turn_detection": turn_detection}}}}),
        );
        (0..500).for_each(|_| append(&mut mirror, 0, 40));
        assert_eq!(
            ms_of(&parsed(mirror.replay(Shape::Ga).events)),
            ms,
            "{turn_detection}"
        );
    };
    check(json!({"type": "semantic_vad"}), 1_200);
    check(
        json!({"type": "server_vad", "prefix_padding_ms": 1_100}),
        2_000,
    );
    check(
        json!({"type": "server_vad", "prefix_padding_ms": u64::MAX}),
        10_880,
    );
    check(Value::Null, 20_000);
}

#[test]
fn samples_cut_in_two_are_kept_as_they_are() {
    let mut mirror = by_hand(Shape::Ga);
    let mut expected = Vec::new();
    for (n, n_bytes) in [(1, 960), (2, 961), (3, 960), (4, 959), (5, 960)] {
        let bytes = vec![n; n_bytes];
        let mut text = Vec::new();
        encode_audio(&bytes, &mut text);
        mirror.append(str::from_utf8(&text).unwrap());
        expected.extend(bytes);
    }
    mirror.append("no base64");
    // Companded once, then raw.
    let n_bytes = mirror.n_bytes();
    mirror.append("");
    let of_event = mirror.n_bytes() - n_bytes;
    assert_eq!(n_bytes - 6 * of_event, 480 + 961 + 960 + 959 + 960);
    assert!(of_event > 0, "a client may send nothing, often");
    let [event] = parsed(mirror.replay(Shape::Ga).events).try_into().unwrap();
    let mut text = Vec::new();
    encode_audio(&expected, &mut text);
    assert_eq!(event["audio"].as_str().unwrap().as_bytes(), text);
}

#[test]
fn what_is_kept_is_bounded_and_what_is_forgotten_counted() {
    let mut mirror = bounded(Shape::Ga, 40_000);
    down(
        &mut mirror,
        json!({"type": "session.created", "session": {"audio": {"input": {"turn_detection": null}}}}),
    );
    for id in ["s1", "s2"] {
        append(&mut mirror, 1, 900);
        up(&mut mirror, json!({"type": "input_audio_buffer.commit"}));
        down(
            &mut mirror,
            json!({"type": "input_audio_buffer.committed", "item_id": id}),
        );
        assert!(mirror.n_bytes() <= 40_000);
    }
    let items = told(&mut mirror, Shape::Ga);
    assert_eq!(items[0]["content"][0]["type"], "input_text", "a note");
    assert_eq!(items[1]["content"][0]["type"], "input_audio");
    assert_eq!(mirror.take_forgotten(), 1);
    assert_eq!(mirror.take_forgotten(), 0);
    // While no session is there nothing is forgotten: the client has to wait.
    mirror.lose();
    assert!(!mirror.is_full());
    append(&mut mirror, 1, 900);
    assert!(mirror.is_full());
    assert_eq!(mirror.take_forgotten(), 0);
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect()
}

#[test]
fn an_answer_is_ended_in_order_and_gone_on_with() {
    let mut mirror = by_hand(Shape::Ga);
    up(
        &mut mirror,
        json!({"type": "response.create", "event_id": "mine", "response": {"tools": [], "instructions": "Sing."}}),
    );
    answering(&mut mirror, "a1", "One two three four five six.", 500);
    assert!(mirror.is_due());
    let events = parsed(mirror.lose());
    assert_eq!(
        types(&events),
        [
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done"
        ]
    );
    let done = &events[5]["response"];
    assert_eq!(done["id"], "resp_a1");
    assert_eq!(done["conversation_id"], "conv");
    assert_eq!(done["status"], "incomplete");
    assert_eq!(
        done["output"][0]["content"][0]["transcript"],
        "One two three four five six."
    );
    let replay = mirror.replay(Shape::Ga);
    // Half a second is enough for eight characters.
    assert_eq!(
        parsed(replay.items)[0]["item"]["content"][0]["text"],
        "One two"
    );
    let [ask] = parsed(replay.events).try_into().unwrap();
    assert_eq!(ask["response"]["tools"], json!([]));
    let instructions = ask["response"]["instructions"].as_str().unwrap();
    assert!(
        instructions.starts_with("Sing.\n\n") && instructions.contains("\"One two\""),
        "{instructions}"
    );
    assert!(
        ask["event_id"]
            .as_str()
            .unwrap()
            .starts_with(super::OWN_EVENTS)
    );
    // The next session fails too, and is asked again.
    mirror.lose();
    assert_eq!(parsed(mirror.replay(Shape::Ga).events), [ask]);
}

#[test]
fn only_who_waits_is_answered() {
    let check = |more: &[Value], status: &str, asks: bool| {
        let mut mirror = mirror(Shape::Ga);
        answering(&mut mirror, "a1", "One two three.", 1_000);
        for event in more {
            let kind = event["type"].as_str().unwrap();
            match kind {
                "response.cancel" => up(&mut mirror, event.clone()),
                _ => down(&mut mirror, event.clone()),
            }
        }
        let events = parsed(mirror.lose());
        let done = &events.last().unwrap()["response"];
        assert_eq!(done["status"], status, "{more:?}");
        let replay = mirror.replay(Shape::Ga);
        assert_eq!(!replay.events.is_empty(), asks, "{more:?}");
    };
    check(&[], "incomplete", true);
    check(&[json!({"type": "response.cancel"})], "cancelled", false);
    check(
        &[json!({"type": "response.cancel", "response_id": "resp_a1"})],
        "cancelled",
        false,
    );
    check(
        &[json!({"type": "response.cancel", "response_id": "other"})],
        "incomplete",
        true,
    );
    check(
        &[json!({"type": "input_audio_buffer.speech_started", "item_id": "s"})],
        "cancelled",
        false,
    );
    let item = json!({"id": "a1", "type": "message", "status": "completed"});
    check(
        &[json!({"type": "response.output_item.done", "response_id": "resp_a1", "item": item})],
        "completed",
        false,
    );
}

#[test]
fn what_is_not_answered_is_said_again_in_its_order() {
    let mut mirror = by_hand(Shape::Ga);
    let asked = [
        json!({"type": "session.update", "session": {}}),
        json!({"type": "conversation.item.create", "item": {"id": "i1"}}),
        json!({"type": "conversation.item.delete", "item_id": "i2", "event_id": "bad"}),
        json!({"type": "conversation.item.retrieve", "item_id": "i3"}),
        json!({"type": "response.create"}),
    ];
    for event in &asked {
        up(&mut mirror, event.clone());
        append(&mut mirror, 1, 20);
    }
    let mut kinds = |events: &[Value]| {
        events
            .iter()
            .for_each(|event| down(&mut mirror, event.clone()));
        let events = parsed(mirror.replay(Shape::Ga).events);
        let kinds: Vec<_> = types(&events).iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(ms_of(&events), 100);
        kinds
            .into_iter()
            .filter(|it| !it.ends_with("append"))
            .collect::<Vec<_>>()
    };
    let all: Vec<_> = asked
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds(&[]), all);
    assert_eq!(
        kinds(&[
            json!({"type": "session.updated", "session": {"audio": {"input": {"turn_detection": null}}}}),
            json!({"type": "conversation.item.added", "item": {"id": "i1", "type": "message", "role": "user"}}),
        ]),
        all[2..]
    );
    let error =
        json!({"type": "error", "error": {"type": "invalid_request_error", "event_id": "bad"}});
    assert_eq!(kinds(&[error]), all[3..]);
    assert_eq!(
        kinds(&[json!({"type": "conversation.item.retrieved", "item": {"id": "i3"}})]),
        all[4..]
    );
    assert_eq!(
        kinds(&[
            json!({"type": "response.created", "response": {"id": "r", "conversation_id": "c"}})
        ]),
        Vec::<String>::new()
    );
}

#[test]
fn what_is_not_answered_is_kept_within_bounds() {
    let create = |n: usize| {
        let content = json!([{"type": "input_text", "text": "x".repeat(10_000)}]);
        json!({"type": "conversation.item.create", "item": {"id": n.to_string(), "content": content}})
    };
    // While there is a session, the oldest are forgotten.
    let mut mirror = bounded(Shape::Ga, 100_000);
    (0..50).for_each(|n| up(&mut mirror, create(n)));
    assert!(mirror.n_bytes() <= 100_000, "{}", mirror.n_bytes());
    assert!(mirror.take_forgotten() >= 40);
    // While there is none, nothing is, and the client has to wait.
    mirror.lose();
    let mut n = 50;
    while !mirror.is_full() {
        up(&mut mirror, create(n));
        n += 1;
    }
    assert!(mirror.n_bytes() < 120_000, "{}", mirror.n_bytes());
    let events = parsed(mirror.replay(Shape::Ga).events);
    assert_eq!(events.last().unwrap()["item"]["id"], (n - 1).to_string());
    assert_eq!(mirror.take_forgotten(), 0);
    // What is answered is not kept twice.
    let mut mirror = by_hand(Shape::Ga);
    let kept = mirror.n_bytes();
    up(
        &mut mirror,
        json!({"type": "response.create", "event_id": "e"}),
    );
    assert!(mirror.n_bytes() > kept);
    down(
        &mut mirror,
        json!({"type": "error", "error": {"type": "invalid_request_error", "event_id": "e"}}),
    );
    assert_eq!(mirror.n_bytes(), kept);
}

#[test]
fn a_refusal_that_names_no_event_is_that_of_the_oldest_it_can_mean() {
    let asked = || {
        let mut mirror = by_hand(Shape::Ga);
        for event in [
            json!({"type": "conversation.item.create", "event_id": "1", "item": {"id": "i"}}),
            json!({"type": "session.update", "event_id": "2", "session": {}}),
            json!({"type": "response.create", "event_id": "3"}),
            json!({"type": "response.create", "event_id": "4"}),
            json!({"type": "conversation.item.retrieve", "item_id": "i"}),
        ] {
            up(&mut mirror, event);
        }
        mirror
    };
    let check = |error: Value, refused: &str| {
        let mut mirror = asked();
        down(&mut mirror, json!({"type": "error", "error": error}));
        let left = parsed(mirror.replay(Shape::Ga).events);
        let ids: Vec<_> = left
            .iter()
            .map(|it| it["event_id"].as_str().unwrap_or("-"))
            .collect();
        let mut expected = vec!["1", "2", "3", "4", "-"];
        expected.retain(|id| *id != refused);
        assert_eq!(ids, expected, "{error}");
    };
    let bad = |code: &str, param: Value| json!({"type": "invalid_request_error", "code": code, "param": param, "message": "m"});
    check(
        bad("conversation_already_has_active_response", Value::Null),
        "3",
    );
    check(
        json!({"type": "invalid_request_error", "code": null, "message": "Conversation already has an active response"}),
        "3",
    );
    check(
        bad("invalid_value", json!("response.max_output_tokens")),
        "3",
    );
    check(bad("cannot_update_voice", Value::Null), "2");
    check(bad("unknown_parameter", json!("session.voice")), "2");
    check(bad("invalid_value", json!("item.content[0].type")), "1");
    // Whatever else is refused without a name had none, if there is one such.
    check(bad("invalid_value", Value::Null), "-");
    check(bad("response_cancel_not_active", Value::Null), "");
    check(json!({"type": "server_error", "code": null}), "");
    // A refused response is owed no more.
    let mut mirror = by_hand(Shape::Ga);
    up(
        &mut mirror,
        json!({"type": "response.create", "event_id": "e"}),
    );
    assert!(mirror.is_due());
    down(
        &mut mirror,
        json!({"type": "error", "error": bad("conversation_already_has_active_response", Value::Null)}),
    );
    assert!(!mirror.is_due());
}

#[test]
fn audio_in_which_one_turn_ends_may_hold_the_beginning_of_the_next() {
    let mut mirror = mirror(Shape::Ga);
    for n in 1..=5 {
        append(&mut mirror, n, 100);
    }
    let speech = |kind: &str, at: &str, ms: u64| json!({"type": format!("input_audio_buffer.{kind}"), "item_id": "s1", at: ms});
    down(&mut mirror, speech("speech_started", "audio_start_ms", 120));
    down(&mut mirror, speech("speech_stopped", "audio_end_ms", 350));
    down(
        &mut mirror,
        json!({"type": "input_audio_buffer.committed", "item_id": "s1"}),
    );
    mirror.lose();
    let replay = mirror.replay(Shape::Ga);
    let item = &parsed(&replay.items)[0]["item"]["content"][0]["audio"];
    let said = [(2, 4_800), (3, 4_800), (4, 2_400)].map(|(n, bytes)| vec![n; bytes]);
    let said = said.concat();
    let mut expected = Vec::new();
    encode_audio(&said, &mut expected);
    assert_eq!(item.as_str().unwrap().as_bytes(), expected);
    let left: Vec<_> = parsed(replay.events)
        .into_iter()
        .filter(|event| event["type"] == "input_audio_buffer.append")
        .map(|event| event["audio"].clone())
        .collect();
    let both = [vec![4; 4_800], vec![5; 4_800]].concat();
    let mut expected = Vec::new();
    encode_audio(&both, &mut expected);
    assert_eq!(left, [String::from_utf8(expected).unwrap()]);
    assert_eq!(replay.clock_ms, 300);
    assert_eq!(replay.audio_us, 450_000);
}

#[test]
fn no_number_of_a_deployment_is_too_large() {
    let mut mirror = mirror(Shape::Ga);
    append(&mut mirror, 1, 20);
    mirror.lose();
    mirror.replay(Shape::Ga);
    let far = json!(u64::MAX);
    down(
        &mut mirror,
        json!({"type": "input_audio_buffer.speech_started", "item_id": "s", "audio_start_ms": far}),
    );
    down(
        &mut mirror,
        json!({"type": "input_audio_buffer.speech_stopped", "item_id": "s", "audio_end_ms": far}),
    );
    down(
        &mut mirror,
        json!({"type": "input_audio_buffer.committed", "item_id": "s"}),
    );
    answering(&mut mirror, "a1", "0123456789", 1_000);
    down(
        &mut mirror,
        json!({"type": "conversation.item.truncated", "item_id": "a1", "content_index": 0, "audio_end_ms": far}),
    );
    mirror.lose();
}

#[test]
fn a_retold_answer_is_truncated_by_making_it_anew() {
    let mut mirror = by_hand(Shape::Preview);
    answering(&mut mirror, "a1", "0123456789", 1_000);
    answered(&mut mirror, "a1");
    let truncate = json!({"type": "conversation.item.truncate", "item_id": "a1", "content_index": 0, "audio_end_ms": 400});
    assert!(
        mirror.truncate(&truncate.to_string()).is_none(),
        "the deployment can"
    );
    mirror.replay(Shape::Preview);
    let cut = mirror.truncate(&truncate.to_string()).unwrap();
    let [delete, create] = parsed(cut.events).try_into().unwrap();
    assert_eq!(delete["item_id"], "a1");
    assert_eq!(create["previous_item_id"], "root");
    assert_eq!(
        create["item"]["content"],
        json!([{"type": "text", "text": "0123"}])
    );
    let answer: Value = serde_json::from_str(&cut.answer).unwrap();
    assert_eq!(
        (&answer["item_id"], &answer["audio_end_ms"]),
        (&json!("a1"), &json!(400))
    );
}

#[test]
fn a_seam_hides_what_nobody_asked_for() {
    let mut mirror = by_hand(Shape::Ga);
    (0..100).for_each(|_| append(&mut mirror, 0, 20));
    up(&mut mirror, json!({"type": "input_audio_buffer.clear"}));
    down(&mut mirror, json!({"type": "input_audio_buffer.cleared"}));
    added(
        &mut mirror,
        None,
        json!({"id": "i1", "type": "message", "role": "user", "content": []}),
    );
    down(
        &mut mirror,
        json!({"type": "response.created", "response": {"id": "r1", "conversation_id": "c1"}}),
    );
    let mut seam = Seam::new("sess_1");
    let show = |seam: &mut Seam, event: Value| {
        let text = event.to_string();
        match seam.server_event(&ServerEvent::parse(&text).unwrap(), &text) {
            Shown::Unchanged => vec![event],
            Shown::Replaced(text) => parsed([text]),
            Shown::Several(texts) => parsed(texts),
            Shown::Withheld => vec![],
            Shown::Refused => vec![json!("refused")],
        }
    };
    let response = |kind: &str, id: &str, conversation: &str| json!({"type": kind, "response": {"id": id, "conversation_id": conversation}});
    let created = response("response.created", "r1", "c1");
    assert_eq!(show(&mut seam, created.clone()), [created]);
    mirror.lose();
    let mut replay = mirror.replay(Shape::Ga);
    seam.begin(Shape::Ga, &mut replay, 1);
    let mut check = |event: Value, expected: Option<Value>| {
        assert_eq!(
            show(&mut seam, event.clone()),
            Vec::from_iter(expected),
            "{event}"
        );
    };
    let item = |kind: &str, id: &str| json!({"type": kind, "item": {"id": id}});
    let session = |id: &str| json!({"type": "session.updated", "session": {"id": id}});
    check(
        json!({"type": "session.created", "session": {"id": "sess_2"}}),
        None,
    );
    check(
        json!({"type": "conversation.created", "conversation": {"id": "c2"}}),
        None,
    );
    check(session("sess_2"), None);
    check(session("sess_2"), Some(session("sess_1")));
    for kind in ["conversation.item.added", "conversation.item.done"] {
        check(item(kind, "i1"), None);
        check(item(kind, "i2"), Some(item(kind, "i2")));
    }
    check(
        item("conversation.item.done", "i1"),
        Some(item("conversation.item.done", "i1")),
    );
    // The client knows that response already, by another id.
    check(response("response.created", "r2", "c2"), None);
    check(
        json!({"type": "response.output_audio.delta", "response_id": "r2", "delta": "AAAA"}),
        Some(json!({"type": "response.output_audio.delta", "response_id": "r1", "delta": "AAAA"})),
    );
    check(
        response("response.done", "r2", "c2"),
        Some(response("response.done", "r1", "c1")),
    );
    check(
        response("response.created", "r3", "c2"),
        Some(response("response.created", "r3", "c1")),
    );
    let speech = |at: u64| json!({"type": "input_audio_buffer.speech_started", "item_id": "s", "audio_start_ms": at});
    check(speech(500), Some(speech(2_500)));
    let error = |id: &str| json!({"type": "error", "error": {"type": "t", "event_id": id}});
    check(error("theirs"), Some(error("theirs")));
    check(error("event_trunkline_7"), None);
    check(error("event_trunkline_settings"), Some(json!("refused")));
}
