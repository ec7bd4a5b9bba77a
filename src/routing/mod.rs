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
pub use health::{Condition, Failed, Grant, Health, Refused, Stage, Standing};
pub use outlier::{Ejections, Window};
pub use percentile::DialTimes;
pub use retry_budget::RetryBudget;
pub use standby::Demand;

/// What deployments can still carry, known elsewhere.
pub trait Load: fmt::Debug + Send + Sync {
    /// How much a deployment carries, for comparing one with another: sessions, or tokens forecast.
    fn pressure(&self, deployment: &str) -> f64;

    /// Whether a deployment may be given one more call.
    ///
    /// # Errors
    ///
    /// If it may not: when that may be otherwise.
    fn may_take(&self, deployment: &str) -> Result<(), Duration>;
}
