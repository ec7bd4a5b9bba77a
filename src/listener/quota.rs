//! Whether quota lets a caller in, and what it is told if not.

use crate::auth::Identity;
use crate::bridge::CallPermit;
use crate::ingress::{Refusal, RejectReason, twiml_reject, twiml_say};
use crate::quota::{Busy, CallKind, CallLease, Caller};
use crate::upstream::Pool;

use super::desk::Desk;
use super::jittered;

/// A call that was announced and does not come within this gives its place back. Tickets live as long by default.
const ANNOUNCED: std::time::Duration = std::time::Duration::from_secs(60);

/// The right of one call to be there.
pub(super) type Admission = (CallPermit, CallLease);

impl Desk {
    /// Lets one more call of `kind` in, to be served by `pool`.
    pub(super) async fn admit_to(
        &self,
        identity: &Identity,
        kind: CallKind<'_>,
        pool: &Pool,
    ) -> Result<Admission, Refusal> {
        let permit = self.admit(identity)?;
        let lease = self.lease(&identity.tenant, kind, None, pool).await;
        Ok((permit, lease.map_err(refusal)?))
    }

    async fn lease(
        &self,
        tenant: &str,
        kind: CallKind<'_>,
        number: Option<&str>,
        pool: &Pool,
    ) -> Result<CallLease, Busy> {
        let members = pool.members().iter();
        let mut carrying: Vec<_> = members.clone().filter(|it| it.is_dependable()).collect();
        if carrying.is_empty() {
            // Who comes now finds out whether one of them is back.
            carrying = members.collect();
        }
        let members: Vec<_> = carrying.into_iter().map(|it| it.name()).collect();
        let capacity = self.quota.pool(pool.name(), &members);
        let caller = Caller {
            tenant,
            kind,
            number,
        };
        self.quota.admit(caller, capacity).await
    }

    /// Takes the place that a webhook has kept for the call, or a new one.
    pub(super) async fn admit_announced(
        &self,
        identity: &Identity,
        agent: &str,
        ticket: Option<&str>,
        pool: &Pool,
    ) -> Result<Admission, Refusal> {
        match self.quota.claim(&key(&identity.tenant, agent, ticket)) {
            Some(lease) => Ok((self.admit(identity)?, lease)),
            None => {
                let kind = CallKind::Agent(agent);
                self.admit_to(identity, kind, pool).await
            }
        }
    }

    /// A place for a call that a webhook announces, whose caller's number nobody tells later.
    pub(super) async fn announce(
        &self,
        tenant: &str,
        agent: &str,
        number: Option<&str>,
        pool: &Pool,
    ) -> Result<CallLease, Busy> {
        let kind = CallKind::Agent(agent);
        self.lease(tenant, kind, number, pool).await
    }

    /// Keeps that place for the call that will come to that address.
    pub(super) fn keep_place(&self, tenant: &str, agent: &str, stream_url: &str, lease: CallLease) {
        let last = stream_url.rsplit_once('/').map(|(_, last)| last);
        let ticket = last.filter(|_| self.routes.auth.has_tickets());
        let key = key(tenant, agent, ticket);
        self.quota.park(key, lease, ANNOUNCED);
    }

    /// What a phone hears that cannot come in.
    pub(super) fn busy_twiml(&self) -> String {
        let message = self.routes.twilio.busy_message.as_deref();
        let said = message.and_then(|message| twiml_say(message).ok());
        said.unwrap_or_else(|| twiml_reject(RejectReason::Busy))
    }
}

/// By what a place is kept: a ticket is one call's. Without tickets, one announced call of an agent is as good as
/// another.
fn key(tenant: &str, agent: &str, ticket: Option<&str>) -> String {
    match ticket {
        Some(ticket) => format!("ticket:{ticket}"),
        None => format!("agent:{tenant}/{agent}"),
    }
}

fn refusal(busy: Busy) -> Refusal {
    if busy.code == "quota_unknown" {
        return Refusal {
            code: busy.code,
            ..Refusal::unavailable(jittered())
        };
    }
    let Some(retry_after) = busy.retry_after else {
        return Refusal {
            code: busy.code,
            message: busy.message.into(),
            ..Refusal::forbidden()
        };
    };
    Refusal {
        code: busy.code,
        message: busy.message.into(),
        // Spread, so that not all who were refused come back at once.
        ..Refusal::too_many_requests(retry_after + jittered() / 5)
    }
}
