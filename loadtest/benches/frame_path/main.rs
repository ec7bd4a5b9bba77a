//! The frame path of one Twilio call, some number of times, and nothing else: what `make instructions` counts.
//!
//! `frame_path up N` takes N frames in and writes N append events; `frame_path down N` takes N deltas of 200 ms in and
//! writes their frames. It measures nothing by itself: `tests/tools/count_instructions.py` runs it under callgrind with
//! two numbers and takes the difference, so that neither the start nor the end of the process counts.

use trunkline::bridge::FramePath;
use trunkline::realtime::encode_audio;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [way, n] = arguments[..] else {
        // `cargo bench` without words runs every bench: this one has nothing to say by itself.
        return;
    };
    let Ok(n) = n.parse::<usize>() else { return };
    let start = r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ0123456789abcdef0123456789abcdef","start":{"streamSid":"MZ0123456789abcdef0123456789abcdef","accountSid":"AC01","callSid":"CA01","tracks":["inbound"],"customParameters":{},"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;
    let mut path = FramePath::twilio(start).expect("it is a start");
    let mut n_bytes = 0;
    for _ in 0..n {
        match way {
            "up" => n_bytes += path.up(media()).expect("it is audio").len(),
            "down" => n_bytes += path.down(delta(), |_| {}),
            _ => return,
        }
    }
    assert!(std::hint::black_box(n_bytes) > 0);
}

/// A frame as Twilio sends it, 20 ms.
fn media() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| {
        let payload = base64((0..160).map(|i| (i * 37 % 256) as u8).collect());
        format!(
            r#"{{"event":"media","sequenceNumber":"4711","media":{{"track":"inbound","chunk":"4710","timestamp":"94180","payload":"{payload}"}},"streamSid":"MZ0123456789abcdef0123456789abcdef"}}"#
        )
    })
}

/// 200 ms of an answer.
fn delta() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| {
        let samples = (0..4_800).map(|i| ((i as f32 * 0.13).sin() * 8_000.0) as i16);
        let audio = base64(samples.flat_map(i16::to_le_bytes).collect());
        format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_CZ9sHhQ2pGn7vKQm3uXoR","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":"{audio}"}}"#
        )
    })
}

fn base64(bytes: Vec<u8>) -> String {
    let mut text = Vec::new();
    encode_audio(&bytes, &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}
