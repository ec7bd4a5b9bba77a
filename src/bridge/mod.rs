//! The async shell of a call: its two legs, its timer, the register of live calls.
//!
//! The only place where both legs, the call core and the media path meet. Knows no wire format: it hands
//! messages to the dialect and to `upstream`, and bytes to `media`.

mod agent;
mod conduct;
mod echo;
mod frame_path;
mod idle;
mod leg;
mod legs;
mod live;
mod media_path;
mod notice;
mod opening;
mod order;
mod press_keys;
mod recent_turns;
mod record;
mod registry;
mod relay;
mod relay_heard;
mod relay_replace;
mod replace;
mod scratch;
mod summary;
mod tool;
mod trace;
mod trace_session;
mod trace_tool;
mod trace_turn;
mod watchdog;
mod workers;

use crate::call::ModelEvent;
use crate::upstream::{Decoded, Decoder};

pub use agent::{Agent, AgentConfig, AgentError, PlayoutConfig};
pub use conduct::ConductedCall;
#[doc(hidden)]
pub use echo::echo;
#[doc(hidden)]
pub use frame_path::FramePath;
pub use leg::Line;
pub use live::{
    CallFacts, CallNews, CallProgress, CallSnapshot, Conductor, Happened, LiveCall, LivePhase,
    MAX_MOMENTS, Moment, Watched,
};
pub use opening::{OpenError, OpenedSession, SessionSource, TenantPolicy};
pub use order::OrderError;
pub use recent_turns::{TURN_STEP, TurnStep};
pub use record::{RecordedCall, Recording};
pub use registry::{CallPermit, Calls};
pub use relay::{REALTIME, RelayLimits, RelayedCall};
pub use summary::{CallSummary, MAX_TURNS, Share};
pub use tool::{ToolRunner, WebhookConfig};
pub use trace::{CallTrace, TracedCall};
pub use watchdog::{Limits as WatchdogLimits, Pulse, watch as watch_threads};
pub use workers::Workers;

/// The vendor's id of a session, from its first event; empty if it has none.
fn session_id(session_created: &str) -> String {
    match Decoder::new()
        .decode(session_created)
        .as_ref()
        .map(Decoded::event)
    {
        Ok(ModelEvent::SessionCreated { session_id, .. }) => session_id.to_owned(),
        _ => String::new(),
    }
}
