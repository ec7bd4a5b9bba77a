//! What a configuration may say and perhaps should not: combinations that work and leave a door open.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::auth::AuthMode;
use crate::listener::{ClientAuth, ListenerConfig, usual_connections};
use crate::outbound::is_loopback;
use crate::quota::RedisConfig;

use super::{Config, Mistake, Mistakes};

impl Config {
    /// Everything in a good configuration that an operator should have meant. `text` is the file's text and `path`
    /// the file itself.
    #[must_use]
    pub fn warnings(&self, text: &str, path: &Path) -> Vec<Mistake> {
        let mut found = Mistakes {
            text,
            found: Vec::new(),
        };
        self.warn_of_callers(&mut found);
        self.warn_of_the_listener(&mut found);
        self.warn_of_limits(&mut found);
        self.warn_of_secrets(&mut found, path);
        self.warn_of_pools(&mut found);
        self.warn_of_operators(&mut found);
        self.warn_of_records(&mut found);
        self.warn_of_traces(&mut found);
        found.found
    }

    fn warn_of_callers(&self, found: &mut Mistakes<'_>) {
        if self.auth.mode == AuthMode::None {
            found.warn(
                &["auth", "mode"],
                "everybody who can connect may call, at your expense",
            );
            if !self.listener.allowed_origins.is_empty() {
                found.warn(
                    &["listener", "allowed_origins"],
                    "pages of these origins may call without a key",
                );
            }
        }
        let shows_nothing_counts = [
            (!self.auth.keys.is_empty(), "keys"),
            (!self.auth.issuers.is_empty(), "issuers"),
            (!self.auth.certificates.is_empty(), "certificates"),
        ];
        for (is_set, field) in shows_nothing_counts {
            if is_set && self.auth.mode == AuthMode::None {
                let problem = "mode is \"none\", so that callers come in without them";
                found.warn(&["auth", field], problem);
            }
        }
        let is_proxied =
            self.listener.public_url.is_some() || !self.listener.trusted_proxies.is_empty();
        if is_proxied && self.auth.mode == AuthMode::None {
            found.warn(
                &["auth", "mode"],
                "the listener is on loopback, but a proxy seems to bring callers from outside",
            );
        }
        if !self.twilio.accounts.is_empty() && self.auth.signing.is_none() {
            found.warn(
                &["twilio", "accounts"],
                "without [auth.signing] a signature that somebody has seen opens streams for ever",
            );
        }
        if self.quota.redis.as_ref().is_some_and(RedisConfig::is_plain) {
            found.warn(
                &["quota", "redis"],
                "the password and all counts cross the network in plain text: use rediss://",
            );
        }
        if self.quota.redis.is_some() && self.auth.signing.is_none() {
            found.warn(
                &["quota", "redis"],
                "without [auth.signing] an ephemeral key is good only at the replica that made it",
            );
        }
        for (name, deployment) in &self.deployments {
            if deployment.plaintext {
                found.warn(
                    &["deployments", name, "plaintext"],
                    "keys and calls leave in plain text",
                );
            }
        }
        for name in self.tenants.keys() {
            let keys = self.auth.keys.iter().map(|key| &key.tenant);
            let certificates = self.auth.certificates.iter().map(|it| &it.tenant);
            let accounts = self.twilio.accounts.iter().map(|account| &account.tenant);
            let others = self.providers.tenants();
            let mut known = keys.chain(certificates).chain(accounts).chain(others);
            let mut issuers = self.auth.issuers.iter();
            let is_issued = issuers.any(|issuer| {
                let names_any = issuer.tenant_claim.is_some() && issuer.tenants.is_empty();
                let is_named = issuer.tenant.as_ref() == Some(name);
                names_any || is_named || issuer.tenants.values().any(|tenant| tenant == name)
            });
            // A ticket may be for any tenant.
            let has_way = self.auth.signing.is_some() || is_issued || known.any(|it| it == name);
            if self.auth.mode == AuthMode::Keys && !has_way {
                found.warn(
                    &["tenants", name],
                    "has no key, issuer, certificate or account, so that nobody can call as it",
                );
            }
        }
    }

