//! Telnyx media streaming with `stream_bidirectional_mode=rtp` (telephony reference 2).
//!
//! JSON texts, audio in base64, a codec for each direction: what we hear is in `start`, what we send is what the
//! starter of the stream declared. Telnyx does not repeat that, so the stream's address or `custom_parameters` has to
//! say it under Telnyx's own names, `stream_bidirectional_codec` and `stream_bidirectional_sampling_rate`; else it is
//! PCMU, as it is there. PCMU, PCMA, G722, L16 and OPUS are spoken; AMR-WB is refused.
//!
//! When the peer does not keep the order `connected`, `start`, `media`/`dtmf`/`mark`, `stop`:
//!
//! | what comes | what happens |
//! |---|---|
//! | `media`, `dtmf`, `mark` or `stop` before `start` | error, the call ends |
//! | the same `start` again | counted, no effect |
//! | a `start` of another stream, or a message for one | error, the call ends |
//! | `media` out of order | it waits for at most three others; what comes later still is counted, no effect |
//! | `media` of another track | counted, no effect |
//! | `error` | counted, no effect: the stream goes on or stops by itself |
//! | an event of another name, anything after `stop` | counted, no effect |
//! | a mark that a clear threw away | reported like any other; its generation tells |
//! | binary | error, the call ends |

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::byte_order::ByteOrder;
use super::json::{self, Scalar};
use super::media_stream::{self, Media, body, check_id};
use super::reorder::{Reorder, Turn};
use super::scan::{Scanner, once};
use super::{
    Capabilities, Clear, CredentialIn, DialectError, Head, Ignored, Incoming, Lead, Marks,
    Outgoing, Speak, ignore,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent};
use crate::media::{AudioFormat, Codec, SampleRate};
use crate::realtime::{decode_audio, encode_audio};

/// The largest message that is read, in bytes: half a second of L16 at 48 kHz, where Telnyx sends 20 ms.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What our direction is, under the names that Telnyx has for it.
const CODEC: &str = "stream_bidirectional_codec";
const RATE: &str = "stream_bidirectional_sampling_rate";

/// In Hz (telephony reference 2.4).
const L16_RATES: [u32; 5] = [8_000, 16_000, 22_050, 24_000, 48_000];

/// Ours: `auto`, `le` or `be`, since nobody has said which L16 is there (telephony reference 2.5).
const BYTE_ORDER: &str = "l16_byte_order";

/// One Telnyx media stream.
#[derive(Clone, Debug, Default)]
pub struct Telnyx {
    /// Of the upgrade request.
    parameters: BTreeMap<String, String>,
    state: State,
    ignored: Ignored,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Waiting,
    Streaming(Box<Stream>),
    Stopped,
}

#[derive(Clone, Debug)]
struct Stream {
    id: String,
    input: AudioFormat,
    output: AudioFormat,
    byte_order: ByteOrder,
    order: Reorder,
    /// Our audio while its bytes are swapped.
    swapped: Vec<u8>,
}

impl Speak for Telnyx {
    const NAME: &'static str = "telnyx";

    const PATH: &'static str = "/telnyx/media";

