//! The caller's wire formats: one pure file a dialect, bytes in and events out, commands in and bytes out.
//!
//! A [`Dialect`] is for callers whose call the gateway drives (phones, plain audio clients): it turns
//! wire messages into [`CallerEvent`]s and [`CallerCommand`]s into wire messages. Clients that drive a
//! Realtime session themselves come in through [`FrontDoor`]. [`upgrade`] checks the HTTP request that
//! opens either.
//!
//! Nothing here opens a socket, reads a clock, resamples, or decides whether a caller may call.
//!
//! # How to add a dialect
//!
//! 1. `src/ingress/NAME.rs`: a type with [`Default`], [`Clone`] and [`Debug`] that implements [`Speak`]. Its module
//!    header says what happens when the peer does not keep to the rules; each quirk of the provider is a test with
//!    the source in a comment. A property test shows that `decode` is total.
//! 2. One line in `dialects!` below, and the `mod` line. Route, metric labels, tickets and limits follow from that.
//! 3. `tests/golden/ingress/NAME-CASE.in` and `.out`: whole conversations, see `golden.rs`.
//! 4. `src/simulator/phone_NAME.rs`: the provider's side, which implements `FarEnd`, and one line in the `phones!`
//!    table of `src/simulator/phone_dialect.rs`.
//! 5. One row in the table of `tests/dialects/rows.rs`: how it is called, its credential, and for each scenario that
//!    the wire forbids, why.
//! 6. Where the provider proves itself by more than a key of ours, one more scheme in `src/auth/provider.rs`; else
//!    [`CredentialIn`] says where its key stands.
//! 7. The table in README is written by `TRUNKLINE_GOLDEN=write cargo test --lib ingress::capability`.
//!
//! What the bridge does by itself for every dialect, from its [`Capabilities`]: playout truth without marks, chunks
//! of more than a frame, a lead that suits the provider, silence where the line must never be quiet, the echo of a
//! subprotocol, and the wait for a peer that wants to be the one who closes. Big-endian samples are swapped by the
//! dialect itself ([`swap_samples`]).

mod acs;
mod asterisk;
mod audio;
mod audio_protobuf;
mod audiosocket;
mod byte_order;
mod capability;
mod error;
mod exotel;
mod freeswitch;
mod genesys;
#[cfg(test)]
mod golden;
mod infobip;
mod interleaved;
mod jambonz;
pub mod json;
mod media_proto;
mod media_stream;
mod mint;
mod pipecat;
mod plivo;
mod realtime;
mod refusal;
mod reorder;
mod scan;
mod signalwire;
mod telnyx;
mod twilio;
mod twilio_scan;
mod twilio_voice;
pub mod upgrade;
mod vobiz;
mod vonage;
mod webex;

use std::collections::BTreeMap;

use http::HeaderMap;

use crate::call::{CallerCommand, CallerEvent, Digit};

pub use acs::Acs;
pub use asterisk::Asterisk;
pub use audio::Audio;
pub use audiosocket::AudioSocket;
pub use capability::{Capabilities, Clear, CredentialIn, Lead, Marks};
pub use error::DialectError;
pub use exotel::Exotel;
pub use freeswitch::FreeSwitch;
pub use genesys::Genesys;
pub use infobip::Infobip;
pub use jambonz::Jambonz;
pub use mint::{MintRequest, MintRoute};
pub use pipecat::Pipecat;
pub use plivo::Plivo;
pub use realtime::{Carrier, Credential, CredentialKind, FrontDoor, RealtimeRequest};
pub use refusal::{ErrorStyle, Refusal};
pub use signalwire::SignalWire;
pub use telnyx::Telnyx;
pub use twilio::Twilio;
pub use twilio_voice::{
    RejectReason, TwimlError, VoiceWebhook, WebhookError, texml_connect, twiml_connect,
    twiml_reject, twiml_say,
};
pub use vobiz::Vobiz;
pub use vonage::Vonage;
pub use webex::{Webex, list_virtual_agents};

/// One WebSocket message from a caller, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

impl<'a> Incoming<'a> {
    /// Size of the message in bytes.
    fn len(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// The message's text, where only text is spoken.
    fn text(self) -> Result<&'a str, DialectError> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Binary(_) => Err(DialectError::BinaryUnexpected),
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

/// The request that opened the socket, as far as a dialect may read it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    query: Option<&'a str>,
    headers: Option<&'a HeaderMap>,
    subprotocol: Option<&'static str>,
}

/// Most parameters that are taken from a query.
const MAX_PARAMETERS: usize = 64;

impl<'a> Head<'a> {
    /// The head of a request with that query and these headers.
    #[must_use]
    pub const fn new(query: Option<&'a str>, headers: &'a HeaderMap) -> Self {
        Self {
            query,
            headers: Some(headers),
            subprotocol: None,
        }
    }

    /// The same, answered with this subprotocol.
    #[must_use]
    pub const fn speaking(mut self, subprotocol: Option<&'static str>) -> Self {
        self.subprotocol = subprotocol;
        self
    }

