//! Keeps the token of one identity: fetches it in the background, hands it out to dials.
//!
//! One loop fetches, so that there is never more than one fetch under way; dials take what is there and at most wait
//! for that loop. When a fetch is due is `token_schedule`'s to say, how it is done a [`TokenSource`]'s.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use secrecy::SecretString;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::telemetry::Metrics;

use super::token_schedule::{Now, Rejected, Schedule};

/// Where tokens come from.
#[async_trait::async_trait]
pub(super) trait TokenSource: fmt::Debug + Send + Sync {
    /// Fetches a new token, never one that was fetched before and kept.
    async fn fetch(&self) -> Result<FetchedToken, FetchError>;
}

/// A token and when it is over by the wall clock.
#[derive(Debug)]
pub(super) struct FetchedToken {
    pub(super) token: SecretString,
    pub(super) expires: SystemTime,
}

/// Why there is no new token. Holds nothing that an endpoint said but numbers and a checked word: an answer may repeat
/// what was sent to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// A file or a setting that the request needs is not there.
    #[error("{0}")]
    Local(String),
    /// No connection, or one that broke.
    #[error("the token endpoint cannot be reached")]
    Unreachable,
    /// It would have gone over the network in plain text.
    #[error("the token endpoint is neither https nor local")]
    Plaintext,
    /// It took too long.
    #[error("no token within {0:?}")]
    Timeout(Duration),
    /// The endpoint said no.
    #[error("the token endpoint answered with HTTP status {status}{}", .code.as_deref().map(|code| format!(", code {code}")).unwrap_or_default())]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Entra's error numbers (`AADSTS...`) or its error word.
        code: Option<String>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It answered something that is no token.
    #[error("the token endpoint's answer is no token")]
    Answer,
    /// The token was over before it came.
    #[error("the token had expired when it came; is this machine's clock right?")]
    Expired,
    /// The developer's tool has none.
    #[error("neither az nor azd gave a token: is one of them logged in?")]
    Tool,
    /// The library that asks for it failed.
    #[error("the identity library failed")]
    Library,
}

impl FetchError {
    /// The metric label.
    const fn name(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Unreachable | Self::Plaintext => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Refused { .. } => "refused",
            Self::Answer => "answer",
            Self::Expired => "expired",
            Self::Tool => "tool",
            Self::Library => "library",
        }
    }

    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The token of one identity, shared by all deployments that use it.
pub(super) struct TokenKeeper {
    /// The metric label.
    identity: String,
    source: Box<dyn TokenSource>,
    fetch_limit: Duration,
    wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
    state: Mutex<State>,
    /// How many fetches have ended.
    settled: watch::Sender<u64>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    token: Option<SecretString>,
}

