//! The project's own dialect, for anything that is no phone provider: plain audio, a little JSON.
//!
//! # The wire
//!
//! The client opens a WebSocket at `/v1/audio/{agent}`. **Binary messages are audio, text messages are
//! JSON objects** whose `type` says what they are. Unknown types and unknown fields are ignored in both
//! directions, so that either side may learn new ones first.
//!
//! The client speaks first, within 5 seconds:
//!
//! ```json
//! {"type":"start",
//!  "format":{"codec":"pcm16","rate":24000},
//!  "output":{"codec":"pcm16","rate":24000},
//!  "parameters":{"ticket":"4711"},
//!  "caller":"+15550001111",
//!  "call_id":"my-own-name-for-it"}
//! ```
//!
//! | field | meaning | without it |
//! |---|---|---|
//! | `format` | what the client sends | `pcm16` at 24000 |
//! | `output` | what the client wants to hear | the same as `format` |
//! | `parameters` | names and values for the agent: strings, numbers or truth values | none |
//! | `caller` | who calls; becomes the parameter `from`, in place of one of that name | none |
//! | `call_id` | the client's name for the call, for logs | none |
//!
//! | `codec` | a binary message holds | `rate` |
//! |---|---|---|
//! | `pcm16` | samples, 16 bits, signed, little-endian, mono | 8000, 16000, 24000 (default), 44100, 48000 |
//! | `ulaw`, `alaw` | G.711 samples, a byte each | 8000 (default), the others only if stated |
//! | `opus` | exactly one raw packet; an **empty message means that one packet was lost** | 8000, 16000, 24000 (default), 48000: how it is decoded and encoded, any packet may come |
//!
//! The gateway answers `{"type":"started","call_id":"...","format":{...},"output":{...}}` with its own
//! id of the call and the formats in full, and audio flows both ways. 20 ms a message is best; a message
//! may hold up to one second (Opus: 61440 bytes), a text message up to 64 KiB.
//!
//! | from the gateway | what it means | what the client does |
//! |---|---|---|
//! | `{"type":"clear"}` | the caller interrupted | throws away all audio not played yet, and its marks |
//! | `{"type":"mark","name":"g0-7"}` | stands behind the audio sent before it | sends it back once that audio was played |
//! | `{"type":"transcript","speaker":"caller","text":"..."}` | words; `speaker` is `caller` or `assistant` | shows them, or nothing |
//! | `{"type":"error","code":"...","message":"..."}` | the call fails; the socket closes after it | tells somebody |
//! | `{"type":"end","reason":"..."}` | the call is over; the socket closes after it | hangs up |
//!
//! | from the client | what it means |
//! |---|---|
//! | `{"type":"mark","name":"g0-7"}` | all before this mark was played. Echo marks: after an interruption the model is told what was heard, and marks are how that is known |
//! | `{"type":"dtmf","digit":"5"}` | a key: `0`-`9`, `*`, `#`, `A`-`D`. Others are counted and dropped |
//! | `{"type":"clear"}` | the client has thrown away its own buffer, because somebody pressed stop. It is accepted and changes nothing here: the reply goes on with the audio sent next; to interrupt it, speak. Marks thrown away must not be echoed, so that what they stood behind does not count as heard |
//! | `{"type":"end"}` | the caller hung up |
//!
//! Whatever breaks these rules ends the call with an `error` message whose `code` is a
//! [`DialectError::name`] and with a close code of 1003 (wrong kind of data), 1007 (data that is not what
//! it should be), 1008 (against the rules) or 1009 (too large): audio before `start`, a second `start`,
//! JSON that is none, half a `pcm16` sample, more than a second of audio at once.
//!
//! A client that offers the subprotocol `trunkline.v1.media` says all of this in protobuf instead, audio too, and is
//! answered in it: `proto/trunkline/v1/media.proto`.
//!
//! This file does not decode audio and does not know which agent was asked for.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;

use super::audio_protobuf::{self, SUBPROTOCOL, Said};
use super::json::{self, Scalar};
use super::{
    Capabilities, Clear, DialectError, Head, Ignored, Incoming, Marks, Outgoing, Speak, ignore,
    pressed,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent, Mark};
use crate::media::{AudioFormat, Codec, SampleRate};

