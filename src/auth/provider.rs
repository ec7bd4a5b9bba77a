//! Providers that sign their requests: which of the accounts that the operator named has sent this one.
//!
//! A new dialect's scheme is one more variant of [`ProviderScheme`], one more field of [`ProvidersConfig`], and a file
//! of its own. What a provider did not sign is no proof of
//! anything, and no signature is never taken for a good one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::SecretString;
use serde::Deserialize;

use crate::secret::{SecretError, Source};

use super::Identity;
use super::authenticator::Denied;
use super::issuer::Issuer;
use super::issuer_config::IssuerConfig;
use super::jwt::Token;
use super::provider_acs::{AcsAccounts, AcsConfig};
use super::provider_audiosocket::{AudioSocketAccounts, AudioSocketConfig};
use super::provider_genesys::{GenesysAccounts, GenesysConfig};
use super::provider_plivo::{PlivoAccounts, PlivoConfig, Signer};
use super::provider_telnyx::{TelnyxAccounts, TelnyxConfig};
use super::provider_vonage::{VonageAccounts, VonageConfig};
use super::provider_webex::{WebexAccounts, WebexConfig};
use super::twilio_signature::{self, Signed};

/// A request as its provider may have signed it.
#[derive(Clone, Copy)]
pub struct SignedRequest<'a> {
    /// Path and query, as on the request line.
    pub target: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// What is signed besides.
    pub signed: Signed<'a>,
    /// The agent whom it wants to reach.
    pub agent: &'a str,
}

/// How the callers of one dialect prove that their provider sent them.
#[derive(Clone, Debug)]
pub enum ProviderScheme {
    /// `X-Twilio-Signature`, by the auth token of an account.
    Twilio(TwilioAccounts),
    /// A token of Call Automation for a resource.
    Acs(AcsAccounts),
    /// An API key, and a signature over the request.
    Genesys(GenesysAccounts),
    /// The UUID that a call begins with.
    AudioSocket(AudioSocketAccounts),
    /// A token by the signature secret of an account.
    Vonage(VonageAccounts),
    /// A signature over the address, by the auth token of an account: Plivo's or Vobiz's.
    Plivo(PlivoAccounts),
    /// A token for a data source.
    Webex(WebexAccounts),
    /// A signature over a webhook, by the key of an account.
    Telnyx(TelnyxAccounts),
}

/// The `[providers]` table: the accounts of all providers but Twilio, which has a table of its own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProvidersConfig {
    /// Azure Communication Services.
    pub acs: AcsConfig,
    /// Genesys Cloud.
    pub genesys: GenesysConfig,
    /// Asterisk by AudioSocket.
    pub audiosocket: AudioSocketConfig,
    /// Vonage.
    pub vonage: VonageConfig,
    /// Plivo.
    pub plivo: PlivoConfig,
    /// Vobiz, which signs as Plivo does.
    pub vobiz: PlivoConfig,
    /// Webex Contact Center.
    pub webex: WebexConfig,
    /// Telnyx.
    pub telnyx: TelnyxConfig,
}

/// Something in the `[providers]` table that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, from the table on.
    pub path: Vec<String>,
    /// What is wrong. Holds nothing of a secret.
    pub problem: String,
}

impl Mistake {
    pub(super) fn new(field: &str, problem: impl Into<String>) -> Self {
        Self {
            path: vec![field.to_owned()],
            problem: problem.into(),
        }
    }

    /// In account number `n`, from 1.
    pub(super) fn of_account(n: usize, field: &str, problem: impl Into<String>) -> Self {
        Self {
            path: vec!["accounts".to_owned(), n.to_string(), field.to_owned()],
            problem: problem.into(),
        }
    }

    fn of(mut self, provider: &str) -> Self {
        self.path.insert(0, provider.to_owned());
        self
    }
}

/// Whether there is a tenant of that name, whose account number `n` is, from 1. `tenants` are all that there are.
///
/// # Errors
///
/// If there is none.
pub(super) fn check_tenant(
    n: usize,
    tenant: &str,
    tenants: &BTreeSet<String>,
) -> Result<(), Mistake> {
    if tenants.contains(tenant) {
        return Ok(());
    }
    Err(Mistake::of_account(n, "tenant", "there is no such tenant"))
}

