//! Exotel's Voicebot applet, Exotel's side of it (telephony reference 6).
//!
//! Says what Exotel says, in snake_case and with numbers as strings, 100 ms of PCM16 at a time. Takes `media`, `mark` and
//! `clear` with `stream_sid`, and no audio that would be played with gaps: less than 3200 bytes, more than 100 KB, no
//! multiple of 320 bytes, or not numbered. What a clear does to marks is not documented: here they come back, which is the harder
//! case.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{around_base64, decode_base64, encode};
use super::phone_dialect::{ApiKey, FarEnd, Heard, Setting, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

/// Frames of one message, 100 ms.
const N_FRAMES: usize = 5;

/// Audio that may wait. The telephony reference (6.2) has no number: a greeting sent at once made calls end after 4 s.
const MOST_QUEUED: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(crate) struct ExotelWire {
    api_key: Option<ApiKey>,
    /// Of the account, the call and the stream.
    ids: [String; 3],
    rate: SampleRate,
    parameters: BTreeMap<String, String>,
    sequence_number: u64,
    n_chunks: u64,
    voice: Vec<i16>,
    /// Of the last audio that came.
    chunk: u64,
}

/// The messages that are taken.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Command {
    Media {
        stream_sid: String,
        sequence_number: String,
        media: Media,
    },
    Mark {
        stream_sid: String,
        mark: Mark,
    },
    Clear {
        stream_sid: String,
    },
}

#[derive(Deserialize)]
struct Media {
    chunk: String,
    timestamp: String,
    payload: String,
}

#[derive(Deserialize)]
struct Mark {
    name: String,
}

impl ExotelWire {
    /// The seed makes the ids. Of a format that Exotel has not it makes 8 kHz.
    pub(crate) fn new(setting: Setting) -> Self {
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let rate = match setting.format.rate {
            rate @ (SampleRate::HZ_16000 | SampleRate::HZ_24000) => rate,
            _ => SampleRate::HZ_8000,
        };
        Self {
            api_key: setting.api_key,
            ids: [(); 3].map(|()| format!("{:032x}", random.u128(..))),
            rate,
            parameters: setting.parameters,
            sequence_number: 0,
            n_chunks: 0,
            voice: Vec::new(),
            chunk: 0,
        }
    }

    fn message(&mut self, event: &str, mut more: Value) -> Message {
        self.sequence_number += 1;
        more["event"] = json!(event);
        more["sequence_number"] = json!(self.sequence_number.to_string());
        more["stream_sid"] = json!(self.ids[2]);
        Message::text(more.to_string())
    }

    fn read(&mut self, text: &str) -> Result<Heard, String> {
        let command: Command =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        let (stream_sid, heard) = match command {
            Command::Media {
                stream_sid,
                sequence_number,
                media,
            } => {
                let is_number = |text: &str| text.parse::<u64>().is_ok();
                if !is_number(&sequence_number) || !is_number(&media.timestamp) {
                    return Err("sequence_number or timestamp is no number".to_owned());
                }
                (stream_sid, self.play(&media)?)
            }
            Command::Mark { stream_sid, mark } => (stream_sid, Heard::Mark(mark.name)),
            Command::Clear { stream_sid } => (stream_sid, Heard::Clear),
        };
        if stream_sid != self.ids[2] {
            return Err(format!("unknown stream_sid {}", excerpt(&stream_sid)));
        }
        Ok(heard)
    }

    fn play(&mut self, media: &Media) -> Result<Heard, String> {
        self.chunk += 1;
        if media.chunk != self.chunk.to_string() {
            return Err(format!("chunk {} is not the next", excerpt(&media.chunk)));
        }
        let samples = decode_base64(Codec::Pcm16, &media.payload).map_err(|e| e.to_string())?;
        let n_bytes = 2 * samples.len();
        if !(3_200..=100_000).contains(&n_bytes) || n_bytes % 320 != 0 {
            return Err(format!("{n_bytes} bytes are played with gaps"));
        }
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }
}

