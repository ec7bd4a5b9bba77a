//! The `[traces]` table, and the plan that is made of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::secret::Source;

use super::otlp::{KeyValue, Resource};

/// The `[traces]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// Where spans are sent by OTLP over HTTP; without it, there are no traces.
    pub endpoint: Option<String>,
    /// What requests there carry besides, by header.
    pub headers: BTreeMap<String, HeaderConfig>,
    /// The share of calls that is traced.
    pub sample: f64,
    /// What is made of a `traceparent` that a caller or its provider sends.
    pub caller_context: CallerContext,
    /// Who the spans are from.
    pub service_name: String,
    /// What else is known of that.
    pub resource: BTreeMap<String, String>,
    /// Spans that may wait to be sent.
    pub queue_spans: usize,
    /// Spans that are sent at a time.
    pub batch_spans: usize,
    /// How long a batch waits to become full.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long one attempt may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers: BTreeMap::new(),
            sample: 1.0,
            caller_context: CallerContext::default(),
            service_name: "trunkline".to_owned(),
            resource: BTreeMap::new(),
            queue_spans: 16_384,
            batch_spans: 512,
            delay: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// What is made of a `traceparent` that comes with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerContext {
    /// Nothing: each call begins a trace.
    Ignore,
    /// The call is part of that trace; whether it is sampled is decided here.
    #[default]
    Join,
    /// The call is part of that trace, and sampled if that is.
    Follow,
}

/// One `[traces.headers.NAME]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderConfig {
    /// The value itself.
    pub value: Option<SecretString>,
    /// Names the environment variable that holds it.
    pub value_env: Option<String>,
    /// Names the file that holds it.
    pub value_file: Option<PathBuf>,
}

/// What is done with traces by one configuration.
#[derive(Clone, Debug, Default)]
pub struct TracesPlan {
    /// None for no traces.
    pub(super) collector: Option<Collector>,
    pub(super) sample: f64,
    pub(super) caller_context: CallerContext,
    pub(super) queue_spans: usize,
}

/// Where spans go and how.
#[derive(Clone)]
pub(super) struct Collector {
    pub(super) endpoint: Uri,
    pub(super) headers: HeaderMap,
    pub(super) resource: Resource,
    pub(super) batch_spans: usize,
    pub(super) delay: Duration,
    pub(super) timeout: Duration,
}

