//! Ephemeral keys where replicas share them: a key that one has made opens sessions at the others.
//!
//! What a key opens is kept in a store under the key's hash, sealed by the key and the signing secret together
//! (AES-256-GCM). Who only reads the store learns neither settings nor keys, and who writes to it makes none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use hmac::{Hmac, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::realtime::Shape;

use super::clock::Now;
use super::ephemeral::{EphemeralSession, PREFIX};
use super::keys::{NoKey, sha256};
use super::ticket::derive;

/// Separates these keys from those of whatever else the same secret is for.
const PURPOSE: &[u8] = b"trunkline ephemeral key 1";

/// The length of a key: its beginning, and 32 bytes in base64url.
const KEY_LENGTH: usize = PREFIX.len() + 43;

/// Where sealed keys are kept for all replicas.
pub trait KeyStore: fmt::Debug + Send + Sync {
    /// Keeps a text under a name for so long.
    ///
    /// # Errors
    ///
    /// If that cannot be done.
    fn keep(
        &self,
        name: String,
        sealed: String,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), NoStore>>;

    /// The text under that name, while it is kept.
    ///
    /// # Errors
    ///
    /// If nobody can say.
    fn find(&self, name: String) -> BoxFuture<'_, Result<Option<String>, NoStore>>;
}

/// The store of ephemeral keys does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store of ephemeral keys does not answer")]
pub struct NoStore;

/// What the secret of [`SigningConfig`](super::SigningConfig) makes of keys.
#[derive(Clone)]
pub(super) struct KeySealer {
    current: Hmac<Sha256>,
    previous: Option<Hmac<Sha256>>,
}

/// Keys of all replicas.
#[derive(Clone)]
pub(super) struct SharedKeys {
    sealer: KeySealer,
    store: Arc<dyn KeyStore>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    tenant: String,
    shape: Shape,
    transcription: bool,
    model: Option<String>,
    settings: String,
    expires_at: u64,
}

impl SharedKeys {
    pub(super) fn new(sealer: KeySealer, store: Arc<dyn KeyStore>) -> Self {
        Self { sealer, store }
    }

    /// Lets the other replicas know a key that lives for `life` seconds.
    pub(super) async fn keep(
        &self,
        key: &str,
        tenant: &str,
        session: &EphemeralSession,
        expires_at: u64,
        life: u64,
    ) -> Result<(), NoStore> {
        let record = Record {
            tenant: tenant.to_owned(),
            shape: session.shape,
            transcription: session.transcription,
            model: session.model.clone(),
            settings: session.settings.clone(),
            expires_at,
        };
        let sealed = self.sealer.seal(key, &record).ok_or(NoStore)?;
        let life = Duration::from_secs(life);
        self.store.keep(name(key), sealed, life).await
    }

    /// Whose key that is that this process has not made, and what it opens.
    pub(super) async fn find(
        &self,
        key: &str,
        now: Now,
    ) -> Result<Result<(String, Arc<EphemeralSession>), NoKey>, NoStore> {
        // Nobody has made it, and the store need not be asked.
        if key.len() != KEY_LENGTH {
            return Ok(Err(NoKey::Unknown));
        }
        let Some(sealed) = self.store.find(name(key)).await? else {
            return Ok(Err(NoKey::Unknown));
        };
        let Some(record) = self.sealer.open(key, &sealed) else {
            return Ok(Err(NoKey::Unknown));
        };
        if record.expires_at <= now.wall {
            return Ok(Err(NoKey::Expired));
        }
        let session = EphemeralSession {
            shape: record.shape,
            transcription: record.transcription,
            model: record.model,
            settings: record.settings,
        };
        Ok(Ok((record.tenant, Arc::new(session))))
    }
}

impl KeySealer {
    /// Seals by `secret`, and opens what `previous` sealed.
    pub(super) fn new(secret: &SecretString, previous: Option<&SecretString>) -> Self {
        let of = |secret| derive(secret, PURPOSE);
        Self {
            current: of(secret),
            previous: previous.map(of),
        }
    }

    fn seal(&self, key: &str, record: &Record) -> Option<String> {
        let mut bytes = serde_json::to_vec(record).ok()?;
        let cipher = cipher(&self.current, key)?;
        let sealed = cipher.seal_in_place_append_tag(nonce(), Aad::empty(), &mut bytes);
        sealed.ok()?;
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    fn open(&self, key: &str, sealed: &str) -> Option<Record> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let open = |secret: &Hmac<Sha256>| {
            let mut bytes = sealed.clone();
            let cipher = cipher(secret, key)?;
            let content = cipher.open_in_place(nonce(), Aad::empty(), &mut bytes);
            serde_json::from_slice(content.ok()?).ok()
        };
        open(&self.current).or_else(|| self.previous.as_ref().and_then(open))
    }
}

/// The cipher of that ephemeral key alone.
fn cipher(secret: &Hmac<Sha256>, key: &str) -> Option<LessSafeKey> {
    let mut mac = secret.clone();
    mac.update(key.as_bytes());
    let key = UnboundKey::new(&AES_256_GCM, &mac.finalize().into_bytes()).ok()?;
    Some(LessSafeKey::new(key))
}

/// Always the same: each cipher seals one text in its life.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// The key's hash, from which nobody finds it.
fn name(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(key))
}

impl fmt::Debug for KeySealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySealer").finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeys")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ek_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn sealer(secret: &str, previous: Option<&str>) -> KeySealer {
        let previous = previous.map(SecretString::from);
        KeySealer::new(&secret.into(), previous.as_ref())
    }

    fn sealed(sealer: &KeySealer) -> String {
        let record = Record {
            tenant: "acme".to_owned(),
            shape: Shape::Ga,
            transcription: false,
            model: None,
            settings: r#"{"instructions":"s3cret words"}"#.to_owned(),
            expires_at: 160,
        };
        sealer.seal(KEY, &record).unwrap()
    }

    #[test]
    fn only_the_key_and_our_secrets_open_what_was_sealed() {
        assert_eq!(KEY.len(), KEY_LENGTH);
        let old = sealer("old", None);
        let text = sealed(&old);
        let opened = |sealer: &KeySealer, key: &str, text: &str| {
            let record = sealer.open(key, text);
            record.map(|record| (record.tenant, record.expires_at))
        };
        let good = Some(("acme".to_owned(), 160));
        assert_eq!(opened(&old, KEY, &text), good);
        assert_eq!(opened(&sealer("new", Some("old")), KEY, &text), good);
        assert_eq!(opened(&sealer("new", Some("older")), KEY, &text), None);
        assert_eq!(opened(&sealer("new", None), KEY, &text), None);
        assert_eq!(opened(&old, &KEY.replace("AAAA", "AAAB"), &text), None);
        for at in 0..text.len() {
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(opened(&old, KEY, &changed), None, "{at}");
        }
        for none in ["", "A", "?", &text[..20], &format!("{text}A")] {
            assert_eq!(opened(&old, KEY, none), None, "{none}");
        }
    }

    #[test]
    fn neither_what_is_kept_nor_debug_output_shows_words_or_keys() {
        let sealer = sealer("s3cret", None);
        let text = sealed(&sealer);
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for shown in [
            text,
            String::from_utf8_lossy(&bytes).into_owned(),
            name(KEY),
            format!("{sealer:?}"),
        ] {
            assert!(
                !shown.contains("s3cret") && !shown.contains("AAAAA"),
                "{shown}"
            );
        }
    }
}
