//! The words that the two legs and the call core have in common.
//!
//! A dialect turns wire messages into [`CallerEvent`]s and [`CallerCommand`]s into wire messages; the
//! model leg does the same with [`ModelEvent`] and [`ModelCommand`]. Nothing here knows a wire format.

use std::collections::BTreeMap;
use std::fmt;

use crate::media::AudioFormat;

/// What a caller said about the call when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallInfo {
    /// The provider's name for the call, if it has one.
    pub provider_call_id: Option<String>,
    /// The provider's name for this media stream, if it has one.
    pub provider_stream_id: Option<String>,
    /// Format of the audio that the caller sends.
    pub input: AudioFormat,
    /// Format of the audio that the caller wants back.
    pub output: AudioFormat,
    /// What the dialect let the caller attach, name to value.
    pub parameters: BTreeMap<String, String>,
}

/// One thing that happened on the caller leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerEvent {
    /// The call is set up; formats and parameters are known. Comes once, before all others below.
    Started(Box<CallInfo>),
    /// Audio in [`CallInfo::input`] format; its bytes are in the buffer that was given to the dialect.
    Audio,
    /// A key was pressed.
    Dtmf(Digit),
    /// Everything sent before this mark was played, or thrown away by a clear.
    MarkReached(Mark),
    /// No audio comes until [`CallerEvent::Resumed`]; the call goes on.
    Paused,
    /// Audio comes again.
    Resumed,
    /// The caller's side takes no more audio for now (`false`), or takes it again.
    Flow(bool),
    /// There is no caller: the provider tries whether it is answered, in place of [`CallerEvent::Started`].
    Probe,
    /// The caller says that the call is over.
    Stopped,
    /// A message that is well formed and means nothing to a call (greetings, keepalives, marks that are not ours).
    Nothing,
}

/// One thing to tell the caller leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerCommand<'a> {
    /// The call is answered. Dialects without such a message send nothing.
    Started {
        /// The gateway's id of the call, for the caller's own logs.
        call_id: &'a str,
    },
    /// Audio in [`CallInfo::output`] format, to be appended to what is already waiting to be played.
    Audio(&'a [u8]),
    /// Ask for an echo when everything sent so far was played.
    Mark(Mark),
    /// All audio of a reply was sent.
    ReplyEnded,
    /// Throw away what was sent and not played yet.
    Clear,
    /// Press these keys towards the caller's line.
    Keys(&'a [Digit]),
    /// Words that were said, as far as they are known.
    Transcript {
        /// Who said them.
        speaker: Speaker,
        /// The words.
        text: &'a str,
    },
    /// Something went wrong; the call ends after it.
    Error {
        /// A stable name, for programs.
        code: &'a str,
        /// A sentence, for people.
        message: &'a str,
    },
    /// The gateway ends the call.
    End {
        /// The end reason's name.
        reason: &'a str,
    },
}

/// A party of the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The person, or whatever stands in for one.
    Caller,
    /// The model.
    Assistant,
}

impl Speaker {
    /// The name used on wires and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Assistant => "assistant",
        }
    }
}

/// A telephone key: `0`-`9`, `*`, `#`, `A`-`D`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digit(char);

impl Digit {
    /// The key of that name, if there is one; `a`-`d` count as `A`-`D`.
    #[must_use]
    pub fn new(key: char) -> Option<Self> {
        let key = key.to_ascii_uppercase();
        matches!(key, '0'..='9' | '*' | '#' | 'A'..='D').then_some(Self(key))
    }

    /// The key of a text that names one key and nothing else.
    #[must_use]
    pub fn only(text: &str) -> Option<Self> {
        let mut keys = text.chars();
        let first = keys.next().and_then(Self::new);
        first.filter(|_| keys.next().is_none())
    }

    /// The key's name.
    #[must_use]
    pub const fn as_char(self) -> char {
        self.0
    }
}

impl fmt::Display for Digit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A mark of ours. Its text is `g<generation>-<index>`; other texts are not ours.
///
/// The generation tells a mark that was played from one that a clear threw away: providers such as
/// Twilio echo both alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// How many clears came before it.
    pub generation: u32,
    /// Its number within the call.
    pub index: u32,
}

impl Mark {
    /// Reads a mark's text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (generation, index) = text.strip_prefix('g')?.split_once('-')?;
        Some(Self {
            generation: generation.parse().ok()?,
            index: index.parse().ok()?,
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}-{}", self.generation, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_text() {
        let mark = Mark {
            generation: 7,
            index: 12,
        };
        assert_eq!(mark.to_string(), "g7-12");
        assert_eq!(Mark::parse("g7-12"), Some(mark));
        for foreign in [
            "", "g", "g7", "7-12", "gx-1", "g1-", "g-1", "g1-2-3", "G1-2",
        ] {
            assert_eq!(Mark::parse(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn digits_are_telephone_keys() {
        for key in "0123456789*#ABCD".chars() {
            assert_eq!(Digit::new(key).map(Digit::as_char), Some(key));
        }
        assert_eq!(Digit::new('b').map(Digit::as_char), Some('B'));
        for key in ['E', ' ', '+', 'é'] {
            assert_eq!(Digit::new(key), None);
        }
    }
}
