//! The `[quota]` table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::outbound::is_loopback;
use crate::secret::{SecretError, Source};

use super::settings::{Admission, Expect, QuotaMistake};

/// The `[quota]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaConfig {
    /// When a pool of deployments lets no more calls in.
    pub admission: Admission,
    /// Share of a pool's tokens a minute that forecasts may fill.
    pub headroom: f64,
    /// Share of that from which on tenants are held to their share.
    pub fair_from: f64,
    /// A lease that is not renewed for so long is free again: its gateway died (fault 27 of the faults reference).
    #[serde(with = "humantime_serde")]
    pub lease_life: Duration,
    /// Leases are renewed so often.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// In which money prices are. Only a name, and a metric label.
    pub currency: String,
    /// What calls are like of which nothing else is known.
    pub expect: Expect,
    /// What calls of SDK clients are like, by the model that they ask for.
    pub models: BTreeMap<String, Expect>,
    /// Where replicas share counts and leases; without it, each process has its own.
    pub redis: Option<RedisConfig>,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self {
            admission: Admission::Reactive,
            headroom: 0.9,
            fair_from: 0.8,
            lease_life: Duration::from_secs(15),
            heartbeat: Duration::from_secs(5),
            currency: "USD".to_owned(),
            expect: Expect::default(),
            models: BTreeMap::new(),
            redis: None,
        }
    }
}

impl QuotaConfig {
    /// The fields with which nothing could work. Those of `redis` and `models` come by their own.
    #[must_use]
    pub fn mistakes(&self) -> Vec<QuotaMistake> {
        let mut found = Vec::new();
        for (field, share) in [("headroom", self.headroom), ("fair_from", self.fair_from)] {
            if !(share > 0.0 && share <= 1.0) {
                found.push((
                    vec![field],
                    "it is a share, above 0 and at most 1".to_owned(),
                ));
            }
        }
        if self.heartbeat < Duration::from_secs(1) || self.heartbeat * 2 > self.lease_life {
            let problem = "it must be 1s at least, and go twice into lease_life";
            found.push((vec!["heartbeat"], problem.to_owned()));
        }
        if self.currency.is_empty() || !self.currency.chars().all(char::is_alphanumeric) {
            found.push((
                vec!["currency"],
                "a name of letters and digits was expected".to_owned(),
            ));
        }
        for (mut path, problem) in self.expect.mistakes() {
            path.insert(0, "expect");
            found.push((path, problem));
        }
        found
    }
}

/// The `[quota.redis]` table: Redis 5 or later, or Valkey.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` for TLS, `redis+unix:///PATH`; better one of the two below.
    pub url: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub url_env: Option<String>,
    /// Path of the file that holds it.
    pub url_file: Option<PathBuf>,
    /// What all keys begin with, in braces, so that a cluster keeps them at one node. Gateways with the same one share.
    pub prefix: String,
    /// How long an answer may take before the process decides by itself.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// The share of each limit that this process gives out by itself while Redis does not answer; with n replicas, 1/n
    /// to be strict.
    pub fallback_share: f64,
    /// What happens to new calls then.
    pub on_store_failure: OnStoreFailure,
}

/// What happens to new calls while the shared store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// Each process lets calls in by its share of the limits.
    #[default]
    Open,
    /// They are refused.
    Closed,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_env: None,
            url_file: None,
            prefix: "trunkline".to_owned(),
            deadline: Duration::from_millis(50),
            fallback_share: 0.5,
            on_store_failure: OnStoreFailure::Open,
        }
    }
}

impl RedisConfig {
    /// What is wrong with it, by field.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if let Err(error) = self.connection() {
            found.push((error.field, error.problem));
        }
        let mut add =
            |field: &str, problem: &str| found.push((field.to_owned(), problem.to_owned()));
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if self.prefix.is_empty() || !self.prefix.chars().all(is_word) {
            add("prefix", "letters, digits and -_.: only, and at least one");
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(5)).contains(&self.deadline) {
            add("deadline", "must be from 1ms to 5s");
        }
        if !(self.fallback_share > 0.0 && self.fallback_share <= 1.0) {
            add("fallback_share", "must be more than 0 and at most 1");
        }
        found
    }

    /// Whether the password and all counts cross a network in plain text.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let connection = self.connection();
        connection.is_ok_and(|connection| match connection.addr() {
            ConnectionAddr::Tcp(host, _) => !is_loopback(host),
            _ => false,
        })
    }

    /// Where it is. Its `Debug` shows no password, and that of the address is not to be logged either.
    pub(super) fn connection(&self) -> Result<ConnectionInfo, SecretError> {
        let source = Source {
            name: "url",
            value: self.url.as_ref(),
            env: self.url_env.as_deref(),
            file: self.url_file.as_deref(),
        };
        let url = source.read()?.ok_or_else(|| source.missing())?;
        let info = url.expose_secret().into_connection_info();
        let info = info.map_err(|_| SecretError {
            field: self.url_field().to_owned(),
            // The library's own words may hold parts of the address.
            problem: "is no address like rediss://USER:PASSWORD@HOST:6379/0".to_owned(),
        })?;
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        Ok(info.set_redis_settings(settings))
    }

    fn url_field(&self) -> &'static str {
        match (&self.url_env, &self.url_file) {
            (Some(_), _) => "url_env",
            (None, Some(_)) => "url_file",
            (None, None) => "url",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let config: RedisConfig = toml::from_str(text).expect("the form is right");
        let found = config.mistakes();
        let found: Vec<String> = found
            .iter()
            .map(|(field, problem)| format!("{field}: {problem}"))
            .collect();
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
        let shown = format!("{:?}{found:?}", config.url);
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn mistakes_are_named_and_hold_no_password() {
        check("url = 'redis://:hunter2@127.0.0.1:6379/1'", &[]);
        check("url = 'rediss://me:hunter2@redis.example'", &[]);
        check("url = 'redis+unix:///run/redis.sock'", &[]);
        check("", &["url: one of url, url_env and url_file is needed"]);
        check("url = 'hunter2'", &["url: is no address like"]);
        check("url = 'http://:hunter2@a'", &["url: is no address like"]);
        check(
            "url_env = 'redis://:hunter2@a'",
            &["url_env: no environment variable of that name"],
        );
        check(
            "url = 'redis://a'\nprefix = 'a{b}'\ndeadline = '0s'\nfallback_share = 0.0",
            &["prefix: ", "deadline: ", "fallback_share: "],
        );
        check(
            "url = 'redis://a'\nfallback_share = nan",
            &["fallback_share: "],
        );
        check(
            "url = 'redis://a'\nfallback_share = 1.0\non_store_failure = 'closed'",
            &[],
        );
    }

    #[test]
    fn plain_text_on_a_network_is_seen() {
        let check = |url: &str, expected: bool| {
            let config = RedisConfig {
                url: Some(url.into()),
                ..RedisConfig::default()
            };
            assert_eq!(config.is_plain(), expected, "{url}");
        };
        check("redis://127.0.0.1", false);
        check("redis://localhost", false);
        check("redis://[::1]:6379", false);
        check("redis+unix:///run/redis.sock", false);
        check("rediss://redis.example", false);
        check("redis://redis.example", true);
        check("redis://10.0.0.1", true);
    }
}
