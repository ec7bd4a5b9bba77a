//! Realtime events, beside a slow reader that takes them apart with `serde_json` alone.

use serde_json::Value;
use trunkline::realtime::{
    ScanError, Shape, Translated, Translator, append_audio, audio_delta, check_depth, event_type,
};
use trunkline::upstream::Decoder;

const SHAPES: [Shape; 2] = [Shape::Preview, Shape::Ga];

fn texts(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
}

/// The scanners agree with `serde_json` about every text that both can read.
fn check_scanners(text: &str) {
    let value = serde_json::from_str::<Value>(text).ok();
    let kind = event_type(text);
    if let Some(Value::Object(members)) = &value {
        match (&kind, members.get("type")) {
            (Ok(kind), Some(Value::String(known))) => assert_eq!(**kind, **known),
            (Err(ScanError::NoType), None) | (Err(ScanError::DuplicateType), Some(_)) => {}
            (Err(ScanError::TypeNotText), Some(known)) => assert!(!known.is_string()),
            (kind, known) => panic!("{kind:?} for {known:?}"),
        }
        // An append or a delta that the fast scanner finds is one, with that audio.
        if let Some(audio) = append_audio(text) {
            assert_eq!(members["type"], "input_audio_buffer.append");
            assert_eq!(members["audio"], *audio);
        }
        if let Some(delta) = audio_delta(text) {
            let known = members.get("delta").and_then(Value::as_str);
            assert_eq!(delta.delta.as_str(), known.unwrap_or_default());
        }
        // What passes the limits is no deeper than they say.
        if check_depth(text, 8, 16).is_ok() {
            assert!(depth(value.as_ref().expect("there")) <= 8);
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What was JSON stays JSON. What was not may pass: deltas are renamed without being read.
fn check_json(text: &str, translated: &Translated) {
    if serde_json::from_str::<Value>(text).is_err() {
        return;
    }
    let texts = match translated {
        Translated::Replaced(text) => std::slice::from_ref(text),
        Translated::Several(texts) => texts,
        Translated::Unchanged | Translated::Dropped => &[],
    };
    for text in texts {
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert!(value["type"].is_string(), "{text}");
    }
}

/// A client's events: what leaves the translator is JSON with a type, and so is the answer to what does not.
pub(crate) fn client_event(bytes: &[u8]) {
    let mut translators = Vec::new();
    for from in SHAPES {
        for to in SHAPES {
            translators.push((Translator::new(), from, to));
        }
    }
    translators.push((Translator::for_first_preview(), Shape::Preview, Shape::Ga));
    for text in texts(bytes) {
        check_scanners(text);
        for (translator, from, to) in &mut translators {
            match translator.client_event(text, *from, *to) {
                Ok(translated) => check_json(text, &translated),
                Err(error) => {
                    let answer = error.event_text().expect("an answer");
                    let answer: Value = serde_json::from_str(answer).expect("JSON");
                    assert_eq!(answer["type"], "error");
                }
            }
        }
    }
}

/// A deployment's events.
pub(crate) fn server_event(bytes: &[u8]) {
    let mut decoder = Decoder::new();
    let mut translators = [
        (Translator::new(), Shape::Ga, Shape::Preview),
        (Translator::new(), Shape::Preview, Shape::Ga),
    ];
    for text in texts(bytes) {
        check_scanners(text);
        if let Ok(decoded) = decoder.decode(text) {
            let _ = decoded.event();
        }
        for (translator, from, to) in &mut translators {
            if let Ok(translated) = translator.server_event(text, *from, *to) {
                check_json(text, &translated);
            }
        }
    }
}
