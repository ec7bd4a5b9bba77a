//! Tests of translation: golden pairs of every event, sequences, losses, and totality.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::samples::{self, CLIENT_PAIRS, SERVER_PAIRS};
use super::{Shape, TranslateError, Translated, Translator};

const SHAPES: [(Shape, Shape); 2] = [(Shape::Preview, Shape::Ga), (Shape::Ga, Shape::Preview)];

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The events that come out for `texts`.
fn outcome(
    texts: &[&str],
    mut translate: impl FnMut(&str) -> Result<Translated, TranslateError>,
) -> Vec<Value> {
    let mut out = Vec::new();
    for text in texts {
        match translate(text).unwrap() {
            Translated::Unchanged => out.push(value(text)),
            Translated::Replaced(event) => out.push(value(&event)),
            Translated::Several(events) => out.extend(events.iter().map(|event| value(event))),
            Translated::Dropped => {}
        }
    }
    out
}

fn client(texts: &[&str], from: Shape, to: Shape) -> Vec<Value> {
    let mut translator = Translator::new();
    outcome(texts, |text| translator.client_event(text, from, to))
}

fn server(texts: &[&str], from: Shape, to: Shape) -> Vec<Value> {
    let mut translator = Translator::new();
    outcome(texts, |text| translator.server_event(text, from, to))
}

fn values(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| value(text)).collect()
}

#[test]
fn client_events_in_both_directions() {
    for pair in CLIENT_PAIRS {
        assert_eq!(
            client(pair.preview, Shape::Preview, Shape::Ga),
            values(pair.ga)
        );
        assert_eq!(
            client(pair.ga, Shape::Ga, Shape::Preview),
            values(pair.preview)
        );
    }
}

#[test]
fn server_events_in_both_directions() {
    for pair in SERVER_PAIRS {
        assert_eq!(
            server(pair.preview, Shape::Preview, Shape::Ga),
            values(pair.ga)
        );
        assert_eq!(
            server(pair.ga, Shape::Ga, Shape::Preview),
            values(pair.preview)
        );
    }
    assert_eq!(
        server(samples::GA_ONLY, Shape::Ga, Shape::Preview),
        Vec::<Value>::new()
    );
}

#[test]
fn equal_shapes_change_nothing() {
    let mut translator = Translator::new();
    for shape in [Shape::Preview, Shape::Ga] {
        for pair in CLIENT_PAIRS {
            let texts = if shape == Shape::Ga {
                pair.ga
            } else {
                pair.preview
            };
            for text in texts {
                assert_eq!(
                    translator.client_event(text, shape, shape).unwrap(),
                    Translated::Unchanged
                );
            }
        }
        for text in samples::server_events() {
            assert_eq!(
                translator.server_event(text, shape, shape).unwrap(),
                Translated::Unchanged
            );
        }
    }
}

#[test]
fn a_delta_keeps_every_byte_but_its_type() {
    let text =
        r#"{ "event_id":"e", "type" : "response.output_audio.delta","delta":"A\/A=" ,"x":[1, 2]}"#;
    let expected =
        r#"{ "event_id":"e", "type" : "response.audio.delta","delta":"A\/A=" ,"x":[1, 2]}"#;
    let translated = Translator::new()
        .server_event(text, Shape::Ga, Shape::Preview)
        .unwrap();
    assert_eq!(translated, Translated::Replaced(expected.to_owned()));
}

