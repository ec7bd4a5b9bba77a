//! How Genesys Cloud proves itself: an API key, and a signature over the request by a secret that goes with it
//! (telephony reference 8.1, 8.2). Unsigned requests are good only for a key that has no secret.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HOST;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Identity;
use super::authenticator::Denied;
use super::http_signature::{self, Statement};
use super::provider::{Mistake, SignedRequest, check_tenant, only_header};
use crate::secret::Source;

const KEY_HEADER: &str = "x-api-key";

/// So long a nonce is remembered, in seconds: longer than a signature is good.
const NONCE_LIFE_S: u64 = 60;

/// The `[providers.genesys]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenesysConfig {
    /// The integrations whose calls are let in.
    pub accounts: Vec<GenesysAccountConfig>,
}

/// One `[[providers.genesys.accounts]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesysAccountConfig {
    /// Whose integration it is.
    pub tenant: String,
    /// The integration's API key; better one of the two below.
    pub api_key: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub api_key_env: Option<String>,
    /// Path of the file that holds it.
    pub api_key_file: Option<PathBuf>,
    /// The integration's client secret, in base64; better one of the two below. Without any, nothing is signed.
    pub client_secret: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub client_secret_env: Option<String>,
    /// Path of the file that holds it.
    pub client_secret_file: Option<PathBuf>,
}

/// The integrations of all tenants.
#[derive(Clone)]
pub struct GenesysAccounts(Vec<Account>);

#[derive(Clone)]
struct Account {
    tenant: String,
    api_key: SecretString,
    secret: Option<SecretSlice<u8>>,
}

impl GenesysAccounts {
    /// Reads the accounts. `tenants` are all that there are.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn new(config: &GenesysConfig, tenants: &BTreeSet<String>) -> Result<Self, Mistake> {
        let mut accounts: Vec<Account> = Vec::new();
        for (account, n) in config.accounts.iter().zip(1..) {
            let mistake = |field: &str, problem: &str| Mistake::of_account(n, field, problem);
            check_tenant(n, &account.tenant, tenants)?;
            let key = Source {
                name: "api_key",
                value: account.api_key.as_ref(),
                env: account.api_key_env.as_deref(),
                file: account.api_key_file.as_deref(),
            };
            let secret = Source {
                name: "client_secret",
                value: account.client_secret.as_ref(),
                env: account.client_secret_env.as_deref(),
                file: account.client_secret_file.as_deref(),
            };
            let api_key = key.required();
            let api_key = api_key.map_err(|error| mistake(&error.field, &error.problem))?;
            let secret = secret
                .read()
                .map_err(|error| mistake(&error.field, &error.problem))?;
            let secret = secret
                .map(|secret| STANDARD.decode(secret.expose_secret()))
                .transpose();
            let secret = secret.map_err(|_| mistake("client_secret", "is no base64"))?;
            let is_same =
                |other: &Account| other.api_key.expose_secret() == api_key.expose_secret();
            if accounts.iter().any(is_same) {
                return Err(mistake("api_key", "this key stands twice"));
            }
            accounts.push(Account {
                tenant: account.tenant.clone(),
                api_key,
                secret: secret.map(SecretSlice::from),
            });
        }
        Ok(Self(accounts))
    }

    /// Whose call it is, if there is a key. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If key or signature are not good.
    pub(super) fn caller(
        &self,
        request: SignedRequest<'_>,
        now: u64,
    ) -> Result<Option<Identity>, Denied> {
        let header = |name: &str| only_header(request.headers, name);
        let Some(key) = header(KEY_HEADER)? else {
            return Ok(None);
        };
        let mut found = None;
        for account in &self.0 {
            let own = account.api_key.expose_secret().as_bytes();
            if own.ct_eq(key.as_bytes()).into() {
                found = Some(account);
            }
        }
        let account = found.ok_or(Denied::UnknownKey)?;
        let identity = Identity::of(&account.tenant);
        let Some(secret) = &account.secret else {
            return Ok(Some(identity));
        };
        let input = header("signature-input")?.ok_or(Denied::BadSignature)?;
        let signature = header("signature")?.ok_or(Denied::BadSignature)?;
        let statement = Statement::parse(input).ok_or(Denied::BadSignature)?;
        statement.check(now)?;
        if statement.key_id() != Some(key) {
            return Err(Denied::BadSignature);
        }
        let nonce = statement.nonce().ok_or(Denied::BadSignature)?;
        let host = header(HOST.as_str())?
            .unwrap_or_default()
            .to_ascii_lowercase();
        let authority = host.strip_suffix(":443").unwrap_or(&host);
        let base = statement.base(request.target, authority, request.headers);
        let signature = statement.signature(signature);
        let is_signed = base.zip(signature).is_some_and(|(base, signature)| {
            http_signature::is_signed(secret.expose_secret(), &base, &signature)
        });
        if !is_signed {
            return Err(Denied::BadSignature);
        }
        // Of the key's holder and nobody else's: nonces of two integrations do not meet.
        let hash = Sha256::new()
            .chain_update(key)
            .chain_update([0])
            .chain_update(nonce)
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        // The same end each time that it is shown, by which it is found again.
        let created = statement.created().unwrap_or(now);
        Ok(Some(identity.good_once(id, created + NONCE_LIFE_S)))
    }
}

impl fmt::Debug for GenesysAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants: Vec<_> = self.0.iter().map(|account| &account.tenant).collect();
        f.debug_tuple("GenesysAccounts").field(&tenants).finish()
    }
}