impl ProvidersConfig {
    /// The schemes of the providers that have accounts. `tenants` are all that there are, `public_url` is how callers
    /// reach the gateway from outside.
    ///
    /// # Errors
    ///
    /// The first mistake of each provider.
    pub fn build(
        &self,
        tenants: &BTreeSet<String>,
        public_url: Option<&str>,
    ) -> Result<Vec<ProviderScheme>, Vec<Mistake>> {
        let (mut schemes, mut mistakes) = (Vec::new(), Vec::new());
        let mut add = |name: &str, built: Result<ProviderScheme, Mistake>| match built {
            Ok(scheme) => schemes.push(scheme),
            Err(mistake) => mistakes.push(mistake.of(name)),
        };
        if !self.acs.accounts.is_empty() {
            add(
                "acs",
                AcsAccounts::new(&self.acs, tenants).map(ProviderScheme::Acs),
            );
        }
        if !self.genesys.accounts.is_empty() {
            let built = GenesysAccounts::new(&self.genesys, tenants);
            add("genesys", built.map(ProviderScheme::Genesys));
        }
        if !self.audiosocket.accounts.is_empty() {
            let built = AudioSocketAccounts::new(&self.audiosocket, tenants);
            add("audiosocket", built.map(ProviderScheme::AudioSocket));
        }
        if !self.vonage.accounts.is_empty() {
            let built = VonageAccounts::new(&self.vonage, tenants);
            add("vonage", built.map(ProviderScheme::Vonage));
        }
        for (signer, config) in [(Signer::Plivo, &self.plivo), (Signer::Vobiz, &self.vobiz)] {
            if !config.accounts.is_empty() {
                let built = PlivoAccounts::new(signer, config, tenants, public_url);
                add(signer.dialect(), built.map(ProviderScheme::Plivo));
            }
        }
        if !self.webex.accounts.is_empty() {
            let built = WebexAccounts::new(&self.webex, tenants);
            add("webex", built.map(ProviderScheme::Webex));
        }
        if !self.telnyx.accounts.is_empty() {
            let built = TelnyxAccounts::new(&self.telnyx, tenants);
            add("telnyx", built.map(ProviderScheme::Telnyx));
        }
        if mistakes.is_empty() {
            Ok(schemes)
        } else {
            Err(mistakes)
        }
    }

    /// The tenants that have an account.
    pub fn tenants(&self) -> impl Iterator<Item = &String> {
        let acs = self.acs.accounts.iter().map(|account| &account.tenant);
        let genesys = self.genesys.accounts.iter();
        let audiosocket = self.audiosocket.accounts.iter();
        let vonage = self.vonage.accounts.iter();
        let plivo = self.plivo.accounts.iter().chain(&self.vobiz.accounts);
        acs.chain(genesys.map(|account| &account.tenant))
            .chain(audiosocket.map(|account| &account.tenant))
            .chain(vonage.map(|account| &account.tenant))
            .chain(plivo.map(|account| &account.tenant))
            .chain(self.webex.accounts.iter().map(|account| &account.tenant))
            .chain(self.telnyx.accounts.iter().map(|account| &account.tenant))
    }
}

/// A signature that is none of any account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadSignature;

impl ProviderScheme {
    /// The dialect that it is for.
    pub(super) const fn dialect(&self) -> &'static str {
        match self {
            Self::Twilio(_) => "twilio",
            Self::Acs(_) => "acs",
            Self::Genesys(_) => "genesys",
            Self::AudioSocket(_) => "audiosocket",
            Self::Vonage(_) => "vonage",
            Self::Plivo(accounts) => accounts.dialect(),
            Self::Webex(_) => "webex",
            Self::Telnyx(_) => "telnyx",
        }
    }

    /// Whose account has signed, if anybody has. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If there is a signature or token and it is not good.
    pub(super) async fn caller(
        &self,
        request: SignedRequest<'_>,
        now: u64,
    ) -> Result<Option<Identity>, Denied> {
        match self {
            Self::Twilio(accounts) => match accounts.tenant(request) {
                Ok(tenant) => Ok(tenant.map(Identity::of)),
                Err(BadSignature) => Err(Denied::BadSignature),
            },
            Self::Acs(accounts) => accounts.caller(request, now).await,
            Self::Genesys(accounts) => accounts.caller(request, now),
            Self::AudioSocket(accounts) => accounts.caller(request),
            Self::Vonage(accounts) => accounts.caller(request, now),
            Self::Plivo(accounts) => accounts.caller(request, now),
            Self::Webex(accounts) => accounts.caller(request, now).await,
            Self::Telnyx(accounts) => accounts.caller(request, now),
        }
    }

    /// Whose keys have to be kept fresh for it.
    pub(super) fn issuer(&self) -> Option<&Arc<Issuer>> {
        match self {
            Self::Twilio(_)
            | Self::Genesys(_)
            | Self::AudioSocket(_)
            | Self::Vonage(_)
            | Self::Plivo(_)
            | Self::Telnyx(_) => None,
            Self::Acs(accounts) => Some(accounts.issuer()),
            Self::Webex(accounts) => Some(accounts.issuer()),
        }
    }
}

