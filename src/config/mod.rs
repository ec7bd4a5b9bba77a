//! The configuration file: each module's own part of it, put together and checked as a whole.

mod auth;
mod listener;
mod locate;
mod mistake;
mod process;
mod quota;
mod reading;
mod records;
mod reload;
mod routes;
mod tenants;
mod traces;
mod warnings;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::admin::AdminConfig;
use crate::auth::{AuthConfig, ProvidersConfig};
use crate::bridge::AgentConfig;
use crate::listener::{ListenerConfig, Routes, TwilioConfig};
use crate::quota::{Price, QuotaConfig};
use crate::records::RecordsConfig;
use crate::traces::TracesConfig;
use crate::upstream::{DeploymentConfig, Identities, PoolConfig};

pub use mistake::Mistake;
pub use process::{DrainConfig, LogConfig, LogFormat, ProcessConfig};
pub use reading::Loaded;
pub use reload::{Outcome, ReloadConfig, Reloader};
pub use tenants::TenantConfig;

use mistake::{Mistakes, without_value};

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
        self.check_process(&mut mistakes);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const GOOD: &str = r#"
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

    /// The `n` settings of the example that stand commented out behind `from` and before `to`.
    pub(super) fn commented(from: &str, to: &str, n: usize) -> String {
        let example = include_str!("../../deploy/trunkline.toml");
        let (_, rest) = example.split_once(from).expect("an example");
        let (part, _) = rest.split_once(to).expect("an end");
        let lines = part.lines().filter_map(|line| line.strip_prefix("# "));
        let settings = lines.filter(|line| line.starts_with('[') || line.contains(" = "));
        let settings: Vec<&str> = settings.collect();
        assert_eq!(settings.len(), n, "{settings:?}");
        settings.join("\n")
    }

    pub(super) fn check(text: &str, expected: &[&str]) {
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
    fn the_example_of_redis_is_good() {
        let settings = commented("# [quota.redis]", "\n\n", 5);
        let text = format!("{GOOD}[quota.redis]\n{settings}\n");
        // The file is not here.
        check(&text, &["line 12: quota.redis.url_file: /run/secrets/"]);
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
}
