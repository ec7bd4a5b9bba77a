//! Plivo AudioStream, bidirectional (`<Stream bidirectional="true">`), and what [`super::Vobiz`] has of it (telephony
//! reference 4).
//!
//! JSON texts with an `event`. 50 times a second comes `media`, mu-law at 8 kHz or little-endian PCM16 at 8 or 16 kHz, as
//! `contentType` said; replies leave in the same format. Numbers are read quoted or not, ids in either case.
//!
//! When the peer does not keep the order `start`, `media`/`dtmf`/`playedStream`, end of the socket:
//!
//! | what comes | what happens |
//! |---|---|
//! | `media`, `dtmf`, `playedStream` or `stop` before `start` | error, the call ends |
//! | the same `start` again | counted, no effect |
//! | a `start` of another stream, or a message for one | error, the call ends |
//! | anything after `stop` | counted, no effect |
//! | `playFailed`, `error`, and events of other names | counted, no effect |
//! | audio of the `outbound` track | counted, no effect |
//! | binary | error, the call ends |
//!
//! It does not look at who signed the request, and it cannot hang up but by closing the socket: whether the call goes
//! on then is the number's `keepCallAlive`.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Scalar};
use super::media_stream::{self, MAX_ID_BYTES, Media, StreamId, body, check_id};
use super::scan::{Scanner, once};
use super::{
    Capabilities, Clear, DialectError, Head, Ignored, Incoming, Lead, Marks, Outgoing, Speak,
    ignore,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent};
use crate::media::{AudioFormat, Codec, SampleRate};
use crate::realtime::{decode_audio, encode_audio};

/// The largest message that is read, in bytes: more than a second of PCM16 at 16 kHz, where Plivo sends 20 ms.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Most `extraHeaders` that are taken. Plivo allows 512 bytes of them.
const MAX_EXTRA: usize = 64;

/// One stream by Plivo.
#[derive(Clone, Debug, Default)]
pub struct Plivo {
    /// Of the upgrade request's query.
    parameters: BTreeMap<String, String>,
    state: State,
    ignored: Ignored,
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

impl Speak for Plivo {
    const NAME: &'static str = "plivo";

    const PATH: &'static str = "/plivo/stream";