/// The value of a header that a signature needs and that may be there once.
///
/// # Errors
///
/// If it is there twice, or is no text.
pub(super) fn only_header<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> Result<Option<&'a str>, Denied> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    match (first.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.trim())),
        _ => Err(Denied::BadSignature),
    }
}

/// The bearer token of a request, if it has one.
///
/// # Errors
///
/// If `Authorization` is there and is something else, or there twice.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.trim().split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    match (token, values.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(Denied::MalformedToken),
    }
}

/// Whose bearer token it is, if there is one. It has to be by this issuer. `now` is in seconds since 1970.
///
/// # Errors
///
/// If the token is not good.
pub(super) async fn by_bearer(
    issuer: &Issuer,
    headers: &HeaderMap,
    now: u64,
) -> Result<Option<Identity>, Denied> {
    let Some(token) = bearer(headers)? else {
        return Ok(None);
    };
    let token = Token::parse(token)?;
    if token.issuer() != Some(issuer.url()) {
        return Err(Denied::WrongIssuer);
    }
    let tenant = issuer.tenant(&token, now).await?;
    Ok(Some(Identity::of(tenant)))
}

/// The issuer that a provider's table leads to. `tenants` are all that there are.
///
/// # Errors
///
/// What cannot work, in the words of that table, which has `accounts`, `issuer` and `jwks_url`.
pub(super) fn issuer_of(
    config: &IssuerConfig,
    tenants: &BTreeSet<String>,
) -> Result<Arc<Issuer>, Mistake> {
    let issuer = Issuer::new(config, tenants).map_err(|(field, problem)| match field {
        "tenants" => Mistake::new("accounts", "the tenant of one of these is no tenant"),
        "url" => Mistake::new("issuer", problem),
        _ => Mistake::new("jwks_url", problem),
    })?;
    Ok(Arc::new(issuer))
}

/// One `[[twilio.accounts]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwilioAccountConfig {
    /// Whose account it is.
    pub tenant: String,
    /// Agents that its numbers may reach; empty for all that the tenant may.
    #[serde(default)]
    pub agents: Vec<String>,
    /// The account's auth token; better one of the two below.
    pub auth_token: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub auth_token_env: Option<String>,
    /// Path of the file that holds it.
    pub auth_token_file: Option<PathBuf>,
    /// A second token that is good too, while the first is being changed.
    pub second_auth_token: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub second_auth_token_env: Option<String>,
    /// Path of the file that holds it.
    pub second_auth_token_file: Option<PathBuf>,
}

/// The Twilio accounts of all tenants.
#[derive(Clone)]
pub struct TwilioAccounts {
    /// Under which the gateway is known outside: `wss` or `ws` for upgrades.
    upgrade_base: String,
    /// The same with `https` or `http`, for webhooks.
    webhook_base: String,
    accounts: Vec<Account>,
}

#[derive(Clone)]
struct Account {
    tenant: String,
    agents: Vec<String>,
    tokens: Vec<SecretString>,
}

impl TwilioAccounts {
    /// Reads the accounts' tokens. `public_url` is how callers reach the gateway from outside.
    ///
    /// # Errors
    ///
    /// All mistakes, by the index of the account.
    pub fn new(
        public_url: &str,
        configs: &[TwilioAccountConfig],
    ) -> Result<Self, BTreeMap<usize, SecretError>> {
        let mut accounts = Vec::new();
        let mut mistakes = BTreeMap::new();
        for (index, config) in configs.iter().enumerate() {
            match read_tokens(config) {
                Ok(tokens) => accounts.push(Account {
                    tenant: config.tenant.clone(),
                    agents: config.agents.clone(),
                    tokens,
                }),
                Err(problem) => {
                    mistakes.insert(index, problem);
                }
            }
        }
        let (scheme, rest) = public_url.split_once("://").unwrap_or(("wss", public_url));
        let (upgrade, webhook) = match scheme {
            "ws" | "http" => ("ws", "http"),
            _ => ("wss", "https"),
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            upgrade_base: format!("{upgrade}://{rest}"),
            webhook_base: format!("{webhook}://{rest}"),
            accounts,
        })
    }

    fn tenant(&self, request: SignedRequest<'_>) -> Result<Option<&str>, BadSignature> {
        let mut values = request.headers.get_all(twilio_signature::HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(BadSignature);
        }
        let signature = value
            .to_str()
            .ok()
            .and_then(twilio_signature::decode)
            .ok_or(BadSignature)?;
        let base = match request.signed {
            Signed::Upgrade => &self.upgrade_base,
            Signed::Webhook { .. } => &self.webhook_base,
        };
        let urls = twilio_signature::candidates(base, request.target);
        let mut found = None;
        for account in &self.accounts {
            if !account.agents.is_empty() && !account.agents.iter().any(|it| it == request.agent) {
                continue;
            }
            for token in &account.tokens {
                if twilio_signature::is_signed(token, &urls, request.signed, &signature) {
                    found = found.or(Some(account.tenant.as_str()));
                }
            }
        }
        found.map(Some).ok_or(BadSignature)
    }
}

