//! The vendor's Realtime events in both shapes that are on the wire: types, scanning, building, translation.
//!
//! Everything here is text in, values or text out. It opens no socket, reads no clock and knows nothing of calls;
//! `upstream` and `ingress` decide what to do with an event.

mod base64;
mod client;
mod format;
mod json;
mod mirror;
mod mirror_asked;
mod mirror_audio;
mod mirror_items;
mod mirror_replay;
mod mirror_response;
#[cfg(test)]
mod mirror_tests;
mod notice;
mod policy;
mod policy_check;
mod policy_echo;
mod policy_fields;
#[cfg(test)]
mod policy_tests;
mod preset;
mod retry_after;
#[cfg(test)]
pub(crate) mod samples;
mod scan;
mod seam;
mod server;
mod settings;
mod shape;
mod translate;
mod translate_error;
mod translate_fault;
mod translate_first;
#[cfg(test)]
mod translate_golden;
mod translate_response;
mod translate_session;
mod translate_temperature;

pub use base64::{decode_audio, encode_audio};
pub use client::{
    append_base64_into, append_bytes_into, append_pcm_into, cancel_response, create_assistant_text,
    create_function_call, create_function_output, create_response, create_system_text,
    create_user_audio, create_user_text, delete_item, session_update, truncate_item,
};
pub use format::WireFormat;
pub use json::{Count, Text};
pub use mirror::{Mirror, OWN_EVENTS};
pub use mirror_audio::Companding;
pub use mirror_replay::{Cut, Replay};
pub use notice::error_event;
pub use policy::{
    PolicyMistake, SessionPolicy, SessionPolicyConfig, ToolType, created_as_updated, opening_update,
};
pub use policy_check::{PolicedSession, PolicyRule, PresetRefused, Verdict};
pub use policy_echo::Echo;
pub use preset::{PresetError, SessionPreset};
pub use retry_after::retry_after;
pub use scan::{
    AudioDelta, JsonLimit, ScanError, append_audio, audio_delta, check_depth, event_type,
};
pub use seam::{Seam, Shown};
pub use server::{
    ErrorBody, FunctionArguments, InputTokens, Item, ItemRef, OutputItem, OutputTokens, Part,
    RateLimitEntry, Response, ServerEvent, ServerEventError, Session, Speech, StatusDetails,
    TokenUsage, TranscriptionFailure,
};
pub use settings::{
    DEFAULT_PREFIX_PADDING, Eagerness, Infinite, InvalidSetting, MaxOutputTokens, NoiseReduction,
    ReasoningEffort, SessionSettings, Tool, ToolChoice, Transcription, Truncation, TurnDetection,
};
pub use shape::Shape;
pub use translate::{TranslateError, Translated, Translator};
