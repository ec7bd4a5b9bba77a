//! The connection to Redis: one, shared by all operations, made anew in the background when anything is wrong with it.
//!
//! An operation never waits for a connection: while there is none, it fails at once. So what a Redis in trouble costs
//! callers is at most one deadline for those that were waiting when it began.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, RedisError,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::telemetry::Metrics;

use super::store::StoreError;

/// How long making a connection may take: name look-up, TCP, TLS, `AUTH`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Between attempts: the first pause, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A connection that was good for so long was no false hope: the next pause is a short one again.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// How often Redis is asked whether it still takes writes, so that not a caller finds out that it does not.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// At most one log line in this time for one kind of trouble (faults reference, 18).
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Kinds of trouble that are told apart in that time.
const MAX_KINDS: usize = 32;

/// Operations that wait to be written; their deadline is the bound in time.
const PIPELINE: usize = 1024;

/// The one connection.
pub(super) struct Link {
    info: ConnectionInfo,
    deadline: Duration,
    /// What is written to see whether anything can be.
    probe: Cmd,
    /// What a new connection is told first.
    scripts: Vec<&'static str>,
    state: Mutex<State>,
    up: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that a late failure of one does not end the next.
    generation: u64,
    /// Where a cluster said that our keys are.
    moved: Option<(String, u16)>,
    /// When each kind of trouble was last logged.
    logged: HashMap<String, Instant>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(
        info: ConnectionInfo,
        deadline: Duration,
        probe: Cmd,
        scripts: Vec<&'static str>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.store().up(false);
        Self {
            info,
            deadline,
            probe,
            scripts,
            state: Mutex::default(),
            up: watch::Sender::new(false),
            metrics,
        }
    }

    /// Whether operations have a chance.
    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Whether it is up, and when that changes.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Does something within the deadline.
    pub(super) async fn run<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreError> {
        let Some((mut connection, generation)) = self.connection() else {
            return Err(StoreError::Unreachable);
        };
        let started = Instant::now();
        let done = timeout(self.deadline, work(&mut connection)).await;
        self.metrics.store().answered(operation, started.elapsed());
        match done {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(generation, &error)),
            Err(_) => Err(self.trouble(generation, StoreError::Timeout)),
        }
    }

    /// Keeps the connection up while it is polled.
    pub(super) async fn keep(&self) {
        let mut pause = BACKOFF.0;
        loop {
            match self.connect().await {
                Ok(()) => {
                    let since = Instant::now();
                    self.watch_over().await;
                    if since.elapsed() >= GOOD_FOR {
                        pause = BACKOFF.0;
                    }
                }
                Err(error) => self.tell(&error),
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Makes a connection and tries whether it is good for anything.
    async fn connect(&self) -> Result<(), StoreError> {
        let moved = self.lock().moved.take();
        let mut info = self.info.clone();
        if let Some((host, port)) = moved {
            let addr = address_of(info.addr(), host, port);
            info = info.set_addr(addr);
        }
        let connecting = async {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None)
                .set_pipeline_buffer_size(PIPELINE);
            let client = Client::open(info)?;
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            for script in &self.scripts {
                let () = redis::cmd("SCRIPT")
                    .arg("LOAD")
                    .arg(script)
                    .query_async(&mut connection)
                    .await?;
            }
            Ok(connection)
        };
        let made = timeout(CONNECT_TIMEOUT, connecting).await;
        let mut connection = made
            .map_err(|_| StoreError::Timeout)?
            .map_err(|error| store_error(&error))?;
        let probed: Result<Result<(), _>, _> =
            timeout(self.deadline, self.probe.query_async(&mut connection)).await;
        match probed {
            Err(_) => return Err(StoreError::Timeout),
            Ok(Err(error)) => {
                self.follow(&error);
                return Err(store_error(&error));
            }
            Ok(Ok(())) => {}
        }
        let mut state = self.lock();
        state.generation += 1;
        state.connection = Some(connection);
        drop(state);
        self.metrics.store().up(true);
        self.up.send_replace(true);
        if self.is_news("connected") {
            tracing::info!("connected to the shared store");
        }
        Ok(())
    }

    /// Asks now and then whether all is well, until it is not.
    async fn watch_over(&self) {
        let mut up = self.up.subscribe();
        let probing = async {
            loop {
                sleep(PROBE_EVERY).await;
                let probe = async |connection: &mut MultiplexedConnection| {
                    self.probe.query_async::<()>(connection).await
                };
                if let Err(error) = self.run("probe", probe).await {
                    // Whatever it is: what cannot do this can do nothing.
                    self.down(&error);
                    return;
                }
            }
        };
        tokio::select! {
            () = probing => {}
            _ = up.wait_for(|is_up| !is_up) => {}
        }
    }

    fn connection(&self) -> Option<(MultiplexedConnection, u64)> {
        let state = self.lock();
        Some((state.connection.clone()?, state.generation))
    }

    fn failed(&self, generation: u64, error: &RedisError) -> StoreError {
        self.follow(error);
        self.trouble(generation, store_error(error))
    }

    /// Notes what went wrong, and gives the connection up if it is no good.
    fn trouble(&self, generation: u64, error: StoreError) -> StoreError {
        let is_this = self.lock().generation == generation;
        if is_this && error.is_of_the_store() {
            self.down(&error);
        } else {
            self.tell(&error);
        }
        error
    }

    fn down(&self, error: &StoreError) {
        self.lock().connection = None;
        self.metrics.store().up(false);
        self.up.send_replace(false);
        self.tell(error);
    }

    /// Remembers where a node of a cluster sends us.
    fn follow(&self, error: &RedisError) {
        let Some((address, _)) = error.redirect_node() else {
            return;
        };
        if let Some((host, port)) = address.rsplit_once(':')
            && let Ok(port) = port.parse()
            && !host.is_empty()
        {
            self.lock().moved = Some((host.to_owned(), port));
        }
    }

    /// Counts trouble, and logs it if nothing was said of it lately.
    fn tell(&self, error: &StoreError) {
        self.metrics.store().failed(error.kind());
        if self.is_news(error.kind()) {
            tracing::warn!(%error, "trouble with the shared store");
        }
    }

    /// Whether nothing was logged of this lately.
    fn is_news(&self, kind: &str) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let is_recent = |last: &Instant| now.duration_since(*last) < LOG_EVERY;
        // Redis's words are few, but they come from outside.
        state.logged.retain(|_, last| is_recent(last));
        if state.logged.contains_key(kind) || state.logged.len() >= MAX_KINDS {
            return false;
        }
        state.logged.insert(kind.to_owned(), now);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a script by its hash, and by its text if Redis has forgotten it.
pub(super) async fn eval<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    script: &Script,
    keys: &[String],
    arguments: &str,
) -> Result<T, RedisError> {
    let command = |name: &str, what: &str| {
        let mut command = redis::cmd(name);
        command.arg(what).arg(keys.len()).arg(keys).arg(arguments);
        command
    };
    let by_hash = command("EVALSHA", &script.sha1)
        .query_async(connection)
        .await;
    match by_hash {
        Err(error) if word_of(&error) == "NOSCRIPT" => {
            command("EVAL", script.text).query_async(connection).await
        }
        other => other,
    }
}

/// A script and its name in Redis.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) sha1: String,
}

