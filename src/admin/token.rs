//! The tokens that operators show, kept as hashes and compared in constant time.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::secret::{SecretError, Source};

use super::AdminConfig;

/// What the operators' listener asks for. Clones are the same tokens, also when they are replaced.
#[derive(Clone, Default)]
pub struct AdminTokens(Arc<RwLock<Hashes>>);

/// Which of the tokens a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// The one that opens everything.
    Full,
    /// The one for who only looks.
    Read,
    /// Neither.
    None,
}

/// Of the two tokens, where there are such.
#[derive(Clone, Copy, Default)]
struct Hashes {
    full: Option<[u8; 32]>,
    read: Option<[u8; 32]>,
}

impl fmt::Debug for AdminTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminTokens")
    }
}

impl AdminTokens {
    /// The tokens of the configuration.
    ///
    /// # Errors
    ///
    /// If one cannot be read, is empty, or stands in several places, or if both are the same.
    pub fn read(config: &AdminConfig) -> Result<Self, SecretError> {
        let full = read(
            "token",
            &config.token,
            &config.token_env,
            &config.token_file,
        )?;
        let read = read(
            "read_token",
            &config.read_token,
            &config.read_token_env,
            &config.read_token_file,
        )?;
        if full.is_some() && full == read {
            return Err(SecretError {
                field: "read_token".to_owned(),
                problem: "is the same as token, so that whoever looks could also end calls"
                    .to_owned(),
            });
        }
        Ok(Self(Arc::new(RwLock::new(Hashes { full, read }))))
    }

    /// From now on `other` are asked for.
    pub fn replace(&self, other: &Self) {
        let other = other.hashes();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = other;
    }

    fn hashes(&self) -> Hashes {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is one that opens everything.
    pub(super) fn has_full(&self) -> bool {
        self.hashes().full.is_some()
    }

    /// Whether there is one for who only looks.
    pub(super) fn has_read(&self) -> bool {
        self.hashes().read.is_some()
    }

    /// What a request shows: exactly one `Authorization: Bearer`. Takes as long whichever it is.
    pub(super) fn shown(&self, headers: &HeaderMap) -> Shown {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Shown::None;
        };
        let Some((scheme, token)) = value.as_bytes().split_at_checked(7) else {
            return Shown::None;
        };
        let (hashes, token) = (self.hashes(), hash(token));
        let (full, read) = (is(hashes.full, &token), is(hashes.read, &token));
        match scheme.eq_ignore_ascii_case(b"bearer ") {
            true if bool::from(full) => Shown::Full,
            true if bool::from(read) => Shown::Read,
            _ => Shown::None,
        }
    }
}

/// The hash of one token.
fn read(
    name: &str,
    value: &Option<SecretString>,
    env: &Option<String>,
    file: &Option<PathBuf>,
) -> Result<Option<[u8; 32]>, SecretError> {
    let source = Source {
        name,
        value: value.as_ref(),
        env: env.as_deref(),
        file: file.as_deref(),
    };
    let token = source.read()?;
    Ok(token.map(|token| hash(token.expose_secret().as_bytes())))
}

fn is(wanted: Option<[u8; 32]>, shown: &[u8; 32]) -> Choice {
    let is_same = wanted.unwrap_or_default().ct_eq(shown);
    is_same & Choice::from(u8::from(wanted.is_some()))
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AdminTokens, SecretError> {
        AdminTokens::read(&toml::from_str(text).unwrap())
    }

    #[test]
    fn only_a_token_alone_is_good() {
        let tokens = read("token = 'secret'\nread_token = 'looks'").expect("good");
        let check = |values: &[&str], expected| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(tokens.shown(&headers), expected, "{values:?}");
        };
        check(&["Bearer secret"], Shown::Full);
        check(&["bearer secret"], Shown::Full);
        check(&["Bearer looks"], Shown::Read);
        for bad in [
            &[][..],
            &["Bearer secre"],
            &["Bearer secrets"],
            &["Bearer look"],
            &["Bearer "],
            &["Basic secret"],
            &["Basic looks"],
            &["secret"],
            &["Bearer secret", "Bearer secret"],
            &["Bearer secret", "Bearer looks"],
        ] {
            check(bad, Shown::None);
        }
        assert!(!format!("{tokens:?}").contains("secret"));
    }

    #[test]
    fn no_token_is_shown_where_there_is_none() {
        let tokens = read("read_token = 'looks'").expect("good");
        assert!(tokens.has_read() && !tokens.has_full());
        // What an absent hash is compared as is no token's.
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer ".parse().unwrap())]);
        assert_eq!(tokens.shown(&headers), Shown::None);
        tokens.replace(&read("read_token = 'others'").expect("good"));
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer others".parse().unwrap())]);
        assert_eq!(tokens.clone().shown(&headers), Shown::Read);
    }

    #[test]
    fn a_token_stands_in_one_place() {
        for bad in [
            "token = ''",
            "read_token = ''",
            "token_env = 'NO_SUCH_VARIABLE'",
            "token_file = '/no/such/file'",
            "read_token_file = '/no/such/file'",
            "token = 'a'\ntoken_env = 'HOME'",
            "token = 'a'\nread_token = 'a'",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("token_env = 'PATH'").expect("good").has_full());
        assert!(!read("").expect("good").has_full());
    }
}
