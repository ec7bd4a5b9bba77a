//! Azure Communication Services, Call Automation's bidirectional audio streaming (telephony reference 7).
//!
//! Azure's messages are JSON texts with a `kind`; names are read in any case, because its .NET and JS sides write
//! them differently. 50 times a second comes `AudioData` of 20 ms, PCM16 mono at 16 or 24 kHz.
//!
//! When the peer does not keep the order `AudioMetadata`, then `AudioData` and `DtmfData`:
//!
//! | what comes | what happens |
//! |---|---|
//! | `AudioData` before `AudioMetadata` | the last second of it is held, and follows the start |
//! | `DtmfData` before `AudioMetadata` | error, the call ends |
//! | the same `AudioMetadata` again | counted, no effect |
//! | another `AudioMetadata` | error, the call ends |
//! | a message of another kind, as of transcriptions | counted, no effect |
//! | audio of a second speaker, where channels are not mixed | counted, no effect: the first to be heard is the caller |
//! | binary | error, the call ends |
//!
//! Azure says nothing of what it played, and the end of the call is the end of the socket. Its newer `mark` is not used.
//! Who calls is proved by a token that is not looked at here.

use std::collections::{BTreeMap, VecDeque};

use super::json::{self, Scalar};
use super::scan::{Scanner, once};
use super::{
    Capabilities, Clear, CredentialIn, DialectError, Head, Ignored, Incoming, Lead, Outgoing,
    Speak, ignore, pressed,
};
use crate::call::{CallInfo, CallerCommand, CallerEvent};
use crate::media::{AudioFormat, Codec, SampleRate};
use crate::realtime::{decode_audio, encode_audio};

/// The largest message that Azure sends, in bytes (telephony reference 7.2).
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A second at 24 kHz: what may come before it is known what it is (telephony reference 18.2).
const MAX_HELD_BYTES: usize = 2 * 24_000;

/// Longest id that is kept, in bytes. Azure's are GUIDs and numbers.
const MAX_ID_BYTES: usize = 256;

/// One call by Azure Communication Services.
#[derive(Clone, Debug, Default)]
pub struct Acs {
    /// Of the upgrade request.
    call_id: Option<String>,
    parameters: BTreeMap<String, String>,
    /// Known once `AudioMetadata` came.
    format: Option<AudioFormat>,
    /// Whose audio is the caller's, where Azure says whose it is.
    speaker: Option<String>,
    /// Audio from before the start.
    held: VecDeque<u8>,
    ignored: Ignored,
}

impl Speak for Acs {
    const NAME: &'static str = "acs";

    const PATH: &'static str = "/acs/media";

