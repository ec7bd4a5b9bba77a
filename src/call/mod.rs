//! One call as a pure state machine.
//!
//! Holds the words that both legs share, the core of a call that the gateway conducts for an agent, and
//! the reasons why a call ends. Knows no socket, no clock and no JSON: what happened comes in with the
//! moment at which it happened, what is to be done comes out. See LIFECYCLE.md beside this file.

mod caller_audio;
mod deadline;
mod end_reason;
mod event;
mod failover;
mod heard;
mod history;
mod input;
mod interruption;
mod machine;
#[cfg(test)]
mod machine_failover_tests;
#[cfg(test)]
mod machine_operator_tests;
#[cfg(test)]
mod machine_tests;
mod model;
mod operator;
mod output;
mod playing;
mod policy;
mod race;
mod replacement;
mod spoken;
mod turn;

pub use caller_audio::Span;
pub use end_reason::{EndReason, Side};
pub use event::{CallInfo, CallerCommand, CallerEvent, Digit, Mark, Speaker};
pub(crate) use history::History;
pub use input::Input;
pub use machine::{Call, HANG_UP_TOOL, TRANSFER_TOOL};
pub use model::{
    ModelCommand, ModelError, ModelEvent, RateLimit, RateLimits, ResponseStatus, Usage,
};
pub use operator::SayMode;
pub use output::{Observation, Output};
pub use policy::{CallPolicy, CallTimeouts, CarryPolicy, DtmfPolicy, Terminator, TurnPolicy};
pub use race::BenignRace;
pub use replacement::Loss;
pub use spoken::Spoken;
pub use turn::TurnLatency;
