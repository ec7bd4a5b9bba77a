//! Decides who a caller is by whatever it shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::outbound::Outbound;
use crate::telemetry::Metrics;

use super::issuer::{Issuer, unix_now};
use super::jwt::{self, Token};
use super::keys::{AuthConfig, AuthError, KeyRing, TENANT_WITHOUT_AUTH};

/// What a request shows of who sent it.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The key or token, whichever carrier it came in. Never to be logged.
    pub secret: Option<&'a str>,
}

/// Who a caller is, once that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose caller it is.
    pub tenant: String,
}

/// Why a caller is not let in. For metrics and logs; the caller is told only that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It shows nothing.
    #[error("no credential")]
    Missing,
    /// Nobody has that key.
    #[error("unknown key")]
    UnknownKey,
    /// The token cannot be read, or has a member twice.
    #[error("malformed token")]
    MalformedToken,
    /// The token is of another kind, or has extensions that are not understood.
    #[error("unsupported token")]
    UnsupportedToken,
    /// The token's algorithm is none that its issuer may use, or not that of its key.
    #[error("algorithm not allowed")]
    BadAlgorithm,
    /// No issuer of the configuration made the token.
    #[error("wrong issuer")]
    WrongIssuer,
    /// The token is meant for another service.
    #[error("wrong audience")]
    WrongAudience,
    /// The token's time is over.
    #[error("expired")]
    Expired,
    /// The token says that it is from the future.
    #[error("not yet valid")]
    NotYetValid,
    /// The token would be good for ever.
    #[error("no expiry")]
    NoExpiry,
    /// A claim that the configuration asks for is missing or says something else.
    #[error("missing claim")]
    MissingClaim,
    /// The token leads to no tenant.
    #[error("no tenant")]
    NoTenant,
    /// The issuer has no such key.
    #[error("unknown signing key")]
    UnknownSigningKey,
    /// The issuer's keys were never fetched.
    #[error("signing keys unavailable")]
    KeysUnavailable,
    /// The key did not sign this token.
    #[error("bad signature")]
    BadSignature,
}

impl Denied {
    /// The metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::UnknownKey => "unknown_key",
            Self::MalformedToken => "malformed_token",
            Self::UnsupportedToken => "unsupported_token",
            Self::BadAlgorithm => "bad_algorithm",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoExpiry => "no_expiry",
            Self::MissingClaim => "missing_claim",
            Self::NoTenant => "no_tenant",
            Self::UnknownSigningKey => "unknown_signing_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::BadSignature => "bad_signature",
        }
    }
}

/// Knows all ways to be let in.
#[derive(Clone, Debug)]
pub struct Authenticator {
    keys: KeyRing,
    issuers: Arc<[Issuer]>,
}

impl Authenticator {
    /// Checks the configuration. `tenants` are all that there are.
    ///
    /// # Errors
    ///
    /// If it cannot work.
    pub fn new(config: &AuthConfig, tenants: &BTreeSet<String>) -> Result<Self, AuthError> {
        let keys = KeyRing::new(config)?;
        let mut issuers: Vec<Issuer> = Vec::new();
        for (n, config) in config.issuers.iter().enumerate() {
            let mistake = |(field, problem)| AuthError::Issuer(n + 1, field, problem);
            let issuer = Issuer::new(config, tenants).map_err(mistake)?;
            if issuers.iter().any(|other| other.url() == issuer.url()) {
                return Err(mistake(("url", "this issuer stands twice")));
            }
            issuers.push(issuer);
        }
        Ok(Self {
            keys,
            issuers: issuers.into(),
        })
    }

    /// Keeps the issuers' signing keys fresh while it is polled, until `stop`. From the call on, callers wait for keys
    /// that are not there yet; without it no token is good.
    pub fn keep_keys_fresh(
        &self,
        outbound: Outbound,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let issuers = Arc::clone(&self.issuers);
        issuers.iter().for_each(Issuer::start);
        async move {
            let fetching = issuers
                .iter()
                .map(|issuer| issuer.keep_fresh(outbound.clone(), &metrics, stop.clone()));
            join_all(fetching).await;
        }
    }

