//! The `[[auth.issuers]]` tables, and what in them cannot work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::outbound::is_loopback;

use super::algorithm::Algorithm;

/// The largest skew. Clocks that are further apart are broken, and a token lives longer by it.
const MAX_SKEW: Duration = Duration::from_secs(600);

/// One `[[auth.issuers]]` table: who signs tokens for callers, and which of them are good here.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer as its tokens say it in `iss`, to the letter. Its keys are found from here.
    pub url: String,
    /// Its name in metrics and logs; the URL if none is given.
    #[serde(default)]
    pub name: Option<String>,
    /// Whom its tokens must be for: one of these is in `aud`.
    #[serde(deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// By what it signs.
    #[serde(default = "usual_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are, if that is not to be asked of the issuer itself.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// How far its clock may be from this machine's.
    #[serde(default = "one_minute", with = "humantime_serde")]
    pub skew: Duration,
    /// Whose callers all its tokens are.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Or the claim that says whose caller it is.
    #[serde(default)]
    pub tenant_claim: Option<String>,
    /// What that claim says, and which tenant that is; without it the claim names the tenant.
    #[serde(default)]
    pub tenants: BTreeMap<String, String>,
    /// Claims that a token must have: with that value, or as a list that holds it.
    #[serde(default)]
    pub required_claims: BTreeMap<String, String>,
}

/// A mistake in such a table: the field, and what is wrong with it.
pub(super) type Problem = (&'static str, &'static str);

/// How a token's tenant is found.
#[derive(Clone, Debug)]
pub(super) enum TenantRule {
    /// It is always this one.
    Fixed(String),
    /// The claim says it, in the values on the left.
    Claim {
        claim: String,
        tenants: BTreeMap<String, String>,
    },
}

impl TenantRule {
    pub(super) fn of(&self, claims: &Map<String, Value>) -> Option<&str> {
        match self {
            Self::Fixed(tenant) => Some(tenant),
            Self::Claim { claim, tenants } => {
                let value = claims.get(claim)?.as_str()?;
                tenants.get(value).map(String::as_str)
            }
        }
    }
}

impl IssuerConfig {
    /// Checks what does not concern tenants, and gives the issuer's address and that of its keys, if it is stated.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn check(&self) -> Result<(Uri, Option<Uri>), Problem> {
        let url = secure_url(&self.url).map_err(|problem| ("url", problem))?;
        if url.query().is_some() {
            return Err(("url", "an issuer has no query"));
        }
        let jwks_url = self.jwks_url.as_deref().map(secure_url).transpose();
        let jwks_url = jwks_url.map_err(|problem| ("jwks_url", problem))?;
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            let problem = "without one, a token for any other service would be good here";
            return Err(("audience", problem));
        }
        if self.algorithms.is_empty() {
            return Err(("algorithms", "without one, no token is good"));
        }
        if self.skew > MAX_SKEW {
            return Err(("skew", "clocks may be 10 minutes apart at most"));
        }
        Ok((url, jwks_url))
    }

    /// How this issuer's tokens lead to one of these tenants.
    ///
    /// # Errors
    ///
    /// If they cannot.
    pub(super) fn tenant_rule(&self, known: &BTreeSet<String>) -> Result<TenantRule, Problem> {
        match (&self.tenant, &self.tenant_claim) {
            (Some(_), Some(_)) => Err(("tenant_claim", "either tenant or tenant_claim")),
            (None, None) => Err(("tenant", "either tenant or tenant_claim is needed")),
            (Some(_), None) if !self.tenants.is_empty() => {
                Err(("tenants", "is for tenant_claim only"))
            }
            (Some(tenant), None) if known.contains(tenant) => Ok(TenantRule::Fixed(tenant.clone())),
            (Some(_), None) => Err(("tenant", "there is no such tenant")),
            (None, Some(claim)) => {
                let tenants = if self.tenants.is_empty() {
                    known
                        .iter()
                        .map(|name| (name.clone(), name.clone()))
                        .collect()
                } else {
                    self.tenants.clone()
                };
                if tenants.is_empty() {
                    return Err(("tenant_claim", "there is no tenant that it could name"));
                }
                if !tenants.values().all(|tenant| known.contains(tenant)) {
                    return Err(("tenants", "one of these is no tenant"));
                }
                Ok(TenantRule::Claim {
                    claim: claim.clone(),
                    tenants,
                })
            }
        }
    }
}

/// A URL from which keys may come: by TLS, or plain text from loopback.
pub(super) fn secure_url(url: &str) -> Result<Uri, &'static str> {
    let is_plain_text = url
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let url: Uri = match url.parse() {
        Ok(url) if is_plain_text => url,
        _ => return Err("is no URL"),
    };
    let authority = url.authority().ok_or("is not absolute")?;
    if authority.as_str().contains('@') {
        return Err("names a user");
    }
    match url.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if is_loopback(authority.host()) => Ok(url),
        Some("http") => Err("plain text is for loopback only: use https"),
        _ => Err("begins with https://"),
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(only) => vec![only],
        OneOrMany::Many(all) => all,
    })
}

fn usual_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256]
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}
