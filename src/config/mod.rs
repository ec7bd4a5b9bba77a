//! The configuration file: each module's own part of it, put together and checked as a whole.

mod locate;
mod quota;
mod reading;
mod records;
mod reload;
mod traces;
mod warnings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::admin::{Access, AdminConfig};
use crate::auth::{
    AuthConfig, AuthMode, Authenticator, ProviderScheme, ProvidersConfig, TwilioAccounts,
};
use crate::bridge::{Agent, AgentConfig, TenantPolicy, WatchdogLimits};
use crate::listener::{
    Alpn, AsteriskServers, ListenerConfig, Routes, Tls, TwilioConfig, is_origin, is_public_url,
};
use crate::quota::{Price, QuotaConfig, TenantQuota};
use crate::realtime::{SessionPolicy, SessionPolicyConfig, Shape};
use crate::records::RecordsConfig;
use crate::traces::TracesConfig;
use crate::upstream::{Deployment, DeploymentConfig, Identities, MemberConfig, Pool, PoolConfig};

pub use reading::Loaded;
pub use reload::{Outcome, ReloadConfig, Reloader};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where callers come in.
    #[serde(default)]
    pub listener: ListenerConfig,
    /// Where operators look.
    #[serde(default)]
    pub admin: AdminConfig,
    /// Who may call.
    #[serde(default)]
    pub auth: AuthConfig,
    /// What each tenant may do.
    #[serde(default)]
    pub tenants: BTreeMap<String, TenantConfig>,
    /// When calls are let in, and where what they use is counted.
    #[serde(default)]
    pub quota: QuotaConfig,
    /// The model legs' other ends.
    pub deployments: BTreeMap<String, DeploymentConfig>,
    /// Deployments that serve the same calls.
    #[serde(default)]
    pub pools: BTreeMap<String, PoolConfig>,
    /// Names that SDK callers use for a deployment or pool.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
    /// Who answers phones.
    #[serde(default)]
    pub agents: BTreeMap<String, AgentConfig>,
    /// How Twilio's numbers are answered.
    #[serde(default)]
    pub twilio: TwilioConfig,
    /// The accounts of other providers.
    #[serde(default)]
    pub providers: ProvidersConfig,
    /// What tokens cost, by model.
    #[serde(default)]
    pub prices: BTreeMap<String, Price>,
    /// What is recorded of calls, and where.
    #[serde(default)]
    pub records: RecordsConfig,
    /// Which calls are traced, and where to.
    #[serde(default)]
    pub traces: TracesConfig,
    /// When the file is read again.
    #[serde(default)]
    pub reload: ReloadConfig,
    /// How the process goes away.
    #[serde(default)]
    pub drain: DrainConfig,
    /// What is logged.
    #[serde(default)]
    pub log: LogConfig,
    /// How the process guards itself.
    #[serde(default)]
    pub process: ProcessConfig,
}

/// As long as a host's full name may be (RFC 1035, 2.3.4).
const MAX_REPLICA: usize = 253;

/// The `[process]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// What call records name this process by; the host's name unless set.
    pub replica: Option<String>,
    /// Whether the process may leave core dumps and be looked into by a debugger: both show keys and calls.
    pub dumpable: bool,
    /// The process ends, to be started again, when a thread has got nowhere for so long; zero for never.
    #[serde(with = "humantime_serde")]
    pub watchdog: Duration,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            replica: None,
            dumpable: false,
            watchdog: Duration::from_secs(10),
        }
    }
}

/// One `[tenants.NAME]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantConfig {
    /// Deployments that its SDK callers may use, by name or alias; empty for all.
    pub models: Vec<String>,
    /// Agents that its phones and audio clients may reach; empty for all.
    pub agents: Vec<String>,
    /// Shape of events that its SDK callers speak, whatever their URL says. For clients that build the URL of one
    /// shape and speak the other, as openai-python's GA client does on `AsyncAzureOpenAI` (openai-python#2638).
    pub caller_shape: Option<Shape>,
    /// What its SDK callers may do with the sessions that they conduct; without it, anything.
    pub session: Option<SessionPolicyConfig>,
    /// What it may use; without it, anything.
    pub quota: TenantQuota,
}

/// The `[drain]` table.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// How long calls may finish after SIGTERM before they are ended.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(300),
        }
    }
}

