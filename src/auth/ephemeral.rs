//! Ephemeral keys: short-lived keys of the gateway for clients that must not see a real one.
//!
//! The process that made them keeps them as hashes; a key works until it expires, any number of times, and the
//! sessions that it opened outlive it (protocol reference 1.7). How other replicas come to know them is in
//! [`shared_keys`](super::shared_keys).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::realtime::Shape;

use super::clock::Now;
use super::keys::{Hash, NoKey, sha256};

/// What an ephemeral key begins with.
pub(super) const PREFIX: &str = "ek_";

/// Session settings of all keys together, in bytes: they are what takes memory.
const MAX_SETTINGS: usize = 64 * 1024 * 1024;

/// The same, of one tenant's keys, so that one cannot take it all.
const MAX_SETTINGS_OF_TENANT: usize = MAX_SETTINGS / 8;

/// The `[auth.ephemeral_keys]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EphemeralConfig {
    /// Keys at a time; beyond it, requests for more are refused with 429.
    pub max_keys: usize,
    /// Keys of one tenant at a time.
    pub max_keys_per_tenant: usize,
}

impl Default for EphemeralConfig {
    fn default() -> Self {
        Self {
            max_keys: 10_000,
            max_keys_per_tenant: 1_000,
        }
    }
}

/// What a key opens: the defaults of each session that is opened with it.
#[derive(Clone, PartialEq, Eq)]
pub struct EphemeralSession {
    /// The shape of `settings`.
    pub shape: Shape,
    /// Whether it is a transcription session.
    pub transcription: bool,
    /// The only model that may be asked for; without one, any that the tenant may use.
    pub model: Option<String>,
    /// A JSON object, checked: the session as a `session.update` of that shape has it, without the model. May hold
    /// the words of a prompt.
    pub settings: String,
}

impl fmt::Debug for EphemeralSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EphemeralSession")
            .field("shape", &self.shape)
            .field("transcription", &self.transcription)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// A new key.
#[derive(Debug)]
pub struct EphemeralKey {
    /// The key, which is kept nowhere.
    pub value: SecretString,
    /// When it ceases to open sessions, in Unix seconds.
    pub expires_at: u64,
}

/// All ephemeral keys that the process made.
pub(super) struct EphemeralKeys {
    config: EphemeralConfig,
    /// Shared with those that were there before the configuration changed.
    keys: Arc<Mutex<HashMap<Hash, Known>>>,
}

#[derive(Clone)]
struct Known {
    tenant: String,
    session: Arc<EphemeralSession>,
    /// By the wall clock, as its holder was told.
    expires_at: u64,
    /// By the clock that nobody sets.
    forgotten_at: u64,
}

impl EphemeralKeys {
    pub(super) fn new(config: EphemeralConfig) -> Self {
        Self {
            config,
            keys: Arc::default(),
        }
    }

    /// The keys of these tenants that `old` has, and no others, with this configuration's limits.
    pub(super) fn after(&self, old: &Self, is_tenant: impl Fn(&str) -> bool) -> Self {
        let keys = Arc::clone(&old.keys);
        let mut known = keys.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| is_tenant(&known.tenant));
        drop(known);
        Self {
            config: self.config,
            keys,
        }
    }

    /// Makes a key of this randomness that is good for `life` seconds; none if there are too many.
    pub(super) fn mint(
        &self,
        tenant: &str,
        session: EphemeralSession,
        life: u64,
        random: [u8; 32],
        now: Now,
    ) -> Option<EphemeralKey> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, known| known.forgotten_at > now.floor);
        let new = session.settings.len();
        let (mut n_of_tenant, mut settings, mut of_tenant) = (0, new, new);
        for known in keys.values() {
            let size = known.session.settings.len();
            settings += size;
            if known.tenant == tenant {
                n_of_tenant += 1;
                of_tenant += size;
            }
        }
        if keys.len() >= self.config.max_keys
            || n_of_tenant >= self.config.max_keys_per_tenant
            || settings > MAX_SETTINGS
            || of_tenant > MAX_SETTINGS_OF_TENANT
        {
            return None;
        }
        let value = SecretString::from(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)));
        let expires_at = now.wall + life;
        let known = Known {
            tenant: tenant.to_owned(),
            session: Arc::new(session),
            expires_at,
            forgotten_at: now.floor + life,
        };
        keys.insert(sha256(value.expose_secret()), known);
        Some(EphemeralKey { value, expires_at })
    }

    /// Has no such key been made.
    pub(super) fn forget(&self, key: &str) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&sha256(key));
    }

    /// Whose key this is and what it opens; an expired one may be forgotten already. What the search takes tells
    /// something of the key's hash only.
    pub(super) fn find(
        &self,
        key: &str,
        now: Now,
    ) -> Result<(String, Arc<EphemeralSession>), NoKey> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let known = keys.get(&sha256(key)).ok_or(NoKey::Unknown)?;
        if known.expires_at <= now.wall || known.forgotten_at <= now.floor {
            return Err(NoKey::Expired);
        }
        Ok((known.tenant.clone(), Arc::clone(&known.session)))
    }
}

