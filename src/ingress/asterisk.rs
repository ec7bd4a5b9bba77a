//! Asterisk's `chan_websocket`, whoever of the two dials (telephony reference 9.1 to 9.5).
//!
//! Audio is binary, control is text: JSON (`f(json)`) or words, whichever `MEDIA_START` comes in. PCM16, mu-law, A-law
//! or G.722, the same both ways, in messages of `optimal_frame_size` bytes.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | audio before `MEDIA_START` | the last second of it is held, and follows the start |
//! | any other event before `MEDIA_START` | error, the call ends |
//! | the same `MEDIA_START` again | counted, no effect |
//! | another `MEDIA_START` | error, the call ends |
//! | no mark ever comes back, but an `ERROR` about them or nothing | no more are sent: the playout clock alone says what was heard |
//! | any other `ERROR`, an unknown event | counted, no effect |
//! | a codec or rate that is not spoken, as Opus and 96 kHz | error, the call ends |
//!
//! Asterisk throws away what is left of a message after its whole frames, so audio leaves in whole frames, whatever
//! their length. It would take any length between `START_MEDIA_BUFFERING` and `STOP_MEDIA_BUFFERING`, which are not used: the
//! reply's last part would then wait for the latter. A flush is answered by nothing, nor are the marks that it drops.
//! Releases before 20.18, 22.8 and 23.2 know no marks and log each as an unknown command; a channel that is dialled with `p`
//! (passthrough) answers each with an `ERROR`.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::json::{self, Scalar};
use super::{
    Capabilities, Clear, CredentialIn, DialectError, Head, Ignored, Incoming, Lead, Marks,
    Outgoing, Speak, ignore, pressed,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent, Mark};
use crate::media::{AudioFormat, Codec, FRAME, SampleRate, silence_byte};

/// The largest binary message of Asterisk is 65 500 bytes (telephony reference 9.4); its texts are shorter.
const MAX_MESSAGE_BYTES: usize = 65_500;

/// A second of PCM16 at 48 kHz: what may come before it is known what it is (telephony reference 18.2).
const MAX_HELD_BYTES: usize = 2 * 48_000;

/// Longest id that is kept, in bytes. Asterisk's are numbers and UUIDs.
const MAX_ID_BYTES: usize = 256;

/// Who did not send back the first of so many marks knows none: with one each 100 ms, more than what three flushes in a
/// row could have dropped of a lead of 200 ms, and 3 s of speech.
const MARKS_IN_VAIN: u32 = 32;

/// Most channel variables that are kept.
const MAX_VARIABLES: usize = 64;

/// One call by `chan_websocket`.
#[derive(Clone, Debug, Default)]
pub struct Asterisk {
    /// Of the upgrade request.
    parameters: BTreeMap<String, String>,
    /// Known once `MEDIA_START` came.
    media: Option<Media>,
    /// Audio from before the start.
    held: VecDeque<u8>,
    /// Less than a frame, which waits for the rest of it.
    begun: Vec<u8>,
    marks: MarksKnown,
    ignored: Ignored,
}

/// Whether this Asterisk knows marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarksKnown {
    /// So many were sent, and none came back yet.
    Perhaps(u32),
    Yes,
    No,
}