    /// Sources: telephony reference 7.2 (no marks, StopAudio, DTMF), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        clear: Clear::Command,
        keys_in: true,
        lead: Lead::between_ms(200, 400),
        credential: CredentialIn::Query,
        max_message_bytes: MAX_MESSAGE_BYTES,
        ..Capabilities::OF_A_PROVIDER
    };

    fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn opened(&mut self, head: &Head<'_>) {
        let id = |name| {
            let value = head.header(name).filter(|id| id.len() <= MAX_ID_BYTES);
            value.map(str::to_owned)
        };
        self.call_id = id("x-ms-call-connection-id");
        self.parameters = head.parameters();
        if let Some(correlation) = id("x-ms-call-correlation-id") {
            self.parameters
                .insert("correlation_id".to_owned(), correlation);
        }
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        let text = message.text()?;
        if self.decode_usual_audio(text, audio) {
            return Ok(CallerEvent::Audio);
        }
        audio.clear();
        self.decode_any(text, audio)
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        if self.format.is_none() || self.held.is_empty() {
            return None;
        }
        audio.extend(self.held.drain(..));
        Some(CallerEvent::Audio)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        if self.format.is_none() {
            return Outgoing::Nothing;
        }
        match command {
            CallerCommand::Audio([]) => Outgoing::Nothing,
            CallerCommand::Audio(audio) => {
                out.extend_from_slice(br#"{"kind":"AudioData","audioData":{"data":""#);
                encode_audio(audio, out);
                out.extend_from_slice(br#""},"stopAudio":null}"#);
                Outgoing::Text
            }
            CallerCommand::Clear => {
                out.extend_from_slice(br#"{"kind":"StopAudio","audioData":null,"stopAudio":{}}"#);
                Outgoing::Text
            }
            CallerCommand::Started { .. }
            | CallerCommand::Mark(_)
            | CallerCommand::ReplyEnded
            | CallerCommand::Keys(_)
            | CallerCommand::Transcript { .. }
            | CallerCommand::Error { .. }
            | CallerCommand::End { .. } => Outgoing::Nothing,
        }
    }
}

impl Acs {
    /// Decodes audio in its usual form. If it is anything else, or bad, `decode_any` decides.
    fn decode_usual_audio(&self, text: &str, audio: &mut Vec<u8>) -> bool {
        let Some(usual) = self.format.and_then(|_| usual_audio(text)) else {
            return false;
        };
        usual.speaker == self.speaker.as_deref()
            && !usual.data.is_empty()
            && decode_audio(usual.data, audio)
            && audio.len().is_multiple_of(2)
    }

    fn decode_any(&mut self, text: &str, audio: &mut Vec<u8>) -> Result<CallerEvent, DialectError> {
        json::check(text.as_bytes())?;
        let message = json::folded(text, "streaming")?;
        let kind = message
            .get("kind")
            .ok_or(DialectError::MissingField { field: "kind" })?;
        let kind: Scalar = json::value(kind, "streaming")?;
        let body = |name: &'static str| {
            message
                .get(name)
                .map(|body| body.get())
                .ok_or(DialectError::MissingField { field: name })
        };
        match kind.0.to_ascii_lowercase().as_str() {
            "audiometadata" => self.metadata(body("audiometadata")?),
            "audiodata" => self.audio(body("audiodata")?, audio),
            "dtmfdata" => self.dtmf(body("dtmfdata")?),
            _ => Ok(ignore(&mut self.ignored.unknown_events)),
        }
    }

    fn metadata(&mut self, body: &str) -> Result<CallerEvent, DialectError> {
        let fields = json::folded(body, "AudioMetadata")?;
        let field = |name: &str| json::optional::<Scalar>(fields.get(name), "AudioMetadata");
        let rate = field("samplerate")?.ok_or(DialectError::MissingField {
            field: "audioMetadata.sampleRate",
        })?;
        let is_pcm = field("encoding")?.is_none_or(|name| name.0.eq_ignore_ascii_case("pcm"));
        // An enumeration in one SDK: "mono".
        let is_mono = field("channels")?
            .is_none_or(|channels| channels.0 == "1" || channels.0.eq_ignore_ascii_case("mono"));
        let rate = match rate.0.as_str() {
            "16000" => SampleRate::HZ_16000,
            "24000" => SampleRate::HZ_24000,
            _ => return Err(DialectError::UnsupportedFormat),
        };
        if !is_pcm || !is_mono {
            return Err(DialectError::UnsupportedFormat);
        }
        let format = AudioFormat {
            codec: Codec::Pcm16,
            rate,
        };
        if let Some(known) = self.format {
            if known != format {
                return Err(DialectError::SecondStart);
            }
            return Ok(ignore(&mut self.ignored.repeated_starts));
        }
        let stream = field("subscriptionid")?.map(|id| id.0);
        self.format = Some(format);
        Ok(CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: self.call_id.take(),
            provider_stream_id: stream.filter(|id| id.len() <= MAX_ID_BYTES),
            input: format,
            output: format,
            parameters: std::mem::take(&mut self.parameters),
        })))
    }

    fn audio(&mut self, body: &str, audio: &mut Vec<u8>) -> Result<CallerEvent, DialectError> {
        let fields = json::folded(body, "AudioData")?;
        let field = |name: &str| json::optional::<String>(fields.get(name), "AudioData");
        let data = field("data")?.ok_or(DialectError::MissingField {
            field: "audioData.data",
        })?;
        let speaker = field("participantrawid")?.filter(|id| !id.is_empty());
        if let Some(speaker) = speaker {
            if speaker.len() > MAX_ID_BYTES {
                return Err(DialectError::TooLarge {
                    limit: MAX_ID_BYTES,
                });
            }
            if *self.speaker.get_or_insert_with(|| speaker.clone()) != speaker {
                return Ok(ignore(&mut self.ignored.other_tracks));
            }
        }
        if data.is_empty() {
            return Ok(ignore(&mut self.ignored.empty_audio));
        }
        if !decode_audio(&data, audio) {
            return Err(DialectError::BadBase64);
        }
        if !audio.len().is_multiple_of(2) {
            audio.clear();
            return Err(DialectError::OddByteCount);
        }
        if self.format.is_some() {
            return Ok(CallerEvent::Audio);
        }
        self.held.extend(audio.drain(..));
        let surplus = self.held.len().saturating_sub(MAX_HELD_BYTES);
        self.held.drain(..surplus);
        Ok(CallerEvent::Nothing)
    }

    fn dtmf(&self, body: &str) -> Result<CallerEvent, DialectError> {
        if self.format.is_none() {
            return Err(DialectError::BeforeStart);
        }
        let fields = json::folded(body, "DtmfData")?;
        let text = json::optional::<Scalar>(fields.get("data"), "DtmfData")?;
        let text = text.ok_or(DialectError::MissingField {
            field: "dtmfData.data",
        })?;
        pressed(&text.0)
    }
}

