//! Takes a changed configuration while the process runs: on SIGHUP, and when the file or one that it names has changed.
//!
//! Files are read again and again rather than watched: what Kubernetes mounts and what editors write are other files by
//! the same name. All is checked as at the start, and a file that is not good changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::admin::AdminTokens;
use crate::listener::{Gateway, Routes};
use crate::upstream::Identities;

use super::reading::{Loaded, Reading};
use super::{Config, Mistake};

/// Who looks more often finds nothing that matters.
const MOST_OFTEN: Duration = Duration::from_millis(100);

/// The `[reload]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadConfig {
    /// How often it is looked whether the file has changed, or one that it names; a change is taken when it was seen
    /// twice. Zero for never: SIGHUP alone has it read again.
    #[serde(with = "humantime_serde")]
    pub watch: Duration,
}

impl Default for ReloadConfig {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(5),
        }
    }
}

impl ReloadConfig {
    /// What is wrong with `watch`.
    pub(super) fn mistake(&self) -> Option<&'static str> {
        let is_good = self.watch.is_zero() || self.watch >= MOST_OFTEN;
        (!is_good).then_some("looking more often than every 100ms is in vain; 0s is for never")
    }
}

/// What became of a configuration that was read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force, except for these fields.
    Applied {
        /// What changes at the next start only.
        needs_restart: Vec<&'static str>,
    },
    /// It says what the one in force says.
    Unchanged,
    /// It is not good, and the old one stays in force.
    Failed(Vec<Mistake>),
}

/// Who takes changed configurations for a gateway.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    gateway: Arc<Gateway>,
    /// What operators show.
    tokens: AdminTokens,
    /// What the process began with.
    first: Arc<First>,
    /// What is in force, as it was read.
    reading: Reading,
    config: watch::Sender<Arc<Config>>,
    identities: Identities,
    /// What the last look saw that is neither in force nor bad.
    seen: Option<Reading>,
    /// What was tried last, if it is not good.
    bad: Option<Reading>,
}

/// A configuration that a process began with, of which some things stay.
#[derive(Debug)]
struct First {
    config: Config,
    reading: Reading,
}

/// A changed configuration that is good.
struct Changed {
    config: Config,
    routes: Routes,
    reading: Reading,
    tokens: AdminTokens,
    needs_restart: Vec<&'static str>,
}

impl Reloader {
    /// For a gateway that was made of what was `loaded` from the file. `tokens` are what operators have to show.
    #[must_use]
    pub fn new(path: &Path, loaded: &Loaded, gateway: Arc<Gateway>, tokens: AdminTokens) -> Self {
        gateway.metrics().reload().began(unix_seconds());
        let (config, reading) = (loaded.config.clone(), loaded.reading.clone());
        Self {
            path: path.to_owned(),
            gateway,
            tokens,
            config: watch::Sender::new(Arc::new(config.clone())),
            reading: reading.clone(),
            first: Arc::new(First { config, reading }),
            identities: loaded.routes.identities.clone(),
            seen: None,
            bad: None,
        }
    }

