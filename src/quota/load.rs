//! What deployments can still carry by the calls that they have, for whoever chooses one for a call.
//!
//! Which calls come in is decided for a pool as a whole, before and elsewhere; this says where a call that came in is
//! served best. Counts the calls of this process, and takes those of others into account only by what deployments say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::DEFAULT_OUTPUT;
use super::bucket::from_minutes;
use super::forecast::{CallForecast, Kind};
use super::front::{AccountHandle, Quota};
use super::settings::Admission;
use super::store::GroupDemand;

/// A full deployment is worth another look after this, however long its calls last.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Quota {
    /// The most that the calls of a deployment are expected to need in the coming minutes, as a share of what it is
    /// granted. None if nobody goes by that: admission is off, or the configuration does not tell its grant.
    ///
    /// `n_sessions` are held there. Those that are no call yet count as calls that begin now.
    #[must_use]
    pub fn forecast_share(&self, deployment: &str, n_sessions: u32) -> Option<f64> {
        let account = self.granted(deployment)?;
        Some(Outlook::new(self, &account, n_sessions, now()).share)
    }

    /// Whether a deployment can begin one more call now and carry it, beside `n_sessions` that are or will be calls.
    ///
    /// # Errors
    ///
    /// When to look again, if it cannot.
    pub fn may_take(&self, deployment: &str, n_sessions: u32) -> Result<(), Duration> {
        let Some(account) = self.granted(deployment) else {
            return Ok(());
        };
        let outlook = Outlook::new(self, &account, n_sessions.saturating_add(1), now());
        account.can_take(outlook.first_response)?;
        if outlook.share <= self.plan().config.headroom {
            return Ok(());
        }
        Err(outlook.next_end)
    }

    fn granted(&self, deployment: &str) -> Option<AccountHandle> {
        let plan = self.plan();
        let (grant, _) = plan.deployments.get(deployment)?;
        let is_counted = grant.is_some() && plan.config.admission != Admission::Off;
        is_counted.then(|| self.account(deployment))
    }
}

/// What a deployment has before it.
struct Outlook {
    /// Its highest demand to come, as a share of what it carries.
    share: f64,
    /// Until one of its calls can be expected to have ended.
    next_end: Duration,
    /// What the first response of a new call takes, its largest output included.
    first_response: f64,
}

impl Outlook {
    fn new(quota: &Quota, account: &AccountHandle, n_sessions: u32, now: Instant) -> Self {
        let kind = Kind::new(&quota.plan().config.expect);
        let newcomer = CallForecast::new(kind.profile(), now);
        let mean_minutes = kind.mean_minutes();
        let locked = account.lock();
        let (demand, capacity) = match locked.weighted_per_minute() {
            Some((weights, capacity)) => {
                let demand = newcomer.weighted_demand(&weights, mean_minutes, now);
                (demand, capacity)
            }
            None => (
                newcomer.demand(mean_minutes, now),
                locked.tokens_per_minute(),
            ),
        };
        drop(locked);
        let newcomer_of_any = GroupDemand {
            tenant: Arc::from(""),
            weight: 1.0,
            kind: Arc::from(""),
            mean_minutes,
            demand,
        };
        let calls = account.calls();
        let n_known = u32::try_from(calls.n_calls()).unwrap_or(u32::MAX);
        let n_coming = n_sessions.saturating_sub(n_known);
        Self {
            share: calls.peak(n_coming, &newcomer_of_any) / capacity.max(1.0),
            next_end: from_minutes(calls.next_end()).min(LONGEST_WAIT),
            first_response: newcomer.next_response(None).input + DEFAULT_OUTPUT,
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
