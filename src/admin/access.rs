//! Who may see and do what on the operators' listener.

use std::sync::Arc;

use http::HeaderMap;

use crate::listener::{Alpn, ClientAuth, Tls};

use super::{AdminConfig, AdminToken};

/// What a request has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// All that was wanted.
    Full,
    /// Not what was wanted.
    None,
    /// Nothing is wanted, on an address that everybody reaches.
    Public,
}

/// What operators have to show, and by what they are let in.
#[derive(Clone, Debug)]
pub struct Access {
    token: Option<AdminToken>,
    tls: Option<Arc<Tls>>,
    /// A client certificate that was verified is as good as the token.
    takes_certificates: bool,
    /// The address is one that only this machine reaches.
    is_local: bool,
}

impl Access {
    /// What the configuration says.
    ///
    /// # Errors
    ///
    /// The field of the `[admin]` table whose secret or file cannot be used, and why.
    pub fn new(config: &AdminConfig) -> Result<Self, (Vec<String>, String)> {
        let token = AdminToken::read(config)
            .map_err(|error| (vec![error.field.to_string()], error.problem.clone()))?;
        let tls = config.tls.as_ref().map(|tls| {
            Tls::load(tls, Alpn::Http2).map_err(|error| {
                let path = vec!["tls".to_owned(), error.field().to_owned()];
                (path, error.to_string())
            })
        });
        Ok(Self {
            token,
            tls: tls.transpose()?.map(Arc::new),
            takes_certificates: config.takes_certificates(),
            is_local: config.address.ip().is_loopback(),
        })
    }

    /// The token, to be replaced when the configuration changes.
    #[must_use]
    pub fn token(&self) -> Option<AdminToken> {
        self.token.clone()
    }

    pub(super) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Whether anything has to be shown.
    pub(super) fn is_guarded(&self) -> bool {
        self.token.is_some() || self.takes_certificates
    }

    /// Whether calls can be acted on at all: never by everybody who reaches a public address.
    #[must_use]
    pub fn serves_control(&self) -> bool {
        self.is_guarded() || self.is_local
    }

    /// What a request may.
    pub(super) fn right(&self, headers: &HeaderMap, has_certificate: bool) -> Right {
        match self.allows(headers, has_certificate) {
            true if self.serves_control() => Right::Full,
            true => Right::Public,
            false => Right::None,
        }
    }

    /// Whether whoever asks has shown what there is to show. A certificate that was shown was verified.
    fn allows(&self, headers: &HeaderMap, has_certificate: bool) -> bool {
        let shows_token = |token: &AdminToken| token.is_shown(headers);
        !self.is_guarded()
            || (self.takes_certificates && has_certificate)
            || self.token.as_ref().is_some_and(shows_token)
    }
}

impl AdminConfig {
    /// Whether a token is asked for.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_some() || self.token_env.is_some() || self.token_file.is_some()
    }

    /// Whether operators may show a client certificate.
    #[must_use]
    pub fn takes_certificates(&self) -> bool {
        let tls = self.tls.as_ref();
        tls.is_some_and(|tls| tls.client_auth != ClientAuth::None)
    }

    /// Whether operators have to show anything.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.has_token() || self.takes_certificates()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::AUTHORIZATION;

    use super::*;

    fn access(text: &str, takes_certificates: bool) -> Access {
        Access {
            takes_certificates,
            ..Access::new(&toml::from_str(text).unwrap()).expect("good")
        }
    }

    #[test]
    fn who_shows_what_there_is_to_show_is_let_in() {
        let check = |access: &Access, token: &str, has_certificate, expected| {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            let allows = access.allows(&headers, has_certificate);
            assert_eq!(allows, expected, "{access:?} {token} {has_certificate}");
        };
        let open = access("", false);
        check(&open, "", false, true);
        let token = access("token = 't'", false);
        check(&token, "t", false, true);
        check(&token, "x", false, false);
        // Nobody verified it.
        check(&token, "x", true, false);
        let certificate = access("", true);
        check(&certificate, "x", true, true);
        check(&certificate, "x", false, false);
        let both = access("token = 't'", true);
        check(&both, "x", true, true);
        check(&both, "t", false, true);
        check(&both, "x", false, false);
    }

    #[test]
    fn a_public_address_is_never_open_to_everybody() {
        let public = "address = '0.0.0.0:9100'\npublic = true\n";
        for (text, takes_certificates, expected) in [
            ("", false, true),
            ("address = '[::1]:9100'", false, true),
            (public, false, false),
            (public, true, true),
            (&format!("{public}token = 't'"), false, true),
        ] {
            let access = access(text, takes_certificates);
            assert_eq!(access.serves_control(), expected, "{text}");
        }
    }
}
