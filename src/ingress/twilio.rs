//! Twilio Media Streams, bidirectional (`<Connect><Stream>`), and the carriers that imitate them. Those with a path of their
//! own, [`super::SignalWire`] and [`super::Exotel`], are read here too.
//!
//! Reads leniently: numbers quoted or not, ids in either case, frames of any length, fields in any
//! order. Writes strictly: Twilio answers a missing *or extra* field with error 31951.
//!
//! When the peer does not keep the order `connected`, `start`, `media`/`dtmf`/`mark`, `stop`:
//!
//! | what comes | what happens |
//! |---|---|
//! | `media`, `dtmf`, `mark` or `stop` before `start` | error, the call ends |
//! | the same `start` again | counted, no effect |
//! | a `start` of another stream, or a message for one | error, the call ends |
//! | anything after `stop` | counted, no effect |
//! | an event of another name | counted, no effect |
//! | audio of the `outbound` track | counted, no effect |
//! | a mark that a clear threw away | reported like any other; its generation tells |
//!
//! It does not verify who is calling, nor does it look at the account that `start` names.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Scalar};
use super::media_stream::{self, Media, StreamId, body, check_id};
use super::{
    Capabilities, Clear, DialectError, Ignored, Incoming, Marks, Outgoing, Speak, ignore,
    twilio_scan,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent};
use crate::media::{AudioFormat, Codec, SampleRate};
use crate::realtime::{decode_audio, encode_audio};

/// The largest message that is read, in bytes: 6 s of mu-law, where Twilio sends 20 ms and clones 100 ms.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// One Twilio media stream.
#[derive(Clone, Debug, Default)]
pub struct Twilio {
    manner: Manner,
    state: State,
    ignored: Ignored,
}

/// Who speaks Twilio's messages, where that makes a difference to what they mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Twilio,
    /// PCM16 too, as `start` says.
    SignalWire,
    /// PCM16 unless said otherwise, at this rate where `start` does not say it.
    Exotel(SampleRate),
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Waiting,
    Streaming(Stream),
    Stopped,
}

#[derive(Clone, Debug)]
struct Stream {
    id: StreamId,
    format: AudioFormat,
}

impl Speak for Twilio {
    const NAME: &'static str = "twilio";

    const PATH: &'static str = "/twilio/media";

    /// Source: telephony reference 1.4 and 1.5.
    const CAPABILITIES: Capabilities = Capabilities {
        marks: Marks::EchoedAlways,
        clear: Clear::Command,
        keys_in: true,
        max_message_bytes: MAX_MESSAGE_BYTES,
        ..Capabilities::OF_A_PROVIDER
    };

    fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        let text = message.text()?;
        if self.decode_usual_media(text, audio) {
            return Ok(CallerEvent::Audio);
        }
        audio.clear();
        self.decode_any(text, audio)
    }

    // Nothing can be said outside of a stream.
    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        let State::Streaming(stream) = &self.state else {
            return Outgoing::Nothing;
        };
        match command {
            CallerCommand::Audio([]) => Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                stream.begin("media", out);
                out.extend_from_slice(br#","media":{"payload":""#);
                encode_audio(audio, out);
                out.extend_from_slice(br#""}}"#);
                Outgoing::Text
            }
            CallerCommand::Mark(mark) => {
                stream.begin("mark", out);
                write!(out, r#","mark":{{"name":"{mark}"}}}}"#)
                    .expect("writing to memory cannot fail");
                Outgoing::Text
            }
            CallerCommand::Clear => {
                stream.begin("clear", out);
                out.push(b'}');
                Outgoing::Text
            }
            CallerCommand::Started { .. }
            | CallerCommand::ReplyEnded
            | CallerCommand::Keys(_)
            | CallerCommand::Transcript { .. }
            | CallerCommand::Error { .. }
            | CallerCommand::End { .. } => Outgoing::Nothing,
        }
    }
}

impl Twilio {
    /// A stream of somebody who speaks Twilio's messages.
    pub(super) fn of(manner: Manner) -> Self {
        Self {
            manner,
            ..Self::default()
        }
    }

