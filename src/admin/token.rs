//! The token that operators show, kept as a hash and compared in constant time.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::secret::{SecretError, Source};

use super::AdminConfig;

/// What `/metrics` asks for. Clones are the same token, also when it is replaced.
#[derive(Clone)]
pub struct AdminToken(Arc<RwLock<[u8; 32]>>);

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

impl AdminToken {
    /// The token of the configuration, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is empty, or stands in several places.
    pub fn read(config: &AdminConfig) -> Result<Option<Self>, SecretError> {
        let source = Source {
            name: "token",
            value: config.token.as_ref(),
            env: config.token_env.as_deref(),
            file: config.token_file.as_deref(),
        };
        let token = source.read()?;
        Ok(token.map(|token| {
            let hash = hash(token.expose_secret().as_bytes());
            Self(Arc::new(RwLock::new(hash)))
        }))
    }

    /// From now on `other` is asked for.
    pub fn replace(&self, other: &Self) {
        let other = other.hash();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = other;
    }

    fn hash(&self) -> [u8; 32] {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request shows it: exactly one `Authorization: Bearer`.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let Some((scheme, token)) = value.as_bytes().split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(hash(token).ct_eq(&self.hash()))
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<AdminToken>, SecretError> {
        AdminToken::read(&toml::from_str(text).unwrap())
    }

    #[test]
    fn only_the_token_alone_is_good() {
        let token = read("token = 'secret'").unwrap().expect("a token");
        let check = |values: &[&str], expected| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(token.is_shown(&headers), expected, "{values:?}");
        };
        check(&["Bearer secret"], true);
        check(&["bearer secret"], true);
        check(&[], false);
        check(&["Bearer secre"], false);
        check(&["Bearer secrets"], false);
        check(&["Bearer "], false);
        check(&["Basic secret"], false);
        check(&["secret"], false);
        check(&["Bearer secret", "Bearer secret"], false);
        assert!(!format!("{token:?}").contains("secret"));
    }

    #[test]
    fn a_token_stands_in_one_place() {
        assert!(read("").unwrap().is_none());
        for bad in [
            "token = ''",
            "token_env = 'NO_SUCH_VARIABLE'",
            "token_file = '/no/such/file'",
            "token = 'a'\ntoken_env = 'HOME'",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("token_env = 'PATH'").unwrap().is_some());
    }
}