fn read_tokens(config: &TwilioAccountConfig) -> Result<Vec<SecretString>, SecretError> {
    let first = Source {
        name: "auth_token",
        value: config.auth_token.as_ref(),
        env: config.auth_token_env.as_deref(),
        file: config.auth_token_file.as_deref(),
    };
    let second = Source {
        name: "second_auth_token",
        value: config.second_auth_token.as_ref(),
        env: config.second_auth_token_env.as_deref(),
        file: config.second_auth_token_file.as_deref(),
    };
    let token = first.required()?;
    Ok([Some(token), second.read()?]
        .into_iter()
        .flatten()
        .collect())
}

impl fmt::Debug for TwilioAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants: Vec<_> = self
            .accounts
            .iter()
            .map(|account| &account.tenant)
            .collect();
        f.debug_struct("TwilioAccounts")
            .field("upgrade_base", &self.upgrade_base)
            .field("tenants", &tenants)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `wss://example.com/media` by the token `12345` (telephony reference 1.2).
    const MEDIA: &str = "7PR3qMkpDyEJtMrVOY/LDyNq8J8=";

    fn account(tenant: &str, agents: &[&str], tokens: [Option<&str>; 2]) -> TwilioAccountConfig {
        TwilioAccountConfig {
            tenant: tenant.to_owned(),
            agents: agents.iter().map(|&agent| agent.to_owned()).collect(),
            auth_token: tokens[0].map(Into::into),
            auth_token_env: None,
            auth_token_file: None,
            second_auth_token: tokens[1].map(Into::into),
            second_auth_token_env: None,
            second_auth_token_file: None,
        }
    }

    fn check(
        accounts: &[TwilioAccountConfig],
        target: &str,
        signatures: &[&str],
        expected: Result<Option<&str>, BadSignature>,
    ) {
        let accounts = TwilioAccounts::new("https://example.com", accounts).unwrap();
        let mut headers = HeaderMap::new();
        for signature in signatures {
            headers.append("X-Twilio-Signature", signature.parse().unwrap());
        }
        // What claims to be the address must not count.
        headers.insert("host", "evil.example".parse().unwrap());
        headers.insert("x-forwarded-host", "evil.example".parse().unwrap());
        let request = SignedRequest {
            target,
            headers: &headers,
            signed: Signed::Upgrade,
            agent: "desk",
        };
        assert_eq!(
            accounts.tenant(request),
            expected,
            "{target} {signatures:?}"
        );
    }

    #[test]
    fn the_account_is_found_by_its_token() {
        let other = account("other", &[], [Some("54321"), None]);
        let acme = account("acme", &[], [Some("12345"), None]);
        let both = [other.clone(), acme];
        check(&both, "/media", &[MEDIA], Ok(Some("acme")));
        check(&both, "/media/", &[MEDIA], Ok(Some("acme")));
        check(&both, "/media?a", &[MEDIA], Err(BadSignature));
        check(&both, "/medium", &[MEDIA], Err(BadSignature));
        check(&both, "/media", &[], Ok(None));
        check(&both, "/media", &[MEDIA, MEDIA], Err(BadSignature));
        for bad in ["", "AAAA", "\u{e9}", "7PR3qMkpDyEJtMrVOY/LDyNq8J9="] {
            check(&both, "/media", &[bad], Err(BadSignature));
        }
        check(&[other], "/media", &[MEDIA], Err(BadSignature));
        let rotated = account("acme", &[], [Some("new"), Some("12345")]);
        check(&[rotated], "/media", &[MEDIA], Ok(Some("acme")));
    }

    #[test]
    fn an_account_reaches_its_agents_only() {
        let here = account("acme", &["door", "desk"], [Some("12345"), None]);
        check(&[here], "/media", &[MEDIA], Ok(Some("acme")));
        let there = account("acme", &["door"], [Some("12345"), None]);
        check(&[there], "/media", &[MEDIA], Err(BadSignature));
    }

    #[test]
    fn tokens_are_needed_and_never_shown() {
        let configs = [
            account("acme", &[], [Some("s3cret"), Some("s3cret")]),
            account("bolt", &[], [None, Some("s3cret")]),
        ];
        let good = TwilioAccounts::new("wss://example.com", &configs[..1]).unwrap();
        let shown = format!("{good:?} {configs:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        let mistakes = TwilioAccounts::new("wss://example.com", &configs).unwrap_err();
        assert!(
            mistakes[&1].problem.starts_with("one of auth_token"),
            "{mistakes:?}"
        );
        assert_eq!(mistakes.len(), 1);
    }
}