    /// The subprotocol that the answer selects.
    #[must_use]
    pub const fn subprotocol(&self) -> Option<&'static str> {
        self.subprotocol
    }

    /// A header's value, if it is there once and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut values = self.headers?.get_all(name).iter();
        let only = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(only)
    }

    /// The query's names and values, without those that hold a credential.
    #[must_use]
    pub fn parameters(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(self.query.unwrap_or_default().as_bytes())
            .take(MAX_PARAMETERS)
            .filter(|(name, _)| !realtime::CREDENTIAL_PARAMETERS.contains(&name.as_ref()))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect()
    }
}

/// What a dialect is to the rest of the gateway. One value is one call.
pub trait Speak: Default {
    /// The dialect's name, on metric labels, in tickets and in the configuration.
    const NAME: &'static str;

    /// Where its callers come to: this path, then the agent, then perhaps a ticket.
    const PATH: &'static str;

    /// What it can and cannot express.
    const CAPABILITIES: Capabilities;

    /// What was well formed and had no effect so far.
    fn ignored(&self) -> Ignored;

    /// The socket was opened by this request.
    fn opened(&mut self, head: &Head<'_>) {
        let _ = head;
    }

    /// Reads one message; see [`Dialect::decode`].
    ///
    /// # Errors
    ///
    /// What was wrong with the message.
    fn decode(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        audio.clear();
        let limit = Self::CAPABILITIES.max_message_bytes;
        if message.len() > limit {
            return Err(DialectError::TooLarge { limit });
        }
        self.read(message, audio)
    }

    /// Reads one message that is within the limit. `audio` is empty.
    ///
    /// # Errors
    ///
    /// What was wrong with the message.
    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError>;

    /// What else the last message meant; see [`Dialect::more`].
    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        let _ = audio;
        None
    }

    /// What the last message is to be answered with; see [`Dialect::answer`].
    fn answer(&mut self, out: &mut Vec<u8>) -> Outgoing {
        let _ = out;
        Outgoing::Nothing
    }

    /// Writes one message; see [`Dialect::encode`].
    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing;
}