const OUTPUT_ADDED: &str = r#"{"type":"response.output_item.added","event_id":"e1","response_id":"r","output_index":0,"item":{"id":"i","type":"function_call","status":"in_progress","name":"weather","call_id":"c","arguments":""}}"#;
const ITEM_CREATED: &str = r#"{"type":"conversation.item.created","event_id":"e2","previous_item_id":"p","item":{"id":"i","type":"function_call","status":"in_progress","name":"weather","call_id":"c","arguments":""}}"#;
const ITEM_ADDED: &str = r#"{"type":"conversation.item.added","event_id":"e2","previous_item_id":"p","item":{"id":"i","type":"function_call","status":"in_progress","name":"weather","call_id":"c","arguments":""}}"#;
const ARGUMENTS: &str = r#"{"type":"response.function_call_arguments.done","event_id":"e3","response_id":"r","item_id":"i","output_index":0,"call_id":"c","arguments":"{}"}"#;
const OUTPUT_DONE: &str = r#"{"type":"response.output_item.done","event_id":"e4","response_id":"r","output_index":0,"item":{"id":"i","type":"function_call","status":"completed","name":"weather","call_id":"c","arguments":"{}"}}"#;
const ITEM_DONE: &str = r#"{"type":"conversation.item.done","event_id":"event_000000000000000000001","previous_item_id":"p","item":{"id":"i","type":"function_call","status":"completed","name":"weather","call_id":"c","arguments":"{}"}}"#;

#[test]
fn a_generated_item_is_done_just_before_its_output() {
    let ga = server(
        &[OUTPUT_ADDED, ITEM_CREATED, ARGUMENTS, OUTPUT_DONE],
        Shape::Preview,
        Shape::Ga,
    );
    let mut arguments = value(ARGUMENTS);
    arguments["name"] = json!("weather");
    assert_eq!(
        ga,
        [
            value(OUTPUT_ADDED),
            value(ITEM_ADDED),
            arguments,
            value(ITEM_DONE),
            value(OUTPUT_DONE)
        ]
    );
}

#[test]
fn an_item_outside_of_the_conversation_is_not_done_in_it() {
    let texts = [OUTPUT_ADDED, OUTPUT_DONE];
    assert_eq!(server(&texts, Shape::Preview, Shape::Ga), values(&texts));
}

#[test]
fn output_comes_before_the_item_for_preview_clients() {
    let expected = values(&[OUTPUT_ADDED, ITEM_CREATED, OUTPUT_DONE]);
    let ga = [OUTPUT_ADDED, ITEM_ADDED, ITEM_DONE, OUTPUT_DONE];
    assert_eq!(server(&ga, Shape::Ga, Shape::Preview), expected);
    let swapped = [ITEM_ADDED, OUTPUT_ADDED, ITEM_DONE, OUTPUT_DONE];
    assert_eq!(server(&swapped, Shape::Ga, Shape::Preview), expected);
    // If it is not next, waiting longer would only harm.
    assert_eq!(
        server(&[ITEM_ADDED, ITEM_DONE], Shape::Ga, Shape::Preview),
        values(&[ITEM_CREATED])
    );
}

#[test]
fn the_temperature_that_was_set_is_echoed() {
    let mut translator = Translator::new();
    let update = r#"{"type":"session.update","session":{"temperature":0.65,"turn_detection":{"type":"none"}}}"#;
    let sent = outcome(&[update], |text| {
        translator.client_event(text, Shape::Preview, Shape::Ga)
    });
    assert_eq!(
        sent,
        [
            json!({"type":"session.update","session":{"type":"realtime","audio":{"input":{"turn_detection":null}}}})
        ]
    );
    let updated =
        r#"{"type":"session.updated","event_id":"e","session":{"type":"realtime","id":"s"}}"#;
    let echoed = outcome(&[updated], |text| {
        translator.server_event(text, Shape::Ga, Shape::Preview)
    });
    assert_eq!(echoed[0]["session"]["temperature"], json!(0.65));
    assert_eq!(echoed[0]["session"]["voice"], json!("alloy"));
}

#[test]
fn what_strict_clients_need_is_filled_in() {
    let bare = r#"{"type":"session.created","event_id":"e","session":{"id":"s","model":"m"}}"#;
    let preview = &server(&[bare], Shape::Ga, Shape::Preview)[0]["session"];
    for name in [
        "id",
        "model",
        "modalities",
        "instructions",
        "voice",
        "input_audio_format",
        "output_audio_format",
        "input_audio_transcription",
        "turn_detection",
        "tools",
        "tool_choice",
        "temperature",
        "max_response_output_tokens",
    ] {
        assert!(preview.get(name).is_some(), "{name}");
    }
    let ga = &server(&[bare], Shape::Preview, Shape::Ga)[0]["session"];
    assert_eq!(ga["type"], "realtime");
    assert_eq!(
        ga["audio"]["input"]["turn_detection"]["interrupt_response"],
        true
    );
    let completed = r#"{"type":"conversation.item.input_audio_transcription.completed","event_id":"e","item_id":"i","content_index":0,"transcript":"x"}"#;
    assert!(
        server(&[completed], Shape::Preview, Shape::Ga)[0]
            .get("usage")
            .is_some()
    );
}

