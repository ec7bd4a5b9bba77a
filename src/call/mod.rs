//! One call as a pure state machine. Knows no socket, no clock and no JSON.

mod event;
mod model;

pub use event::{CallInfo, CallerCommand, CallerEvent, Digit, Mark, Speaker};
pub use model::{
    ModelCommand, ModelError, ModelEvent, RateLimit, RateLimits, ResponseStatus, Usage,
};
