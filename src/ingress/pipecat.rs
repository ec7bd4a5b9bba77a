//! Pipecat's protobuf frames over a WebSocket (telephony reference 11): browsers, apps and test harnesses.
//!
//! One `Frame` a binary message. Audio is PCM16, and every frame says its rate and channels: the first one starts the call,
//! and replies leave in its rate, mono. Two channels are mixed. Everything but audio and the interruption is RTVI, JSON within
//! a `MessageFrame`: `client-ready` is answered with `bot-ready`, `dtmf` are keys, words leave as transcriptions,
//! and a client that said it was ready is told of an interruption by `bot-interrupted` too.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | a text message | error, the call ends |
//! | what is no protobuf, or a `MessageFrame` that is no JSON | error, the call ends |
//! | more than two channels, or a rate that is not converted | error, the call ends |
//! | another rate than the first frame's | error, the call ends |
//! | keys before the first audio | the first few follow the start |
//! | frames of other kinds, and RTVI messages of other types | counted, no effect |
//!
//! Pipecat has no marks, no name of the call and no word for its end. The few structs are written out here, since
//! the schema is Pipecat's and not the project's.

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Scalar};
use super::{
    Capabilities, Clear, DialectError, Head, Ignored, Incoming, Lead, Outgoing, Speak, ignore,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent, Digit, Speaker};
use crate::media::{AudioFormat, Codec, SampleRate};

/// The largest message, in bytes: a second of two channels at 48 kHz, and what is around it.
const MAX_MESSAGE_BYTES: usize = 2 * 2 * 48_000 + 1024;

/// The largest JSON within a message, in bytes.
const MAX_JSON_BYTES: usize = 64 * 1024;

/// Longest id of a `client-ready` that is answered, in bytes. They are UUIDs.
const MAX_ID_BYTES: usize = 256;

/// Most keys of one message, and most that are kept until there is audio.
const MAX_KEYS: usize = 64;

/// The newest version of RTVI, of which nothing but the messages below is spoken (Pipecat 1.14).
const RTVI_VERSION: &str = "2.2.0";

/// One client of Pipecat's.
#[derive(Clone, Debug, Default)]
pub struct Pipecat {
    /// Of the upgrade request's query.
    parameters: BTreeMap<String, String>,
    /// Known once audio came.
    rate: Option<SampleRate>,
    /// The audio that started the call.
    held: Vec<u8>,
    /// Keys that were not asked for yet.
    keys: VecDeque<Digit>,
    /// Whether it has said by RTVI that it is ready.
    is_ready: bool,
    answers: VecDeque<Frame>,
    ignored: Ignored,
}

/// What every message is. The tags are Pipecat's (telephony reference 11.1).
#[derive(Clone, PartialEq, prost::Message)]
struct Frame {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Text(OtherFrame),
    #[prost(message, tag = "2")]
    Audio(AudioRawFrame),
    #[prost(message, tag = "3")]
    Transcription(OtherFrame),
    #[prost(message, tag = "4")]
    Message(MessageFrame),
    #[prost(message, tag = "5")]
    Interruption(OtherFrame),
}

/// A frame of which only the kind matters; all of its fields are skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct OtherFrame {}

#[derive(Clone, PartialEq, prost::Message)]
struct AudioRawFrame {
    #[prost(bytes = "vec", tag = "3")]
    audio: Vec<u8>,
    #[prost(uint32, tag = "4")]
    sample_rate: u32,
    #[prost(uint32, tag = "5")]
    num_channels: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MessageFrame {
    #[prost(string, tag = "1")]
    data: String,
}

impl Speak for Pipecat {
    const NAME: &'static str = "pipecat";

    const PATH: &'static str = "/pipecat/audio";

    /// Sources: telephony reference 11.3 (40 ms a message, interruption, no marks), 16.3 (lead); keys are RTVI's of 2.0.
    const CAPABILITIES: Capabilities = Capabilities {
        clear: Clear::Command,
        keys_in: true,
        chunk_frames: 2,
        lead: Lead::between_ms(100, 500),
        by_provider: false,
        max_message_bytes: MAX_MESSAGE_BYTES,
        ..Capabilities::OF_A_PROVIDER
    };

    fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn opened(&mut self, head: &Head<'_>) {
        self.parameters = head.parameters();
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        let Incoming::Binary(bytes) = message else {
            return Err(DialectError::TextUnexpected);
        };
        let frame = Frame::decode(bytes).map_err(|_| DialectError::MalformedProtobuf)?;
        match frame.kind {
            Some(Kind::Audio(frame)) => self.audio(frame, audio),
            Some(Kind::Message(frame)) => self.message(&frame.data),
            Some(Kind::Text(_) | Kind::Transcription(_) | Kind::Interruption(_)) | None => {
                Ok(ignore(&mut self.ignored.unknown_events))
            }
        }
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        audio.append(&mut self.held);
        if !audio.is_empty() {
            return Some(CallerEvent::Audio);
        }
        self.rate?;
        self.keys.pop_front().map(CallerEvent::Dtmf)
    }

    fn answer(&mut self, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        match self.answers.pop_front() {
            Some(answer) => write(answer, out),
            None => Outgoing::Nothing,
        }
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        let Some(rate) = self.rate else {
            return Outgoing::Nothing;
        };
        let kind = match command {
            CallerCommand::Audio([]) => return Outgoing::Nothing,
            CallerCommand::Audio(audio) => Kind::Audio(AudioRawFrame {
                audio: audio.to_vec(),
                sample_rate: rate.hz(),
                num_channels: 1,
            }),
            CallerCommand::Clear => {
                if self.is_ready {
                    // The frame is for who plays, this is for who shows; it leaves after the next message that comes.
                    let told = rtvi(serde_json::json!({"type": "bot-interrupted"}));
                    self.answers.push_back(Frame { kind: Some(told) });
                }
                Kind::Interruption(OtherFrame {})
            }
            CallerCommand::Transcript { speaker, text } => rtvi(match speaker {
                Speaker::Caller => serde_json::json!({
                    "type": "user-transcription",
                    "data": {"text": text, "user_id": "", "timestamp": "", "final": true},
                }),
                Speaker::Assistant => serde_json::json!({
                    "type": "bot-transcription",
                    "data": {"text": text},
                }),
            }),
            CallerCommand::Error { code, message } => rtvi(serde_json::json!({
                "type": "error",
                "data": {"error": format!("{code}: {message}"), "fatal": true},
            })),
            CallerCommand::Started { .. }
            | CallerCommand::Mark(_)
            | CallerCommand::ReplyEnded
            | CallerCommand::Keys(_)
            | CallerCommand::End { .. } => return Outgoing::Nothing,
        };
        write(Frame { kind: Some(kind) }, out)
    }
}

impl Pipecat {
    fn audio(
        &mut self,
        frame: AudioRawFrame,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        let rate = SampleRate::new(frame.sample_rate).ok_or(DialectError::UnsupportedFormat)?;
        if self.rate.is_some_and(|known| known != rate) {
            return Err(DialectError::UnsupportedFormat);
        }
        // Two channels of 16 bits, or one.
        let n_bytes = match frame.num_channels {
            // What is zero is not on the wire at all.
            0 | 1 => 2,
            2 => 4,
            _ => return Err(DialectError::UnsupportedFormat),
        };
        if !frame.audio.len().is_multiple_of(n_bytes) {
            return Err(DialectError::OddByteCount);
        }
        if frame.audio.is_empty() {
            return Ok(ignore(&mut self.ignored.empty_audio));
        }
        let mono = match n_bytes {
            2 => frame.audio,
            _ => mix(&frame.audio),
        };
        if self.rate.is_some() {
            *audio = mono;
            return Ok(CallerEvent::Audio);
        }
        self.rate = Some(rate);
        self.held = mono;
        let format = AudioFormat {
            codec: Codec::Pcm16,
            rate,
        };
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: None,
            provider_stream_id: None,
            input: format,
            output: format,
            parameters: std::mem::take(&mut self.parameters),
        })))
    }

    fn message(&mut self, text: &str) -> Result<CallerEvent, DialectError> {
        if text.len() > MAX_JSON_BYTES {
            return Err(DialectError::TooLarge {
                limit: MAX_JSON_BYTES,
            });
        }
        json::check(text.as_bytes())?;
        let message: Rtvi = json::parse(text, "RTVI")?;
        let is_rtvi = message.label.as_deref() == Some("rtvi-ai");
        match message.kind.as_deref().filter(|_| is_rtvi) {
            Some("client-ready") => self.client_ready(message),
            Some("dtmf") => self.pressed(&message),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    /// `button` was RTVI 2.0's, `buttons` came with 2.1 (Pipecat 1.14, `DTMFInputData`).
    fn pressed(&mut self, message: &Rtvi<'_>) -> Result<CallerEvent, DialectError> {
        let data = message.data.map_or("null", RawValue::get);
        let wrong = |_| DialectError::WrongShape { message: "dtmf" };
        let keys: Keys = serde_json::from_str(data).map_err(wrong)?;
        let buttons = keys.buttons.into_iter().chain(keys.button);
        for button in buttons.take(MAX_KEYS) {
            let digit = Digit::only(&button.0).ok_or(DialectError::UnknownDigit)?;
            if self.keys.len() < MAX_KEYS {
                self.keys.push_back(digit);
            }
        }
        Ok(CallerEvent::Nothing)
    }

    fn client_ready(&mut self, message: Rtvi<'_>) -> Result<CallerEvent, DialectError> {
        self.is_ready = true;
        let id = message.id.map(|id| id.0).unwrap_or_default();
        if id.len() > MAX_ID_BYTES {
            return Err(DialectError::TooLarge {
                limit: MAX_ID_BYTES,
            });
        }
        let data = message.data.map_or("null", RawValue::get);
        let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        let ready = serde_json::json!({
            "type": "bot-ready",
            "id": id,
            "data": {"version": spoken(data["version"].as_str())},
        });
        self.answers.push_back(Frame {
            kind: Some(rtvi(ready)),
        });
        Ok(CallerEvent::Nothing)
    }
}

/// The version of RTVI that a client of this version is told. As Pipecat 1.14 does it: a client of 1.x hears its own, since
/// it takes a message of version 2 for one that it does not know; everybody else hears the newest.
fn spoken(version: Option<&str>) -> String {
    let parts = version.map(|version| version.split('.').map(str::parse::<u16>));
    match parts.map(Iterator::collect::<Result<Vec<_>, _>>) {
        Some(Ok(parts)) if matches!(parts[..], [1, _, _]) => {
            format!("1.{}.{}", parts[1], parts[2])
        }
        _ => RTVI_VERSION.to_owned(),
    }
}

/// The middle of two channels.
fn mix(stereo: &[u8]) -> Vec<u8> {
    let pairs = stereo.as_chunks::<4>().0.iter();
    pairs
        .flat_map(|&[a, b, c, d]| {
            let left = i32::from(i16::from_le_bytes([a, b]));
            let right = i32::from(i16::from_le_bytes([c, d]));
            // Of two 16-bit numbers the mean is one too.
            (((left + right) >> 1) as i16).to_le_bytes()
        })
        .collect()
}

/// An RTVI message of this type.
fn rtvi(mut message: serde_json::Value) -> Kind {
    message["label"] = "rtvi-ai".into();
    Kind::Message(MessageFrame {
        data: message.to_string(),
    })
}

fn write(frame: Frame, out: &mut Vec<u8>) -> Outgoing {
    frame.encode(out).expect("a vector grows");
    Outgoing::Binary
}

#[derive(Deserialize)]
struct Rtvi<'a> {
    label: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<Scalar>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// The data of a `dtmf`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Keys {
    buttons: Vec<Scalar>,
    button: Option<Scalar>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two samples, 0x0100 and 0x7fff, 16 kHz, mono (telephony reference 11.2).
    const AUDIO: [u8; 13] = [
        0x12, 0x0b, 0x1a, 0x04, 0x00, 0x01, 0xff, 0x7f, 0x20, 0x80, 0x7d, 0x28, 0x01,
    ];

    fn started() -> Pipecat {
        let mut dialect = Pipecat::default();
        let event = dialect.decode(Incoming::Binary(&AUDIO), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        let mut audio = Vec::new();
        assert_eq!(dialect.more(&mut audio), Some(CallerEvent::Audio));
        assert_eq!(audio, AUDIO[4..8]);
        assert_eq!(dialect.more(&mut audio), None);
        dialect
    }

    fn frame(audio: &[u8], sample_rate: u32, num_channels: u32) -> Vec<u8> {
        let audio = AudioRawFrame {
            audio: audio.to_vec(),
            sample_rate,
            num_channels,
        };
        Frame {
            kind: Some(Kind::Audio(audio)),
        }
        .encode_to_vec()
    }

    fn check(bytes: &[u8], expected: Result<&[u8], DialectError>) {
        let mut audio = Vec::new();
        let event = started().decode(Incoming::Binary(bytes), &mut audio);
        let expected = expected.map(|bytes| {
            assert_eq!(audio, bytes);
            if bytes.is_empty() {
                CallerEvent::Nothing
            } else {
                CallerEvent::Audio
            }
        });
        assert_eq!(event, expected, "{bytes:x?}");
    }

    /// The bytes of telephony reference 11.2.
    #[test]
    fn frames_are_written_as_pipecat_writes_them() {
        let mut out = Vec::new();
        assert_eq!(
            started().encode(CallerCommand::Audio(&AUDIO[4..8]), &mut out),
            Outgoing::Binary
        );
        assert_eq!(out, AUDIO);
        started().encode(CallerCommand::Clear, &mut out);
        assert_eq!(out, [0x2a, 0x00]);
        let message = MessageFrame {
            data: r#"{"a":1}"#.to_owned(),
        };
        let frame = Frame {
            kind: Some(Kind::Message(message)),
        };
        out.clear();
        write(frame, &mut out);
        assert_eq!(out, b"\x22\x09\x0a\x07{\"a\":1}");
    }

    /// Rate 0 and more than two channels are refused (telephony reference 11.3), two are mixed.
    #[test]
    fn every_frame_says_its_rate_and_channels() {
        let unsupported = || Err(DialectError::UnsupportedFormat);
        check(&frame(&[1, 0], 16_000, 1), Ok(&[1, 0]));
        check(&frame(&[3, 0, 254, 255], 16_000, 2), Ok(&[0, 0]));
        check(&frame(&[255, 127, 255, 127], 16_000, 2), Ok(&[255, 127]));
        check(&frame(&[1, 0], 0, 1), unsupported());
        check(&frame(&[1, 0], 24_000, 1), unsupported());
        check(&frame(&[0; 6], 16_000, 3), unsupported());
        check(&frame(&[0; 6], 16_000, 2), Err(DialectError::OddByteCount));
        check(&frame(&[0; 3], 16_000, 1), Err(DialectError::OddByteCount));
        check(&frame(&[], 16_000, 1), Ok(&[]));
    }

    /// Unknown fields are skipped, and of two frames in one message the last counts (telephony reference 11.3).
    #[test]
    fn a_newer_client_is_understood() {
        // Field 99 with a number, then the audio, whose field 6 is the presentation time.
        let mut newer = vec![0x98, 0x06, 0x07];
        newer.extend([0x12, 0x0d]);
        newer.extend(&AUDIO[2..]);
        newer.extend([0x30, 0x07]);
        check(&newer, Ok(&AUDIO[4..8]));
        let twice = [&[0x0a, 0x00][..], &AUDIO].concat();
        check(&twice, Ok(&AUDIO[4..8]));
        // A kind that is not known at all.
        check(&[0x52, 0x00], Ok(&[]));
        check(&[], Ok(&[]));
    }

    #[test]
    fn faults_have_names() {
        check(&[0x12], Err(DialectError::MalformedProtobuf));
        check(&[0xff; 20], Err(DialectError::MalformedProtobuf));
        check(b"\x22\x03\x0a\x01{", Err(DialectError::MalformedJson));
        let text = Incoming::Text("{}");
        let event = started().decode(text, &mut Vec::new());
        assert_eq!(event, Err(DialectError::TextUnexpected));
    }

    /// `client-ready` comes before audio, and is answered by `bot-ready` of the same id (telephony reference 11.3).
    #[test]
    fn a_client_that_is_ready_is_answered() {
        let mut dialect = Pipecat::default();
        let ready = rtvi(serde_json::json!({"type": "client-ready", "id": "r-1"}));
        let ready = Frame { kind: Some(ready) }.encode_to_vec();
        let event = dialect.decode(Incoming::Binary(&ready), &mut Vec::new());
        assert_eq!(event, Ok(CallerEvent::Nothing));
        let mut out = Vec::new();
        assert_eq!(dialect.answer(&mut out), Outgoing::Binary);
        let Some(Kind::Message(answer)) = Frame::decode(&out[..]).unwrap().kind else {
            panic!("{out:x?}");
        };
        let answer: serde_json::Value = serde_json::from_str(&answer.data).unwrap();
        assert_eq!(
            (&answer["type"], &answer["id"]),
            (&"bot-ready".into(), &"r-1".into())
        );
        assert_eq!(answer["data"]["version"], RTVI_VERSION);
        assert_eq!(dialect.answer(&mut out), Outgoing::Nothing);
    }

    /// An RTVI message, as a client sends it.
    fn said(message: serde_json::Value) -> Vec<u8> {
        Frame {
            kind: Some(rtvi(message)),
        }
        .encode_to_vec()
    }

    /// Pipecat 1.14, `DTMFInputData`: one or more keys in order; RTVI 2.0 had one.
    #[test]
    fn keys_are_rtvis() {
        let check = |dialect: &mut Pipecat, data: serde_json::Value, expected: &str| {
            let keys = said(serde_json::json!({"type": "dtmf", "id": "k", "data": data}));
            let event = dialect.decode(Incoming::Binary(&keys), &mut Vec::new());
            assert_eq!(event, Ok(CallerEvent::Nothing), "{data}");
            let found: Vec<_> = std::iter::from_fn(|| dialect.more(&mut Vec::new())).collect();
            let digits = expected.chars().map(|c| Digit::new(c).unwrap());
            assert_eq!(found, digits.map(CallerEvent::Dtmf).collect::<Vec<_>>());
        };
        let mut dialect = started();
        check(
            &mut dialect,
            serde_json::json!({"buttons": ["4", "2", "#"]}),
            "42#",
        );
        check(&mut dialect, serde_json::json!({"button": "*"}), "*");
        for (data, expected) in [
            (
                serde_json::json!({"buttons": ["11"]}),
                DialectError::UnknownDigit,
            ),
            (
                serde_json::json!("1"),
                DialectError::WrongShape { message: "dtmf" },
            ),
        ] {
            let keys = said(serde_json::json!({"type": "dtmf", "id": "k", "data": data}));
            let event = dialect.decode(Incoming::Binary(&keys), &mut Vec::new());
            assert_eq!(event, Err(expected), "{data}");
        }
        let mut early = Pipecat::default();
        check(&mut early, serde_json::json!({"buttons": ["7"]}), "");
        let event = early.decode(Incoming::Binary(&AUDIO), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        assert_eq!(early.more(&mut Vec::new()), Some(CallerEvent::Audio));
        let seven = Digit::new('7').unwrap();
        assert_eq!(early.more(&mut Vec::new()), Some(CallerEvent::Dtmf(seven)));
    }

    /// RTVI 2.1, without data (Pipecat 1.14, `BotInterruptedMessage`).
    #[test]
    fn an_interruption_is_told_to_who_speaks_rtvi() {
        let mut out = Vec::new();
        let mut silent = started();
        silent.encode(CallerCommand::Clear, &mut out);
        assert_eq!(silent.answer(&mut out), Outgoing::Nothing);
        let mut ready = started();
        let said = said(serde_json::json!({"type": "client-ready", "id": "r-1"}));
        ready
            .decode(Incoming::Binary(&said), &mut Vec::new())
            .unwrap();
        assert_eq!(ready.answer(&mut out), Outgoing::Binary);
        ready.encode(CallerCommand::Clear, &mut out);
        assert_eq!(out, [0x2a, 0x00]);
        assert_eq!(ready.answer(&mut out), Outgoing::Binary);
        let Some(Kind::Message(told)) = Frame::decode(&out[..]).unwrap().kind else {
            panic!("{out:x?}");
        };
        let told: serde_json::Value = serde_json::from_str(&told.data).unwrap();
        let expected = serde_json::json!({"label": "rtvi-ai", "type": "bot-interrupted"});
        assert_eq!(told, expected);
    }

    /// As `RTVIProcessor` of Pipecat 1.14 chooses it; tests/sdk asks its own models.
    #[test]
    fn an_old_client_hears_its_own_version() {
        let check = |version, expected| assert_eq!(spoken(version), expected, "{version:?}");
        check(Some("1.2.0"), "1.2.0");
        for other in [
            None,
            Some("2.0.0"),
            Some("0.3.1"),
            Some("1.2"),
            Some("1.x.0"),
            Some(""),
        ] {
            check(other, RTVI_VERSION);
        }
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..6),
            at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut dialect = started();
            let mut changed = AUDIO.to_vec();
            changed[at.index(AUDIO.len())] = byte;
            let mut audio = Vec::new();
            for message in messages.iter().chain([&changed]) {
                let event = dialect.decode(Incoming::Binary(message), &mut audio);
                prop_assert_eq!(event == Ok(CallerEvent::Audio), !audio.is_empty());
            }
        }
    }
}