    fn warn_of_the_listener(&self, found: &mut Mistakes<'_>) {
        let listener = &self.listener;
        let is_public = !listener.address.ip().is_loopback();
        if is_public && listener.tls.is_none() && listener.trusted_proxies.is_empty() {
            found.warn(
                &["listener", "address"],
                "keys and calls come in plain text: set [listener.tls], or trusted_proxies if a proxy before it does TLS",
            );
        }
        let plain = |origin: &&String| {
            let host = origin.strip_prefix("http://");
            host.is_some_and(|host| !is_local(host))
        };
        for origin in listener.allowed_origins.iter().filter(plain) {
            found.warn(
                &["listener", "allowed_origins"],
                &format!("{origin} comes in plain text, so that anybody on the way can be it"),
            );
        }
        if listener
            .trusted_proxies
            .iter()
            .any(|network| network.prefix_len() < 16)
        {
            found.warn(
                &["listener", "trusted_proxies"],
                "the X-Forwarded-For of everybody in a large network is believed: name the proxies",
            );
        }
        if listener.lenient_api_version {
            found.warn(
                &["listener", "lenient_api_version"],
                "callers get used to requests that the vendor refuses",
            );
        }
        if let Some(tls) = &listener.tls
            && tls.client_auth == ClientAuth::Optional
            && self.auth.certificates.is_empty()
        {
            found.warn(
                &["listener", "tls", "client_auth"],
                "a certificate lets nobody in: there is no [[auth.certificates]]",
            );
        }
    }

    fn warn_of_limits(&self, found: &mut Mistakes<'_>) {
        let ListenerConfig {
            max_calls,
            max_connections,
            limits,
            shed,
            ..
        } = &self.listener;
        if let Some(connections) = max_connections {
            if connections < max_calls {
                found.warn(
                    &["listener", "max_connections"],
                    &format!(
                        "fewer than max_calls, {max_calls}, so that so many calls never come in"
                    ),
                );
            }
            if *connections as usize > usual_connections() {
                found.warn(
                    &["listener", "max_connections"],
                    &format!(
                        "the process's file descriptors are enough for {}, each with a connection to its deployment",
                        usual_connections()
                    ),
                );
            }
        }
        for field in limits.switched_off() {
            found.warn(&["listener", "limits", field], "this limit is off");
        }
        for field in shed.switched_off() {
            found.warn(
                &["listener", "shed", field],
                "calls are taken however little is left",
            );
        }
    }

    fn warn_of_secrets(&self, found: &mut Mistakes<'_>, path: &Path) {
        let mut holds_secrets = false;
        for secret in self.secrets() {
            let (name, table) = secret.path.split_last().unwrap_or((&"", &[]));
            if secret.is_written {
                holds_secrets = true;
                let problem = format!("stands in the file; {name}_file or {name}_env keep it out");
                found.warn(&secret.path, &problem);
            }
            if let Some(file) = secret.file {
                let field = format!("{name}_file");
                found.warn_if_readable(&[table, &[&field]].concat(), file);
            }
        }
        for (table, tls) in [("listener", &self.listener.tls), ("admin", &self.admin.tls)] {
            if let Some(tls) = tls {
                found.warn_if_readable(&[table, "tls", "key_file"], &tls.key_file);
            }
        }
        if holds_secrets {
            found.warn_if_readable(&[], path);
        }
    }

