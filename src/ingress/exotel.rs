//! Exotel's Voicebot applet, bidirectional (telephony reference 6): [`Twilio`]'s messages in snake_case, PCM16 at 8, 16 or
//! 24 kHz, about 100 ms at a time.
//!
//! Read by `twilio.rs`, which says what happens when the peer does not keep to the rules; ids are read in snake_case and
//! camelCase. Written here, in snake_case. A `clear` from Exotel has no effect: when a caller interrupts is the model's to say. It does
//! not look at who calls, and hanging up is closing the socket.

use std::io::Write;

use super::twilio::Manner;
use super::{Capabilities, CredentialIn, DialectError, Head, Ignored, Incoming, Lead, Outgoing};
use super::{Speak, Twilio};
use crate::call::{CallerCommand, CallerEvent};
use crate::media::SampleRate;
use crate::realtime::encode_audio;

/// One stream by Exotel.
#[derive(Clone, Debug)]
pub struct Exotel {
    inner: Twilio,
    /// Of the messages and of the audio among them, so far.
    n_messages: u64,
    n_chunks: u64,
    /// Audio so far, in ms.
    sent_ms: u64,
}

impl Default for Exotel {
    fn default() -> Self {
        Self::at(SampleRate::HZ_8000)
    }
}

impl Speak for Exotel {
    const NAME: &'static str = "exotel";

    const PATH: &'static str = "/exotel/media";

    /// Sources: telephony reference 6.2 (3200 bytes at least, which is 200 ms at 8 kHz, multiples of 320; what a clear does to
    /// marks is not said), 6.1 (credentials in the address), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        chunk_frames: 10,
        lead: Lead::between_ms(250, 300),
        credential: CredentialIn::Basic,
        ..Twilio::CAPABILITIES
    };

    fn ignored(&self) -> Ignored {
        self.inner.ignored()
    }

    fn opened(&mut self, head: &Head<'_>) {
        let parameters = head.parameters();
        let rate = parameters.get("sample-rate");
        let rate = rate.and_then(|rate| SampleRate::new(rate.parse().ok()?));
        if let Some(rate) = rate {
            *self = Self::at(rate);
        }
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        self.inner.read(message, audio)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        let Some((sid, format)) = self.inner.stream() else {
            return Outgoing::Nothing;
        };
        let number = self.n_messages + 1;
        let mut begin = |event: &str| {
            write!(
                out,
                r#"{{"event":"{event}","sequence_number":"{number}","stream_sid":{sid}"#
            )
            .expect("writing to memory cannot fail");
        };
        match command {
            CallerCommand::Audio([]) => return Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                begin("media");
                self.n_chunks += 1;
                let (chunk, timestamp) = (self.n_chunks, self.sent_ms);
                write!(
                    out,
                    r#","media":{{"chunk":"{chunk}","timestamp":"{timestamp}","payload":""#
                )
                .expect("writing to memory cannot fail");
                encode_audio(audio, out);
                out.extend_from_slice(br#""}}"#);
                let length = format.duration_of(audio.len()).unwrap_or_default();
                self.sent_ms += length.as_millis() as u64;
            }
            CallerCommand::Mark(mark) => {
                begin("mark");
                write!(out, r#","mark":{{"name":"{mark}"}}}}"#)
                    .expect("writing to memory cannot fail");
            }
            CallerCommand::Clear => {
                begin("clear");
                out.push(b'}');
            }
            CallerCommand::Started { .. }
            | CallerCommand::ReplyEnded
            | CallerCommand::Keys(_)
            | CallerCommand::Transcript { .. }
            | CallerCommand::Error { .. }
            | CallerCommand::End { .. } => return Outgoing::Nothing,
        }
        self.n_messages = number;
        Outgoing::Text
    }
}

