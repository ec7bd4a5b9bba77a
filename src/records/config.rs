//! The `[records]` table, and the plan that is made of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::secret::Source;

use super::privacy::{Caller, Privacy};
use super::webhook::{SECRET_PREFIX, Webhook};

/// A shorter secret can be found by trying: 24 bytes are the least that Standard Webhooks allows.
const MIN_SECRET: usize = 24;

/// The `[records]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordsConfig {
    /// Where records go.
    pub sink: SinkKind,
    /// What is said of the caller's number.
    pub caller: CallerForm,
    /// The key of hashed numbers, at least 24 bytes.
    pub caller_secret: Option<SecretString>,
    /// Names the environment variable that holds it.
    pub caller_secret_env: Option<String>,
    /// Names the file that holds it.
    pub caller_secret_file: Option<PathBuf>,
    /// Whether what was said is recorded.
    pub transcripts: bool,
    /// Which of the parameters that callers attach are recorded.
    pub parameters: ParameterNames,
    /// For `sink = "file"`.
    pub file: Option<RecordFileConfig>,
    /// For `sink = "webhook"`.
    pub webhook: Option<RecordWebhookConfig>,
}

/// Where records go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// Nowhere: none are made.
    #[default]
    Off,
    /// A line of the log each.
    Log,
    /// A line of a file each.
    File,
    /// A signed POST each.
    Webhook,
}

/// What is said of the caller's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerForm {
    /// Nothing.
    #[default]
    Redacted,
    /// HMAC-SHA256 of it.
    Hashed,
    /// The number.
    Plain,
}

/// `false`, or the names of parameters that may be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "false or a list of names was expected")]
pub enum ParameterNames {
    /// None, or, which is refused, all: callers attach what they like.
    All(bool),
    /// These.
    Only(BTreeSet<String>),
}

impl Default for ParameterNames {
    fn default() -> Self {
        Self::All(false)
    }
}

/// The `[records.file]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordFileConfig {
    /// Is appended to, and made if it is not there.
    pub path: PathBuf,
}

/// The `[records.webhook]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordWebhookConfig {
    /// Is sent a POST for each record.
    pub url: String,
    /// By what they are signed: `whsec_` and base64 of at least 24 bytes.
    #[serde(default)]
    pub secret: Option<SecretString>,
    /// Names the environment variable that holds it.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// Names the file that holds it.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// How long one attempt may take.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
    /// Where records wait until they are taken.
    pub spool: SpoolConfig,
}

/// The `[records.webhook.spool]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolConfig {
    /// A folder of this process's own; made if it is not there.
    pub directory: PathBuf,
    /// Bytes that may wait there; beyond it the oldest record is dropped.
    #[serde(default = "max_bytes")]
    pub max_bytes: u64,
    /// Records that may wait there.
    #[serde(default = "max_records")]
    pub max_records: usize,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// Two days of ten calls a minute, with transcripts.
const fn max_bytes() -> u64 {
    256 * 1024 * 1024
}

const fn max_records() -> usize {
    100_000
}

/// What is done with records by one configuration.
#[derive(Clone, Debug, Default)]
pub struct RecordsPlan {
    pub(super) sink: Sink,
    pub(super) privacy: Privacy,
}

/// Where records go, with what it takes.
#[derive(Clone, Debug, Default)]
pub(super) enum Sink {
    #[default]
    Off,
    Log,
    File(PathBuf),
    Webhook(Box<Webhook>, SpoolConfig),
}

/// The path of a field below `records`, and what is wrong there.
type RecordsMistake = (Vec<String>, String);

impl RecordsConfig {
    /// What is made of it.
    ///
    /// # Errors
    ///
    /// The fields that are at fault.
    pub fn plan(&self) -> Result<RecordsPlan, Vec<RecordsMistake>> {
        let mut mistakes = Vec::new();
        let mut add = |path: &[&str], problem: String| {
            mistakes.push((path.iter().map(|&it| it.to_owned()).collect(), problem));
        };
        let caller = self.caller(&mut add);
        let parameters = self.parameter_names(&mut add);
        let sink = self.sink(&mut add);
        if mistakes.is_empty() {
            let privacy = Privacy {
                caller,
                parameters,
                transcripts: self.transcripts,
            };
            Ok(RecordsPlan { sink, privacy })
        } else {
            Err(mistakes)
        }
    }

    fn caller(&self, add: &mut impl FnMut(&[&str], String)) -> Caller {
        let source = Source {
            name: "caller_secret",
            value: self.caller_secret.as_ref(),
            env: self.caller_secret_env.as_deref(),
            file: self.caller_secret_file.as_deref(),
        };
        match self.caller {
            CallerForm::Redacted => Caller::Nothing,
            CallerForm::Plain => Caller::Plain,
            CallerForm::Hashed => match source.required() {
                Ok(secret) if secret.expose_secret().len() < MIN_SECRET => {
                    let problem = format!("it must have at least {MIN_SECRET} bytes");
                    add(&["caller_secret"], problem);
                    Caller::Nothing
                }
                Ok(secret) => Caller::hashed(&secret),
                Err(error) => {
                    add(&[&error.field], error.problem);
                    Caller::Nothing
                }
            },
        }
    }