/// The parts of an `AudioData` message that matter.
struct UsualAudio<'a> {
    speaker: Option<&'a str>,
    data: &'a str,
}

/// The parts of `text`, if it is an `AudioData` message as Azure writes it.
fn usual_audio(text: &str) -> Option<UsualAudio<'_>> {
    let mut scanner = Scanner::new(text);
    let (mut kind, mut data, mut speaker) = (None, None, None);
    let (mut body, mut timestamp, mut silent) = (None, None, None);
    scanner.object(|scanner, key| match key {
        "kind" => once(&mut kind, scanner.string()?),
        "audioData" if body.replace(()).is_none() => scanner.object(|scanner, key| match key {
            "timestamp" => once(&mut timestamp, scanner.string()?),
            "participantRawID" => once(&mut speaker, scanner.string()?),
            "data" => once(&mut data, scanner.base64()?),
            "silent" => once(&mut silent, scanner.literal()?),
            _ => None,
        }),
        _ => None,
    })?;
    (scanner.is_at_end() && kind? == "AudioData").then_some(UsualAudio {
        speaker: speaker.filter(|id| !id.is_empty()),
        data: data?,
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
    use crate::call::Digit;

    const METADATA: &str = r#"{"kind":"AudioMetadata","audioMetadata":{"subscriptionId":"s-1","encoding":"PCM","sampleRate":24000,"channels":1,"length":960}}"#;

    fn started() -> Acs {
        let mut dialect = Acs::default();
        let event = dialect.decode(Incoming::Text(METADATA), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        dialect
    }

    fn audio(bytes: &[u8], silent: bool, speaker: &str) -> String {
        let data = BASE64.encode(bytes);
        format!(
            r#"{{"kind":"AudioData","audioData":{{"timestamp":"2026-01-01T10:00:00.020Z","participantRawID":"{speaker}","data":"{data}","silent":{silent}}}}}"#
        )
    }

    fn check(
        dialect: &mut Acs,
        text: &str,
        expected: Result<CallerEvent, DialectError>,
    ) -> Vec<u8> {
        let mut audio = Vec::new();
        assert_eq!(
            dialect.decode(Incoming::Text(text), &mut audio),
            expected,
            "{text}"
        );
        audio
    }

    /// Vendor samples drop silent frames, and server VAD then measures wrong pauses (telephony reference 7.2).
    #[test]
    fn silent_frames_are_audio() {
        let mut dialect = started();
        for silent in [false, true] {
            let text = audio(&[0, 0, 1, 0], silent, "");
            assert_eq!(
                check(&mut dialect, &text, Ok(CallerEvent::Audio)),
                [0, 0, 1, 0]
            );
        }
    }

    /// The .NET samples write `Kind` and `AudioData`, the JS SDK `kind` and `audioData` (telephony reference 7.2).
    #[test]
    fn names_are_read_in_any_case() {
        let mut dialect = Acs::default();
        let metadata = METADATA
            .replace("\"kind\"", "\"Kind\"")
            .replace("audioMetadata", "AudioMetadata")
            .replace("sampleRate", "SampleRate");
        let event = dialect.decode(Incoming::Text(&metadata), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        let text = r#"{"Kind":"AudioData","AudioData":{"Data":"AQA=","Silent":false}}"#;
        assert_eq!(check(&mut dialect, text, Ok(CallerEvent::Audio)), [1, 0]);
        let text = r#"{"Kind":"DtmfData","DtmfData":{"Data":"5"}}"#;
        let five = Digit::new('5').unwrap();
        check(&mut dialect, text, Ok(CallerEvent::Dtmf(five)));
        let twice = r#"{"kind":"DtmfData","Kind":"AudioData","dtmfData":{"data":"5"}}"#;
        check(&mut dialect, twice, Err(DialectError::DuplicateKey));
    }

    /// First frames may come in a burst, and before what says what they are (telephony reference 16.2, 18.2).
    #[test]
    fn audio_before_the_metadata_follows_the_start() {
        let mut dialect = Acs::default();
        let (mut out, frame) = (Vec::new(), [7; 960]);
        for _ in 0..60 {
            check(
                &mut dialect,
                &audio(&frame, false, ""),
                Ok(CallerEvent::Nothing),
            );
            assert_eq!(dialect.more(&mut out), None);
        }
        let event = dialect.decode(Incoming::Text(METADATA), &mut out);
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        assert_eq!(dialect.more(&mut out), Some(CallerEvent::Audio));
        assert_eq!(out.len(), MAX_HELD_BYTES);
        assert_eq!(dialect.more(&mut out), None);
    }

    /// `audioChannelType = unmixed` sends up to four speakers by participant id (telephony reference 7.1).
    #[test]
    fn of_several_speakers_the_first_is_the_caller() {
        let mut dialect = started();
        check(
            &mut dialect,
            &audio(&[1, 0], false, "4:+15550001111"),
            Ok(CallerEvent::Audio),
        );
        check(
            &mut dialect,
            &audio(&[2, 0], false, "8:acs:x"),
            Ok(CallerEvent::Nothing),
        );
        check(
            &mut dialect,
            &audio(&[3, 0], false, "4:+15550001111"),
            Ok(CallerEvent::Audio),
        );
        assert_eq!(dialect.ignored().other_tracks, 1);
    }

    /// Both PCM rates are the vendor's; nothing else is offered (telephony reference 7.1).
    #[test]
    fn formats_are_the_two_of_the_vendor() {
        let check = |change: (&str, &str), expected: Option<u32>| {
            let text = METADATA.replace(change.0, change.1);
            match Acs::default().decode(Incoming::Text(&text), &mut Vec::new()) {
                Ok(CallerEvent::Started(info)) => {
                    assert_eq!(Some(info.input.rate.hz()), expected, "{text}");
                    assert_eq!(info.input, info.output);
                }
                other => {
                    assert_eq!(other, Err(DialectError::UnsupportedFormat), "{text}");
                    assert_eq!(expected, None, "{text}");
                }
            }
        };
        check(("24000", "24000"), Some(24_000));
        check(("24000", "\"16000\""), Some(16_000));
        check(("24000", "8000"), None);
        check(("\"PCM\"", "\"opus\""), None);
        check(("\"channels\":1", "\"channels\":\"mono\""), Some(24_000));
        check(("\"channels\":1", "\"channels\":2"), None);
    }

    /// What a call is about is in the request, not on the socket (telephony reference 7.2, metadata).
    #[test]
    fn the_request_says_what_the_call_is_about() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-call-connection-id", "c-1".parse().unwrap());
        headers.insert("x-ms-call-correlation-id", "k-1".parse().unwrap());
        let mut dialect = Acs::default();
        dialect.opened(&Head::new(Some("order=4711&ticket=tt_s3cret"), &headers));
        let event = dialect.decode(Incoming::Text(METADATA), &mut Vec::new());
        let Ok(CallerEvent::Started(info)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(info.provider_call_id.as_deref(), Some("c-1"));
        assert_eq!(info.provider_stream_id.as_deref(), Some("s-1"));
        let expected = [("correlation_id", "k-1"), ("order", "4711")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(info.parameters, BTreeMap::from(expected));
    }

    /// Transcriptions may share the socket (telephony reference 7.2).
    #[test]
    fn other_kinds_are_counted() {
        let mut dialect = started();
        for text in [
            r#"{"kind":"TranscriptionData","transcriptionData":{"text":"hello"}}"#,
            r#"{"kind":"MarkData","markData":{"id":"1","status":"completed"}}"#,
            METADATA,
            r#"{"kind":"AudioData","audioData":{"data":"","silent":true}}"#,
        ] {
            check(&mut dialect, text, Ok(CallerEvent::Nothing));
        }
        let ignored = dialect.ignored();
        let counts = (
            ignored.unknown_events,
            ignored.repeated_starts,
            ignored.empty_audio,
        );
        assert_eq!(counts, (2, 1, 1));
    }

    #[test]
    fn says_what_azure_takes() {
        let check = |command, expected: Option<Value>| {
            let mut out = b"left over".to_vec();
            let outgoing = started().encode(command, &mut out);
            match expected {
                None => assert_eq!(outgoing, Outgoing::Nothing),
                Some(expected) => {
                    assert_eq!(outgoing, Outgoing::Text);
                    assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
                }
            }
        };
        check(
            CallerCommand::Audio(&[1, 0]),
            Some(json!({"kind":"AudioData","audioData":{"data":"AQA="},"stopAudio":null})),
        );
        check(
            CallerCommand::Clear,
            Some(json!({"kind":"StopAudio","audioData":null,"stopAudio":{}})),
        );
        check(CallerCommand::Audio(&[]), None);
        check(CallerCommand::End { reason: "r" }, None);
        let mut out = Vec::new();
        assert_eq!(
            Acs::default().encode(CallerCommand::Clear, &mut out),
            Outgoing::Nothing
        );
    }

    fn any_message() -> impl Strategy<Value = String> {
        let silent = prop_oneof![Just("true"), Just("false"), Just("null"), Just("1")];
        let name = prop_oneof![4 => Just("data"), 1 => Just("Data"), 1 => Just("d\\u0061ta")];
        let speaker = prop_oneof![3 => Just(""), 1 => Just("4:+1"), 1 => Just("8:x")];
        let bytes = proptest::collection::vec(any::<u8>(), 0..80);
        let audio = (bytes, silent, name, speaker).prop_map(|(bytes, silent, name, speaker)| {
            let data = BASE64.encode(bytes);
            format!(
                r#"{{"kind":"AudioData","audioData":{{"participantRawID":"{speaker}","{name}":"{data}","silent":{silent}}}}}"#
            )
        });
        let valid = prop_oneof![3 => audio, 1 => Just(METADATA.to_owned())];
        let mutated = (valid.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
            |(text, at, byte)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                String::from_utf8_lossy(&bytes).into_owned()
            },
        );
        prop_oneof![valid, mutated, any::<String>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn total_and_the_scanner_agrees(texts in proptest::collection::vec(any_message(), 1..6), start in any::<bool>()) {
            let mut dialect = if start { started() } else { Acs::default() };
            let (mut audio, mut scanned) = (Vec::new(), Vec::new());
            for text in texts {
                let was_usual = dialect.decode_usual_audio(&text, &mut scanned);
                audio.clear();
                let general = dialect.clone().decode_any(&text, &mut audio);
                if was_usual {
                    prop_assert_eq!(general, Ok(CallerEvent::Audio));
                    prop_assert_eq!(&audio, &scanned);
                }
                let event = dialect.decode(Incoming::Text(&text), &mut audio);
                prop_assert_eq!(event == Ok(CallerEvent::Audio), !audio.is_empty());
                scanned.clear();
            }
        }
    }
}