impl fmt::Debug for Collector {
    /// Without headers; and a URL may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

/// The path of a field below `traces`, and what is wrong there.
type TracesMistake = (Vec<String>, String);

impl TracesConfig {
    /// What is made of it.
    ///
    /// # Errors
    ///
    /// The fields that are at fault.
    pub fn plan(&self) -> Result<TracesPlan, Vec<TracesMistake>> {
        let mut mistakes = Vec::new();
        let mut add = |path: &[&str], problem: &str| {
            let path = path.iter().map(|&it| it.to_owned()).collect();
            mistakes.push((path, problem.to_owned()));
        };
        if !(0.0..=1.0).contains(&self.sample) {
            add(&["sample"], "it is a share, from 0 to 1");
        }
        for (field, is_zero, problem) in [
            (
                "queue_spans",
                self.queue_spans == 0,
                "with zero, no span could wait",
            ),
            (
                "batch_spans",
                self.batch_spans == 0,
                "with zero, no span could be sent",
            ),
            (
                "timeout",
                self.timeout.is_zero(),
                "nobody answers in no time",
            ),
        ] {
            if is_zero {
                add(&[field], problem);
            }
        }
        if self.service_name.trim().is_empty() {
            add(&["service_name"], "is empty");
        }
        if self.resource.contains_key("service.name") {
            add(&["resource", "service.name"], "that is service_name");
        }
        let headers = self.headers(&mut add);
        let endpoint = self.endpoint.as_deref().map(str::parse::<Uri>);
        let is_good =
            |url: &Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
        let endpoint = match endpoint {
            Some(Ok(url)) if is_good(&url) => Some(url),
            None => None,
            Some(_) => {
                let problem = "it begins with http:// or https:// and names a host";
                add(&["endpoint"], problem);
                None
            }
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let collector = endpoint.map(|endpoint| Collector {
            endpoint,
            headers,
            resource: self.resource(),
            batch_spans: self.batch_spans,
            delay: self.delay,
            timeout: self.timeout,
        });
        Ok(TracesPlan {
            collector,
            sample: self.sample,
            caller_context: self.caller_context,
            queue_spans: self.queue_spans,
        })
    }

    fn headers(&self, add: &mut impl FnMut(&[&str], &str)) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, config) in &self.headers {
            let source = Source {
                name: "value",
                value: config.value.as_ref(),
                env: config.value_env.as_deref(),
                file: config.value_file.as_deref(),
            };
            let secret = match source.required() {
                Ok(secret) => secret,
                Err(error) => {
                    add(&["headers", name, &error.field], &error.problem);
                    continue;
                }
            };
            let Ok(key) = name.parse::<HeaderName>() else {
                add(&["headers", name], "it is no name of a header");
                continue;
            };
            if matches!(key.as_str(), "content-type" | "content-length" | "host") {
                add(&["headers", name], "the gateway sets it itself");
                continue;
            }
            match HeaderValue::from_str(secret.expose_secret()) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    headers.insert(key, value);
                }
                Err(_) => add(&["headers", name, "value"], "it cannot stand in a header"),
            }
        }
        headers
    }

    fn resource(&self) -> Resource {
        let own = [
            ("service.name", self.service_name.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let said = self.resource.iter();
        let said = said.map(|(key, value)| KeyValue::new(key, value.as_str()));
        let own = own
            .into_iter()
            .filter(|(key, _)| !self.resource.contains_key(*key));
        let own = own.map(|(key, value)| KeyValue::new(key, value));
        Resource {
            attributes: own.chain(said).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let config: TracesConfig = toml::from_str(text).expect("of this form");
        let found = config.plan().err().unwrap_or_default();
        let found = found
            .into_iter()
            .map(|(path, problem)| format!("{}: {problem}", path.join(".")));
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}, not {expected}");
        }
    }

    #[test]
    fn without_a_word_nothing_is_traced() {
        let plan = TracesConfig::default().plan().expect("good");
        assert!(plan.collector.is_none());
    }

    #[test]
    fn what_cannot_work_is_a_mistake() {
        check("endpoint = 'http://127.0.0.1:4318/v1/traces'", &[]);
        check("endpoint = 'collector:4317'", &["endpoint: it begins"]);
        check(
            "endpoint = 'grpc://collector:4317'",
            &["endpoint: it begins"],
        );
        check("sample = 1.1", &["sample: it is a share"]);
        check("sample = nan", &["sample: it is a share"]);
        check(
            "queue_spans = 0\nbatch_spans = 0\ntimeout = '0s'",
            &["queue_spans: ", "batch_spans: ", "timeout: "],
        );
        check("service_name = ''", &["service_name: is empty"]);
        check(
            "[resource]\n'service.name' = 'x'",
            &["resource.service.name: "],
        );
        check(
            "[headers.authorization]",
            &["headers.authorization.value: one of value, value_env"],
        );
        check(
            "[headers.authorization]\nvalue = \"a\\u0001b\"",
            &["headers.authorization.value: it cannot"],
        );
        check(
            "[headers.'a b']\nvalue = 'x'",
            &["headers.a b: it is no name"],
        );
        check(
            "[headers.Content-Type]\nvalue = 'x'",
            &["headers.Content-Type: the gateway"],
        );
        check("[headers.authorization]\nvalue = 'Bearer x'", &[]);
    }

    #[test]
    fn neither_header_nor_address_is_shown() {
        let text = "endpoint = 'http://h/?token=t1'\n[headers.authorization]\nvalue = 'Bearer t2'";
        let config: TracesConfig = toml::from_str(text).expect("good");
        let shown = format!("{:?}", config.plan().expect("good"));
        assert!(!shown.contains("t1") && !shown.contains("t2"), "{shown}");
        assert!(!format!("{config:?}").contains("t2"));
    }

    #[test]
    fn the_resource_is_what_the_operator_says() {
        let text = "service_name = 'voice'\n[resource]\n'service.version' = '7'\nteam = 'a'";
        let config: TracesConfig = toml::from_str(text).expect("good");
        let keys = |it: &KeyValue| (it.key.clone(), it.value.clone().expect("a value").value);
        let found: Vec<_> = config.resource().attributes.iter().map(keys).collect();
        let expected = [
            ("service.name", "voice"),
            ("service.version", "7"),
            ("team", "a"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), Some(value.into())));
        assert_eq!(found, expected);
    }
}