#[test]
fn null_event_ids_are_dropped() {
    let commit = r#"{"type":"input_audio_buffer.commit","event_id":null}"#;
    assert_eq!(
        client(&[commit], Shape::Preview, Shape::Ga),
        [json!({"type":"input_audio_buffer.commit"})]
    );
}

fn refusal(text: &str, from: Shape, to: Shape) -> Value {
    match Translator::new().client_event(text, from, to) {
        Err(TranslateError::WrongShape { event }) => value(&event),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_other_shape_gets_a_faithful_error() {
    let check = |text: &str, from: Shape, code: &str, message: &str, param: &str| {
        for to in [Shape::Preview, Shape::Ga] {
            let expected = json!({"type":"error","event_id":"event_000000000000000000001","error":{
                "type":"invalid_request_error","code":code,"message":message,"param":param,"event_id":"c1"}});
            assert_eq!(refusal(text, from, to), expected);
        }
    };
    check(
        r#"{"type":"session.update","event_id":"c1","session":{"output_modalities":["text"],"type":"realtime"}}"#,
        Shape::Preview,
        "unknown_parameter",
        "Unknown parameter: 'session.output_modalities'.",
        "session.output_modalities",
    );
    check(
        r#"{"type":"session.update","event_id":"c1","session":{"voice":"alloy"}}"#,
        Shape::Ga,
        "missing_required_parameter",
        "Missing required parameter: 'session.type'.",
        "session.type",
    );
    check(
        r#"{"type":"session.update","event_id":"c1","session":{"type":"realtime","voice":"alloy"}}"#,
        Shape::Ga,
        "unknown_parameter",
        "Unknown parameter: 'session.voice'.",
        "session.voice",
    );
    check(
        r#"{"type":"transcription_session.update","event_id":"c1","session":{}}"#,
        Shape::Ga,
        "invalid_event",
        "Unknown event type: 'transcription_session.update'.",
        "type",
    );
    let create = r#"{"type":"response.create","response":{"modalities":["text"]}}"#;
    assert_eq!(
        refusal(create, Shape::Ga, Shape::Preview)["error"]["param"],
        "response.modalities"
    );
}

#[test]
fn values_that_would_be_lost_are_refused() {
    let check = |from: Shape, event: &str, member: &str, expected: &str| {
        let text = |place: &str| match (event, from) {
            ("session.update", Shape::Ga) => {
                format!(r#"{{"type":"session.update","session":{{"type":"realtime",{place}}}}}"#)
            }
            ("session.update", Shape::Preview) => {
                format!(r#"{{"type":"session.update","session":{{{place}}}}}"#)
            }
            _ => format!(r#"{{"type":"response.create","response":{{{place}}}}}"#),
        };
        let to = match from {
            Shape::Ga => Shape::Preview,
            Shape::Preview => Shape::Ga,
        };
        let error = refusal(&text(member), from, to)["error"].take();
        assert_eq!(
            (error["code"].as_str(), error["param"].as_str()),
            (Some("invalid_value"), Some(expected))
        );
        // The deployment of the same shape says so itself.
        assert_eq!(
            Translator::new()
                .client_event(&text(member), from, from)
                .unwrap(),
            Translated::Unchanged
        );
    };
    for (event, place) in [
        ("session.update", "session"),
        ("response.create", "response"),
    ] {
        for temperature in ["0.5", "1.21", "\"warm\""] {
            let member = format!("\"temperature\":{temperature}");
            let param = format!("{place}.temperature");
            check(Shape::Preview, event, &member, &param);
        }
        let param = format!("{place}.modalities");
        for modalities in [r#"["audio"]"#, r#"["video","text"]"#, "[]"] {
            let member = format!("\"modalities\":{modalities}");
            check(Shape::Preview, event, &member, &param);
        }
        let param = format!("{place}.output_modalities");
        for modalities in [r#"["text","audio"]"#, r#"["audio","text"]"#] {
            let member = format!("\"output_modalities\":{modalities}");
            check(Shape::Ga, event, &member, &param);
        }
    }
    let fine =
        r#"{"type":"session.update","session":{"temperature":null,"modalities":["audio","text"]}}"#;
    let sent = client(&[fine], Shape::Preview, Shape::Ga);
    assert_eq!(sent[0]["session"]["output_modalities"], json!(["audio"]));
}

#[test]
fn a_bad_event_is_answered_and_ends_nothing() {
    let check = |text: &str| {
        let error = Translator::new()
            .client_event(text, Shape::Preview, Shape::Ga)
            .unwrap_err();
        let event = value(error.event_text().unwrap());
        assert_eq!(event["type"], "error");
        assert_eq!(event["error"]["type"], "invalid_request_error");
        assert_eq!(event["error"]["code"], "invalid_event");
    };
    check("");
    check("[]");
    check("{\"type\":");
    check(r#"{"type":"response.create","type":"response.cancel"}"#);
    check(r#"{"type":"response.create","response":{},"response":{}}"#);
    for text in ["{}", r#"{"type":null}"#, r#"{"type":5,"x":1}"#] {
        let translated = Translator::new().client_event(text, Shape::Preview, Shape::Ga);
        assert_eq!(translated.unwrap(), Translated::Unchanged, "{text}");
    }
    let error = Translator::new()
        .server_event("{}", Shape::Ga, Shape::Preview)
        .unwrap_err();
    assert_eq!(error.event_text(), None);
}

#[test]
fn null_counts_as_absent() {
    let completed = r#"{"type":"conversation.item.input_audio_transcription.completed","event_id":"e","item_id":"i","content_index":0,"transcript":"x","usage":null}"#;
    assert_eq!(
        server(&[completed], Shape::Preview, Shape::Ga)[0]["usage"]["total_tokens"],
        0
    );
    let mut arguments = value(ARGUMENTS);
    arguments["name"] = Value::Null;
    let events = server(
        &[OUTPUT_ADDED, &arguments.to_string()],
        Shape::Preview,
        Shape::Ga,
    );
    assert_eq!(events[1]["name"], "weather");
    let mut nameless = value(OUTPUT_ADDED);
    nameless["item"]["name"] = Value::Null;
    let events = server(
        &[&nameless.to_string(), ARGUMENTS],
        Shape::Preview,
        Shape::Ga,
    );
    assert_eq!(events[1]["name"], "");
    let append = r#"{"type":"input_audio_buffer.append","event_id":null,"audio":"AAAA"}"#;
    assert_eq!(
        client(&[append], Shape::Preview, Shape::Ga),
        [json!({"type":"input_audio_buffer.append","audio":"AAAA"})]
    );
}

#[test]
fn only_what_a_response_is_at_work_on_is_kept_open() {
    let check = |item: &str, expected: &[&str]| {
        let created = format!(
            r#"{{"type":"conversation.item.created","event_id":"e","previous_item_id":null,"item":{item}}}"#
        );
        let types: Vec<_> = server(&[&created], Shape::Preview, Shape::Ga)
            .iter()
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(types, expected, "{item}");
    };
    let added = "conversation.item.added";
    let done = "conversation.item.done";
    check(
        r#"{"id":"i","type":"message","role":"user","status":"in_progress"}"#,
        &[added, done],
    );
    check(
        r#"{"id":"i","type":"function_call_output","status":"in_progress"}"#,
        &[added, done],
    );
    check(
        r#"{"id":"i","type":"message","role":"assistant","status":"completed"}"#,
        &[added, done],
    );
    check(
        r#"{"id":"i","type":"message","role":"assistant","status":"in_progress"}"#,
        &[added],
    );
    check(
        r#"{"id":"i","type":"function_call","status":"in_progress"}"#,
        &[added],
    );
}

#[test]
fn a_response_echoes_its_own_temperature() {
    let mut translator = Translator::new();
    let ask = |translator: &mut Translator, id: &str, response: &str| {
        let text =
            format!(r#"{{"type":"response.create","event_id":"{id}","response":{response}}}"#);
        let sent = outcome(&[&text], |text| {
            translator.client_event(text, Shape::Preview, Shape::Ga)
        });
        assert_eq!(sent[0]["response"].get("temperature"), None);
    };
    let told = |translator: &mut Translator, kind: &str, id: &str| {
        let text = format!(r#"{{"type":"response.{kind}","response":{{"id":"{id}"}}}}"#);
        let told = outcome(&[&text], |text| {
            translator.server_event(text, Shape::Ga, Shape::Preview)
        });
        told[0]["response"]["temperature"].clone()
    };
    ask(&mut translator, "c1", "{}");
    ask(&mut translator, "c2", r#"{"temperature":0.65}"#);
    ask(&mut translator, "c3", r#"{"temperature":1.1}"#);
    let refused = r#"{"type":"error","error":{"code":"x","event_id":"c2"}}"#;
    translator
        .server_event(refused, Shape::Ga, Shape::Preview)
        .unwrap();
    assert_eq!(told(&mut translator, "created", "r1"), json!(0.8));
    assert_eq!(told(&mut translator, "created", "r3"), json!(1.1));
    assert_eq!(told(&mut translator, "done", "r1"), json!(0.8));
    assert_eq!(told(&mut translator, "done", "r3"), json!(1.1));
    assert_eq!(told(&mut translator, "created", "r4"), json!(0.8));
}

#[test]
fn the_first_preview_is_translated_between_equal_shapes_too() {
    let check = |text: &str, expected: Value| {
        for to in [Shape::Preview, Shape::Ga] {
            let mut translator = Translator::for_first_preview();
            let sent = outcome(&[text], |text| {
                translator.client_event(text, Shape::Preview, to)
            });
            assert_eq!(sent, std::slice::from_ref(&expected), "{to}");
        }
    };
    check(
        r#"{"type":"response.create","event_id":null,"response":{"commit":true,"cancel_previous":true,"append_input_items":[],"input_items":[],"instructions":"x"}}"#,
        json!({"type":"response.create","response":{"instructions":"x"}}),
    );
    check(
        r#"{"type":"response.create","event_id":null}"#,
        json!({"type":"response.create"}),
    );
    check(
        r#"{"type":"input_audio_buffer.commit","event_id":null}"#,
        json!({"type":"input_audio_buffer.commit"}),
    );
    check(
        r#"{"type":"input_audio_buffer.append","audio":"AAAA","event_id":null}"#,
        json!({"type":"input_audio_buffer.append","audio":"AAAA"}),
    );
    let mut translator = Translator::for_first_preview();
    let sent = outcome(
        &[
            r#"{"type":"session.update","session":{"voice":"echo","turn_detection":{"type":"none"}}}"#,
        ],
        |text| translator.client_event(text, Shape::Preview, Shape::Preview),
    );
    assert_eq!(
        sent,
        [json!({"type":"session.update","session":{"voice":"echo","turn_detection":null}})]
    );
}

#[test]
fn the_first_preview_sees_only_what_it_knows() {
    let check = |from: Shape, session: Value| {
        let mut translator = Translator::for_first_preview();
        let text = json!({"type":"session.updated","event_id":"e","session":session}).to_string();
        let events = outcome(&[&text], |text| {
            translator.server_event(text, from, Shape::Preview)
        });
        let session = &events[0]["session"];
        assert_eq!(session["voice"], "alloy");
        assert_eq!(session["turn_detection"], json!({"type":"none"}));
    };
    check(
        Shape::Preview,
        json!({"voice":"cedar","turn_detection":null}),
    );
    check(
        Shape::Ga,
        json!({"type":"realtime","audio":{"input":{"turn_detection":null},"output":{"voice":"marin"}}}),
    );
    // An operator may have found out that the client speaks GA.
    let marin = r#"{"type":"session.updated","session":{"type":"realtime","audio":{"output":{"voice":"marin"}}}}"#;
    let mut translator = Translator::for_first_preview();
    let translated = translator.server_event(marin, Shape::Ga, Shape::Ga);
    assert_eq!(translated.unwrap(), Translated::Unchanged);
}

/// GA sessions, with members that have no preview form among them.
fn ga_session() -> impl Strategy<Value = Value> {
    let option = |values: Vec<Value>| prop::option::of(prop::sample::select(values));
    let format = || {
        option(vec![
            json!({"type":"audio/pcm","rate":24000}),
            json!({"type":"audio/pcmu"}),
            json!({"type":"audio/pcma"}),
        ])
    };
    let detection = option(vec![
        json!(null),
        json!({"type":"server_vad","threshold":0.1}),
        json!({"type":"semantic_vad","eagerness":"low"}),
    ]);
    let input = (
        format(),
        detection,
        option(vec![json!(null), json!({"model":"whisper-1"})]),
    );
    let output = (
        format(),
        option(vec![json!("cedar"), json!({"id":"voice_1"})]),
        option(vec![json!(0.5)]),
    );
    let rest = (
        option(vec![json!(["audio"]), json!(["text"])]),
        option(vec![json!("inf"), json!(77)]),
        option(vec![
            json!("auto"),
            json!({"type":"mcp","server_label":"s"}),
        ]),
        option(vec![
            json!("auto"),
            json!({"type":"retention_ratio","retention_ratio":0.5}),
        ]),
        ".{0,12}",
    );
    (input, output, rest).prop_map(|(input, output, rest)| {
        let mut session = json!({"type":"realtime","instructions":rest.4,"unknown":{"a":[1,2.50]}});
        let mut put = |path: &[&str], value: Option<Value>| {
            if let Some(value) = value {
                let place = path
                    .iter()
                    .fold(&mut session, |place, name| &mut place[*name]);
                *place = value;
            }
        };
        put(&["audio", "input", "format"], input.0);
        put(&["audio", "input", "turn_detection"], input.1);
        put(&["audio", "input", "transcription"], input.2);
        put(&["audio", "output", "format"], output.0);
        put(&["audio", "output", "voice"], output.1);
        put(&["audio", "output", "speed"], output.2);
        put(&["output_modalities"], rest.0);
        put(&["max_output_tokens"], rest.1);
        put(&["tool_choice"], rest.2);
        put(&["truncation"], rest.3);
        session
    })
}

proptest! {
    #[test]
    fn ga_sessions_survive_the_preview_shape(session in ga_session()) {
        let event = json!({"type":"session.update","event_id":"c","session":session});
        let preview = client(&[&event.to_string()], Shape::Ga, Shape::Preview);
        let back = client(&[&preview[0].to_string()], Shape::Preview, Shape::Ga);
        let mut expected = event;
        expected["session"].as_object_mut().unwrap().remove("truncation");
        prop_assert_eq!(&back[0], &expected);
    }

    #[test]
    fn is_total(
        index in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 0..6),
        noise in ".{0,80}",
    ) {
        let events: Vec<_> = samples::client_events().into_iter().chain(samples::server_events()).collect();
        let mutated = samples::mutated(events[index.index(events.len())], &edits);
        for text in [&mutated, &noise] {
            let equal = [(Shape::Ga, Shape::Ga), (Shape::Preview, Shape::Preview)];
            let mut translator = Translator::for_first_preview();
            for (from, to) in SHAPES.into_iter().chain(equal) {
                if let Err(error) = translator.client_event(text, from, to) {
                    let answer = error.event_text().map(serde_json::from_str::<Value>);
                    prop_assert!(matches!(answer, Some(Ok(_))), "{:?}", error);
                }
                for translated in [translator.client_event(text, from, to), translator.server_event(text, from, to)] {
                    let Ok(Translated::Replaced(event)) = translated else { continue };
                    // What goes in as JSON comes out as JSON.
                    if serde_json::from_str::<Value>(text).is_ok() {
                        prop_assert!(serde_json::from_str::<Value>(&event).is_ok(), "{}", event);
                    }
                }
            }
        }
    }
}
