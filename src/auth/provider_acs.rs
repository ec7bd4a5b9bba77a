//! How Azure Communication Services proves itself: a token that its Call Automation signs (telephony reference 7.1).
//!
//! The token's audience is the resource that the call came by, and that is whose caller it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::Identity;
use super::algorithm::Algorithm;
use super::authenticator::Denied;
use super::issuer::Issuer;
use super::issuer_config::IssuerConfig;
use super::provider::{Mistake, SignedRequest, by_bearer, issuer_of};

/// Who signs (telephony reference 7.1).
const ISSUER: &str = "https://acscallautomation.communication.azure.com";

/// Where its keys are, as its discovery document says. That lies at no usual place, so it is not asked.
const JWKS_URL: &str = "https://acscallautomation.communication.azure.com/calling/keys";

/// The `[providers.acs]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AcsConfig {
    /// Who signs the tokens, where that is not the public cloud.
    pub issuer: Option<String>,
    /// Where its keys are, where that is not the public cloud.
    pub jwks_url: Option<String>,
    /// The resources whose calls are let in.
    pub accounts: Vec<AcsAccountConfig>,
}

/// One `[[providers.acs.accounts]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcsAccountConfig {
    /// Whose resource it is.
    pub tenant: String,
    /// The resource's immutable id, a GUID.
    pub resource_id: String,
}

/// Call Automation, and the resources that are known.
#[derive(Clone, Debug)]
pub struct AcsAccounts {
    issuer: Arc<Issuer>,
}

impl AcsAccounts {
    /// Checks the table. `tenants` are all that there are.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn new(config: &AcsConfig, tenants: &BTreeSet<String>) -> Result<Self, Mistake> {
        let mut resources = BTreeMap::new();
        for (account, n) in config.accounts.iter().zip(1..) {
            let id = account.resource_id.clone();
            if id.is_empty() {
                return Err(Mistake::of_account(n, "resource_id", "is empty"));
            }
            if resources.insert(id, account.tenant.clone()).is_some() {
                let problem = "this resource stands twice";
                return Err(Mistake::of_account(n, "resource_id", problem));
            }
        }
        let issuer = IssuerConfig {
            url: config.issuer.clone().unwrap_or_else(|| ISSUER.to_owned()),
            name: Some("acs".to_owned()),
            audience: resources.keys().cloned().collect(),
            algorithms: vec![Algorithm::RS256],
            jwks_url: Some(
                config
                    .jwks_url
                    .clone()
                    .unwrap_or_else(|| JWKS_URL.to_owned()),
            ),
            skew: std::time::Duration::from_secs(60),
            tenant: None,
            tenant_claim: Some("aud".to_owned()),
            tenants: resources,
            required_claims: BTreeMap::new(),
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

    fn check(text: &str, expected: Option<&str>) {
        let config: AcsConfig = toml::from_str(text).expect("the form is right");
        let tenants = BTreeSet::from(["acme".to_owned(), "bolt".to_owned()]);
        let mistake = AcsAccounts::new(&config, &tenants).err();
        let shown =
            mistake.map(|mistake| format!("{}: {}", mistake.path.join("."), mistake.problem));
        assert_eq!(shown.as_deref(), expected, "{text}");
    }

    fn account(tenant: &str, resource: &str) -> String {
        format!("[[accounts]]\ntenant = '{tenant}'\nresource_id = '{resource}'\n")
    }

    #[test]
    fn mistakes_are_named() {
        let acme = account("acme", "r-1");
        check(&acme, None);
        check(&format!("{acme}{}", account("bolt", "r-2")), None);
        check(
            &format!("{acme}{}", account("bolt", "r-1")),
            Some("accounts.2.resource_id: this resource stands twice"),
        );
        check(
            &account("nobody", "r-1"),
            Some("accounts: the tenant of one of these is no tenant"),
        );
        check(
            &account("acme", ""),
            Some("accounts.1.resource_id: is empty"),
        );
        let plain = format!("jwks_url = 'http://keys.example/'\n{acme}");
        let problem = "jwks_url: plain text is for loopback only: use https";
        check(&plain, Some(problem));
    }
}
