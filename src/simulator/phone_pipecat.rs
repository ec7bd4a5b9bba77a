//! A client of Pipecat's protobuf frames (telephony reference 11).
//!
//! It says `client-ready`, waits for `bot-ready` of the same id, and speaks PCM16 by 20 ms. It plays audio of one channel in its own
//! rate, drops what waits when an interruption comes, and takes RTVI messages of the types that it knows.

use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{decode, encode};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use super::phone_protobuf::{fields, put_bytes, put_number};
use trunkline_media::{AudioFormat, Codec, SampleRate};

/// Of the `client-ready`.
const READY_ID: &str = "ready-1";

#[derive(Debug)]
pub(crate) struct PipecatWire {
    rate: SampleRate,
}

impl PipecatWire {
    /// PCM16 at the format's rate.
    pub(crate) const fn new(format: AudioFormat) -> Self {
        Self { rate: format.rate }
    }

    fn read(&self, message: &[u8]) -> Result<Vec<Heard>, String> {
        let mut heard = Vec::new();
        for (kind, value) in fields(message)? {
            match kind {
                2 => heard.push(self.play(value.bytes()?)?),
                4 => heard.extend(Self::told(value.bytes()?)?),
                5 => heard.push(Heard::Clear),
                _ => return Err(format!("a frame of kind {kind}")),
            }
        }
        (heard.len() < 2)
            .then_some(heard)
            .ok_or("two frames in one message".to_owned())
    }

    fn play(&self, frame: &[u8]) -> Result<Heard, String> {
        let (mut audio, mut rate, mut channels) = (&[][..], 0, 0);
        for (field, value) in fields(frame)? {
            match field {
                3 => audio = value.bytes()?,
                4 => rate = value.number()?,
                5 => channels = value.number()?,
                _ => {}
            }
        }
        if rate != u64::from(self.rate.hz()) || channels != 1 {
            return Err(format!("{channels} channels at {rate} Hz"));
        }
        let samples = decode(Codec::Pcm16, audio).map_err(|e| e.to_string())?;
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }

    /// What a `MessageFrame` says.
    fn told(frame: &[u8]) -> Result<Option<Heard>, String> {
        let data = match &fields(frame)?[..] {
            [(1, data)] => data.text()?,
            _ => return Err("a message without data".to_owned()),
        };
        let message: Json =
            serde_json::from_str(data).map_err(|e| format!("{e} in {}", excerpt(data)))?;
        if message["label"] != "rtvi-ai" {
            return Err(format!("not RTVI: {}", excerpt(data)));
        }
        let text = |name: &str| {
            let text = message["data"][name].as_str();
            text.unwrap_or_default().to_owned()
        };
        let said_by = |speaker: &str| Heard::Transcript {
            speaker: speaker.to_owned(),
            text: text("text"),
        };
        match message["type"].as_str() {
            Some("bot-ready") if message["id"] == READY_ID => {
                Ok(Some(Heard::Answered { call_id: None }))
            }
            // The frame of that name has said so already.
            Some("bot-interrupted") => Ok(None),
            Some("user-transcription") => Ok(Some(said_by("caller"))),
            Some("bot-transcription") => Ok(Some(said_by("assistant"))),
            Some("error") => Ok(Some(Heard::Error {
                code: "error".to_owned(),
                message: text("error"),
            })),
            _ => Err(format!("not known: {}", excerpt(data))),
        }
    }
}

impl FarEnd for PipecatWire {
    fn format(&self) -> AudioFormat {
        AudioFormat {
            codec: Codec::Pcm16,
            rate: self.rate,
        }
    }

    fn opening(&mut self) -> Vec<Message> {
        vec![rtvi(
            &json!({"label": "rtvi-ai", "type": "client-ready", "id": READY_ID}),
        )]
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        let data = json!({"buttons": [digit.to_string()]});
        Some(rtvi(
            &json!({"label": "rtvi-ai", "type": "dtmf", "id": "key", "data": data}),
        ))
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(Codec::Pcm16, samples).expect("PCM16 is spoken");
        let (mut audio, mut frame) = (Vec::new(), Vec::new());
        put_bytes(2, b"AudioRawFrame", &mut audio);
        put_bytes(3, &bytes, &mut audio);
        put_number(4, u64::from(self.rate.hz()), &mut audio);
        put_number(5, 1, &mut audio);
        put_bytes(2, &audio, &mut frame);
        Some(Message::binary(frame))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Binary(bytes) => self.read(bytes),
            Message::Text(_) => Err("a text message".to_owned()),
            _ => return Vec::new(),
        };
        heard.unwrap_or_else(|why| vec![Heard::Violation(why)])
    }
}

fn rtvi(said: &Json) -> Message {
    let (mut message, mut frame) = (Vec::new(), Vec::new());
    put_bytes(1, said.to_string().as_bytes(), &mut message);
    put_bytes(4, &message, &mut frame);
    Message::binary(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> Vec<Heard> {
        let format = AudioFormat {
            codec: Codec::Pcm16,
            rate: SampleRate::HZ_16000,
        };
        PipecatWire::new(format).receive(&Message::binary(bytes.to_vec()))
    }

    /// The bytes of telephony reference 11.2.
    #[test]
    fn takes_what_pipecat_takes_and_nothing_else() {
        let audio = b"\x12\x0b\x1a\x04\x00\x01\xff\x7f\x20\x80\x7d\x28\x01";
        let samples = vec![0x0100, 0x7fff];
        let item = None;
        assert_eq!(heard(audio), [Heard::Audio { samples, item }]);
        assert_eq!(heard(b"\x2a\x00"), [Heard::Clear]);
        for bad in [
            &b"\x22\x09\x0a\x07{\"a\":1}"[..],
            b"\x12\x04\x20\x80\x7d\x28",
            b"\x12\x00",
            b"\x0a\x00",
            b"\x12",
        ] {
            assert!(matches!(&heard(bad)[..], [Heard::Violation(_)]), "{bad:x?}");
        }
    }
}
