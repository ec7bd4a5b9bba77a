//! One issuer of tokens: its rules, its keys, and the task that keeps the keys fresh.
//!
//! All fetching is done by that task, so that there is one fetch at a time and no caller that goes away breaks it off.
//! A caller waits for it only if the key of its token is not known.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Response, Uri};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::outbound::{Limits, Outbound, OutboundError, Reach, is_loopback};
use crate::telemetry::Metrics;

use super::authenticator::Denied;
use super::clock::unix_seconds;
use super::issuer_config::{IssuerConfig, Problem, secure_url};
use super::jwks::{Asked, KeySet, KeySetError, NoKey, Refresh};
use super::jwt::{Rules, Token};

/// A key set with certificate chains in it has some tens of kilobytes.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(5),
    max_answer: 256 * 1024,
};

/// How long a caller whose key is not known waits for a fetch: well within the time that an upgrade may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// What an issuer is asked with. The network, or a test.
pub(super) trait Web: Send + Sync + 'static {
    fn get(
        &self,
        url: &Uri,
        reach: Reach,
    ) -> impl Future<Output = Result<Response<Bytes>, OutboundError>> + Send;
}

impl Web for Outbound {
    async fn get(&self, url: &Uri, reach: Reach) -> Result<Response<Bytes>, OutboundError> {
        Outbound::get(self, url, reach, LIMITS).await
    }
}

/// Who signs tokens for callers.
#[derive(Debug)]
pub(super) struct Issuer {
    /// As tokens say it.
    url: String,
    name: String,
    rules: Rules,
    source: Source,
    /// Written by the fetching task; a change, even to the same keys, says that a fetch has ended.
    keys: watch::Sender<Option<Arc<KeySet>>>,
    refresh: Mutex<Refresh>,
    /// Wakes the fetching task early.
    wanted: Notify,
}

