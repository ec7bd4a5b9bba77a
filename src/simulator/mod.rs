//! The far ends of the gateway's wires, for tests, demos and load runs: a stand-in for the Realtime API,
//! and a scripted caller.
//!
//! Both are independent readings of the references and therefore import nothing of the gateway but the
//! words for audio in `media`. The stand-in recognises no speech and runs no model: replies are said back,
//! scripted or synthesised. [`Session`] is the pure core of one connection, [`Simulator`] the thin shell
//! that serves many of them. [`SoftPhone`] calls in any dialect and reports what was heard.

mod chaos;
mod codec;
mod config;
mod context;
mod conversation;
mod error;
mod events;
mod fields;
mod handshake;
mod ids;
pub mod judge;
pub mod listener;
mod options;
mod output;
pub mod phone;
mod phone_acs;
mod phone_asterisk;
mod phone_audio;
mod phone_audio_protobuf;
mod phone_audiosocket;
mod phone_call;
mod phone_codec;
pub mod phone_dial;
pub mod phone_dialect;
mod phone_exotel;
mod phone_freeswitch;
mod phone_genesys;
mod phone_infobip;
mod phone_jambonz;
mod phone_pipecat;
mod phone_playout;
mod phone_plivo;
mod phone_protobuf;
mod phone_realtime;
mod phone_script;
pub mod phone_tap;
mod phone_telnyx;
#[cfg(test)]
mod phone_tests;
pub mod phone_timeline;
mod phone_twilio;
mod phone_vonage;
mod phone_webex;
mod plan;
mod quirks;
mod quota;
mod record;
mod reply;
mod response;
mod rest;
mod schema;
mod server;
mod session;
pub mod speech;
mod synth;
mod turns;
mod vad;
pub mod wav;
pub mod words;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_details;
#[cfg(test)]
mod tests_items;
#[cfg(test)]
mod tests_quirks;
#[cfg(test)]
mod tests_server;
#[cfg(test)]
mod tests_turns;

pub use chaos::{Blow, Mood};
pub use config::{
    DeltaSizes, DeploymentConfig, Enforcement, FaultKind, FaultRule, LatencyConfig, QuotaConfig,
    RateLimitsPosition, ReplyConfig, ScriptOutcome, ScriptTurn, ScriptedCall, Shape,
    SimulatorConfig, TranscriptionConfig,
};
pub use phone::SoftPhone;
pub use phone_script::Act;
pub use phone_timeline::CallReport;
pub use quirks::{BadInput, ItemDone, Merge, OddBytes, OutputAudioClear, QuirksConfig};
pub use quota::QuotaCounts;
pub use record::{
    AppendRecord, CancelRecord, CloseRecord, ErrorRecord, ItemRecord, ResponseRecord,
    SessionRecord, TruncateRecord,
};
pub use server::Simulator;
pub use session::{Output, Provider, Session, SessionKind, SessionSetup};
