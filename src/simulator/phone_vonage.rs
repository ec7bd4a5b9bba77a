//! Vonage Voice API WebSockets, Vonage's side of it (telephony reference 3).
//!
//! Says `websocket:connected`, then 20 ms of PCM16 in each binary message. It takes binary messages of exactly one
//! frame, `clear`, and `notify` with any payload, which it says again when all before it has sounded, unless a clear
//! threw it away. It holds 3072 messages. A call ends by its close frame alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{decode, encode};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

#[derive(Debug)]
pub(crate) struct VonageWire {
    rate: SampleRate,
    parameters: BTreeMap<String, String>,
}

impl VonageWire {
    /// Vonage offers 8, 16 and 24 kHz; of another rate it makes the last.
    pub(crate) fn new(format: AudioFormat, parameters: BTreeMap<String, String>) -> Self {
        let rate = match format.rate {
            rate @ (SampleRate::HZ_8000 | SampleRate::HZ_16000) => rate,
            _ => SampleRate::HZ_24000,
        };
        Self { rate, parameters }
    }

    /// Audio, which must be one frame.
    pub(crate) fn read_audio(&self, bytes: &[u8]) -> Result<Heard, String> {
        let frame = self.rate.hz() as usize / 50 * 2;
        if bytes.len() != frame {
            return Err(format!("{} bytes instead of {frame}", bytes.len()));
        }
        let samples = decode(Codec::Pcm16, bytes).map_err(|e| e.to_string())?;
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }

    fn read(text: &str) -> Result<Vec<Heard>, String> {
        let message: Value =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        match message["action"].as_str() {
            Some("clear") => Ok(vec![
                Heard::Clear,
                Heard::Say(say(&json!({"event": "websocket:cleared"}))),
            ]),
            // The payload itself is what has to come back.
            Some("notify") if message["payload"].is_object() => {
                Ok(vec![Heard::Mark(message["payload"].to_string())])
            }
            _ => Err(format!("no action that is taken: {}", excerpt(text))),
        }
    }
}

impl FarEnd for VonageWire {
    fn opening(&mut self) -> Vec<Message> {
        let mut connected = json!({
            "event": "websocket:connected",
            "content-type": format!("audio/l16;rate={}", self.rate.hz()),
        });
        for (name, value) in &self.parameters {
            connected[name] = json!(value);
        }
        vec![say(&connected)]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some("vonage".to_owned())
    }

    fn format(&self) -> AudioFormat {
        AudioFormat {
            codec: Codec::Pcm16,
            rate: self.rate,
        }
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(Codec::Pcm16, samples).expect("PCM16 is spoken");
        Some(Message::binary(bytes))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(say(&json!({
            "event": "websocket:dtmf",
            "digit": digit.to_string(),
            "duration": 260,
        })))
    }

    fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        let payload: Value = serde_json::from_str(name).ok()?;
        was_played.then(|| say(&json!({"event": "websocket:notify", "payload": payload})))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => Self::read(text),
            Message::Binary(bytes) => self.read_audio(bytes).map(|heard| vec![heard]),
            _ => return Vec::new(),
        };
        heard.unwrap_or_else(|text| vec![Heard::Violation(text)])
    }

    fn most_queued(&self) -> Option<(Duration, &'static str)> {
        // 3072 messages of 20 ms (telephony reference 3.3).
        let most = Duration::from_millis(3_072 * 20);
        Some((most, "more than 3072 messages wait"))
    }
}

fn say(value: &Value) -> Message {
    Message::text(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(message: &Message) -> Vec<Heard> {
        let parameters = BTreeMap::from([("tenant".to_owned(), "t1".to_owned())]);
        let mut wire = VonageWire::new(AudioFormat::MODEL_PCM, parameters);
        let opening: Value = serde_json::from_str(wire.opening()[0].to_text().unwrap()).unwrap();
        assert_eq!(opening["content-type"], "audio/l16;rate=24000");
        assert_eq!(opening["tenant"], "t1");
        wire.receive(message)
    }

    #[test]
    fn takes_what_vonage_takes_and_nothing_else() {
        let notify = heard(&Message::text(r#"{"action":"notify","payload":{"g":7}}"#));
        assert_eq!(notify, [Heard::Mark(r#"{"g":7}"#.to_owned())]);
        assert_eq!(
            heard(&Message::text(r#"{"action":"clear"}"#))[0],
            Heard::Clear
        );
        let frame = heard(&Message::binary(vec![0; 960]));
        assert!(matches!(frame[0], Heard::Audio { .. }));
        for text in ["", "[]", r#"{"action":"stop"}"#, r#"{"action":"notify"}"#] {
            let heard = heard(&Message::text(text));
            assert!(matches!(heard[0], Heard::Violation(_)), "{text}");
        }
        for length in [0, 958, 1_920] {
            let heard = heard(&Message::binary(vec![0; length]));
            assert!(matches!(heard[0], Heard::Violation(_)), "{length}");
        }
    }
}