impl Issuer {
    /// An issuer of this configuration, for these tenants. It has no keys yet.
    ///
    /// # Errors
    ///
    /// The mistake.
    pub(super) fn new(config: &IssuerConfig, tenants: &BTreeSet<String>) -> Result<Self, Problem> {
        let (base, jwks) = config.check()?;
        let discovery = format!(
            "{}/.well-known/openid-configuration",
            config.url.trim_end_matches('/')
        );
        Ok(Self {
            name: config.name.clone().unwrap_or_else(|| config.url.clone()),
            rules: Rules::new(config, config.tenant_rule(tenants)?),
            source: Source {
                issuer: config.url.clone(),
                discovery: discovery.parse().map_err(|_| ("url", "is no URL"))?,
                base,
                jwks,
            },
            url: config.url.clone(),
            keys: watch::Sender::new(None),
            refresh: Mutex::new(Refresh::new(Instant::now().into_std())),
            wanted: Notify::new(),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whose caller brings this token. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If it is nobody's.
    pub(super) async fn tenant(&self, token: &Token<'_>, now: u64) -> Result<&str, Denied> {
        // Before the key is looked for, so that only what could be a good token may cause a fetch.
        let tenant = self.rules.tenant(token, now)?;
        let mut news = self.keys.subscribe();
        if let Some(signed) = self.is_signed(token)? {
            return signed.then_some(tenant).ok_or(Denied::BadSignature);
        }
        let kid = token.kid().unwrap_or_default();
        let asked = self.ask(kid, &mut news);
        // Neither the end of the patience nor that of the process changes what to do: look once more.
        let news = async { asked != Asked::No && news.changed().await.is_ok() };
        let has_news = tokio::time::timeout(PATIENCE, news).await == Ok(true);
        match self.is_signed(token)? {
            Some(true) => Ok(tenant),
            Some(false) => Err(Denied::BadSignature),
            None => {
                let mut refresh = self.refresh();
                if asked == Asked::Fetch && has_news && !refresh.is_failing() {
                    refresh.is_missing(kid, now_std());
                }
                drop(refresh);
                Err(self.no_key())
            }
        }
    }

    /// Asks for a fetch because of that key; `news` then waits for its end.
    fn ask(&self, kid: &str, news: &mut watch::Receiver<Option<Arc<KeySet>>>) -> Asked {
        let mut refresh = self.refresh();
        let asked = refresh.ask(kid, now_std());
        if asked == Asked::Fetch {
            // Earlier fetches have ended, all under this lock.
            news.mark_unchanged();
            self.wanted.notify_one();
        }
        asked
    }

    /// Whether the token's key signed it; `None` if that key is not known.
    fn is_signed(&self, token: &Token<'_>) -> Result<Option<bool>, Denied> {
        let keys = self.keys.borrow().clone();
        match keys
            .as_deref()
            .unwrap_or(&KeySet::default())
            .find(token.kid(), token.algorithm())
        {
            Ok(key) => Ok(Some(token.is_signed_by(key))),
            Err(NoKey::WrongAlgorithm) => Err(Denied::BadAlgorithm),
            Err(NoKey::Unknown) => Ok(None),
        }
    }

    fn no_key(&self) -> Denied {
        if self.keys.borrow().is_none() {
            Denied::KeysUnavailable
        } else {
            Denied::UnknownSigningKey
        }
    }

    /// From now on callers may wait for keys, because [`Issuer::keep_fresh`] is about to run.
    pub(super) fn start(&self) {
        self.refresh().start(now_std());
    }

    /// Begins with the keys that `old` has, if they are the same issuer's.
    pub(super) fn take_keys(&self, old: &Self) {
        if self.source == old.source {
            self.keys.send_replace(old.keys.borrow().clone());
        }
    }

    /// Fetches the keys now and whenever they are due or wanted, until `stop`. An outage leaves the keys as they were.
    pub(super) async fn keep_fresh(
        &self,
        web: impl Web,
        metrics: &Metrics,
        stop: CancellationToken,
    ) {
        loop {
            let due = Instant::from_std(self.refresh().due());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
                () = self.wanted.notified() => {}
            }
            self.refresh().began();
            let fetched = tokio::select! {
                () = stop.cancelled() => return,
                fetched = self.source.fetch(&web) => fetched,
            };
            let now = unix_seconds(SystemTime::now());
            metrics.signing_keys_fetched(&self.name, fetched.is_ok(), now);
            match fetched {
                Ok((keys, max_age)) => self.keep(keys, max_age),
                Err(error) => self.keep_on(&error),
            }
        }
    }

    fn keep(&self, keys: KeySet, max_age: Option<Duration>) {
        if keys.len() == 0 {
            tracing::warn!(
                issuer = self.name,
                "an issuer's key set has no key that is usable here"
            );
        } else {
            tracing::debug!(
                issuer = self.name,
                keys = keys.len(),
                "signing keys fetched"
            );
        }
        let mut refresh = self.refresh();
        self.keys.send_replace(Some(Arc::new(keys)));
        refresh.succeeded(now_std(), max_age);
    }

    fn keep_on(&self, error: &FetchError) {
        let mut refresh = self.refresh();
        self.keys.send_modify(|_| {});
        if refresh.failed(now_std(), fastrand::f64()) {
            let known = self.keys.borrow().as_ref().map_or(0, |keys| keys.len());
            tracing::warn!(issuer = self.name, %error, known, "signing keys could not be fetched");
        }
    }

    fn refresh(&self) -> MutexGuard<'_, Refresh> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_std() -> std::time::Instant {
    Instant::now().into_std()
}

/// Where an issuer's keys are.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    /// As the issuer names itself.
    issuer: String,
    /// The same as an address.
    base: Uri,
    discovery: Uri,
    /// Stated by the operator.
    jwks: Option<Uri>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}: {1}")]
    Web(&'static str, OutboundError),
    #[error("{0}: HTTP status {1}")]
    Status(&'static str, u16),
    #[error("discovery: {0}")]
    Discovery(&'static str),
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

const DISCOVERY: &str = "discovery";
const KEY_SET: &str = "key set";

impl Source {
    /// The keys, and how long the answer says that they may be kept.
    async fn fetch(&self, web: &impl Web) -> Result<(KeySet, Option<Duration>), FetchError> {
        let (url, reach) = match &self.jwks {
            Some(url) => (url.clone(), Reach::Secure),
            None => self.discover(web).await?,
        };
        let answer = get(web, KEY_SET, &url, reach).await?;
        Ok((KeySet::parse(answer.body())?, max_age(answer.headers())))
    }

    /// Asks the issuer where its keys are (OpenID Connect Discovery 1.0, section 4).
    async fn discover(&self, web: &impl Web) -> Result<(Uri, Reach), FetchError> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let answer = get(web, DISCOVERY, &self.discovery, Reach::Secure).await?;
        let document: Document = serde_json::from_slice(answer.body())
            .map_err(|_| FetchError::Discovery("no JSON object with issuer and jwks_uri"))?;
        if document.issuer != self.issuer {
            return Err(FetchError::Discovery("the issuer names itself otherwise"));
        }
        let url = secure_url(&document.jwks_uri).map_err(FetchError::Discovery)?;
        if url.scheme() == Some(&http::uri::Scheme::HTTP) && url.scheme() != self.base.scheme() {
            return Err(FetchError::Discovery("jwks_uri is plain text"));
        }
        let reach = self.reach(&url);
        Ok((url, reach))
    }

    /// An issuer's own host is where the operator sent the gateway; anywhere else is the issuer's word, which does not
    /// open what is private.
    fn reach(&self, url: &Uri) -> Reach {
        let own = self.base.host().unwrap_or_default();
        let is_own = url
            .host()
            .is_some_and(|host| host.eq_ignore_ascii_case(own));
        if is_own || is_loopback(own) {
            Reach::Secure
        } else {
            Reach::Public
        }
    }
}

async fn get(
    web: &impl Web,
    what: &'static str,
    url: &Uri,
    reach: Reach,
) -> Result<Response<Bytes>, FetchError> {
    let answer = web.get(url, reach).await;
    let answer = answer.map_err(|error| FetchError::Web(what, error))?;
    match answer.status().as_u16() {
        200 => Ok(answer),
        status => Err(FetchError::Status(what, status)),
    }
}

/// `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let control = headers.get(http::header::CACHE_CONTROL)?.to_str().ok()?;
    let seconds = control
        .split(',')
        .find_map(|directive| directive.trim().strip_prefix("max-age="))?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}