    fn secrets(&self) -> Vec<Secret<'_>> {
        let mut all = Vec::new();
        if let Some(signing) = &self.auth.signing {
            let path = || vec!["auth", "signing"];
            let (value, file) = (&signing.secret, &signing.secret_file);
            all.push(Secret::new(path(), "secret", value, file));
            let (value, file) = (&signing.previous_secret, &signing.previous_secret_file);
            all.push(Secret::new(path(), "previous_secret", value, file));
        }
        let admin = &self.admin;
        let (value, file) = (&admin.token, &admin.token_file);
        all.push(Secret::new(vec!["admin"], "token", value, file));
        let (value, file) = (&admin.read_token, &admin.read_token_file);
        all.push(Secret::new(vec!["admin"], "read_token", value, file));
        for (name, it) in &self.deployments {
            let path = vec!["deployments", name.as_str()];
            all.push(Secret::new(path, "api_key", &it.api_key, &it.api_key_file));
            if let Some(entra) = &it.entra {
                let path = || vec!["deployments", name.as_str(), "entra"];
                let (value, file) = (&entra.client_secret, &entra.client_secret_file);
                all.push(Secret::new(path(), "client_secret", value, file));
                all.push(Secret::new(path(), "", &None, &entra.certificate_file));
            }
        }
        if let Some(redis) = &self.quota.redis {
            let path = vec!["quota", "redis"];
            all.push(Secret::new(path, "url", &redis.url, &redis.url_file));
        }
        for it in &self.twilio.accounts {
            let path = || vec!["twilio", "accounts"];
            let (value, file) = (&it.auth_token, &it.auth_token_file);
            all.push(Secret::new(path(), "auth_token", value, file));
            let (value, file) = (&it.second_auth_token, &it.second_auth_token_file);
            all.push(Secret::new(path(), "second_auth_token", value, file));
        }
        all.extend(self.secrets_of_records());
        all.extend(self.secrets_of_traces());
        all.extend(self.secrets_of_providers());
        all
    }

    fn secrets_of_records(&self) -> Vec<Secret<'_>> {
        let records = &self.records;
        let (value, file) = (&records.caller_secret, &records.caller_secret_file);
        let mut all = vec![Secret::new(vec!["records"], "caller_secret", value, file)];
        if let Some(webhook) = &records.webhook {
            let path = vec!["records", "webhook"];
            let (value, file) = (&webhook.secret, &webhook.secret_file);
            all.push(Secret::new(path, "secret", value, file));
        }
        all
    }

    fn secrets_of_traces(&self) -> impl Iterator<Item = Secret<'_>> {
        self.traces.headers.iter().map(|(name, header)| {
            let path = vec!["traces", "headers", name.as_str()];
            Secret::new(path, "value", &header.value, &header.value_file)
        })
    }

    fn secrets_of_providers(&self) -> Vec<Secret<'_>> {
        let (mut all, providers) = (Vec::new(), &self.providers);
        for it in &providers.genesys.accounts {
            let path = || vec!["providers", "genesys", "accounts"];
            let (value, file) = (&it.api_key, &it.api_key_file);
            all.push(Secret::new(path(), "api_key", value, file));
            let (value, file) = (&it.client_secret, &it.client_secret_file);
            all.push(Secret::new(path(), "client_secret", value, file));
        }
        for it in &providers.audiosocket.accounts {
            let path = vec!["providers", "audiosocket", "accounts"];
            all.push(Secret::new(path, "uuid", &it.uuid, &it.uuid_file));
        }
        for it in &providers.vonage.accounts {
            let path = vec!["providers", "vonage", "accounts"];
            let (value, file) = (&it.signature_secret, &it.signature_secret_file);
            all.push(Secret::new(path, "signature_secret", value, file));
        }
        for (name, table) in [("plivo", &providers.plivo), ("vobiz", &providers.vobiz)] {
            for it in &table.accounts {
                let path = vec!["providers", name, "accounts"];
                let (value, file) = (&it.auth_token, &it.auth_token_file);
                all.push(Secret::new(path, "auth_token", value, file));
            }
        }
        all
    }

    fn warn_of_pools(&self, found: &mut Mistakes<'_>) {
        for (name, pool) in &self.pools {
            let path = ["pools", name.as_str(), "deployments"];
            let members = pool.deployments.iter();
            let members: Vec<_> = members
                .filter_map(|member| self.deployments.get(&member.0.name))
                .collect();
            let Some((first, others)) = members.split_first() else {
                continue;
            };
            if others.is_empty() {
                found.warn(&path, "with one deployment, there is none to fall back on");
            } else if first.region.is_some() && others.iter().all(|it| it.region == first.region) {
                found.warn(
                    &path,
                    "all are in one region, and its trouble is that of all",
                );
            }
            if others
                .iter()
                .any(|it| it.model != first.model && first.kind == it.kind)
            {
                found.warn(
                    &path,
                    "their models have different names: callers should not notice which one they get",
                );
            }
        }
    }

    fn warn_of_operators(&self, found: &mut Mistakes<'_>) {
        if self.admin.public && !self.admin.is_guarded() {
            found.warn(
                &["admin", "public"],
                "whoever reaches this address reads the metrics, and nobody has the control service; a token would keep \
                 others out and let operators in",
            );
        }
        let filter = self.log.filter.to_ascii_lowercase();
        if filter.contains("debug") || filter.contains("trace") {
            found.warn(
                &["log", "filter"],
                "this level is for finding faults: it costs time on each frame",
            );
        }
        if self.process.watchdog.is_zero() {
            found.warn(
                &["process", "watchdog"],
                "a thread that is stuck keeps its calls until somebody ends the process",
            );
        }
        if self.process.dumpable {
            found.warn(
                &["process", "dumpable"],
                "core dumps and debuggers show keys and calls",
            );
        }
    }
}

