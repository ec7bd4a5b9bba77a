//! Genesys Cloud Audio Connector, AudioHook protocol version 2 (telephony reference 8).
//!
//! Control is JSON text in an envelope with a sequence number of each side; audio is binary mu-law at 8 kHz of the
//! caller alone, in frames of whatever length. Only Genesys closes: the gateway says `disconnect`, Genesys `close`, the
//! gateway `closed`, and Genesys ends the connection.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | anything but `open` first | error, the call ends |
//! | `open` twice | error, the call ends |
//! | a sequence number that does not follow | error, the call ends, as it would at Genesys |
//! | a message for another session | error, the call ends |
//! | a connection probe (null ids) | opened without media, and no call |
//! | `error`, a message of another type, or after `close` | counted, no effect |
//! | no offer of mono mu-law of the caller | error, the call ends |
//!
//! Genesys names no marks: `playback_started` and `playback_completed` are of the whole queue, so the playout clock says what
//! was heard. What signs the request is not looked at here.
//!
//! A flow decides what becomes of the caller afterwards. It is told why the call ended by the output variable `end_reason`,
//! with both messages that may have one.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Scalar};
use super::{
    Capabilities, Clear, DialectError, Head, Ignored, Incoming, Lead, Outgoing, Speak, ignore,
    pressed,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent, EndReason};
use crate::media::AudioFormat;

/// The largest message either side sends, in bytes (telephony reference 8.3).
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Longest id that is kept, in bytes. They are UUIDs.
const MAX_ID_BYTES: usize = 64;

/// In place of the ids of a connection probe (telephony reference 8.6).
const NULL_ID: &str = "00000000-0000-0000-0000-000000000000";

/// One session of the Audio Connector.
#[derive(Clone, Debug, Default)]
pub struct Genesys {
    state: State,
    /// As the request and every message says it.
    session: Option<String>,
    /// Of the last message of ours, and of theirs.
    seq: u64,
    client_seq: u64,
    /// The offer that was taken, as it was made.
    media: String,
    answers: VecDeque<Vec<u8>>,
    /// Why we left, as a JSON string.
    end_reason: String,
    ignored: Ignored,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    /// Somebody tries whether the connection works.
    Probe,
    Open,
    /// We have said `disconnect`.
    Leaving,
    /// They have said `close`.
    Closed,
}

impl Speak for Genesys {
    const NAME: &'static str = "genesys";

    const PATH: &'static str = "/genesys/audiohook";

    /// Sources: telephony reference 8.6 (200 ms a message, four-step close within 10 s), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        clear: Clear::Command,
        keys_in: true,
        says_end: true,
        peer_closes: Some(std::time::Duration::from_secs(10)),
        chunk_frames: 10,
        lead: Lead::between_ms(400, 600),
        max_message_bytes: MAX_MESSAGE_BYTES,
        ..Capabilities::OF_A_PROVIDER
    };

    fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn opened(&mut self, head: &Head<'_>) {
        self.session = head.header("audiohook-session-id").map(str::to_owned);
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        match (message, self.state) {
            (Incoming::Binary(_), State::Waiting) => Err(DialectError::BeforeStart),
            (Incoming::Binary([]), _) => Ok(ignore(&mut self.ignored.empty_audio)),
            (Incoming::Binary(bytes), State::Open) => {
                audio.extend_from_slice(bytes);
                Ok(CallerEvent::Audio)
            }
            (Incoming::Binary(_), _) | (Incoming::Text(_), State::Closed) => {
                Ok(ignore(&mut self.ignored.after_stop))
            }
            (Incoming::Text(text), _) => self.control(text),
        }
    }

    fn answer(&mut self, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        match self.answers.pop_front() {
            Some(answer) => {
                out.extend_from_slice(&answer);
                Outgoing::Text
            }
            None => Outgoing::Nothing,
        }
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        match (command, self.state) {
            (CallerCommand::Error { code, .. }, State::Waiting | State::Probe | State::Open) => {
                self.disconnect("error", code, out)
            }
            (CallerCommand::End { reason }, State::Waiting | State::Open) => {
                self.disconnect("completed", reason, out)
            }
            (CallerCommand::Started { .. }, State::Open) => {
                let parameters = format!(r#"{{"startPaused":false,"media":[{}]}}"#, self.media);
                self.message("opened", &parameters, out)
            }
            (CallerCommand::Audio(audio), State::Open) if !audio.is_empty() => {
                out.extend_from_slice(audio);
                Outgoing::Binary
            }
            (CallerCommand::Clear, State::Open) => {
                let parameters = r#"{"entities":[{"type":"barge_in","data":{}}]}"#;
                self.message("event", parameters, out)
            }
            _ => Outgoing::Nothing,
        }
    }
}