/// The largest text message, in bytes.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// The largest Opus packet, in bytes (RFC 7845 section 6 names it as a limit per channel).
const MAX_OPUS_BYTES: usize = 61_440;

/// One second of the largest format, `pcm16` at 48 kHz; in protobuf, what is around it is counted too.
const MAX_MESSAGE_BYTES: usize = 2 * 48_000;

/// Longest `call_id` and `caller`, in bytes: they are names, and land in every log line of the call.
const MAX_NAME_BYTES: usize = 256;

/// One call in the project's own dialect.
#[derive(Clone, Debug, Default)]
pub struct Audio {
    form: Form,
    state: State,
    ignored: Ignored,
}

/// What the messages are written in.
#[derive(Clone, Copy, Debug, Default)]
enum Form {
    #[default]
    Json,
    Protobuf,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Waiting,
    Open(Formats),
    Ended,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Formats {
    pub(super) input: AudioFormat,
    pub(super) output: AudioFormat,
}

impl Speak for Audio {
    const NAME: &'static str = "audio";

    const PATH: &'static str = "/v1/audio";

    /// The contract above in figures.
    const CAPABILITIES: Capabilities = Capabilities {
        marks: Marks::EchoedWhenPlayed,
        clear: Clear::Command,
        keys_in: true,
        says_end: true,
        by_provider: false,
        subprotocols: &[SUBPROTOCOL],
        max_message_bytes: MAX_MESSAGE_BYTES,
        ..Capabilities::OF_A_PROVIDER
    };

    fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn opened(&mut self, head: &Head<'_>) {
        self.form = match head.subprotocol() {
            Some(SUBPROTOCOL) => Form::Protobuf,
            _ => Form::Json,
        };
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        match (message, self.form) {
            (Incoming::Binary(bytes), Form::Json) => self.binary(bytes, audio),
            (Incoming::Text(text), Form::Json) => self.control(text),
            (Incoming::Binary(bytes), Form::Protobuf) => {
                self.said(audio_protobuf::read(bytes)?, audio)
            }
            (Incoming::Text(_), Form::Protobuf) => Err(DialectError::TextUnexpected),
        }
    }

    // Before the start only an error or an end can
    // be said, after the client's end nothing.
    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        if let Form::Protobuf = self.form {
            let formats = match self.state {
                State::Waiting => None,
                State::Open(formats) => Some(formats),
                State::Ended => return Outgoing::Nothing,
            };
            return audio_protobuf::write(command, formats, out);
        }
        match (command, self.state) {
            (_, State::Ended) => Outgoing::Nothing,
            (CallerCommand::Error { code, message }, _) => {
                write_control("error", &[("code", code), ("message", message)], out)
            }
            (CallerCommand::End { reason }, _) => write_control("end", &[("reason", reason)], out),
            (_, State::Waiting) => Outgoing::Nothing,
            (CallerCommand::Audio([]) | CallerCommand::ReplyEnded | CallerCommand::Keys(_), _) => {
                Outgoing::Nothing
            }
            (CallerCommand::Audio(audio), _) => {
                out.extend_from_slice(audio);
                Outgoing::Binary
            }
            (CallerCommand::Started { call_id }, State::Open(formats)) => {
                write_control("started", &[("call_id", call_id)], out);
                out.pop();
                write_format("format", formats.input, out);
                write_format("output", formats.output, out);
                out.push(b'}');
                Outgoing::Text
            }
            (CallerCommand::Mark(mark), _) => {
                write!(out, r#"{{"type":"mark","name":"{mark}"}}"#)
                    .expect("writing to memory cannot fail");
                Outgoing::Text
            }
            (CallerCommand::Clear, _) => write_control("clear", &[], out),
            (CallerCommand::Transcript { speaker, text }, _) => {
                let fields = [("speaker", speaker.name()), ("text", text)];
                write_control("transcript", &fields, out)
            }
        }
    }
}

impl Audio {
    fn binary(&mut self, bytes: &[u8], audio: &mut Vec<u8>) -> Result<CallerEvent, DialectError> {
        let format = match self.state {
            State::Waiting => return Err(DialectError::BeforeStart),
            State::Open(formats) => formats.input,
            State::Ended => return Ok(ignore(&mut self.ignored.after_stop)),
        };
        let limit = max_audio_bytes(format);
        if bytes.len() > limit {
            return Err(DialectError::TooLarge { limit });
        }
        match format.codec {
            Codec::Pcm16 if !format.is_whole(bytes) => {
                return Err(DialectError::OddByteCount);
            }
            Codec::Pcm16 | Codec::Ulaw | Codec::Alaw | Codec::G722 if bytes.is_empty() => {
                return Ok(ignore(&mut self.ignored.empty_audio));
            }
            Codec::Pcm16 | Codec::Ulaw | Codec::Alaw | Codec::G722 | Codec::Opus => {}
        }
        audio.extend_from_slice(bytes);
        Ok(CallerEvent::Audio)
    }

