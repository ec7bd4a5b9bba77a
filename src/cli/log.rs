//! The process's log: where it goes, what is in it, and how that changes while the process runs.

use std::fmt;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Dispatch;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, registry, reload};

use crate::config::{LogConfig, LogFormat};
use crate::telemetry::{LogEnd, LogLines};

/// What says what is logged instead of the configuration.
const VARIABLE: &str = "TRUNKLINE_LOG";

/// The log, until it is dropped.
#[derive(Debug)]
pub(super) struct Log {
    filter: LogFilter,
    _end: LogEnd,
}

/// What is logged, to be changed by a changed configuration.
#[derive(Clone)]
pub(super) struct LogFilter {
    /// What the configuration said last.
    wanted: Arc<Mutex<String>>,
    /// None if an environment variable says what is logged.
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.wanted).finish()
    }
}

impl Log {
    /// Logs go to standard error, so that what a command prints stays readable by programs. What a panic says goes the same
    /// way: the thread that panics waits for nobody either.
    pub(super) fn start(config: &LogConfig) -> io::Result<Self> {
        let (lines, end) = LogLines::to(io::stderr())?;
        let own = std::env::var(VARIABLE).ok();
        let (subscriber, filter) = subscriber(config, own.as_deref(), move || lines.clone());
        subscriber.init();
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self { filter, _end: end })
    }

    pub(super) fn filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

impl LogFilter {
    /// Logs what `config` says from now on, if that is another than before.
    pub(super) fn follow(&self, config: &LogConfig) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *wanted == config.filter {
            return;
        }
        wanted.clone_from(&config.filter);
        let Some(handle) = &self.handle else {
            tracing::warn!("log.filter has changed, and {VARIABLE} still says what is logged");
            return;
        };
        match handle.reload(EnvFilter::new(&config.filter)) {
            Ok(()) => tracing::info!(
                filter = config.filter,
                "another filter of the log is in force"
            ),
            Err(error) => tracing::error!(%error, "the filter of the log stays as it was"),
        }
    }
}

/// What writes the log to `out`, by the filter of the environment (`own`) or of the configuration.
fn subscriber<W: Write>(
    config: &LogConfig,
    own: Option<&str>,
    out: impl Fn() -> W + Send + Sync + 'static,
) -> (Dispatch, LogFilter) {
    let filter = EnvFilter::new(own.unwrap_or(&config.filter));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = registry().with(filter).with(filter_fn(is_discreet));
    let layer = layer().with_writer(out);
    let dispatch = match config.format {
        LogFormat::Json => Dispatch::new(registry.with(layer.json().flatten_event(true))),
        LogFormat::Text => Dispatch::new(registry.with(layer)),
    };
    let filter = LogFilter {
        wanted: Arc::new(Mutex::new(config.filter.clone())),
        handle: own.is_none().then_some(handle),
    };
    (dispatch, filter)
}

/// Whatever the operator's filter says, the identity library's chatter is not logged: it writes of requests that hold
/// secrets.
fn is_discreet(metadata: &tracing::Metadata<'_>) -> bool {
    const CHATTERERS: [&str; 3] = ["azure_", "typespec", "reqwest"];
    let chats = CHATTERERS
        .iter()
        .any(|prefix| metadata.target().starts_with(prefix));
    !chats || *metadata.level() <= tracing::Level::WARN
}

/// In place of Rust's own hook, which writes to standard error and waits for whoever reads it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(
        at = at.as_deref().unwrap_or("?"),
        thread = thread.name().unwrap_or("?"),
        backtrace = backtrace(),
        "panicked: {}",
        panic.payload_as_str().unwrap_or("?")
    );
}

/// Where it came from, if `RUST_BACKTRACE` asks for that.
fn backtrace() -> Option<String> {
    use std::backtrace::{Backtrace, BacktraceStatus};
    let backtrace = Backtrace::capture();
    let is_there = backtrace.status() == BacktraceStatus::Captured;
    is_there.then(|| backtrace.to_string())
}

#[cfg(test)]
mod tests {
    use tracing::dispatcher::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Shelf(Arc<Mutex<Vec<u8>>>);

    impl Write for Shelf {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shelf {
        /// Each line's message since it was asked last.
        fn messages(&self) -> Vec<String> {
            let text = std::mem::take(&mut *self.0.lock().unwrap());
            let text = String::from_utf8(text).unwrap();
            let lines = text.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                line["message"].as_str().expect("a message").to_owned()
            });
            lines.collect()
        }
    }

    fn config(filter: &str) -> LogConfig {
        LogConfig {
            filter: filter.to_owned(),
            ..LogConfig::default()
        }
    }

    #[test]
    fn another_filter_holds_from_then_on() {
        let shelf = Shelf::default();
        let out = shelf.clone();
        let (dispatch, filter) = subscriber(&config("info"), None, move || out.clone());
        with_default(&dispatch, || {
            let say = || {
                tracing::info!("one");
                tracing::debug!("two");
            };
            say();
            assert_eq!(shelf.messages(), ["one"]);
            filter.follow(&config("info"));
            assert!(shelf.messages().is_empty());
            filter.follow(&config("debug"));
            say();
            let changed = "another filter of the log is in force";
            assert_eq!(shelf.messages(), [changed, "one", "two"]);
            filter.follow(&config("warn"));
            say();
            assert!(shelf.messages().is_empty());
        });
    }

    #[test]
    fn what_the_environment_says_stays() {
        let shelf = Shelf::default();
        let out = shelf.clone();
        let (dispatch, filter) = subscriber(&config("info"), Some("warn"), move || out.clone());
        with_default(&dispatch, || {
            filter.follow(&config("debug"));
            tracing::info!("one");
            let messages = shelf.messages();
            assert_eq!(messages.len(), 1);
            assert!(messages[0].contains("TRUNKLINE_LOG"), "{messages:?}");
        });
    }

    #[test]
    fn chatter_is_not_logged_whatever_the_filter_says() {
        let shelf = Shelf::default();
        let out = shelf.clone();
        let (dispatch, filter) = subscriber(&config("info"), None, move || out.clone());
        with_default(&dispatch, || {
            filter.follow(&config("trace"));
            drop(shelf.messages());
            tracing::debug!(target: "azure_core::http", "a request");
            tracing::debug!(target: "other", "a word");
            assert_eq!(shelf.messages(), ["a word"]);
        });
    }
}
