//! How Webex Contact Center proves itself: the token that Webex signs when a data source is registered, and shows with
//! every call (telephony reference 12.1: a bearer JWT on the upgrade).
//!
//! What is in it stands in no reference of ours but in Cisco's guide and samples
//! (github.com/CiscoDevNet/webex-contact-center-provider-sample-code, `bring-your-own/virtual-agent`, as of November 2026):
//! RS256 by Webex's identity broker, `aud` as it was chosen at registration, the data source's address, and the id of the
//! WebSocket schema. The address says whose call it is. The same token comes with every call until it is renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::Identity;
use super::algorithm::Algorithm;
use super::authenticator::Denied;
use super::issuer::Issuer;
use super::issuer_config::IssuerConfig;
use super::provider::{Mistake, SignedRequest, by_bearer, issuer_of};

/// Webex's identity broker. Which one signs depends on the region of the organisation.
const ISSUER: &str = "https://idbroker.webex.com/idb";

/// Where a broker's keys are, from its address on.
const KEYS: &str = "/oauth2/v2/keys/verificationjwk";

/// The claim with the address that was registered.
const URL_CLAIM: &str = "com.cisco.datasource.url";

/// The claim with the schema that was registered, and the schema of a voice virtual agent over WebSocket.
const SCHEMA_CLAIM: &str = "com.cisco.datasource.schema.uuid";
const SCHEMA: &str = "a38a10b7-43e4-4676-a076-a7d6dce9387d";

/// The `[providers.webex]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebexConfig {
    /// Who signs the tokens, where that is another broker.
    pub issuer: Option<String>,
    /// Where its keys are, where that is no usual place.
    pub jwks_url: Option<String>,
    /// The data sources whose calls are let in.
    pub accounts: Vec<WebexAccountConfig>,
}

/// One `[[providers.webex.accounts]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebexAccountConfig {
    /// Whose data source it is.
    pub tenant: String,
    /// Its `url`, to the letter.
    pub url: String,
    /// Its `audience`, to the letter.
    pub audience: String,
}

/// Webex, and the data sources that are known.
#[derive(Clone, Debug)]
pub struct WebexAccounts {
    issuer: Arc<Issuer>,
}

impl WebexAccounts {
    /// Checks the table. `tenants` are all that there are.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn new(config: &WebexConfig, tenants: &BTreeSet<String>) -> Result<Self, Mistake> {
        let mut sources = BTreeMap::new();
        for (account, n) in config.accounts.iter().zip(1..) {
            if account.audience.is_empty() {
                return Err(Mistake::of_account(n, "audience", "is empty"));
            }
            let url = account.url.clone();
            if sources.insert(url, account.tenant.clone()).is_some() {
                return Err(Mistake::of_account(n, "url", "this address stands twice"));
            }
        }
        let url = config.issuer.clone().unwrap_or_else(|| ISSUER.to_owned());
        let jwks_url = config.jwks_url.clone();
        let jwks_url = jwks_url.unwrap_or_else(|| format!("{}{KEYS}", url.trim_end_matches('/')));
        let audiences: BTreeSet<_> = config.accounts.iter().map(|it| &it.audience).collect();
        let issuer = IssuerConfig {
            url,
            name: Some("webex".to_owned()),
            audience: audiences.into_iter().cloned().collect(),
            algorithms: vec![Algorithm::RS256],
            jwks_url: Some(jwks_url),
            // The guide asks for 30 s at most.
            skew: std::time::Duration::from_secs(30),
            tenant: None,
            tenant_claim: Some(URL_CLAIM.to_owned()),
            tenants: sources,
            required_claims: BTreeMap::from([(SCHEMA_CLAIM.to_owned(), SCHEMA.to_owned())]),
        };
        Ok(Self {
            issuer: issuer_of(&issuer, tenants)?,
        })
    }

    /// Whose keys have to be kept fresh.
    pub(super) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// Whose call it is, if there is a token. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If the token is not good.
    pub(super) async fn caller(
        &self,
        request: SignedRequest<'_>,
        now: u64,
    ) -> Result<Option<Identity>, Denied> {
        by_bearer(&self.issuer, request.headers, now).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), &str>) {
        let config: WebexConfig = toml::from_str(text).unwrap();
        let built = WebexAccounts::new(&config, &BTreeSet::from(["acme".to_owned()]));
        let built = built.map(|_| ()).map_err(|mistake| mistake.path.join("."));
        assert_eq!(built, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn mistakes_are_named() {
        let account = "[[accounts]]\ntenant = 'acme'\nurl = 'https://a'\naudience = 'a'\n";
        check(account, Ok(()));
        check(&account.repeat(2), Err("accounts.2.url"));
        check(&account.replace("'a'", "''"), Err("accounts.1.audience"));
        check(&account.replace("acme", "other"), Err("accounts"));
        check(&format!("issuer = 'http://a'\n{account}"), Err("issuer"));
        check(&format!("jwks_url = 'nowhere'\n{account}"), Err("jwks_url"));
    }
}
