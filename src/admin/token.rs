//! The tokens that operators show, kept as hashes and compared in constant time.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;

use crate::secret::{SecretError, Source};

use super::AdminConfig;

/// What the operators' listener asks for. Clones are the same tokens, also when they are replaced.
#[derive(Clone, Default)]
pub struct AdminTokens(Arc<watch::Sender<Hashes>>);

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
pub(super) struct Hashes {
    full: Option<Hash>,
    read: Option<Hash>,
}

pub(super) type Hash = [u8; 32];

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
        Ok(Self(Arc::new(watch::Sender::new(Hashes { full, read }))))
    }

    /// From now on `other` are asked for.
    pub fn replace(&self, other: &Self) {
        self.0.send_replace(other.hashes());
    }

    fn hashes(&self) -> Hashes {
        *self.0.borrow()
    }

    /// Whether there is one that opens everything.
    pub(super) fn has_full(&self) -> bool {
        self.hashes().full.is_some()
    }

    /// Whether there is one for who only looks.
    pub(super) fn has_read(&self) -> bool {
        self.hashes().read.is_some()
    }

    /// Which of them that is the hash of. Takes as long whichever it is.
    pub(super) fn which(&self, shown: Option<&Hash>) -> Shown {
        let hashes = self.hashes();
        let Some(shown) = shown else {
            return Shown::None;
        };
        let (full, read) = (is(hashes.full, shown), is(hashes.read, shown));
        match (bool::from(full), bool::from(read)) {
            (true, _) => Shown::Full,
            (_, true) => Shown::Read,
            _ => Shown::None,
        }
    }

    /// Tells when they are replaced.
    pub(super) fn changes(&self) -> watch::Receiver<Hashes> {
        self.0.subscribe()
    }
}

/// The hash of the token that a request shows: by exactly one `Authorization: Bearer`.
pub(super) fn shown(headers: &HeaderMap) -> Option<Hash> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| hash(token))
}

/// The hash of one token.
fn read(
    name: &str,
    value: &Option<SecretString>,
    env: &Option<String>,
    file: &Option<PathBuf>,
) -> Result<Option<Hash>, SecretError> {
    let source = Source {
        name,
        value: value.as_ref(),
        env: env.as_deref(),
        file: file.as_deref(),
    };
    let token = source.read()?;
    Ok(token.map(|token| hash(token.expose_secret().as_bytes())))
}

fn is(wanted: Option<Hash>, shown: &Hash) -> Choice {
    let is_same = wanted.unwrap_or_default().ct_eq(shown);
    is_same & Choice::from(u8::from(wanted.is_some()))
}

fn hash(token: &[u8]) -> Hash {
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
            let which = tokens.which(shown(&headers).as_ref());
            assert_eq!(which, expected, "{values:?}");
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
        assert_eq!(tokens.which(shown(&headers).as_ref()), Shown::None);
        tokens.replace(&read("read_token = 'others'").expect("good"));
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer others".parse().unwrap())]);
        assert_eq!(tokens.clone().which(shown(&headers).as_ref()), Shown::Read);
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