    fn control(&mut self, text: &str) -> Result<CallerEvent, DialectError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(DialectError::TooLarge {
                limit: MAX_TEXT_BYTES,
            });
        }
        json::check(text.as_bytes())?;
        let kind = json::parse::<Kind>(text, "control")?
            .kind
            .ok_or(DialectError::MissingField { field: "type" })?;
        match (kind.as_str(), self.state) {
            (_, State::Ended) => Ok(ignore(&mut self.ignored.after_stop)),
            ("start", State::Waiting) => self.start(json::parse(text, "start")?),
            ("start", State::Open(_)) => Err(DialectError::SecondStart),
            ("mark" | "dtmf" | "clear" | "end", State::Waiting) => Err(DialectError::BeforeStart),
            ("mark", State::Open(_)) => {
                let name = json::parse::<MarkMessage>(text, "mark")?.name;
                let name = name.ok_or(DialectError::MissingField { field: "name" })?;
                Ok(self.mark(&name))
            }
            ("dtmf", State::Open(_)) => dtmf(text),
            ("clear", State::Open(_)) => Ok(CallerEvent::Nothing),
            ("end", State::Open(_)) => {
                self.state = State::Ended;
                Ok(CallerEvent::Stopped)
            }
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    /// What was said in protobuf.
    fn said(&mut self, said: Said, audio: &mut Vec<u8>) -> Result<CallerEvent, DialectError> {
        match (said, self.state) {
            (_, State::Ended) => Ok(ignore(&mut self.ignored.after_stop)),
            (Said::Unknown, _) => Ok(ignore(&mut self.ignored.unknown_events)),
            (Said::Start(start), State::Waiting) => self.start(start),
            (Said::Start(_), State::Open(_)) => Err(DialectError::SecondStart),
            (_, State::Waiting) => Err(DialectError::BeforeStart),
            (Said::Audio(bytes), State::Open(_)) => self.binary(&bytes, audio),
            (Said::Mark(name), State::Open(_)) => Ok(self.mark(&name)),
            (Said::Dtmf(key), State::Open(_)) => pressed(&key),
            (Said::End, State::Open(_)) => {
                self.state = State::Ended;
                Ok(CallerEvent::Stopped)
            }
        }
    }

    fn start(&mut self, start: Start) -> Result<CallerEvent, DialectError> {
        let input = start
            .format
            .map_or(Ok(AudioFormat::MODEL_PCM), WireFormat::audio_format)?;
        let output = start.output.map_or(Ok(input), WireFormat::audio_format)?;
        for name in [&start.call_id, &start.caller].into_iter().flatten() {
            if name.len() > MAX_NAME_BYTES {
                return Err(DialectError::TooLarge {
                    limit: MAX_NAME_BYTES,
                });
            }
        }
        let mut parameters: BTreeMap<String, String> = start
            .parameters
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name, value.0))
            .collect();
        if let Some(caller) = start.caller {
            parameters.insert("from".to_owned(), caller);
        }
        self.state = State::Open(Formats { input, output });
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: start.call_id,
            provider_stream_id: None,
            input,
            output,
            parameters,
        })))
    }

    fn mark(&mut self, name: &str) -> CallerEvent {
        match Mark::parse(name) {
            Some(mark) => CallerEvent::MarkReached(mark),
            None => ignore(&mut self.ignored.foreign_marks),
        }
    }
}

/// The most audio that one message may hold: a second, or an Opus packet.
const fn max_audio_bytes(format: AudioFormat) -> usize {
    match format.codec.bytes_of(format.rate.hz() as usize) {
        Some(bytes) => bytes,
        None => MAX_OPUS_BYTES,
    }
}

