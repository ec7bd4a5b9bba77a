//! API keys of callers, kept as hashes and compared in constant time.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::certificate::CertificateConfig;

/// The tenant of all callers where authentication is off.
pub const TENANT_WITHOUT_AUTH: &str = "default";

/// The `[auth]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether callers need a key.
    #[serde(default)]
    pub mode: AuthMode,
    /// The keys.
    #[serde(default)]
    pub keys: Vec<KeyConfig>,
    /// Client certificates that are as good as a key.
    #[serde(default)]
    pub certificates: Vec<CertificateConfig>,
}

/// Whether callers need a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Each caller shows an API key.
    #[default]
    Keys,
    /// Everybody may call. Only on a loopback address.
    None,
}

/// One `[[auth.keys]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Whose key it is.
    pub tenant: String,
    /// SHA-256 of the key, 64 hexadecimal digits.
    pub sha256: String,
}

/// What is wrong with the `[auth]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The hash of key number `.0` is no SHA-256.
    #[error("key {0}: sha256 must be 64 hexadecimal digits")]
    NotAHash(usize),
    /// Keys are asked for and none is there.
    #[error("mode is \"keys\" and there are none, so that nobody could call")]
    NoKeys,
}

type Hash = [u8; 32];

/// All keys of the gateway.
#[derive(Clone, Debug)]
pub(super) struct KeyRing {
    mode: AuthMode,
    keys: Vec<(Hash, String)>,
}

impl KeyRing {
    /// Checks the configuration.
    ///
    /// # Errors
    ///
    /// If a hash is no SHA-256, or keys are asked for and none is there.
    pub(super) fn new(config: &AuthConfig) -> Result<Self, AuthError> {
        let keys = config
            .keys
            .iter()
            .enumerate()
            .map(|(n, key)| {
                Ok((
                    parse_hash(&key.sha256).ok_or(AuthError::NotAHash(n + 1))?,
                    key.tenant.clone(),
                ))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if config.mode == AuthMode::Keys && keys.is_empty() && config.certificates.is_empty() {
            return Err(AuthError::NoKeys);
        }
        Ok(Self {
            mode: config.mode,
            keys,
        })
    }

    /// Whether nobody needs a key.
    pub(super) fn is_off(&self) -> bool {
        self.mode == AuthMode::None
    }

    /// The tenant whose key this is, if any. Takes the same time for every key of one length, known or not.
    pub(super) fn tenant(&self, key: &str) -> Option<&str> {
        let hash: Hash = Sha256::digest(key.as_bytes()).into();
        let mut found = Choice::from(0);
        let mut at = 0u64;
        for (n, (known, _)) in self.keys.iter().enumerate() {
            let equal = known.ct_eq(&hash);
            at.conditional_assign(&(n as u64), equal);
            found |= equal;
        }
        bool::from(found).then(|| self.keys[at as usize].1.as_str())
    }
}

/// The hash under which a key is kept.
#[must_use]
pub fn hash_key(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    let (digits, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if digits.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(digits) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(keys: &[(&str, &str)]) -> Result<KeyRing, AuthError> {
        let keys = keys
            .iter()
            .map(|(tenant, sha256)| KeyConfig {
                tenant: (*tenant).to_owned(),
                sha256: (*sha256).to_owned(),
            })
            .collect();
        KeyRing::new(&AuthConfig {
            mode: AuthMode::Keys,
            keys,
            certificates: Vec::new(),
        })
    }

    #[test]
    fn a_key_is_found_by_its_hash() {
        let ring = ring(&[
            ("acme", &hash_key("k1")),
            ("bolt", &hash_key("k2").to_uppercase()),
        ])
        .expect("good");
        assert_eq!(ring.tenant("k1"), Some("acme"));
        assert_eq!(ring.tenant("k2"), Some("bolt"));
        assert_eq!(ring.tenant("k3"), None);
        assert_eq!(ring.tenant(""), None);
    }

    #[test]
    fn mistakes_are_refused() {
        assert_eq!(ring(&[]).err(), Some(AuthError::NoKeys));
        for bad in ["", "00", &"0".repeat(63), &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(
                ring(&[("acme", bad)]).err(),
                Some(AuthError::NotAHash(1)),
                "{bad}"
            );
        }
    }
}
