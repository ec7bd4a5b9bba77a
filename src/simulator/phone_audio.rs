//! Trunkline's own plain dialect, a client's side of it.
//!
//! The client opens `/v1/audio/{agent}` and sends
//! `{"type":"start","format":{"codec":"pcm16","rate":24000},"parameters":{}}`; the gateway answers
//! `{"type":"started","call_id":"..."}`. From then on binary messages are audio both ways, and text messages
//! are control. This client speaks PCM16 and both G.711 laws, not Opus. It skips fields that it does not know;
//! a type that it does not know it reports, since it is here to judge.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{CallCodec, CodecError};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use trunkline_media::AudioFormat;

#[derive(Debug)]
pub(crate) struct AudioWire {
    format: AudioFormat,
    codec: CallCodec,
    parameters: BTreeMap<String, String>,
    is_started: bool,
}

/// What a gateway may say. Fields that are not known are skipped: the dialect may grow.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Control {
    Started { call_id: String },
    Clear,
    Mark { name: String },
    Transcript { speaker: String, text: String },
    Error { code: String, message: String },
    End { reason: String },
}

impl AudioWire {
    /// # Errors
    /// [`CodecError::NotSpoken`] for Opus.
    pub(crate) fn new(
        format: AudioFormat,
        parameters: BTreeMap<String, String>,
    ) -> Result<Self, CodecError> {
        Ok(Self {
            format,
            codec: CallCodec::new(format.codec)?,
            parameters,
            is_started: false,
        })
    }
}

impl FarEnd for AudioWire {
    fn format(&self) -> AudioFormat {
        self.format
    }

    fn opening(&mut self) -> Vec<Message> {
        vec![text(&json!({
            "type": "start",
            "format": {"codec": self.format.codec.name(), "rate": self.format.rate.hz()},
            "parameters": self.parameters,
        }))]
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = self.codec.encode(samples);
        Some(Message::binary(bytes))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(text(&json!({"type": "dtmf", "digit": digit.to_string()})))
    }

    fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        was_played.then(|| text(&json!({"type": "mark", "name": name})))
    }

    fn farewell(&mut self) -> Option<Message> {
        Some(text(&json!({"type": "end"})))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(bytes) => self.read_audio(bytes),
            _ => return Vec::new(),
        };
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}

impl AudioWire {
    fn read(&mut self, text: &str) -> Result<Heard, String> {
        let control =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        if !self.is_started && matches!(control, Control::Clear | Control::Mark { .. }) {
            return Err(format!("before started: {}", excerpt(text)));
        }
        Ok(match control {
            Control::Started { .. } if self.is_started => {
                return Err("a second started".to_owned());
            }
            Control::Started { call_id } => {
                self.is_started = true;
                Heard::Answered {
                    call_id: Some(call_id),
                }
            }
            Control::Clear => Heard::Clear,
            Control::Mark { name } => Heard::Mark(name),
            Control::Transcript { speaker, text } => Heard::Transcript { speaker, text },
            Control::Error { code, message } => Heard::Error { code, message },
            Control::End { reason } => Heard::End { reason },
        })
    }

    fn read_audio(&mut self, bytes: &[u8]) -> Result<Heard, String> {
        if !self.is_started {
            return Err("audio before started".to_owned());
        }
        let samples = self.codec.decode(bytes).map_err(|e| e.to_string())?;
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }
}

fn text(value: &serde_json::Value) -> Message {
    Message::text(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(messages: &[Message], expected: &[Heard]) {
        let mut wire = AudioWire::new(AudioFormat::MODEL_PCM, BTreeMap::new()).unwrap();
        let heard: Vec<_> = messages.iter().flat_map(|m| wire.receive(m)).collect();
        assert_eq!(heard, expected);
    }

    fn started() -> Message {
        Message::text(r#"{"type":"started","call_id":"c1","later":true}"#)
    }

    fn answered() -> Heard {
        Heard::Answered {
            call_id: Some("c1".into()),
        }
    }

    #[test]
    fn opens_with_its_format() {
        let mut wire = AudioWire::new(AudioFormat::ULAW_8K, BTreeMap::new()).unwrap();
        let start: serde_json::Value =
            serde_json::from_str(wire.opening()[0].to_text().unwrap()).unwrap();
        assert_eq!(
            start,
            json!({"type":"start","format":{"codec":"ulaw","rate":8000},"parameters":{}})
        );
        let opus = AudioFormat {
            codec: trunkline_media::Codec::Opus,
            ..AudioFormat::ULAW_8K
        };
        assert!(AudioWire::new(opus, BTreeMap::new()).is_err());
    }

    #[test]
    fn reads_audio_and_control() {
        check(
            &[
                started(),
                Message::binary(vec![1, 0, 255, 255]),
                Message::text(r#"{"type":"mark","name":"g0-1"}"#),
                Message::text(r#"{"type":"clear"}"#),
                Message::text(r#"{"type":"end","reason":"completed"}"#),
            ],
            &[
                answered(),
                Heard::Audio {
                    samples: vec![1, -1],
                    item: None,
                },
                Heard::Mark("g0-1".into()),
                Heard::Clear,
                Heard::End {
                    reason: "completed".into(),
                },
            ],
        );
    }

    #[test]
    fn names_what_breaks_the_rules() {
        let violation = |text: &str| Heard::Violation(text.into());
        check(
            &[Message::binary(vec![1, 0])],
            &[violation("audio before started")],
        );
        check(
            &[started(), started(), Message::binary(vec![1])],
            &[
                answered(),
                violation("a second started"),
                violation("1 bytes are not a whole number of 16 bit samples"),
            ],
        );
        let mut wire = AudioWire::new(AudioFormat::ULAW_8K, BTreeMap::new()).unwrap();
        for text in ["", "[]", r#"{"type":"hello"}"#, r#"{"type":"mark"}"#] {
            let heard = wire.receive(&Message::text(text));
            assert!(matches!(heard[..], [Heard::Violation(_)]), "{text}");
        }
    }
}