    /// The stream's id as a JSON string, and its format, while there is a stream.
    pub(super) fn stream(&self) -> Option<(&str, AudioFormat)> {
        match &self.state {
            State::Streaming(stream) => Some((stream.id.json(), stream.format)),
            State::Waiting | State::Stopped => None,
        }
    }

    /// Decodes a media message in its usual form. If it is anything else, or bad, `decode_any` decides.
    fn decode_usual_media(&self, text: &str, audio: &mut Vec<u8>) -> bool {
        let State::Streaming(stream) = &self.state else {
            return false;
        };
        let Some(media) = twilio_scan::media(text) else {
            return false;
        };
        media.stream_sid.is_none_or(|sid| stream.id.is_exactly(sid))
            && !media.payload.is_empty()
            && decode_audio(media.payload, audio)
            && stream.format.is_whole(audio)
    }

    fn decode_any(&mut self, text: &str, audio: &mut Vec<u8>) -> Result<CallerEvent, DialectError> {
        json::check(text.as_bytes())?;
        let envelope: Envelope<'_> = json::parse(text, "envelope")?;
        let event = envelope
            .event
            .as_deref()
            .ok_or(DialectError::MissingField { field: "event" })?;
        if let State::Stopped = self.state {
            return Ok(ignore(&mut self.ignored.after_stop));
        }
        match event.to_ascii_lowercase().as_str() {
            "connected" => Ok(CallerEvent::Nothing),
            "start" => self.started(&envelope),
            "media" => {
                let format = self.stream_of(&envelope)?.format;
                Media::parse(envelope.media)?.read(format, audio, &mut self.ignored)
            }
            "dtmf" => {
                self.stream_of(&envelope)?;
                media_stream::key(envelope.dtmf)
            }
            "mark" => {
                self.stream_of(&envelope)?;
                media_stream::mark(envelope.mark, &mut self.ignored)
            }
            "clear" if matches!(self.manner, Manner::Exotel(_)) => {
                self.stream_of(&envelope)?;
                Ok(CallerEvent::Nothing)
            }
            "stop" => {
                self.stream_of(&envelope)?;
                self.state = State::Stopped;
                Ok(CallerEvent::Stopped)
            }
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn started(&mut self, envelope: &Envelope<'_>) -> Result<CallerEvent, DialectError> {
        let body: StartBody = body(envelope.start, "start")?;
        let stream_sid = text_of(envelope.stream_sid.as_ref())
            .or(text_of(body.stream_sid.as_ref()))
            .ok_or(DialectError::MissingField { field: "streamSid" })?;
        check_id(stream_sid)?;
        if let State::Streaming(stream) = &self.state {
            if !stream.id.is(stream_sid) {
                return Err(DialectError::SecondStart);
            }
            return Ok(ignore(&mut self.ignored.repeated_starts));
        }
        let format = body.media_format.as_ref();
        let format = format.unwrap_or(&WireFormat::UNSAID);
        let format = format.audio_format(self.manner)?;
        let named = body.custom_parameters.unwrap_or_default().into_iter();
        // Who calls whom is the carrier's to say, not a parameter's.
        let numbers = [("from", body.from), ("to", body.to)];
        let numbers = numbers.map(|(name, number)| (name.to_owned(), number));
        let id = StreamId::new(stream_sid);
        self.state = State::Streaming(Stream { id, format });
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: text_of(body.call_sid.as_ref()).map(str::to_owned),
            provider_stream_id: Some(stream_sid.to_owned()),
            input: format,
            output: format,
            parameters: named
                .chain(numbers)
                .filter_map(|(name, value)| Some((name, value?.0)))
                .collect(),
        })))
    }

    /// The running stream, which must be the message's if it names one.
    fn stream_of(&self, envelope: &Envelope<'_>) -> Result<&Stream, DialectError> {
        let State::Streaming(stream) = &self.state else {
            return Err(DialectError::BeforeStart);
        };
        match text_of(envelope.stream_sid.as_ref()) {
            Some(sid) if !stream.id.is(sid) => Err(DialectError::WrongStream),
            _ => Ok(stream),
        }
    }
}

