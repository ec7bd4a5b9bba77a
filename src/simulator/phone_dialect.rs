//! What the phone's dialects have in common: the words between a wire format and the phone.
//!
//! Each dialect is one pure file, written from the reference and not from the gateway's own reading of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use serde::Serialize;
use tokio_tungstenite::tungstenite::Message;

use super::config::Shape;
use super::phone_acs::AcsWire;
use super::phone_asterisk::AsteriskWire;
use super::phone_audio::AudioWire;
use super::phone_audio_protobuf::AudioProtobufWire;
use super::phone_audiosocket::AudioSocketWire;
use super::phone_codec::CodecError;
use super::phone_exotel::ExotelWire;
use super::phone_freeswitch::FreeSwitchWire;
use super::phone_genesys::GenesysWire;
use super::phone_infobip::InfobipWire;
use super::phone_jambonz::JambonzWire;
use super::phone_pipecat::PipecatWire;
use super::phone_plivo::PlivoWire;
use super::phone_realtime::RealtimeWire;
use super::phone_telnyx::TelnyxWire;
use super::phone_twilio::TwilioWire;
use super::phone_vonage::VonageWire;
use super::phone_webex::WebexWire;
use trunkline_media::AudioFormat;

/// What a call of the phone is to be like, as far as its wire format cares.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) uri: Uri,
    pub(crate) shape: Shape,
    pub(crate) format: AudioFormat,
    pub(crate) api_key: Option<ApiKey>,
    pub(crate) client_secret: Option<ApiKey>,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) instructions: Option<String>,
    pub(crate) seed: u64,
}

/// The far end of a dialect on one call: what the provider says, and what it takes.
///
/// It is written from the reference, and honest about what the provider does: a message that the provider would
/// not take is a [`Heard::Violation`].
pub(crate) trait FarEnd: fmt::Debug + Send {
    /// Headers of the upgrade request that the dialect itself needs.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        Vec::new()
    }

    /// Whether the headers show the API key; else it is a bearer token.
    fn shows_key(&self) -> bool {
        false
    }

    /// What the provider sends as soon as the socket is open.
    fn opening(&mut self) -> Vec<Message>;

    /// The provider's name of the call, where the open socket is the answer to it.
    fn answered_by_upgrade(&self) -> Option<String> {
        None
    }

    /// Of both directions.
    fn format(&self) -> AudioFormat;

    /// 20 ms of the caller's voice; a provider that sends larger messages collects it.
    fn audio(&mut self, samples: &[i16]) -> Option<Message>;

    /// A key press, if the dialect can express one.
    fn dtmf(&mut self, digit: char) -> Option<Message> {
        let _ = digit;
        None
    }

    /// Says that a mark was reached, or was thrown away by a clear, where the dialect says so.
    fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        let _ = (name, was_played);
        None
    }

    /// Playing began (`true`) or ran dry, where the dialect says so.
    fn playing(&mut self, is_playing: bool) -> Option<Message> {
        let _ = is_playing;
        None
    }

    /// What is due by the clock, as keepalives. Asked every 20 ms; `since` is the time since the socket was open.
    fn due(&mut self, since: Duration) -> Vec<Heard> {
        let _ = since;
        Vec::new()
    }

    /// What is said before hanging up, if anything.
    fn farewell(&mut self) -> Option<Message> {
        None
    }

    /// After the farewell the gateway has to answer before the socket may be closed; [`Heard::HangUp`] says that it did.
    fn waits_for_farewell(&self) -> bool {
        false
    }

    /// Reads one data message. Total over all input.
    fn receive(&mut self, message: &Message) -> Vec<Heard>;

    /// Waiting audio beyond which the provider discards what comes, and its words for that.
    fn most_queued(&self) -> Option<(Duration, &'static str)> {
        None
    }

    /// The realtime dialect has more to it.
    fn as_realtime(&mut self) -> Option<&mut RealtimeWire> {
        None
    }

    /// Tokens, where the dialect tells.
    fn tokens(&self) -> Option<TokenTotals> {
        None
    }
}

/// Declares what the phone speaks, so that one more is one more line: the name, a segment of its paths, and how its
/// far end is made.
macro_rules! phones {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $make:expr;)+) => {
        /// A wire format that the phone speaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Dialect {
            $($(#[$doc])* $variant,)+
        }

        impl Dialect {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name on command lines and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The far end of a call.
            ///
            /// # Errors
            ///
            /// [`CodecError`] if the phone does not speak the codec that was asked for.
            pub(crate) fn far_end(self, setting: Setting) -> Result<Box<dyn FarEnd>, CodecError> {
                match self { $(Self::$variant => {
                    let make: fn(Setting) -> Result<Box<dyn FarEnd>, CodecError> = $make;
                    make(setting)
                })+ }
            }
        }
    };
}