/// The `[log]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Filter directives, as in `info` or `trunkline=debug`. The environment variable `TRUNKLINE_LOG` overrides it.
    pub filter: String,
    /// One JSON object a line, or text for people.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Json,
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// A mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the file, from 1, if the mistake has a place there.
    pub line: Option<usize>,
    /// Path of the field, as in `agents.reception.session.speed`; empty if the file cannot be read at all.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is not of this form.
    pub fn load(path: &Path) -> Result<(Self, String), Mistake> {
        let text = std::fs::read_to_string(path).map_err(|error| Mistake {
            line: None,
            field: String::new(),
            problem: format!("cannot read {}: {error}", path.display()),
        })?;
        Ok((Self::parse(&text)?, text))
    }

    /// Reads a file's text.
    ///
    /// # Errors
    ///
    /// If it is not of this form.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        toml::from_str(text).map_err(|error| Mistake {
            line: error.span().map(|span| locate::line_at(text, span.start)),
            field: String::new(),
            problem: without_value(error.message()),
        })
    }

    /// Checks what no single field can tell, and makes what the listener needs. `text` is the file's
    /// text, to find the lines of mistakes in.
    ///
    /// # Errors
    ///
    /// All mistakes that were found.
    pub fn build(&self, text: &str) -> Result<Routes, Vec<Mistake>> {
        self.build_with(text, Identities::default())
    }

    /// The same with identities whose tokens may be there already.
    fn build_with(&self, text: &str, mut identities: Identities) -> Result<Routes, Vec<Mistake>> {
        let mut mistakes = Mistakes {
            text,
            found: Vec::new(),
        };
        let deployments = self.build_deployments(&mut identities, &mut mistakes);
        let pools = self.build_pools(&deployments, &mut mistakes);
        let agents = self.build_agents(&mut mistakes);
        let auth = self.build_auth(&mut mistakes);
        let tls = self.build_tls(&mut mistakes);
        let asterisk = self.build_asterisk(&mut mistakes);
        let session_policies = self.build_session_policies(&mut mistakes);
        self.check_models(&mut mistakes);
        self.check_listeners(&mut mistakes);
        self.check_quota(&mut mistakes);
        let records = self.build_records(&mut mistakes);
        let traces = self.build_traces(&mut mistakes);
        if let Some(problem) = self.reload.mistake() {
            mistakes.add(&["reload", "watch"], problem.to_owned());
        }
        if let Err(error) = EnvFilter::builder().parse(&self.log.filter) {
            mistakes.add(&["log", "filter"], error.to_string());
        }
        let watchdog = self.process.watchdog;
        if !watchdog.is_zero() && watchdog <= WatchdogLimits::NOTICE {
            let problem =
                "must be longer than the 2s after which a thread counts as stalled, or 0s"
                    .to_owned();
            mistakes.add(&["process", "watchdog"], problem);
        }
        if let Some(replica) = &self.process.replica
            && !(1..=MAX_REPLICA).contains(&replica.len())
        {
            let problem = format!("a name of 1 to {MAX_REPLICA} bytes was expected");
            mistakes.add(&["process", "replica"], problem);
        }
        if let Some(agent) = &self.twilio.agent
            && !self.agents.contains_key(agent)
        {
            mistakes.add(&["twilio", "agent"], format!("there is no agent {agent}"));
        }
        match auth {
            Some(auth) if mistakes.found.is_empty() => Ok(Routes {
                deployments,
                identities,
                pools,
                models: self.models.clone(),
                agents,
                auth,
                allowed_models: self
                    .tenants
                    .iter()
                    .map(|(name, tenant)| (name.clone(), tenant.models.clone()))
                    .collect(),
                allowed_agents: self
                    .tenants
                    .iter()
                    .map(|(name, tenant)| (name.clone(), tenant.agents.clone()))
                    .collect(),
                caller_shapes: self
                    .tenants
                    .iter()
                    .filter_map(|(name, tenant)| Some((name.clone(), tenant.caller_shape?)))
                    .collect(),
                session_policies,
                quota: self.quota_plan(),
                records: Arc::new(records),
                traces: Arc::new(traces),
                twilio: self.twilio.clone(),
                asterisk,
                tls,
            }),
            _ => Err(mistakes.found),
        }
    }

    fn build_deployments(
        &self,
        identities: &mut Identities,
        mistakes: &mut Mistakes<'_>,
    ) -> BTreeMap<String, Arc<Deployment>> {
        if self.deployments.is_empty() {
            mistakes.add(&["deployments"], "there is none".to_owned());
        }
        let mut built = BTreeMap::new();
        for (name, config) in &self.deployments {
            match Deployment::with_identities(name, config.clone(), identities) {
                Ok(deployment) => {
                    built.insert(name.clone(), Arc::new(deployment));
                }
                Err(error) => {
                    let mut path = vec!["deployments", name];
                    path.extend(error.field().split('.'));
                    mistakes.add(&path, error.problem().to_owned());
                }
            }
        }
        built
    }

    /// The pools of the file, and each deployment as a pool of its own.
    fn build_pools(
        &self,
        deployments: &BTreeMap<String, Arc<Deployment>>,
        mistakes: &mut Mistakes<'_>,
    ) -> BTreeMap<String, Arc<Pool>> {
        let of_one = |(name, deployment): (&String, &Arc<Deployment>)| {
            let pool = Pool::new(name, vec![Arc::clone(deployment)]);
            (name.clone(), Arc::new(pool))
        };
        let mut built: BTreeMap<_, _> = deployments.iter().map(of_one).collect();
        for (name, config) in &self.pools {
            self.check_pool(name, config, mistakes);
            let members = config.deployments.iter();
            let members = members.filter_map(|member| deployments.get(&member.0.name).cloned());
            let members: Vec<_> = members.collect();
            if members.len() == config.deployments.len() {
                let pool = Pool::with_config(name, config.clone(), members);
                built.insert(name.clone(), Arc::new(pool));
            }
        }
        built
    }

    fn check_pool(&self, name: &str, config: &PoolConfig, mistakes: &mut Mistakes<'_>) {
        let mut add = |field: &[&str], problem: String| {
            let path: Vec<&str> = ["pools", name].iter().chain(field).copied().collect();
            mistakes.add(&path, problem);
        };
        if self.deployments.contains_key(name) {
            add(&[], "there is a deployment of that name".to_owned());
        }
        if config.deployments.is_empty() {
            add(&["deployments"], "it has no deployment".to_owned());
        }
        for (member, n) in config.deployments.iter().zip(1..) {
            let table = &member.0;
            let n = n.to_string();
            if !self.deployments.contains_key(&table.name) {
                let problem = format!("there is no deployment {}", table.name);
                add(&["deployments", &n], problem);
            }
            let is_same = |it: &&MemberConfig| it.0.name == table.name;
            if config.deployments.iter().filter(is_same).count() > 1 {
                let problem = format!("{} is in it more than once", table.name);
                add(&["deployments", &n], problem);
            }
            if table.weight == 0 {
                let problem = "a weight of 0 means never: leave it out instead".to_owned();
                add(&["deployments", &n, "weight"], problem);
            }
        }
        let regions = config.deployments.iter().filter_map(|member| {
            let deployment = self.deployments.get(&member.0.name)?;
            deployment.region.as_deref()
        });
        if let Some(region) = &config.prefer_region
            && !regions.into_iter().any(|it| it == region)
        {
            let problem = format!("none of its deployments has the region {region}");
            add(&["prefer_region"], problem);
        }
        if config.timeout.is_zero() {
            add(&["timeout"], "no session is opened in no time".to_owned());
        }
        let standby = &config.standby;
        if standby.min > standby.max {
            add(&["standby", "min"], "it is above max".to_owned());
        }
        if standby.max > 0 && standby.per_second == 0 {
            let problem = "none would ever be opened; set max = 0 for none".to_owned();
            add(&["standby", "per_second"], problem);
        }
        if standby.max > 0 && standby.max_age < Duration::from_secs(60) {
            let problem = "sessions that stand by for less than a minute cost more than they help";
            add(&["standby", "max_age"], problem.to_owned());
        }
    }

    /// Whether something that serves calls has that name.
    fn is_pool(&self, name: &str) -> bool {
        self.deployments.contains_key(name) || self.pools.contains_key(name)
    }

    fn build_agents(&self, mistakes: &mut Mistakes<'_>) -> BTreeMap<String, Arc<Agent>> {
        let mut built = BTreeMap::new();
        for (name, config) in &self.agents {
            if !self.is_pool(&config.deployment) {
                let problem = format!("there is no deployment or pool {}", config.deployment);
                mistakes.add(&["agents", name, "deployment"], problem);
            }
            match Agent::new(name, config.clone()) {
                Ok(agent) => {
                    built.insert(name.clone(), Arc::new(agent));
                }
                Err(error) => {
                    let mut path = vec!["agents", name];
                    path.extend(error.field().split('.'));
                    mistakes.add(&path, error.problem().to_owned());
                }
            }
        }
        built
    }

    fn build_auth(&self, mistakes: &mut Mistakes<'_>) -> Option<Authenticator> {
        let address = self.listener.address;
        if self.auth.mode == AuthMode::None && !address.ip().is_loopback() {
            let problem = format!(
                "authentication may be off on a loopback address only, and the listener is on {address}"
            );
            mistakes.add(&["auth", "mode"], problem);
        }
        let audiosocket = &self.listener.audiosocket;
        if let Some(address) = audiosocket.address
            && self.auth.mode == AuthMode::None
            && !address.ip().is_loopback()
            && self.providers.audiosocket.accounts.is_empty()
        {
            let problem =
                "without [[providers.audiosocket.accounts]] it may be a loopback address only";
            mistakes.add(&["listener", "audiosocket", "address"], problem.to_owned());
        }
        if audiosocket.call().is_none() {
            let problem =
                "AudioSocket is spoken at 8000, 12000, 16000, 24000, 32000, 44100 and 48000 Hz";
            mistakes.add(&["listener", "audiosocket", "rate"], problem.to_owned());
        }
        let agents = self.providers.audiosocket.accounts.iter().zip(1..);
        let agents = agents.filter_map(|(account, n)| Some((account.agent.as_ref()?, Some(n))));
        for (agent, n) in agents.chain(audiosocket.agent.as_ref().map(|agent| (agent, None))) {
            if self.agents.contains_key(agent) {
                continue;
            }
            let problem = format!("there is no agent {agent}");
            match n {
                Some(n) => {
                    let n = format!("{n}");
                    let path = ["providers", "audiosocket", "accounts", n.as_str(), "agent"];
                    mistakes.add(&path, problem);
                }
                None => mistakes.add(&["listener", "audiosocket", "agent"], problem),
            }
        }
        for (key, n) in self.auth.keys.iter().zip(1..) {
            if !self.tenants.contains_key(&key.tenant) {
                let problem = format!(
                    "a key is for tenant {}, and there is no such tenant",
                    key.tenant
                );
                mistakes.add(&["auth", "keys", &format!("{n}"), "tenant"], problem);
            }
        }
        for (certificate, n) in self.auth.certificates.iter().zip(1..) {
            if !self.tenants.contains_key(&certificate.tenant) {
                let problem = format!(
                    "a certificate is for tenant {}, and there is no such tenant",
                    certificate.tenant
                );
                let path = ["auth", "certificates", &format!("{n}"), "tenant"];
                mistakes.add(&path, problem);
            }
        }
        let mut providers = self.build_twilio_accounts(mistakes)?;
        let tenants = self.tenants.keys().cloned().collect();
        let public_url = self.listener.public_url.as_deref();
        match self.providers.build(&tenants, public_url) {
            Ok(others) => providers.extend(others),
            Err(found) => {
                for mistake in found {
                    let path = ["providers"].into_iter();
                    let path: Vec<&str> = path
                        .chain(mistake.path.iter().map(String::as_str))
                        .collect();
                    mistakes.add(&path, mistake.problem);
                }
                return None;
            }
        }
        Authenticator::new(&self.auth, providers, &tenants)
            .map_err(|error| {
                let path = error.field();
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                mistakes.add(&path, error.to_string());
            })
            .ok()
    }

    fn build_tls(&self, mistakes: &mut Mistakes<'_>) -> Option<Arc<Tls>> {
        let asks_for_certificates = self
            .listener
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca_file.is_some());
        if !self.auth.certificates.is_empty() && !asks_for_certificates {
            let problem = "callers are not asked for certificates: set client_ca_file and client_auth in [listener.tls]";
            mistakes.add(&["auth", "certificates"], problem.to_owned());
        }
        let config = self.listener.tls.as_ref()?;
        Tls::load(config, Alpn::Http1)
            .map_err(|error| mistakes.add(&["listener", "tls", error.field()], error.to_string()))
            .ok()
            .map(Arc::new)
    }

    fn build_asterisk(&self, mistakes: &mut Mistakes<'_>) -> AsteriskServers {
        let mut built = AsteriskServers::default();
        for (name, config) in &self.listener.asterisk.servers {
            let mut add = |field, problem| {
                mistakes.add(&["listener", "asterisk", "servers", name, field], problem);
            };
            if let Err(error) = built.add(name, config) {
                add(error.field, error.to_string());
            }
            if let Some(tenant) = &config.tenant
                && !self.tenants.contains_key(tenant)
            {
                add("tenant", format!("there is no tenant {tenant}"));
            }
        }
        built
    }

    fn build_session_policies(
        &self,
        mistakes: &mut Mistakes<'_>,
    ) -> BTreeMap<String, TenantPolicy> {
        let mut built = BTreeMap::new();
        for (name, tenant) in &self.tenants {
            match tenant.session.as_ref().map(SessionPolicy::new) {
                Some(Ok(policy)) => {
                    let policy = TenantPolicy {
                        tenant: name.clone(),
                        policy: Arc::new(policy),
                    };
                    built.insert(name.clone(), policy);
                }
                Some(Err(found)) => {
                    for mistake in found {
                        let mut path = vec!["tenants", name, "session"];
                        path.extend(mistake.path.iter().map(String::as_str));
                        mistakes.add(&path, mistake.problem);
                    }
                }
                None => {}
            }
        }
        built
    }

    /// None if there is a mistake.
    fn build_twilio_accounts(&self, mistakes: &mut Mistakes<'_>) -> Option<Vec<ProviderScheme>> {
        let accounts = &self.twilio.accounts;
        if accounts.is_empty() {
            return Some(Vec::new());
        }
        for (account, n) in accounts.iter().zip(1..) {
            let mut add = |field: &str, problem: String| {
                mistakes.add(&["twilio", "accounts", &format!("{n}"), field], problem);
            };
            if !self.tenants.contains_key(&account.tenant) {
                add("tenant", format!("there is no tenant {}", account.tenant));
            }
            for agent in &account.agents {
                if !self.agents.contains_key(agent) {
                    add("agents", format!("there is no agent {agent}"));
                }
            }
        }
        let Some(public_url) = &self.listener.public_url else {
            let problem =
                "Twilio signs the address that it calls, so [listener] public_url is needed";
            mistakes.add(&["twilio", "accounts"], problem.to_owned());
            return None;
        };
        match TwilioAccounts::new(public_url, accounts) {
            Ok(accounts) => Some(vec![ProviderScheme::Twilio(accounts)]),
            Err(problems) => {
                for (index, error) in problems {
                    let path = ["twilio", "accounts", &(index + 1).to_string(), &error.field];
                    mistakes.add(&path, error.problem);
                }
                None
            }
        }
    }

    fn check_listeners(&self, mistakes: &mut Mistakes<'_>) {
        let admin = &self.admin;
        if let Err((field, problem)) = Access::new(admin) {
            let path = std::iter::once("admin").chain(field.iter().map(String::as_str));
            mistakes.add(&path.collect::<Vec<_>>(), problem);
        }
        if !admin.address.ip().is_loopback() && !admin.public && !admin.is_guarded() {
            let problem = format!(
                "metrics need no key, and {} is no loopback address; set a token, ask for client certificates, or if only \
                 operators can reach it, say so by public = true",
                admin.address
            );
            mistakes.add(&["admin", "address"], problem);
        }
        for (field, problem) in self.listener.limits.mistakes() {
            mistakes.add(&["listener", "limits", field], problem);
        }
        for (field, problem) in self.listener.shed.mistakes() {
            mistakes.add(&["listener", "shed", field], problem);
        }
        for origin in &self.listener.allowed_origins {
            if !is_origin(origin) {
                let problem = format!(
                    "{origin} is no origin as browsers write it, like https://app.example.com or http://localhost:3000"
                );
                mistakes.add(&["listener", "allowed_origins"], problem);
            }
        }
        for (path, problem) in self.listener.callers.mistakes() {
            let path: Vec<&str> = ["listener", "callers"].into_iter().chain(path).collect();
            mistakes.add(&path, problem);
        }
        if let Some(url) = &self.listener.public_url
            && !is_public_url(url)
        {
            let problem = format!("{url} is no address like wss://voice.example.com");
            mistakes.add(&["listener", "public_url"], problem);
        }
        if self.listener.max_connections == Some(0) {
            mistakes.add(
                &["listener", "max_connections"],
                "with none, nobody could call".to_owned(),
            );
        }
    }

    fn check_models(&self, mistakes: &mut Mistakes<'_>) {
        for (alias, deployment) in &self.models {
            if !self.is_pool(deployment) {
                mistakes.add(
                    &["models", alias],
                    format!("there is no deployment or pool {deployment}"),
                );
            }
        }
        for (name, tenant) in &self.tenants {
            for model in &tenant.models {
                if !self.models.contains_key(model) && !self.is_pool(model) {
                    let problem = format!(
                        "{model} is neither a deployment, nor a pool, nor an alias in [models]"
                    );
                    mistakes.add(&["tenants", name, "models"], problem);
                }
            }
            for agent in &tenant.agents {
                if !self.agents.contains_key(agent) {
                    let problem = format!("there is no agent {agent}");
                    mistakes.add(&["tenants", name, "agents"], problem);
                }
            }
        }
    }
}