    fn parameter_names(&self, add: &mut impl FnMut(&[&str], String)) -> BTreeSet<String> {
        match &self.parameters {
            ParameterNames::All(false) => BTreeSet::new(),
            ParameterNames::All(true) => {
                let problem = "name those that may be recorded: callers attach what they like";
                add(&["parameters"], problem.to_owned());
                BTreeSet::new()
            }
            ParameterNames::Only(names) => {
                if names.contains("from") && self.caller != CallerForm::Plain {
                    let problem =
                        "from is the caller's number; what is said of it stands in caller";
                    add(&["parameters"], problem.to_owned());
                }
                names.clone()
            }
        }
    }

    fn sink(&self, add: &mut impl FnMut(&[&str], String)) -> Sink {
        match (self.sink, &self.file, &self.webhook) {
            (SinkKind::Off, ..) => Sink::Off,
            (SinkKind::Log, ..) => Sink::Log,
            (SinkKind::File, Some(file), _) => Sink::File(file.path.clone()),
            (SinkKind::Webhook, _, Some(webhook)) => webhook.sink(add),
            (SinkKind::File, None, _) => {
                add(&["file"], "sink is \"file\": it needs a path".to_owned());
                Sink::Off
            }
            (SinkKind::Webhook, _, None) => {
                let problem = "sink is \"webhook\": it needs a url, a secret and a spool";
                add(&["webhook"], problem.to_owned());
                Sink::Off
            }
        }
    }
}

impl RecordWebhookConfig {
    fn sink(&self, add: &mut impl FnMut(&[&str], String)) -> Sink {
        let url = self.url.parse::<http::Uri>().ok().filter(|url| {
            matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
        });
        if url.is_none() {
            let problem = "it begins with http:// or https:// and names a host".to_owned();
            add(&["webhook", "url"], problem);
        }
        let secret = self.secret(add);
        if self.timeout.is_zero() {
            let problem = "nobody answers in no time".to_owned();
            add(&["webhook", "timeout"], problem);
        }
        let limits = [
            ("max_bytes", self.spool.max_bytes == 0),
            ("max_records", self.spool.max_records == 0),
        ];
        for (field, _) in limits.into_iter().filter(|(_, is_zero)| *is_zero) {
            let problem = "with zero, no record could wait".to_owned();
            add(&["webhook", "spool", field], problem);
        }
        match (url, secret) {
            (Some(url), Some(secret)) => {
                let webhook = Webhook::new(url, &secret, self.timeout);
                Sink::Webhook(Box::new(webhook), self.spool.clone())
            }
            _ => Sink::Off,
        }
    }

    fn secret(&self, add: &mut impl FnMut(&[&str], String)) -> Option<Vec<u8>> {
        let source = Source {
            name: "secret",
            value: self.secret.as_ref(),
            env: self.secret_env.as_deref(),
            file: self.secret_file.as_deref(),
        };
        let secret = match source.required() {
            Ok(secret) => secret,
            Err(error) => {
                add(&["webhook", &error.field], error.problem);
                return None;
            }
        };
        let encoded = secret.expose_secret().strip_prefix(SECRET_PREFIX);
        let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
        let bytes = bytes.filter(|bytes| bytes.len() >= MIN_SECRET);
        if bytes.is_none() {
            let problem =
                format!("it is {SECRET_PREFIX} and base64 of at least {MIN_SECRET} bytes");
            add(&["webhook", "secret"], problem);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let config: RecordsConfig = toml::from_str(text).expect("of this form");
        let found = config.plan().err().unwrap_or_default();
        let text = |(path, problem): RecordsMistake| format!("{}: {problem}", path.join("."));
        found.into_iter().map(text).collect()
    }

    const WEBHOOK: &str = "sink = 'webhook'\n[webhook]\nurl = 'https://a.example/calls'\n\
        secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\nspool = { directory = '/x' }\n";

    #[test]
    fn without_a_word_nothing_is_recorded() {
        let plan = RecordsConfig::default().plan().expect("good");
        assert!(matches!(plan.sink, Sink::Off));
        assert!(matches!(plan.privacy.caller, Caller::Nothing));
        assert!(plan.privacy.parameters.is_empty() && !plan.privacy.transcripts);
    }

    #[test]
    fn what_cannot_work_is_a_mistake() {
        let check = |text: &str, expected: &[&str]| {
            let found = mistakes(text);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{found}, not {expected}");
            }
        };
        check(WEBHOOK, &[]);
        check("sink = 'file'", &["file: sink is"]);
        check("sink = 'webhook'", &["webhook: sink is"]);
        check("parameters = true", &["parameters: name those"]);
        check("parameters = ['from']", &["parameters: from is"]);
        check("parameters = ['from', 'x']\ncaller = 'plain'", &[]);
        check(
            "caller = 'hashed'",
            &["caller_secret: one of caller_secret, caller_secret_env"],
        );
        check(
            "caller = 'hashed'\ncaller_secret = 'short'",
            &["caller_secret: it must have at least 24 bytes"],
        );
        check(
            &WEBHOOK
                .replace("https:", "ftp:")
                .replace("'/x'", "'/x', max_records = 0"),
            &[
                "webhook.url: it begins",
                "webhook.spool.max_records: with zero",
            ],
        );
        check(
            &WEBHOOK.replace("whsec_MfKQ", "MfKQ"),
            &["webhook.secret: it is whsec_"],
        );
        check(
            &WEBHOOK.replace("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ"),
            &["webhook.secret: it is whsec_"],
        );
    }
}
