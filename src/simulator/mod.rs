//! A stand-in for the Realtime API: the far end that tests, demos and load runs talk to.
//!
//! It is an independent reading of the protocol reference and therefore imports nothing of the gateway but
//! the words for audio in `media`. It recognises no speech and runs no model: replies are said back, scripted
//! or synthesised. [`Session`] is the pure core of one connection, [`Simulator`] the thin shell that serves
//! many of them.

mod codec;
mod config;
mod context;
mod conversation;
mod error;
mod events;
mod fields;
mod handshake;
mod ids;
mod options;
mod output;
mod plan;
mod quota;
mod record;
mod reply;
mod response;
mod rest;
mod schema;
mod server;
mod session;
mod synth;
mod turns;
mod vad;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_items;
#[cfg(test)]
mod tests_server;
#[cfg(test)]
mod tests_turns;

pub use config::{
    DeltaSizes, DeploymentConfig, Enforcement, FaultKind, FaultRule, LatencyConfig, QuotaConfig,
    RateLimitsPosition, ReplyConfig, ScriptOutcome, ScriptTurn, ScriptedCall, Shape,
    SimulatorConfig, TranscriptionConfig,
};
pub use record::{
    AppendRecord, CancelRecord, CloseRecord, ErrorRecord, ResponseRecord, SessionRecord,
    TruncateRecord,
};
pub use server::Simulator;
pub use session::{Output, Provider, Session, SessionKind, SessionSetup};