    /// Sources: telephony reference 4.1 (subprotocol), 4.2 (marks only when played, DTMF out), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        marks: Marks::EchoedWhenPlayed,
        clear: Clear::Command,
        keys_in: true,
        keys_out: true,
        lead: Lead::between_ms(200, 400),
        subprotocols: &["audio.plivo.com"],
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
        let (id, rate) = (stream.id.json(), stream.format.rate.hz());
        let content_type = match stream.format.codec {
            Codec::Ulaw => "audio/x-mulaw",
            _ => "audio/x-l16",
        };
        match command {
            CallerCommand::Audio([]) | CallerCommand::Keys([]) => return Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                write!(
                    out,
                    r#"{{"event":"playAudio","media":{{"contentType":"{content_type}","sampleRate":{rate},"payload":""#
                )
                .expect("writing to memory cannot fail");
                encode_audio(audio, out);
                out.extend_from_slice(br#""}}"#);
            }
            CallerCommand::Mark(mark) => write!(
                out,
                r#"{{"event":"checkpoint","streamId":{id},"name":"{mark}"}}"#
            )
            .expect("writing to memory cannot fail"),
            CallerCommand::Clear => write!(out, r#"{{"event":"clearAudio","streamId":{id}}}"#)
                .expect("writing to memory cannot fail"),
            CallerCommand::Keys(keys) => {
                out.extend_from_slice(br#"{"event":"sendDTMF","dtmf":""#);
                // No key needs an escape in JSON.
                out.extend(keys.iter().map(|key| key.as_char() as u8));
                out.extend_from_slice(br#""}"#);
            }
            CallerCommand::Started { .. }
            | CallerCommand::ReplyEnded
            | CallerCommand::Transcript { .. }
            | CallerCommand::Error { .. }
            | CallerCommand::End { .. } => return Outgoing::Nothing,
        }
        Outgoing::Text
    }
}

impl Plivo {
    /// The stream's id as a JSON string, while there is a stream.
    pub(super) fn stream_json(&self) -> Option<&str> {
        match &self.state {
            State::Streaming(stream) => Some(stream.id.json()),
            State::Waiting | State::Stopped => None,
        }
    }

    /// Decodes a media message in its usual form. If it is anything else, or bad, `decode_any` decides.
    fn decode_usual_media(&self, text: &str, audio: &mut Vec<u8>) -> bool {
        let State::Streaming(stream) = &self.state else {
            return false;
        };
        let Some(usual) = usual_media(text) else {
            return false;
        };
        usual.stream_id.is_none_or(|id| stream.id.is_exactly(id))
            && !usual.payload.is_empty()
            && decode_audio(usual.payload, audio)
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
        match event {
            "start" => self.started(&envelope),
            "media" => {
                let format = self.stream_of(&envelope)?.format;
                Media::parse(envelope.media)?.read(format, audio, &mut self.ignored)
            }
            "dtmf" => {
                self.stream_of(&envelope)?;
                media_stream::key(envelope.dtmf)
            }
            "playedStream" => {
                self.stream_of(&envelope)?;
                let name = envelope.name.as_ref();
                let name = name.ok_or(DialectError::MissingField { field: "name" })?;
                Ok(media_stream::reached(&name.0, &mut self.ignored))
            }
            "clearedAudio" => {
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
        let id = body.stream_id.as_ref().or(envelope.stream_id.as_ref());
        let id = id.ok_or(DialectError::MissingField {
            field: "start.streamId",
        })?;
        check_id(&id.0)?;
        if let State::Streaming(stream) = &self.state {
            if !stream.id.is(&id.0) {
                return Err(DialectError::SecondStart);
            }
            return Ok(ignore(&mut self.ignored.repeated_starts));
        }
        let format = body
            .media_format
            .as_ref()
            .map_or(Ok(AudioFormat::ULAW_8K), WireFormat::audio_format)?;
        let mut parameters = std::mem::take(&mut self.parameters);
        if let Some(extra) = envelope.extra_headers {
            parameters.extend(extra_headers(extra));
        }
        self.state = State::Streaming(Stream {
            id: StreamId::new(&id.0),
            format,
        });
        let call = body.call_id.map(|id| id.0);
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: call.filter(|id| id.len() <= MAX_ID_BYTES),
            provider_stream_id: Some(id.0.clone()),
            input: format,
            output: format,
            parameters,
        })))
    }