impl fmt::Debug for TokenKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeeper")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl TokenKeeper {
    pub(super) fn new(
        identity: &str,
        source: Box<dyn TokenSource>,
        fetch_limit: Duration,
        wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
    ) -> Self {
        Self {
            identity: identity.to_owned(),
            source,
            fetch_limit,
            wall,
            state: Mutex::default(),
            settled: watch::Sender::new(0),
            wake: Notify::new(),
        }
    }

    /// Counts the tokens.
    pub(super) fn version(&self) -> u64 {
        self.lock().schedule.version()
    }

    /// The token and its version; waits for the first one, or the next one after an outage, for `limit` at most.
    pub(super) async fn token(&self, limit: Duration) -> Option<(SecretString, u64)> {
        let mut settled = self.settled.subscribe();
        let wait = async {
            loop {
                if let Some(token) = self.current() {
                    return Some(token);
                }
                if !self.lock().schedule.is_due_within(self.now(), limit) {
                    return None;
                }
                self.wake.notify_one();
                settled.changed().await.ok()?;
            }
        };
        timeout(limit, wait).await.ok().flatten()
    }

    /// Another token than that of `version`, which a deployment refused; none if the refusal stands.
    pub(super) async fn replace(
        &self,
        version: u64,
        limit: Duration,
    ) -> Option<(SecretString, u64)> {
        // Before the state is looked at, so that no end of a fetch is missed.
        let mut settled = self.settled.subscribe();
        let verdict = self.lock().schedule.rejected(self.now(), version);
        if verdict == Rejected::Wait {
            self.wake.notify_one();
            timeout(limit, settled.changed()).await.ok()?.ok()?;
        }
        self.current().filter(|(_, newer)| *newer != version)
    }

    /// Fetches tokens for ever.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends a fetch that is under way.
    pub(super) async fn run(&self, metrics: &Metrics) {
        loop {
            let now = self.now();
            let (left, wait) = {
                let state = self.lock();
                (state.schedule.left(now), state.schedule.wait(now))
            };
            metrics.token_left(&self.identity, left.unwrap_or_default());
            if wait.is_zero() {
                self.refresh(metrics).await;
                continue;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    async fn refresh(&self, metrics: &Metrics) {
        let asked = self.now();
        self.lock().schedule.fetching();
        let fetch = AssertUnwindSafe(self.source.fetch()).catch_unwind();
        let fetched = match timeout(self.fetch_limit, fetch).await {
            Ok(fetched) => fetched.unwrap_or(Err(FetchError::Library)),
            Err(_) => Err(FetchError::Timeout(self.fetch_limit)),
        };
        let ended = match self.settle(asked, fetched) {
            Ok(failures) => {
                metrics.token_refreshed(&self.identity, "ok");
                if failures == 0 {
                    tracing::debug!(identity = self.identity, "token refreshed");
                } else {
                    tracing::info!(identity = self.identity, failures, "token refreshed again");
                }
                self.lock().schedule.left(self.now())
            }
            Err(error) => {
                metrics.token_refreshed(&self.identity, error.name());
                let left = self.lock().schedule.left(self.now());
                tracing::warn!(identity = self.identity, %error, ?left, "token not refreshed");
                left
            }
        };
        metrics.token_left(&self.identity, ended.unwrap_or_default());
        self.settled.send_modify(|n| *n += 1);
    }

    /// Enters the outcome of a fetch; how many had failed before one that did not.
    fn settle(
        &self,
        asked: Now,
        fetched: Result<FetchedToken, FetchError>,
    ) -> Result<u32, FetchError> {
        let now = self.now();
        let mut state = self.lock();
        let failures = state.schedule.failures();
        let error = match fetched {
            Ok(fetched) if state.schedule.fetched(asked, now, fetched.expires) => {
                state.token = Some(fetched.token);
                return Ok(failures);
            }
            Ok(_) => FetchError::Expired,
            Err(error) => error,
        };
        let chance = fastrand::f64();
        state.schedule.failed(now, error.retry_after(), chance);
        Err(error)
    }

    fn current(&self) -> Option<(SecretString, u64)> {
        let now = self.now();
        let state = self.lock();
        state.schedule.left(now)?;
        Some((state.token.clone()?, state.schedule.version()))
    }

    fn now(&self) -> Now {
        Now {
            at: Instant::now().into_std(),
            wall: (self.wall)(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use secrecy::ExposeSecret;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    /// What an endpoint does with one request; when nothing is left, it gives out tokens of an hour.
    enum Does {
        Gives(Duration),
        Fails(FetchError),
        Hangs,
        Panics,
    }

    /// A wall clock that goes with simulated time and can be set.
    struct Wall {
        began: Instant,
        offset_seconds: AtomicI64,
    }

    impl Wall {
        fn now(&self) -> SystemTime {
            let base = SystemTime::UNIX_EPOCH + 500_000 * HOUR + self.began.elapsed();
            let offset = self.offset_seconds.load(Ordering::Relaxed);
            let step = Duration::from_secs(offset.unsigned_abs());
            if offset < 0 { base - step } else { base + step }
        }
    }

    #[derive(Debug)]
    struct Endpoint {
        script: Mutex<VecDeque<Does>>,
        asked: Mutex<Vec<Instant>>,
        wall: Arc<Wall>,
    }

    impl fmt::Debug for Does {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Does")
        }
    }

    impl fmt::Debug for Wall {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Wall")
        }
    }

    #[async_trait::async_trait]
    impl TokenSource for Arc<Endpoint> {
        async fn fetch(&self) -> Result<FetchedToken, FetchError> {
            let n = {
                let mut asked = self.asked.lock().expect("no panic");
                asked.push(Instant::now());
                asked.len()
            };
            let does = self.script.lock().expect("no panic").pop_front();
            sleep(Duration::from_millis(50)).await;
            match does.unwrap_or(Does::Gives(HOUR)) {
                Does::Gives(life) => Ok(FetchedToken {
                    token: format!("t{n}").into(),
                    expires: self.wall.now() + life,
                }),
                Does::Fails(error) => Err(error),
                Does::Hangs => std::future::pending().await,
                Does::Panics => panic!("a fault in the library"),
            }
        }
    }

    struct World {
        keeper: Arc<TokenKeeper>,
        endpoint: Arc<Endpoint>,
        wall: Arc<Wall>,
        metrics: Arc<Metrics>,
        _running: tokio::task::JoinSet<()>,
    }

    impl World {
        fn new(script: impl IntoIterator<Item = Does>) -> Self {
            let wall = Arc::new(Wall {
                began: Instant::now(),
                offset_seconds: AtomicI64::new(0),
            });
            let endpoint = Arc::new(Endpoint {
                script: Mutex::new(script.into_iter().collect()),
                asked: Mutex::default(),
                wall: Arc::clone(&wall),
            });
            let clock = Arc::clone(&wall);
            let keeper = Arc::new(TokenKeeper::new(
                "east",
                Box::new(Arc::clone(&endpoint)),
                10 * SECOND,
                Box::new(move || clock.now()),
            ));
            let metrics = Metrics::new();
            let mut running = tokio::task::JoinSet::new();
            let (runs, counts) = (Arc::clone(&keeper), Arc::clone(&metrics));
            running.spawn(async move { runs.run(&counts).await });
            Self {
                keeper,
                endpoint,
                wall,
                metrics,
                _running: running,
            }
        }

        async fn token(&self) -> Option<String> {
            let token = self.keeper.token(3 * SECOND).await;
            token.map(|(token, _)| token.expose_secret().to_owned())
        }

        async fn replace(&self, version: u64) -> Option<String> {
            let token = self.keeper.replace(version, 3 * SECOND).await;
            token.map(|(token, _)| token.expose_secret().to_owned())
        }

        fn n_asked(&self) -> usize {
            self.endpoint.asked.lock().expect("no panic").len()
        }

        fn counted(&self, outcome: &str, n: u32) {
            let page = self.metrics.render().expect("metrics");
            let line = format!(
                r#"trunkline_token_refreshes_total{{identity="east",outcome="{outcome}"}} {n}"#
            );
            assert!(page.contains(&line), "{page}");
        }
    }

    fn away() -> FetchError {
        FetchError::Refused {
            status: 503,
            code: None,
            retry_after: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_dial_waits_and_no_later_one_does() {
        let world = World::new([]);
        assert_eq!(world.token().await.as_deref(), Some("t1"));
        let began = Instant::now();
        for hour in 1..20 {
            sleep(HOUR / 4).await;
            let began = Instant::now();
            assert!(world.token().await.is_some(), "{hour}");
            assert_eq!(began.elapsed(), Duration::ZERO);
        }
        let refreshes = began.elapsed().as_secs() / 1800 + 1;
        assert_eq!(world.n_asked() as u64, refreshes);
        world.counted("ok", refreshes as u32);
    }

    /// Sixty-minute tokens and an endpoint that is away for 30 min from the first refresh on.
    #[tokio::test(start_paused = true)]
    async fn no_dial_is_refused_in_half_an_hour_of_outage() {
        let world = World::new([]);
        world.token().await;
        sleep(30 * 60 * SECOND - SECOND).await;
        let outage = Instant::now();
        let mut failing = true;
        while outage.elapsed() < HOUR {
            if outage.elapsed() < 30 * 60 * SECOND {
                let mut script = world.endpoint.script.lock().expect("no panic");
                script.clear();
                script.push_back(Does::Fails(away()));
            } else if failing {
                failing = false;
                world.endpoint.script.lock().expect("no panic").clear();
            }
            assert!(world.token().await.is_some(), "{:?}", outage.elapsed());
            sleep(SECOND / 5).await;
        }
        let tries = world.n_asked();
        assert!((20..160).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_token_a_dial_fails_soon() {
        let world = World::new([Does::Hangs, Does::Hangs, Does::Fails(away())]);
        let began = Instant::now();
        assert_eq!(world.token().await, None);
        assert_eq!(began.elapsed(), 3 * SECOND);
        // The endpoint hangs, is given up twice, fails once, and then works.
        sleep(25 * SECOND).await;
        assert!(world.token().await.is_some());
        world.counted("timeout", 2);
        world.counted("refused", 1);
        // Where the next try is far off, nobody waits for it.
        let retry_after = Some(60 * SECOND);
        let world = World::new([Does::Fails(FetchError::Refused {
            status: 429,
            code: None,
            retry_after,
        })]);
        let began = Instant::now();
        assert_eq!(world.token().await, None);
        assert_eq!(world.token().await, None);
        assert!(began.elapsed() < SECOND);
        sleep(59 * SECOND).await;
        assert_eq!(world.n_asked(), 1);
        sleep(2 * SECOND).await;
        assert_eq!(world.token().await.as_deref(), Some("t2"));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_goes_wrong_the_keeper_goes_on() {
        let world = World::new([
            Does::Panics,
            Does::Gives(Duration::ZERO),
            Does::Fails(FetchError::Answer),
            Does::Fails(FetchError::Unreachable),
        ]);
        sleep(60 * SECOND).await;
        assert_eq!(world.token().await.as_deref(), Some("t5"));
        for outcome in ["library", "expired", "answer", "unreachable", "ok"] {
            world.counted(outcome, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_fetched_anew_once_for_all_calls() {
        let world = World::new([]);
        world.token().await;
        let calls = (0..100).map(|_| world.replace(1));
        for token in futures_util::future::join_all(calls).await {
            assert_eq!(token.as_deref(), Some("t2"));
        }
        assert_eq!(world.n_asked(), 2);
        // A call that was refused with the old one takes the new one; a refused new one stays refused.
        assert_eq!(world.replace(1).await.as_deref(), Some("t2"));
        for _ in 0..100 {
            assert_eq!(world.replace(2).await, None);
        }
        assert_eq!(world.n_asked(), 2);
        sleep(31 * SECOND).await;
        assert_eq!(world.replace(2).await.as_deref(), Some("t3"));
        // A forced fetch that fails leaves the old token in use.
        sleep(31 * SECOND).await;
        *world.endpoint.script.lock().expect("no panic") = [Does::Fails(away())].into();
        assert_eq!(world.replace(3).await, None);
        assert_eq!(world.token().await.as_deref(), Some("t3"));
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_that_jump_cost_one_fetch_at_most() {
        let world = World::new([]);
        world.token().await;
        for (jump, n_asked) in [(5, 1), (-5, 1), (-7200, 1), (3600, 2)] {
            world.wall.offset_seconds.store(jump, Ordering::Relaxed);
            // The dial notices by itself, the loop within seconds.
            assert!(world.token().await.is_some(), "{jump}");
            sleep(6 * SECOND).await;
            assert_eq!(world.n_asked(), n_asked, "{jump}");
        }
    }

    #[test]
    fn an_error_tells_what_an_operator_needs() {
        let error = FetchError::Refused {
            status: 401,
            code: Some("7000215".to_owned()),
            retry_after: None,
        };
        assert_eq!(
            error.to_string(),
            "the token endpoint answered with HTTP status 401, code 7000215"
        );
    }
}
