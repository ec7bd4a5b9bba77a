//! API keys of callers, kept as hashes and compared in constant time.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, de::Error};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use toml::value::{Datetime, Offset};

use super::clock::{Now, unix_seconds};
use super::config::{AuthConfig, AuthError, AuthMode};

/// One `[[auth.keys]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Whose key it is.
    pub tenant: String,
    /// SHA-256 of the key, 64 hexadecimal digits.
    pub sha256: String,
    /// When it ceases to be good, in Unix seconds; in the file a date and time of RFC 3339.
    #[serde(default, deserialize_with = "moment")]
    pub expires: Option<u64>,
    /// What it is called, for people.
    #[serde(default)]
    pub name: Option<String>,
}

/// Reads `2027-01-01T00:00:00Z`, in quotes or not.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a date and time like 2027-01-01T00:00:00Z was expected"
    )]
    enum Written {
        Bare(Datetime),
        Quoted(String),
    }
    let written = match Written::deserialize(deserializer)? {
        Written::Bare(written) => written.to_string(),
        Written::Quoted(written) => written,
    };
    parse_moment(&written).map(Some).ok_or_else(|| {
        D::Error::custom("a date and time with an offset was expected, like 2027-01-01T00:00:00Z")
    })
}

/// A moment in Unix seconds, of RFC 3339 with any offset.
fn parse_moment(text: &str) -> Option<u64> {
    let written: Datetime = text.parse().ok()?;
    let offset_minutes = match written.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let local = Datetime {
        offset: Some(Offset::Z),
        ..written
    };
    let local: SystemTime = humantime::parse_rfc3339(&local.to_string()).ok()?;
    unix_seconds(local).checked_add_signed(-60 * offset_minutes)
}

pub(super) type Hash = [u8; 32];

/// All keys of the gateway.
#[derive(Clone, Debug)]
pub(super) struct KeyRing {
    mode: AuthMode,
    keys: Vec<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    hash: Hash,
    tenant: String,
    expires: Option<u64>,
}

/// Why a text is no good key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    Unknown,
    Expired,
}

impl KeyRing {
    /// Checks the configuration.
    ///
    /// # Errors
    ///
    /// If a hash is no SHA-256.
    pub(super) fn new(config: &AuthConfig) -> Result<Self, AuthError> {
        let keys = config
            .keys
            .iter()
            .enumerate()
            .map(|(n, key)| {
                Ok(Known {
                    hash: parse_hash(&key.sha256).ok_or(AuthError::NotAHash(n + 1))?,
                    tenant: key.tenant.clone(),
                    expires: key.expires,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (n, known) in keys.iter().enumerate() {
            if keys[..n].iter().any(|other| other.hash == known.hash) {
                return Err(AuthError::SameKey(n + 1));
            }
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

    /// Whether there is no key.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The tenant whose key this is, if it is good. Takes the same time for every key of one length, known or not.
    pub(super) fn tenant(&self, key: &str, now: Now) -> Result<&str, NoKey> {
        let hash = sha256(key);
        let mut found = Choice::from(0);
        let mut at = 0u64;
        for (n, known) in self.keys.iter().enumerate() {
            let equal = known.hash.ct_eq(&hash);
            at.conditional_assign(&(n as u64), equal);
            found |= equal;
        }
        if !bool::from(found) {
            return Err(NoKey::Unknown);
        }
        let known = &self.keys[at as usize];
        match known.expires {
            Some(expires) if expires <= now.wall => Err(NoKey::Expired),
            _ => Ok(&known.tenant),
        }
    }
}

/// The hash under which a key is kept.
#[must_use]
pub fn hash_key(key: &str) -> String {
    sha256(key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(super) fn sha256(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
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

    const NOW: Now = Now {
        wall: 1_000,
        floor: 1_000,
    };

    fn ring(keys: &[(&str, &str, Option<u64>)]) -> Result<KeyRing, AuthError> {
        let keys = keys
            .iter()
            .map(|(tenant, sha256, expires)| KeyConfig {
                tenant: (*tenant).to_owned(),
                sha256: (*sha256).to_owned(),
                expires: *expires,
                name: None,
            })
            .collect();
        KeyRing::new(&AuthConfig {
            keys,
            ..AuthConfig::default()
        })
    }

    #[test]
    fn a_key_is_found_by_its_hash() {
        let ring = ring(&[
            ("acme", &hash_key("k1"), None),
            ("bolt", &hash_key("k2").to_uppercase(), None),
        ])
        .expect("good");
        assert_eq!(ring.tenant("k1", NOW), Ok("acme"));
        assert_eq!(ring.tenant("k2", NOW), Ok("bolt"));
        assert_eq!(ring.tenant("k3", NOW), Err(NoKey::Unknown));
        assert_eq!(ring.tenant("", NOW), Err(NoKey::Unknown));
    }

    #[test]
    fn a_key_is_good_until_it_expires() {
        let check = |expires, expected| {
            let ring = ring(&[("acme", &hash_key("k1"), Some(expires))]).expect("good");
            assert_eq!(ring.tenant("k1", NOW), expected, "{expires}");
        };
        check(1_001, Ok("acme"));
        check(1_000, Err(NoKey::Expired));
        check(0, Err(NoKey::Expired));
    }

    #[test]
    fn moments_are_read_with_their_offset() {
        let check = |text: &str, expected: Option<u64>| {
            let toml = format!("tenant = 'a'\nsha256 = ''\nexpires = {text}");
            let read = toml::from_str::<KeyConfig>(&toml).ok();
            assert_eq!(read.and_then(|key| key.expires), expected, "{text}");
        };
        check("2027-01-01T00:00:00Z", Some(1_798_761_600));
        check("\"2027-01-01T00:00:00Z\"", Some(1_798_761_600));
        check("2027-01-01 00:00:00.5Z", Some(1_798_761_600));
        check("2027-01-01T01:30:00+01:30", Some(1_798_761_600));
        check("2026-12-31T19:00:00-05:00", Some(1_798_761_600));
        for bad in [
            "2027-01-01",
            "2027-01-01T00:00:00",
            "\"90d\"",
            "1798761600",
            "1969-01-01T00:00:00Z",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in ["", "00", &"0".repeat(63), &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(
                ring(&[("acme", bad, None)]).err(),
                Some(AuthError::NotAHash(1)),
                "{bad}"
            );
        }
    }
}
