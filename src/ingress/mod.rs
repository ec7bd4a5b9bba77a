//! The caller's wire formats: one pure file a dialect, bytes in and events out, commands in and bytes out.
//!
//! A [`Dialect`] is for callers whose call the gateway drives (phones, plain audio clients): it turns
//! wire messages into [`CallerEvent`]s and [`CallerCommand`]s into wire messages. Clients that drive a
//! Realtime session themselves come in through [`FrontDoor`]. [`upgrade`] checks the HTTP request that
//! opens either.
//!
//! Nothing here opens a socket, reads a clock, resamples, or decides whether a caller may call.

mod audio;
mod error;
#[cfg(test)]
mod golden;
pub mod json;
mod mint;
mod realtime;
mod refusal;
mod twilio;
mod twilio_scan;
mod twilio_voice;
pub mod upgrade;

use crate::call::{CallerCommand, CallerEvent};

pub use audio::Audio;
pub use error::DialectError;
pub use mint::{MintRequest, MintRoute};
pub use realtime::{Carrier, Credential, CredentialKind, FrontDoor, RealtimeRequest};
pub use refusal::{ErrorStyle, Refusal};
pub use twilio::Twilio;
pub use twilio_voice::{
    RejectReason, TwimlError, VoiceWebhook, WebhookError, twiml_connect, twiml_reject, twiml_say,
};

/// One WebSocket message from a caller, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

impl Incoming<'_> {
    /// Size of the message in bytes.
    fn len(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// What lies in the buffer after an `encode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A text message, valid UTF-8.
    Text,
    /// A binary message.
    Binary,
    /// Nothing is to be sent: the dialect cannot say it, or not now.
    Nothing,
}

/// Declares the dialects, so that one more is one more line.
macro_rules! dialects {
    ($($(#[$doc:meta])* $variant:ident($dialect:ty),)+) => {
        /// The wire format of one caller leg, with the state that it has during one call.
        #[derive(Clone, Debug)]
        pub enum Dialect {
            $($(#[$doc])* $variant($dialect),)+
        }

        impl Dialect {
            /// Names of all dialects, as routes and metric labels have them.
            pub const NAMES: &'static [&'static str] = &[$(<$dialect>::NAME),+];

            /// A dialect at the beginning of a call, by its name.
            #[must_use]
            pub fn by_name(name: &str) -> Option<Self> {
                $(if name == <$dialect>::NAME {
                    return Some(Self::$variant(<$dialect>::default()));
                })+
                None
            }

            /// The dialect's name.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$dialect>::NAME,)+ }
            }

            /// What the dialect can and cannot express.
            #[must_use]
            pub const fn capabilities(&self) -> &'static Capabilities {
                match self { $(Self::$variant(_) => &<$dialect>::CAPABILITIES,)+ }
            }

            /// What was well formed and had no effect so far.
            #[must_use]
            pub const fn ignored(&self) -> Ignored {
                match self { $(Self::$variant(dialect) => dialect.ignored(),)+ }
            }

            /// Reads one message.
            ///
            /// `audio` is cleared first; after [`CallerEvent::Audio`] it holds the audio's bytes. Once it
            /// has grown to the size of a frame, audio in the usual form costs no allocation.
            ///
            /// # Errors
            ///
            /// What was wrong with the message; [`DialectError::ends_call`] tells whether the call can go on.
            pub fn decode(
                &mut self,
                message: Incoming<'_>,
                audio: &mut Vec<u8>,
            ) -> Result<CallerEvent, DialectError> {
                match self { $(Self::$variant(dialect) => dialect.decode(message, audio),)+ }
            }

            /// Writes one message to `out`, which is cleared first.
            pub fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
                match self { $(Self::$variant(dialect) => dialect.encode(command, out),)+ }
            }
        }
    };
}

dialects! {
    /// Twilio Media Streams, bidirectional, and what imitates them.
    Twilio(Twilio),
    /// The project's own: binary audio, JSON control.
    Audio(Audio),
}

/// What a dialect's callers can say and may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether callers say what was played.
    pub marks: Marks,
    /// Whether only a provider's servers speak it, and never a web page.
    pub by_provider: bool,
    /// The largest message a caller may send, in bytes. A good limit for the socket's reader too.
    pub max_message_bytes: usize,
}

/// Whether and when a caller echoes marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// When played and also when thrown away, both alike: only the generation tells them apart.
    EchoedAlways,
    /// When played; those thrown away are not heard of again.
    EchoedWhenPlayed,
}

/// Messages that were well formed and had no effect, counted by kind. They never end a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Of a kind that the dialect does not know.
    pub unknown_events: u32,
    /// Audio of a track other than the caller's.
    pub other_tracks: u32,
    /// Marks that are not ours.
    pub foreign_marks: u32,
    /// A start that said again what was known.
    pub repeated_starts: u32,
    /// Audio messages without audio.
    pub empty_audio: u32,
    /// Anything after the caller's end of the call.
    pub after_stop: u32,
}

impl Ignored {
    /// Every kind with its name, which is the metric label, and its count.
    #[must_use]
    pub const fn entries(&self) -> [(&'static str, u32); 6] {
        [
            ("unknown_event", self.unknown_events),
            ("other_track", self.other_tracks),
            ("foreign_mark", self.foreign_marks),
            ("repeated_start", self.repeated_starts),
            ("empty_audio", self.empty_audio),
            ("after_stop", self.after_stop),
        ]
    }
}

/// Counts one ignored message; it means nothing to the call.
const fn ignore(counter: &mut u32) -> CallerEvent {
    *counter = counter.saturating_add(1);
    CallerEvent::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_is_found_by_its_name() {
        for name in Dialect::NAMES {
            let dialect = Dialect::by_name(name).unwrap();
            assert_eq!(dialect.name(), *name);
        }
        assert!(Dialect::by_name("smoke").is_none());
    }
}