impl Genesys {
    /// Writes a message of ours, which is the next in sequence.
    fn message(&mut self, kind: &str, parameters: &str, out: &mut Vec<u8>) -> Outgoing {
        self.seq += 1;
        out.extend_from_slice(br#"{"version":"2","id":"#);
        json::write_string(self.session.as_deref().unwrap_or(NULL_ID), out);
        let (seq, client_seq) = (self.seq, self.client_seq);
        write!(
            out,
            r#","type":"{kind}","seq":{seq},"clientseq":{client_seq},"parameters":{parameters}}}"#
        )
        .expect("writing to memory cannot fail");
        Outgoing::Text
    }

    fn answer_with(&mut self, kind: &str, parameters: &str) {
        let mut answer = Vec::new();
        self.message(kind, parameters, &mut answer);
        self.answers.push_back(answer);
    }

    /// Asks them to close; once.
    fn disconnect(&mut self, reason: &str, info: &str, out: &mut Vec<u8>) -> Outgoing {
        self.state = State::Leaving;
        self.end_reason = quoted(info);
        let (info, output) = (&self.end_reason, self.output());
        let parameters = format!(r#"{{"reason":"{reason}","info":{info},{output}}}"#);
        self.message("disconnect", &parameters, out)
    }

    /// What the flow is told, once it is known.
    fn output(&self) -> String {
        match self.end_reason.as_str() {
            "" => r#""outputVariables":{}"#.to_owned(),
            reason => format!(r#""outputVariables":{{"end_reason":{reason}}}"#),
        }
    }

    fn control(&mut self, text: &str) -> Result<CallerEvent, DialectError> {
        json::check(text.as_bytes())?;
        let envelope: Envelope<'_> = json::parse(text, "envelope")?;
        if envelope.id.len() > MAX_ID_BYTES {
            return Err(DialectError::TooLarge {
                limit: MAX_ID_BYTES,
            });
        }
        let session = self.session.get_or_insert_with(|| envelope.id.clone());
        if *session != envelope.id {
            return Err(DialectError::WrongStream);
        }
        if envelope.seq != self.client_seq + 1 {
            return Err(DialectError::OutOfSequence);
        }
        self.client_seq = envelope.seq;
        let parameters = envelope.parameters.map_or("{}", RawValue::get);
        match (envelope.kind.as_str(), self.state) {
            ("open", State::Waiting) => self.open(parameters),
            ("open", _) => Err(DialectError::SecondStart),
            ("close", _) => {
                if self.state == State::Open {
                    self.end_reason = quoted(EndReason::CallerHangup.name());
                }
                let parameters = format!("{{{}}}", self.output());
                self.answer_with("closed", &parameters);
                self.state = State::Closed;
                Ok(CallerEvent::Stopped)
            }
            (_, State::Waiting) => Err(DialectError::BeforeStart),
            ("ping", _) => {
                self.answer_with("pong", "{}");
                Ok(CallerEvent::Nothing)
            }
            ("update", _) => {
                self.answer_with("updated", "{}");
                Ok(CallerEvent::Nothing)
            }
            ("paused", State::Open) => Ok(CallerEvent::Paused),
            ("resumed", State::Open) => Ok(CallerEvent::Resumed),
            ("dtmf", State::Open) => {
                let digit = json::parse::<Dtmf>(parameters, "dtmf")?.digit;
                let digit = digit.ok_or(DialectError::MissingField { field: "digit" })?;
                pressed(&digit.0)
            }
            ("playback_started" | "playback_completed" | "discarded", _) => {
                Ok(CallerEvent::Nothing)
            }
            ("error", _) => Ok(ignore(&mut self.ignored.provider_errors)),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn open(&mut self, parameters: &str) -> Result<CallerEvent, DialectError> {
        let open: Open<'_> = json::parse(parameters, "open")?;
        if open.conversation_id.as_deref() == Some(NULL_ID) {
            self.state = State::Probe;
            self.answer_with("opened", r#"{"startPaused":false,"media":[]}"#);
            return Ok(CallerEvent::Probe);
        }
        let offer = open.media.into_iter().find(|offer| is_mono_ulaw(offer));
        self.media = offer
            .ok_or(DialectError::UnsupportedFormat)?
            .get()
            .to_owned();
        self.state = State::Open;
        let mut about: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in open.input_variables.unwrap_or_default() {
            about.extend(value.map(|value| (name, value.0)));
        }
        let participant = open.participant.unwrap_or_default();
        about.extend(participant.ani.map(|number| ("from".to_owned(), number)));
        about.extend(participant.dnis.map(|number| ("to".to_owned(), number)));
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: open.conversation_id.filter(|id| id.len() <= MAX_ID_BYTES),
            provider_stream_id: self.session.clone(),
            input: AudioFormat::ULAW_8K,
            output: AudioFormat::ULAW_8K,
            parameters: about,
        })))
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = Vec::new();
    json::write_string(text, &mut quoted);
    String::from_utf8(quoted).expect("a JSON string of a str is UTF-8")
}

/// Whether an offer is what the Connector sends: the caller alone, mu-law at 8 kHz.
fn is_mono_ulaw(offer: &RawValue) -> bool {
    serde_json::from_str::<Offer>(offer.get()).is_ok_and(|offer| {
        offer.format == "PCMU" && offer.rate == 8_000 && offer.channels == ["external"]
    })
}

#[derive(Deserialize)]
struct Envelope<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    seq: u64,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Open<'a> {
    conversation_id: Option<String>,
    participant: Option<Participant>,
    #[serde(borrow, default)]
    media: Vec<&'a RawValue>,
    input_variables: Option<BTreeMap<String, Option<Scalar>>>,
}

#[derive(Default, Deserialize)]
struct Participant {
    ani: Option<String>,
    dnis: Option<String>,
}

#[derive(Deserialize)]
struct Offer {
    format: String,
    rate: u32,
    channels: Vec<String>,
}

#[derive(Deserialize)]
struct Dtmf {
    digit: Option<Scalar>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn message(kind: &str, seq: u64, parameters: &Value) -> String {
        json!({"version": "2", "id": "s-1", "type": kind, "seq": seq, "serverseq": 0,
               "position": "PT0S", "parameters": parameters})
        .to_string()
    }

    fn open() -> Value {
        let media =
            json!([{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}]);
        json!({"conversationId": "c-1", "media": media})
    }

    fn opened() -> Genesys {
        let mut dialect = Genesys::default();
        let event = dialect.decode(
            Incoming::Text(&message("open", 1, &open())),
            &mut Vec::new(),
        );
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn sent(dialect: &mut Genesys, command: CallerCommand<'_>) -> Value {
        let mut out = Vec::new();
        assert_eq!(
            dialect.encode(command, &mut out),
            Outgoing::Text,
            "{command:?}"
        );
        serde_json::from_slice(&out).unwrap()
    }

    fn answer(dialect: &mut Genesys) -> Value {
        let mut out = Vec::new();
        assert_eq!(dialect.answer(&mut out), Outgoing::Text);
        serde_json::from_slice(&out).unwrap()
    }

    /// `clientseq` of a pong must be the ping's `seq`, or Genesys ends the call with error 408 (telephony reference 8.5).
    #[test]
    fn a_pong_names_its_ping() {
        let mut dialect = opened();
        sent(&mut dialect, CallerCommand::Started { call_id: "c" });
        for seq in [2, 3] {
            let event = dialect.decode(
                Incoming::Text(&message("ping", seq, &json!({}))),
                &mut Vec::new(),
            );
            assert_eq!(event, Ok(CallerEvent::Nothing));
            let pong = answer(&mut dialect);
            assert_eq!(
                (&pong["type"], &pong["clientseq"], &pong["seq"]),
                (&json!("pong"), &json!(seq), &json!(seq))
            );
        }
    }

    /// Any gap is fatal at Genesys, so it is here (telephony reference 8.3).
    #[test]
    fn each_side_counts_without_a_gap() {
        let mut dialect = opened();
        let opened = sent(&mut dialect, CallerCommand::Started { call_id: "c" });
        assert_eq!(
            (&opened["seq"], &opened["clientseq"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(opened["parameters"]["media"], open()["media"]);
        let clear = sent(&mut dialect, CallerCommand::Clear);
        assert_eq!(clear["seq"], 2);
        assert_eq!(clear["parameters"]["entities"][0]["type"], "barge_in");
        let gap = message("ping", 3, &json!({}));
        let event = dialect.decode(Incoming::Text(&gap), &mut Vec::new());
        assert_eq!(event, Err(DialectError::OutOfSequence));
    }

    /// Only Genesys closes: disconnect, close, closed, and then the connection (telephony reference 8.6).
    #[test]
    fn the_end_takes_four_steps() {
        let mut dialect = opened();
        let disconnect = sent(
            &mut dialect,
            CallerCommand::End {
                reason: "assistant_hangup",
            },
        );
        assert_eq!(disconnect["parameters"]["reason"], "completed");
        let mut out = Vec::new();
        let again = dialect.encode(
            CallerCommand::End {
                reason: "assistant_hangup",
            },
            &mut out,
        );
        assert_eq!(again, Outgoing::Nothing);
        let close = message("close", 2, &json!({"reason": "disconnect"}));
        let event = dialect.decode(Incoming::Text(&close), &mut out);
        assert_eq!(event, Ok(CallerEvent::Stopped));
        assert_eq!(answer(&mut dialect)["type"], "closed");
        assert_eq!(dialect.answer(&mut out), Outgoing::Nothing);
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(
            texts in proptest::collection::vec((
                prop_oneof![Just("open"), Just("ping"), Just("close"), Just("dtmf"), Just("paused"), Just("x")],
                1..5_u64, any::<Option<u8>>(), any::<prop::sample::Index>(),
            ), 1..6),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (mut dialect, mut audio, mut out) = (Genesys::default(), Vec::new(), Vec::new());
            for (kind, seq, byte, at) in texts {
                let mut text = message(kind, seq, &open()).into_bytes();
                if let Some(byte) = byte {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
                let text = String::from_utf8_lossy(&text).into_owned();
                for message in [Incoming::Text(&text), Incoming::Binary(&bytes)] {
                    let event = dialect.decode(message, &mut audio);
                    prop_assert_eq!(event == Ok(CallerEvent::Audio), !audio.is_empty());
                    while dialect.answer(&mut out) != Outgoing::Nothing {
                        prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
                    }
                }
            }
        }
    }
}
