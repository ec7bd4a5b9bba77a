//! Vonage Voice API WebSockets (telephony reference 3): PCM16 in binary messages, JSON texts for the rest.
//!
//! The first text says the rate, with what the application attached laid flat beside it. Audio goes out in messages
//! of exactly 20 ms. `notify` is Vonage's mark: it comes back when played, and never if a clear threw it away.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | audio, a key, `notify` or `cleared` before `websocket:connected` | error, the call ends |
//! | the same `websocket:connected` again | counted, no effect |
//! | one of another rate | error, the call ends |
//! | an event of another name, or none | counted, no effect |
//! | a `notify` that is not ours | counted, no effect |
//! | audio of any length, even of half a sample | taken as it is: the rest comes with the next message |
//! | an empty binary message | counted, no effect |
//!
//! There is no message for the end: the socket closes. Who calls is proved by a token that is not looked at here.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Scalar};
use super::{
    Capabilities, Clear, CredentialIn, DialectError, Head, Ignored, Incoming, Lead, Marks,
    Outgoing, Speak, ignore, pressed,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent, Mark};
use crate::media::{AudioFormat, Codec, SampleRate};

/// The largest message that is read, in bytes: 1.3 s at 24 kHz, where Vonage sends 20 ms.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// One leg of a Vonage conversation.
#[derive(Clone, Debug, Default)]
pub struct Vonage {
    /// Of the upgrade request.
    parameters: BTreeMap<String, String>,
    /// Known once `websocket:connected` came.
    format: Option<AudioFormat>,
    ignored: Ignored,
}

impl Speak for Vonage {
    const NAME: &'static str = "vonage";

    const PATH: &'static str = "/vonage/media";

    /// Sources: telephony reference 3.2 (keys, clear), 3.3 (a cleared notify never comes), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        marks: Marks::EchoedWhenPlayed,
        clear: Clear::Command,
        keys_in: true,
        lead: Lead::between_ms(200, 400),
        credential: CredentialIn::NotJwt,
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
            Incoming::Binary(_) if self.format.is_none() => Err(DialectError::BeforeStart),
            Incoming::Binary([]) => Ok(ignore(&mut self.ignored.empty_audio)),
            Incoming::Binary(bytes) => {
                audio.extend_from_slice(bytes);
                Ok(CallerEvent::Audio)
            }
        }
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        if self.format.is_none() {
            return Outgoing::Nothing;
        }
        match command {
            CallerCommand::Audio([]) => Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                out.extend_from_slice(audio);
                Outgoing::Binary
            }
            CallerCommand::Mark(mark) => {
                write!(
                    out,
                    r#"{{"action":"notify","payload":{{"mark":"{mark}"}}}}"#
                )
                .expect("writing to memory cannot fail");
                Outgoing::Text
            }
            CallerCommand::Clear => {
                out.extend_from_slice(br#"{"action":"clear"}"#);
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

impl Vonage {
    /// Whether the call has begun.
    pub(super) const fn is_started(&self) -> bool {
        self.format.is_some()
    }

    fn control(&mut self, text: &str) -> Result<CallerEvent, DialectError> {
        json::check(text.as_bytes())?;
        let envelope: Envelope<'_> = json::parse(text, "envelope")?;
        match (envelope.event.as_deref(), self.format) {
            (Some("websocket:connected"), _) => self.connected(text),
            (_, None) => Err(DialectError::BeforeStart),
            (Some("websocket:dtmf"), Some(_)) => key(&envelope),
            // An older form has no event.
            (None, Some(_)) if envelope.dtmf.is_some() => key(&envelope),
            (Some("websocket:notify"), Some(_)) => Ok(match mark(&envelope) {
                Some(mark) => CallerEvent::MarkReached(mark),
                None => ignore(&mut self.ignored.foreign_marks),
            }),
            // Of a generation that is over: the call needs no confirmation, and a late one must not stop anything.
            (Some("websocket:cleared"), Some(_)) => Ok(CallerEvent::Nothing),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn connected(&mut self, text: &str) -> Result<CallerEvent, DialectError> {
        let members: BTreeMap<String, &RawValue> = json::parse(text, "websocket:connected")?;
        let content_type = members
            .get("content-type")
            .ok_or(DialectError::MissingField {
                field: "content-type",
            })?;
        let content_type: String = json::value(content_type, "websocket:connected")?;
        let format = AudioFormat {
            codec: Codec::Pcm16,
            rate: rate_of(&content_type).ok_or(DialectError::UnsupportedFormat)?,
        };
        if let Some(known) = self.format {
            if known != format {
                return Err(DialectError::SecondStart);
            }
            return Ok(ignore(&mut self.ignored.repeated_starts));
        }
        self.format = Some(format);
        let mut parameters = std::mem::take(&mut self.parameters);
        let attached = members
            .into_iter()
            .filter(|(name, _)| !matches!(name.as_str(), "event" | "content-type"));
        parameters.extend(attached.filter_map(json::as_parameter));
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: None,
            provider_stream_id: None,
            input: format,
            output: format,
            parameters,
        })))
    }
}