    /// Sources: telephony reference 2.2 (token), 2.4 (marks, clear), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        marks: Marks::EchoedAlways,
        clear: Clear::Command,
        keys_in: true,
        lead: Lead::between_ms(200, 400),
        credential: CredentialIn::Header("x-telnyx-streaming-auth-token"),
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
        match self.usual_media(text, audio) {
            Some(chunk) => self.in_order(chunk, audio),
            None => {
                audio.clear();
                self.decode_any(text, audio)
            }
        }
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        let State::Streaming(stream) = &mut self.state else {
            return None;
        };
        stream.order.next(audio).then(|| {
            stream.read(audio);
            CallerEvent::Audio
        })
    }

    // Nothing can be said outside of a stream.
    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        let State::Streaming(stream) = &mut self.state else {
            return Outgoing::Nothing;
        };
        match command {
            CallerCommand::Audio([]) => Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                out.extend_from_slice(br#"{"event":"media","media":{"payload":""#);
                encode_audio(stream.write(audio), out);
                out.extend_from_slice(br#""}}"#);
                Outgoing::Text
            }
            CallerCommand::Mark(mark) => {
                write!(out, r#"{{"event":"mark","mark":{{"name":"{mark}"}}}}"#)
                    .expect("writing to memory cannot fail");
                Outgoing::Text
            }
            CallerCommand::Clear => {
                out.extend_from_slice(br#"{"event":"clear"}"#);
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

impl Telnyx {
    /// Decodes audio in its usual form and says which chunk it is. If it is anything else, or bad, `decode_any` decides.
    fn usual_media(&self, text: &str, audio: &mut Vec<u8>) -> Option<Option<u64>> {
        let State::Streaming(stream) = &self.state else {
            return None;
        };
        let media = usual_media(text)?;
        let is_ours = media.stream_id.is_none_or(|id| id == stream.id);
        let is_good = is_ours && !media.payload.is_empty() && decode_audio(media.payload, audio);
        (is_good && stream.input.is_whole(audio)).then(|| media.chunk?.parse().ok())
    }

    /// The audio in the buffer, once it is its turn.
    fn in_order(
        &mut self,
        chunk: Option<u64>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        let State::Streaming(stream) = &mut self.state else {
            return Err(DialectError::BeforeStart);
        };
        let turn = chunk.map_or(Turn::Now, |chunk| stream.order.take(chunk, audio));
        Ok(match turn {
            Turn::Now => {
                stream.read(audio);
                CallerEvent::Audio
            }
            Turn::Waits => CallerEvent::Nothing,
            Turn::Late => ignore(&mut self.ignored.late_audio),
        })
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
            "connected" => Ok(CallerEvent::Nothing),
            "start" => self.started(&envelope),
            "media" => {
                let format = self.stream_of(&envelope)?.input;
                let media = Media::parse(envelope.media)?;
                let chunk = media.chunk()?;
                match media.read(format, audio, &mut self.ignored)? {
                    CallerEvent::Audio => self.in_order(chunk, audio),
                    other => Ok(other),
                }
            }
            "dtmf" => {
                self.stream_of(&envelope)?;
                media_stream::key(envelope.dtmf)
            }
            "mark" => {
                self.stream_of(&envelope)?;
                media_stream::mark(envelope.mark, &mut self.ignored)
            }
            "stop" => {
                self.stream_of(&envelope)?;
                self.state = State::Stopped;
                Ok(CallerEvent::Stopped)
            }
            "error" => Ok(ignore(&mut self.ignored.provider_errors)),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn started(&mut self, envelope: &Envelope<'_>) -> Result<CallerEvent, DialectError> {
        let body: StartBody<'_> = body(envelope.start, "start")?;
        let stream_id = envelope.stream_id.as_ref();
        let id = stream_id
            .ok_or(DialectError::MissingField { field: "stream_id" })?
            .0
            .clone();
        check_id(&id)?;
        if let State::Streaming(stream) = &self.state {
            if stream.id != id {
                return Err(DialectError::SecondStart);
            }
            return Ok(ignore(&mut self.ignored.repeated_starts));
        }
        let input = body.media_format.unwrap_or_default().audio_format()?;
        let mut parameters = self.parameters.clone();
        let custom = body.custom_parameters.unwrap_or_default();
        parameters.extend(custom.into_iter().filter_map(json::as_parameter));
        let named = |name: &str| parameters.get(name).map(|value| Scalar(value.clone()));
        let output = WireFormat {
            encoding: named(CODEC).map(|codec| codec.0),
            sample_rate: named(RATE),
            channels: None,
        };
        let output = output.audio_format()?;
        let byte_order = match parameters.get(BYTE_ORDER) {
            Some(name) => ByteOrder::named(name).ok_or(DialectError::UnsupportedFormat)?,
            None => ByteOrder::default(),
        };
        for ours in [CODEC, RATE, BYTE_ORDER] {
            parameters.remove(ours);
        }
        let about = [
            ("from", body.from),
            ("to", body.to),
            ("client_state", body.client_state),
            ("call_session_id", body.call_session_id),
        ];
        for (name, value) in about {
            parameters.extend(value.map(|value| (name.to_owned(), value)));
        }
        self.state = State::Streaming(Box::new(Stream {
            id: id.clone(),
            input,
            output,
            byte_order,
            order: Reorder::default(),
            swapped: Vec::new(),
        }));
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: body.call_control_id,
            provider_stream_id: Some(id),
            input,
            output,
            parameters,
        })))
    }

    /// The running stream, which must be the message's if it names one.
    fn stream_of(&self, envelope: &Envelope<'_>) -> Result<&Stream, DialectError> {
        let State::Streaming(stream) = &self.state else {
            return Err(DialectError::BeforeStart);
        };
        match &envelope.stream_id {
            Some(id) if id.0 != stream.id => Err(DialectError::WrongStream),
            _ => Ok(stream),
        }
    }
}

impl Stream {
    /// Makes audio from the wire what the gateway reads.
    fn read(&mut self, audio: &mut [u8]) {
        if self.input.codec == Codec::Pcm16 {
            self.byte_order.read(audio);
        }
    }

    /// Makes our audio what the wire wants.
    fn write<'a>(&'a mut self, audio: &'a [u8]) -> &'a [u8] {
        if self.output.codec != Codec::Pcm16 || self.byte_order != ByteOrder::Big {
            return audio;
        }
        self.swapped.clear();
        self.swapped.extend_from_slice(audio);
        self.byte_order.write(&mut self.swapped);
        &self.swapped
    }
}

/// The parts of a `media` message that matter.
struct UsualMedia<'a> {
    stream_id: Option<&'a str>,
    chunk: Option<&'a str>,
    payload: &'a str,
}

/// The parts of `text`, if it is a `media` message of the caller's track as Telnyx writes it.
fn usual_media(text: &str) -> Option<UsualMedia<'_>> {
    let mut scanner = Scanner::new(text);
    let (mut event, mut stream_id, mut number) = (None, None, None);
    let (mut body, mut track, mut chunk) = (None, None, None);
    let (mut timestamp, mut payload) = (None, None);
    scanner.object(|scanner, key| match key {
        "event" => once(&mut event, scanner.string()?),
        "sequence_number" => once(&mut number, scanner.scalar()?),
        "stream_id" => once(&mut stream_id, scanner.string()?),
        "media" if body.replace(()).is_none() => scanner.object(|scanner, key| match key {
            "track" => once(&mut track, scanner.string()?),
            "chunk" => once(&mut chunk, scanner.scalar()?),
            "timestamp" => once(&mut timestamp, scanner.scalar()?),
            "payload" => once(&mut payload, scanner.base64()?),
            _ => None,
        }),
        _ => None,
    })?;
    let is_usual =
        scanner.is_at_end() && event? == "media" && track.is_none_or(|it| it == "inbound");
    is_usual.then_some(UsualMedia {
        stream_id,
        chunk,
        payload: payload?,
    })
}