impl Exotel {
    /// A stream at that rate, unless its start says otherwise.
    fn at(rate: SampleRate) -> Self {
        Self {
            inner: Twilio::of(Manner::Exotel(rate)),
            n_messages: 0,
            n_chunks: 0,
            sent_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::media::{AudioFormat, Codec, FRAME};

    fn started(mut dialect: Exotel, format: Value) -> (Exotel, AudioFormat) {
        let mut start = json!({"stream_sid": "s-1", "call_sid": "c-1", "media_format": format});
        if start["media_format"].is_null() {
            start.as_object_mut().unwrap().remove("media_format");
        }
        let text = json!({"event": "start", "stream_sid": "s-1", "start": start}).to_string();
        match dialect.decode(Incoming::Text(&text), &mut Vec::new()) {
            Ok(CallerEvent::Started(info)) => (dialect, info.output),
            other => panic!("{text}: {other:?}"),
        }
    }

    /// At least 3200 bytes and 100 ms, at most 100 KB, and multiples of 320 bytes, or gaps appear (telephony reference 6.2).
    #[test]
    fn messages_are_of_the_size_that_is_played_without_gaps() {
        for rate in [8_000, 16_000, 24_000] {
            let bytes = rate * 2 * FRAME.as_millis() as usize / 1_000;
            let bytes = bytes * Exotel::CAPABILITIES.chunk_frames;
            assert!(
                (3_200..=100_000).contains(&bytes) && bytes.is_multiple_of(320),
                "{bytes}"
            );
        }
    }

    /// Some streams dropped early until `media` had chunk, timestamp and sequence number (telephony reference 6.2).
    #[test]
    fn audio_is_numbered() {
        let (mut dialect, _) = started(Exotel::default(), Value::Null);
        let mut out = Vec::new();
        let mut sent = |command| -> Value {
            assert_eq!(dialect.encode(command, &mut out), Outgoing::Text);
            serde_json::from_slice(&out).unwrap()
        };
        let media = |number: &str, chunk: &str, timestamp: &str, payload: &str| {
            let media = json!({"chunk": chunk, "timestamp": timestamp, "payload": payload});
            json!({"event": "media", "sequence_number": number, "stream_sid": "s-1", "media": media})
        };
        let audio = [0; 3_200];
        let first = sent(CallerCommand::Audio(&audio));
        assert_eq!(first["media"]["timestamp"], "0");
        assert_eq!(
            sent(CallerCommand::Audio(&[1, 2])),
            media("2", "2", "200", "AQI=")
        );
        let clear = json!({"event": "clear", "sequence_number": "3", "stream_sid": "s-1"});
        assert_eq!(sent(CallerCommand::Clear), clear);
    }

    /// `media_format` counts; one guide claims mu-law (telephony reference 6.2), and the query asks for the rate (6.1).
    #[test]
    fn the_format_is_what_start_says_or_else_the_query() {
        let check = |query: Option<&str>, format: Value, codec, rate| {
            let mut dialect = Exotel::default();
            let headers = HeaderMap::new();
            dialect.opened(&Head::new(query, &headers));
            let rate = SampleRate::new(rate).unwrap();
            assert_eq!(
                started(dialect, format.clone()).1,
                AudioFormat { codec, rate },
                "{format}"
            );
        };
        let said = json!({"encoding": "base64", "sample_rate": "16000", "bit_rate": "256kbps"});
        check(None, said.clone(), Codec::Pcm16, 16_000);
        check(Some("sample-rate=24000"), said, Codec::Pcm16, 16_000);
        check(Some("sample-rate=24000"), Value::Null, Codec::Pcm16, 24_000);
        check(Some("sample-rate=fast"), Value::Null, Codec::Pcm16, 8_000);
        let ulaw = json!({"encoding": "audio/x-mulaw", "sample_rate": "8000"});
        check(None, ulaw, Codec::Ulaw, 8_000);
    }

    /// The user's side resets in some flows (telephony reference 6.2): it ends nothing and counts as nothing strange.
    #[test]
    fn a_clear_from_exotel_has_no_effect() {
        let (mut dialect, _) = started(Exotel::default(), Value::Null);
        let clear = r#"{"event":"clear","stream_sid":"s-1"}"#;
        let event = dialect.decode(Incoming::Text(clear), &mut Vec::new());
        assert_eq!(event, Ok(CallerEvent::Nothing));
        assert_eq!(dialect.ignored(), Ignored::default());
    }

    proptest! {
        #[test]
        fn total(text in any::<String>()) {
            let _ = Exotel::default().decode(Incoming::Text(&text), &mut Vec::new());
        }
    }
}
