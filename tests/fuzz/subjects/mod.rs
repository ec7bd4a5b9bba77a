//! What is fuzzed: each function takes any bytes, gives them to a parser that meets the network (or to the call
//! core), and panics if a promise of its is broken. Nothing here depends on the fuzzing engine, so that
//! `make test` replays what it found.

mod call_laws;
mod callers;
mod credentials;
mod frames;
mod json;
mod media;
mod policy;
mod requests;

/// A subject and the name of its corpus.
pub(crate) type Subject = (&'static str, fn(&[u8]));

/// All subjects; each has a target of the same name in `targets` and a folder in `corpus`.
pub(crate) const SUBJECTS: &[Subject] = &[
    ("call_laws", call_laws::run),
    ("twilio", callers::twilio),
    ("audio", callers::audio),
    ("acs", callers::acs),
    ("genesys", callers::genesys),
    ("asterisk", callers::asterisk),
    ("audiosocket", callers::audiosocket),
    ("vonage", callers::vonage),
    ("infobip", callers::infobip),
    ("telnyx", callers::telnyx),
    ("jambonz", callers::jambonz),
    ("freeswitch", callers::freeswitch),
    ("plivo", callers::plivo),
    ("vobiz", callers::vobiz),
    ("signalwire", callers::signalwire),
    ("exotel", callers::exotel),
    ("pipecat", callers::pipecat),
    ("webex", callers::webex),
    ("twilio_voice", callers::twilio_voice),
    ("front_door", requests::front_door),
    ("upgrade", requests::upgrade),
    ("credentials", credentials::run),
    ("frames", frames::run),
    ("mint", requests::mint),
    ("policy", policy::run),
    ("client_event", json::client_event),
    ("server_event", json::server_event),
    ("base64", media::base64),
    ("caller_audio", media::caller_audio),
];

/// Runs the subject of that name.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let subject = SUBJECTS.iter().find(|(known, _)| *known == name);
    subject.expect("a known subject").1(bytes);
}
