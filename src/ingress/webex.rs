//! Webex Contact Center, which brings a call to a virtual agent of one's own over a WebSocket (telephony reference 12.1).
//!
//! JSON texts in an envelope. What is not in the reference is from Cisco's public contract: the schema
//! `VoiceVirtualAgent_WsSchema.json` of github.com/webex/dataSourceSchemas, and the guide beside the samples of
//! github.com/CiscoDevNet/webex-contact-center-provider-sample-code (both as of November 2026).
//!
//! - A call begins with the event `SESSION_START` and comes as mu-law at 8 kHz, which is all that Webex sends today.
//!   Another encoding is refused: it would be known only after the start.
//! - A reply is a row of `CHUNK`s without a header, then exactly one `FINAL` without audio. Webex wants them unpaced and
//!   plays from its queue; it never says what it played. They are sent a second or two ahead instead, so that what the
//!   caller heard is known.
//! - `START_OF_INPUT` makes Webex drop what it has not played; it is sent when the call core clears, and `END_OF_INPUT`
//!   follows with the next reply. Where nobody was interrupted neither is sent: `END_OF_INPUT` would stop the caller's
//!   audio, and `START_OF_INPUT` the end of the reply before.
//! - An envelope has a time, and this file reads no clock: it repeats the time of the newest message from Webex.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | audio, keys or `SESSION_END` before `SESSION_START` | error, the call ends |
//! | `SESSION_START` again | counted, no effect |
//! | a request of another conversation | error, the call ends |
//! | `CUSTOM_EVENT`, events and messages of other names | counted, no effect |
//! | `ERROR` | counted, no effect: Webex goes on or closes |
//! | anything but `PING` after `SESSION_END` | counted, no effect |
//! | binary | error, the call ends |
//!
//! The virtual agents are asked for on a connection of their own, without an envelope: [`list_virtual_agents`].

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Scalar};
use super::media_stream::{StreamId, check_id};
use super::scan::{Scanner, once};
use super::{
    Capabilities, Clear, CredentialIn, DialectError, Head, Ignored, Incoming, Lead, Outgoing,
    Speak, ignore,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent, Digit, EndReason};
use crate::media::AudioFormat;
use crate::realtime::{decode_audio, encode_audio};

/// The largest message that is read, in bytes: 12 s of mu-law.
const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Longest time that is repeated, in bytes. RFC 3339 with nanoseconds has 35.
const MAX_TIME_BYTES: usize = 40;

/// The path that Webex appends to the address of a data source.
pub(super) const APPENDED: &str = "/v1/va";

/// The path that Webex appends where it asks for the virtual agents there.
const LISTED: &str = "/v1/listVirtualAgents";

/// The answer to Webex's question for the virtual agents at an address, which is the agent of that address (Cisco's schema
/// `VoiceVirtualAgent_WsListVASchema.json`: bare objects, of which the question's `customer_org_id` is required). Its id
/// comes back with each call as `virtual_agent_id`.
///
/// # Errors
///
/// If the question is none.
pub fn list_virtual_agents(question: &str, agent: &str) -> Result<String, DialectError> {
    json::check(question.as_bytes())?;
    let question: ListQuestion = json::parse(question, "ListVARequest")?;
    question.customer_org_id.ok_or(DialectError::MissingField {
        field: "customer_org_id",
    })?;
    let answer = serde_json::json!({"virtual_agents": [{"id": agent, "name": agent}]});
    Ok(answer.to_string())
}

#[derive(Deserialize)]
struct ListQuestion {
    customer_org_id: Option<String>,
}

/// One conversation of Webex Contact Center.
#[derive(Clone, Debug, Default)]
pub struct Webex {
    /// Of the upgrade request.
    parameters: BTreeMap<String, String>,
    state: State,
    /// When the newest message was written, in the peer's words.
    time: Option<String>,
    /// Messages that were sent.
    n_sent: u64,
    /// Chunks were sent without the final message that belongs to them.
    is_replying: bool,
    /// The start of the caller's input was told, and not its end.
    is_input: bool,
    /// Pressed, and not asked for yet.
    keys: VecDeque<Digit>,
    /// The number of a ping, and its conversation.
    ping: Option<(u64, StreamId)>,
    ignored: Ignored,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Waiting,
    Open(StreamId),
    Ended,
}

