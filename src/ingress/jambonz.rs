//! jambonz `listen`/`stream`, and FreeSWITCH's `mod_audio_fork` by drachtio, whose wire it is (telephony reference
//! 10.2), with `bidirectionalAudio.streaming` true: PCM16 in binary messages, JSON texts for the rest.
//!
//! The first text is metadata. Its `sampleRate` is the caller's; `mod_audio_fork` by itself does not say it, and nobody
//! says our own, so that `rate` and `output_rate` in the address may. Ours is the caller's unless said: marks do not
//! survive it otherwise.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | audio before the metadata | it begins the call if the address says the rate; else error, the call ends |
//! | metadata that is no JSON object | error, the call ends |
//! | a key or mark before the metadata | taken for the metadata, as any object is |
//! | metadata again, a text of another kind | counted, no effect |
//! | a mark that is not ours | counted, no effect |
//! | a mark that a clear threw away | said so by the wire; no effect |
//! | audio of any length | taken as it is: a begun sample waits for its rest |

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::interleaved::Interleaved;
use super::json::{self, Scalar};
use super::{
    Capabilities, Clear, CredentialIn, DialectError, Head, Ignored, Incoming, Lead, Marks,
    Outgoing, Speak, ignore, pressed,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent, Mark};
use crate::media::{AudioFormat, Codec, SampleRate};

/// The largest message that is read, in bytes: half a second at 64 kHz, and eight times the longest metadata.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// In Hz. It also has 64,000, which nobody needs and nothing here converts (telephony reference 10.2).
const RATES: [u32; 4] = [8_000, 16_000, 24_000, 48_000];

/// Marks that the module keeps (telephony reference 10.2).
const MOST_MARKS: usize = 30;

/// One leg of jambonz, or a fork of FreeSWITCH.
#[derive(Clone, Debug, Default)]
pub struct Jambonz {
    /// Of the upgrade request.
    parameters: BTreeMap<String, String>,
    is_started: bool,
    caller: Interleaved,
    /// Audio that came with the start.
    held: Vec<u8>,
    /// Marks that were sent and did not come back, the oldest first.
    open_marks: VecDeque<Mark>,
    /// A mark was sent, and no audio after it.
    has_open_mark: bool,
    ignored: Ignored,
}

impl Speak for Jambonz {
    const NAME: &'static str = "jambonz";

    const PATH: &'static str = "/jambonz/media";

    /// Sources: telephony reference 10.2 (all but the lead), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        marks: Marks::EchoedWhenPlayed,
        clear: Clear::Command,
        keys_in: true,
        says_end: true,
        lead: Lead::between_ms(100, 200),
        subprotocols: &["audio.jambonz.org", "audio.drachtio.org"],
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
            Incoming::Text(text) => self.control(text),
            Incoming::Binary([]) => Ok(ignore(&mut self.ignored.empty_audio)),
            Incoming::Binary(bytes) if self.is_started => {
                self.caller.read(bytes, audio);
                Ok(match audio.is_empty() {
                    true => CallerEvent::Nothing,
                    false => CallerEvent::Audio,
                })
            }
            Incoming::Binary(bytes) => {
                if !self.parameters.contains_key("rate") {
                    return Err(DialectError::BeforeStart);
                }
                let started = self.started(BTreeMap::new())?;
                self.caller.read(bytes, &mut self.held);
                Ok(started)
            }
        }
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        std::mem::swap(audio, &mut self.held);
        (!audio.is_empty()).then_some(CallerEvent::Audio)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        if !self.is_started {
            return Outgoing::Nothing;
        }
        match command {
            CallerCommand::Audio([]) => Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                self.has_open_mark = false;
                out.extend_from_slice(audio);
                hide_markers(out);
                Outgoing::Binary
            }
            CallerCommand::Mark(_) if self.open_marks.len() >= MOST_MARKS => Outgoing::Nothing,
            CallerCommand::Mark(mark) => {
                self.open_marks.push_back(mark);
                self.has_open_mark = true;
                write!(out, r#"{{"type":"mark","data":{{"name":"{mark}"}}}}"#)
                    .expect("writing to memory cannot fail");
                Outgoing::Text
            }
            // A mark stands before the next audio, and after a reply there is none: one silent sample.
            CallerCommand::ReplyEnded if self.has_open_mark => {
                self.has_open_mark = false;
                out.extend_from_slice(&[0, 0]);
                Outgoing::Binary
            }
            CallerCommand::Clear => {
                self.has_open_mark = false;
                self.open_marks.clear();
                out.extend_from_slice(br#"{"type":"killAudio"}"#);
                Outgoing::Text
            }
            CallerCommand::End { .. } => {
                out.extend_from_slice(br#"{"type":"disconnect"}"#);
                Outgoing::Text
            }
            CallerCommand::Started { .. }
            | CallerCommand::ReplyEnded
            | CallerCommand::Keys(_)
            | CallerCommand::Transcript { .. }
            | CallerCommand::Error { .. } => Outgoing::Nothing,
        }
    }
}