impl Default for MarksKnown {
    fn default() -> Self {
        Self::Perhaps(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Media {
    format: AudioFormat,
    frame_bytes: usize,
    /// Whether control is JSON; else it is words.
    is_json: bool,
}

impl Speak for Asterisk {
    const NAME: &'static str = "asterisk";

    const PATH: &'static str = "/asterisk/media";

    /// Sources: telephony reference 9.1 (subprotocol, basic authentication), 9.3 (hang-up, marks), 16.1 (silence), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        marks: Marks::EchoedWhenPlayed,
        clear: Clear::Command,
        keys_in: true,
        says_end: true,
        peer_closes: Some(Duration::from_secs(2)),
        lead: Lead::between_ms(60, 200),
        rests: true,
        subprotocols: &["media"],
        credential: CredentialIn::Basic,
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
        match message {
            Incoming::Binary([]) => Ok(ignore(&mut self.ignored.empty_audio)),
            Incoming::Binary(bytes) => self.audio(bytes, audio),
            Incoming::Text(text) if text.starts_with('{') => {
                json::check(text.as_bytes())?;
                self.event(json::parse(text, "event")?, true)
            }
            Incoming::Text(text) => self.event(words(text), false),
        }
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        if self.media.is_none() || self.held.is_empty() {
            return None;
        }
        audio.extend(self.held.drain(..));
        Some(CallerEvent::Audio)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        let Some(media) = self.media else {
            return Outgoing::Nothing;
        };
        match command {
            CallerCommand::Audio(audio) => self.frames(audio, media, out),
            CallerCommand::ReplyEnded => self.last_frame(media, out),
            // Of a channel that was dialled with `n`; one that is answered stays so.
            CallerCommand::Started { .. } => media.say("ANSWER", None, out),
            CallerCommand::Mark(mark) if self.marks.may_be_sent() => {
                media.say("MARK_MEDIA", Some(mark), out)
            }
            CallerCommand::Clear => {
                self.begun.clear();
                media.say("FLUSH_MEDIA", None, out)
            }
            CallerCommand::End { .. } => media.say("HANGUP", None, out),
            CallerCommand::Mark(_)
            | CallerCommand::Keys(_)
            | CallerCommand::Transcript { .. }
            | CallerCommand::Error { .. } => Outgoing::Nothing,
        }
    }
}

impl Asterisk {
    fn audio(&mut self, bytes: &[u8], audio: &mut Vec<u8>) -> Result<CallerEvent, DialectError> {
        let Some(media) = self.media else {
            self.held.extend(bytes);
            let surplus = self.held.len().saturating_sub(MAX_HELD_BYTES);
            self.held.drain(..surplus);
            return Ok(CallerEvent::Nothing);
        };
        if !bytes.len().is_multiple_of(media.sample_bytes()) {
            return Err(DialectError::OddByteCount);
        }
        audio.extend_from_slice(bytes);
        Ok(CallerEvent::Audio)
    }

    fn event(&mut self, event: Event, is_json: bool) -> Result<CallerEvent, DialectError> {
        let name = event.event.as_deref();
        let name = name.ok_or(DialectError::MissingField { field: "event" })?;
        let is_started = self.media.is_some();
        match name {
            "MEDIA_START" => self.start(event, is_json),
            "DTMF_END" | "MEDIA_XOFF" | "MEDIA_XON" | "MEDIA_MARK_PROCESSED" if !is_started => {
                Err(DialectError::BeforeStart)
            }
            "DTMF_END" => {
                let digit = event.digit.ok_or(DialectError::MissingField {
                    field: "DTMF_END.digit",
                })?;
                pressed(&digit.0)
            }
            "MEDIA_XOFF" => Ok(CallerEvent::Flow(false)),
            "MEDIA_XON" => Ok(CallerEvent::Flow(true)),
            "MEDIA_MARK_PROCESSED" => match event.correlation_id.as_deref().and_then(Mark::parse) {
                Some(mark) => {
                    self.marks = MarksKnown::Yes;
                    Ok(CallerEvent::MarkReached(mark))
                }
                None => Ok(ignore(&mut self.ignored.foreign_marks)),
            },
            "ERROR" => {
                let text = event.error_text.unwrap_or_default();
                // One that has sent marks back goes on doing so: later ones tell what became of it.
                if text.contains("MARK_MEDIA") && self.marks != MarksKnown::Yes {
                    self.marks = MarksKnown::No;
                }
                Ok(ignore(&mut self.ignored.provider_errors))
            }
            "STATUS" | "MEDIA_BUFFERING_COMPLETED" | "QUEUE_DRAINED" => Ok(CallerEvent::Nothing),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn start(&mut self, event: Event, is_json: bool) -> Result<CallerEvent, DialectError> {
        let format = event.format.as_deref().ok_or(DialectError::MissingField {
            field: "MEDIA_START.format",
        })?;
        let format = format_of(format).ok_or(DialectError::UnsupportedFormat)?;
        let frame_bytes = event.optimal_frame_size.map_or(Ok(0), |size| {
            size.0.parse().map_err(|_| DialectError::WrongShape {
                message: "MEDIA_START",
            })
        })?;
        let mut media = Media {
            format,
            frame_bytes,
            is_json,
        };
        if media.frame_bytes == 0 {
            media.frame_bytes = media.bytes_of(FRAME);
        }
        if media.frame_bytes > MAX_MESSAGE_BYTES
            || !media.frame_bytes.is_multiple_of(media.sample_bytes())
        {
            return Err(DialectError::UnsupportedFormat);
        }
        match self.media.replace(media) {
            None => {}
            Some(known) if known == media => return Ok(ignore(&mut self.ignored.repeated_starts)),
            Some(_) => return Err(DialectError::SecondStart),
        }
        self.trim_held(media);
        let mut parameters = std::mem::take(&mut self.parameters);
        parameters.extend(event.channel.map(|name| ("channel".to_owned(), name)));
        for (name, value) in event.channel_variables.into_iter().take(MAX_VARIABLES) {
            let value = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(truth) => truth.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => continue,
            };
            parameters.insert(name, value);
        }
        let id = |id: Option<String>| id.filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: id(event.channel_id),
            provider_stream_id: id(event.connection_id),
            input: format,
            output: format,
            parameters,
        })))
    }

    /// Of what came before the start, whole samples of the last second stay.
    fn trim_held(&mut self, media: Media) {
        let n_bytes = self.held.len();
        let whole = n_bytes - n_bytes % media.sample_bytes();
        self.held.truncate(whole);
        let surplus = whole.saturating_sub(media.bytes_of(Duration::from_secs(1)));
        self.held.drain(..surplus);
    }

    /// What makes whole frames, with what was left before.
    fn frames(&mut self, audio: &[u8], media: Media, out: &mut Vec<u8>) -> Outgoing {
        out.append(&mut self.begun);
        out.extend_from_slice(audio);
        let whole = out.len() - out.len() % media.frame_bytes;
        self.begun.extend_from_slice(&out[whole..]);
        out.truncate(whole);
        binary(out)
    }

    /// What is left of a reply, with silence behind it.
    fn last_frame(&mut self, media: Media, out: &mut Vec<u8>) -> Outgoing {
        if !self.begun.is_empty() {
            out.append(&mut self.begun);
            let silence = silence_byte(media.format.codec).unwrap_or_default();
            out.resize(media.frame_bytes, silence);
        }
        binary(out)
    }
}

