//! What can be wrong with a caller's message.

use super::json::JsonFault;

/// What was wrong with a caller's message. Texts never quote the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// Not JSON.
    #[error("the message is not valid JSON")]
    MalformedJson,
    /// JSON nested deeper than [`super::json::MAX_DEPTH`].
    #[error("the JSON is nested too deeply")]
    JsonTooDeep,
    /// JSON with more than [`super::json::MAX_KEYS`] keys.
    #[error("the JSON has too many keys")]
    JsonTooManyKeys,
    /// The key that says what the message is occurs twice.
    #[error("the JSON has its discriminating key twice")]
    DuplicateKey,
    /// A field has the wrong type or occurs twice.
    #[error("the {message} message has a field of the wrong type")]
    WrongShape {
        /// Which message.
        message: &'static str,
    },
    /// A field that cannot be done without is not there.
    #[error("the field {field} is missing")]
    MissingField {
        /// Which field.
        field: &'static str,
    },
    /// A binary message in a dialect of text.
    #[error("a binary message where only text is spoken")]
    BinaryUnexpected,
    /// A text message in a dialect of binary messages.
    #[error("a text message where only binary is spoken")]
    TextUnexpected,
    /// Not protobuf, or not of the schema.
    #[error("the message is not valid protobuf")]
    MalformedProtobuf,
    /// A message or a value larger than its limit.
    #[error("a message or value over the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Audio that is not valid base64.
    #[error("the audio is not valid base64")]
    BadBase64,
    /// PCM16 with half a sample.
    #[error("an odd number of bytes is not 16-bit audio")]
    OddByteCount,
    /// Something before the message that starts the call.
    #[error("a message came before the start of the call")]
    BeforeStart,
    /// A second, different start.
    #[error("the call was started twice")]
    SecondStart,
    /// A message for another stream than the one that was started.
    #[error("a message for another stream")]
    WrongStream,
    /// A sequence number that does not follow the last.
    #[error("a sequence number does not follow")]
    OutOfSequence,
    /// A codec, rate or channel count that is not spoken here.
    #[error("the audio format is not supported")]
    UnsupportedFormat,
    /// A key that no telephone has.
    #[error("not a telephone key")]
    UnknownDigit,
}

impl DialectError {
    /// Every name, for metrics that want their label set closed.
    pub const NAMES: &'static [&'static str] = &[
        "malformed_json",
        "json_too_deep",
        "json_too_many_keys",
        "duplicate_key",
        "wrong_shape",
        "missing_field",
        "binary_unexpected",
        "text_unexpected",
        "malformed_protobuf",
        "too_large",
        "bad_base64",
        "odd_byte_count",
        "before_start",
        "second_start",
        "wrong_stream",
        "out_of_sequence",
        "unsupported_format",
        "unknown_digit",
    ];

    /// The error's name for metrics, logs and the `code` of an error message.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::JsonTooDeep => "json_too_deep",
            Self::JsonTooManyKeys => "json_too_many_keys",
            Self::DuplicateKey => "duplicate_key",
            Self::WrongShape { .. } => "wrong_shape",
            Self::MissingField { .. } => "missing_field",
            Self::BinaryUnexpected => "binary_unexpected",
            Self::TextUnexpected => "text_unexpected",
            Self::MalformedProtobuf => "malformed_protobuf",
            Self::TooLarge { .. } => "too_large",
            Self::BadBase64 => "bad_base64",
            Self::OddByteCount => "odd_byte_count",
            Self::BeforeStart => "before_start",
            Self::SecondStart => "second_start",
            Self::WrongStream => "wrong_stream",
            Self::OutOfSequence => "out_of_sequence",
            Self::UnsupportedFormat => "unsupported_format",
            Self::UnknownDigit => "unknown_digit",
        }
    }

    /// The close code to end the socket with (RFC 6455 section 7.4.1).
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self {
            // A kind of data that we cannot accept.
            Self::BinaryUnexpected | Self::TextUnexpected | Self::UnsupportedFormat => 1003,
            // Data that is not what its kind promises.
            Self::MalformedJson
            | Self::MalformedProtobuf
            | Self::BadBase64
            | Self::OddByteCount => 1007,
            Self::TooLarge { .. } => 1009,
            // Understood, and against the rules.
            Self::JsonTooDeep
            | Self::JsonTooManyKeys
            | Self::DuplicateKey
            | Self::WrongShape { .. }
            | Self::MissingField { .. }
            | Self::BeforeStart
            | Self::SecondStart
            | Self::WrongStream
            | Self::OutOfSequence
            | Self::UnknownDigit => 1008,
        }
    }

    /// Whether the call has to end. A key that we do not know is no reason to hang up on a person.
    #[must_use]
    pub const fn ends_call(&self) -> bool {
        !matches!(self, Self::UnknownDigit)
    }
}

impl From<JsonFault> for DialectError {
    fn from(fault: JsonFault) -> Self {
        match fault {
            JsonFault::TooDeep => Self::JsonTooDeep,
            JsonFault::TooManyKeys => Self::JsonTooManyKeys,
            JsonFault::DuplicateKey => Self::DuplicateKey,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_closed_set() {
        let all = [
            DialectError::MalformedJson,
            DialectError::JsonTooDeep,
            DialectError::JsonTooManyKeys,
            DialectError::DuplicateKey,
            DialectError::WrongShape { message: "start" },
            DialectError::MissingField { field: "event" },
            DialectError::BinaryUnexpected,
            DialectError::TextUnexpected,
            DialectError::MalformedProtobuf,
            DialectError::TooLarge { limit: 1 },
            DialectError::BadBase64,
            DialectError::OddByteCount,
            DialectError::BeforeStart,
            DialectError::SecondStart,
            DialectError::WrongStream,
            DialectError::OutOfSequence,
            DialectError::UnsupportedFormat,
            DialectError::UnknownDigit,
        ];
        let names: Vec<_> = all.iter().map(DialectError::name).collect();
        assert_eq!(names, DialectError::NAMES);
        for error in all {
            assert!(matches!(error.close_code(), 1003 | 1007 | 1008 | 1009));
        }
    }
}
