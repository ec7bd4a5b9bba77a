//! What the file says of the process: how it guards itself, how it goes away, and what it logs.

use std::time::Duration;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::bridge::WatchdogLimits;

use super::{Config, Mistakes};

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

impl Config {
    pub(super) fn check_process(&self, mistakes: &mut Mistakes<'_>) {
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
    }
}
