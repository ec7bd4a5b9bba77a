//! Deployments that serve the same calls, and what is kept of a session as long as it is used.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::realtime::WireFormat;
use crate::routing::{Ejections, Policy, RetryBudget};
use crate::telemetry::Metrics;

use super::deployment::Deployment;
use super::dial::ModelLeg;
use super::dial_error::DialError;
use super::failed_dials::FailedDials;
use super::state::{Held, now};
use super::stock::Stock;

/// One `[pools.NAME]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Its deployments, by name or as a table with priority and weight.
    pub deployments: Vec<MemberConfig>,
    /// How deployments of equal priority share calls.
    #[serde(default)]
    pub policy: Policy,
    /// What keeps calls at the same deployment.
    pub sticky: Option<Sticky>,
    /// The region whose deployments are asked before others of equal priority.
    pub prefer_region: Option<String>,
    /// Whether a second deployment is dialled while the first is slower than usual.
    #[serde(default = "yes")]
    pub hedge: bool,
    /// How long opening a session may take in all.
    #[serde(default = "total", with = "humantime_serde")]
    pub timeout: Duration,
    /// Sessions that are opened before they are wanted.
    #[serde(default)]
    pub standby: StandbyConfig,
}

/// A deployment in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberTable {
    /// Its name.
    pub name: String,
    /// The lowest number is asked first; the next one when all before it are in trouble or full.
    #[serde(default)]
    pub priority: u32,
    /// Its share of the calls among those of equal priority.
    #[serde(default = "one")]
    pub weight: u32,
}

/// The same, which may be written as the name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig(pub MemberTable);

impl<'de> Deserialize<'de> for MemberConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = MemberTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a deployment, or a table with its name")
            }

            fn visit_str<E>(self, name: &str) -> Result<MemberTable, E> {
                Ok(MemberTable {
                    name: name.to_owned(),
                    priority: 0,
                    weight: 1,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<MemberTable, A::Error> {
                MemberTable::deserialize(MapAccessDeserializer::new(table))
            }
        }
        deserializer.deserialize_any(NameOrTable).map(Self)
    }
}

/// What keeps calls at the same deployment, as long as it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// The same caller: its number where a webhook told it, else the address that it calls from.
    Caller,
    /// The same tenant.
    Tenant,
}

/// `[pools.NAME.standby]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StandbyConfig {
    /// Sessions that stand by for each agent however few the calls are.
    pub min: usize,
    /// Sessions that stand by in the pool at most; 0 for none at all.
    pub max: usize,
    /// A session that was not used for so long is closed.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Sessions opened ahead in a second at most.
    pub per_second: u32,
    /// Whether some stand by for SDK callers too, without being configured.
    pub sdk: bool,
}

impl Default for StandbyConfig {
    fn default() -> Self {
        Self {
            min: 0,
            max: 0,
            // Before the shortest cap in use, 30 min (protocol reference 1.6).
            max_age: Duration::from_secs(25 * 60),
            per_second: 20,
            sdk: false,
        }
    }
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

fn total() -> Duration {
    Duration::from_secs(10)
}

/// Deployments of which any may serve a call.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    members: Vec<Arc<Deployment>>,
    config: PoolConfig,
    state: Mutex<PoolState>,
    stock: Option<Stock>,
}

/// What changes while the process runs.
#[derive(Debug, Default)]
pub(super) struct PoolState {
    pub(super) budget: RetryBudget,
    pub(super) ejections: Ejections,
}

impl Pool {
    /// A pool of these deployments that are all alike.
    #[must_use]
    pub fn new(name: &str, members: Vec<Arc<Deployment>>) -> Self {
        let config = PoolConfig {
            deployments: Vec::new(),
            policy: Policy::default(),
            sticky: None,
            prefer_region: None,
            hedge: true,
            timeout: total(),
            standby: StandbyConfig::default(),
        };
        let table = |it: &Arc<Deployment>| MemberTable {
            name: it.name().to_owned(),
            priority: 0,
            weight: 1,
        };
        let tables = members.iter().map(table).map(MemberConfig).collect();
        Self::with_config(
            name,
            PoolConfig {
                deployments: tables,
                ..config
            },
            members,
        )
    }

