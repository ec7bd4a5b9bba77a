//! What the JSON media streams of phone providers have in common: Twilio's and those that took after it.
//!
//! A message has a name and an object of that name; it may say which stream it belongs to. Audio is base64 in
//! `media.payload`, a key is `dtmf.digit`, an echo is `mark.name`. How a stream starts, what the formats are called and
//! what can be said back is each dialect's own.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Scalar};
use super::{DialectError, Ignored, ignore, pressed};
use crate::call::{CallerEvent, Mark};
use crate::media::AudioFormat;
use crate::realtime::decode_audio;

/// Longest id of a stream that is kept, in bytes. Twilio's have 34 characters, the others' are UUIDs.
pub(super) const MAX_ID_BYTES: usize = 256;

/// The id of a stream that runs.
#[derive(Clone, Debug)]
pub(super) struct StreamId {
    text: String,
    /// The same as a JSON string, to be written into messages.
    json: String,
}

impl StreamId {
    /// That id, which [`check_id`] let pass.
    pub(super) fn new(text: &str) -> Self {
        let mut json = Vec::new();
        json::write_string(text, &mut json);
        Self {
            text: text.to_owned(),
            json: String::from_utf8(json).expect("a JSON string of a str is UTF-8"),
        }
    }

    /// Whether this is the same id, in whatever case.
    pub(super) fn is(&self, text: &str) -> bool {
        self.text.eq_ignore_ascii_case(text)
    }

    /// Whether this is the same id as it was first written.
    pub(super) fn is_exactly(&self, text: &str) -> bool {
        self.text == text
    }

    /// The id as a JSON string.
    pub(super) fn json(&self) -> &str {
        &self.json
    }
}

/// Refuses an id that is too long to be kept.
pub(super) fn check_id(id: &str) -> Result<(), DialectError> {
    if id.len() > MAX_ID_BYTES {
        return Err(DialectError::TooLarge {
            limit: MAX_ID_BYTES,
        });
    }
    Ok(())
}

/// The message's own object, which has the message's name.
pub(super) fn body<'a, T: Deserialize<'a>>(
    raw: Option<&'a RawValue>,
    name: &'static str,
) -> Result<T, DialectError> {
    let raw = raw.ok_or(DialectError::MissingField { field: name })?;
    json::parse(raw.get(), name)
}

/// The object of a `media` message.
#[derive(Deserialize)]
pub(super) struct Media<'a> {
    track: Option<String>,
    #[serde(borrow)]
    chunk: Option<&'a RawValue>,
    payload: Option<String>,
}

impl<'a> Media<'a> {
    /// The object of that message.
    pub(super) fn parse(raw: Option<&'a RawValue>) -> Result<Self, DialectError> {
        body(raw, "media")
    }

    /// Its number among those of its track, where it has one.
    pub(super) fn chunk(&self) -> Result<Option<u64>, DialectError> {
        let chunk = json::optional::<Scalar>(self.chunk.as_ref(), "media")?;
        Ok(chunk.and_then(|chunk| chunk.0.parse().ok()))
    }

    /// Decodes the caller's audio.
    pub(super) fn read(
        self,
        format: AudioFormat,
        audio: &mut Vec<u8>,
        ignored: &mut Ignored,
    ) -> Result<CallerEvent, DialectError> {
        let is_inbound = self
            .track
            .is_none_or(|track| track.to_ascii_lowercase().starts_with("inbound"));
        if !is_inbound {
            return Ok(ignore(&mut ignored.other_tracks));
        }
        let payload = self.payload.ok_or(DialectError::MissingField {
            field: "media.payload",
        })?;
        if payload.is_empty() {
            return Ok(ignore(&mut ignored.empty_audio));
        }
        if !decode_audio(&payload, audio) {
            return Err(DialectError::BadBase64);
        }
        if !format.is_whole(audio) {
            audio.clear();
            return Err(DialectError::OddByteCount);
        }
        Ok(CallerEvent::Audio)
    }
}

/// The key of a `dtmf` message.
pub(super) fn key(raw: Option<&RawValue>) -> Result<CallerEvent, DialectError> {
    let Dtmf { digit } = body(raw, "dtmf")?;
    let digit = digit.ok_or(DialectError::MissingField {
        field: "dtmf.digit",
    })?;
    pressed(&digit.0)
}

/// The mark of a `mark` message.
pub(super) fn mark(
    raw: Option<&RawValue>,
    ignored: &mut Ignored,
) -> Result<CallerEvent, DialectError> {
    let MarkBody { name } = body(raw, "mark")?;
    let name = name.ok_or(DialectError::MissingField { field: "mark.name" })?;
    Ok(reached(&name.0, ignored))
}

/// The mark of that name was echoed; it may be somebody else's.
pub(super) fn reached(name: &str, ignored: &mut Ignored) -> CallerEvent {
    match Mark::parse(name) {
        Some(mark) => CallerEvent::MarkReached(mark),
        None => ignore(&mut ignored.foreign_marks),
    }
}

#[derive(Deserialize)]
struct Dtmf {
    digit: Option<Scalar>,
}

#[derive(Deserialize)]
struct MarkBody {
    name: Option<Scalar>,
}