struct Mistakes<'a> {
    text: &'a str,
    found: Vec<Mistake>,
}

impl Mistakes<'_> {
    fn add(&mut self, path: &[&str], problem: String) {
        self.found.push(Mistake {
            line: locate::line_of(self.text, path),
            field: path.join("."),
            problem,
        });
    }
}

/// A message of serde without the value that it complains of, which may be a secret in the wrong place: `invalid type:
/// string "...", expected u16`. Its kind and what was expected stay.
fn without_value(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    let is_about_value = ["invalid type: ", "invalid value: "]
        .iter()
        .any(|start| message.starts_with(start));
    // Of several, the last is ours: whatever comes before it may be part of the value.
    let (Some(value), Some(expected)) = (message.find(['"', '`']), message.rfind(EXPECTED)) else {
        return message.to_owned();
    };
    if !is_about_value || value > expected {
        return message.to_owned();
    }
    format!("{}{}", message[..value].trim_end(), &message[expected..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[auth]
mode = "none"
[deployments.east]
url = "ws://127.0.0.1:1"
model = "gpt-realtime"
[models]
gpt-realtime = "east"
[agents.reception]
deployment = "east"
"#;

    fn check(text: &str, expected: &[&str]) {
        let mistakes: Vec<String> = match Config::parse(text) {
            Err(mistake) => vec![mistake.to_string()],
            Ok(config) => match config.build(text) {
                Ok(_) => Vec::new(),
                Err(mistakes) => mistakes.iter().map(Mistake::to_string).collect(),
            },
        };
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
        for (mistake, expected) in mistakes.iter().zip(expected) {
            assert!(
                mistake.starts_with(expected),
                "{mistake:?} does not start with {expected:?}"
            );
        }
    }

    /// The mistakes in a file of five good lines and that, and what is warned of.
    pub(super) fn said(more: &str) -> (Vec<String>, Vec<String>) {
        let good = "[auth]\nmode = 'none'\n[deployments.east]\nurl = 'ws://127.0.0.1:1'\nmodel = 'gpt-realtime'\n";
        let text = format!("{good}{more}");
        let config = match Config::parse(&text) {
            Ok(config) => config,
            Err(mistake) => return (vec![mistake.to_string()], Vec::new()),
        };
        let text_of = |found: &[Mistake]| found.iter().map(Mistake::to_string).collect();
        let mistakes = config.build(&text).err().unwrap_or_default();
        let warnings = config.warnings(&text, Path::new("/nowhere"));
        (text_of(&mistakes), text_of(&warnings))
    }

    #[test]
    fn pools_are_checked() {
        let pool = |text: &str, expected: &[&str]| {
            check(&format!("{GOOD}[pools.all]\n{text}\n"), expected);
        };
        let east = "deployments = ['east']";
        pool(east, &[]);
        pool(
            "deployments = [{ name = 'east', priority = 2, weight = 3 }]\nsticky = 'caller'",
            &[],
        );
        pool(
            &format!("{east}\n[pools.all.standby]\nmin = 1\nmax = 4"),
            &[],
        );
        pool(
            "deployments = []",
            &["line 12: pools.all.deployments: it has no deployment"],
        );
        pool(
            "deployments = [\n'east',\n'nowhere' ]",
            &["line 14: pools.all.deployments.2: there is no deployment nowhere"],
        );
        pool(
            "deployments = ['east', { name = 'east', weight = 0 }]",
            &[
                "line 12: pools.all.deployments.1: east is in it more than once",
                "line 12: pools.all.deployments.2: east is in it more than once",
                "line 12: pools.all.deployments.2.weight: a weight of 0",
            ],
        );
        pool(
            &format!("{east}\nprefer_region = 'mars'\ntimeout = '0s'"),
            &[
                "line 13: pools.all.prefer_region",
                "line 14: pools.all.timeout",
            ],
        );
        pool(
            &format!(
                "{east}\n[pools.all.standby]\nmin = 5\nmax = 4\nper_second = 0\nmax_age = '9s'"
            ),
            &[
                "line 14: pools.all.standby.min: it is above max",
                "line 16: pools.all.standby.per_second",
                "line 17: pools.all.standby.max_age",
            ],
        );
        pool("deployments = [7]", &["line 12: invalid type: integer"]);
        check(
            &format!("{GOOD}[pools.east]\n{east}\n"),
            &["line 11: pools.east: there is a deployment of that name"],
        );
    }

    #[test]
    fn a_good_file_has_no_mistakes() {
        check(GOOD, &[]);
        check(&format!("{GOOD}[reload]\nwatch = '0s'\n"), &[]);
        check(
            &format!("{GOOD}[reload]\nwatch = '50ms'\n"),
            &["line 12: reload.watch: looking more often than every 100ms"],
        );
        check(
            &format!("{GOOD}[process]\nwatchdog = '2s'\n"),
            &["line 12: process.watchdog: must be longer"],
        );
        check(
            &format!("{GOOD}[process]\nreplica = ''\n"),
            &["line 12: process.replica: a name of 1 to 253 bytes"],
        );
    }

    #[test]
    fn a_tenant_may_pin_the_shape_of_its_callers() {
        let text = format!(
            "{GOOD}[tenants.old]\ncaller_shape = \"preview\"\n[tenants.new]\ncaller_shape = \"ga\"\n[tenants.any]\n"
        );
        let routes = Config::parse(&text).unwrap().build(&text).unwrap();
        assert_eq!(routes.caller_shape("old", Shape::Ga), Shape::Preview);
        assert_eq!(routes.caller_shape("new", Shape::Preview), Shape::Ga);
        assert_eq!(routes.caller_shape("any", Shape::Preview), Shape::Preview);
        assert_eq!(routes.caller_shape("any", Shape::Ga), Shape::Ga);
        check(
            &format!("{GOOD}[tenants.old]\ncaller_shape = \"beta\"\n"),
            &["line 12: unknown variant `beta`"],
        );
    }

    #[test]
    fn the_example_of_an_issuer_is_good() {
        let example = include_str!("../../deploy/trunkline.toml");
        let from = example.find("# [[auth.issuers]]").expect("the example");
        let lines = example[from..].lines().take_while(|line| !line.is_empty());
        // What stands commented out, not what explains it; and one of two ways to a tenant.
        let is_setting = |line: &&str| line.contains(" = ") || line.starts_with('[');
        let issuer: Vec<_> = lines
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| is_setting(line) && !line.starts_with("tenant = "))
            .collect();
        assert_eq!(issuer.len(), 11, "{issuer:?}");
        let good = GOOD.replace("mode = \"none\"", "mode = \"keys\"");
        check(&format!("{good}[tenants.acme]\n{}", issuer.join("\n")), &[]);
    }

    #[test]
    fn mistakes_about_audiosocket_are_named_with_their_lines() {
        let account = "[[providers.audiosocket.accounts]]\ntenant = 'acme'\n";
        let uuid = "uuid = '40325ec2-5efd-4bd3-805f-53576e581d13'\n";
        let address = "[listener.audiosocket]\naddress = '10.0.0.1:9092'\n";
        let tenant = "[tenants.acme]\n";
        check(&format!("{GOOD}{tenant}{account}{uuid}{address}"), &[]);
        check(
            &format!("{GOOD}{tenant}{account}uuid = '1'\n"),
            &["line 14: providers.audiosocket.accounts.1.uuid: is no UUID"],
        );
        check(
            &format!("{GOOD}{address}agent = 'nobody'\n"),
            &[
                "line 12: listener.audiosocket.address: without [[providers.audiosocket.accounts]] it may be a loopback address only",
                "line 13: listener.audiosocket.agent: there is no agent nobody",
            ],
        );
        check(
            &format!("{GOOD}{tenant}{account}{uuid}agent = 'nobody'\n"),
            &["line 15: providers.audiosocket.accounts.1.agent: there is no agent nobody"],
        );
        check(
            &format!("{GOOD}[listener.audiosocket]\nrate = 22050\n"),
            &["line 12: listener.audiosocket.rate: AudioSocket is spoken at"],
        );
    }

    #[test]
    fn mistakes_about_servers_of_asterisk_are_named_with_their_lines() {
        let server = "[listener.asterisk.servers.main]\n";
        check(&format!("{GOOD}{server}url = 'ws://127.0.0.1:8088'\n"), &[]);
        check(
            &format!("{GOOD}{server}url = 'ws://10.0.0.5:8088'\ntenant = 'nobody'\n"),
            &[
                "line 12: listener.asterisk.servers.main.url: plain text is for loopback only",
                "line 13: listener.asterisk.servers.main.tenant: there is no tenant nobody",
            ],
        );
        let example = include_str!("../../deploy/trunkline.toml");
        let (_, rest) = example
            .split_once("# [listener.asterisk.servers.main]")
            .expect("an example");
        let (table, _) = rest.split_once("\n\n").expect("an end");
        let settings = table.lines().filter_map(|line| line.strip_prefix("# "));
        let settings: Vec<&str> = settings.filter(|line| line.contains(" = ")).collect();
        assert_eq!(settings.len(), 5, "{settings:?}");
        let text = settings.join("\n").replace("/etc/trunkline/", "/no/");
        check(
            &format!("{GOOD}[tenants.acme]\n{server}{text}\n"),
            &["line 15: listener.asterisk.servers.main.ca_file: /no/pbx-ca.pem cannot be read"],
        );
    }

    #[test]
    fn the_example_of_redis_is_good() {
        let example = include_str!("../../deploy/trunkline.toml");
        let (_, rest) = example.split_once("# [quota.redis]").expect("the example");
        let (table, _) = rest.split_once("\n\n").expect("an end");
        let settings = table.lines().filter_map(|line| line.strip_prefix("# "));
        let settings: Vec<&str> = settings.filter(|line| line.contains(" = ")).collect();
        assert_eq!(settings.len(), 5, "{settings:?}");
        let text = format!("{GOOD}[quota.redis]\n{}\n", settings.join("\n"));
        // The file is not here.
        check(&text, &["line 12: quota.redis.url_file: /run/secrets/"]);
    }

    #[test]
    fn mistakes_in_a_session_policy_are_named_with_their_lines() {
        let check = |policy: &str, expected: &[&str]| {
            check(&format!("{GOOD}[tenants.acme.session]\n{policy}"), expected);
        };
        check(
            "instructions_prefix = \"Be kind.\"\npinned = { voice = \"marin\" }\nforbidden = [\"tracing\"]\n",
            &[],
        );
        check(
            "pinned = { voice = \"marin\" }\nforbidden = [\"tools\", \"tracking\"]\n",
            &[
                "line 13: tenants.acme.session.forbidden: neither a session nor a response has a field tracking",
            ],
        );
        check(
            "[tenants.acme.session.pinned]\nvoice = \"marin\"\naudio.output.sped = 1.0\n",
            &[
                "line 14: tenants.acme.session.pinned.audio.output.sped: a session has no setting audio.output.sped",
            ],
        );
        check(
            "max_output_tokens = 5000\n",
            &["line 12: tenants.acme.session.max_output_tokens: must be 1 to 4096"],
        );
        check("pined = {}\n", &["line 12: unknown field `pined`"]);
        check(
            "tool_types = [\"web\"]\n",
            &["line 12: unknown variant `web`"],
        );
    }

    #[test]
    fn the_commented_pool_of_the_example_is_a_good_one() {
        let example = include_str!("../../deploy/trunkline.toml");
        let (_, rest) = example.split_once("# [pools.voice]").expect("one");
        let (pool, _) = rest.split_once("# What SDK callers").expect("an end");
        let settings = pool
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.starts_with('[') || line.contains(" = "));
        let settings: Vec<&str> = settings.collect();
        assert_eq!(settings.len(), 12, "{settings:?}");
        let west =
            "region = 'westeurope'\n[deployments.west]\nurl = 'ws://127.0.0.1:1'\nmodel = 'm'\n";
        let good = GOOD.replace("[models]", &format!("{west}[models]"));
        let text = settings.join("\n");
        check(&format!("{good}[pools.voice]\n{text}\n"), &[]);
    }

    #[test]
    fn the_commented_session_policy_of_the_example_is_a_good_one() {
        let example = include_str!("../../deploy/trunkline.toml");
        let (_, rest) = example
            .split_once("# [tenants.acme.session]")
            .expect("an example");
        let (policy, _) = rest.split_once("\n\n").expect("an end");
        let settings = policy
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.starts_with('[') || line.contains(" = "));
        let settings: Vec<&str> = settings.collect();
        assert_eq!(settings.len(), 13, "{settings:?}");
        let text = settings.join("\n");
        check(&format!("{GOOD}[tenants.acme.session]\n{text}\n"), &[]);
    }

    #[test]
    fn mistakes_about_redis_are_named_with_their_lines() {
        let check = |fields: &str, expected: &[&str]| {
            check(&format!("{GOOD}[quota.redis]\n{fields}"), expected);
        };
        check("url = \"rediss://:hunter2@redis.example\"\n", &[]);
        check("", &["line 11: quota.redis.url: one of url, url_env"]);
        check(
            "url = \"hunter2\"\nfallback_share = 2.0\n",
            &[
                "line 12: quota.redis.url: is no address like",
                "line 13: quota.redis.fallback_share: must be",
            ],
        );
        check(
            "url_env = \"redis://:hunter2@a\"\n",
            &["line 12: quota.redis.url_env: no environment variable of that name"],
        );
        check(
            "deadline = \"50\"\n",
            &["line 12: invalid value: string, expected"],
        );
    }

    #[test]
    fn a_value_in_the_wrong_place_is_not_repeated() {
        check(
            "[listener]\nmax_calls = \"sk-1\"\n",
            &["line 2: invalid type: string, expected u32"],
        );
        check(
            "[drain]\ngrace = \"sk-1, expected x\"\n",
            &["line 2: invalid value: string, expected a duration"],
        );
        check(
            "[drain]\ngrace = 12345\n",
            &["line 2: invalid type: integer, expected a duration"],
        );
        check(
            "[deployments]\neast = \"sk-1\"\n",
            &["line 2: invalid type: string, expected struct DeploymentConfig"],
        );
        check(
            "[deployments.east]\napi_key = []\n",
            &["line 2: invalid type: sequence, expected a string"],
        );
    }

    #[test]
    fn mistakes_are_named_with_their_lines() {
        check("[deployments.east]\nurl = 5\n", &["line 2: invalid type"]);
        check("[listner]\n", &["line 1: unknown field `listner`"]);
        check(
            &GOOD.replace("deployment = \"east\"", "deployment = \"west\""),
            &["line 10: agents.reception.deployment: there is no deployment or pool west"],
        );
        check(
            &format!("{GOOD}[agents.reception.session]\nspeed = 7.0\n"),
            &["line 12: agents.reception.session.speed: "],
        );
        check(
            &GOOD.replace("[auth]", "[listener]\naddress = \"0.0.0.0:8080\"\n[auth]"),
            &["line 5: auth.mode: authentication may be off on a loopback address only"],
        );
        check(
            &GOOD.replace("mode = \"none\"", "mode = \"keys\""),
            &["line 2: auth.keys: mode is \"keys\" and there are none"],
        );
        let issuers = GOOD.replace(
            "mode = \"none\"",
            "[tenants.acme]\n[[auth.issuers]]\nurl = \"https://a.example\"\naudience = \"voice\"\ntenant = \"acme\"\n\
             [[auth.issuers]]\nurl = \"https://b.example\"\naudience = [\"voice\"]\ntenant = \"acme\"",
        );
        check(&issuers, &[]);
        check(
            &issuers.replace("https://b.example", "http://b.example"),
            &["line 9: auth.issuers.2.url: plain text is for loopback only"],
        );
        check(
            &issuers.replace("[\"voice\"]", "[]"),
            &["line 10: auth.issuers.2.audience: without one"],
        );
        check(
            &issuers.replace("\"voice\"\ntenant = \"acme\"", "\"voice\""),
            &["line 4: auth.issuers.1.tenant: either tenant or tenant_claim"],
        );
        check(
            &issuers.replace("[\"voice\"]", "\"v\"\nalgorithms = [\"ES256\", \"HS256\"]"),
            &["line 11: unknown variant `HS256`"],
        );
        check(
            &GOOD.replace("ws://127.0.0.1:1", "ws://10.1.1.1:1"),
            &["line 5: deployments.east.url: plain text is for loopback only"],
        );
        let entra = format!(
            "{GOOD}[deployments.west]\nurl = \"wss://x\"\nmodel = \"m\"\n[deployments.west.entra]\n"
        );
        for (fields, expected) in [
            (
                "kind = \"managed_identity\"\nclient_id = \"a b\"\n",
                "line 16: deployments.west.entra.client_id: is no id",
            ),
            (
                "kind = \"managed_identity\"\ntoken_file = \"/x\"\n",
                "line 16: deployments.west.entra.token_file: is not for this kind",
            ),
            (
                "kind = \"client_secret\"\ntenant_id = \"t\"\nclient_id = \"c\"\n",
                "line 14: deployments.west.entra.client_secret: one of",
            ),
            (
                "kind = \"password\"\n",
                "line 15: unknown variant `password`",
            ),
        ] {
            check(&format!("{entra}{fields}"), &[expected]);
        }
        check(
            &format!("{GOOD}[log]\nfilter = 'info,trunkline=debug'\n"),
            &[],
        );
        check(
            &format!("{GOOD}[log]\nfilter = 'trunkline=shout'\n"),
            &["line 12: log.filter: error parsing level filter"],
        );
        let admin = format!("{GOOD}[admin]\naddress = \"0.0.0.0:9100\"\n");
        check(&admin, &["line 12: admin.address: metrics need no key"]);
        check(&format!("{admin}public = true\n"), &[]);
        check(&format!("{admin}read_token = 'r'\n"), &[]);
        check(
            &format!("{admin}token = 'r'\nread_token = 'r'\n"),
            &["line 14: admin.read_token: is the same as token"],
        );
        let tls = "[admin.tls]\ncertificate_file = \"/no/file\"\nkey_file = \"/no/file\"\n";
        check(
            &format!("{GOOD}{tls}"),
            &["line 12: admin.tls.certificate_file: cannot read /no/file"],
        );
        check(
            &format!("{GOOD}[listener]\nallowed_origins = [\"https://a.example\", \"null\"]\n"),
            &["line 12: listener.allowed_origins: null is no origin"],
        );
        check(
            &format!("{GOOD}[tenants.acme]\nagents = [\"reception\", \"nobody\"]\n"),
            &["line 12: tenants.acme.agents: there is no agent nobody"],
        );
        check(
            &format!("{GOOD}[listener]\npublic_url = \"voice.example.com\"\n"),
            &["line 12: listener.public_url: voice.example.com is no address"],
        );
    }

    #[test]
    fn mistakes_about_credentials_are_named_with_their_lines() {
        let hash = "0".repeat(64);
        let key = format!("[[auth.keys]]\ntenant = \"acme\"\nsha256 = \"{hash}\"\n");
        let good = format!("{GOOD}[tenants.acme]\n{key}");
        check(&good, &[]);
        check(
            &format!("{good}expires = 2027-01-01T00:00:00Z\nname = \"till\"\n"),
            &[],
        );
        check(
            &format!("{good}expires = \"in May\"\n"),
            &["line 15: a date and time with an offset was expected"],
        );
        check(
            &format!("{good}{}", key.replace(&hash, "00")),
            &["line 17: auth.keys.2.sha256: key 2: sha256 must be 64"],
        );
        check(
            &format!(
                "{good}{}",
                key.replace("acme", "bolt").replace(&hash, &"1".repeat(64))
            ),
            &["line 16: auth.keys.2.tenant: a key is for tenant bolt, and there is no such tenant"],
        );
        check(
            &format!("{good}{key}"),
            &["line 17: auth.keys.2.sha256: key 2: the same key stands twice"],
        );
        check(
            &format!("{good}[auth.signing]\nsecret = \"short\"\n"),
            &["line 15: auth.signing: secret must have at least 32 bytes"],
        );
        check(
            &format!("{good}[auth.tickets]\nmax_life = \"30s\"\n"),
            &["line 15: auth.tickets: tickets are signed by the secret in [auth.signing]"],
        );
        let account = "[[twilio.accounts]]\ntenant = \"acme\"\nauth_token = \"t\"\n";
        check(
            &format!("{good}{account}"),
            &["line 15: twilio.accounts: Twilio signs the address that it calls"],
        );
        let public = format!("{good}[listener]\npublic_url = \"https://voice.example.com\"\n");
        check(&format!("{public}{account}"), &[]);
        check(
            &format!(
                "{public}{account}[[twilio.accounts]]\ntenant = \"bolt\"\nagents = [\"nobody\"]\n"
            ),
            &[
                "line 21: twilio.accounts.2.tenant: there is no tenant bolt",
                "line 22: twilio.accounts.2.agents: there is no agent nobody",
                "line 20: twilio.accounts.2.auth_token: one of auth_token, auth_token_env and auth_token_file is needed",
            ],
        );
    }
}
