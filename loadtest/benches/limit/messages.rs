//! What phones and models say, as text: the messages of a call that both far ends need.

use memchr::memmem;
use trunkline::realtime::encode_audio;

use super::calls::{Dialect, UNIT_SAMPLES, UNIT_ULAW};

/// How a session begins.
pub(crate) const SESSION_CREATED: &str = r#"{"type":"session.created","event_id":"event_1","session":{"type":"realtime","id":"sess_1","object":"realtime.session","model":"gpt-realtime"}}"#;

/// How many bytes of audio a message holds: what follows `key`, in base64 without line breaks.
pub(crate) fn audio_bytes(message: &[u8], key: &[u8]) -> usize {
    let Some(at) = memmem::find(message, key) else {
        return 0;
    };
    let rest = &message[at + key.len()..];
    let end = memchr::memchr(b'"', rest).unwrap_or(0);
    let padding = rest[..end]
        .iter()
        .rev()
        .take_while(|it| **it == b'=')
        .count();
    end / 4 * 3 - padding
}

/// `n` units of a tone that fades in and out, in base64.
pub(crate) fn speech(dialect: Dialect, n: usize) -> String {
    let bytes: Vec<u8> = match dialect {
        // Not silence, which could be treated otherwise: each code of some loudness.
        Dialect::Twilio => (0..n * UNIT_ULAW).map(|i| (i * 37 % 64) as u8).collect(),
        Dialect::Realtime => (0..n * UNIT_SAMPLES)
            .flat_map(|i| (((i as f32 * 0.13).sin() * 8_000.0) as i16).to_le_bytes())
            .collect(),
    };
    let mut text = Vec::new();
    encode_audio(&bytes, &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}

/// How a stream of Twilio's begins.
pub(crate) fn twilio_start(sid: &str) -> [String; 2] {
    [
        r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#.to_owned(),
        format!(
            r#"{{"event":"start","sequenceNumber":"1","start":{{"accountSid":"AC0","streamSid":"{sid}","callSid":"CA{sid}","tracks":["inbound"],"mediaFormat":{{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}},"customParameters":{{}}}},"streamSid":"{sid}"}}"#
        ),
    ]
}

/// The `n`th frame of a stream, from 1.
pub(crate) fn twilio_media(n: u64, sid: &str, payload: &str) -> String {
    format!(
        r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{n}","timestamp":"{}","payload":"{payload}"}},"streamSid":"{sid}"}}"#,
        n + 1,
        (n - 1) * 20
    )
}

/// A frame of an SDK's audio.
pub(crate) fn append(audio: &str) -> String {
    format!(r#"{{"type":"input_audio_buffer.append","audio":"{audio}"}}"#)
}

/// A piece of the answer with this number.
pub(crate) fn delta(turn: u32, audio: &str) -> String {
    format!(
        r#"{{"type":"response.output_audio.delta","event_id":"event_CZ9sHhQ2pGn7vKQm3uXoR","response_id":"resp_{turn}","item_id":"item_{turn}","output_index":0,"content_index":0,"delta":"{audio}"}}"#
    )
}

/// The session as it was asked for.
pub(crate) fn session_updated(update: &[u8]) -> String {
    let update: serde_json::Value = serde_json::from_slice(update).expect("JSON");
    serde_json::json!({
        "type": "session.updated",
        "event_id": "event_5",
        "session": update["session"],
    })
    .to_string()
}

/// The model heard a turn of the caller's and begins its answer with this number.
pub(crate) fn answer_begin(n: u32) -> [String; 5] {
    [
        format!(
            r#"{{"type":"input_audio_buffer.committed","event_id":"event_{n}d","previous_item_id":null,"item_id":"said_{n}"}}"#
        ),
        format!(
            r#"{{"type":"conversation.item.added","event_id":"event_{n}e","previous_item_id":null,"item":{{"id":"said_{n}","object":"realtime.item","type":"message","status":"completed","role":"user","content":[{{"type":"input_audio","transcript":null}}]}}}}"#
        ),
        format!(
            r#"{{"type":"response.created","event_id":"event_{n}f","response":{{"object":"realtime.response","id":"resp_{n}","status":"in_progress","output":[]}}}}"#
        ),
        format!(
            r#"{{"type":"response.output_item.added","event_id":"event_{n}g","response_id":"resp_{n}","output_index":0,"item":{{"id":"item_{n}","object":"realtime.item","type":"message","status":"in_progress","role":"assistant","content":[]}}}}"#
        ),
        format!(
            r#"{{"type":"response.content_part.added","event_id":"event_{n}h","response_id":"resp_{n}","item_id":"item_{n}","output_index":0,"content_index":0,"part":{{"type":"audio","transcript":""}}}}"#
        ),
    ]
}

/// The answer with this number is over.
pub(crate) fn answer_end(n: u32) -> [String; 3] {
    [
        format!(
            r#"{{"type":"response.output_audio.done","event_id":"event_{n}a","response_id":"resp_{n}","item_id":"item_{n}","output_index":0,"content_index":0}}"#
        ),
        format!(
            r#"{{"type":"response.output_item.done","event_id":"event_{n}b","response_id":"resp_{n}","output_index":0,"item":{{"id":"item_{n}","object":"realtime.item","type":"message","status":"completed","role":"assistant","content":[{{"type":"output_audio","transcript":"Word."}}]}}}}"#
        ),
        format!(
            r#"{{"type":"response.done","event_id":"event_{n}c","response":{{"object":"realtime.response","id":"resp_{n}","status":"completed","output":[],"usage":{{"total_tokens":150,"input_tokens":50,"output_tokens":100}}}}}}"#
        ),
    ]
}