impl Jambonz {
    fn control(&mut self, text: &str) -> Result<CallerEvent, DialectError> {
        json::check(text.as_bytes())?;
        if !self.is_started {
            let members: BTreeMap<String, &RawValue> = json::parse(text, "metadata")?;
            let members = members.into_iter().filter_map(json::as_parameter).collect();
            return self.started(members);
        }
        let message: Message<'_> = json::parse(text, "message")?;
        match (message.event.as_deref(), message.kind.as_deref()) {
            (Some("dtmf"), _) => {
                let text = message
                    .dtmf
                    .ok_or(DialectError::MissingField { field: "dtmf" })?;
                let text: Scalar = serde_json::from_str(text.get())
                    .map_err(|_| DialectError::WrongShape { message: "dtmf" })?;
                pressed(&text.0)
            }
            (None, Some("mark")) => {
                let data = message.data.map_or("{}", |data| data.get());
                let data: MarkData = json::parse(data, "mark")?;
                let mark = data.name.as_deref().and_then(Mark::parse);
                // One that came back after it tells of those that did not.
                let at = self.open_marks.iter().position(|open| Some(*open) == mark);
                self.open_marks.drain(..at.map_or(0, |at| at + 1));
                Ok(match (mark, data.event.as_deref()) {
                    (Some(mark), Some("playout")) => CallerEvent::MarkReached(mark),
                    // It says which it was: what was thrown away was not heard.
                    (Some(_), _) => CallerEvent::Nothing,
                    (None, _) => ignore(&mut self.ignored.foreign_marks),
                })
            }
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    /// The call begins. What the metadata says goes before what the address says.
    fn started(&mut self, metadata: BTreeMap<String, String>) -> Result<CallerEvent, DialectError> {
        let mut parameters = self.parameters.clone();
        let mut ours = |name| parameters.remove(name);
        let (rate, output_rate, mix) = (ours("rate"), ours("output_rate"), ours("mix"));
        parameters.extend(metadata);
        let rate = parameters.remove("sampleRate").or(rate);
        let rate = rate.ok_or(DialectError::MissingField {
            field: "sampleRate",
        })?;
        let format = |rate: &str| {
            let rate = rate.parse().ok().and_then(SampleRate::new);
            rate.filter(|rate| RATES.contains(&rate.hz()))
                .map(|rate| AudioFormat {
                    codec: Codec::Pcm16,
                    rate,
                })
                .ok_or(DialectError::UnsupportedFormat)
        };
        let input = format(&rate)?;
        let output = output_rate.map_or(Ok(input), |rate| format(&rate))?;
        let mix = parameters.remove("mixType").or(mix);
        self.caller = Interleaved::of(mix.as_deref());
        self.is_started = true;
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: parameters.get("callSid").cloned(),
            provider_stream_id: None,
            input,
            output,
            parameters,
        })))
    }
}