impl Speak for Webex {
    const NAME: &'static str = "webex";

    const PATH: &'static str = "/webex/va";

    /// Sources: telephony reference 12.1 (keys, clear by `START_OF_INPUT`, `SESSION_END`). A chunk has 100 bytes to 64 KiB
    /// and is to be as large as possible (Cisco's guide, step 3): 200 ms; 16.1 (silence). The lead is this project's: Webex would take
    /// a whole reply.
    const CAPABILITIES: Capabilities = Capabilities {
        clear: Clear::Command,
        keys_in: true,
        says_end: true,
        peer_closes: Some(Duration::from_secs(2)),
        chunk_frames: 10,
        rests: true,
        lead: Lead::between_ms(1_000, 2_000),
        credential: CredentialIn::Query,
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
        if self.read_usual_audio(text, audio) {
            return Ok(CallerEvent::Audio);
        }
        audio.clear();
        self.read_any(text, audio)
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        self.keys.pop_front().map(CallerEvent::Dtmf)
    }

    /// A pong has its ping's number.
    fn answer(&mut self, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        let Some((number, conversation)) = self.ping.take() else {
            return Outgoing::Nothing;
        };
        self.begin("PONG", number, &conversation, out);
        out.push(b'}');
        Outgoing::Text
    }

    // Nothing can be said outside of a session.
    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        let State::Open(conversation) = &self.state else {
            return Outgoing::Nothing;
        };
        let conversation = conversation.clone();
        match command {
            CallerCommand::Audio([]) => return Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                self.response(&conversation, out);
                if std::mem::take(&mut self.is_input) {
                    out.extend_from_slice(br#""output_events":[{"event_type":"END_OF_INPUT"}],"#);
                }
                out.extend_from_slice(br#""prompts":[{"audio_content_b64":""#);
                encode_audio(audio, out);
                out.extend_from_slice(br#"","is_barge_in_enabled":true}],"#);
                out.extend_from_slice(br#""input_mode":"INPUT_VOICE_DTMF","#);
                out.extend_from_slice(br#""response_type":"CHUNK"}}"#);
                self.is_replying = true;
            }
            CallerCommand::ReplyEnded if self.is_replying => {
                self.response(&conversation, out);
                out.extend_from_slice(br#""prompts":[{"audio_content_b64":"","#);
                out.extend_from_slice(br#""is_barge_in_enabled":true}],"#);
                out.extend_from_slice(br#""input_mode":"INPUT_VOICE_DTMF","#);
                out.extend_from_slice(br#""response_type":"FINAL"}}"#);
                self.is_replying = false;
            }
            // What is told twice is told already: nothing was sent in between.
            CallerCommand::Clear if !self.is_input => {
                self.event("START_OF_INPUT", &conversation, out);
                self.is_input = true;
            }
            CallerCommand::Error { code, message } => {
                let (code, status) = match code {
                    "unsupported_format" => ("unsupported_media", 415),
                    _ => ("bad_request", 400),
                };
                self.n_sent += 1;
                self.begin("ERROR", self.n_sent, &conversation, out);
                write!(out, r#","code":"{code}","status":{status},"detail":"#)
                    .expect("writing to memory cannot fail");
                json::write_string(message, out);
                out.push(b'}');
            }
            CallerCommand::End { reason } => {
                let is_transfer = reason == EndReason::AssistantTransfer.name();
                let event = match is_transfer {
                    true => "TRANSFER_TO_AGENT",
                    false => "SESSION_END",
                };
                self.event(event, &conversation, out);
                self.state = State::Ended;
            }
            CallerCommand::Started { .. }
            | CallerCommand::Mark(_)
            | CallerCommand::ReplyEnded
            | CallerCommand::Clear
            | CallerCommand::Keys(_)
            | CallerCommand::Transcript { .. } => return Outgoing::Nothing,
        }
        Outgoing::Text
    }
}

impl Webex {
    /// The agent whose address is asked for its virtual agents; `None` of any other path.
    #[must_use]
    pub fn listed_agent(path: &str) -> Option<&str> {
        let rest = path.strip_prefix(Self::PATH)?.strip_prefix('/')?;
        let agent = rest.strip_suffix(LISTED)?;
        (!agent.is_empty() && !agent.contains('/')).then_some(agent)
    }

    /// Reads audio in its usual form. If it is anything else, or bad, `read_any` decides.
    fn read_usual_audio(&mut self, text: &str, audio: &mut Vec<u8>) -> bool {
        let State::Open(conversation) = &self.state else {
            return false;
        };
        let Some(usual) = usual_audio(text) else {
            return false;
        };
        let is_good = conversation.is_exactly(usual.conversation)
            && !usual.audio.is_empty()
            && decode_audio(usual.audio, audio);
        if is_good {
            self.note_time(usual.time);
        }
        is_good
    }

    fn read_any(&mut self, text: &str, audio: &mut Vec<u8>) -> Result<CallerEvent, DialectError> {
        json::check(text.as_bytes())?;
        let envelope: Envelope<'_> = json::parse(text, "envelope")?;
        let kind = envelope
            .kind
            .as_deref()
            .ok_or(DialectError::MissingField { field: "type" })?;
        if let Some(time) = &envelope.ts {
            self.note_time(&time.0);
        }
        match (kind, &self.state) {
            ("PING", _) => {
                let number = envelope.seq.and_then(|seq| seq.0.parse().ok());
                let id = envelope.conversation_id.unwrap_or(Scalar(String::new())).0;
                check_id(&id)?;
                self.ping = number.map(|number| (number, StreamId::new(&id)));
                Ok(CallerEvent::Nothing)
            }
            (_, State::Ended) => Ok(ignore(&mut self.ignored.after_stop)),
            ("VOICE_VA_REQUEST", _) => self.request(&envelope, audio),
            ("ERROR", _) => Ok(ignore(&mut self.ignored.provider_errors)),
            ("PONG", _) => Ok(CallerEvent::Nothing),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn request(
        &mut self,
        envelope: &Envelope<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        let id = envelope
            .conversation_id
            .as_ref()
            .ok_or(DialectError::MissingField {
                field: "conversation_id",
            })?;
        if let State::Open(conversation) = &self.state
            && !conversation.is(&id.0)
        {
            return Err(DialectError::WrongStream);
        }
        let payload = envelope
            .payload
            .ok_or(DialectError::MissingField { field: "payload" })?;
        let request: Request<'_> = json::parse(payload.get(), "request")?;
        let input = request.voice_va_input_type;
        let input: Input<'_> = match input {
            Some(input) => json::parse(input.get(), "voice_va_input_type")?,
            None => Input::default(),
        };
        match input {
            Input {
                event_input: Some(event),
                ..
            } => self.event_input(&id.0, request, json::parse(event.get(), "event_input")?),
            Input {
                audio_input: Some(input),
                ..
            } => self.audio_input(json::parse(input.get(), "audio_input")?, audio),
            Input {
                dtmf_input: Some(input),
                ..
            } => self.dtmf_input(json::parse(input.get(), "dtmf_input")?),
            _ => Err(DialectError::MissingField {
                field: "voice_va_input_type",
            }),
        }
    }

    fn event_input(
        &mut self,
        id: &str,
        request: Request<'_>,
        event: EventInput<'_>,
    ) -> Result<CallerEvent, DialectError> {
        let kind = event.event_type.ok_or(DialectError::MissingField {
            field: "event_input.event_type",
        })?;
        match (kind.as_str(), &self.state) {
            ("SESSION_START", State::Waiting) => self.started(id, request, event.parameters),
            ("SESSION_START", _) => Ok(ignore(&mut self.ignored.repeated_starts)),
            ("SESSION_END", State::Waiting) => Err(DialectError::BeforeStart),
            ("SESSION_END", _) => {
                self.state = State::Ended;
                Ok(CallerEvent::Stopped)
            }
            // Of silence the model hears enough, and which keys they were comes when all are pressed.
            ("NO_INPUT" | "START_OF_DTMF", _) => Ok(CallerEvent::Nothing),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn started(
        &mut self,
        id: &str,
        request: Request<'_>,
        attached: Option<Attached<'_>>,
    ) -> Result<CallerEvent, DialectError> {
        check_id(id)?;
        let mut parameters = std::mem::take(&mut self.parameters);
        for attached in [attached, request.additional_info].into_iter().flatten() {
            parameters.extend(attached.into_iter().filter_map(json::as_parameter));
        }
        let about = [
            ("customer_org_id", request.customer_org_id),
            ("virtual_agent_id", request.virtual_agent_id),
            ("vendor_specific_config", request.vendor_specific_config),
        ];
        for (name, value) in about {
            parameters.extend(value.map(|value| (name.to_owned(), value.0)));
        }
        self.state = State::Open(StreamId::new(id));
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: Some(id.to_owned()),
            provider_stream_id: None,
            input: AudioFormat::ULAW_8K,
            output: AudioFormat::ULAW_8K,
            parameters,
        })))
    }

    fn audio_input(
        &mut self,
        input: AudioInput,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        self.is_open()?;
        let is_ulaw = input.encoding.is_some_and(|it| it == ENCODING)
            && input.sample_rate_hertz.is_some_and(|it| it.0 == RATE);
        if !is_ulaw {
            return Err(DialectError::UnsupportedFormat);
        }
        let data = input.caller_audio_b64.unwrap_or_default();
        if data.is_empty() {
            return Ok(ignore(&mut self.ignored.empty_audio));
        }
        if !decode_audio(&data, audio) {
            return Err(DialectError::BadBase64);
        }
        Ok(CallerEvent::Audio)
    }

    fn dtmf_input(&mut self, input: DtmfInput) -> Result<CallerEvent, DialectError> {
        self.is_open()?;
        let names = input.dtmf_events.ok_or(DialectError::MissingField {
            field: "dtmf_input.dtmf_events",
        })?;
        let keys: Option<Vec<Digit>> = names.iter().map(|name| key(name)).collect();
        self.keys.extend(keys.ok_or(DialectError::UnknownDigit)?);
        let first = self.keys.pop_front();
        Ok(first.map_or(CallerEvent::Nothing, CallerEvent::Dtmf))
    }

    const fn is_open(&self) -> Result<(), DialectError> {
        match self.state {
            State::Open(_) => Ok(()),
            State::Waiting | State::Ended => Err(DialectError::BeforeStart),
        }
    }

    fn note_time(&mut self, time: &str) {
        if time.len() > MAX_TIME_BYTES {
            return;
        }
        let kept = self.time.get_or_insert_default();
        kept.clear();
        kept.push_str(time);
    }

    /// An envelope up to what it is about.
    fn begin(&self, kind: &str, number: u64, conversation: &StreamId, out: &mut Vec<u8>) {
        write!(out, r#"{{"type":"{kind}","seq":{number},"ts":"#)
            .expect("writing to memory cannot fail");
        let time = self.time.as_deref().unwrap_or("1970-01-01T00:00:00Z");
        json::write_string(time, out);
        out.extend_from_slice(br#","conversation_id":"#);
        out.extend_from_slice(conversation.json().as_bytes());
    }

    /// A response up to its first member.
    fn response(&mut self, conversation: &StreamId, out: &mut Vec<u8>) {
        self.n_sent += 1;
        self.begin("VOICE_VA_RESPONSE", self.n_sent, conversation, out);
        out.extend_from_slice(br#","payload":{"#);
    }

    /// A response that tells of this. It is the last of what was being said.
    fn event(&mut self, name: &str, conversation: &StreamId, out: &mut Vec<u8>) {
        self.response(conversation, out);
        write!(
            out,
            r#""output_events":[{{"event_type":"{name}"}}],"response_type":"FINAL"}}}}"#
        )
        .expect("writing to memory cannot fail");
        self.is_replying = false;
    }
}

/// The one encoding that comes, and its rate.
const ENCODING: &str = "MULAW_FORMAT";
const RATE: &str = "8000";

/// A key by its name.
fn key(name: &str) -> Option<Digit> {
    let key = match name.strip_prefix("DTMF_DIGIT_")? {
        "ZERO" => '0',
        "ONE" => '1',
        "TWO" => '2',
        "THREE" => '3',
        "FOUR" => '4',
        "FIVE" => '5',
        "SIX" => '6',
        "SEVEN" => '7',
        "EIGHT" => '8',
        "NINE" => '9',
        "STAR" => '*',
        "POUND" => '#',
        letter => return Digit::only(letter).filter(|key| key.as_char().is_ascii_alphabetic()),
    };
    Digit::new(key)
}

/// The parts of a message of audio that matter.
struct UsualAudio<'a> {
    time: &'a str,
    conversation: &'a str,
    audio: &'a str,
}

/// The parts of `text`, if it is a request with audio as Webex writes it.
fn usual_audio(text: &str) -> Option<UsualAudio<'_>> {
    let mut scanner = Scanner::new(text);
    let (mut kind, mut seq, mut time, mut conversation) = (None, None, None, None);
    let (mut payload, mut inner, mut org, mut agent, mut partial) = (None, None, None, None, None);
    let (mut input, mut body, mut data, mut encoding) = (None, None, None, None);
    let (mut rate, mut stamp, mut language, mut single) = (None, None, None, None);
    scanner.object(|scanner, member| match member {
        "type" => once(&mut kind, scanner.string()?),
        "seq" => once(&mut seq, scanner.scalar()?),
        "ts" => once(&mut time, scanner.string()?),
        "conversation_id" => once(&mut conversation, scanner.string()?),
        "payload" if payload.replace(()).is_none() => {
            scanner.object(|scanner, member| match member {
                "conversation_id" => once(&mut inner, scanner.string()?),
                "customer_org_id" => once(&mut org, scanner.string()?),
                "virtual_agent_id" => once(&mut agent, scanner.string()?),
                "allow_partial_responses" => once(&mut partial, scanner.literal()?),
                "voice_va_input_type" if input.replace(()).is_none() => {
                    scanner.object(|scanner, member| match member {
                        "audio_input" if body.replace(()).is_none() => {
                            scanner.object(|scanner, member| match member {
                                "caller_audio_b64" => once(&mut data, scanner.base64()?),
                                "encoding" => once(&mut encoding, scanner.string()?),
                                "sample_rate_hertz" => once(&mut rate, scanner.scalar()?),
                                "audio_timestamp" => once(&mut stamp, scanner.string()?),
                                "language_code" => once(&mut language, scanner.string()?),
                                "is_single_utterance" => once(&mut single, scanner.literal()?),
                                _ => None,
                            })
                        }
                        _ => None,
                    })
                }
                _ => None,
            })
        }
        _ => None,
    })?;
    let is_usual = scanner.is_at_end()
        && kind? == "VOICE_VA_REQUEST"
        && encoding? == ENCODING
        && rate? == RATE;
    is_usual.then_some(UsualAudio {
        time: time?,
        conversation: conversation?,
        audio: data?,
    })
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    seq: Option<Scalar>,
    ts: Option<Scalar>,
    conversation_id: Option<Scalar>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// What somebody attached to the call.
type Attached<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct Request<'a> {
    customer_org_id: Option<Scalar>,
    virtual_agent_id: Option<Scalar>,
    vendor_specific_config: Option<Scalar>,
    #[serde(borrow)]
    additional_info: Option<Attached<'a>>,
    #[serde(borrow)]
    voice_va_input_type: Option<&'a RawValue>,
}

/// One of these.
#[derive(Default, Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    audio_input: Option<&'a RawValue>,
    #[serde(borrow)]
    dtmf_input: Option<&'a RawValue>,
    #[serde(borrow)]
    event_input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AudioInput {
    caller_audio_b64: Option<String>,
    encoding: Option<String>,
    sample_rate_hertz: Option<Scalar>,
}

#[derive(Deserialize)]
struct DtmfInput {
    dtmf_events: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct EventInput<'a> {
    event_type: Option<String>,
    #[serde(borrow)]
    parameters: Option<Attached<'a>>,
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn request(input: &Value) -> String {
        json!({
            "type": "VOICE_VA_REQUEST", "seq": 2, "ts": "2026-11-20T08:20:30.123Z",
            "conversation_id": "c-1",
            "payload": {"conversation_id": "c-1", "customer_org_id": "o-1", "voice_va_input_type": input},
        })
        .to_string()
    }

    fn event(name: &str) -> String {
        request(&json!({"event_input": {"event_type": name}}))
    }

    fn audio(bytes: &[u8], encoding: &str, rate: u32) -> String {
        let data = BASE64.encode(bytes);
        let input =
            json!({"caller_audio_b64": data, "encoding": encoding, "sample_rate_hertz": rate});
        request(&json!({"audio_input": input}))
    }

    fn started() -> Webex {
        let mut dialect = Webex::default();
        let event = dialect.decode(Incoming::Text(&event("SESSION_START")), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn check(dialect: &mut Webex, text: &str, expected: Result<CallerEvent, DialectError>) {
        let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
        assert_eq!(event, expected, "{text}");
    }

    fn said(dialect: &mut Webex, command: CallerCommand<'_>) -> Value {
        let mut out = Vec::new();
        match dialect.encode(command, &mut out) {
            Outgoing::Text => serde_json::from_slice(&out).unwrap(),
            Outgoing::Binary => panic!("binary"),
            Outgoing::Nothing => Value::Null,
        }
    }

    /// Every reply is closed by exactly one `FINAL`, which has no audio (telephony reference 12.1; guide, step 3.2).
    #[test]
    fn a_reply_ends_in_one_final() {
        let mut dialect = started();
        for number in 1..4 {
            let chunk = said(&mut dialect, CallerCommand::Audio(&[1; 1_600]));
            assert_eq!(chunk["seq"], number);
            assert_eq!(chunk["payload"]["response_type"], "CHUNK");
            assert_eq!(chunk["payload"]["output_events"], Value::Null);
        }
        let last = said(&mut dialect, CallerCommand::ReplyEnded);
        assert_eq!(last["payload"]["response_type"], "FINAL");
        assert_eq!(last["payload"]["prompts"][0]["audio_content_b64"], "");
        assert_eq!(said(&mut dialect, CallerCommand::ReplyEnded), Value::Null);
    }

    /// `START_OF_INPUT` stops what is played and closes the reply; `END_OF_INPUT` belongs to it and to nothing else.
    #[test]
    fn an_interruption_is_the_start_of_input() {
        let mut dialect = started();
        said(&mut dialect, CallerCommand::Audio(&[1; 1_600]));
        let clear = said(&mut dialect, CallerCommand::Clear);
        assert_eq!(
            clear["payload"]["output_events"][0]["event_type"],
            "START_OF_INPUT"
        );
        assert_eq!(clear["payload"]["response_type"], "FINAL");
        assert_eq!(said(&mut dialect, CallerCommand::Clear), Value::Null);
        assert_eq!(said(&mut dialect, CallerCommand::ReplyEnded), Value::Null);
        let next = said(&mut dialect, CallerCommand::Audio(&[1; 1_600]));
        assert_eq!(
            next["payload"]["output_events"][0]["event_type"],
            "END_OF_INPUT"
        );
        let next = said(&mut dialect, CallerCommand::Audio(&[1; 1_600]));
        assert_eq!(next["payload"]["output_events"], Value::Null);
    }

    /// `PONG` has the number of its `PING` (telephony reference 12.1), and comes at any time.
    #[test]
    fn pings_are_answered_with_their_number() {
        let ping =
            r#"{"type":"PING","seq":77,"ts":"2026-11-20T08:20:31Z","conversation_id":"c-1"}"#;
        let mut ended = started();
        check(&mut ended, &event("SESSION_END"), Ok(CallerEvent::Stopped));
        for mut dialect in [Webex::default(), started(), ended] {
            let mut out = Vec::new();
            check(&mut dialect, ping, Ok(CallerEvent::Nothing));
            assert_eq!(dialect.answer(&mut out), Outgoing::Text);
            assert_eq!(
                String::from_utf8(out.clone()).unwrap(),
                ping.replace("PING", "PONG")
            );
            assert_eq!(dialect.answer(&mut out), Outgoing::Nothing);
        }
    }

    /// Keys come together, once all are pressed (guide, step 2).
    #[test]
    fn keys_come_in_a_list() {
        let mut dialect = started();
        check(
            &mut dialect,
            &event("START_OF_DTMF"),
            Ok(CallerEvent::Nothing),
        );
        let keys = ["FOUR", "STAR", "A", "POUND"].map(|name| format!("DTMF_DIGIT_{name}"));
        let text = request(&json!({"dtmf_input": {"dtmf_events": keys}}));
        let mut next = dialect.decode(Incoming::Text(&text), &mut Vec::new()).ok();
        let mut pressed = String::new();
        while let Some(CallerEvent::Dtmf(key)) = next {
            pressed.push(key.as_char());
            next = dialect.more(&mut Vec::new());
        }
        assert_eq!(pressed, "4*A#");
        for unknown in [
            "DTMF_DIGIT_1",
            "DTMF_EVENT_UNSPECIFIED",
            "A",
            "DTMF_DIGIT_E",
        ] {
            let text = request(&json!({"dtmf_input": {"dtmf_events": [unknown]}}));
            check(&mut dialect, &text, Err(DialectError::UnknownDigit));
        }
        let text = request(&json!({"dtmf_input": {"dtmf_events": []}}));
        check(&mut dialect, &text, Ok(CallerEvent::Nothing));
    }

    /// The schema has more encodings; the guide says that mu-law at 8 kHz is what comes.
    #[test]
    fn only_ulaw_is_spoken() {
        let format = Err(DialectError::UnsupportedFormat);
        check(
            &mut started(),
            &audio(&[1], "MULAW_FORMAT", 8_000),
            Ok(CallerEvent::Audio),
        );
        check(
            &mut started(),
            &audio(&[], "MULAW_FORMAT", 8_000),
            Ok(CallerEvent::Nothing),
        );
        check(
            &mut started(),
            &audio(&[1], "MULAW_FORMAT", 16_000),
            format.clone(),
        );
        check(
            &mut started(),
            &audio(&[1, 2], "LINEAR16_FORMAT", 8_000),
            format,
        );
        let mut fresh = Webex::default();
        let early = audio(&[1], "MULAW_FORMAT", 8_000);
        check(&mut fresh, &early, Err(DialectError::BeforeStart));
        let other = audio(&[1], "MULAW_FORMAT", 8_000).replace("c-1", "c-2");
        check(&mut started(), &other, Err(DialectError::WrongStream));
    }

    /// What the scanner reads, the parser reads alike.
    #[test]
    fn the_usual_form_is_read_alike() {
        let (mut dialect, mut quick, mut slow) = (started(), Vec::new(), Vec::new());
        let text = audio(&[1, 2, 3], "MULAW_FORMAT", 8_000);
        assert!(usual_audio(&text).is_some());
        let unusual = text.replacen('{', r#"{"metadata":{},"#, 1);
        assert!(usual_audio(&unusual).is_none());
        dialect.decode(Incoming::Text(&text), &mut quick).unwrap();
        dialect.decode(Incoming::Text(&unusual), &mut slow).unwrap();
        assert_eq!((&quick, &slow), (&vec![1, 2, 3], &vec![1, 2, 3]));
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(
            messages in proptest::collection::vec((
                prop_oneof![
                    Just(event("SESSION_START")), Just(event("SESSION_END")), any::<String>(),
                    Just(audio(&[1, 2], "MULAW_FORMAT", 8_000)),
                    Just(request(&json!({"dtmf_input": {"dtmf_events": ["DTMF_DIGIT_ONE", "DTMF_DIGIT_TWO"]}}))),
                ],
                any::<Option<u8>>(), any::<prop::sample::Index>(),
            ), 1..8),
        ) {
            let (mut dialect, mut audio, mut out) = (Webex::default(), Vec::new(), Vec::new());
            for (text, byte, at) in messages {
                let mut text = text.into_bytes();
                if let (Some(byte), false) = (byte, text.is_empty()) {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
                let text = String::from_utf8_lossy(&text).into_owned();
                let mut event = dialect.decode(Incoming::Text(&text), &mut audio).ok();
                while let Some(found) = event {
                    prop_assert_eq!(found == CallerEvent::Audio, !audio.is_empty());
                    event = dialect.more(&mut audio);
                }
                while dialect.answer(&mut out) != Outgoing::Nothing {
                    prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
                }
            }
        }
    }
}
