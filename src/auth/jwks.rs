//! An issuer's signing keys (RFC 7517), and when to ask for them again. Pure: bytes and times come in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::algorithm::{Algorithm, KeyKind};
use super::jwt::MAX_KID_BYTES;

/// Keys in one set. Issuers have two to ten.
const MAX_KEYS: usize = 64;

/// Keys are asked for again after so long, or earlier if the answer's `Cache-Control` says so: a key that the issuer
/// withdraws is good here for at most so long.
const REFRESH_AFTER: Duration = Duration::from_secs(600);

/// But not earlier than this.
const REFRESH_AT_LEAST_AFTER: Duration = Duration::from_secs(60);

/// Longest pause after a failure; the first is one second.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Tokens with unknown keys cause at most one fetch in this time (threat 8 of the limits reference).
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(30);

/// A key that caused a fetch and was not in its answer causes no other for so long. Not longer, because an issuer's
/// answer may come from a cache and lack a new key for a while.
const MISSING_FOR: Duration = Duration::from_secs(120);

/// Such keys that are remembered; the oldest is forgotten.
const MAX_MISSING: usize = 64;

/// Failures are logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// One issuer's keys.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<Algorithm>,
    kind: KeyKind,
    key: DecodingKey,
}

/// A set that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("the key set is no JSON object with a list of keys")]
    Malformed,
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
}

/// Why a set has no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// None of that name; for a token that names none, not exactly one that fits.
    Unknown,
    /// The key of that name is for something else.
    WrongAlgorithm,
}

impl KeySet {
    /// Reads a set. Keys that cannot verify tokens here (encryption keys, symmetric ones, other curves) are left out.
    ///
    /// # Errors
    ///
    /// If it is no key set.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|_| KeySetError::Malformed)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        Ok(Self {
            keys: set.keys.into_iter().filter_map(Key::read).collect(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key of that name, for that algorithm. A token need not name its key if only one fits.
    pub(super) fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&DecodingKey, NoKey> {
        if kid.is_none() {
            let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
            return match (fitting.next(), fitting.next()) {
                (Some(only), None) => Ok(&only.key),
                _ => Err(NoKey::Unknown),
            };
        }
        let named = || self.keys.iter().filter(|key| key.kid.as_deref() == kid);
        match named().find(|key| key.fits(algorithm)) {
            Some(key) => Ok(&key.key),
            None if named().next().is_some() => Err(NoKey::WrongAlgorithm),
            None => Err(NoKey::Unknown),
        }
    }
}

impl Key {
    fn read(jwk: Value) -> Option<Self> {
        // The library's own list of algorithms lacks newer names, and would take an unknown one for none.
        let algorithm = match jwk.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::named(name.as_str()?)?),
        };
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let common = &jwk.common;
        let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        let verifies = match &common.key_operations {
            None => true,
            Some(operations) => operations.contains(&KeyOperations::Verify),
        };
        let kid = common.key_id.clone();
        let is_nameable = kid.as_ref().is_none_or(|kid| kid.len() <= MAX_KID_BYTES);
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let kind = kind(&jwk.algorithm, &key)?;
        let fits = algorithm.is_none_or(|algorithm| algorithm.key_kind() == kind);
        (signs && verifies && is_nameable && fits).then_some(Self {
            kid,
            algorithm,
            kind,
            key,
        })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind == algorithm.key_kind() && self.algorithm.is_none_or(|own| own == algorithm)
    }
}

/// What a key is, if it can verify anything here.
fn kind(parameters: &AlgorithmParameters, key: &DecodingKey) -> Option<KeyKind> {
    let (kind, n_bytes) = match parameters {
        AlgorithmParameters::RSA(_) => (KeyKind::Rsa, 256..=1024),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => (KeyKind::P256, 65..=65),
            EllipticCurve::P384 => (KeyKind::P384, 97..=97),
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(key) => match key.curve {
            EllipticCurve::Ed25519 => (KeyKind::Ed25519, 32..=32),
            _ => return None,
        },
        _ => return None,
    };
    let length = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
        DecodingKeyKind::SecretOrDer(point) => point.len(),
    };
    n_bytes.contains(&length).then_some(kind)
}

/// When to ask an issuer for its keys. One fetch at a time, and callers cause few of them.
#[derive(Debug)]
pub(super) struct Refresh {
    phase: Phase,
    /// The next fetch that nobody asks for.
    due: Instant,
    /// When a token with an unknown key last caused a fetch.
    asked: Option<Instant>,
    failures: u32,
    logged: Option<Instant>,
    missing: VecDeque<(String, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody fetches.
    Stopped,
    Idle,
    Fetching,
}

/// What a caller with an unknown key may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A fetch begins because of it.
    Fetch,
    /// One is under way.
    Wait,
    /// There is none to wait for.
    No,
}

