//! How Vonage proves itself: a token that is signed by the account's signature secret (telephony reference 3.1).
//!
//! The secret is shared, so a token says only that somebody who has it made it: each is good once, for five minutes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Identity;
use super::authenticator::Denied;
use super::jwt::{self, MAX_TOKEN_BYTES};
use super::provider::{Mistake, SignedRequest, check_tenant};
use crate::secret::Source;

/// Who says that it made the token.
const ISSUER: &str = "Vonage";

/// How far `iat` may be from now, in seconds, before or after (telephony reference 3.1).
const TOLERANCE_S: f64 = 300.0;

/// SHA-256 of no bytes.
const HASH_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The `[providers.vonage]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VonageConfig {
    /// The accounts whose calls are let in.
    pub accounts: Vec<VonageAccountConfig>,
}

/// One `[[providers.vonage.accounts]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VonageAccountConfig {
    /// Whose account it is.
    pub tenant: String,
    /// The account's API key, which is no secret.
    pub api_key: String,
    /// The only application whose calls are let in; without any, all of the account.
    pub application_id: Option<String>,
    /// The account's signature secret (not its API secret); better one of the two below.
    pub signature_secret: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub signature_secret_env: Option<String>,
    /// Path of the file that holds it.
    pub signature_secret_file: Option<PathBuf>,
}

/// The accounts of all tenants.
#[derive(Clone)]
pub struct VonageAccounts(Vec<Account>);

#[derive(Clone)]
struct Account {
    tenant: String,
    api_key: String,
    application_id: Option<String>,
    secret: SecretString,
}

impl VonageAccounts {
    /// Reads the accounts. `tenants` are all that there are.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn new(config: &VonageConfig, tenants: &BTreeSet<String>) -> Result<Self, Mistake> {
        let mut accounts: Vec<Account> = Vec::new();
        for (account, n) in config.accounts.iter().zip(1..) {
            let mistake = |field: &str, problem: &str| Mistake::of_account(n, field, problem);
            check_tenant(n, &account.tenant, tenants)?;
            let is_same = |other: &Account| {
                other.api_key == account.api_key && other.application_id == account.application_id
            };
            if accounts.iter().any(is_same) {
                return Err(mistake("api_key", "this account stands twice"));
            }
            let secret = Source {
                name: "signature_secret",
                value: account.signature_secret.as_ref(),
                env: account.signature_secret_env.as_deref(),
                file: account.signature_secret_file.as_deref(),
            };
            let secret = secret
                .required()
                .map_err(|error| mistake(&error.field, &error.problem))?;
            accounts.push(Account {
                tenant: account.tenant.clone(),
                api_key: account.api_key.clone(),
                application_id: account.application_id.clone(),
                secret,
            });
        }
        Ok(Self(accounts))
    }

    /// Whose call it is, if there is a token. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If the token is not good.
    pub(super) fn caller(
        &self,
        request: SignedRequest<'_>,
        now: u64,
    ) -> Result<Option<Identity>, Denied> {
        let mut values = request.headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Ok(None);
        };
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.trim().split_once(' ')?;
            let token = token.trim();
            (scheme.eq_ignore_ascii_case("bearer") && jwt::is_token(token)).then_some(token)
        });
        // Anything else may be a key of ours, which the application had Vonage send.
        let Some(token) = token else {
            return Ok(None);
        };
        self.identity(token, now).map(Some)
    }

    fn identity(&self, token: &str, now: u64) -> Result<Identity, Denied> {
        let claims = self.claims(token)?;
        let text = |name: &str| claims.0.get(name).and_then(Value::as_str);
        if text("iss") != Some(ISSUER) {
            return Err(Denied::WrongIssuer);
        }
        // A webhook's token is for the body that it came with, and an upgrade has none.
        if text("payload_hash").is_some_and(|hash| hash != HASH_OF_NOTHING) {
            return Err(Denied::Misplaced);
        }
        let time = |name: &str| match claims.0.get(name) {
            None => Ok(None),
            Some(time) => time.as_f64().map(Some).ok_or(Denied::MalformedToken),
        };
        let issued = time("iat")?.ok_or(Denied::MissingClaim)?;
        if issued > now as f64 + TOLERANCE_S {
            return Err(Denied::NotYetValid);
        }
        let expires = time("exp")?.unwrap_or(f64::INFINITY);
        if now as f64 > (issued + TOLERANCE_S).min(expires) {
            return Err(Denied::Expired);
        }
        let id = text("jti").ok_or(Denied::MissingClaim)?;
        let hash = Sha256::new()
            .chain_update(&claims.1.api_key)
            .chain_update([0])
            .chain_update(id)
            .finalize();
        let mut once = [0; 16];
        once.copy_from_slice(&hash[..16]);
        // The same end each time that it is shown, by which it is found again.
        let end = (issued + TOLERANCE_S) as u64 + 1;
        Ok(Identity::of(&claims.1.tenant).good_once(once, end))
    }

    /// What the token says, once it is known that the account it names has signed it.
    fn claims(&self, token: &str) -> Result<(Map<String, Value>, &Account), Denied> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Denied::MalformedToken);
        }
        let malformed = Denied::MalformedToken;
        let (message, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = message.split_once('.').ok_or(malformed)?;
        let header = jwt::decode(header).ok_or(malformed)?;
        let claims = jwt::decode(claims).ok_or(malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed)?;
        jwt::check_is_understood(&header)?;
        if header.get("alg").and_then(Value::as_str) != Some("HS256") {
            return Err(Denied::BadAlgorithm);
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let (key, application) = (text("api_key"), text("application_id"));
        let mut of_account = self.0.iter().filter(|account| {
            let is_any = account.application_id.is_none();
            key == Some(&account.api_key)
                && (is_any || account.application_id.as_deref() == application)
        });
        // Where one application has an entry of its own, that goes before the whole account's.
        let first = of_account.next().ok_or(Denied::UnknownKey)?;
        let account = of_account
            .find(|account| account.application_id.is_some())
            .filter(|_| first.application_id.is_none())
            .unwrap_or(first);
        let secret = account.secret.expose_secret().as_bytes();
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        hmac::verify(&secret, message.as_bytes(), &signature).map_err(|_| Denied::BadSignature)?;
        Ok((claims, account))
    }
}

