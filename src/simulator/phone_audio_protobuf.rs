//! A client of `/v1/audio` that speaks protobuf: `proto/trunkline/v1/media.proto`, read and written field by field.
//!
//! It offers the subprotocol `trunkline.v1.media` and fails without it. It speaks what [`super::phone_audio`] speaks. A kind that it
//! does not know it reports, since it is here to judge.

use std::collections::BTreeMap;

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{CallCodec, CodecError};
use super::phone_dialect::{FarEnd, Heard};
use super::phone_protobuf::{fields, put_bytes, put_number};
use trunkline_media::{AudioFormat, Codec};

#[derive(Debug)]
pub(crate) struct AudioProtobufWire {
    format: AudioFormat,
    codec: CallCodec,
    parameters: BTreeMap<String, String>,
    is_started: bool,
}

impl AudioProtobufWire {
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

    fn read(&mut self, message: &[u8]) -> Result<Heard, String> {
        let [(kind, body)] = fields(message)?[..] else {
            return Err("not exactly one kind".to_owned());
        };
        let body = body.bytes()?;
        let text = |wanted: u64| -> Result<String, String> {
            let fields = fields(body)?;
            let found = fields.iter().find(|(field, _)| *field == wanted);
            let text = found.map_or(Ok(""), |(_, value)| value.text())?;
            Ok(text.to_owned())
        };
        if kind == 1 {
            let call_id = Some(text(1)?);
            return match std::mem::replace(&mut self.is_started, true) {
                false => Ok(Heard::Answered { call_id }),
                true => Err("a second started".to_owned()),
            };
        }
        if !self.is_started && kind < 6 {
            return Err(format!("kind {kind} before started"));
        }
        match kind {
            2 => {
                let [(1, data)] = fields(body)?[..] else {
                    return Err("audio without data".to_owned());
                };
                let samples = self.codec.decode(data.bytes()?);
                Ok(Heard::Audio {
                    samples: samples.map_err(|e| e.to_string())?,
                    item: None,
                })
            }
            3 => Ok(Heard::Mark(text(1)?)),
            4 => Ok(Heard::Clear),
            5 => Ok(Heard::Transcript {
                speaker: text(1)?,
                text: text(2)?,
            }),
            6 => Ok(Heard::Error {
                code: text(1)?,
                message: text(2)?,
            }),
            7 => Ok(Heard::End { reason: text(1)? }),
            _ => Err(format!("kind {kind}")),
        }
    }
}

impl FarEnd for AudioProtobufWire {
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let subprotocol = HeaderValue::from_static("trunkline.v1.media");
        vec![(SEC_WEBSOCKET_PROTOCOL, subprotocol)]
    }

    fn format(&self) -> AudioFormat {
        self.format
    }

    fn opening(&mut self) -> Vec<Message> {
        let codec = match self.format.codec {
            Codec::Pcm16 => 1,
            Codec::Ulaw => 2,
            Codec::Alaw => 3,
            Codec::Opus => 4,
            Codec::G722 => 5,
        };
        let (mut format, mut start) = (Vec::new(), Vec::new());
        put_number(1, codec, &mut format);
        put_number(2, u64::from(self.format.rate.hz()), &mut format);
        put_bytes(1, &format, &mut start);
        for (name, value) in &self.parameters {
            let mut pair = Vec::new();
            put_bytes(1, name.as_bytes(), &mut pair);
            put_bytes(2, value.as_bytes(), &mut pair);
            put_bytes(3, &pair, &mut start);
        }
        vec![message(1, &start)]
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = self.codec.encode(samples);
        let mut audio = Vec::new();
        put_bytes(1, &bytes, &mut audio);
        Some(message(2, &audio))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        let mut dtmf = Vec::new();
        put_bytes(1, digit.to_string().as_bytes(), &mut dtmf);
        Some(message(4, &dtmf))
    }

    fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        let mut mark = Vec::new();
        put_bytes(1, name.as_bytes(), &mut mark);
        was_played.then(|| message(3, &mark))
    }

    fn farewell(&mut self) -> Option<Message> {
        Some(message(5, &[]))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Binary(bytes) => self.read(bytes),
            Message::Text(_) => Err("a text message".to_owned()),
            _ => return Vec::new(),
        };
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}

/// A `ClientMessage` of that kind.
fn message(kind: u32, body: &[u8]) -> Message {
    let mut message = Vec::new();
    put_bytes(kind, body, &mut message);
    Message::binary(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_contract_says() {
        let mut wire = AudioProtobufWire::new(AudioFormat::MODEL_PCM, BTreeMap::new()).unwrap();
        let start = b"\x0a\x08\x0a\x06\x08\x01\x10\xc0\xbb\x01";
        assert_eq!(wire.opening(), [Message::binary(start[..].to_vec())]);
        let mut heard = |bytes: &[u8]| wire.receive(&Message::binary(bytes.to_vec())).remove(0);
        assert!(matches!(heard(b"\x22\x00"), Heard::Violation(_)));
        let call_id = Some("c".to_owned());
        assert_eq!(heard(b"\x0a\x03\x0a\x01c"), Heard::Answered { call_id });
        assert!(matches!(heard(b"\x0a\x03\x0a\x01c"), Heard::Violation(_)));
        let samples = vec![1];
        let item = None;
        assert_eq!(
            heard(b"\x12\x04\x0a\x02\x01\x00"),
            Heard::Audio { samples, item }
        );
        assert_eq!(heard(b"\x1a\x03\x0a\x01m"), Heard::Mark("m".into()));
        assert_eq!(heard(b"\x22\x00"), Heard::Clear);
        let reason = "r".to_owned();
        assert_eq!(heard(b"\x3a\x03\x0a\x01r"), Heard::End { reason });
        for bad in [&b"\x42\x00"[..], b"", b"\x12\x00", b"\x12"] {
            assert!(matches!(heard(bad), Heard::Violation(_)), "{bad:x?}");
        }
    }
}
