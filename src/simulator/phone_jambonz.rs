//! jambonz `stream`, jambonz's side of it (telephony reference 10.2), with `bidirectionalAudio.streaming` true.
//!
//! A mark is put before the next audio that comes, as the module does, at most 30 of them are outstanding, and a
//! sample of -1 is a violation, since the module would take it for a mark. A mark says whether it was played or cleared.

use std::collections::BTreeMap;

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{decode, encode};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

/// Marks that the module keeps.
const MOST_MARKS: usize = 30;

#[derive(Debug)]
pub(crate) struct JambonzWire {
    call_sid: String,
    rate: SampleRate,
    parameters: BTreeMap<String, String>,
    /// Marks that wait for audio.
    open_marks: Vec<String>,
    /// Marks that wait to be played.
    n_placed: usize,
}

impl JambonzWire {
    pub(crate) fn new(
        seed: u64,
        format: AudioFormat,
        parameters: BTreeMap<String, String>,
    ) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            call_sid: format!("{:032x}", random.u128(..)),
            rate: format.rate,
            parameters,
            open_marks: Vec::new(),
            n_placed: 0,
        }
    }

    fn place_marks(&mut self) -> impl Iterator<Item = Heard> {
        let marks = std::mem::take(&mut self.open_marks);
        self.n_placed += marks.len();
        marks.into_iter().map(Heard::Mark)
    }

    fn read_audio(&mut self, bytes: &[u8]) -> Result<Vec<Heard>, String> {
        let samples = decode(Codec::Pcm16, bytes).map_err(|e| e.to_string())?;
        if samples.contains(&-1) {
            return Err("a sample that is a marker".to_owned());
        }
        let mut heard: Vec<Heard> = self.place_marks().collect();
        heard.push(Heard::Audio {
            samples,
            item: None,
        });
        Ok(heard)
    }

    fn read(&mut self, text: &str) -> Result<Vec<Heard>, String> {
        let message: Value =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        match message["type"].as_str() {
            Some("mark") => {
                let name = message["data"]["name"].as_str();
                self.open_marks
                    .push(name.ok_or("a mark without a name")?.to_owned());
                if self.open_marks.len() + self.n_placed > MOST_MARKS {
                    return Err(format!("more than {MOST_MARKS} marks"));
                }
                Ok(Vec::new())
            }
            Some("killAudio") => Ok(self.place_marks().chain([Heard::Clear]).collect()),
            Some("disconnect") => Ok(vec![Heard::End {
                reason: "disconnect".to_owned(),
            }]),
            _ => Err(format!("no type that is taken: {}", excerpt(text))),
        }
    }
}

impl FarEnd for JambonzWire {
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let protocol = HeaderValue::from_static("audio.jambonz.org");
        vec![(SEC_WEBSOCKET_PROTOCOL, protocol)]
    }

    fn opening(&mut self) -> Vec<Message> {
        let mut metadata = json!({
            "sampleRate": self.rate.hz(),
            "mixType": "mono",
            "callSid": self.call_sid,
            "direction": "inbound",
            "from": "+15550001111",
            "to": "+15550002222",
            "callId": "sip-1",
            "callStatus": "in-progress",
        });
        for (name, value) in &self.parameters {
            metadata[name] = json!(value);
        }
        vec![Message::text(metadata.to_string())]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some(self.call_sid.clone())
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
        let key = json!({"event": "dtmf", "dtmf": digit.to_string(), "duration": "1600"});
        Some(Message::text(key.to_string()))
    }

    fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        self.n_placed = self.n_placed.saturating_sub(1);
        let event = if was_played { "playout" } else { "cleared" };
        let mark = json!({"type": "mark", "data": {"name": name, "event": event}});
        Some(Message::text(mark.to_string()))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(bytes) => self.read_audio(bytes),
            _ => return Vec::new(),
        };
        heard.unwrap_or_else(|text| vec![Heard::Violation(text)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_before_the_next_audio() {
        let mut wire = JambonzWire::new(1, AudioFormat::MODEL_PCM, BTreeMap::new());
        let mark = Message::text(r#"{"type":"mark","data":{"name":"a"}}"#);
        assert_eq!(wire.receive(&mark), []);
        let heard = wire.receive(&Message::binary(vec![0, 0]));
        assert_eq!(heard[0], Heard::Mark("a".to_owned()));
        assert!(matches!(heard[1], Heard::Audio { .. }));
        let marker = wire.receive(&Message::binary(vec![0xff, 0xff]));
        assert!(matches!(marker[0], Heard::Violation(_)));
    }
}
