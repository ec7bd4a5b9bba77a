//! Twilio Media Streams, Twilio's side of it (telephony reference, chapter 1).
//!
//! Says what Twilio says, all numbers as strings where Twilio has strings, and takes nothing that Twilio
//! would not take: it answers what it cannot read with error 31951 and binary with 31950. SignalWire is the same with PCM16
//! (chapter 5).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{CallCodec, around_base64};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

/// Twilio's frame, 20 ms.
const FRAME_MS: u64 = 20;

#[derive(Debug)]
pub(crate) struct TwilioWire {
    format: AudioFormat,
    codec: CallCodec,
    account_sid: String,
    call_sid: String,
    stream_sid: String,
    parameters: BTreeMap<String, String>,
    sequence_number: u64,
    n_chunks: u64,
}

/// The only three messages that Twilio takes, field for field.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    #[serde(rename_all = "camelCase")]
    Media { stream_sid: String, media: Media },
    #[serde(rename_all = "camelCase")]
    Mark { stream_sid: String, mark: Mark },
    #[serde(rename_all = "camelCase")]
    Clear { stream_sid: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Media {
    payload: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    name: String,
}

impl TwilioWire {
    /// `seed` makes the ids: the same seed, the same ids.
    pub(crate) fn new(seed: u64, parameters: BTreeMap<String, String>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sid = |prefix| format!("{prefix}{:032x}", random.u128(..));
        Self {
            format: AudioFormat::ULAW_8K,
            codec: codec_of(AudioFormat::ULAW_8K),
            account_sid: sid("AC"),
            call_sid: sid("CA"),
            stream_sid: sid("MZ"),
            parameters,
            sequence_number: 0,
            n_chunks: 0,
        }
    }

    /// As SignalWire speaks: G.722, PCM16 at 16 or 24 kHz, and of another format mu-law.
    pub(crate) fn signalwire(
        seed: u64,
        format: AudioFormat,
        parameters: BTreeMap<String, String>,
    ) -> Self {
        let mut wire = Self::new(seed, parameters);
        let is_wide = matches!(format.rate, SampleRate::HZ_16000 | SampleRate::HZ_24000);
        if format == AudioFormat::G722 || format.codec == Codec::Pcm16 && is_wide {
            wire.format = format;
            wire.codec = codec_of(format);
        }
        wire
    }
}

fn codec_of(format: AudioFormat) -> CallCodec {
    CallCodec::new(format.codec).expect("no Opus")
}

impl FarEnd for TwilioWire {
    fn answered_by_upgrade(&self) -> Option<String> {
        // To Twilio, the open socket is the answer.
        Some(self.call_sid.clone())
    }

    fn format(&self) -> AudioFormat {
        self.format
    }

    fn most_queued(&self) -> Option<(Duration, &'static str)> {
        // "Over 10 minutes", then warning 31931 (telephony reference 1.5).
        let text = "31931: more than 10 minutes of audio wait, discarded";
        Some((Duration::from_secs(600), text))
    }

    fn opening(&mut self) -> Vec<Message> {
        let connected = json!({"event": "connected", "protocol": "Call", "version": "1.0.0"});
        let encoding = match self.format.codec {
            Codec::Pcm16 => "audio/x-l16",
            Codec::G722 => "G722",
            _ => "audio/x-mulaw",
        };
        // The clock of G.722, as vendors tell it (telephony reference 14.2).
        let rate = match self.format.codec {
            Codec::G722 => 8_000,
            _ => self.format.rate.hz(),
        };
        let start = json!({
            "event": "start",
            "sequenceNumber": self.next_sequence_number(),
            "streamSid": self.stream_sid,
            "start": {
                "streamSid": self.stream_sid,
                "accountSid": self.account_sid,
                "callSid": self.call_sid,
                "tracks": ["inbound"],
                "customParameters": self.parameters,
                "mediaFormat": {"encoding": encoding, "sampleRate": rate, "channels": 1},
            },
        });
        vec![text(&connected), text(&start)]
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = self.codec.encode(samples);
        self.n_chunks += 1;
        self.sequence_number += 1;
        Some(around_base64(
            format_args!(
                r#"{{"event":"media","sequenceNumber":"{}","streamSid":"{}","media":{{"track":"inbound","chunk":"{}","timestamp":"{}","payload":""#,
                self.sequence_number,
                self.stream_sid,
                self.n_chunks,
                (self.n_chunks - 1) * FRAME_MS,
            ),
            &bytes,
            format_args!(r#""}}}}"#),
        ))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(text(&json!({
            "event": "dtmf",
            "sequenceNumber": self.next_sequence_number(),
            "streamSid": self.stream_sid,
            "dtmf": {"track": "inbound_track", "digit": digit.to_string()},
        })))
    }

    fn mark(&mut self, name: &str, _was_played: bool) -> Option<Message> {
        // One that a clear threw away comes back all the same.
        Some(text(&json!({
            "event": "mark",
            "sequenceNumber": self.next_sequence_number(),
            "streamSid": self.stream_sid,
            "mark": {"name": name},
        })))
    }

    fn farewell(&mut self) -> Option<Message> {
        Some(text(&json!({
            "event": "stop",
            "sequenceNumber": self.next_sequence_number(),
            "streamSid": self.stream_sid,
            "stop": {"accountSid": self.account_sid, "callSid": self.call_sid},
        })))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(_) => Err("31950: a binary message".to_owned()),
            _ => return Vec::new(),
        };
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}

impl TwilioWire {
    fn read(&mut self, text: &str) -> Result<Heard, String> {
        let command: Command =
            serde_json::from_str(text).map_err(|e| format!("31951: {e} in {}", excerpt(text)))?;
        let (stream_sid, heard) = match command {
            Command::Media { stream_sid, media } => (stream_sid, self.samples_of(&media.payload)?),
            Command::Mark { stream_sid, mark } => (stream_sid, Heard::Mark(mark.name)),
            Command::Clear { stream_sid } => (stream_sid, Heard::Clear),
        };
        if stream_sid != self.stream_sid {
            return Err(format!("31951: unknown streamSid {}", excerpt(&stream_sid)));
        }
        Ok(heard)
    }

    fn samples_of(&mut self, payload: &str) -> Result<Heard, String> {
        let bytes = STANDARD
            .decode(payload)
            .map_err(|e| format!("31951: media.payload is not base64: {e}"))?;
        let samples = self.codec.decode(&bytes).map_err(|e| e.to_string())?;
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }

    fn next_sequence_number(&mut self) -> String {
        self.sequence_number += 1;
        self.sequence_number.to_string()
    }
}

fn text(value: &serde_json::Value) -> Message {
    Message::text(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> TwilioWire {
        let mut wire = TwilioWire::new(1, BTreeMap::from([("tok".into(), "abc".into())]));
        wire.stream_sid = "MZ01".into();
        wire
    }

    fn value(message: &Message) -> serde_json::Value {
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    #[test]
    fn says_what_twilio_says() {
        let mut wire = wire();
        let opening = wire.opening();
        assert_eq!(
            value(&opening[0]),
            json!({"event":"connected","protocol":"Call","version":"1.0.0"})
        );
        let start = value(&opening[1]);
        assert_eq!(start["sequenceNumber"], "1");
        assert_eq!(start["start"]["customParameters"], json!({"tok": "abc"}));
        assert_eq!(start["start"]["mediaFormat"]["sampleRate"], 8_000);
        wire.audio(&[0; 160]);
        let payload = STANDARD.encode([0xFF; 160]);
        let media = json!({
            "event": "media",
            "sequenceNumber": "3",
            "streamSid": "MZ01",
            "media": {"track": "inbound", "chunk": "2", "timestamp": "20", "payload": payload},
        });
        assert_eq!(value(&wire.audio(&[0; 160]).unwrap()), media);
        assert_eq!(value(&wire.dtmf('5').unwrap())["dtmf"]["digit"], "5");
        assert_eq!(
            value(&wire.farewell().unwrap())["stop"]["accountSid"],
            wire.account_sid
        );
    }

    fn check_refused(text: &str, why: &str) {
        match &wire().receive(&Message::text(text))[..] {
            [Heard::Violation(reason)] => assert!(reason.contains(why), "{reason}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn takes_what_twilio_takes_and_nothing_else() {
        let heard = |text: &str| wire().receive(&Message::text(text));
        assert_eq!(
            heard(r#"{"event":"media","streamSid":"MZ01","media":{"payload":"/wA="}}"#),
            [Heard::Audio {
                samples: vec![0, -32_124],
                item: None
            }]
        );
        assert_eq!(
            heard(r#"{"event":"mark","streamSid":"MZ01","mark":{"name":"g7-12"}}"#),
            [Heard::Mark("g7-12".into())]
        );
        assert_eq!(
            heard(r#"{"event":"clear","streamSid":"MZ01"}"#),
            [Heard::Clear]
        );

        check_refused("{", "31951");
        check_refused(r#"{"event":"stop","streamSid":"MZ01"}"#, "unknown variant");
        check_refused(r#"{"event":"clear"}"#, "streamSid");
        check_refused(
            r#"{"event":"clear","streamSid":"MZ02"}"#,
            "unknown streamSid",
        );
        check_refused(
            r#"{"event":"clear","streamSid":"MZ01","x":1}"#,
            "unknown field",
        );
        check_refused(r#"{"event":"mark","streamSid":"MZ01","mark":{}}"#, "name");
        check_refused(
            r#"{"event":"media","streamSid":"MZ01","media":{"payload":"/w","track":"outbound"}}"#,
            "unknown field",
        );
        check_refused(
            r#"{"event":"media","streamSid":"MZ01","media":{"payload":"/w"}}"#,
            "base64",
        );
        assert!(matches!(
            &wire().receive(&Message::binary(vec![1]))[..],
            [Heard::Violation(reason)] if reason.contains("31950")
        ));
    }
}
