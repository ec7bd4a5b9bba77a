//! What deployments can still carry, as quota knows it, for the dialler, which chooses among them.

use std::time::Duration;

use crate::quota::Quota;
use crate::routing::Load;

/// Quota's accounts and forecasts in the words of routing.
#[derive(Debug)]
pub(super) struct QuotaLoad(pub(super) Quota);

impl Load for QuotaLoad {
    fn pressure(&self, deployment: &str, n_sessions: u32) -> Option<f64> {
        self.0.forecast_share(deployment, n_sessions)
    }

    fn may_take(&self, deployment: &str, n_calls: u32) -> Result<(), Duration> {
        self.0.may_take(deployment, n_calls)
    }

    fn refused(&self, deployment: &str, retry_after: Duration) {
        self.0.account(deployment).refused(Some(retry_after));
    }
}
