//! How Plivo proves itself, and Vobiz, which imitates it: a signature of version 3 over the address and a nonce by the
//! account's auth token (telephony reference 4.1).
//!
//! Not every upgrade is signed. One that is not needs a ticket or a key; one that is must be signed well. The address
//! is built from the configuration, never from a header.
//!
//! What is signed, as Plivo's own libraries have it (plivo 4.63 for Python, plivo-stream-sdk-node; tests/sdk asks the
//! first): an upgrade counts as a GET of the `https` address with the whole query, decoded and sorted by name; the helper
//! for Python takes no `wss` address at all. Vobiz signs the address without its query, and nothing that is posted
//! (docs.vobiz.ai, "Validating callbacks"); its page on moving from Plivo says that both sign alike, so both are taken.
//!
//! A signed upgrade is good once: its nonce is remembered as a used ticket's id is. Neither library does so, and nothing that
//! is signed says when, so what somebody saw can be repeated once it is forgotten. That is what tickets are for.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Identity;
use super::authenticator::Denied;
use super::provider::{Mistake, SignedRequest, check_tenant};
use super::ticket::OneTimeId;
use super::twilio_signature::{Signed, candidates};
use crate::secret::Source;

/// Most signatures in one header that are looked at: one for each token that is being changed.
const MAX_SIGNATURES: usize = 4;

/// How long a used nonce is remembered, in seconds: at 200 calls a second (limits reference) 120,000 of them.
const NONCE_LIFE_S: u64 = 600;

/// Longest nonce, in bytes. Plivo's have some twenty digits.
const MAX_NONCE_BYTES: usize = 128;

/// Who signs in this manner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    Plivo,
    Vobiz,
}

impl Signer {
    /// The signer's dialect.
    pub(super) const fn dialect(self) -> &'static str {
        match self {
            Self::Plivo => "plivo",
            Self::Vobiz => "vobiz",
        }
    }

    /// Headers that carry a signature; the second is by the main account's token.
    const fn signatures(self) -> &'static [&'static str] {
        match self {
            Self::Plivo => &["x-plivo-signature-v3", "x-plivo-signature-ma-v3"],
            Self::Vobiz => &["x-vobiz-signature-v3", "x-vobiz-signature-ma-v3"],
        }
    }

    const fn nonce(self) -> &'static str {
        match self {
            Self::Plivo => "x-plivo-signature-v3-nonce",
            Self::Vobiz => "x-vobiz-signature-v3-nonce",
        }
    }

    /// What may be signed of a request for `url`.
    fn signed_texts(self, url: &str, signed: Signed<'_>) -> Vec<String> {
        let mut texts = vec![signed_text(url, signed)];
        if self == Self::Vobiz {
            let (address, _) = url.split_once('?').unwrap_or((url, ""));
            texts.push(address.to_owned());
        }
        texts
    }
}

/// The `[providers.plivo]` or `[providers.vobiz]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlivoConfig {
    /// The accounts whose calls are let in.
    pub accounts: Vec<PlivoAccountConfig>,
}

/// One table of `accounts`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlivoAccountConfig {
    /// Whose account it is.
    pub tenant: String,
    /// The account's auth token; better one of the two below.
    pub auth_token: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub auth_token_env: Option<String>,
    /// Path of the file that holds it.
    pub auth_token_file: Option<PathBuf>,
}

/// The accounts of all tenants.
#[derive(Clone)]
pub struct PlivoAccounts {
    signer: Signer,
    /// Under which the gateway is known outside, once with `wss` and once with `https`: Plivo's libraries check upgrades
    /// with `https`, its pages speak of the address as it was configured.
    bases: [String; 2],
    accounts: Vec<(String, SecretString)>,
}

