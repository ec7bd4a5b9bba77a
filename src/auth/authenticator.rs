//! Decides who a caller is by whatever it shows.

use super::certificate::{Certificates, ClientCertificate};
use super::keys::{AuthConfig, AuthError, KeyRing, TENANT_WITHOUT_AUTH};

/// What a request shows of who sent it.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The key or token, whichever carrier it came in. Never to be logged.
    pub secret: Option<&'a str>,
    /// The certificate that was verified in the TLS handshake.
    pub certificate: Option<&'a ClientCertificate>,
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
    /// It shows no key, and a certificate that is nobody's.
    #[error("unknown certificate")]
    UnknownCertificate,
}

impl Denied {
    /// The metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::UnknownKey => "unknown_key",
            Self::UnknownCertificate => "unknown_certificate",
        }
    }
}

/// Knows all ways to be let in.
#[derive(Clone, Debug)]
pub struct Authenticator {
    keys: KeyRing,
    certificates: Certificates,
}

impl Authenticator {
    /// Checks the configuration.
    ///
    /// # Errors
    ///
    /// If it cannot work.
    pub fn new(config: &AuthConfig) -> Result<Self, AuthError> {
        Ok(Self {
            keys: KeyRing::new(config)?,
            certificates: Certificates::new(&config.certificates),
        })
    }

    /// Whether everybody may come in, so that tenants are not told apart.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.keys.is_off()
    }

    /// Who shows this. A secret decides alone; a certificate counts where none is shown. Everybody is [`TENANT_WITHOUT_AUTH`] where authentication is off.
    ///
    /// # Errors
    ///
    /// If it is nobody that may come in.
    #[expect(clippy::unused_async, reason = "signing keys may have to be fetched")]
    pub async fn identify(&self, shown: Shown<'_>) -> Result<Identity, Denied> {
        if self.keys.is_off() {
            return Ok(Identity {
                tenant: TENANT_WITHOUT_AUTH.to_owned(),
            });
        }
        let tenant = match (shown.secret, shown.certificate) {
            (Some(secret), _) => self.keys.tenant(secret).ok_or(Denied::UnknownKey)?,
            (None, Some(certificate)) => self
                .certificates
                .tenant(certificate)
                .ok_or(Denied::UnknownCertificate)?,
            (None, None) => return Err(Denied::Missing),
        };
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
        let ring = Authenticator::new(&AuthConfig {
            mode: AuthMode::Keys,
            keys: vec![KeyConfig {
                tenant: "acme".to_owned(),
                sha256: hash_key("k1"),
            }],
            certificates: Vec::new(),
        })
        .expect("good");
        let identify = async |secret| {
            let identity = ring
                .identify(Shown {
                    secret,
                    certificate: None,
                })
                .await;
            identity.map(|identity| identity.tenant)
        };
        assert_eq!(identify(Some("k1")).await, Ok("acme".to_owned()));
        assert_eq!(identify(Some("k2")).await, Err(Denied::UnknownKey));
        assert_eq!(identify(None).await, Err(Denied::Missing));
    }

    #[tokio::test]
    async fn without_authentication_all_are_one_tenant() {
        let open = Authenticator::new(&AuthConfig {
            mode: AuthMode::None,
            keys: Vec::new(),
            certificates: Vec::new(),
        })
        .expect("good");
        let identity = open
            .identify(Shown {
                secret: None,
                certificate: None,
            })
            .await;
        assert_eq!(identity.map(|it| it.tenant), Ok(TENANT_WITHOUT_AUTH.into()));
    }
}
