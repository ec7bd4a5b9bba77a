//! Whom a caller gets: names in a request to agents and deployments.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::auth::Authenticator;
use crate::bridge::{Agent, REALTIME, TenantPolicy};
use crate::ingress::{Dialect, Refusal};
use crate::quota::QuotaPlan;
use crate::realtime::Shape;
use crate::records::RecordsPlan;
use crate::traces::TracesPlan;
use crate::upstream::{Deployment, Identities, Pool};

use super::asterisk::AsteriskServers;
use super::config::TwilioConfig;
use super::tls::Tls;

/// Everybody who can answer, and who may call.
#[derive(Clone, Debug)]
pub struct Routes {
    /// By name.
    pub deployments: BTreeMap<String, Arc<Deployment>>,
    /// Whose tokens deployments are shown.
    pub identities: Identities,
    /// What serves calls, by name: those of the configuration, and each deployment as a pool of its own.
    pub pools: BTreeMap<String, Arc<Pool>>,
    /// What SDK callers may call a pool besides its name.
    pub models: BTreeMap<String, String>,
    /// By name.
    pub agents: BTreeMap<String, Arc<Agent>>,
    /// Who may call.
    pub auth: Authenticator,
    /// Deployments or aliases that a tenant's SDK callers may use; a tenant without any may use all.
    pub allowed_models: BTreeMap<String, Vec<String>>,
    /// Agents that a tenant's phones may reach; a tenant without any may reach all.
    pub allowed_agents: BTreeMap<String, Vec<String>>,
    /// The shape that a tenant's SDK callers speak whatever they say; without one, what they say.
    pub caller_shapes: BTreeMap<String, Shape>,
    /// What a tenant's SDK callers may do with their sessions; without one, anything.
    pub session_policies: BTreeMap<String, TenantPolicy>,
    /// What calls may use.
    pub quota: QuotaPlan,
    /// What is recorded of calls, and where.
    pub records: Arc<RecordsPlan>,
    /// Which calls are traced, and where to.
    pub traces: Arc<TracesPlan>,
    /// How Twilio's numbers are answered.
    pub twilio: TwilioConfig,
    /// Where calls may be fetched that wait in Asterisk.
    pub asterisk: AsteriskServers,
    /// TLS towards callers, if it is asked for.
    pub tls: Option<Arc<Tls>>,
}

impl Routes {
    /// The pool that an SDK caller of `tenant` means by `model`.
    pub(super) fn for_model(
        &self,
        tenant: &str,
        model: Option<&str>,
    ) -> Result<Arc<Pool>, Refusal> {
        // A transcription session names its model later; any pool that the tenant may use will do.
        let allowed = self
            .allowed_models
            .get(tenant)
            .filter(|allowed| !allowed.is_empty());
        let model = match (model, allowed) {
            (Some(model), Some(allowed)) if !allowed.iter().any(|name| name == model) => {
                return Err(Refusal::forbidden());
            }
            (Some(model), _) => model,
            (None, Some(allowed)) => &allowed[0],
            (None, None) => self.pools.keys().next().map_or("", String::as_str),
        };
        let name = self.models.get(model).map_or(model, String::as_str);
        self.pools
            .get(name)
            .cloned()
            .ok_or_else(Refusal::model_not_found)
    }

    /// The shape that an SDK caller of `tenant` speaks, who by its request speaks `asked`. What the operator says
    /// wins (protocol reference 1.2, rule 4).
    #[must_use]
    pub fn caller_shape(&self, tenant: &str, asked: Shape) -> Shape {
        self.caller_shapes.get(tenant).copied().unwrap_or(asked)
    }

    /// What SDK callers of `tenant` may do with their sessions.
    pub(super) fn session_policy(&self, tenant: &str) -> Option<TenantPolicy> {
        self.session_policies.get(tenant).cloned()
    }

    /// Whether a caller of `tenant` may reach by `dialect` the agent of that name, or by `realtime` the model.
    ///
    /// # Errors
    ///
    /// If it may not, or there is none, or no such dialect.
    pub fn check_reach(&self, tenant: &str, dialect: &str, agent: &str) -> Result<(), Refusal> {
        if dialect == REALTIME {
            self.for_model(tenant, Some(agent)).map(|_| ())
        // A ticket needs a path to stand in, or a request.
        } else if Dialect::path_of(dialect).is_some_and(|path| path.starts_with('/')) {
            self.for_agent(tenant, agent).map(|_| ())
        } else {
            Err(Refusal::bad_request(
                "unknown_dialect",
                "There is no such dialect.",
            ))
        }
    }

    /// The agent of that name, whom `tenant` wants to reach, and the pool that serves it.
    pub(super) fn for_agent(
        &self,
        tenant: &str,
        name: &str,
    ) -> Result<(Arc<Agent>, Arc<Pool>), Refusal> {
        let allowed = self.allowed_agents.get(tenant);
        if allowed
            .is_some_and(|allowed| !allowed.is_empty() && !allowed.iter().any(|it| it == name))
        {
            return Err(Refusal::forbidden());
        }
        self.agents
            .get(name)
            .and_then(|agent| {
                let pool = self.pools.get(agent.pool())?;
                Some((Arc::clone(agent), Arc::clone(pool)))
            })
            .ok_or_else(Refusal::not_found)
    }
}