impl Stream {
    /// Everything of a message up to the value of `streamSid`.
    fn begin(&self, event: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"event":""#);
        out.extend_from_slice(event.as_bytes());
        out.extend_from_slice(br#"","streamSid":"#);
        out.extend_from_slice(self.id.json().as_bytes());
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    event: Option<String>,
    #[serde(rename = "streamSid", alias = "StreamSid", alias = "streamSID")]
    #[serde(alias = "streamsid", alias = "stream_sid")]
    stream_sid: Option<Scalar>,
    #[serde(borrow)]
    start: Option<&'a RawValue>,
    #[serde(borrow)]
    media: Option<&'a RawValue>,
    #[serde(borrow)]
    dtmf: Option<&'a RawValue>,
    #[serde(borrow)]
    mark: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StartBody {
    #[serde(rename = "streamSid", alias = "StreamSid", alias = "streamSID")]
    #[serde(alias = "streamsid", alias = "stream_sid")]
    stream_sid: Option<Scalar>,
    #[serde(rename = "callSid", alias = "CallSid", alias = "callSID")]
    #[serde(alias = "callsid", alias = "call_sid")]
    call_sid: Option<Scalar>,
    #[serde(rename = "customParameters", alias = "custom_parameters")]
    custom_parameters: Option<BTreeMap<String, Option<Scalar>>>,
    #[serde(rename = "mediaFormat", alias = "media_format")]
    media_format: Option<WireFormat>,
    from: Option<Scalar>,
    to: Option<Scalar>,
}

#[derive(Deserialize)]
struct WireFormat {
    encoding: Option<String>,
    #[serde(rename = "sampleRate", alias = "sample_rate")]
    sample_rate: Option<Scalar>,
    channels: Option<Scalar>,
}

impl WireFormat {
    /// Where `start` says nothing of it.
    const UNSAID: Self = Self {
        encoding: None,
        sample_rate: None,
        channels: None,
    };

    /// What is not said is as at Twilio: mu-law at 8 kHz, one channel; at Exotel PCM16. A-law comes from clones outside
    /// North America.
    fn audio_format(&self, manner: Manner) -> Result<AudioFormat, DialectError> {
        let usual = match manner {
            Manner::Twilio | Manner::SignalWire => "audio/x-mulaw",
            Manner::Exotel(_) => "audio/x-l16",
        };
        let encoding = self.encoding.as_deref().unwrap_or(usual);
        let codec = match (encoding.to_ascii_lowercase().as_str(), manner) {
            ("audio/x-mulaw" | "audio/mulaw" | "audio/pcmu" | "mulaw" | "pcmu", _) => Codec::Ulaw,
            ("audio/x-alaw" | "audio/alaw" | "audio/pcma" | "alaw" | "pcma", _) => Codec::Alaw,
            ("audio/x-l16" | "audio/l16" | "l16", Manner::SignalWire) => Codec::Pcm16,
            ("audio/x-g722" | "audio/g722" | "g722", Manner::SignalWire) => Codec::G722,
            // What it calls PCM16 is not documented: its samples name the container, "base64".
            (_, Manner::Exotel(_)) => Codec::Pcm16,
            _ => return Err(DialectError::UnsupportedFormat),
        };
        let rate = match (&self.sample_rate, manner) {
            (Some(rate), _) => rate.0.parse().ok().and_then(SampleRate::new),
            (None, Manner::Exotel(hint)) if codec == Codec::Pcm16 => Some(hint),
            (None, _) => Some(SampleRate::HZ_8000),
        };
        let rate = rate.ok_or(DialectError::UnsupportedFormat)?;
        let is_spoken = match codec {
            Codec::Pcm16 => [8_000, 16_000, 24_000].contains(&rate.hz()),
            // Providers put its clock beside it, which is 8 kHz (telephony reference 14.2).
            Codec::G722 => [8_000, 16_000].contains(&rate.hz()),
            Codec::Ulaw | Codec::Alaw | Codec::Opus => rate == SampleRate::HZ_8000,
        };
        let is_mono = self.channels.as_ref().is_none_or(|value| value.0 == "1");
        if !is_spoken || !is_mono {
            return Err(DialectError::UnsupportedFormat);
        }
        if codec == Codec::G722 {
            return Ok(AudioFormat::G722);
        }
        Ok(AudioFormat { codec, rate })
    }
}

fn text_of(scalar: Option<&Scalar>) -> Option<&str> {
    scalar.map(|scalar| scalar.0.as_str())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::call::Mark;

    const START: &str = r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ01","start":{"streamSid":"MZ01","accountSid":"AC01","callSid":"CA01","tracks":["inbound"],"customParameters":{"tok":"abc"},"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;
    const MEDIA: &str = r#"{"event":"media","sequenceNumber":"4","streamSid":"MZ01","media":{"track":"inbound","chunk":"2","timestamp":"20","payload":"//7/"}}"#;

    fn started() -> Twilio {
        let mut dialect = Twilio::default();
        let event = dialect.decode(Incoming::Text(START), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))));
        dialect
    }

