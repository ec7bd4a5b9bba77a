//! FreeSWITCH's `mod_audio_stream` (telephony reference 10.1), the edition that plays binary messages by itself (from
//! 1.0.3 on). The free edition plays files after the fact, which is no conversation; it is not spoken to.
//!
//! Nothing says what the audio is, so that the address has to: `rate` (8000 unless said, as `uuid_audio_stream`
//! starts) and `mix=stereo`. Any text may come at any time: the first is the metadata that the dialplan gave, later
//! ones are what it sends by `send_text`. No text is therefore wrong, and none of the later means anything.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | audio before any text | it begins the call |
//! | a first text that is no JSON object | it begins the call, and is its parameter `metadata` |
//! | a later text | counted, no effect |
//! | audio of any length | taken as it is: a begun sample waits for its rest |
//!
//! Keys, clearing and the end of the call are the event socket's affair, not this one's.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::interleaved::Interleaved;
use super::json;
use super::{Capabilities, DialectError, Head, Ignored, Incoming, Lead, Outgoing, Speak, ignore};
use crate::call::{CallInfo, CallerCommand, CallerEvent};
use crate::media::{AudioFormat, Codec, SampleRate};

/// The largest message that is read, in bytes: `STREAM_BUFFER_SIZE` may ask for seconds of audio in one.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// The longest metadata that is kept, in bytes (what its relative `mod_audio_fork` allows).
const MAX_METADATA_BYTES: usize = 8 * 1024;

/// One stream of `mod_audio_stream`.
#[derive(Clone, Debug, Default)]
pub struct FreeSwitch {
    /// Of the upgrade request.
    parameters: BTreeMap<String, String>,
    is_started: bool,
    caller: Interleaved,
    /// Audio that came with the start.
    held: Vec<u8>,
    ignored: Ignored,
}

impl Speak for FreeSwitch {
    const NAME: &'static str = "freeswitch";

    const PATH: &'static str = "/freeswitch/media";

    /// Source: telephony reference 10.1. The lead is as of other lines that cannot be cleared.
    const CAPABILITIES: Capabilities = Capabilities {
        lead: Lead::between_ms(0, 100),
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
            Incoming::Binary(bytes) if self.is_started => {
                self.caller.read(bytes, audio);
                Ok(match audio.is_empty() {
                    true => CallerEvent::Nothing,
                    false => CallerEvent::Audio,
                })
            }
            Incoming::Binary(bytes) => {
                let started = self.started(BTreeMap::new())?;
                self.caller.read(bytes, &mut self.held);
                Ok(started)
            }
            Incoming::Text(_) if self.is_started => Ok(ignore(&mut self.ignored.unknown_events)),
            Incoming::Text(text) if text.len() > MAX_METADATA_BYTES => {
                Err(DialectError::TooLarge {
                    limit: MAX_METADATA_BYTES,
                })
            }
            Incoming::Text("") => self.started(BTreeMap::new()),
            Incoming::Text(text) => self.started(metadata(text)),
        }
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        std::mem::swap(audio, &mut self.held);
        (!audio.is_empty()).then_some(CallerEvent::Audio)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        match command {
            CallerCommand::Audio(audio) if self.is_started && !audio.is_empty() => {
                out.extend_from_slice(audio);
                Outgoing::Binary
            }
            _ => Outgoing::Nothing,
        }
    }
}

impl FreeSwitch {
    fn started(&mut self, metadata: BTreeMap<String, String>) -> Result<CallerEvent, DialectError> {
        let mut parameters = self.parameters.clone();
        let (rate, mix) = (parameters.remove("rate"), parameters.remove("mix"));
        let rate = match rate.as_deref() {
            None | Some("8000" | "8k") => SampleRate::HZ_8000,
            Some("16000" | "16k") => SampleRate::HZ_16000,
            Some(_) => return Err(DialectError::UnsupportedFormat),
        };
        parameters.extend(metadata);
        self.caller = Interleaved::of(mix.as_deref());
        self.is_started = true;
        let format = AudioFormat {
            codec: Codec::Pcm16,
            rate,
        };
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: None,
            provider_stream_id: None,
            input: format,
            output: format,
            parameters,
        })))
    }
}

/// What the dialplan gave: the members of an object, or else the text as it is.
fn metadata(text: &str) -> BTreeMap<String, String> {
    let is_sound = json::check(text.as_bytes()).is_ok();
    let members = json::parse::<BTreeMap<String, &RawValue>>(text, "metadata");
    match members {
        Ok(members) if is_sound => members.into_iter().filter_map(json::as_parameter).collect(),
        _ => BTreeMap::from([("metadata".to_owned(), text.to_owned())]),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    /// The metadata is any text (telephony reference 10.1), and may be none.
    #[test]
    fn a_call_begins_with_whatever_comes_first() {
        let check = |message: Incoming<'_>, expected: &[(&str, &str)]| {
            let (mut dialect, mut audio) = (FreeSwitch::default(), Vec::new());
            let query = Some("rate=16000&mix=stereo");
            dialect.opened(&Head::new(query, &HeaderMap::new()));
            let Ok(CallerEvent::Started(info)) = dialect.decode(message, &mut audio) else {
                panic!("{message:?}");
            };
            assert_eq!(info.input.rate, SampleRate::HZ_16000);
            let got = info.parameters.iter();
            let got: Vec<_> = got.map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(got, expected, "{message:?}");
            let is_binary = matches!(message, Incoming::Binary(_));
            assert_eq!(dialect.more(&mut audio).is_some(), is_binary);
        };
        check(
            Incoming::Text(r#"{"a":1,"b":"c"}"#),
            &[("a", "1"), ("b", "c")],
        );
        check(Incoming::Text("call 7"), &[("metadata", "call 7")]);
        check(Incoming::Text(""), &[]);
        check(Incoming::Binary(&[1, 2, 3, 4]), &[]);
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_audio(
            texts in proptest::collection::vec(any::<String>(), 1..4),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (mut dialect, mut audio) = (FreeSwitch::default(), Vec::new());
            for text in &texts {
                for message in [Incoming::Text(text), Incoming::Binary(&bytes)] {
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