impl fmt::Debug for VonageAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants: Vec<_> = self.0.iter().map(|account| &account.tenant).collect();
        f.debug_tuple("VonageAccounts").field(&tenants).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// By the secret `signature-secret` (telephony reference 20.4); a webhook's.
    const VECTOR: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3MzU2ODk2MDAsImp0aSI6IjExMTExMTExLTIyMjItNDMzMy04NDQ0LTU1NTU1NTU1NTU1NSIsImlzcyI6IlZvbmFnZSIsInBheWxvYWRfaGFzaCI6ImI3Mzc5YjNmMDVjYTJkZWVmM2FkZjEyZmEyYzY0ZWI0Njc0NjNhMmM4ZjJkODI5MzgwOTVlNTQ2NTA2ZTRiZjciLCJhcGlfa2V5IjoiYWJjZDEyMzQiLCJhcHBsaWNhdGlvbl9pZCI6Ijk5OTk5OTk5LTg4ODgtNDc3Ny04NjY2LTU1NTU1NTU1NTU1NSJ9.tMmD7xyun5aVPFBrrkC6XpzVPDFaB9bJlxAexAxrYgI";

    const NOW: u64 = 1_735_689_600;

    fn accounts(text: &str) -> Result<VonageAccounts, Mistake> {
        let config: VonageConfig = toml::from_str(text).expect("the form is right");
        let tenants = BTreeSet::from(["acme".to_owned(), "bolt".to_owned()]);
        VonageAccounts::new(&config, &tenants)
    }

    fn acme() -> VonageAccounts {
        accounts("[[accounts]]\ntenant = 'acme'\napi_key = 'abcd1234'\nsignature_secret = 'signature-secret'")
            .expect("good")
    }

    fn token(header: &Value, claims: &Value, secret: &str) -> String {
        let parts = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = parts.join(".");
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tag = hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// A good token, but for these claims.
    fn changed(changes: &Value) -> String {
        let mut claims = json!({"iss": "Vonage", "iat": NOW, "jti": "j-1", "api_key": "abcd1234"});
        for (name, value) in changes.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        token(
            &json!({"alg": "HS256", "typ": "JWT"}),
            &claims,
            "signature-secret",
        )
    }

    fn check(token: &str, expected: Result<&str, Denied>) {
        let identity = acme().identity(token, NOW);
        let tenant = identity.map(|identity| identity.tenant);
        assert_eq!(tenant, expected.map(str::to_owned), "{token}");
    }

    #[test]
    fn the_vector_is_signed_and_a_webhooks() {
        let accounts = acme();
        let (claims, account) = accounts.claims(VECTOR).expect("signed");
        assert_eq!(claims["jti"], "11111111-2222-4333-8444-555555555555");
        assert_eq!(account.tenant, "acme");
        check(VECTOR, Err(Denied::Misplaced));
        check(&format!("{VECTOR}AA"), Err(Denied::MalformedToken));
        check(&VECTOR.replace("tMmD", "tMmE"), Err(Denied::BadSignature));
    }

    #[test]
    fn every_claim_counts() {
        check(&changed(&json!({})), Ok("acme"));
        check(&changed(&json!({"iat": NOW - 300})), Ok("acme"));
        check(&changed(&json!({"iat": NOW - 301})), Err(Denied::Expired));
        check(&changed(&json!({"iat": NOW + 300})), Ok("acme"));
        check(
            &changed(&json!({"iat": NOW + 301})),
            Err(Denied::NotYetValid),
        );
        check(&changed(&json!({"iat": null})), Err(Denied::MalformedToken));
        check(&changed(&json!({"exp": NOW - 1})), Err(Denied::Expired));
        check(&changed(&json!({"exp": NOW + 9})), Ok("acme"));
        check(&changed(&json!({"iss": "Nexmo"})), Err(Denied::WrongIssuer));
        check(&changed(&json!({"api_key": "x"})), Err(Denied::UnknownKey));
        check(&changed(&json!({"jti": 7})), Err(Denied::MissingClaim));
        check(
            &changed(&json!({"payload_hash": HASH_OF_NOTHING})),
            Ok("acme"),
        );
    }

    /// `none`, and a public key's algorithm with the secret, are the classic ways in (RFC 8725 section 3.1).
    #[test]
    fn no_other_algorithm_counts() {
        let claims = json!({"iss": "Vonage", "iat": NOW, "jti": "j-1", "api_key": "abcd1234"});
        for algorithm in ["none", "HS384", "RS256", "hs256"] {
            let token = token(&json!({"alg": algorithm}), &claims, "signature-secret");
            check(&token, Err(Denied::BadAlgorithm));
        }
        let other = token(&json!({"alg": "HS256"}), &claims, "another");
        check(&other, Err(Denied::BadSignature));
    }

    #[test]
    fn an_application_may_be_another_tenants() {
        let whole = "[[accounts]]\ntenant = 'acme'\napi_key = 'abcd1234'\nsignature_secret = 'signature-secret'\n";
        let one = "[[accounts]]\ntenant = 'bolt'\napi_key = 'abcd1234'\napplication_id = 'a-1'\nsignature_secret = 'signature-secret'\n";
        for text in [format!("{whole}{one}"), format!("{one}{whole}")] {
            let accounts = accounts(&text).expect("good");
            let tenant = |application: &str| {
                let token = changed(&json!({"application_id": application}));
                accounts.identity(&token, NOW).expect("good").tenant
            };
            assert_eq!(tenant("a-1"), "bolt");
            assert_eq!(tenant("a-2"), "acme");
            assert!(!format!("{accounts:?}").contains("signature-secret"));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let mistake = accounts(text).expect_err("a mistake");
            let path = mistake.path.join(".");
            assert_eq!(path, expected, "{}", mistake.problem);
        };
        check(
            "[[accounts]]\ntenant = 'nobody'\napi_key = 'k'",
            "accounts.1.tenant",
        );
        let good = "[[accounts]]\ntenant = 'acme'\napi_key = 'k'\nsignature_secret = 's'\n";
        check(&format!("{good}{good}"), "accounts.2.api_key");
        let none = accounts("[[accounts]]\ntenant = 'acme'\napi_key = 'k'").expect_err("none");
        assert!(none.problem.contains("signature_secret"), "{none:?}");
    }
}
