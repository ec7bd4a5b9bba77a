//! Records of calls: one JSON object for each call that was answered, to the log, a file, or a webhook.
//!
//! A call hands its [`CallRecord`] to the [`Recorder`] and goes on; one task delivers. What decides (what may be said of
//! a caller, when the next attempt is, which record goes first and which is dropped) is pure; `file.rs`, `spool.rs` and
//! `deliver.rs` are the shells around it. What replicas tell one another of
//! live calls, so that a killed one's have records too, is in `roll.rs`.

mod config;
mod deliver;
mod file;
mod privacy;
mod record;
mod recorder;
mod roll;
mod schedule;
mod shelf;
mod spool;
mod webhook;

pub use config::{
    CallerForm, ParameterNames, RecordFileConfig, RecordWebhookConfig, RecordsConfig, RecordsPlan,
    SinkKind, SpoolConfig,
};
pub use privacy::Privacy;
pub use record::{
    CallRecord, CostRecord, HeardRecord, SessionRecord, TokensRecord, TranscriptLine,
    TranscriptRecord, TurnRecord, TurnsRecord, VERSION, millis,
};
pub use recorder::Recorder;
pub use roll::{Attend, Attended, Roll, RollTiming, TakenOver};
