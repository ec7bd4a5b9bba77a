//! Plivo AudioStream, Plivo's side of it, and Vobiz's (telephony reference 4).
//!
//! Offers its subprotocol and fails without it. Says what Plivo says, numbers as numbers and the timestamp as a string;
//! `extra_headers` as `k=v;k=v`. Takes the commands field for field, plays audio of any format that is spoken, and says that a
//! checkpoint was reached only if it was: those that a `clearAudio` threw away vanish. There is no last word, the
//! close frame is the end.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{around_base64, decode_base64, encode};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

#[derive(Debug)]
pub(crate) struct PlivoWire {
    is_vobiz: bool,
    /// Of the account, the call and the stream.
    ids: [String; 3],
    format: AudioFormat,
    /// The parameters as a JSON string, quotes and all.
    extra_headers: String,
    sequence_number: u64,
    n_chunks: u64,
}

/// The messages that are taken, field for field.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", deny_unknown_fields)]
enum Command {
    PlayAudio {
        media: Media,
    },
    #[serde(rename_all = "camelCase")]
    Checkpoint {
        stream_id: String,
        name: String,
    },
    #[serde(rename_all = "camelCase")]
    ClearAudio {
        stream_id: String,
    },
    #[serde(rename = "sendDTMF")]
    SendDtmf {
        dtmf: String,
    },
    #[serde(rename_all = "camelCase")]
    Stop {
        stream_id: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Media {
    content_type: String,
    sample_rate: u32,
    payload: String,
}

impl PlivoWire {
    /// `seed` makes the ids. Of PCM16 there are 8 and 16 kHz; another format becomes mu-law.
    pub(crate) fn new(
        is_vobiz: bool,
        seed: u64,
        format: AudioFormat,
        parameters: BTreeMap<String, String>,
    ) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let is_spoken = format.codec == Codec::Pcm16
            && [SampleRate::HZ_8000, SampleRate::HZ_16000].contains(&format.rate);
        Self {
            is_vobiz,
            ids: [(); 3].map(|()| format!("{:032x}", random.u128(..))),
            format: if is_spoken {
                format
            } else {
                AudioFormat::ULAW_8K
            },
            extra_headers: json!(extra_headers(&parameters)).to_string(),
            sequence_number: 0,
            n_chunks: 0,
        }
    }

    /// A message of the stream, numbered.
    fn message(&mut self, event: &str, mut more: Value) -> Message {
        more["event"] = json!(event);
        more["sequenceNumber"] = json!(self.sequence_number);
        more["streamId"] = json!(self.ids[2]);
        self.sequence_number += 1;
        Message::text(more.to_string())
    }

    fn read(&mut self, text: &str) -> Result<Vec<Heard>, String> {
        let command: Command =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        let of_stream = |stream_id: &str, heard| {
            let is_known = stream_id == self.ids[2];
            is_known
                .then_some(heard)
                .ok_or_else(|| format!("unknown streamId {}", excerpt(stream_id)))
        };
        match command {
            Command::PlayAudio { media } => self.play(&media).map(|heard| vec![heard]),
            Command::Checkpoint { stream_id, name } => {
                Ok(vec![of_stream(&stream_id, Heard::Mark(name))?])
            }
            Command::ClearAudio { stream_id } => {
                let clear = of_stream(&stream_id, Heard::Clear)?;
                Ok(vec![
                    clear,
                    Heard::Say(self.message("clearedAudio", json!({}))),
                ])
            }
            Command::SendDtmf { dtmf } => {
                let is_key = |key| matches!(key, '0'..='9' | '*' | '#' | 'A'..='D');
                if dtmf.is_empty() || !dtmf.chars().all(is_key) {
                    return Err(format!("no keys: {}", excerpt(&dtmf)));
                }
                Ok(vec![Heard::Keys(dtmf)])
            }
            Command::Stop { stream_id } if self.is_vobiz => {
                let reason = "stop".to_owned();
                Ok(vec![of_stream(&stream_id, Heard::End { reason })?])
            }
            Command::Stop { .. } => Err("no such command: stop".to_owned()),
        }
    }

    fn play(&self, media: &Media) -> Result<Heard, String> {
        let codec = match (media.content_type.as_str(), media.sample_rate) {
            ("audio/x-l16", 8_000 | 16_000) => Codec::Pcm16,
            ("audio/x-mulaw", 8_000) => Codec::Ulaw,
            (other, rate) => return Err(format!("not played: {} at {rate}", excerpt(other))),
        };
        // The phone's ear has one rate; a message of another would need a resampler of its own.
        if media.sample_rate != self.format.rate.hz() {
            return Err(format!(
                "another rate than the caller's: {}",
                media.sample_rate
            ));
        }
        let samples = decode_base64(codec, &media.payload).map_err(|e| e.to_string())?;
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }
}

/// As `k=v;k=v`.
fn extra_headers(parameters: &BTreeMap<String, String>) -> String {
    let pairs = parameters.iter();
    let pairs: Vec<String> = pairs
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(";")
}

impl FarEnd for PlivoWire {
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let subprotocol = HeaderValue::from_static("audio.plivo.com");
        vec![(SEC_WEBSOCKET_PROTOCOL, subprotocol)]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some(self.ids[1].clone())
    }

    fn format(&self) -> AudioFormat {
        self.format
    }

    fn most_queued(&self) -> Option<(Duration, &'static str)> {
        // Observed (telephony reference 4.2).
        Some((Duration::from_secs(40), "more than 40 s of audio wait"))
    }