/// A secret of the configuration.
struct Secret<'a> {
    /// Of the field that holds it as it is.
    path: Vec<&'a str>,
    /// Whether it is there.
    is_written: bool,
    /// The file that holds it otherwise.
    file: Option<&'a Path>,
}

impl<'a> Secret<'a> {
    fn new(
        table: Vec<&'a str>,
        name: &'a str,
        value: &Option<SecretString>,
        file: &'a Option<PathBuf>,
    ) -> Self {
        Self {
            path: [table, vec![name]].concat(),
            is_written: value.is_some(),
            file: file.as_deref(),
        }
    }
}

impl Mistakes<'_> {
    pub(super) fn warn(&mut self, path: &[&str], problem: &str) {
        self.add(path, problem.to_owned());
    }

    #[cfg(unix)]
    fn warn_if_readable(&mut self, field: &[&str], file: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let Ok(metadata) = std::fs::metadata(file) else {
            return;
        };
        if metadata.permissions().mode() & 0o004 != 0 {
            let problem = format!("every user of this machine may read {}", file.display());
            self.warn(field, &problem);
        }
    }

    #[cfg(not(unix))]
    fn warn_if_readable(&mut self, _field: &[&str], _file: &Path) {}
}

/// Whether what is sent there crosses the network as anybody there can read it.
pub(super) fn is_open(url: &str) -> bool {
    let url = url.parse::<http::Uri>();
    url.is_ok_and(|url| url.scheme_str() == Some("http") && !url.host().is_some_and(is_loopback))
}

