//! The `audio` dialect's words in protobuf, for clients that offer the subprotocol [`SUBPROTOCOL`]. The contract is
//! `proto/trunkline/v1/media.proto`.
//!
//! It translates only: what may be said when is `audio.rs`'s to decide, as it does for JSON.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::audio::{Formats, Start, WireFormat};
use super::json::Scalar;
use super::media_proto::{self as proto, client_message, server_message};
use super::{DialectError, Outgoing};
use crate::call::CallerCommand;
use crate::media::{AudioFormat, Codec};

/// The subprotocol that stands for this contract.
pub(super) const SUBPROTOCOL: &str = "trunkline.v1.media";

/// Most parameters that a start may have, as many as JSON could have keys.
const MAX_PARAMETERS: usize = super::json::MAX_KEYS;

/// What a client said.
pub(super) enum Said {
    Start(Start),
    Audio(Vec<u8>),
    Mark(String),
    Dtmf(String),
    End,
    /// Something newer than this contract.
    Unknown,
}

/// Reads a message.
///
/// # Errors
///
/// If it is no `ClientMessage`, or has a codec that is not known.
pub(super) fn read(bytes: &[u8]) -> Result<Said, DialectError> {
    use client_message::Message;

    let message = proto::ClientMessage::decode(bytes);
    let message = message.map_err(|_| DialectError::MalformedProtobuf)?;
    Ok(match message.message {
        Some(Message::Start(start)) => Said::Start(read_start(start)?),
        Some(Message::Audio(audio)) => Said::Audio(audio.data),
        Some(Message::Mark(mark)) => Said::Mark(mark.name),
        Some(Message::Dtmf(dtmf)) => Said::Dtmf(dtmf.digit),
        Some(Message::End(_)) => Said::End,
        None => Said::Unknown,
    })
}

fn read_start(start: proto::Start) -> Result<Start, DialectError> {
    if start.parameters.len() > MAX_PARAMETERS {
        return Err(DialectError::WrongShape { message: "start" });
    }
    let text = |text: String| (!text.is_empty()).then_some(text);
    let parameters = start.parameters.into_iter();
    Ok(Start {
        format: start.format.map(read_format).transpose()?,
        output: start.output.map(read_format).transpose()?,
        parameters: Some(
            parameters
                .map(|(name, value)| (name, Scalar(value)))
                .collect(),
        ),
        caller: text(start.caller),
        call_id: text(start.call_id),
    })
}

fn read_format(format: proto::Format) -> Result<WireFormat, DialectError> {
    let codec = match proto::Codec::try_from(format.codec) {
        Ok(proto::Codec::Unspecified) => None,
        Ok(proto::Codec::Pcm16) => Some(Codec::Pcm16),
        Ok(proto::Codec::Ulaw) => Some(Codec::Ulaw),
        Ok(proto::Codec::Alaw) => Some(Codec::Alaw),
        Ok(proto::Codec::Opus) => Some(Codec::Opus),
        Ok(proto::Codec::G722) => Some(Codec::G722),
        Err(_) => return Err(DialectError::UnsupportedFormat),
    };
    Ok(WireFormat {
        codec: codec.map(|codec| codec.name().to_owned()),
        rate: (format.rate > 0).then_some(format.rate),
    })
}

/// Writes a command; without `formats`, the call was not started.
pub(super) fn write(
    command: CallerCommand<'_>,
    formats: Option<Formats>,
    out: &mut Vec<u8>,
) -> Outgoing {
    use server_message::Message;

    let message = match (command, formats) {
        (CallerCommand::Error { code, message }, _) => Message::Error(proto::Error {
            code: code.to_owned(),
            message: message.to_owned(),
        }),
        (CallerCommand::End { reason }, _) => Message::End(proto::End {
            reason: reason.to_owned(),
        }),
        (_, None)
        | (CallerCommand::Audio([]) | CallerCommand::ReplyEnded | CallerCommand::Keys(_), _) => {
            return Outgoing::Nothing;
        }
        (CallerCommand::Audio(audio), _) => {
            write_audio(audio, out);
            return Outgoing::Binary;
        }
        (CallerCommand::Started { call_id }, Some(formats)) => Message::Started(proto::Started {
            call_id: call_id.to_owned(),
            format: Some(write_format(formats.input)),
            output: Some(write_format(formats.output)),
        }),
        (CallerCommand::Mark(mark), _) => Message::Mark(proto::Mark {
            name: mark.to_string(),
        }),
        (CallerCommand::Clear, _) => Message::Clear(proto::Clear {}),
        (CallerCommand::Transcript { speaker, text }, _) => {
            Message::Transcript(proto::Transcript {
                speaker: speaker.name().to_owned(),
                text: text.to_owned(),
            })
        }
    };
    let message = proto::ServerMessage {
        message: Some(message),
    };
    message.encode(out).expect("a vector grows");
    Outgoing::Binary
}

/// A `ServerMessage` with `Audio`, field by field: fifty times a second, without a copy in between.
fn write_audio(audio: &[u8], out: &mut Vec<u8>) {
    let length = audio.len() as u64;
    // `Audio.data` is field 1, `ServerMessage.audio` field 2; both keys are one byte.
    let inner = 1 + encoded_len_varint(length) as u64 + length;
    encode_key(2, WireType::LengthDelimited, out);
    encode_varint(inner, out);
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(length, out);
    out.extend_from_slice(audio);
}