fn dtmf(text: &str) -> Result<CallerEvent, DialectError> {
    let digit = json::parse::<DtmfMessage>(text, "dtmf")?
        .digit
        .ok_or(DialectError::MissingField { field: "digit" })?;
    pressed(&digit.0)
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Start {
    pub(super) format: Option<WireFormat>,
    pub(super) output: Option<WireFormat>,
    pub(super) parameters: Option<BTreeMap<String, Scalar>>,
    pub(super) caller: Option<String>,
    pub(super) call_id: Option<String>,
}

#[derive(Deserialize)]
struct MarkMessage {
    name: Option<String>,
}

#[derive(Deserialize)]
struct DtmfMessage {
    digit: Option<Scalar>,
}

#[derive(Deserialize)]
pub(super) struct WireFormat {
    pub(super) codec: Option<String>,
    pub(super) rate: Option<u32>,
}

impl WireFormat {
    fn audio_format(self) -> Result<AudioFormat, DialectError> {
        let (codec, default_rate) = match self.codec.as_deref() {
            None | Some("pcm16") => (Codec::Pcm16, SampleRate::HZ_24000),
            Some("ulaw") => (Codec::Ulaw, SampleRate::HZ_8000),
            Some("alaw") => (Codec::Alaw, SampleRate::HZ_8000),
            Some("g722") => (Codec::G722, SampleRate::HZ_16000),
            Some("opus") => (Codec::Opus, SampleRate::HZ_24000),
            Some(_) => return Err(DialectError::UnsupportedFormat),
        };
        let rate = match self.rate {
            None => default_rate,
            Some(hz) => SampleRate::new(hz).ok_or(DialectError::UnsupportedFormat)?,
        };
        match codec {
            // Its clock is said to be 8 kHz (RFC 3551 section 4.5.2).
            Codec::G722 if [8_000, 16_000].contains(&rate.hz()) => Ok(AudioFormat::G722),
            // It has no other rates (RFC 6716 section 2).
            Codec::Opus if ![8_000, 12_000, 16_000, 24_000, 48_000].contains(&rate.hz()) => {
                Err(DialectError::UnsupportedFormat)
            }
            Codec::G722 => Err(DialectError::UnsupportedFormat),
            Codec::Pcm16 | Codec::Ulaw | Codec::Alaw | Codec::Opus => {
                Ok(AudioFormat { codec, rate })
            }
        }
    }
}

fn write_control(kind: &str, fields: &[(&str, &str)], out: &mut Vec<u8>) -> Outgoing {
    out.extend_from_slice(br#"{"type":"#);
    json::write_string(kind, out);
    for (name, value) in fields {
        out.push(b',');
        json::write_string(name, out);
        out.push(b':');
        json::write_string(value, out);
    }
    out.push(b'}');
    Outgoing::Text
}

fn write_format(name: &str, format: AudioFormat, out: &mut Vec<u8>) {
    let (codec, rate) = (format.codec.name(), format.rate.hz());
    write!(out, r#","{name}":{{"codec":"{codec}","rate":{rate}}}"#)
        .expect("writing to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::call::Speaker;

    fn started(start: &str) -> Audio {
        let mut dialect = Audio::default();
        let event = dialect.decode(Incoming::Text(start), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn pcm() -> Audio {
        started(r#"{"type":"start"}"#)
    }

    fn check(
        mut dialect: Audio,
        message: Incoming<'_>,
        expected: Result<CallerEvent, DialectError>,
    ) {
        let event = dialect.decode(message, &mut Vec::new());
        assert_eq!(event, expected, "{message:?}");
    }

    #[test]
    fn formats_are_negotiated() {
        let check = |format: &str, expected: Option<(Codec, u32)>| {
            let text = format!(r#"{{"type":"start","format":{format}}}"#);
            let event = Audio::default().decode(Incoming::Text(&text), &mut Vec::new());
            match event {
                Ok(CallerEvent::Started(info)) => {
                    let got = (info.input.codec, info.input.rate.hz());
                    assert_eq!(Some(got), expected, "{format}");
                    assert_eq!(info.output, info.input);
                }
                other => {
                    assert_eq!(other, Err(DialectError::UnsupportedFormat), "{format}");
                    assert_eq!(expected, None, "{format}");
                }
            }
        };
        check("null", Some((Codec::Pcm16, 24_000)));
        check("{}", Some((Codec::Pcm16, 24_000)));
        check(r#"{"codec":"ulaw"}"#, Some((Codec::Ulaw, 8_000)));
        check(
            r#"{"codec":"alaw","rate":16000}"#,
            Some((Codec::Alaw, 16_000)),
        );
        check(r#"{"codec":"opus"}"#, Some((Codec::Opus, 24_000)));
        check(r#"{"codec":"opus","rate":32000}"#, None);
        check(r#"{"codec":"g722"}"#, Some((Codec::G722, 16_000)));
        check(
            r#"{"codec":"g722","rate":8000}"#,
            Some((Codec::G722, 16_000)),
        );
        check(r#"{"codec":"g722","rate":24000}"#, None);
        check(
            r#"{"codec":"opus","rate":48000}"#,
            Some((Codec::Opus, 48_000)),
        );
        check(r#"{"rate":44100}"#, Some((Codec::Pcm16, 44_100)));
        check(r#"{"codec":"opus","rate":44100}"#, None);
        check(r#"{"rate":11025}"#, None);
        check(r#"{"codec":"mp3"}"#, None);
        check(r#"{"codec":"PCM16"}"#, None);
    }

    #[test]
    fn audio_has_limits() {
        let check = |start: &str, n_bytes: usize, expected| {
            check(
                started(start),
                Incoming::Binary(&vec![0; n_bytes]),
                expected,
            );
        };
        let ok = Ok(CallerEvent::Audio);
        let too_large = |limit| Err(DialectError::TooLarge { limit });
        let wide = r#"{"type":"start","format":{"rate":48000}}"#;
        check(wide, 96_000, ok.clone());
        check(wide, 96_002, too_large(96_000));
        check(wide, 959, Err(DialectError::OddByteCount));
        check(wide, 0, Ok(CallerEvent::Nothing));
        let ulaw = r#"{"type":"start","format":{"codec":"ulaw"}}"#;
        check(ulaw, 7, ok.clone());
        check(ulaw, 8_001, too_large(8_000));
        let opus = r#"{"type":"start","format":{"codec":"opus"}}"#;
        check(opus, 0, ok.clone());
        check(opus, MAX_OPUS_BYTES, ok);
        check(opus, MAX_OPUS_BYTES + 1, too_large(MAX_OPUS_BYTES));
    }

    #[test]
    fn order_is_kept() {
        let text = Incoming::Text;
        let before = || Err(DialectError::BeforeStart);
        check(Audio::default(), Incoming::Binary(&[0, 0]), before());
        check(Audio::default(), text(r#"{"type":"end"}"#), before());
        check(
            Audio::default(),
            text(r#"{"type":"hello"}"#),
            Ok(CallerEvent::Nothing),
        );
        check(
            pcm(),
            text(r#"{"type":"start"}"#),
            Err(DialectError::SecondStart),
        );
        check(pcm(), text(r#"{"type":"clear"}"#), Ok(CallerEvent::Nothing));
        check(pcm(), text(r#"{"type":"end"}"#), Ok(CallerEvent::Stopped));
        let mut ended = pcm();
        ended
            .decode(text(r#"{"type":"end"}"#), &mut Vec::new())
            .unwrap();
        check(
            ended.clone(),
            Incoming::Binary(&[0, 0]),
            Ok(CallerEvent::Nothing),
        );
        check(ended, text(r#"{"type":"start"}"#), Ok(CallerEvent::Nothing));
    }

    #[test]
    fn faults_have_names() {
        let check = |text: &str, expected| check(pcm(), Incoming::Text(text), Err(expected));
        check("", DialectError::MalformedJson);
        check("[]", DialectError::WrongShape { message: "control" });
        check("{}", DialectError::MissingField { field: "type" });
        check(
            r#"{"type":1}"#,
            DialectError::WrongShape { message: "control" },
        );
        check(
            r#"{"type":"end","type":"mark"}"#,
            DialectError::DuplicateKey,
        );
        check(
            r#"{"type":"mark"}"#,
            DialectError::MissingField { field: "name" },
        );
        check(
            r#"{"type":"mark","name":1}"#,
            DialectError::WrongShape { message: "mark" },
        );
        check(
            r#"{"type":"dtmf"}"#,
            DialectError::MissingField { field: "digit" },
        );
        check(r#"{"type":"dtmf","digit":"x"}"#, DialectError::UnknownDigit);
        let limit = MAX_TEXT_BYTES;
        check(&" ".repeat(limit + 1), DialectError::TooLarge { limit });
        let name = format!(r#"{{"type":"start","call_id":"{}"}}"#, "x".repeat(257));
        let event = Audio::default().decode(Incoming::Text(&name), &mut Vec::new());
        assert_eq!(
            event,
            Err(DialectError::TooLarge {
                limit: MAX_NAME_BYTES
            })
        );
    }

    #[test]
    fn writes_what_the_contract_says() {
        let check = |command, expected: Value| {
            let mut out = b"left over".to_vec();
            let mut dialect = started(r#"{"type":"start","output":{"codec":"opus"}}"#);
            assert_eq!(dialect.encode(command, &mut out), Outgoing::Text);
            assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        };
        check(
            CallerCommand::Started { call_id: "c\"1" },
            json!({"type":"started","call_id":"c\"1","format":{"codec":"pcm16","rate":24000},"output":{"codec":"opus","rate":24000}}),
        );
        check(CallerCommand::Clear, json!({"type":"clear"}));
        let mark = Mark {
            generation: 0,
            index: 7,
        };
        check(
            CallerCommand::Mark(mark),
            json!({"type":"mark","name":"g0-7"}),
        );
        check(
            CallerCommand::Transcript {
                speaker: Speaker::Caller,
                text: "a\n\"b\"",
            },
            json!({"type":"transcript","speaker":"caller","text":"a\n\"b\""}),
        );
        check(
            CallerCommand::Error {
                code: "c",
                message: "m",
            },
            json!({"type":"error","code":"c","message":"m"}),
        );
        check(
            CallerCommand::End { reason: "r" },
            json!({"type":"end","reason":"r"}),
        );
    }

    #[test]
    fn before_the_start_only_failures_are_said() {
        let mut out = Vec::new();
        let mut dialect = Audio::default();
        assert_eq!(
            dialect.encode(CallerCommand::Audio(&[1]), &mut out),
            Outgoing::Nothing
        );
        assert_eq!(
            dialect.encode(CallerCommand::Clear, &mut out),
            Outgoing::Nothing
        );
        let error = CallerCommand::Error {
            code: "c",
            message: "m",
        };
        assert_eq!(dialect.encode(error, &mut out), Outgoing::Text);
        assert_eq!(
            pcm().encode(CallerCommand::Audio(&[1, 2]), &mut out),
            Outgoing::Binary
        );
        assert_eq!(out, [1, 2]);
    }

    #[derive(Clone, Debug)]
    enum Message {
        Text(String),
        Binary(Vec<u8>),
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let valid = prop_oneof![
            Just(
                r#"{"type":"start","format":{"codec":"opus","rate":24000},"output":{"codec":"ulaw"},"parameters":{"a":1},"caller":"+1","call_id":"c"}"#
            ),
            Just(r#"{"type":"mark","name":"g0-1"}"#),
            Just(r#"{"type":"dtmf","digit":"5"}"#),
            Just(r#"{"type":"clear"}"#),
            Just(r#"{"type":"end"}"#),
        ];
        let mutated = (valid, any::<prop::sample::Index>(), any::<u8>(), 0..5).prop_map(
            |(text, at, byte, how)| {
                let mut bytes = text.as_bytes().to_vec();
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    3 => bytes.truncate(at),
                    _ => {}
                }
                Message::Text(String::from_utf8_lossy(&bytes).into_owned())
            },
        );
        prop_oneof![
            4 => mutated,
            1 => any::<String>().prop_map(Message::Text),
            2 => proptest::collection::vec(any::<u8>(), 0..50).prop_map(Message::Binary),
        ]
    }

    proptest! {
        #[test]
        fn total_over_any_messages(messages in proptest::collection::vec(any_message(), 1..8), start in any::<bool>()) {
            let mut dialect = if start { pcm() } else { Audio::default() };
            let mut audio = vec![9];
            for message in &messages {
                let event = match message {
                    Message::Text(text) => dialect.decode(Incoming::Text(text), &mut audio),
                    Message::Binary(bytes) => dialect.decode(Incoming::Binary(bytes), &mut audio),
                };
                prop_assert!(audio.is_empty() || event == Ok(CallerEvent::Audio));
            }
        }
    }
}