    /// A pool as it is configured, of its deployments in the order of the configuration.
    #[must_use]
    pub fn with_config(name: &str, config: PoolConfig, members: Vec<Arc<Deployment>>) -> Self {
        let stock = (config.standby.max > 0).then(|| Stock::new(config.standby));
        Self(Arc::new(Inner {
            name: name.to_owned(),
            members,
            config,
            state: Mutex::default(),
            stock,
        }))
    }

    /// The name in the configuration, which is also the metric label. A deployment is a pool of that name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How long a caller waits for a session in all.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.0.config.timeout
    }

    /// The same pool of other deployments, which have the names of its own, in their order. Nothing stands by there.
    #[must_use]
    pub fn of(&self, members: Vec<Arc<Deployment>>) -> Self {
        Self::with_config(self.name(), self.config().clone(), members)
    }

    /// Its deployments.
    #[must_use]
    pub fn members(&self) -> &[Arc<Deployment>] {
        &self.0.members
    }

    /// A call is about to come for which a session of that line may stand by.
    pub fn expect_call(&self, standby_line: &str) {
        if let Some(stock) = &self.0.stock {
            stock.expect(standby_line);
        }
    }

    pub(super) fn config(&self) -> &PoolConfig {
        &self.0.config
    }

    pub(super) fn table(&self, member: usize) -> &MemberTable {
        &self.0.config.deployments[member].0
    }

    pub(super) fn stock(&self) -> Option<&Stock> {
        self.0.stock.as_ref()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PoolState> {
        self.0.state.lock().expect("no panic while held")
    }

    /// Leaves out whoever fails more often than the others. Called when something failed.
    pub(super) fn judge(&self, metrics: &Metrics) {
        let counts: Vec<_> = self.members().iter().map(|it| it.outcomes()).collect();
        let ejections = &mut self.state().ejections;
        if let Some(member) = ejections.judge(&counts, now(), fastrand::f64()) {
            let deployment = &self.members()[member];
            deployment.forget_outcomes();
            metrics.routing().ejected(self.name(), deployment.name());
            let (pool, deployment) = (self.name(), deployment.name());
            tracing::warn!(
                pool,
                deployment,
                "left out: it fails more often than the others"
            );
        }
    }
}

/// What a session is wanted for.
#[derive(Clone, Debug, Default)]
pub struct SessionRequest {
    /// It is only to transcribe.
    pub transcription: bool,
    /// Deployments that have just failed this call: asked again only if no other is left.
    pub avoid: Vec<String>,
    /// The line of sessions that stand by of which it may be, as [`StandbyLine`](super::StandbyLine) names it.
    pub standby_line: Option<String>,
    /// Whose call it is, for pools that keep a tenant's calls together.
    pub tenant: Option<String>,
    /// Who calls, for pools that keep a caller's calls together.
    pub caller: Option<String>,
    /// Where dials that fail are told.
    pub failed_dials: FailedDials,
}

impl SessionRequest {
    /// Whether it is for a call that goes on and lost its session.
    pub(super) fn is_live(&self) -> bool {
        !self.avoid.is_empty()
    }
}

/// A session for a call.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub leg: ModelLeg,
    /// Where it is.
    pub place: Place,
    /// It has been configured for its agent already, with these formats.
    pub configured: Option<SessionFormats>,
}

/// Audio formats of a session, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionFormats {
    /// Of the caller's audio.
    pub input: WireFormat,
    /// Of the reply.
    pub output: WireFormat,
}

/// A session's place at a deployment. Held as long as the session is used, and the way to say how it fares; one that
/// is dropped without a word went well.
#[derive(Debug)]
pub struct Place {
    held: Held,
    pool: Pool,
    standby_line: Option<String>,
    metrics: Arc<Metrics>,
    /// The version of the credential that the session was opened with.
    shown: u64,
    is_told: AtomicBool,
    /// It failed since it last did well: what else goes wrong until then is not counted again.
    has_failed: AtomicBool,
}