#[derive(Deserialize)]
struct Envelope<'a> {
    event: Option<String>,
    stream_id: Option<Scalar>,
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
struct StartBody<'a> {
    call_control_id: Option<String>,
    call_session_id: Option<String>,
    from: Option<String>,
    to: Option<String>,
    client_state: Option<String>,
    #[serde(borrow)]
    custom_parameters: Option<BTreeMap<String, &'a RawValue>>,
    media_format: Option<WireFormat>,
}

/// A codec as Telnyx names it.
#[derive(Default, Deserialize)]
struct WireFormat {
    encoding: Option<String>,
    sample_rate: Option<Scalar>,
    channels: Option<Scalar>,
}

impl WireFormat {
    /// What is not said is PCMU, 8 kHz, one channel.
    fn audio_format(&self) -> Result<AudioFormat, DialectError> {
        let unsupported = DialectError::UnsupportedFormat;
        let rate = match &self.sample_rate {
            Some(rate) => rate.0.parse().ok().and_then(SampleRate::new),
            None => Some(SampleRate::HZ_8000),
        };
        let encoding = self.encoding.as_deref().unwrap_or("PCMU");
        let codec = match encoding.to_ascii_uppercase().as_str() {
            "PCMU" => Codec::Ulaw,
            "PCMA" => Codec::Alaw,
            "G722" => Codec::G722,
            "L16" => Codec::Pcm16,
            "OPUS" => Codec::Opus,
            _ => return Err(unsupported),
        };
        let rate = match (codec, rate) {
            (Codec::Ulaw | Codec::Alaw, Some(SampleRate::HZ_8000)) => SampleRate::HZ_8000,
            (Codec::Pcm16, Some(rate)) if L16_RATES.contains(&rate.hz()) => rate,
            // 16 kHz, but vendors put its clock beside it, which is 8 kHz (telephony reference 14.2).
            (Codec::G722, Some(SampleRate::HZ_8000 | SampleRate::HZ_16000)) => SampleRate::HZ_16000,
            // Its clock is always 48 kHz, whatever is said (telephony reference 14.3).
            (Codec::Opus, _) => SampleRate::HZ_48000,
            _ => return Err(unsupported),
        };
        if self
            .channels
            .as_ref()
            .is_some_and(|channels| channels.0 != "1")
        {
            return Err(unsupported);
        }
        Ok(AudioFormat { codec, rate })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn start(format: &serde_json::Value, custom: &serde_json::Value) -> String {
        json!({"event": "start", "sequence_number": "1", "stream_id": "s-1", "start": {
            "user_id": "u", "call_control_id": "c-1", "media_format": format, "custom_parameters": custom,
        }})
        .to_string()
    }

    fn pcmu() -> serde_json::Value {
        json!({"encoding": "PCMU", "sample_rate": 8000, "channels": 1})
    }

    fn started() -> Telnyx {
        let mut dialect = Telnyx::default();
        let text = start(&pcmu(), &json!({}));
        let event = dialect.decode(Incoming::Text(&text), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn media(chunk: u64, bytes: &[u8]) -> String {
        let payload = BASE64.encode(bytes);
        format!(
            r#"{{"event":"media","sequence_number":"4","stream_id":"s-1","media":{{"track":"inbound","chunk":"{chunk}","timestamp":"20","payload":"{payload}"}}}}"#
        )
    }

    fn formats(
        query: &str,
        format: &serde_json::Value,
        custom: &serde_json::Value,
    ) -> Result<(String, String), DialectError> {
        let mut dialect = Telnyx::default();
        dialect.opened(&Head::new(Some(query), &HeaderMap::new()));
        let event = dialect.decode(Incoming::Text(&start(format, custom)), &mut Vec::new());
        event.map(|event| match event {
            CallerEvent::Started(info) => (info.input.to_string(), info.output.to_string()),
            other => panic!("{other:?}"),
        })
    }

    /// Towards us it is what the line negotiated, from us what was declared (telephony reference 2.5,
    /// dograh-hq/dograh#256); Telnyx tells only the first.
    #[test]
    fn each_direction_has_its_codec() {
        let check = |query: &str, format, custom, expected: Option<(&str, &str)>| {
            let got = formats(query, &format, &custom);
            let expected = expected.map(|(input, output)| (input.to_owned(), output.to_owned()));
            let expected = expected.ok_or(DialectError::UnsupportedFormat);
            assert_eq!(got, expected, "{query} {format} {custom}");
        };
        let pcma = || json!({"encoding": "PCMA", "sample_rate": 8000, "channels": 1});
        check(
            "",
            pcma(),
            json!({}),
            Some(("alaw 8000 Hz", "ulaw 8000 Hz")),
        );
        let l16 = "stream_bidirectional_codec=L16&stream_bidirectional_sampling_rate=24000";
        check(
            l16,
            pcma(),
            json!({}),
            Some(("alaw 8000 Hz", "pcm16 24000 Hz")),
        );
        let custom = json!({"stream_bidirectional_codec": "PCMA"});
        check("", pcmu(), custom, Some(("ulaw 8000 Hz", "alaw 8000 Hz")));
        let opus = json!({"encoding": "OPUS", "sample_rate": 16000});
        check("", opus, json!({}), Some(("opus 48000 Hz", "ulaw 8000 Hz")));
        // Its clock is 8 kHz, its audio 16 (telephony reference 14.2).
        let g722 = "stream_bidirectional_codec=G722";
        let narrow = json!({"encoding": "G722", "sample_rate": 8000});
        let both = Some(("g722 16000 Hz", "g722 16000 Hz"));
        check(g722, narrow, json!({}), both);
        let wide = "stream_bidirectional_codec=G722&stream_bidirectional_sampling_rate=16000";
        check(
            wide,
            pcma(),
            json!({}),
            Some(("alaw 8000 Hz", "g722 16000 Hz")),
        );
        for refused in ["AMR-WB", "mp3"] {
            check(
                "",
                json!({"encoding": refused, "sample_rate": 8000}),
                json!({}),
                None,
            );
            let query = format!("stream_bidirectional_codec={refused}");
            check(&query, pcmu(), json!({}), None);
        }
        let odd = "stream_bidirectional_codec=L16&stream_bidirectional_sampling_rate=22050";
        let heard = Some(("ulaw 8000 Hz", "pcm16 22050 Hz"));
        check(odd, pcmu(), json!({}), heard);
        for rate in [12_000, 32_000, 44_100] {
            let l16 = json!({"encoding": "L16", "sample_rate": rate});
            check("", l16, json!({}), None);
        }
        let narrow = json!({"encoding": "G722", "sample_rate": 24000});
        check("", narrow, json!({}), None);
        check(
            "",
            json!({"encoding": "PCMU", "channels": 2}),
            json!({}),
            None,
        );
        check("l16_byte_order=middle", pcmu(), json!({}), None);
    }

    /// The order of media is not promised (telephony reference 2.3).
    #[test]
    fn audio_is_put_back_into_order() {
        let (mut dialect, mut audio, mut heard) = (started(), Vec::new(), Vec::new());
        for chunk in [1, 3, 2, 2, 4, 6, 7, 8, 9, 5] {
            let text = media(chunk, &[chunk as u8]);
            let mut event = dialect.decode(Incoming::Text(&text), &mut audio).ok();
            while let Some(next) = event {
                assert_eq!(next == CallerEvent::Audio, !audio.is_empty());
                heard.extend_from_slice(&audio);
                event = dialect.more(&mut audio);
            }
        }
        assert_eq!(heard, [1, 2, 3, 4, 6, 7, 8, 9]);
        assert_eq!(dialect.ignored().late_audio, 2);
    }

    /// RFC 2586 has L16 big-endian; nobody has confirmed what Telnyx means (telephony reference 2.5, pipecat#3383).
    #[test]
    fn l16_may_be_big_endian_both_ways() {
        let (mut dialect, mut audio, mut out) = (Telnyx::default(), Vec::new(), Vec::new());
        let query = "l16_byte_order=be&stream_bidirectional_codec=L16";
        dialect.opened(&Head::new(Some(query), &HeaderMap::new()));
        let l16 = json!({"encoding": "L16", "sample_rate": 16000});
        let text = start(&l16, &json!({}));
        dialect.decode(Incoming::Text(&text), &mut audio).unwrap();
        dialect
            .decode(Incoming::Text(&media(1, &[1, 2])), &mut audio)
            .unwrap();
        assert_eq!(audio, [2, 1]);
        dialect.encode(CallerCommand::Audio(&[3, 4]), &mut out);
        let sent = String::from_utf8(out).unwrap();
        assert!(sent.contains(&BASE64.encode([4, 3])), "{sent}");
        let odd = dialect.decode(Incoming::Text(&media(2, &[1])), &mut audio);
        assert_eq!(odd, Err(DialectError::OddByteCount));
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(
            messages in proptest::collection::vec((
                0..8_u64, proptest::collection::vec(any::<u8>(), 0..9),
                any::<Option<u8>>(), any::<prop::sample::Index>(), any::<bool>(),
            ), 1..8),
            is_started in any::<bool>(),
        ) {
            let mut dialect = if is_started { started() } else { Telnyx::default() };
            let mut audio = Vec::new();
            for (chunk, bytes, byte, at, is_media) in messages {
                let text = if is_media { media(chunk, &bytes) } else { start(&pcmu(), &json!({})) };
                let mut text = text.into_bytes();
                if let Some(byte) = byte {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
                let text = String::from_utf8_lossy(&text).into_owned();
                let event = dialect.decode(Incoming::Text(&text), &mut audio);
                prop_assert_eq!(event == Ok(CallerEvent::Audio), !audio.is_empty());
                while let Some(event) = dialect.more(&mut audio) {
                    prop_assert_eq!(event == CallerEvent::Audio, !audio.is_empty());
                }
            }
        }
    }
}
