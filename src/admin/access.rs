//! Who may see and do what on the operators' listener.

use std::sync::Arc;

use http::HeaderMap;

use crate::listener::{Alpn, ClientAuth, Tls};

use super::token::{Hash, Shown, shown};
use super::{AdminConfig, AdminTokens};

/// What a request has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// All that was wanted.
    Full,
    /// What who only looks has: nothing may be changed.
    Read,
    /// Not what was wanted.
    None,
    /// Nothing is wanted, on an address that everybody reaches.
    Public,
}

/// What operators have to show, and by what they are let in.
#[derive(Clone, Debug)]
pub struct Access {
    tokens: AdminTokens,
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
        let tokens = AdminTokens::read(config)
            .map_err(|error| (vec![error.field.to_string()], error.problem.clone()))?;
        let tls = config.tls.as_ref().map(|tls| {
            Tls::load(tls, Alpn::Http2).map_err(|error| {
                let path = vec!["tls".to_owned(), error.field().to_owned()];
                (path, error.to_string())
            })
        });
        Ok(Self {
            tokens,
            tls: tls.transpose()?.map(Arc::new),
            takes_certificates: config.takes_certificates(),
            is_local: config.address.ip().is_loopback(),
        })
    }

    /// The tokens, to be replaced when the configuration changes.
    #[must_use]
    pub fn tokens(&self) -> AdminTokens {
        self.tokens.clone()
    }

    pub(super) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Whether anything has to be shown.
    pub(super) fn is_guarded(&self) -> bool {
        self.opens_control() || self.tokens.has_read()
    }

    /// Whether there is something to show that opens everything.
    fn opens_control(&self) -> bool {
        self.tokens.has_full() || self.takes_certificates
    }

    /// Whether calls can be acted on at all: never by everybody who reaches a public address, nor where only looking is
    /// asked a token for.
    #[must_use]
    pub fn serves_control(&self) -> bool {
        self.opens_control() || (self.is_local && !self.tokens.has_read())
    }

    /// What a request shows.
    pub(super) fn pass(&self, headers: &HeaderMap, has_certificate: bool) -> Pass {
        Pass {
            access: self.clone(),
            shown: shown(headers),
            has_certificate,
        }
    }
}

/// What a request has shown, kept for as long as its answer goes on.
#[derive(Clone)]
pub(super) struct Pass {
    access: Access,
    shown: Option<Hash>,
    /// A client certificate was shown, and so was verified.
    has_certificate: bool,
}

impl Pass {
    /// What it opens, by the tokens that are asked for now.
    pub(super) fn right(&self) -> Right {
        let access = &self.access;
        let has_certificate = access.takes_certificates && self.has_certificate;
        match access.tokens.which(self.shown.as_ref()) {
            _ if has_certificate => Right::Full,
            Shown::Full => Right::Full,
            Shown::Read => Right::Read,
            Shown::None if access.is_guarded() => Right::None,
            Shown::None if access.is_local => Right::Full,
            Shown::None => Right::Public,
        }
    }

    /// Is over when it opens nothing any more, because other tokens are asked for.
    pub(super) async fn withdrawn(&self) {
        let mut changes = self.access.tokens.changes();
        while matches!(self.right(), Right::Full | Right::Read) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl AdminConfig {
    /// Whether there is a token that opens everything.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_some() || self.token_env.is_some() || self.token_file.is_some()
    }

    /// Whether there is a token for who only looks.
    #[must_use]
    pub fn has_read_token(&self) -> bool {
        let (env, file) = (&self.read_token_env, &self.read_token_file);
        self.read_token.is_some() || env.is_some() || file.is_some()
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
        self.has_token() || self.has_read_token() || self.takes_certificates()
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
            let right = access.pass(&headers, has_certificate).right();
            assert_eq!(right, expected, "{access:?} {token} {has_certificate}");
        };
        let open = access("", false);
        check(&open, "", false, Right::Full);
        let token = access("token = 't'", false);
        check(&token, "t", false, Right::Full);
        check(&token, "x", false, Right::None);
        // Nobody verified it.
        check(&token, "x", true, Right::None);
        let certificate = access("", true);
        check(&certificate, "x", true, Right::Full);
        check(&certificate, "x", false, Right::None);
        let both = access("token = 't'", true);
        check(&both, "x", true, Right::Full);
        check(&both, "t", false, Right::Full);
        check(&both, "x", false, Right::None);
    }

    #[test]
    fn who_only_looks_changes_nothing() {
        let check = |text: &str, takes_certificates, shown: &str, has_certificate, expected| {
            let access = access(text, takes_certificates);
            let value = HeaderValue::from_str(&format!("Bearer {shown}")).unwrap();
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            let right = access.pass(&headers, has_certificate).right();
            assert_eq!(right, expected, "{text} {shown} {has_certificate}");
        };
        let both = "token = 't'\nread_token = 'r'";
        check(both, false, "t", false, Right::Full);
        check(both, false, "r", false, Right::Read);
        check(both, false, "x", false, Right::None);
        check(both, true, "r", true, Right::Full);
        // Also on loopback nobody acts without showing anything where looking asks for a token.
        let alone = "read_token = 'r'";
        check(alone, false, "r", false, Right::Read);
        check(alone, false, "", false, Right::None);
        check(alone, true, "r", false, Right::Read);
        check(alone, true, "", true, Right::Full);
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
            (&format!("{public}read_token = 'r'"), false, false),
            ("read_token = 'r'", false, false),
            ("read_token = 'r'", true, true),
        ] {
            let access = access(text, takes_certificates);
            assert_eq!(access.serves_control(), expected, "{text}");
        }
    }
}