/// The module keeps marks as samples of -1 among the audio: a real one would be taken for a mark (telephony reference
/// 10.2). -2 sounds the same.
fn hide_markers(audio: &mut [u8]) {
    for sample in audio.as_chunks_mut::<2>().0 {
        if *sample == [0xff, 0xff] {
            *sample = [0xfe, 0xff];
        }
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    event: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    dtmf: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct MarkData {
    name: Option<String>,
    event: Option<String>,
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    const METADATA: &str = r#"{"sampleRate":16000,"mixType":"mono","callSid":"c-1"}"#;

    fn started() -> Jambonz {
        let mut dialect = Jambonz::default();
        let event = dialect.decode(Incoming::Text(METADATA), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn check(dialect: &mut Jambonz, text: &str, expected: Result<CallerEvent, DialectError>) {
        let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
        assert_eq!(event, expected, "{text}");
    }

    /// Marks are kept as samples of -1 in the module's ring (telephony reference 10.2, source of October 2024).
    #[test]
    fn no_sample_is_taken_for_a_mark() {
        let (mut dialect, mut out) = (started(), Vec::new());
        let samples: Vec<u8> = [-1_i16, -2, 255, -256, -1]
            .into_iter()
            .flat_map(i16::to_le_bytes)
            .collect();
        dialect.encode(CallerCommand::Audio(&samples), &mut out);
        let sent: Vec<i16> = out
            .as_chunks::<2>()
            .0
            .iter()
            .map(|bytes| i16::from_le_bytes(*bytes))
            .collect();
        assert_eq!(sent, [-2, -2, 255, -256, -2]);
    }

    /// A mark stands before the next binary message, not after the last (telephony reference 10.2): without one more,
    /// the last mark of a reply would come back during the next.
    #[test]
    fn the_last_mark_is_followed_by_audio() {
        let (mut dialect, mut out) = (started(), Vec::new());
        let mark = CallerCommand::Mark(Mark::parse("g0-1").unwrap());
        assert_eq!(dialect.encode(mark, &mut out), Outgoing::Text);
        let ended = dialect.encode(CallerCommand::ReplyEnded, &mut out);
        assert_eq!((ended, out.as_slice()), (Outgoing::Binary, &[0, 0][..]));
        let again = dialect.encode(CallerCommand::ReplyEnded, &mut out);
        assert_eq!(again, Outgoing::Nothing);
        dialect.encode(mark, &mut out);
        dialect.encode(CallerCommand::Audio(&[1, 0]), &mut out);
        let ended = dialect.encode(CallerCommand::ReplyEnded, &mut out);
        assert_eq!(ended, Outgoing::Nothing);
    }

    /// The module keeps thirty (telephony reference 10.2): what is lost does not count for ever.
    #[test]
    fn lost_marks_are_settled_by_later_ones_and_by_a_clear() {
        let (mut dialect, mut out) = (started(), Vec::new());
        let mut send = |dialect: &mut Jambonz, index: usize| {
            let mark = Mark::parse(&format!("g0-{index}")).unwrap();
            dialect.encode(CallerCommand::Mark(mark), &mut out)
        };
        let sent = (0..MOST_MARKS + 1).map(|index| send(&mut dialect, index));
        let n_sent = sent.filter(|sent| *sent == Outgoing::Text).count();
        assert_eq!(n_sent, MOST_MARKS);
        let last = MOST_MARKS - 1;
        let name = format!("g0-{last}");
        let back = format!(r#"{{"type":"mark","data":{{"name":"{name}","event":"playout"}}}}"#);
        let reached = CallerEvent::MarkReached(Mark::parse(&name).unwrap());
        check(&mut dialect, &back, Ok(reached));
        for index in 100..100 + MOST_MARKS {
            assert_eq!(send(&mut dialect, index), Outgoing::Text);
        }
        assert_eq!(send(&mut dialect, 200), Outgoing::Nothing);
        dialect.encode(CallerCommand::Clear, &mut Vec::new());
        assert_eq!(send(&mut dialect, 201), Outgoing::Text);
    }

    /// jambonz sends more than marks to an application.
    #[test]
    fn other_messages_may_hold_anything() {
        let other = r#"{"type":"call:status","data":["a"],"dtmf":{"digit":1}}"#;
        check(&mut started(), other, Ok(CallerEvent::Nothing));
        let wrong = Err(DialectError::WrongShape { message: "mark" });
        check(&mut started(), r#"{"type":"mark","data":7}"#, wrong);
        let wrong = Err(DialectError::WrongShape { message: "dtmf" });
        check(&mut started(), r#"{"event":"dtmf","dtmf":{}}"#, wrong);
    }

    /// It alone says which of the two became of a mark (telephony reference 10.2).
    #[test]
    fn a_cleared_mark_is_not_a_played_one() {
        let mark = |event: &str| {
            format!(r#"{{"type":"mark","data":{{"name":"g1-2","event":"{event}"}}}}"#)
        };
        let played = CallerEvent::MarkReached(Mark::parse("g1-2").unwrap());
        check(&mut started(), &mark("playout"), Ok(played));
        check(&mut started(), &mark("cleared"), Ok(CallerEvent::Nothing));
    }

    /// `mod_audio_fork` without metadata sends audio at once, and never says its rate.
    #[test]
    fn the_address_may_say_the_rate() {
        let (mut dialect, mut audio) = (Jambonz::default(), Vec::new());
        let binary = Incoming::Binary(&[1, 2, 3, 4, 5]);
        let event = dialect.decode(binary, &mut audio);
        assert_eq!(event, Err(DialectError::BeforeStart));
        let query = "rate=8000&output_rate=16000&mix=stereo&queue=a";
        dialect.opened(&Head::new(Some(query), &HeaderMap::new()));
        let Ok(CallerEvent::Started(info)) = dialect.decode(binary, &mut audio) else {
            panic!("not started");
        };
        let rates = [info.input, info.output].map(|format| format.rate.hz());
        assert_eq!(rates, [8_000, 16_000]);
        assert_eq!(info.parameters.keys().collect::<Vec<_>>(), ["queue"]);
        assert_eq!(dialect.more(&mut audio), Some(CallerEvent::Audio));
        assert_eq!(audio, [1, 2]);
        assert_eq!(dialect.more(&mut audio), None);
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(
            texts in proptest::collection::vec((
                prop_oneof![
                    Just(METADATA.to_owned()), any::<String>(),
                    Just(r#"{"type":"mark","data":{"name":"g0-1","event":"playout"}}"#.to_owned()),
                    Just(r#"{"event":"dtmf","dtmf":"5","duration":"1600"}"#.to_owned()),
                ],
                any::<Option<u8>>(), any::<prop::sample::Index>(),
            ), 1..6),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (mut dialect, mut audio) = (Jambonz::default(), Vec::new());
            for (text, byte, at) in texts {
                let mut text = text.into_bytes();
                if let (Some(byte), false) = (byte, text.is_empty()) {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
                let text = String::from_utf8_lossy(&text).into_owned();
                for message in [Incoming::Text(&text), Incoming::Binary(&bytes)] {
                    let event = dialect.decode(message, &mut audio);
                    prop_assert_eq!(event == Ok(CallerEvent::Audio), !audio.is_empty());
                    while let Some(event) = dialect.more(&mut audio) {
                        prop_assert_eq!(event == CallerEvent::Audio, !audio.is_empty());
                    }
                }
            }
        }
    }
}