fn address_of(before: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match before {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// Words that Redis begins its errors with, or, before version 7, the errors within those of scripts.
const WORDS: &[&str] = &[
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "WRONGPASS",
    "WRONGTYPE",
];

fn store_error(error: &RedisError) -> StoreError {
    if error.is_timeout() {
        return StoreError::Timeout;
    }
    if error.code().is_none() && (error.is_io_error() || error.is_unrecoverable_error()) {
        return match error.kind() {
            redis::ErrorKind::AuthenticationFailed => StoreError::Answered("AUTH".to_owned()),
            _ => StoreError::Unreachable,
        };
    }
    StoreError::Answered(word_of(error))
}

fn word_of(error: &RedisError) -> String {
    match error.code() {
        Some("ERR") | None => {
            let text = error.to_string();
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
            let found = words.find(|word| WORDS.contains(word));
            found.unwrap_or("ERR").to_owned()
        }
        Some(code) => code.to_owned(),
    }
}

impl StoreError {
    /// The metric label, before unknown ones are put together.
    fn kind(&self) -> &str {
        match self {
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Answered(word) => word,
        }
    }

    /// Whether the store as a whole is in trouble, and not only the keys of this operation.
    pub(super) fn is_of_the_store(&self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable => true,
            Self::Answered(word) => !matches!(word.as_str(), "WRONGTYPE" | "ERR"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_within_errors_of_scripts_are_found() {
        let check = |code: &str, detail: &str, expected: &str, is_of_the_store: bool| {
            let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            let error = store_error(&error);
            assert_eq!(error, StoreError::Answered(expected.to_owned()));
            assert_eq!(error.is_of_the_store(), is_of_the_store);
        };
        check("WRONGTYPE", "Operation against a key", "WRONGTYPE", false);
        check("OOM", "command not allowed", "OOM", true);
        // As Redis 5 and 6 say it.
        check(
            "ERR",
            "Error running script (call to f_1): @user_script:3: WRONGTYPE Operation against a key",
            "WRONGTYPE",
            false,
        );
        check(
            "ERR",
            "Error running script (call to f_1): @user_script: 9: -READONLY You can't write",
            "READONLY",
            true,
        );
        check("ERR", "unknown command", "ERR", false);
        check("STRANGE", "thing", "STRANGE", true);
    }

    #[test]
    fn a_cluster_leads_on_in_the_same_way() {
        let tls = ConnectionAddr::TcpTls {
            host: "a".to_owned(),
            port: 1,
            insecure: false,
            tls_params: None,
        };
        let led = address_of(&tls, "b".to_owned(), 2);
        assert!(matches!(led, ConnectionAddr::TcpTls { host, port: 2, .. } if host == "b"));
        let led = address_of(&ConnectionAddr::Tcp("a".to_owned(), 1), "b".to_owned(), 2);
        assert_eq!(led, ConnectionAddr::Tcp("b".to_owned(), 2));
    }
}