fn write_format(format: AudioFormat) -> proto::Format {
    let codec = match format.codec {
        Codec::Pcm16 => proto::Codec::Pcm16,
        Codec::Ulaw => proto::Codec::Ulaw,
        Codec::Alaw => proto::Codec::Alaw,
        Codec::Opus => proto::Codec::Opus,
        Codec::G722 => proto::Codec::G722,
    };
    proto::Format {
        codec: codec.into(),
        rate: format.rate.hz(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::call::{CallerEvent, Digit, Mark};
    use crate::ingress::{Audio, Head, Incoming, Speak};

    fn opened() -> Audio {
        let mut dialect = Audio::default();
        let headers = HeaderMap::new();
        dialect.opened(&Head::new(None, &headers).speaking(Some(SUBPROTOCOL)));
        dialect
    }

    fn message(message: client_message::Message) -> Vec<u8> {
        proto::ClientMessage {
            message: Some(message),
        }
        .encode_to_vec()
    }

    fn start() -> Vec<u8> {
        message(client_message::Message::Start(proto::Start {
            format: Some(proto::Format {
                codec: proto::Codec::Ulaw.into(),
                rate: 0,
            }),
            parameters: [("a".to_owned(), "1".to_owned())].into(),
            caller: "+1".to_owned(),
            ..proto::Start::default()
        }))
    }

    fn started() -> Audio {
        let mut dialect = opened();
        let event = dialect.decode(Incoming::Binary(&start()), &mut Vec::new());
        let Ok(CallerEvent::Started(info)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(
            (info.input, info.output),
            (AudioFormat::ULAW_8K, info.input)
        );
        assert_eq!(
            (&info.parameters["a"], &info.parameters["from"]),
            (&"1".into(), &"+1".into())
        );
        dialect
    }

    fn check(mut dialect: Audio, said: Incoming<'_>, expected: Result<CallerEvent, DialectError>) {
        assert_eq!(dialect.decode(said, &mut Vec::new()), expected, "{said:x?}");
    }

    #[test]
    fn words_mean_what_they_mean_in_json() {
        use client_message::Message;

        let audio = message(Message::Audio(proto::Audio { data: vec![1, 2] }));
        check(
            opened(),
            Incoming::Binary(&audio),
            Err(DialectError::BeforeStart),
        );
        check(started(), Incoming::Binary(&audio), Ok(CallerEvent::Audio));
        check(
            started(),
            Incoming::Binary(&start()),
            Err(DialectError::SecondStart),
        );
        let name = "g7-12".to_owned();
        let mark = Mark {
            generation: 7,
            index: 12,
        };
        let played = message(Message::Mark(proto::Mark { name }));
        check(
            started(),
            Incoming::Binary(&played),
            Ok(CallerEvent::MarkReached(mark)),
        );
        let digit = |key: &str| {
            let digit = key.to_owned();
            message(Message::Dtmf(proto::Dtmf { digit }))
        };
        let five = Digit::new('5').unwrap();
        check(
            started(),
            Incoming::Binary(&digit("5")),
            Ok(CallerEvent::Dtmf(five)),
        );
        check(
            started(),
            Incoming::Binary(&digit("x")),
            Err(DialectError::UnknownDigit),
        );
        let end = message(Message::End(proto::End::default()));
        check(started(), Incoming::Binary(&end), Ok(CallerEvent::Stopped));
        // A kind that is newer.
        check(
            started(),
            Incoming::Binary(&[0x7a, 0x00]),
            Ok(CallerEvent::Nothing),
        );
        check(
            started(),
            Incoming::Binary(&[0x0a]),
            Err(DialectError::MalformedProtobuf),
        );
        check(
            started(),
            Incoming::Text("{}"),
            Err(DialectError::TextUnexpected),
        );
    }

    #[test]
    fn audio_is_written_as_the_generated_code_writes_it() {
        for n_bytes in [1, 100, 127, 128, 960, 20_000] {
            let data = vec![7; n_bytes];
            let mut out = Vec::new();
            let sent = started().encode(CallerCommand::Audio(&data), &mut out);
            assert_eq!(sent, Outgoing::Binary);
            let audio = server_message::Message::Audio(proto::Audio { data });
            let expected = proto::ServerMessage {
                message: Some(audio),
            };
            assert_eq!(out, expected.encode_to_vec());
        }
    }

    #[test]
    fn before_the_start_only_failures_are_said() {
        let mut out = Vec::new();
        assert_eq!(
            opened().encode(CallerCommand::Clear, &mut out),
            Outgoing::Nothing
        );
        let end = CallerCommand::End { reason: "r" };
        assert_eq!(opened().encode(end, &mut out), Outgoing::Binary);
        assert_eq!(out, b"\x3a\x03\x0a\x01r");
    }

    proptest! {
        #[test]
        fn total(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for mut dialect in [opened(), started()] {
                let _ = dialect.decode(Incoming::Binary(&bytes), &mut Vec::new());
            }
        }
    }
}
