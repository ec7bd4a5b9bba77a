//! Which deployment is asked for a session, when, and how often: pure cores, given the time and a random number.
//!
//! Knows no socket, no credential and no call: what happened to a dial or a session is told to it, and it answers in
//! indexes, moments and verdicts. What each deployment can still carry is told to it as a [`Load`].

mod backoff;
mod choice;
mod health;
mod outlier;
mod percentile;
mod retry_budget;
mod standby;

use std::fmt;
use std::time::Duration;

pub use backoff::Backoff;
pub use choice::{Candidate, Policy, order};
pub use health::{Condition, Failed, Grant, Health, Need, Refused, Stage, Standing};
pub use outlier::{Ejections, Window};
pub use percentile::DialTimes;
pub use retry_budget::RetryBudget;
pub use standby::Demand;

/// What deployments can still carry, known elsewhere.
pub trait Load: fmt::Debug + Send + Sync {
    /// How much a deployment carries for what it is granted, for comparing one with another; `n_sessions` are held
    /// there. None if nobody knows what it is granted.
    fn pressure(&self, deployment: &str, n_sessions: u32) -> Option<f64>;

    /// Whether a deployment can carry one more call beside `n_calls` that it has or is being asked for.
    ///
    /// # Errors
    ///
    /// If it cannot: when that may be otherwise.
    fn may_take(&self, deployment: &str, n_calls: u32) -> Result<(), Duration>;

    /// A deployment refused a session for its quota, and wants to be left alone for so long.
    fn refused(&self, deployment: &str, retry_after: Duration);
}