impl Place {
    pub(super) fn new(
        held: Held,
        shown: u64,
        pool: &Pool,
        standby_line: Option<String>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        metrics.routing().session(held.0.name(), 1);
        Self {
            held,
            pool: pool.clone(),
            standby_line,
            metrics: Arc::clone(metrics),
            shown,
            is_told: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        }
    }

    /// The deployment.
    #[must_use]
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.held.0
    }

    /// The deployment failed the call in this way. Failures are of sessions: one that fails again and again counts once,
    /// until it does well again.
    pub fn report(&self, trouble: Trouble) {
        self.is_told.store(true, Ordering::Relaxed);
        let is_counted = !matches!(trouble, Trouble::RateLimited(_) | Trouble::Unauthorized);
        if is_counted && self.has_failed.swap(true, Ordering::Relaxed) {
            return;
        }
        let deployment = self.deployment();
        tracing::debug!(
            deployment = deployment.name(),
            ?trouble,
            "trouble with a deployment"
        );
        deployment.session_failed(trouble, self.shown, &self.metrics);
        self.pool.judge(&self.metrics);
    }

    /// The deployment did what it should, a response for instance.
    pub fn went_well(&self) {
        self.has_failed.store(false, Ordering::Relaxed);
        let is_first = !self.is_told.swap(true, Ordering::Relaxed);
        self.deployment().session_went_well(is_first);
    }

    /// The session could not be configured.
    pub fn not_configured(&self, error: &DialError) {
        if let Some(trouble) = error.trouble_of_settings() {
            self.report(trouble);
        }
    }

    /// Whether it says nothing of the deployment to drop this place without a word, good or bad.
    pub fn set_unproven(&self, is_unproven: bool) {
        self.is_told.store(is_unproven, Ordering::Relaxed);
    }

    /// The call's audio has these formats: sessions that stand by for others of its kind will have them too.
    pub fn asks_for(&self, formats: SessionFormats) {
        if let (Some(line), Some(stock)) = (&self.standby_line, self.pool.stock()) {
            stock.learn(line, self.deployment().audio(), formats);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let deployment = self.deployment();
        self.metrics.routing().session(deployment.name(), -1);
        if !self.is_told.load(Ordering::Relaxed) {
            deployment.session_went_well(true);
        }
    }
}

/// How a deployment failed a session that had been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No event came while one was due.
    Stalled,
    /// It closed the session before its time.
    Closed,
    /// The connection broke.
    Gone,
    /// It sent what the protocol does not allow.
    Protocol,
    /// It could not begin or finish a response.
    ServerError,
    /// Its quota is used up, for so long if it says so.
    RateLimited(Option<Duration>),
    /// What it was shown is good no more.
    Unauthorized,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_a_name_or_a_table() {
        let pool = |text: &str| toml::from_str::<PoolConfig>(text).map_err(|it| it.to_string());
        let good = pool("deployments = ['a', { name = 'b', priority = 1, weight = 3 }]");
        let members: Vec<MemberTable> = good
            .expect("good")
            .deployments
            .into_iter()
            .map(|it| it.0)
            .collect();
        let table = |name: &str, priority, weight| MemberTable {
            name: name.to_owned(),
            priority,
            weight,
        };
        assert_eq!(members, [table("a", 0, 1), table("b", 1, 3)]);
        for (text, expected) in [
            ("deployments = [3]", "the name of a deployment, or a table"),
            (
                "deployments = [{ name = 'a', wait = 3 }]",
                "unknown field `wait`",
            ),
            ("deployments = [{ weight = 3 }]", "missing field `name`"),
            (
                "deployments = ['a']\nsticky = 'number'",
                "unknown variant `number`",
            ),
        ] {
            let error = pool(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
