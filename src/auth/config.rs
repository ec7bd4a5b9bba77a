//! The `[auth]` table.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::secret::Source;

use super::certificate::CertificateConfig;
use super::ephemeral::EphemeralConfig;
use super::issuer_config::IssuerConfig;
use super::keys::KeyConfig;
use super::shared_keys::KeySealer;
use super::ticket::TicketSigner;

/// As long as the output of what it is used with (RFC 2104 section 3), if it is random.
const MIN_SECRET_BYTES: usize = 32;

/// A ticket that lives longer is no ticket but a key in a URL.
const MAX_TICKET_LIFE: Duration = Duration::from_secs(300);

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
    /// Who signs tokens for callers.
    #[serde(default)]
    pub issuers: Vec<IssuerConfig>,
    /// Client certificates that are as good as a key.
    #[serde(default)]
    pub certificates: Vec<CertificateConfig>,
    /// By what tickets are signed, without which there are none, and shared ephemeral keys sealed.
    #[serde(default)]
    pub signing: Option<SigningConfig>,
    /// How tickets are.
    #[serde(default)]
    pub tickets: Option<TicketConfig>,
    /// How many ephemeral keys there may be.
    #[serde(default)]
    pub ephemeral_keys: EphemeralConfig,
}

/// Whether callers need a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Each caller shows an API key, or a token of an issuer.
    #[default]
    Keys,
    /// Everybody may call. Only on a loopback address.
    None,
}

/// The `[auth.signing]` table: a secret of at least 32 bytes. All processes that share it accept each other's
/// tickets, and with a common Redis each other's ephemeral keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SigningConfig {
    /// The secret itself; better one of the two below.
    pub secret: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub secret_env: Option<String>,
    /// Path of the file that holds it.
    pub secret_file: Option<PathBuf>,
    /// The secret before it: nothing is signed by it any more, what it signed is still accepted.
    pub previous_secret: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub previous_secret_env: Option<String>,
    /// Path of the file that holds it.
    pub previous_secret_file: Option<PathBuf>,
}

/// The `[auth.tickets]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TicketConfig {
    /// The longest life that a ticket may have, up to five minutes. In whole seconds.
    #[serde(with = "humantime_serde")]
    pub max_life: Duration,
}

impl Default for TicketConfig {
    fn default() -> Self {
        Self {
            max_life: Duration::from_secs(60),
        }
    }
}

/// What is wrong with the `[auth]` table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The hash of key number `.0` is no SHA-256.
    #[error("key {0}: sha256 must be 64 hexadecimal digits")]
    NotAHash(usize),
    /// Key number `.0` stands there already: whose it is would be anybody's guess.
    #[error("key {0}: the same key stands twice")]
    SameKey(usize),
    /// Keys are asked for, and there is nothing by which anybody could come in.
    #[error("mode is \"keys\" and there are none, so that nobody could call")]
    NoKeys,
    /// The secret that signs cannot be had.
    #[error("{0}")]
    Signing(String),
    /// There is no secret that signs.
    #[error("tickets are signed by the secret in [auth.signing], and there is none")]
    NoSigning,
    /// Tickets would live too long or not at all.
    #[error("max_life must be from 1s to 5m")]
    TicketLife,
    /// Issuer number `.0` has a mistake in field `.1`.
    #[error("{2}")]
    Issuer(usize, &'static str, &'static str),
}

impl AuthError {
    /// The path of the field.
    #[must_use]
    pub fn field(&self) -> Vec<String> {
        let path: &[&str] = match self {
            Self::NotAHash(n) => {
                return vec!["auth".into(), "keys".into(), n.to_string(), "sha256".into()];
            }
            Self::SameKey(n) => {
                return vec!["auth".into(), "keys".into(), n.to_string(), "sha256".into()];
            }
            Self::Issuer(n, field, _) => {
                return vec![
                    "auth".into(),
                    "issuers".into(),
                    n.to_string(),
                    (*field).into(),
                ];
            }
            Self::NoKeys => &["auth", "keys"],
            Self::Signing(_) => &["auth", "signing"],
            Self::NoSigning => &["auth", "tickets"],
            Self::TicketLife => &["auth", "tickets", "max_life"],
        };
        path.iter().map(|&name| name.to_owned()).collect()
    }
}