    /// The configuration in force, also after it has changed.
    #[must_use]
    pub fn config(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// Is over when the files are to be looked at; never if they are not.
    pub async fn is_due(&self) {
        let every = self.config.borrow().reload.watch;
        if every.is_zero() {
            std::future::pending::<()>().await;
        }
        sleep(every).await;
    }

    /// Looks at the files, and takes what has changed and was seen at the last look too: whatever is half-written is
    /// other the next time. What is not good is told once.
    pub async fn look(&mut self) -> Option<Outcome> {
        let reading = self.read().await;
        if reading == self.reading {
            self.seen = None;
            if self.bad.take().is_some() {
                tracing::info!("the configuration file says again what is in force");
                self.gateway.metrics().reload().recovered();
            }
            return None;
        }
        if self.bad.as_ref() == Some(&reading) {
            return None;
        }
        if self.seen.as_ref() != Some(&reading) {
            self.seen = Some(reading);
            return None;
        }
        Some(self.take(reading).await)
    }

    /// Reads the files because somebody asks for it.
    pub async fn reload(&mut self) -> Outcome {
        let reading = self.read().await;
        self.take(reading).await
    }

    async fn read(&self) -> Reading {
        let path = self.path.clone();
        // The files may lie on a network.
        let read = spawn_blocking(move || Reading::read(&path)).await;
        read.unwrap_or_default()
    }

    /// Takes what the files hold, which was `reading` a moment ago.
    async fn take(&mut self, reading: Reading) -> Outcome {
        self.seen = None;
        let (path, first) = (self.path.clone(), Arc::clone(&self.first));
        let identities = self.identities.next();
        let changed = spawn_blocking(move || Changed::load(&path, &first, &identities)).await;
        let changed = changed.unwrap_or_else(|_| {
            Err(vec![Mistake {
                line: None,
                field: String::new(),
                problem: "reading it broke off".to_owned(),
            }])
        });
        let outcome = match changed {
            Ok(changed) if changed.reading == self.reading => Outcome::Unchanged,
            Ok(changed) => self.apply(changed),
            Err(mistakes) => Outcome::Failed(mistakes),
        };
        self.bad = matches!(outcome, Outcome::Failed(_)).then_some(reading);
        self.tell(&outcome);
        outcome
    }

    fn apply(&mut self, changed: Changed) -> Outcome {
        let unchanged = changed.reading.unchanged_since(&self.reading);
        self.identities = changed.routes.identities.clone();
        let listener = changed.config.listener.clone();
        self.gateway.replace(listener, changed.routes, &unchanged);
        self.tokens.replace(&changed.tokens);
        self.reading = changed.reading;
        self.config.send_replace(Arc::new(changed.config));
        Outcome::Applied {
            needs_restart: changed.needs_restart,
        }
    }

    fn tell(&self, outcome: &Outcome) {
        let (metrics, file) = (self.gateway.metrics().reload(), self.path.display());
        match outcome {
            Outcome::Applied { needs_restart } => {
                metrics.applied(unix_seconds());
                tracing::info!(%file, "the changed configuration is in force");
                if !needs_restart.is_empty() {
                    tracing::warn!(%file, "needs restart: {}", needs_restart.join(", "));
                }
            }
            Outcome::Unchanged => {
                metrics.unchanged();
                tracing::info!(%file, "the configuration has not changed");
            }
            Outcome::Failed(mistakes) => {
                metrics.failed();
                for mistake in mistakes {
                    tracing::error!(%file, %mistake, "the changed configuration cannot be used, the old one stays in force");
                }
            }
        }
    }
}

impl Changed {
    /// Reads and checks a file, for a process that began with `first`.
    fn load(path: &Path, first: &First, identities: &Identities) -> Result<Self, Vec<Mistake>> {
        let loaded = Loaded::load_with(path, identities.clone())?;
        let Loaded {
            mut config,
            mut routes,
            reading,
        } = loaded;
        let needs_restart = first.needs_restart(&config, &reading);
        if !needs_restart.is_empty() {
            first.keep_what_stays(&mut config);
            // What is good on another address may not be on this one.
            routes = config.build_with(reading.text(), identities.clone())?;
        }
        let tokens = AdminTokens::read(&config.admin).map_err(|error| {
            vec![Mistake {
                line: None,
                field: format!("admin.{}", error.field),
                problem: error.problem,
            }]
        })?;
        Ok(Self {
            config,
            routes,
            reading,
            tokens,
            needs_restart,
        })
    }
}

impl First {
    /// The fields that say something else and change at the next start only.
    fn needs_restart(&self, config: &Config, reading: &Reading) -> Vec<&'static str> {
        let (old, new) = (&self.config, config);
        let (at, to) = (&old.listener, &new.listener);
        let has_changed = [
            ("listener.address", at.address != to.address),
            ("listener.backlog", at.backlog != to.backlog),
            ("listener.tls", at.tls != to.tls),
            (
                "listener.audiosocket.address",
                at.audiosocket.address != to.audiosocket.address,
            ),
            ("admin.address", old.admin.address != new.admin.address),
            ("admin.tls", old.admin.tls != new.admin.tls),
            (
                "quota.redis",
                !self.reading.is_same(reading, &["quota", "redis"]),
            ),
            ("log.format", old.log.format != new.log.format),
            ("process", old.process != new.process),
        ];
        let changed = has_changed
            .into_iter()
            .filter(|(_, has_changed)| *has_changed);
        changed.map(|(field, _)| field).collect()
    }

    /// Puts in what the process has and cannot have otherwise.
    fn keep_what_stays(&self, config: &mut Config) {
        let first = &self.config;
        let listener = &mut config.listener;
        listener.address = first.listener.address;
        listener.tls.clone_from(&first.listener.tls);
        listener.audiosocket.address = first.listener.audiosocket.address;
        config.admin.address = first.admin.address;
        config.admin.tls.clone_from(&first.admin.tls);
    }
}

fn unix_seconds() -> f64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0.0, |since| since.as_secs_f64())
}
