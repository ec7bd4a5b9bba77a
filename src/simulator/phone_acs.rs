//! Azure Communication Services, Call Automation's side of it (telephony reference 7).
//!
//! Says what Azure says, 20 ms of PCM16 at a time, silent frames flagged. It takes `AudioData` and `StopAudio` with
//! names in any case, as the service does, and plays what comes from an unbounded queue: how much it would hold is
//! not documented. It never says what was played, and a call ends by its close frame alone.

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{around_base64, decode_base64, encode};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

/// Azure's frame.
const FRAME_MS: u64 = 20;

/// The largest packet (telephony reference 7.2).
const MAX_PACKET_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct AcsWire {
    /// Of the call, of its media subscription and for tracing, in this order.
    ids: [String; 3],
    rate: SampleRate,
    n_frames: u64,
}

impl AcsWire {
    /// `seed` makes the ids. Azure offers 16 and 24 kHz; of another format it makes the latter.
    pub(crate) fn new(seed: u64, format: AudioFormat) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let ids = [(); 3].map(|()| format!("{:032x}", random.u128(..)));
        let rate = match format.rate {
            SampleRate::HZ_16000 => SampleRate::HZ_16000,
            _ => SampleRate::HZ_24000,
        };
        Self {
            ids,
            rate,
            n_frames: 0,
        }
    }

    fn read(text: &str) -> Result<Heard, String> {
        if text.len() > MAX_PACKET_BYTES {
            return Err(format!("a packet of {} bytes", text.len()));
        }
        let message =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        match member(&message, "kind").and_then(Value::as_str) {
            Some(kind) if kind.eq_ignore_ascii_case("audiodata") => {
                let data = member(&message, "audiodata").and_then(|body| member(body, "data"));
                let data = data
                    .and_then(Value::as_str)
                    .ok_or("AudioData has no data")?;
                let samples = decode_base64(Codec::Pcm16, data).map_err(|e| e.to_string())?;
                Ok(Heard::Audio {
                    samples,
                    item: None,
                })
            }
            Some(kind) if kind.eq_ignore_ascii_case("stopaudio") => {
                let is_there = member(&message, "stopaudio").is_some_and(Value::is_object);
                is_there
                    .then_some(Heard::Clear)
                    .ok_or("StopAudio has no stopAudio".to_owned())
            }
            _ => Err(format!("no kind that is taken: {}", excerpt(text))),
        }
    }
}

impl FarEnd for AcsWire {
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let names = ["x-ms-call-connection-id", "x-ms-call-correlation-id"];
        let value = |id: &String| HeaderValue::from_str(id).expect("hexadecimal digits");
        names
            .into_iter()
            .map(HeaderName::from_static)
            .zip([value(&self.ids[0]), value(&self.ids[2])])
            .collect()
    }

    fn opening(&mut self) -> Vec<Message> {
        let length = u64::from(self.rate.hz()) * FRAME_MS / 1_000 * 2;
        vec![text(&json!({
            "kind": "AudioMetadata",
            "audioMetadata": {
                "subscriptionId": self.ids[1],
                "encoding": "PCM",
                "sampleRate": self.rate.hz(),
                "channels": 1,
                "length": length,
            },
        }))]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some(self.ids[0].clone())
    }

    fn format(&self) -> AudioFormat {
        AudioFormat {
            codec: Codec::Pcm16,
            rate: self.rate,
        }
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(Codec::Pcm16, samples).expect("PCM16 is spoken");
        let ms = self.n_frames * FRAME_MS;
        self.n_frames += 1;
        let (minutes, seconds) = (ms / 60_000 % 60, ms / 1_000 % 60);
        let silent = samples.iter().all(|sample| *sample == 0);
        Some(around_base64(
            format_args!(
                r#"{{"kind":"AudioData","audioData":{{"timestamp":"2026-01-01T10:{minutes:02}:{seconds:02}.{:03}Z","participantRawID":"4:+15550001111","silent":{silent},"data":""#,
                ms % 1_000,
            ),
            &bytes,
            format_args!(r#""}}}}"#),
        ))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(text(
            &json!({"kind": "DtmfData", "dtmfData": {"data": digit.to_string()}}),
        ))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => Self::read(text),
            Message::Binary(_) => Err("a binary message".to_owned()),
            _ => return Vec::new(),
        };
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}

/// A member by its name in whatever case.
fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let mut members = object.as_object()?.iter();
    let (_, value) = members.find(|(own, _)| own.eq_ignore_ascii_case(name))?;
    Some(value)
}

fn text(value: &Value) -> Message {
    Message::text(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(message: &Message) -> Value {
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    #[test]
    fn says_what_azure_says() {
        let mut wire = AcsWire::new(1, AudioFormat::MODEL_PCM);
        let metadata = value(&wire.opening()[0]);
        assert_eq!(metadata["audioMetadata"]["sampleRate"], 24_000);
        assert_eq!(metadata["audioMetadata"]["length"], 960);
        let silent = value(&wire.audio(&[0; 480]).unwrap());
        assert_eq!(silent["audioData"]["silent"], true);
        let loud = value(&wire.audio(&[1; 480]).unwrap());
        assert_eq!(loud["audioData"]["silent"], false);
        assert_eq!(loud["audioData"]["data"], "AQABAAEA".repeat(160));
        assert_eq!(loud["audioData"]["timestamp"], "2026-01-01T10:00:00.020Z");
        assert_eq!(value(&wire.dtmf('#').unwrap())["dtmfData"]["data"], "#");
        assert_eq!(wire.farewell(), None);
    }

    #[test]
    fn takes_what_azure_takes_and_nothing_else() {
        let heard = |text: &str| {
            let mut wire = AcsWire::new(1, AudioFormat::MODEL_PCM);
            wire.receive(&Message::text(text)).remove(0)
        };
        let audio = Heard::Audio {
            samples: vec![1],
            item: None,
        };
        assert_eq!(
            heard(r#"{"kind":"AudioData","audioData":{"data":"AQA="},"stopAudio":null}"#),
            audio
        );
        assert_eq!(
            heard(r#"{"Kind":"AudioData","AudioData":{"Data":"AQA="}}"#),
            audio
        );
        assert_eq!(
            heard(r#"{"kind":"StopAudio","audioData":null,"stopAudio":{}}"#),
            Heard::Clear
        );
        for text in [
            "",
            "[]",
            r#"{"kind":"Mark"}"#,
            r#"{"kind":"StopAudio"}"#,
            r#"{"kind":"AudioData","audioData":{"data":"AQ=="}}"#,
            r#"{"kind":"AudioData","audioData":{"data":7}}"#,
        ] {
            assert!(matches!(heard(text), Heard::Violation(_)), "{text}");
        }
    }
}
