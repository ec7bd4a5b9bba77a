//! What the phone's dialects have in common: the words between a wire format and the phone.
//!
//! Each dialect is one pure file, written from the reference and not from the gateway's own reading of it.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri};
use serde::Serialize;
use tokio_tungstenite::tungstenite::Message;

use super::config::Shape;
use super::phone_audio::AudioWire;
use super::phone_realtime::RealtimeWire;
use super::phone_twilio::TwilioWire;
use crate::media::AudioFormat;

/// A wire format that the phone speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Twilio Media Streams, as Twilio speaks it.
    Twilio,
    /// Trunkline's own plain dialect.
    Audio,
    /// The Realtime API, as an SDK client speaks it.
    Realtime,
}

impl Dialect {
    /// The dialect that an address is most likely for, from its path.
    #[must_use]
    pub fn guess(path: &str) -> Option<Self> {
        let path = path.split('?').next().unwrap_or_default();
        let mut segments = path.split('/').filter(|s| !s.is_empty());
        segments.find_map(|segment| match segment {
            "twilio" => Some(Self::Twilio),
            "audio" => Some(Self::Audio),
            "realtime" => Some(Self::Realtime),
            _ => None,
        })
    }

    /// The dialect of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Twilio, Self::Audio, Self::Realtime]
            .into_iter()
            .find(|dialect| dialect.name() == name)
    }

    /// Its name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Twilio => "twilio",
            Self::Audio => "audio",
            Self::Realtime => "realtime",
        }
    }
}

/// The shape that an address asks for: Azure's unversioned path is preview, all else GA.
pub(crate) fn shape_of(uri: &Uri) -> Shape {
    if uri.path().ends_with("/openai/realtime") {
        Shape::Preview
    } else {
        Shape::Ga
    }
}

/// A key that no debug output shows.
#[derive(Clone)]
pub(crate) struct ApiKey(String);

impl ApiKey {
    pub(crate) const fn new(key: String) -> Self {
        Self(key)
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// What the gateway told the phone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// Audio may flow.
    Answered { call_id: Option<String> },
    /// To be appended to what waits to be played. `item` is set by dialects whose audio says what it belongs to.
    Audio {
        samples: Vec<i16>,
        item: Option<usize>,
    },
    /// Echo this when all before it has sounded.
    Mark(String),
    /// Drop what has not sounded.
    Clear,
    /// The model heard the caller: a client that owns its playback stops it and says how far it got.
    SpeechStarted,
    /// The model is done generating a reply.
    ReplyDone,
    /// Words.
    Transcript { speaker: String, text: String },
    /// The gateway reports a failure.
    Error { code: String, message: String },
    /// The gateway says why it ends the call.
    End { reason: String },
    /// The gateway broke the rules of the dialect.
    Violation(String),
}

/// Tokens that the peer reported, summed over all responses. Only the realtime dialect tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenTotals {
    /// Responses that were done.
    pub responses: u64,
    /// Tokens read, cached ones included.
    pub input: u64,
    /// Text among them.
    pub input_text: u64,
    /// Audio among them.
    pub input_audio: u64,
    /// Those that came from the cache.
    pub cached: u64,
    /// Tokens written.
    pub output: u64,
    /// Text among them.
    pub output_text: u64,
    /// Audio among them.
    pub output_audio: u64,
}

/// One dialect's state on one call.
#[derive(Debug)]
pub(crate) enum Wire {
    Twilio(TwilioWire),
    Audio(AudioWire),
    Realtime(RealtimeWire),
}

impl Wire {
    /// Headers of the upgrade request that the dialect itself needs.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::Realtime(wire) => wire.headers(),
            Self::Twilio(_) | Self::Audio(_) => Vec::new(),
        }
    }

    /// What the phone sends as soon as the socket is open.
    pub(crate) fn opening(&mut self) -> Vec<Message> {
        match self {
            Self::Twilio(wire) => wire.opening(),
            Self::Audio(wire) => wire.opening(),
            Self::Realtime(wire) => wire.opening(),
        }
    }

    pub(crate) const fn format(&self) -> AudioFormat {
        match self {
            Self::Twilio(_) => AudioFormat::ULAW_8K,
            Self::Audio(wire) => wire.format(),
            Self::Realtime(_) => AudioFormat::MODEL_PCM,
        }
    }

    /// 20 ms of the caller's voice.
    pub(crate) fn audio(&mut self, samples: &[i16]) -> Message {
        match self {
            Self::Twilio(wire) => wire.audio(samples),
            Self::Audio(wire) => wire.audio(samples),
            Self::Realtime(wire) => wire.audio(samples),
        }
    }

    /// A key press, if the dialect can express one.
    pub(crate) fn dtmf(&mut self, digit: char) -> Option<Message> {
        match self {
            Self::Twilio(wire) => Some(wire.dtmf(digit)),
            Self::Audio(wire) => Some(wire.dtmf(digit)),
            Self::Realtime(_) => None,
        }
    }

    /// Says that a mark was reached. One that a clear threw away is echoed by Twilio all the same, and by a
    /// client of the plain dialect not at all.
    pub(crate) fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        match self {
            Self::Twilio(wire) => Some(wire.mark(name)),
            Self::Audio(wire) => was_played.then(|| wire.mark(name)),
            Self::Realtime(_) => None,
        }
    }

    /// What is said before hanging up, if anything.
    pub(crate) fn farewell(&mut self) -> Option<Message> {
        match self {
            Self::Twilio(wire) => Some(wire.stop()),
            Self::Audio(wire) => Some(wire.end()),
            Self::Realtime(_) => None,
        }
    }

    /// Reads one data message. Total over all input.
    pub(crate) fn receive(&mut self, message: &Message) -> Vec<Heard> {
        match self {
            Self::Twilio(wire) => wire.receive(message),
            Self::Audio(wire) => wire.receive(message),
            Self::Realtime(wire) => wire.receive(message),
        }
    }

    pub(crate) fn tokens(&self) -> Option<TokenTotals> {
        match self {
            Self::Realtime(wire) => Some(wire.tokens()),
            Self::Twilio(_) | Self::Audio(_) => None,
        }
    }
}

/// The beginning of a text, for reports about it.
pub(crate) fn excerpt(text: &str) -> String {
    const N_CHARS: usize = 120;
    let mut short: String = text.chars().take(N_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_dialect() {
        let check = |path, expected| assert_eq!(Dialect::guess(path), expected, "{path}");
        check("/twilio/media/support", Some(Dialect::Twilio));
        check("/v1/twilio/support", Some(Dialect::Twilio));
        check("/v1/audio/support?x=1", Some(Dialect::Audio));
        check("/openai/realtime?api-version=1", Some(Dialect::Realtime));
        check("/v1/realtime?model=audio", Some(Dialect::Realtime));
        check("/", None);
        check("/stream?realtime", None);
    }
}