/// The rate of `audio/l16;rate=16000`. Vonage makes 8, 16 and 24 kHz; Infobip's relative is said to go up to 48.
fn rate_of(content_type: &str) -> Option<SampleRate> {
    let mut parts = content_type.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("audio/l16") {
        return None;
    }
    let value = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("rate")
            .then_some(value.trim())
    });
    SampleRate::new(value?.parse().ok()?)
}

fn key(envelope: &Envelope<'_>) -> Result<CallerEvent, DialectError> {
    let text = envelope.digit.as_ref().or(envelope.dtmf.as_ref());
    let text = text.ok_or(DialectError::MissingField { field: "digit" })?;
    pressed(&text.0)
}

/// The mark of a notify, if it is one of ours.
fn mark(envelope: &Envelope<'_>) -> Option<Mark> {
    let payload: Notified = serde_json::from_str(envelope.payload?.get()).ok()?;
    Mark::parse(&payload.mark)
}

#[derive(Deserialize)]
struct Envelope<'a> {
    event: Option<String>,
    digit: Option<Scalar>,
    dtmf: Option<Scalar>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Notified {
    mark: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::call::Digit;

    const CONNECTED: &str =
        r#"{"event":"websocket:connected","content-type":"audio/l16;rate=16000","tenant":"t1"}"#;

    fn started() -> Vonage {
        let mut dialect = Vonage::default();
        let event = dialect.decode(Incoming::Text(CONNECTED), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn check(dialect: &mut Vonage, text: &str, expected: Result<CallerEvent, DialectError>) {
        let event = dialect.decode(Incoming::Text(text), &mut Vec::new());
        assert_eq!(event, expected, "{text}");
    }

    #[test]
    fn the_content_type_says_the_rate() {
        let check = |text, hz: Option<u32>| {
            assert_eq!(rate_of(text).map(SampleRate::hz), hz, "{text}");
        };
        check("audio/l16;rate=8000", Some(8_000));
        check("audio/L16; rate=16000", Some(16_000));
        check("audio/l16;channels=1;rate=24000", Some(24_000));
        for bad in ["", "audio/l16", "audio/pcmu;rate=8000", "audio/l16;rate=x"] {
            check(bad, None);
        }
    }

    /// Clear cancels what was to be notified, and its confirmation may come when the next reply has begun
    /// (telephony reference 3.3): it must do nothing.
    #[test]
    fn a_late_cleared_stops_nothing() {
        let mut dialect = started();
        let mut out = Vec::new();
        dialect.encode(CallerCommand::Clear, &mut out);
        assert_eq!(out, br#"{"action":"clear"}"#);
        let before = dialect.ignored();
        check(
            &mut dialect,
            r#"{"event":"websocket:cleared"}"#,
            Ok(CallerEvent::Nothing),
        );
        assert_eq!(dialect.ignored(), before);
    }

    /// A notify comes back as it was sent (telephony reference 3.2); others may send some too.
    #[test]
    fn a_notify_is_a_mark() {
        let mut dialect = started();
        let (mark, mut out) = (Mark::parse("g7-12").unwrap(), Vec::new());
        dialect.encode(CallerCommand::Mark(mark), &mut out);
        assert_eq!(out, br#"{"action":"notify","payload":{"mark":"g7-12"}}"#);
        check(
            &mut dialect,
            r#"{"event":"websocket:notify","payload":{"mark":"g7-12"}}"#,
            Ok(CallerEvent::MarkReached(mark)),
        );
        for foreign in ["{}", "7", "null", r#"{"mark":"x"}"#] {
            let text = format!(r#"{{"event":"websocket:notify","payload":{foreign}}}"#);
            check(&mut dialect, &text, Ok(CallerEvent::Nothing));
        }
        assert_eq!(dialect.ignored().foreign_marks, 4);
    }

    /// Older applications get keys without an event (telephony reference 3.2).
    #[test]
    fn a_key_has_two_forms() {
        let key = Ok(CallerEvent::Dtmf(Digit::new('5').unwrap()));
        for text in [
            r#"{"event":"websocket:dtmf","digit":"5","duration":260}"#,
            r#"{"event":"websocket:dtmf","digit":5}"#,
            r#"{"dtmf":"5"}"#,
        ] {
            check(&mut started(), text, key.clone());
        }
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(
            texts in proptest::collection::vec((
                prop_oneof![
                    Just(CONNECTED.to_owned()), any::<String>(),
                    Just(r#"{"event":"websocket:notify","payload":{"mark":"g0-1"}}"#.to_owned()),
                    Just(r#"{"event":"websocket:dtmf","digit":"5"}"#.to_owned()),
                ],
                any::<Option<u8>>(), any::<prop::sample::Index>(),
            ), 1..6),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (mut dialect, mut audio) = (Vonage::default(), Vec::new());
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
                }
            }
        }
    }
}
