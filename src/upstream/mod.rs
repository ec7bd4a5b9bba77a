//! The model leg: opens sessions at deployments, and turns their events into the words of `call` and back.
//!
//! Knows nothing of callers, and decides nothing about a call.

mod assertion;
mod configure;
mod credential;
mod decode;
mod deployment;
mod dial;
mod dial_error;
mod encode;
mod entra;
mod entra_config;
mod failed_dials;
mod open;
mod pool;
mod resolve;
mod setup;
mod standby;
mod state;
mod stock;
mod token_http;
mod token_keeper;
mod token_schedule;
mod upgrade;

pub use credential::keep_credentials;
pub use decode::{Decoded, Decoder};
pub(crate) use deployment::Authorities;
pub use deployment::{
    Deployment, DeploymentConfig, DeploymentError, DialTimeouts, Kind, ModelAudio,
};
pub use dial::{Dialer, ModelLeg};
pub use dial_error::DialError;
pub use encode::{SessionContext, encode};
pub use entra::Identities;
pub use entra_config::{EntraConfig, EntraKind};
pub use failed_dials::{FailedDial, FailedDials};
pub use pool::{
    MemberConfig, MemberTable, Place, Pool, PoolConfig, Session, SessionFormats, SessionRequest,
    StandbyConfig, Sticky, Trouble,
};
pub use resolve::Resolve;
pub use setup::SessionSetup;
pub use standby::{Configure, Standby, StandbyLine};