    fn opening(&mut self) -> Vec<Message> {
        let encoding = match self.format.codec {
            Codec::Pcm16 => "audio/x-l16",
            _ => "audio/x-mulaw",
        };
        let mut start = json!({
            "start": {
                "callId": self.ids[1],
                "streamId": self.ids[2],
                "accountId": self.ids[0],
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": encoding, "sampleRate": self.format.rate.hz()},
            },
        });
        start["extra_headers"] = serde_json::from_str(&self.extra_headers).expect("it is JSON");
        vec![self.message("start", start)]
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(self.format.codec, samples).expect("mu-law and PCM16 are spoken");
        self.n_chunks += 1;
        // Milliseconds since 1970, as the documentation has it.
        let timestamp = 1_767_225_600_000 + self.n_chunks * 20;
        let number = self.sequence_number;
        self.sequence_number += 1;
        Some(around_base64(
            format_args!(
                r#"{{"event":"media","sequenceNumber":{number},"streamId":"{}","extra_headers":{},"media":{{"track":"inbound","timestamp":"{timestamp}","chunk":{},"payload":""#,
                self.ids[2], self.extra_headers, self.n_chunks,
            ),
            &bytes,
            format_args!(r#""}}}}"#),
        ))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        let timestamp = (self.n_chunks * 20).to_string();
        let dtmf = json!({"track": "inbound", "digit": digit.to_string(), "timestamp": timestamp});
        Some(self.message("dtmf", json!({"dtmf": dtmf})))
    }

    fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        was_played.then(|| self.message("playedStream", json!({"name": name})))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(_) => Err("a binary message".to_owned()),
            _ => return Vec::new(),
        };
        heard.unwrap_or_else(|why| vec![Heard::Violation(why)])
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn wire(is_vobiz: bool) -> PlivoWire {
        let parameters = BTreeMap::from([("tenant".into(), "t1".into())]);
        let mut wire = PlivoWire::new(is_vobiz, 1, AudioFormat::MODEL_PCM, parameters);
        wire.ids[2] = "s-1".into();
        wire
    }

    fn value(message: &Message) -> Value {
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    #[test]
    fn says_what_plivo_says() {
        let mut wire = wire(false);
        let start = value(&wire.opening()[0]);
        assert_eq!(start["start"]["mediaFormat"]["encoding"], "audio/x-mulaw");
        assert_eq!(start["extra_headers"], "tenant=t1");
        let media = value(&wire.audio(&[0; 160]).unwrap());
        assert_eq!(
            (&media["sequenceNumber"], &media["media"]["chunk"]),
            (&json!(1), &json!(1))
        );
        assert!(media["media"]["timestamp"].is_string());
        assert_eq!(value(&wire.dtmf('5').unwrap())["dtmf"]["digit"], "5");
        assert_eq!(value(&wire.mark("g0-1", true).unwrap())["name"], "g0-1");
        assert_eq!(wire.mark("g0-1", false), None);
        assert_eq!(wire.farewell(), None);
    }

    #[test]
    fn media_is_what_a_tree_of_it_says() {
        // What needs escaping is escaped.
        let parameters = BTreeMap::from([("a\"b".into(), "c\\\n\u{1}".into())]);
        let mut wire = PlivoWire::new(false, 1, AudioFormat::MODEL_PCM, parameters);
        let start = value(&wire.opening()[0]);
        let said = value(&wire.audio(&[0; 160]).unwrap());
        let media = json!({
            "media": {
                "track": "inbound",
                "timestamp": "1767225600020",
                "chunk": 1,
                "payload": STANDARD.encode([0xFF; 160]),
            },
            "extra_headers": "a\"b=c\\\n\u{1}",
        });
        wire.sequence_number = 1;
        let tree = value(&wire.message("media", media));
        assert_eq!(said, tree);
        assert_eq!(start["extra_headers"], tree["extra_headers"]);
    }

    #[test]
    fn takes_what_plivo_takes_and_nothing_else() {
        let heard = |text: &str| wire(false).receive(&Message::text(text));
        let audio = Heard::Audio {
            samples: vec![0],
            item: None,
        };
        assert_eq!(
            heard(
                r#"{"event":"playAudio","media":{"contentType":"audio/x-mulaw","sampleRate":8000,"payload":"/w=="}}"#
            ),
            [audio]
        );
        assert_eq!(
            heard(r#"{"event":"checkpoint","streamId":"s-1","name":"g7-12"}"#),
            [Heard::Mark("g7-12".into())]
        );
        let cleared = heard(r#"{"event":"clearAudio","streamId":"s-1"}"#);
        assert!(
            matches!(&cleared[..], [Heard::Clear, Heard::Say(_)]),
            "{cleared:?}"
        );
        let keys = Heard::Keys("12#".to_owned());
        assert_eq!(heard(r#"{"event":"sendDTMF","dtmf":"12#"}"#), [keys]);
        let stop = r#"{"event":"stop","streamId":"s-1"}"#;
        assert!(matches!(
            &wire(true).receive(&Message::text(stop))[..],
            [Heard::End { .. }]
        ));
        for text in [
            "{",
            stop,
            r#"{"event":"clearAudio"}"#,
            r#"{"event":"clearAudio","streamId":"s-2"}"#,
            r#"{"event":"sendDTMF","dtmf":"x"}"#,
            r#"{"event":"playAudio","media":{"contentType":"audio/x-l16","sampleRate":24000,"payload":""}}"#,
            r#"{"event":"playAudio","media":{"contentType":"audio/x-mulaw","payload":"/w=="}}"#,
        ] {
            assert!(matches!(&heard(text)[..], [Heard::Violation(_)]), "{text}");
        }
    }
}
