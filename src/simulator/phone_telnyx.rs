//! Telnyx media streaming in RTP mode, Telnyx's side of it (telephony reference 2).
//!
//! The line is PCMA, as in much of Europe, and what it takes is PCMU unless the address says otherwise: a codec for each
//! direction. Where it takes G722, the line is that too. Now and then two of its messages change places. Marks come back when played and when a clear threw
//! them away.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{CallCodec, around_base64};
use super::phone_dialect::{FarEnd, Heard, Setting, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

/// Telnyx's frame, 20 ms.
const FRAME_MS: u64 = 20;

/// Every so many messages, one is overtaken by the next.
const OVERTAKEN_EVERY: u64 = 25;

#[derive(Debug)]
pub(crate) struct TelnyxWire {
    stream_id: String,
    call_id: String,
    parameters: BTreeMap<String, String>,
    /// What the line speaks, as fast as what it takes.
    line: Codec,
    said: CallCodec,
    /// What it takes.
    taken: AudioFormat,
    heard: CallCodec,
    sequence_number: u64,
    n_chunks: u64,
    /// A message that the next one overtakes.
    overtaken: Option<(u64, Message)>,
}

impl TelnyxWire {
    pub(crate) fn new(setting: Setting) -> Self {
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let query = setting.uri.query().unwrap_or_default();
        let narrow = |codec| AudioFormat {
            codec,
            rate: SampleRate::HZ_8000,
        };
        let taken = match query {
            query if query.contains("stream_bidirectional_codec=PCMA") => narrow(Codec::Alaw),
            query if query.contains("stream_bidirectional_codec=L16") => narrow(Codec::Pcm16),
            query if query.contains("stream_bidirectional_codec=G722") => AudioFormat::G722,
            _ => narrow(Codec::Ulaw),
        };
        let line = match taken.codec {
            Codec::G722 => Codec::G722,
            _ => Codec::Alaw,
        };
        let codec_of = |codec| CallCodec::new(codec).expect("no Opus");
        Self {
            stream_id: format!("{:032x}", random.u128(..)),
            call_id: format!("v3:{:032x}", random.u128(..)),
            parameters: setting.parameters,
            line,
            said: codec_of(line),
            taken,
            heard: codec_of(taken.codec),
            sequence_number: 0,
            n_chunks: 0,
            overtaken: None,
        }
    }

    fn message(&mut self, event: &str, name: &str, body: &Value) -> Message {
        self.sequence_number += 1;
        let mut message = json!({
            "event": event,
            "sequence_number": self.sequence_number.to_string(),
            "stream_id": self.stream_id,
        });
        message[name] = body.clone();
        Message::text(message.to_string())
    }

    fn read(&mut self, text: &str) -> Result<Heard, String> {
        let message: Value =
            serde_json::from_str(text).map_err(|e| format!("100003: {e} in {}", excerpt(text)))?;
        match message["event"].as_str() {
            Some("media") => {
                let payload = message["media"]["payload"].as_str();
                let payload = payload.ok_or("100004: media has no payload")?;
                let bytes = STANDARD
                    .decode(payload)
                    .map_err(|e| format!("100004: no base64: {e}"))?;
                let samples = self.heard.decode(&bytes).map_err(|e| e.to_string())?;
                // RTP mode takes 20 ms and more (telephony reference 2.4).
                let n_least = self.format().rate.hz() as usize / 50;
                if samples.len() < n_least {
                    return Err(format!("100004: {} samples", samples.len()));
                }
                Ok(Heard::Audio {
                    samples,
                    item: None,
                })
            }
            Some("mark") => match message["mark"]["name"].as_str() {
                Some(name) => Ok(Heard::Mark(name.to_owned())),
                None => Err("100003: a mark without a name".to_owned()),
            },
            Some("clear") => Ok(Heard::Clear),
            _ => Err(format!("100002: {}", excerpt(text))),
        }
    }
}

impl FarEnd for TelnyxWire {
    fn opening(&mut self) -> Vec<Message> {
        let connected = json!({"event": "connected", "version": "1.0.0"});
        let encoding = match self.line {
            Codec::G722 => "G722",
            _ => "PCMA",
        };
        let start = json!({
            "user_id": "u-1",
            "call_control_id": self.call_id,
            "call_session_id": "cs-1",
            "from": "+15550001111",
            "to": "+15550002222",
            "tags": [],
            "client_state": "",
            "custom_parameters": self.parameters,
            "media_format": {"encoding": encoding, "sample_rate": 8000, "channels": 1},
        });
        vec![
            Message::text(connected.to_string()),
            self.message("start", "start", &start),
        ]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some(self.call_id.clone())
    }

    fn format(&self) -> AudioFormat {
        self.taken
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = self.said.encode(samples);
        self.n_chunks += 1;
        let chunk = self.n_chunks;
        self.sequence_number += 1;
        let message = around_base64(
            format_args!(
                r#"{{"event":"media","sequence_number":"{}","stream_id":"{}","media":{{"track":"inbound","chunk":"{chunk}","timestamp":"{}","payload":""#,
                self.sequence_number,
                self.stream_id,
                (chunk - 1) * FRAME_MS,
            ),
            &bytes,
            format_args!(r#""}}}}"#),
        );
        if chunk.is_multiple_of(OVERTAKEN_EVERY) && self.overtaken.is_none() {
            self.overtaken = Some((chunk, message));
            return None;
        }
        Some(message)
    }

    fn due(&mut self, _since: Duration) -> Vec<Heard> {
        let n_chunks = self.n_chunks;
        let overtaken = self.overtaken.take_if(|(chunk, _)| *chunk < n_chunks);
        let message = overtaken.map(|(_, message)| Heard::Say(message));
        message.into_iter().collect()
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(self.message("dtmf", "dtmf", &json!({"digit": digit.to_string()})))
    }

    fn mark(&mut self, name: &str, _was_played: bool) -> Option<Message> {
        Some(self.message("mark", "mark", &json!({"name": name})))
    }

    fn farewell(&mut self) -> Option<Message> {
        let body = json!({"user_id": "u-1", "call_control_id": self.call_id});
        Some(self.message("stop", "stop", &body))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(_) => Err("100003: a binary message".to_owned()),
            _ => return Vec::new(),
        };
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Shape;

    fn wire(uri: &'static str) -> TelnyxWire {
        TelnyxWire::new(Setting {
            uri: uri.parse().unwrap(),
            shape: Shape::Ga,
            format: AudioFormat::ULAW_8K,
            api_key: None,
            client_secret: None,
            parameters: BTreeMap::new(),
            instructions: None,
            seed: 1,
        })
    }

    #[test]
    fn media_is_what_a_tree_of_it_says() {
        let mut wire = wire("ws://a/telnyx");
        let opening = wire.opening();
        assert_eq!(opening.len(), 2);
        let mut n_said = 0;
        for chunk in 1..=OVERTAKEN_EVERY {
            let Some(message) = wire.audio(&[0; 160]) else {
                continue;
            };
            n_said += 1;
            let said: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            let body = json!({
                "track": "inbound",
                "chunk": chunk.to_string(),
                "timestamp": ((chunk - 1) * FRAME_MS).to_string(),
                "payload": STANDARD.encode([0xD5; 160]),
            });
            // As other messages of the stream, numbered after the start.
            wire.sequence_number = chunk;
            let tree = wire.message("media", "media", &body);
            let tree: Value = serde_json::from_str(tree.to_text().unwrap()).unwrap();
            assert_eq!(said, tree);
        }
        assert_eq!(n_said, OVERTAKEN_EVERY - 1);
    }
}