impl AuthConfig {
    /// What makes and checks tickets, if there may be any.
    pub(super) fn ticket_signer(&self) -> Result<Option<TicketSigner>, AuthError> {
        let max_life = self.tickets.unwrap_or_default().max_life;
        if max_life > MAX_TICKET_LIFE || max_life.as_secs() == 0 {
            return Err(AuthError::TicketLife);
        }
        let Some(signing) = &self.signing else {
            return match self.tickets {
                Some(_) => Err(AuthError::NoSigning),
                None => Ok(None),
            };
        };
        let (secret, previous) = signing.read().map_err(AuthError::Signing)?;
        let signer = TicketSigner::new(&secret, previous.as_ref(), max_life.as_secs());
        Ok(Some(signer))
    }

    /// What seals ephemeral keys for other replicas, if there is a secret for it.
    pub(super) fn key_sealer(&self) -> Result<Option<KeySealer>, AuthError> {
        let Some(signing) = &self.signing else {
            return Ok(None);
        };
        let (secret, previous) = signing.read().map_err(AuthError::Signing)?;
        Ok(Some(KeySealer::new(&secret, previous.as_ref())))
    }
}

impl SigningConfig {
    fn read(&self) -> Result<(SecretString, Option<SecretString>), String> {
        let current = Source {
            name: "secret",
            value: self.secret.as_ref(),
            env: self.secret_env.as_deref(),
            file: self.secret_file.as_deref(),
        };
        let previous = Source {
            name: "previous_secret",
            value: self.previous_secret.as_ref(),
            env: self.previous_secret_env.as_deref(),
            file: self.previous_secret_file.as_deref(),
        };
        let secret = current.required().map_err(|error| error.to_string())?;
        let previous = previous.read().map_err(|error| error.to_string())?;
        for (name, secret) in [
            ("secret", Some(&secret)),
            ("previous_secret", previous.as_ref()),
        ] {
            if secret.is_some_and(|secret| secret.expose_secret().len() < MIN_SECRET_BYTES) {
                return Err(format!(
                    "{name} must have at least {MIN_SECRET_BYTES} bytes"
                ));
            }
        }
        Ok((secret, previous))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<bool, &str>) {
        let config: AuthConfig = toml::from_str(text).expect("the form is right");
        let signer = config.ticket_signer();
        let found = signer
            .as_ref()
            .map(Option::is_some)
            .map_err(ToString::to_string);
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        let shown = format!("{config:?} {signer:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn what_signs_is_long_enough_and_there_where_it_is_needed() {
        let good = "[signing]\nsecret = 's3cret-of-exactly-thirty-two-byt'\n";
        check("", Ok(false));
        check(good, Ok(true));
        check(
            &good.replace("-byt", "-by"),
            Err("secret must have at least 32 bytes"),
        );
        check(
            &format!("{good}previous_secret = 's3cret'\n"),
            Err("previous_secret must have at least 32 bytes"),
        );
        check(
            "[signing]\n",
            Err("secret: one of secret, secret_env and secret_file is needed"),
        );
        check(
            &format!("{good}secret_file = '/s'\n"),
            Err("secret: give only one of secret, secret_env and secret_file"),
        );
        check(
            "[tickets]\nmax_life = '30s'\n",
            Err("tickets are signed by the secret in [auth.signing], and there is none"),
        );
        let life = |life: &str| format!("{good}[tickets]\nmax_life = '{life}'\n");
        check(&life("5m"), Ok(true));
        check(&life("301s"), Err("max_life must be from 1s to 5m"));
        check(&life("900ms"), Err("max_life must be from 1s to 5m"));
    }
}