    /// The running stream, which must be the message's if it names one.
    fn stream_of(&self, envelope: &Envelope<'_>) -> Result<&Stream, DialectError> {
        let State::Streaming(stream) = &self.state else {
            return Err(DialectError::BeforeStart);
        };
        match &envelope.stream_id {
            Some(id) if !stream.id.is(&id.0) => Err(DialectError::WrongStream),
            _ => Ok(stream),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    event: Option<String>,
    stream_id: Option<Scalar>,
    name: Option<Scalar>,
    #[serde(borrow, rename = "extra_headers")]
    extra_headers: Option<&'a RawValue>,
    #[serde(borrow)]
    start: Option<&'a RawValue>,
    #[serde(borrow)]
    media: Option<&'a RawValue>,
    #[serde(borrow)]
    dtmf: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartBody {
    call_id: Option<Scalar>,
    stream_id: Option<Scalar>,
    media_format: Option<WireFormat>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireFormat {
    encoding: Option<String>,
    sample_rate: Option<Scalar>,
}

impl WireFormat {
    /// What is missing is as where `contentType` says mu-law.
    fn audio_format(&self) -> Result<AudioFormat, DialectError> {
        let encoding = self.encoding.as_deref().unwrap_or("audio/x-mulaw");
        let codec = match encoding.to_ascii_lowercase().as_str() {
            "audio/x-mulaw" | "mulaw" => Codec::Ulaw,
            "audio/x-l16" | "l16" => Codec::Pcm16,
            _ => return Err(DialectError::UnsupportedFormat),
        };
        let rate = self.sample_rate.as_ref().map_or("8000", |rate| &rate.0);
        let rate = match (rate, codec) {
            ("8000", _) => SampleRate::HZ_8000,
            ("16000", Codec::Pcm16) => SampleRate::HZ_16000,
            ("24000", Codec::Pcm16) => SampleRate::HZ_24000,
            _ => return Err(DialectError::UnsupportedFormat),
        };
        Ok(AudioFormat { codec, rate })
    }
}

/// Names and values of `extra_headers`: `k=v;k=v`, or JSON within a string, or an object. What is none of these holds
/// none: no call fails for its decoration.
fn extra_headers(raw: &RawValue) -> BTreeMap<String, String> {
    let object = |text: &str| {
        let object = serde_json::from_str::<BTreeMap<String, Option<Scalar>>>(text).ok()?;
        let pairs = object.into_iter().take(MAX_EXTRA);
        Some(pairs.filter_map(|(name, value)| Some((name, value?.0))))
    };
    let Ok(text) = serde_json::from_str::<String>(raw.get()) else {
        return object(raw.get()).into_iter().flatten().collect();
    };
    // Checked like a message of its own: it was hidden in a string.
    if text.trim_ascii_start().starts_with('{') {
        let is_fit = json::check(text.as_bytes()).is_ok();
        let pairs = is_fit.then(|| object(&text)).flatten();
        return pairs.into_iter().flatten().collect();
    }
    text.split(';')
        .take(MAX_EXTRA)
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

/// The parts of a `media` message that matter.
struct UsualMedia<'a> {
    stream_id: Option<&'a str>,
    payload: &'a str,
}

/// The parts of `text`, if it is a `media` message of the caller's track as Plivo writes it.
fn usual_media(text: &str) -> Option<UsualMedia<'_>> {
    let mut scanner = Scanner::new(text);
    let (mut event, mut stream_id, mut sequence_number) = (None, None, None);
    let (mut body, mut extra, mut track, mut payload) = (None, None, None, None);
    let (mut chunk, mut timestamp) = (None, None);
    scanner.object(|scanner, key| match key {
        "event" => once(&mut event, scanner.string()?),
        "sequenceNumber" => once(&mut sequence_number, scanner.scalar()?),
        "streamId" => once(&mut stream_id, scanner.string()?),
        "extra_headers" => once(&mut extra, scanner.string()?),
        "media" if body.replace(()).is_none() => scanner.object(|scanner, key| match key {
            "track" => once(&mut track, scanner.string()?),
            "chunk" => once(&mut chunk, scanner.scalar()?),
            "timestamp" => once(&mut timestamp, scanner.scalar()?),
            "payload" => once(&mut payload, scanner.base64()?),
            _ => None,
        }),
        _ => None,
    })?;
    let is_ours = event? == "media" && track.is_none_or(|track| track == "inbound");
    (scanner.is_at_end() && is_ours).then_some(UsualMedia {
        stream_id,
        payload: payload?,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::call::{Digit, Mark};

    const START: &str = r#"{"sequenceNumber":0,"event":"start","start":{"callId":"c-1","streamId":"s-1","accountId":"1","tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-l16","sampleRate":16000}},"extra_headers":"tenant=t1;lang=hi"}"#;
    const MEDIA: &str = r#"{"sequenceNumber":2,"streamId":"s-1","event":"media","media":{"track":"inbound","timestamp":"1700000000020","chunk":2,"payload":"AQID/w=="},"extra_headers":""}"#;

    fn started() -> Plivo {
        let mut dialect = Plivo::default();
        let event = dialect.decode(Incoming::Text(START), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn info(dialect: &mut Plivo, text: &str) -> CallInfo {
        match dialect.decode(Incoming::Text(text), &mut Vec::new()) {
            Ok(CallerEvent::Started(info)) => *info,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn check(mut dialect: Plivo, text: &str, expected: Result<CallerEvent, DialectError>) {
        let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
        assert_eq!(event, expected, "{text}");
    }

    /// `audio.plivo.com` must be echoed, or the stream fails (telephony reference 4.1).
    #[test]
    fn the_subprotocol_is_echoed() {
        let offered = ["audio.plivo.com".to_owned()];
        let echoed = Plivo::CAPABILITIES.subprotocol(&offered);
        assert_eq!(echoed, Some("audio.plivo.com"));
    }

    /// Either `k=v;k=v` or JSON in a string (telephony reference 4.2). The query survives too (4.1).
    #[test]
    fn extra_headers_come_in_two_spellings() {
        let check = |extra: Value, expected: &[(&str, &str)]| {
            let mut start: Value = serde_json::from_str(START).unwrap();
            start["extra_headers"] = extra;
            let mut dialect = Plivo::default();
            let headers = HeaderMap::new();
            dialect.opened(&Head::new(Some("q=1&api-key=s3cret"), &headers));
            let info = info(&mut dialect, &start.to_string());
            let pair = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
            let query = [&("q", "1")];
            let expected = expected.iter().chain(query).map(pair).collect();
            assert_eq!(info.parameters, expected);
        };
        check(
            json!("a=1;b=x=y; c = 2 ;;=3;d"),
            &[("a", "1"), ("b", "x=y"), ("c", "2")],
        );
        check(
            json!(r#"{"a":"1","b":2,"c":null}"#),
            &[("a", "1"), ("b", "2")],
        );
        check(json!({"a": 1}), &[("a", "1")]);
        for nothing in [json!(""), json!(null), json!(7), json!("{"), json!(["a=1"])] {
            check(nothing, &[]);
        }
    }

    /// `playedStream` comes only for what was played: after `clearAudio` checkpoints vanish (telephony reference 4.2).
    #[test]
    fn only_played_checkpoints_come_back() {
        assert_eq!(Plivo::CAPABILITIES.marks, Marks::EchoedWhenPlayed);
        let mark = Mark {
            generation: 7,
            index: 12,
        };
        check(
            started(),
            r#"{"event":"playedStream","sequenceNumber":9,"streamId":"s-1","name":"g7-12"}"#,
            Ok(CallerEvent::MarkReached(mark)),
        );
        let cleared = r#"{"event":"clearedAudio","sequenceNumber":9,"streamId":"s-1"}"#;
        check(started(), cleared, Ok(CallerEvent::Nothing));
    }

    /// The only carrier that takes keys on the socket (telephony reference 4.2, 15).
    #[test]
    fn keys_are_pressed_on_the_socket() {
        let keys: Vec<Digit> = "12*#D".chars().filter_map(Digit::new).collect();
        let mut out = Vec::new();
        let sent = started().encode(CallerCommand::Keys(&keys), &mut out);
        assert_eq!(sent, Outgoing::Text);
        let expected = json!({"event": "sendDTMF", "dtmf": "12*#D"});
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        assert_eq!(
            started().encode(CallerCommand::Keys(&[]), &mut out),
            Outgoing::Nothing
        );
    }

    /// The default of `contentType` is documented inconsistently (telephony reference 4.1): what `start` says counts.
    #[test]
    fn the_format_is_what_start_says() {
        let check = |encoding: &str, rate: Value, expected: Option<(Codec, u32)>| {
            let format = json!({"encoding": encoding, "sampleRate": rate});
            let start =
                json!({"event": "start", "start": {"streamId": "s", "mediaFormat": format}});
            let text = start.to_string();
            let event = Plivo::default().decode(Incoming::Text(&text), &mut Vec::new());
            let got = match event {
                Ok(CallerEvent::Started(info)) => Some((info.output.codec, info.output.rate.hz())),
                other => {
                    assert_eq!(other, Err(DialectError::UnsupportedFormat), "{text}");
                    None
                }
            };
            assert_eq!(got, expected, "{text}");
        };
        check("audio/x-mulaw", json!(8000), Some((Codec::Ulaw, 8_000)));
        check("audio/x-l16", json!("8000"), Some((Codec::Pcm16, 8_000)));
        check("audio/x-l16", json!(16000), Some((Codec::Pcm16, 16_000)));
        check("audio/x-mulaw", json!(16000), None);
        check("audio/opus", json!(8000), None);
        check("audio/x-l16", json!(44100), None);
    }

    #[test]
    fn faults_have_names() {
        let missing = |field| Err(DialectError::MissingField { field });
        check(Plivo::default(), MEDIA, Err(DialectError::BeforeStart));
        check(
            Plivo::default(),
            r#"{"event":"start","start":{}}"#,
            missing("start.streamId"),
        );
        check(started(), START, Ok(CallerEvent::Nothing));
        let other = START.replace("s-1", "s-2");
        check(started(), &other, Err(DialectError::SecondStart));
        let other = MEDIA.replace("s-1", "s-2");
        check(started(), &other, Err(DialectError::WrongStream));
        let odd = MEDIA.replace("AQID/w==", "AQID");
        check(started(), &odd, Err(DialectError::OddByteCount));
        let bad = MEDIA.replace("AQID/w==", "AQI");
        check(started(), &bad, Err(DialectError::BadBase64));
        check(started(), r#"{"event":"playedStream"}"#, missing("name"));
        check(
            started(),
            r#"{"event":"dtmf","dtmf":{}}"#,
            missing("dtmf.digit"),
        );
        check(
            started(),
            r#"{"event":"dtmf","dtmf":{"digit":"flash"}}"#,
            Err(DialectError::UnknownDigit),
        );
        assert_eq!(
            started().decode(Incoming::Binary(&[1]), &mut Vec::new()),
            Err(DialectError::BinaryUnexpected)
        );
        let limit = MAX_MESSAGE_BYTES;
        let large = " ".repeat(limit + 1);
        check(started(), &large, Err(DialectError::TooLarge { limit }));
    }

    /// `stop` is not documented, and the close frame is what ends a stream (telephony reference 4.2).
    #[test]
    fn a_stop_is_taken_where_it_comes() {
        let mut dialect = started();
        let event = dialect.decode(Incoming::Text(r#"{"event":"stop"}"#), &mut Vec::new());
        assert_eq!(event, Ok(CallerEvent::Stopped));
        check(dialect.clone(), MEDIA, Ok(CallerEvent::Nothing));
        let sent = dialect.encode(CallerCommand::Clear, &mut Vec::new());
        assert_eq!(sent, Outgoing::Nothing);
    }

    #[test]
    fn a_frame_in_the_usual_form_reuses_the_buffer() {
        let mut audio = Vec::with_capacity(64);
        let before = audio.as_ptr();
        assert!(started().decode_usual_media(MEDIA, &mut audio));
        assert_eq!((&audio[..], audio.as_ptr()), (&[1, 2, 3, 255][..], before));
    }

    /// Messages of all kinds with a byte changed, put in or cut off.
    fn any_message() -> impl Strategy<Value = String> {
        let valid = prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..99)
                .prop_map(|bytes| MEDIA.replace("AQID/w==", &BASE64.encode(bytes))),
            1 => Just(START.to_owned()),
            1 => Just(r#"{"event":"playedStream","streamId":"s-1","name":"g7-12"}"#.to_owned()),
            1 => Just(r#"{"event":"dtmf","streamId":"s-1","dtmf":{"digit":"5"}}"#.to_owned()),
        ];
        (valid, any::<prop::sample::Index>(), any::<u8>(), 0..5).prop_map(
            |(text, at, byte, how)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => bytes.truncate(at),
                    _ => {}
                }
                String::from_utf8_lossy(&bytes).into_owned()
            },
        )
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(texts in proptest::collection::vec(any_message(), 1..6), start in any::<bool>()) {
            let mut dialect = if start { started() } else { Plivo::default() };
            let mut audio = Vec::new();
            for text in texts {
                let event = dialect.decode(Incoming::Text(&text), &mut audio);
                prop_assert_eq!(event == Ok(CallerEvent::Audio), !audio.is_empty());
            }
        }

        #[test]
        fn the_scanner_agrees_with_the_parser(text in any_message()) {
            let (mut scanned, mut parsed) = (Vec::new(), Vec::new());
            if started().decode_usual_media(&text, &mut scanned) {
                let event = started().decode_any(&text, &mut parsed);
                prop_assert_eq!(event, Ok(CallerEvent::Audio));
                prop_assert_eq!(scanned, parsed);
            }
        }
    }
}