/// Declares the dialects, so that one more is one more line.
macro_rules! dialects {
    ($($(#[$doc:meta])* $variant:ident($dialect:ty),)+) => {
        /// The wire format of one caller leg, with the state that it has during one call.
        #[derive(Clone, Debug)]
        pub enum Dialect {
            $($(#[$doc])* $variant(Box<$dialect>),)+
        }

        impl Dialect {
            /// Names of all dialects, as tickets and metric labels have them.
            pub const NAMES: &'static [&'static str] = &[$(<$dialect>::NAME),+];

            /// Names of all dialects, with the path of each.
            pub const PATHS: &'static [(&'static str, &'static str)] =
                &[$((<$dialect>::NAME, <$dialect>::PATH)),+];

            /// A dialect at the beginning of a call, by its name.
            #[must_use]
            pub fn by_name(name: &str) -> Option<Self> {
                $(if name == <$dialect>::NAME {
                    return Some(Self::$variant(Box::default()));
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
            pub fn ignored(&self) -> Ignored {
                match self { $(Self::$variant(dialect) => dialect.ignored(),)+ }
            }

            /// The socket was opened by this request. Comes before all messages, or not at all.
            pub fn opened(&mut self, head: &Head<'_>) {
                match self { $(Self::$variant(dialect) => dialect.opened(head),)+ }
            }

            /// Reads one message.
            ///
            /// `audio` is cleared first; after [`CallerEvent::Audio`] it holds the audio's bytes. Once it
            /// has grown to the size of a frame, audio in the usual form costs no allocation. Afterwards
            /// [`Self::answer`] and [`Self::more`] want to be asked.
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

            /// What else the last message meant, in order, until there is nothing more: one message may hold
            /// several keys, or release audio that waited for it. `audio` as for [`Self::decode`].
            pub fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
                match self { $(Self::$variant(dialect) => dialect.more(audio),)+ }
            }

            /// Writes what the protocol itself wants sent because of the last message, until that is
            /// [`Outgoing::Nothing`]: a pong, the answer to a probe, a step of a closing handshake. It leaves before
            /// the message has any other effect. `out` is cleared first.
            pub fn answer(&mut self, out: &mut Vec<u8>) -> Outgoing {
                match self { $(Self::$variant(dialect) => dialect.answer(out),)+ }
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
    /// Azure Communication Services, Call Automation's bidirectional audio streaming.
    Acs(Acs),
    /// Genesys Cloud's Audio Connector.
    Genesys(Genesys),
    /// Asterisk's `chan_websocket`.
    Asterisk(Asterisk),
    /// AudioSocket, by which Asterisk hands calls over on plain TCP.
    AudioSocket(AudioSocket),
    /// Vonage Voice API WebSockets.
    Vonage(Vonage),
    /// Infobip's media stream of a call.
    Infobip(Infobip),
    /// Telnyx media streaming.
    Telnyx(Telnyx),
    /// jambonz, and `mod_audio_fork`.
    Jambonz(Jambonz),
    /// FreeSWITCH's `mod_audio_stream`.
    FreeSwitch(FreeSwitch),
    /// Plivo's AudioStream.
    Plivo(Plivo),
    /// Vobiz, which speaks as Plivo.
    Vobiz(Vobiz),
    /// SignalWire, which speaks as Twilio.
    SignalWire(SignalWire),
    /// Exotel's Voicebot applet.
    Exotel(Exotel),
    /// Pipecat's protobuf frames.
    Pipecat(Pipecat),
    /// Webex Contact Center's virtual agents.
    Webex(Webex),
}

impl Dialect {
    /// The dialect spoken at this path, and what the path has behind it: the agent, and perhaps a ticket.
    #[must_use]
    pub fn at(path: &str) -> Option<(&'static str, &str, Option<&str>)> {
        let (name, rest) = Self::PATHS
            .iter()
            .find_map(|(name, own)| Some((name, path.strip_prefix(own)?.strip_prefix('/')?)))?;
        let rest = match *name {
            Webex::NAME => rest.strip_suffix(webex::APPENDED).unwrap_or(rest),
            _ => rest,
        };
        match rest.split_once('/') {
            None => Some((name, rest, None)),
            Some((agent, ticket)) if !ticket.contains('/') => Some((name, agent, Some(ticket))),
            Some(_) => None,
        }
    }

    /// The path of the dialect of that name.
    #[must_use]
    pub fn path_of(name: &str) -> Option<&'static str> {
        Self::PATHS
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, path)| *path)
    }
}

/// Turns big-endian samples into little-endian ones, or back, in place. Half a sample at the end stays as it is.
pub fn swap_samples(bytes: &mut [u8]) {
    for sample in bytes.as_chunks_mut::<2>().0 {
        sample.swap(0, 1);
    }
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
    /// Audio that came after what follows it, or twice.
    pub late_audio: u32,
    /// What the provider says went wrong at its side.
    pub provider_errors: u32,
}

impl Ignored {
    /// Every kind with its name, which is the metric label, and its count.
    #[must_use]
    pub const fn entries(&self) -> [(&'static str, u32); 8] {
        [
            ("unknown_event", self.unknown_events),
            ("other_track", self.other_tracks),
            ("foreign_mark", self.foreign_marks),
            ("repeated_start", self.repeated_starts),
            ("empty_audio", self.empty_audio),
            ("after_stop", self.after_stop),
            ("late_audio", self.late_audio),
            ("provider_error", self.provider_errors),
        ]
    }
}

/// Counts one ignored message; it means nothing to the call.
const fn ignore(counter: &mut u32) -> CallerEvent {
    *counter = counter.saturating_add(1);
    CallerEvent::Nothing
}

/// A key was pressed, named by this text.
fn pressed(text: &str) -> Result<CallerEvent, DialectError> {
    Digit::only(text)
        .map(CallerEvent::Dtmf)
        .ok_or(DialectError::UnknownDigit)
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

    #[test]
    fn a_path_leads_to_a_dialect_and_an_agent() {
        let check = |path: &str, expected| assert_eq!(Dialect::at(path), expected, "{path}");
        check("/twilio/media/desk", Some(("twilio", "desk", None)));
        check("/v1/audio/desk/tt_x", Some(("audio", "desk", Some("tt_x"))));
        check("/acs/media/desk/", Some(("acs", "desk", Some(""))));
        // Webex appends a path of its own to the address that it is given.
        check("/webex/va/desk/v1/va", Some(("webex", "desk", None)));
        check(
            "/webex/va/desk/tt_x/v1/va",
            Some(("webex", "desk", Some("tt_x"))),
        );
        check("/webex/va/desk", Some(("webex", "desk", None)));
        for nowhere in [
            "/",
            "/acs",
            "/acs/media",
            "/acs/mediation/desk",
            "/acs/media/a/b/c",
            "/acs/media/a/v1/va",
        ] {
            check(nowhere, None);
        }
        // No path hides another.
        for (name, path) in Dialect::PATHS {
            check(&format!("{path}/a"), Some((name, "a", None)));
        }
    }

    #[test]
    fn a_head_gives_its_parameters_and_no_credential() {
        let mut headers = HeaderMap::new();
        headers.insert("x-one", "1".parse().unwrap());
        headers.append("x-two", "1".parse().unwrap());
        headers.append("x-two", "2".parse().unwrap());
        let query = "a=b+c&api-key=s3cret&Authorization=s3cret&ticket=s3cret&token=s3cret&a=d";
        let head = Head::new(Some(query), &headers);
        assert_eq!(head.header("x-one"), Some("1"));
        assert_eq!(head.header("x-two"), None);
        let expected = BTreeMap::from([("a".to_owned(), "d".to_owned())]);
        assert_eq!(head.parameters(), expected);
        assert!(Head::default().parameters().is_empty());
    }

    #[test]
    fn samples_are_swapped_whole() {
        let mut bytes = [1, 2, 3, 4, 5];
        swap_samples(&mut bytes);
        assert_eq!(bytes, [2, 1, 4, 3, 5]);
    }
}