impl MarksKnown {
    /// Counts one more mark, if it is of any use.
    const fn may_be_sent(&mut self) -> bool {
        match self {
            Self::Yes => true,
            Self::Perhaps(MARKS_IN_VAIN..) | Self::No => false,
            Self::Perhaps(n) => {
                *n += 1;
                true
            }
        }
    }
}

fn binary(out: &[u8]) -> Outgoing {
    if out.is_empty() {
        Outgoing::Nothing
    } else {
        Outgoing::Binary
    }
}

impl Media {
    /// What audio may not be cut within.
    fn sample_bytes(self) -> usize {
        self.format.codec.bytes_of(1).unwrap_or(1)
    }

    fn bytes_of(self, duration: Duration) -> usize {
        let n_samples = u128::from(self.format.rate.hz()) * duration.as_millis() / 1_000;
        let n_samples = n_samples as usize;
        self.format.codec.bytes_of(n_samples).unwrap_or(n_samples)
    }

    /// A command as this call wants it. Asterisk drops one of more than 128 bytes (telephony reference 9.3).
    fn say(self, command: &str, mark: Option<Mark>, out: &mut Vec<u8>) -> Outgoing {
        let written = match (self.is_json, mark) {
            (false, None) => write!(out, "{command}"),
            (false, Some(mark)) => write!(out, "{command} {mark}"),
            (true, None) => write!(out, r#"{{"command":"{command}"}}"#),
            (true, Some(mark)) => {
                write!(
                    out,
                    r#"{{"command":"{command}","correlation_id":"{mark}"}}"#
                )
            }
        };
        written.expect("writing to memory cannot fail");
        Outgoing::Text
    }
}

/// Asterisk's names of what is spoken here.
fn format_of(name: &str) -> Option<AudioFormat> {
    let (codec, rate) = match name {
        "ulaw" => (Codec::Ulaw, SampleRate::HZ_8000),
        "alaw" => (Codec::Alaw, SampleRate::HZ_8000),
        "g722" => return Some(AudioFormat::G722),
        "slin" => (Codec::Pcm16, SampleRate::HZ_8000),
        "slin12" => (Codec::Pcm16, SampleRate::HZ_12000),
        "slin16" => (Codec::Pcm16, SampleRate::HZ_16000),
        "slin24" => (Codec::Pcm16, SampleRate::HZ_24000),
        "slin32" => (Codec::Pcm16, SampleRate::HZ_32000),
        "slin44" => (Codec::Pcm16, SampleRate::HZ_44100),
        "slin48" => (Codec::Pcm16, SampleRate::HZ_48000),
        _ => return None,
    };
    Some(AudioFormat { codec, rate })
}

/// What an event may say; of each event only some.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    event: Option<String>,
    connection_id: Option<String>,
    channel: Option<String>,
    channel_id: Option<String>,
    format: Option<String>,
    optimal_frame_size: Option<Scalar>,
    channel_variables: BTreeMap<String, Value>,
    digit: Option<Scalar>,
    correlation_id: Option<String>,
    error_text: Option<String>,
}