    /// Who shows this. Everybody is [`TENANT_WITHOUT_AUTH`] where authentication is off.
    ///
    /// # Errors
    ///
    /// If it is nobody that may come in.
    pub async fn identify(&self, shown: Shown<'_>) -> Result<Identity, Denied> {
        if self.keys.is_off() {
            return Ok(Identity {
                tenant: TENANT_WITHOUT_AUTH.to_owned(),
            });
        }
        let secret = shown.secret.ok_or(Denied::Missing)?;
        if !self.issuers.is_empty() && jwt::is_token(secret) {
            return self.identify_token(secret, unix_now()).await;
        }
        let tenant = self.keys.tenant(secret).ok_or(Denied::UnknownKey)?;
        Ok(Identity {
            tenant: tenant.to_owned(),
        })
    }

    /// Who brings this token at that time, in seconds since 1970.
    async fn identify_token(&self, token: &str, now: u64) -> Result<Identity, Denied> {
        let token = Token::parse(token)?;
        let says = token.issuer();
        let issuer = self.issuers.iter().find(|it| Some(it.url()) == says);
        let tenant = issuer
            .ok_or(Denied::WrongIssuer)?
            .tenant(&token, now)
            .await?;
        Ok(Identity {
            tenant: tenant.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{AuthMode, KeyConfig, hash_key};
    use super::*;

    #[tokio::test]
    async fn a_caller_is_known_by_what_it_shows() {
        let ring = Authenticator::new(
            &AuthConfig {
                mode: AuthMode::Keys,
                keys: vec![KeyConfig {
                    tenant: "acme".to_owned(),
                    sha256: hash_key("k1"),
                }],
                issuers: Vec::new(),
            },
            &BTreeSet::new(),
        )
        .expect("good");
        let identify = async |secret| {
            let identity = ring.identify(Shown { secret }).await;
            identity.map(|identity| identity.tenant)
        };
        assert_eq!(identify(Some("k1")).await, Ok("acme".to_owned()));
        assert_eq!(identify(Some("k2")).await, Err(Denied::UnknownKey));
        assert_eq!(identify(None).await, Err(Denied::Missing));
    }

    #[tokio::test]
    async fn without_authentication_all_are_one_tenant() {
        let open = Authenticator::new(
            &AuthConfig {
                mode: AuthMode::None,
                keys: Vec::new(),
                issuers: Vec::new(),
            },
            &BTreeSet::new(),
        )
        .expect("good");
        let identity = open.identify(Shown { secret: None }).await;
        assert_eq!(identity.map(|it| it.tenant), Ok(TENANT_WITHOUT_AUTH.into()));
    }

    #[tokio::test]
    async fn tokens_go_to_their_issuer_and_everything_else_to_the_keys() {
        let issuer = "url = 'https://idp.example'\naudience = 'voice'\ntenant = 'acme'";
        let config = AuthConfig {
            mode: AuthMode::Keys,
            keys: Vec::new(),
            issuers: vec![toml::from_str(issuer).expect("good")],
        };
        let tenants = ["acme".to_owned()].into();
        let authenticator = Authenticator::new(&config, &tenants).expect("good without a key");
        let check = async |secret: &str, expected| {
            let shown = Shown {
                secret: Some(secret),
            };
            assert_eq!(
                authenticator.identify(shown).await,
                Err(expected),
                "{secret}"
            );
        };
        check("sk-1", Denied::UnknownKey).await;
        // {"alg":"ES256"} and {"iss":"https://idp.example","aud":"voice","exp":4e9}, then another issuer.
        let good = "eyJhbGciOiJFUzI1NiJ9.\
            eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIiwiYXVkIjoidm9pY2UiLCJleHAiOjRlOX0.AA";
        check(good, Denied::KeysUnavailable).await;
        let other = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL290aGVyLmV4YW1wbGUifQ.AA";
        check(other, Denied::WrongIssuer).await;
        check("eyJhbGciOiJFUzI1NiJ9.e30.AA", Denied::WrongIssuer).await;
        check("eyJ..", Denied::MalformedToken).await;
        let twice = AuthConfig {
            issuers: vec![config.issuers[0].clone(), config.issuers[0].clone()],
            ..config.clone()
        };
        let error = Authenticator::new(&twice, &tenants).err();
        assert!(
            matches!(error, Some(AuthError::Issuer(2, "url", _))),
            "{error:?}"
        );
    }
}
