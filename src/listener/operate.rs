//! What operators see of a gateway and have it do: its deployments, and going away.

use std::time::Duration;

use tokio::sync::watch;

use super::{Gateway, RefusedCallers};

/// What is left of something that is granted by the minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaStatus {
    /// Granted a minute.
    pub limit: f64,
    /// Of that, now.
    pub remaining: f64,
}

/// A deployment as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentStatus {
    /// Its name.
    pub name: String,
    /// Where it is, if the configuration says so.
    pub region: Option<String>,
    /// What routing thinks of it, as the metric has it.
    pub condition: &'static str,
    /// An operator wants no session to be opened there.
    pub is_drained: bool,
    /// Sessions that have a call or are opened for one.
    pub n_sessions: u32,
    /// Sessions that stand by.
    pub n_standby: u32,
    /// Tokens; what a provisioned one carries by what tokens weighed so far.
    pub tokens: QuotaStatus,
    /// Requests; a provisioned one counts none.
    pub requests: Option<QuotaStatus>,
    /// How full it is: 0 for unused, 1 for no room.
    pub pressure: f64,
}

/// Going away, because an operator wants it: how long calls may take, if it was said.
pub(super) type DrainWanted = watch::Sender<Option<Option<Duration>>>;

impl Gateway {
    /// All deployments of the configuration in force, by name.
    #[must_use]
    pub fn deployments(&self) -> Vec<DeploymentStatus> {
        let desk = self.desk();
        let deployments = desk.routes.deployments.values();
        let status = deployments.map(|it| {
            let account = self.quota.account(it.name());
            let pressure = account.pressure();
            let per_minute = account.tokens_per_minute();
            let requests = account.requests();
            let left = match requests {
                Some(_) => account.tokens_left(),
                None => per_minute * (1.0 - pressure),
            };
            DeploymentStatus {
                name: it.name().to_owned(),
                region: it.region().map(str::to_owned),
                condition: it.condition().name(),
                is_drained: it.is_drained(),
                n_sessions: it.calls(),
                n_standby: it.waiting(),
                tokens: QuotaStatus {
                    limit: per_minute,
                    remaining: left.clamp(0.0, per_minute),
                },
                requests: requests.map(|(limit, left)| QuotaStatus {
                    limit,
                    remaining: left.clamp(0.0, limit),
                }),
                pressure,
            }
        });
        status.collect()
    }

    /// Who was not let in of late, the latest first.
    #[must_use]
    pub fn refusals(&self) -> Vec<RefusedCallers> {
        self.refusals.recent()
    }

    /// Opens no session at a deployment from now on, or does so again. False if there is none of that name.
    pub fn set_drained(&self, deployment: &str, is_drained: bool) -> bool {
        let desk = self.desk();
        let Some(deployment) = desk.routes.deployments.get(deployment) else {
            return false;
        };
        deployment.set_drained(is_drained, &self.metrics);
        tracing::warn!(
            deployment = deployment.name(),
            is_drained,
            "an operator decides whether sessions are opened there"
        );
        true
    }

    /// Asks whoever runs the process to drain it and to go: within `deadline`, if one is given. A drain that is under
    /// way takes the new deadline.
    pub fn ask_to_drain(&self, deadline: Option<Duration>) {
        tracing::warn!(
            deadline_s = deadline.map(|it| it.as_secs()),
            "an operator drains the gateway"
        );
        self.drain_wanted.send_replace(Some(deadline));
    }

    /// Whether, and how, an operator wants the process to go, also when that changes.
    #[must_use]
    pub fn drain_wanted(&self) -> watch::Receiver<Option<Option<Duration>>> {
        self.drain_wanted.subscribe()
    }

    /// Is over when the gateway begins to drain.
    pub async fn drain_began(&self) {
        self.standing_down.cancelled().await;
    }
}