impl fmt::Debug for EphemeralKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EphemeralKeys")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            wall: seconds,
            floor: seconds,
        }
    }

    fn session(settings: &str) -> EphemeralSession {
        EphemeralSession {
            shape: Shape::Ga,
            transcription: false,
            model: Some("m".to_owned()),
            settings: settings.to_owned(),
        }
    }

    fn keys(max_keys: usize, max_keys_per_tenant: usize) -> EphemeralKeys {
        EphemeralKeys::new(EphemeralConfig {
            max_keys,
            max_keys_per_tenant,
        })
    }

    fn found(keys: &EphemeralKeys, key: &EphemeralKey, now: Now) -> Result<String, NoKey> {
        let found = keys.find(key.value.expose_secret(), now);
        found.map(|(tenant, _)| tenant)
    }

    #[test]
    fn a_key_works_until_it_expires() {
        let keys = keys(9, 9);
        let key = keys
            .mint("acme", session("{}"), 60, [7; 32], at(100))
            .unwrap();
        assert_eq!(key.expires_at, 160);
        assert!(key.value.expose_secret().starts_with("ek_"));
        assert_eq!(key.value.expose_secret().len(), 46);
        for seconds in [100, 130, 159] {
            assert_eq!(found(&keys, &key, at(seconds)), Ok("acme".to_owned()));
        }
        assert_eq!(found(&keys, &key, at(160)), Err(NoKey::Expired));
        keys.mint("acme", session("{}"), 60, [8; 32], at(160))
            .unwrap();
        assert_eq!(found(&keys, &key, at(160)), Err(NoKey::Unknown));
        assert_eq!(keys.find("ek_", at(100)).map(|_| ()), Err(NoKey::Unknown));
    }

    #[test]
    fn a_clock_that_is_set_prolongs_no_key() {
        let keys = keys(9, 9);
        let ahead = Now {
            wall: 3_700,
            floor: 100,
        };
        let key = keys
            .mint("acme", session("{}"), 60, [7; 32], ahead)
            .unwrap();
        assert_eq!(key.expires_at, 3_760);
        assert_eq!(found(&keys, &key, at(159)), Ok("acme".to_owned()));
        assert_eq!(found(&keys, &key, at(160)), Err(NoKey::Expired));
    }

    #[test]
    fn keys_are_bounded_by_tenant_in_number_and_in_bytes() {
        let keys = keys(3, 2);
        let mint = |tenant: &str, random: u8, settings: &str| {
            keys.mint(tenant, session(settings), 60, [random; 32], at(100))
                .is_some()
        };
        assert!(mint("a", 1, "{}") && mint("a", 2, "{}"));
        assert!(!mint("a", 3, "{}"));
        assert!(!mint("b", 4, &" ".repeat(MAX_SETTINGS)));
        assert!(mint("b", 5, "{}"));
        assert!(!mint("c", 6, "{}"));
        let later = keys.mint("c", session("{}"), 60, [7; 32], at(160));
        assert!(later.is_some());
    }

    #[test]
    fn debug_output_shows_no_key_and_no_words() {
        let keys = keys(9, 9);
        let session = session(r#"{"instructions":"s3cret words"}"#);
        let key = keys
            .mint("acme", session.clone(), 60, [7; 32], at(100))
            .unwrap();
        let shown = format!("{session:?} {key:?} {keys:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(!shown.contains(key.value.expose_secret()), "{shown}");
    }
}