/// Whether an origin's authority is this machine.
fn is_local(authority: &str) -> bool {
    let host = authority
        .parse::<http::uri::Authority>()
        .map(|authority| authority.host().to_owned())
        .unwrap_or_default();
    is_loopback(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = r#"[auth]
keys = [{ tenant = "acme", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }]
[tenants.acme]
[deployments.east]
url = "ws://127.0.0.1:1"
model = "gpt-realtime"
"#;

    fn check(text: &str, expected: &[&str]) {
        let config = Config::parse(text).unwrap();
        let path = Path::new("/no/such/file");
        let found = config.warnings(text, path);
        let found: Vec<String> = found.iter().map(Mistake::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found:?}: {expected:?}");
        }
    }

    /// Lines of a table after [`KEYS`]; its first line is 8.
    fn more(table: &str, expected: &[&str]) {
        check(&format!("{KEYS}{table}\n"), expected);
    }

    #[test]
    fn a_careful_file_has_no_warnings() {
        check(KEYS, &[]);
        more(
            "[listener]\naddress = '0.0.0.0:8080'\ntrusted_proxies = ['10.0.3.0/24']",
            &[],
        );
        more(
            "[listener]\nallowed_origins = ['https://a.example', 'http://localhost:3000']",
            &[],
        );
        more("[admin]\naddress = '0.0.0.0:9100'\ntoken_env = 'X'", &[]);
    }

    #[test]
    fn who_may_call() {
        check(
            &KEYS.replace("[auth]", "[auth]\nmode = 'none'"),
            &["line 2: auth.mode: everybody", "line 3: auth.keys: mode is"],
        );
        check(
            &format!(
                "{}[listener]\nallowed_origins = ['https://a.example']\n",
                KEYS.replace("[auth]", "[auth]\nmode = 'none'")
            ),
            &[
                "line 2: auth.mode: ",
                "line 9: listener.allowed_origins: pages of these",
                "line 3: auth.keys: ",
            ],
        );
        more("[tenants.bolt]", &["line 7: tenants.bolt: has no key"]);
        let issuer = "[[auth.issuers]]\nurl = 'https://id.example'\naudience = ['a']\n";
        more(&format!("{issuer}tenant = 'bolt'\n[tenants.bolt]"), &[]);
        more(
            &format!("{issuer}tenant = 'acme'\n[tenants.bolt]"),
            &["line 11: tenants.bolt: has no key"],
        );
    }

    #[test]
    fn what_counts_for_nothing() {
        let open = KEYS.replace("[auth]", "[auth]\nmode = 'none'");
        check(
            &format!("{open}[listener]\npublic_url = 'wss://a.example'\n"),
            &[
                "line 2: auth.mode: everybody",
                "line 3: auth.keys: ",
                "line 2: auth.mode: the listener is on loopback",
            ],
        );
        let account = "[listener]\npublic_url = 'wss://a.example'\n[[twilio.accounts]]\n\
            tenant = 'acme'\nauth_token_env = 'X'";
        more(
            account,
            &["line 9: twilio.accounts: without [auth.signing]"],
        );
        check(
            &KEYS
                .replace("ws://127.0.0.1:1", "ws://10.0.0.1:1")
                .replace("model = ", "plaintext = true\nmodel = "),
            &["line 6: deployments.east.plaintext: keys and calls leave"],
        );
    }

    #[test]
    fn how_redis_is_reached() {
        more(
            "[quota.redis]\nurl = 'redis://:hunter2@10.0.0.1'",
            &[
                "line 7: quota.redis: the password and all counts",
                "line 7: quota.redis: without [auth.signing] an ephemeral key",
                "line 8: quota.redis.url: stands in the file",
            ],
        );
    }

    #[test]
    fn how_callers_come_in() {
        more(
            "[listener]\naddress = '0.0.0.0:8080'",
            &["line 8: listener.address: keys and calls come in plain text"],
        );
        more(
            "[listener]\nallowed_origins = ['http://a.example']",
            &["line 8: listener.allowed_origins: http://a.example comes in plain text"],
        );
        more(
            "[listener]\ntrusted_proxies = ['0.0.0.0/0']",
            &["line 8: listener.trusted_proxies: the X-Forwarded-For of everybody"],
        );
        more(
            "[listener]\nlenient_api_version = true",
            &["line 8: listener.lenient_api_version: "],
        );
        more(
            "[listener.tls]\ncertificate_file = '/no/c'\nkey_file = '/no/k'\nclient_ca_file = '/no/a'\nclient_auth = 'optional'",
            &["line 11: listener.tls.client_auth: a certificate lets nobody in"],
        );
    }

    #[test]
    fn what_is_not_limited() {
        more(
            "[listener]\nmax_calls = 10\nmax_connections = 9",
            &["line 9: listener.max_connections: fewer than max_calls"],
        );
        more(
            "[listener]\nmax_connections = 4000000000",
            &["line 8: listener.max_connections: the process's file descriptors"],
        );
        more(
            "[listener.limits]\nhandshakes = 0\ncalls_per_second = 0",
            &[
                "line 8: listener.limits.handshakes: ",
                "line 9: listener.limits.calls_per_second: ",
            ],
        );
        more(
            "[listener.shed]\nloop_lag = '0s'\ndescriptors = 0",
            &[
                "line 8: listener.shed.loop_lag: ",
                "line 9: listener.shed.descriptors: ",
            ],
        );
    }

    #[test]
    fn what_others_may_read() {
        more(
            "api_key = 'k'",
            &["line 7: deployments.east.api_key: stands in the file"],
        );
        more(
            "[admin]\ntoken = 't'\npublic = true",
            &["line 8: admin.token: stands in the file"],
        );
        more(
            "[admin]\nread_token = 't'\npublic = true",
            &["line 8: admin.read_token: stands in the file"],
        );
        more("[admin]\npublic = true", &["line 8: admin.public: whoever"]);
        more(
            "[log]\nfilter = 'info,trunkline=debug'",
            &["line 8: log.filter: "],
        );
        more(
            "[process]\ndumpable = true",
            &["line 8: process.dumpable: "],
        );
    }

    #[test]
    fn pools_that_help_little() {
        let west = "[deployments.west]\nurl = 'ws://127.0.0.1:2'\nmodel = 'gpt-realtime'\n";
        let pool = |fields: &str, expected: &[&str]| {
            let pool = "[pools.all]\ndeployments = ['east', 'west']";
            more(&format!("{west}{fields}\n{pool}"), expected);
        };
        pool("region = 'r'", &[]);
        pool("", &[]);
        let other = west.replace("gpt-realtime", "other");
        more(
            &format!("{other}[pools.all]\ndeployments = ['east', 'west']"),
            &["line 11: pools.all.deployments: their models"],
        );
        more(
            "region = 'r'\n[pools.all]\ndeployments = ['east']",
            &["line 9: pools.all.deployments: with one deployment"],
        );
        more(
            &format!(
                "region = 'r'\n{west}region = 'r'\n[pools.all]\ndeployments = ['east', 'west']"
            ),
            &["line 13: pools.all.deployments: all are in one region"],
        );
    }

    #[cfg(unix)]
    #[test]
    fn files_of_secrets_are_for_their_owner() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("trunkline-key-{}", std::process::id()));
        std::fs::write(&file, "secret").unwrap();
        let set = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, permissions).unwrap();
        };
        let table = format!("api_key_file = '{}'", file.display());
        set(0o644);
        more(
            &table,
            &["line 7: deployments.east.api_key_file: every user"],
        );
        let account = "tenant = 'acme'\napi_key = 'k'\nsignature_secret_file";
        let account = format!(
            "{KEYS}[[providers.vonage.accounts]]\n{account} = '{}'\n",
            file.display()
        );
        let warnings = |text: &str| {
            let found = Config::parse(text).unwrap().warnings(text, &file);
            found.iter().map(Mistake::to_string).collect::<String>()
        };
        let found = warnings(&account);
        let expected = "providers.vonage.accounts.signature_secret_file: every user";
        assert!(found.contains(expected), "{found}");
        set(0o640);
        assert_eq!(warnings(&account), "");
        more(&table, &[]);
        // The configuration itself, if there is a secret in it.
        set(0o644);
        let text = format!("{KEYS}api_key = 'k'\n");
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.warnings(&text, &file).len(), 2);
        assert_eq!(Config::parse(KEYS).unwrap().warnings(KEYS, &file).len(), 0);
        std::fs::remove_file(&file).unwrap();
    }
}