/// An event in words: its name, then `name:value`, or a value alone that is a correlation id.
fn words(text: &str) -> Event {
    // The text of an error is the rest of the line.
    let (text, error) = match text.split_once(" error_text:") {
        Some((text, error)) => (text, Some(error.to_owned())),
        None => (text, None),
    };
    let mut words = text.split_ascii_whitespace();
    let mut event = Event {
        event: words.next().map(str::to_owned),
        error_text: error,
        ..Event::default()
    };
    for word in words {
        let (name, value) = word.split_once(':').unwrap_or(("correlation_id", word));
        let value = value.to_owned();
        match name {
            "connection_id" => event.connection_id = Some(value),
            "channel" => event.channel = Some(value),
            "channel_id" => event.channel_id = Some(value),
            "format" => event.format = Some(value),
            "optimal_frame_size" => event.optimal_frame_size = Some(Scalar(value)),
            "digit" => event.digit = Some(Scalar(value)),
            "correlation_id" => event.correlation_id = Some(value),
            _ => {}
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::call::Digit;

    const START: &str = r#"{"event":"MEDIA_START","connection_id":"m-1","channel":"WebSocket/conn1/0x1","channel_id":"1700000000.1","format":"ulaw","optimal_frame_size":160,"ptime":20}"#;
    const PLAIN: &str = "MEDIA_START connection_id:m-1 channel:WebSocket/conn1/0x1 channel_id:1700000000.1 format:ulaw optimal_frame_size:160 ptime:20";

    fn start(text: &str) -> (Asterisk, CallInfo) {
        let mut dialect = Asterisk::default();
        let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
        let Ok(CallerEvent::Started(info)) = event else {
            panic!("{event:?}");
        };
        (dialect, *info)
    }

    fn check(dialect: &mut Asterisk, text: &str, expected: Result<CallerEvent, DialectError>) {
        let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
        assert_eq!(event, expected, "{text}");
    }

    fn says(dialect: &mut Asterisk, command: CallerCommand<'_>, expected: &str) {
        let mut out = b"left over".to_vec();
        assert_eq!(dialect.encode(command, &mut out), Outgoing::Text);
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
        assert!(out.len() <= 128);
    }

    /// Plain text is the default of the dial string, `f(json)` the other (telephony reference 9.1, 9.2).
    #[test]
    fn both_forms_of_control_mean_the_same() {
        let ((mut json, one), (mut plain, other)) = (start(START), start(PLAIN));
        assert_eq!(one, other);
        let mark = Mark {
            generation: u32::MAX,
            index: u32::MAX,
        };
        let reached = || Ok(CallerEvent::MarkReached(mark));
        check(
            &mut json,
            r#"{"event":"MEDIA_MARK_PROCESSED","channel_id":"1","correlation_id":"g4294967295-4294967295"}"#,
            reached(),
        );
        for text in [
            "MEDIA_MARK_PROCESSED g4294967295-4294967295",
            "MEDIA_MARK_PROCESSED channel_id:1 correlation_id:g4294967295-4294967295",
        ] {
            check(&mut plain, text, reached());
        }
        let five = Digit::new('5').unwrap();
        let digit = r#"{"event":"DTMF_END","channel_id":"1","digit":"5"}"#;
        check(&mut json, digit, Ok(CallerEvent::Dtmf(five)));
        let digit = "DTMF_END digit:5 channel_id:1";
        check(&mut plain, digit, Ok(CallerEvent::Dtmf(five)));
        says(
            &mut json,
            CallerCommand::Mark(mark),
            r#"{"command":"MARK_MEDIA","correlation_id":"g4294967295-4294967295"}"#,
        );
        says(
            &mut plain,
            CallerCommand::Mark(mark),
            "MARK_MEDIA g4294967295-4294967295",
        );
        says(
            &mut json,
            CallerCommand::Clear,
            r#"{"command":"FLUSH_MEDIA"}"#,
        );
        says(&mut plain, CallerCommand::End { reason: "x" }, "HANGUP");
    }

    /// Before 20.18, 22.8 and 23.2 `MARK_MEDIA` is an unknown command, which Asterisk only logs (telephony reference 9.3);
    /// in passthrough mode it is an error (chan_websocket.c of 22.10).
    #[test]
    fn marks_that_nobody_knows_are_not_sent_for_ever() {
        let mark = |index| {
            CallerCommand::Mark(Mark {
                generation: 0,
                index,
            })
        };
        let mut out = Vec::new();
        let mut n_sent = |dialect: &mut Asterisk| {
            let mut kinds = (0..100).map(|index| dialect.encode(mark(index), &mut out));
            kinds
                .by_ref()
                .filter(|kind| *kind == Outgoing::Text)
                .count()
        };
        let (mut plain, _) = start(PLAIN);
        assert_eq!(n_sent(&mut plain), MARKS_IN_VAIN as usize);
        let (mut newer, _) = start(PLAIN);
        newer.encode(mark(0), &mut Vec::new());
        newer
            .decode(Incoming::Text("MEDIA_MARK_PROCESSED g0-0"), &mut Vec::new())
            .unwrap();
        assert_eq!(n_sent(&mut newer), 100);
        for (start_text, error) in [
            (
                PLAIN,
                "ERROR channel_id:1 error_text:MARK_MEDIA not supported in passthrough mode",
            ),
            (
                START,
                r#"{"event":"ERROR","channel_id":"1","error_text":"MARK_MEDIA not supported in passthrough mode"}"#,
            ),
        ] {
            let (mut dialect, _) = start(start_text);
            check(&mut dialect, error, Ok(CallerEvent::Nothing));
            assert_eq!(dialect.ignored().provider_errors, 1);
            assert_eq!(n_sent(&mut dialect), 0);
        }
        let error = "ERROR channel_id:1 error_text:MARK_MEDIA correlation id too long";
        check(&mut newer, error, Ok(CallerEvent::Nothing));
        assert_eq!(n_sent(&mut newer), 100);
        let (mut other, _) = start(START);
        let error = r#"{"event":"ERROR","error_text":"Unable to parse JSON command"}"#;
        check(&mut other, error, Ok(CallerEvent::Nothing));
        assert_eq!(n_sent(&mut other), MARKS_IN_VAIN as usize);
    }

    /// In 10 to 15 % of the calls of 22.7 (asterisk/asterisk#1712, telephony reference 9.5).
    #[test]
    fn audio_before_the_start_follows_it() {
        let mut dialect = Asterisk::default();
        let mut audio = Vec::new();
        for _ in 0..700 {
            let event = dialect.decode(Incoming::Binary(&[7; 160]), &mut audio);
            assert_eq!(event, Ok(CallerEvent::Nothing));
            assert_eq!(dialect.more(&mut audio), None);
        }
        let event = dialect.decode(Incoming::Text(START), &mut audio);
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        assert_eq!(dialect.more(&mut audio), Some(CallerEvent::Audio));
        assert_eq!(audio.len(), 8_000);
        assert_eq!(dialect.more(&mut audio), None);
    }

    /// What is left of a message after its whole frames is thrown away (telephony reference 9.4): with a ptime of
    /// 30 ms that would be a third of the reply.
    #[test]
    fn audio_leaves_in_whole_frames() {
        let (mut dialect, _) =
            start(&START.replace("160,\"ptime\":20", "\"240\",\"ptime\":\"30\""));
        let mut out = Vec::new();
        let mut check = |command, expected: Option<(usize, u8)>| {
            let kind = dialect.encode(command, &mut out);
            let sent = (kind == Outgoing::Binary).then(|| (out.len(), *out.last().unwrap()));
            assert_eq!(sent, expected, "{command:?}");
        };
        check(CallerCommand::Audio(&[1; 160]), None);
        check(CallerCommand::Audio(&[2; 160]), Some((240, 2)));
        check(CallerCommand::ReplyEnded, Some((240, 0xFF)));
        check(CallerCommand::ReplyEnded, None);
        check(CallerCommand::Audio(&[3; 160]), None);
        check(CallerCommand::Clear, None);
        check(CallerCommand::ReplyEnded, None);
    }

    /// The queue holds 1 000 frames; beyond, whole messages are lost without a word (telephony reference 9.4).
    #[test]
    fn a_full_queue_stops_audio() {
        let (mut dialect, _) = start(PLAIN);
        check(&mut dialect, "MEDIA_XOFF", Ok(CallerEvent::Flow(false)));
        let text = "MEDIA_XON channel_id:1700000000.1";
        check(&mut dialect, text, Ok(CallerEvent::Flow(true)));
    }

    /// `v(...)` of the dial string stands in the query, channel variables in `MEDIA_START` (telephony reference 9.1).
    #[test]
    fn parameters_come_from_both_places() {
        let mut dialect = Asterisk::default();
        dialect.opened(&Head::new(
            Some("tenant=t1&token=s3cret"),
            &HeaderMap::new(),
        ));
        let variables = r#""channel_variables":{"QUEUE":"billing","TRIES":2,"X":null},"ptime""#;
        let text = START.replace("\"ptime\"", variables);
        let event = dialect.decode(Incoming::Text(&text), &mut Vec::new());
        let Ok(CallerEvent::Started(info)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(info.provider_call_id.as_deref(), Some("1700000000.1"));
        assert_eq!(info.provider_stream_id.as_deref(), Some("m-1"));
        let expected = [
            ("QUEUE", "billing"),
            ("TRIES", "2"),
            ("channel", "WebSocket/conn1/0x1"),
            ("tenant", "t1"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(info.parameters, BTreeMap::from(expected));
    }

    #[test]
    fn formats_have_asterisks_names() {
        let check = |name: &str, size: &str, expected: Option<(&str, usize)>| {
            let text = START.replace("\"ulaw\"", &format!("\"{name}\""));
            let text = text.replace("\"optimal_frame_size\":160,", size);
            let event = Asterisk::default().decode(Incoming::Text(&text), &mut Vec::new());
            let Some((format, frame_bytes)) = expected else {
                return assert_eq!(event, Err(DialectError::UnsupportedFormat), "{text}");
            };
            let (dialect, info) = start(&text);
            assert_eq!(info.input.to_string(), format);
            assert_eq!(info.output, info.input);
            assert_eq!(dialect.media.unwrap().frame_bytes, frame_bytes);
        };
        check("ulaw", "", Some(("ulaw 8000 Hz", 160)));
        check("alaw", "", Some(("alaw 8000 Hz", 160)));
        check("slin", "", Some(("pcm16 8000 Hz", 320)));
        check(
            "slin16",
            "\"optimal_frame_size\":640,",
            Some(("pcm16 16000 Hz", 640)),
        );
        check("slin24", "", Some(("pcm16 24000 Hz", 960)));
        check("slin48", "", Some(("pcm16 48000 Hz", 1_920)));
        check("slin16", "\"optimal_frame_size\":641,", None);
        check("slin12", "", Some(("pcm16 12000 Hz", 480)));
        check("slin32", "", Some(("pcm16 32000 Hz", 1_280)));
        check("slin44", "", Some(("pcm16 44100 Hz", 1_764)));
        check("g722", "", Some(("g722 16000 Hz", 160)));
        for name in ["slin96", "slin192", "siren7", "opus", ""] {
            check(name, "", None);
        }
    }

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let texts = prop_oneof![
            Just(START.to_owned()),
            Just(PLAIN.to_owned()),
            Just(PLAIN.replace("ulaw", "slin16")),
            Just("DTMF_END digit:5".to_owned()),
            Just(r#"{"event":"MEDIA_MARK_PROCESSED","correlation_id":"g0-1"}"#.to_owned()),
        ];
        let mutated = (texts.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
            |(text, at, byte)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes
            },
        );
        let bytes = proptest::collection::vec(any::<u8>(), 0..80);
        prop_oneof![texts.prop_map(String::into_bytes), mutated, bytes]
    }

    proptest! {
        #[test]
        fn total_and_audio_is_whole(messages in proptest::collection::vec(any_message(), 1..8)) {
            let mut dialect = Asterisk::default();
            let (mut audio, mut out) = (Vec::new(), Vec::new());
            for message in messages {
                let incoming = match str::from_utf8(&message) {
                    Ok(text) => Incoming::Text(text),
                    Err(_) => Incoming::Binary(&message),
                };
                let mut event = dialect.decode(incoming, &mut audio).ok();
                while let Some(found) = event {
                    prop_assert_eq!(found == CallerEvent::Audio, !audio.is_empty());
                    event = dialect.more(&mut audio);
                }
                if dialect.encode(CallerCommand::Audio(&message), &mut out) == Outgoing::Binary {
                    let media = dialect.media.unwrap();
                    prop_assert!(out.len().is_multiple_of(media.frame_bytes));
                }
            }
        }
    }
}