impl PlivoAccounts {
    /// Reads the accounts. `tenants` are all that there are, `public_url` is how callers reach the gateway.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn new(
        signer: Signer,
        config: &PlivoConfig,
        tenants: &BTreeSet<String>,
        public_url: Option<&str>,
    ) -> Result<Self, Mistake> {
        let problem = "the address is signed, so [listener] public_url is needed";
        let public_url = public_url.ok_or_else(|| Mistake::new("accounts", problem))?;
        let (scheme, rest) = public_url.split_once("://").unwrap_or(("wss", public_url));
        let bases = match scheme {
            "ws" | "http" => ["ws", "http"],
            _ => ["wss", "https"],
        };
        let mut accounts = Vec::new();
        for (account, n) in config.accounts.iter().zip(1..) {
            let mistake = |field: &str, problem: &str| Mistake::of_account(n, field, problem);
            check_tenant(n, &account.tenant, tenants)?;
            let token = Source {
                name: "auth_token",
                value: account.auth_token.as_ref(),
                env: account.auth_token_env.as_deref(),
                file: account.auth_token_file.as_deref(),
            };
            let token = token
                .required()
                .map_err(|error| mistake(&error.field, &error.problem))?;
            accounts.push((account.tenant.clone(), token));
        }
        Ok(Self {
            signer,
            bases: bases.map(|scheme| format!("{scheme}://{rest}")),
            accounts,
        })
    }

    /// The dialect that it is for.
    pub(super) const fn dialect(&self) -> &'static str {
        self.signer.dialect()
    }

    /// Whose account has signed, if anybody has. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If there is a signature and it is not good.
    pub(super) fn caller(
        &self,
        request: SignedRequest<'_>,
        now: u64,
    ) -> Result<Option<Identity>, Denied> {
        let values = self.signer.signatures().iter();
        let mut values = values
            .flat_map(|name| request.headers.get_all(*name))
            .peekable();
        if values.peek().is_none() {
            return Ok(None);
        }
        let signatures: Vec<Vec<u8>> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .take(MAX_SIGNATURES)
            .filter_map(|signature| STANDARD.decode(signature.trim()).ok())
            .collect();
        let mut nonces = request.headers.get_all(self.signer.nonce()).iter();
        let nonce = nonces.next().and_then(|value| value.to_str().ok());
        let nonce = nonce.filter(|nonce| nonce.len() <= MAX_NONCE_BYTES && nonces.next().is_none());
        let nonce = nonce.ok_or(Denied::BadSignature)?;
        let urls = self.bases.iter();
        let urls: Vec<String> = urls
            .flat_map(|base| candidates(base, request.target))
            .flat_map(|url| self.signer.signed_texts(&url, request.signed))
            .collect();
        let mut found = None;
        for (tenant, token) in &self.accounts {
            for url in &urls {
                for signature in &signatures {
                    let mac = mac(token, url, nonce);
                    if mac.verify_slice(signature).is_ok() {
                        found = found.or(Some((tenant.as_str(), url)));
                    }
                }
            }
        }
        let (tenant, text) = found.ok_or(Denied::BadSignature)?;
        let id = one_time_id(self.signer, text, nonce);
        Ok(Some(Identity::of(tenant).good_once(id, now + NONCE_LIFE_S)))
    }
}

/// The same by whichever token the text was signed, so that no second signature of it is good for a second call.
fn one_time_id(signer: Signer, text: &str, nonce: &str) -> OneTimeId {
    let hash = Sha256::new()
        .chain_update(signer.dialect())
        .chain_update([0])
        .chain_update(nonce)
        .chain_update([0])
        .chain_update(text)
        .finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id
}

impl fmt::Debug for PlivoAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants: Vec<_> = self.accounts.iter().map(|(tenant, _)| tenant).collect();
        f.debug_struct("PlivoAccounts")
            .field("signer", &self.signer)
            .field("tenants", &tenants)
            .finish_non_exhaustive()
    }
}