impl Refresh {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Stopped,
            due: now,
            asked: None,
            failures: 0,
            logged: None,
            missing: VecDeque::new(),
        }
    }

    /// Somebody fetches from now on, first at once.
    pub(super) fn start(&mut self, now: Instant) {
        self.phase = Phase::Fetching;
        self.due = now;
    }

    /// When to fetch next if nobody asks earlier.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A token has a key that the set does not have.
    pub(super) fn ask(&mut self, kid: &str, now: Instant) -> Asked {
        match self.phase {
            Phase::Stopped => return Asked::No,
            Phase::Fetching => return Asked::Wait,
            Phase::Idle => {}
        }
        let is_missing = self
            .missing
            .iter()
            .any(|(missing, at)| missing == kid && lately(now, *at, MISSING_FOR));
        let was_asked = self
            .asked
            .is_some_and(|at| lately(now, at, UNKNOWN_KEY_PAUSE));
        if is_missing || was_asked {
            return Asked::No;
        }
        self.asked = Some(now);
        self.phase = Phase::Fetching;
        Asked::Fetch
    }

    /// A fetch begins.
    pub(super) fn began(&mut self) {
        self.phase = Phase::Fetching;
    }

    /// The keys came; they may be kept so long by what the issuer said.
    pub(super) fn succeeded(&mut self, now: Instant, max_age: Option<Duration>) {
        self.phase = Phase::Idle;
        self.failures = 0;
        let after = max_age.unwrap_or(REFRESH_AFTER);
        self.due = now + after.clamp(REFRESH_AT_LEAST_AFTER, REFRESH_AFTER);
    }

    /// They did not. `jitter` from 0 to 1 spreads the next attempt. Whether to log it.
    pub(super) fn failed(&mut self, now: Instant, jitter: f64) -> bool {
        self.phase = Phase::Idle;
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(MAX_PAUSE);
        self.failures += 1;
        self.due = now + pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let log = !self.logged.is_some_and(|at| lately(now, at, LOG_EVERY));
        if log {
            self.logged = Some(now);
        }
        log
    }

    /// The set that was fetched because of this key does not have it.
    pub(super) fn is_missing(&mut self, kid: &str, now: Instant) {
        self.missing
            .retain(|(missing, at)| missing != kid && lately(now, *at, MISSING_FOR));
        if self.missing.len() == MAX_MISSING {
            self.missing.pop_front();
        }
        self.missing.push_back((kid.to_owned(), now));
    }

    /// Whether the last fetch brought nothing.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

fn lately(now: Instant, at: Instant, within: Duration) -> bool {
    now.saturating_duration_since(at) < within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_failures_grow_to_a_minute() {
        let now = Instant::now();
        let mut refresh = Refresh::new(now);
        refresh.start(now);
        let pauses = |refresh: &mut Refresh, jitter| {
            (0..8)
                .map(|_| {
                    refresh.failed(now, jitter);
                    refresh.due().duration_since(now).as_secs_f64()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            pauses(&mut refresh, 1.0),
            [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
        );
        assert_eq!(pauses(&mut refresh, 0.0), [30.0; 8]);
        refresh.succeeded(now, None);
        assert_eq!(refresh.due(), now + REFRESH_AFTER);
        assert_eq!(pauses(&mut refresh, 0.0)[0], 0.5);
    }

    #[test]
    fn failures_are_logged_once_a_minute() {
        let now = Instant::now();
        let mut refresh = Refresh::new(now);
        let logged = |seconds| now + Duration::from_secs(seconds);
        let found: Vec<_> = [0, 1, 59, 60, 61, 119, 120]
            .into_iter()
            .filter(|seconds| refresh.failed(logged(*seconds), 0.0))
            .collect();
        assert_eq!(found, [0, 60, 120]);
    }

    #[test]
    fn what_is_remembered_of_missing_keys_is_bounded() {
        let now = Instant::now();
        let mut refresh = Refresh::new(now);
        for n in 0..10_000 {
            refresh.is_missing(&format!("k{n}"), now);
            refresh.is_missing("same", now);
        }
        assert!(refresh.missing.len() <= MAX_MISSING);
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[}"#, "\u{0}"] {
            let read = KeySet::parse(text.as_bytes()).map(|set| set.len());
            assert_eq!(read, Err(KeySetError::Malformed), "{text}");
        }
        let many = format!(r#"{{"keys":[{}1]}}"#, "1,".repeat(MAX_KEYS));
        let read = KeySet::parse(many.as_bytes()).map(|set| set.len());
        assert_eq!(read, Err(KeySetError::TooMany));
        let unusable = KeySet::parse(br#"{"keys":[1,null,{},{"kty":"EC"}]}"#);
        assert_eq!(unusable.map(|set| set.len()), Ok(0));
    }
}