impl FarEnd for ExotelWire {
    /// The credentials of the address.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let header = |key: &ApiKey| {
            let basic = STANDARD.encode(format!("key:{}", key.reveal()));
            let mut value = HeaderValue::from_str(&format!("Basic {basic}")).expect("base64");
            value.set_sensitive(true);
            (AUTHORIZATION, value)
        };
        self.api_key.iter().map(header).collect()
    }

    fn shows_key(&self) -> bool {
        true
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some(self.ids[1].clone())
    }

    fn format(&self) -> AudioFormat {
        AudioFormat {
            codec: Codec::Pcm16,
            rate: self.rate,
        }
    }

    fn most_queued(&self) -> Option<(Duration, &'static str)> {
        Some((MOST_QUEUED, "more than 4 s of audio wait"))
    }

    fn opening(&mut self) -> Vec<Message> {
        let connected = Message::text(json!({"event": "connected"}).to_string());
        let rate = self.rate.hz().to_string();
        let start = json!({
            "stream_sid": self.ids[2],
            "call_sid": self.ids[1],
            "account_sid": self.ids[0],
            "from": "+15550001111",
            "to": "+15550002222",
            "custom_parameters": self.parameters,
            "media_format": {"encoding": "base64", "sample_rate": rate, "bit_rate": "128kbps"},
        });
        vec![connected, self.message("start", json!({"start": start}))]
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        self.voice.extend_from_slice(samples);
        if self.voice.len() < samples.len() * N_FRAMES {
            return None;
        }
        let samples = std::mem::take(&mut self.voice);
        let bytes = encode(Codec::Pcm16, &samples).expect("PCM16 is spoken");
        self.n_chunks += 1;
        self.sequence_number += 1;
        Some(around_base64(
            format_args!(
                r#"{{"event":"media","sequence_number":"{}","stream_sid":"{}","media":{{"chunk":"{}","timestamp":"{}","payload":""#,
                self.sequence_number,
                self.ids[2],
                self.n_chunks,
                (self.n_chunks - 1) * 100,
            ),
            &bytes,
            format_args!(r#""}}}}"#),
        ))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        let dtmf = json!({"digit": digit.to_string(), "duration": "100"});
        Some(self.message("dtmf", json!({"dtmf": dtmf})))
    }

    fn mark(&mut self, name: &str, _was_played: bool) -> Option<Message> {
        Some(self.message("mark", json!({"mark": {"name": name}})))
    }

    fn farewell(&mut self) -> Option<Message> {
        let [account, call, _] = self.ids.clone();
        let stop = json!({"call_sid": call, "account_sid": account, "reason": "callended"});
        Some(self.message("stop", json!({"stop": stop})))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(_) => Err("a binary message".to_owned()),
            _ => return Vec::new(),
        };
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Shape;

    fn wire() -> ExotelWire {
        let mut wire = ExotelWire::new(Setting {
            uri: "ws://a/exotel".parse().unwrap(),
            shape: Shape::Ga,
            format: AudioFormat::ULAW_8K,
            api_key: Some(ApiKey::new("tk".to_owned())),
            client_secret: None,
            parameters: BTreeMap::new(),
            instructions: None,
            seed: 1,
        });
        wire.ids[2] = "s-1".into();
        wire
    }

    #[test]
    fn says_what_exotel_says() {
        let value = |message: &Message| -> Value {
            serde_json::from_str(message.to_text().unwrap()).unwrap()
        };
        let mut wire = wire();
        assert_eq!(wire.headers()[0].1, "Basic a2V5OnRr");
        let start = value(&wire.opening()[1]);
        assert_eq!(start["sequence_number"], "1");
        assert_eq!(start["start"]["media_format"]["sample_rate"], "8000");
        for _ in 1..N_FRAMES {
            assert_eq!(wire.audio(&[0; 160]), None);
        }
        let media = value(&wire.audio(&[0; 160]).unwrap());
        assert_eq!(
            (&media["media"]["chunk"], &media["stream_sid"]),
            (&json!("1"), &json!("s-1"))
        );
        assert_eq!(
            media["media"]["payload"].as_str().map(str::len),
            Some(2_136)
        );
    }

    #[test]
    fn media_is_what_a_tree_of_it_says() {
        let value = |message: &Message| -> Value {
            serde_json::from_str(message.to_text().unwrap()).unwrap()
        };
        let mut wire = wire();
        wire.opening();
        let said: Vec<_> = (0..2 * N_FRAMES)
            .filter_map(|_| wire.audio(&[1; 160]))
            .collect();
        assert_eq!(said.len(), 2);
        wire.sequence_number = 1;
        for (n, said) in said.iter().enumerate() {
            let media = json!({
                "chunk": (n + 1).to_string(),
                "timestamp": (n * 100).to_string(),
                "payload": STANDARD.encode([1, 0].repeat(800)),
            });
            let tree = wire.message("media", json!({"media": media}));
            assert_eq!(value(said), value(&tree));
        }
    }

    #[test]
    fn takes_no_audio_that_has_gaps() {
        let check = |n_bytes: usize, chunk: &str, is_taken: bool| {
            let payload = STANDARD.encode(vec![0; n_bytes]);
            let media = json!({"chunk": chunk, "timestamp": "0", "payload": payload});
            let message = json!({"event": "media", "stream_sid": "s-1", "sequence_number": "1", "media": media});
            let heard = wire().receive(&Message::text(message.to_string()));
            let is_audio = matches!(&heard[..], [Heard::Audio { .. }]);
            assert_eq!(is_audio, is_taken, "{n_bytes}: {chunk}");
        };
        check(3_200, "1", true);
        check(6_400, "1", true);
        check(3_200, "2", false);
        check(1_600, "1", false);
        check(3_360, "1", false);
        check(102_400, "1", false);
        let heard = wire().receive(&Message::text(r#"{"event":"clear","streamSid":"s-1"}"#));
        assert!(matches!(&heard[..], [Heard::Violation(_)]), "{heard:?}");
    }
}