/// The address with its query decoded and sorted, and what was posted sorted behind it.
fn signed_text(url: &str, signed: Signed<'_>) -> String {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let mut pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    pairs.sort_unstable();
    let mut text = address.to_owned();
    for (n, (name, value)) in pairs.iter().enumerate() {
        text.push(if n == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    let Signed::Webhook { form, .. } = signed else {
        return text;
    };
    text.push(if pairs.is_empty() { '?' } else { '.' });
    let mut fields: Vec<_> = form.iter().collect();
    fields.sort_unstable();
    for (name, value) in fields {
        text.push_str(name);
        text.push_str(value);
    }
    text
}

fn mac(token: &SecretString, text: &str, nonce: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(token.expose_secret().as_bytes())
        .expect("HMAC takes keys of any length")
        .chain_update(text)
        .chain_update(".")
        .chain_update(nonce)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    /// Of `https://example.com/answer` with the nonce `1234567890` by the token `secret` (telephony reference 4.1).
    const BARE: &str = "NTWtt4jyao4xSFb5lV1nF+PjHmeYp7psGl2HAgoq4js=";

    /// The same, with `CallUUID=abc` and `From=1555` posted.
    const POSTED: &str = "OC5fZ9BavjosJgpRctRwD+NrWmAAwczRsIYvFAYsXvQ=";

    fn accounts(signer: Signer) -> PlivoAccounts {
        let account = |tenant: &str, token: &str| PlivoAccountConfig {
            tenant: tenant.to_owned(),
            auth_token: Some(token.into()),
            auth_token_env: None,
            auth_token_file: None,
        };
        let config = PlivoConfig {
            accounts: vec![account("other", "s3cret"), account("acme", "secret")],
        };
        let tenants = BTreeSet::from(["acme".to_owned(), "other".to_owned()]);
        PlivoAccounts::new(signer, &config, &tenants, Some("wss://example.com")).unwrap()
    }

    fn check(
        target: &str,
        headers: &[(&str, &str)],
        signed: Signed<'_>,
        expected: Result<bool, ()>,
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        let request = SignedRequest {
            target,
            headers: &map,
            signed,
            agent: "desk",
        };
        let found = accounts(Signer::Plivo).caller(request, 0);
        let found = found.map(|identity| identity.is_some_and(|it| it.tenant == "acme"));
        assert_eq!(found.map_err(|_| ()), expected, "{target} {headers:?}");
    }

    #[test]
    fn the_account_is_found_by_its_token() {
        const SIGNATURE: &str = "x-plivo-signature-v3";
        const NONCE: (&str, &str) = ("x-plivo-signature-v3-nonce", "1234567890");
        let upgrade = |headers: &[(&str, &str)], expected| {
            check("/answer", headers, Signed::Upgrade, expected);
        };
        upgrade(&[], Ok(false));
        upgrade(&[(SIGNATURE, BARE), NONCE], Ok(true));
        upgrade(&[("x-plivo-signature-ma-v3", BARE), NONCE], Ok(true));
        upgrade(&[(SIGNATURE, &format!("AAAA, {BARE}")), NONCE], Ok(true));
        upgrade(&[(SIGNATURE, BARE)], Err(()));
        upgrade(&[(SIGNATURE, BARE), NONCE, NONCE], Err(()));
        upgrade(
            &[(SIGNATURE, BARE), ("x-plivo-signature-v3-nonce", "2")],
            Err(()),
        );
        upgrade(&[(SIGNATURE, POSTED), NONCE], Err(()));
        upgrade(&[(SIGNATURE, ""), NONCE], Err(()));
        // Another provider's signature is none.
        upgrade(&[("x-vobiz-signature-v3", BARE), NONCE], Ok(false));
        check(
            "/other",
            &[(SIGNATURE, BARE), NONCE],
            Signed::Upgrade,
            Err(()),
        );

        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let form = [pair("From", "1555"), pair("CallUUID", "abc")];
        let posted = Signed::Webhook {
            body: b"",
            form: &form,
        };
        check("/answer", &[(SIGNATURE, POSTED), NONCE], posted, Ok(true));
    }

    /// `BARE` is the signature of the address alone (docs.vobiz.ai, "Validating callbacks").
    #[test]
    fn vobiz_signs_no_query() {
        for (signer, prefix, expected) in [
            (Signer::Plivo, "x-plivo", false),
            (Signer::Vobiz, "x-vobiz", true),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("signature-v3", BARE), ("signature-v3-nonce", "1234567890")] {
                let name: http::HeaderName = format!("{prefix}-{name}").parse().unwrap();
                headers.insert(name, value.parse().unwrap());
            }
            let request = SignedRequest {
                target: "/answer?k=v",
                headers: &headers,
                signed: Signed::Upgrade,
                agent: "desk",
            };
            assert_eq!(accounts(signer).caller(request, 0).is_ok(), expected);
        }
    }

    #[test]
    fn an_upgrade_is_the_same_however_it_is_shown() {
        let shown = |signer, headers: &[(&str, &str)], target| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let name: http::HeaderName = name.parse().unwrap();
                map.append(name, value.parse().unwrap());
            }
            let request = SignedRequest {
                target,
                headers: &map,
                signed: Signed::Upgrade,
                agent: "desk",
            };
            accounts(signer).caller(request, 0).unwrap().unwrap()
        };
        let nonce = ("x-plivo-signature-v3-nonce", "1234567890");
        let plain = shown(
            Signer::Plivo,
            &[("x-plivo-signature-v3", BARE), nonce],
            "/answer",
        );
        let main = [("x-plivo-signature-ma-v3", BARE), nonce];
        assert_eq!(plain, shown(Signer::Plivo, &main, "/answer"));
        // What is taken for the same address is the same.
        let more = format!("AAAA,{BARE}");
        let both = [("x-plivo-signature-v3", more.as_str()), nonce];
        assert_eq!(plain, shown(Signer::Plivo, &both, "/answer/"));
        let vobiz = [
            ("x-vobiz-signature-v3", BARE),
            ("x-vobiz-signature-v3-nonce", "1234567890"),
        ];
        assert_ne!(plain, shown(Signer::Vobiz, &vobiz, "/answer"));
    }

    #[test]
    fn a_query_is_sorted() {
        let pair = [("k".to_owned(), "v".to_owned())];
        let posted = Signed::Webhook {
            body: b"",
            form: &pair,
        };
        let check = |url, signed, expected| assert_eq!(signed_text(url, signed), expected);
        check("wss://a/b?z=1&a=2", Signed::Upgrade, "wss://a/b?a=2&z=1");
        check("wss://a/b?", Signed::Upgrade, "wss://a/b");
        // By name, not as text, in which '-' stands before '='; decoded; what has no value has an empty one.
        let query = "wss://a/b?a-b=1&a=%2B+x&c";
        check(query, Signed::Upgrade, "wss://a/b?a=+ x&a-b=1&c=");
        check("https://a/b?z=1&a=2", posted, "https://a/b?a=2&z=1.kv");
        check("https://a/b", posted, "https://a/b?kv");
    }

    #[test]
    fn nothing_shows_a_token() {
        let shown = format!("{:?}", accounts(Signer::Vobiz));
        assert!(
            shown.contains("acme") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
}