    fn check(mut dialect: Twilio, text: &str, expected: Result<CallerEvent, DialectError>) {
        let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
        assert_eq!(event, expected, "{text}");
    }

    #[test]
    fn order_is_kept() {
        let before = Err(DialectError::BeforeStart);
        check(Twilio::default(), MEDIA, before.clone());
        check(Twilio::default(), r#"{"event":"stop"}"#, before.clone());
        check(
            Twilio::default(),
            r#"{"event":"mark","mark":{"name":"g0-1"}}"#,
            before,
        );
        check(started(), START, Ok(CallerEvent::Nothing));
        check(
            started(),
            &START.replace("MZ01", "MZ02"),
            Err(DialectError::SecondStart),
        );
        check(
            started(),
            &MEDIA.replace("MZ01", "MZ02"),
            Err(DialectError::WrongStream),
        );
        check(
            started(),
            r#"{"event":"stop","streamSid":"mz01"}"#,
            Ok(CallerEvent::Stopped),
        );

        let mut dialect = started();
        let mut audio = Vec::new();
        dialect
            .decode(Incoming::Text(r#"{"event":"stop"}"#), &mut audio)
            .unwrap();
        check(dialect.clone(), MEDIA, Ok(CallerEvent::Nothing));
        assert_eq!(
            dialect.encode(CallerCommand::Clear, &mut audio),
            Outgoing::Nothing
        );
    }

    #[test]
    fn faults_have_names() {
        let check = |text: &str, expected| check(started(), text, Err(expected));
        let shape = |message| DialectError::WrongShape { message };
        let missing = |field| DialectError::MissingField { field };
        check("", DialectError::MalformedJson);
        check("{", DialectError::MalformedJson);
        check("[1", DialectError::MalformedJson);
        check("[]", shape("envelope"));
        check("7", shape("envelope"));
        check("{}", missing("event"));
        check(r#"{"event":7}"#, shape("envelope"));
        check(
            r#"{"event":"media","event":"stop"}"#,
            DialectError::DuplicateKey,
        );
        check(r#"{"event":"media"}"#, missing("media"));
        check(
            r#"{"event":"media","media":["inbound","AA=="]}"#,
            shape("media"),
        );
        check(r#"{"event":"media","media":{}}"#, missing("media.payload"));
        check(r#"{"event":"media","media":{"payload":7}}"#, shape("media"));
        check(
            r#"{"event":"media","media":{"payload":"AAA"}}"#,
            DialectError::BadBase64,
        );
        check(
            r#"{"event":"media","media":{"payload":"A-_="}}"#,
            DialectError::BadBase64,
        );
        check(r#"{"event":"mark","mark":{}}"#, missing("mark.name"));
        check(r#"{"event":"dtmf","dtmf":{}}"#, missing("dtmf.digit"));
        check(
            r#"{"event":"dtmf","dtmf":{"digit":"55"}}"#,
            DialectError::UnknownDigit,
        );
        check(&"[".repeat(99), DialectError::JsonTooDeep);
        let limit = MAX_MESSAGE_BYTES;
        check(&" ".repeat(limit + 1), DialectError::TooLarge { limit });
        check(&" ".repeat(limit), DialectError::MalformedJson);
        assert_eq!(
            started().decode(Incoming::Binary(&[0xFF]), &mut Vec::new()),
            Err(DialectError::BinaryUnexpected)
        );
    }

    #[test]
    fn formats_are_checked() {
        let check = |from: &str, to: &str, expected: Option<AudioFormat>| {
            let mut dialect = Twilio::default();
            let text = START.replace(from, to);
            match dialect.decode(Incoming::Text(&text), &mut Vec::new()) {
                Ok(CallerEvent::Started(info)) => assert_eq!(Some(info.input), expected, "{text}"),
                other => {
                    assert_eq!(other, Err(DialectError::UnsupportedFormat), "{text}");
                    assert_eq!(expected, None, "{text}");
                }
            }
        };
        let alaw = AudioFormat {
            codec: Codec::Alaw,
            rate: SampleRate::HZ_8000,
        };
        check("8000", "\"8000\"", Some(AudioFormat::ULAW_8K));
        check("x-mulaw", "PCMU", Some(AudioFormat::ULAW_8K));
        check("x-mulaw", "x-alaw", Some(alaw));
        check("x-mulaw", "x-l16", None);
        check("8000", "16000", None);
        check("\"channels\":1", "\"channels\":2", None);
        check("mediaFormat", "notAFormat", Some(AudioFormat::ULAW_8K));
    }

    #[test]
    fn strange_but_harmless_is_counted() {
        let mut dialect = started();
        for text in [
            r#"{"event":"surprise","media":7}"#,
            r#"{"event":"media","media":{"track":"outbound","payload":"AA=="}}"#,
            r#"{"event":"media","media":{"payload":""}}"#,
            r#"{"event":"mark","mark":{"name":"theirs"}}"#,
            START,
        ] {
            let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
            assert_eq!(event, Ok(CallerEvent::Nothing), "{text}");
        }
        let expected = Ignored {
            unknown_events: 1,
            other_tracks: 1,
            foreign_marks: 1,
            repeated_starts: 1,
            empty_audio: 1,
            after_stop: 0,
            ..Ignored::default()
        };
        assert_eq!(dialect.ignored(), expected);
    }

    #[test]
    fn writes_exactly_the_documented_fields() {
        let check = |command, expected: Value| {
            let mut out = b"left over".to_vec();
            assert_eq!(started().encode(command, &mut out), Outgoing::Text);
            assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        };
        check(
            CallerCommand::Audio(&[0xFF, 0xFE, 0xFF]),
            json!({"event":"media","streamSid":"MZ01","media":{"payload":"//7/"}}),
        );
        let mark = Mark {
            generation: 7,
            index: 12,
        };
        check(
            CallerCommand::Mark(mark),
            json!({"event":"mark","streamSid":"MZ01","mark":{"name":"g7-12"}}),
        );
        check(
            CallerCommand::Clear,
            json!({"event":"clear","streamSid":"MZ01"}),
        );
        for silent in [
            CallerCommand::Audio(&[]),
            CallerCommand::Started { call_id: "c" },
            CallerCommand::Error {
                code: "c",
                message: "m",
            },
            CallerCommand::End { reason: "r" },
        ] {
            assert_eq!(started().encode(silent, &mut Vec::new()), Outgoing::Nothing);
        }
    }

    #[test]
    fn a_frame_in_the_usual_form_reuses_the_buffer() {
        let dialect = started();
        let mut audio = Vec::with_capacity(64);
        let before = audio.as_ptr();
        assert!(dialect.decode_usual_media(MEDIA, &mut audio));
        assert_eq!(audio, [0xFF, 0xFE, 0xFF]);
        assert_eq!(audio.as_ptr(), before);
    }

    /// Media messages in many spellings, right and wrong.
    fn media_message() -> impl Strategy<Value = String> {
        let payload = prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..400).prop_map(|bytes| BASE64.encode(bytes)),
            1 => r"[A-Za-z0-9+/=\\]{0,90}",
            1 => proptest::collection::vec(any::<u8>(), 0..40)
                .prop_map(|bytes| BASE64.encode(bytes).replace('/', "\\/")),
            1 => "[A-Z]{60,80}\u{1}[A-Z]{3}",
        ];
        let number = prop_oneof![
            Just("7"),
            Just("\"7\""),
            Just("07"),
            Just("-1"),
            Just("null"),
            Just("1e3")
        ];
        let track = prop_oneof![6 => Just("inbound"), 1 => Just("outbound"), 1 => Just("Inbound")];
        let sid = prop_oneof![6 => Just("MZ01"), 1 => Just("mz01"), 1 => Just("MZ02"), 1 => Just("M\\u005a01")];
        let space = prop_oneof![3 => Just(""), 1 => Just(" "), 1 => Just("\n\t")];
        (payload, number, track, sid, space, any::<u64>()).prop_map(
            |(payload, number, track, sid, space, seed)| {
                let inner = [
                    format!(r#""track":{space}"{track}""#),
                    format!(r#""chunk":{number}"#),
                    format!(r#""timestamp":{space}{number}"#),
                    format!(r#""payload":"{payload}""#),
                ];
                let media = pick(&inner, seed).join(&format!(",{space}"));
                let outer = [
                    r#""event":"media""#.to_owned(),
                    format!(r#""sequenceNumber":{number}"#),
                    format!(r#""streamSid":"{sid}""#),
                    format!(r#""media":{space}{{{media}}}"#),
                ];
                format!(
                    "{space}{{{}}}",
                    pick(&outer, seed >> 32).join(&format!("{space},"))
                )
            },
        )
    }

    /// Members in an order of their own; sometimes one is missing and sometimes one comes twice.
    fn pick(members: &[String], seed: u64) -> Vec<String> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut picked = members.to_vec();
        random.shuffle(&mut picked);
        match random.u8(..8) {
            0 => drop(picked.pop()),
            1 => picked.push(picked[0].clone()),
            _ => {}
        }
        picked
    }

    fn mutated(valid: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        (valid, any::<prop::sample::Index>(), any::<u8>(), 0..4).prop_map(
            |(text, at, byte, how)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
                String::from_utf8_lossy(&bytes).into_owned()
            },
        )
    }

    fn any_message() -> impl Strategy<Value = String> {
        prop_oneof![
            media_message(),
            mutated(media_message()),
            mutated(Just(START.to_owned())),
            mutated(Just(r#"{"event":"mark","streamSid":"MZ01","mark":{"name":"g7-12"}}"#.to_owned())),
            mutated(Just(r#"{"event":"dtmf","streamSid":"MZ01","dtmf":{"track":"inbound_track","digit":"5"}}"#.to_owned())),
            mutated(Just(r#"{"event":"stop","streamSid":"MZ01","stop":{"callSid":"CA01"}}"#.to_owned())),
            any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn the_scanner_agrees_with_the_parser(text in prop_oneof![media_message(), mutated(media_message())]) {
            let dialect = started();
            let (mut scanned, mut parsed) = (Vec::new(), Vec::new());
            if dialect.decode_usual_media(&text, &mut scanned) {
                let event = dialect.clone().decode_any(&text, &mut parsed);
                prop_assert_eq!(event, Ok(CallerEvent::Audio));
                prop_assert_eq!(scanned, parsed);
            }
        }

        #[test]
        fn total_and_audio_only_with_audio(texts in proptest::collection::vec(any_message(), 1..6), start in any::<bool>()) {
            let mut dialect = if start { started() } else { Twilio::default() };
            let mut audio = Vec::new();
            for text in texts {
                let event = dialect.decode(Incoming::Text(&text), &mut audio);
                prop_assert_eq!(event == Ok(CallerEvent::Audio), !audio.is_empty());
            }
        }

        #[test]
        fn audio_is_written_as_it_was_given(bytes in proptest::collection::vec(any::<u8>(), 1..700)) {
            let mut out = Vec::new();
            started().encode(CallerCommand::Audio(&bytes), &mut out);
            let value: Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(value, json!({"event":"media","streamSid":"MZ01","media":{"payload":BASE64.encode(bytes)}}));
        }

        #[test]
        fn any_stream_id_is_echoed_intact(sid in "\\PC{1,40}") {
            let mut dialect = Twilio::default();
            let text = json!({"event":"start","start":{"streamSid":sid}}).to_string();
            dialect.decode(Incoming::Text(&text), &mut Vec::new()).unwrap();
            let mut out = Vec::new();
            dialect.encode(CallerCommand::Clear, &mut out);
            let value: Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(value, json!({"event":"clear","streamSid":sid}));
        }
    }
}