phones! {
    /// Twilio Media Streams, as Twilio speaks it.
    Twilio = "twilio", |it| Ok(Box::new(TwilioWire::new(it.seed, it.parameters)));
    /// Trunkline's own plain dialect.
    Audio = "audio", |it| Ok(Box::new(AudioWire::new(it.format, it.parameters)?));
    /// The Realtime API, as an SDK client speaks it.
    Realtime = "realtime", |it| Ok(Box::new(RealtimeWire::new(&it.uri, it.shape, it.api_key, it.instructions)));
    /// Azure Communication Services, as Call Automation speaks it.
    Acs = "acs", |it| Ok(Box::new(AcsWire::new(it.seed, it.format)));
    /// Genesys Cloud, as its Audio Connector speaks.
    Genesys = "genesys", |it| Ok(Box::new(GenesysWire::new(it)));
    /// Asterisk, as its `chan_websocket` speaks.
    Asterisk = "asterisk", |it| Ok(Box::new(AsteriskWire::new(it)));
    /// Asterisk by AudioSocket: packets on plain TCP. Of the address, host and port count.
    AudioSocket = "audiosocket", |it| Ok(Box::new(AudioSocketWire::new(it)));
    /// Vonage, as its Voice API speaks.
    Vonage = "vonage", |it| Ok(Box::new(VonageWire::new(it.format, it.parameters)));
    /// Infobip, as its media stream of a call speaks.
    Infobip = "infobip", |it| Ok(Box::new(InfobipWire::new(it.format, it.parameters)));
    /// Telnyx, as its media streaming speaks.
    Telnyx = "telnyx", |it| Ok(Box::new(TelnyxWire::new(it)));
    /// jambonz, as its streams speak.
    Jambonz = "jambonz", |it| Ok(Box::new(JambonzWire::new(it.seed, it.format, it.parameters)));
    /// FreeSWITCH, as its `mod_audio_stream` speaks.
    FreeSwitch = "freeswitch", |it| Ok(Box::new(FreeSwitchWire::new(it)));
    /// Plivo, as its AudioStream speaks.
    Plivo = "plivo", |it| Ok(Box::new(PlivoWire::new(false, it.seed, it.format, it.parameters)));
    /// Vobiz, which speaks as Plivo does.
    Vobiz = "vobiz", |it| Ok(Box::new(PlivoWire::new(true, it.seed, it.format, it.parameters)));
    /// SignalWire, which speaks as Twilio does, in PCM16 too.
    SignalWire = "signalwire", |it| Ok(Box::new(TwilioWire::signalwire(it.seed, it.format, it.parameters)));
    /// Exotel, as its Voicebot applet speaks.
    Exotel = "exotel", |it| Ok(Box::new(ExotelWire::new(it)));
    /// Pipecat's protobuf frames, as its clients speak.
    Pipecat = "pipecat", |it| Ok(Box::new(PipecatWire::new(it.format)));
    /// Webex Contact Center, as it speaks to a virtual agent.
    Webex = "webex", |it| Ok(Box::new(WebexWire::new(it.seed, it.parameters)));
    /// Trunkline's own plain dialect in protobuf.
    AudioProtobuf = "audio-protobuf", |it| Ok(Box::new(AudioProtobufWire::new(it.format, it.parameters)?));
}

impl Dialect {
    /// The dialect that an address is most likely for, from its path.
    #[must_use]
    pub fn guess(path: &str) -> Option<Self> {
        let path = path.split('?').next().unwrap_or_default();
        let mut segments = path.split('/').filter(|s| !s.is_empty());
        segments.find_map(Self::from_name)
    }

    /// The dialect of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|dialect| dialect.name() == name)
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
    /// Keys to be pressed towards the line.
    Keys(String),
    /// The model heard the caller: a client that owns its playback stops it and says how far it got.
    SpeechStarted,
    /// The deployment says what is left of a limit.
    Limit(RateLimit),
    /// The model is done generating a reply.
    ReplyDone,
    /// Words.
    Transcript { speaker: String, text: String },
    /// The gateway reports a failure.
    Error { code: String, message: String },
    /// The gateway says why it ends the call.
    End { reason: String },
    /// The provider answers by itself.
    Say(Message),
    /// The provider closes the socket now.
    HangUp,
    /// The gateway broke the rules of the dialect.
    Violation(String),
}

/// What a `rate_limits.updated` says of one limit. Only the realtime dialect tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateLimit {
    /// `requests` or `tokens`.
    pub name: String,
    /// What is granted.
    pub limit: f64,
    /// What is left of it.
    pub remaining: f64,
    /// When all of it is there again, in seconds.
    pub reset_seconds: f64,
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
        check("/acs/media/support", Some(Dialect::Acs));
        check("/openai/realtime?api-version=1", Some(Dialect::Realtime));
        check("/v1/realtime?model=audio", Some(Dialect::Realtime));
        check("/", None);
        check("/stream?realtime", None);
    }
}
