//! Decides who a caller is by whatever it shows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use crate::outbound::Outbound;
use crate::telemetry::Metrics;

use super::certificate::{Certificates, ClientCertificate};
use super::clock::{Clock, Now, unix_seconds};
use super::config::{AuthConfig, AuthError};
use super::ephemeral::{self, EphemeralKey, EphemeralKeys, EphemeralSession};
use super::issuer::Issuer;
use super::jwt::{self, Token};
use super::keys::{KeyRing, NoKey};
use super::one_time::{InProcess, OneTimeIds, UseError};
use super::provider::{ProviderScheme, SignedRequest};
use super::shared_keys::{KeySealer, KeyStore, SharedKeys};
use super::ticket::{self, BadTicket, OneTimeId, Ticket, TicketSigner};

/// The tenant of all callers where authentication is off.
pub const TENANT_WITHOUT_AUTH: &str = "default";

/// What a request shows of who sent it. All of it must be good, and of one tenant.
#[derive(Clone, Copy, Default)]
pub struct Shown<'a> {
    /// The key, token or ticket, whichever carrier it came in. Never to be logged.
    pub secret: Option<&'a str>,
    /// A ticket in the path, besides. Never to be logged.
    pub ticket: Option<&'a str>,
    /// The request, where a provider may have signed it.
    pub signed: Option<SignedRequest<'a>>,
    /// The certificate that was verified in the TLS handshake. One that is nobody's counts only if nothing else is shown.
    pub certificate: Option<&'a ClientCertificate>,
}

/// What a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A call by this dialect to this agent; in the dialect `realtime` to this model, if it names one.
    Call {
        /// The dialect's name.
        dialect: &'a str,
        /// The agent or model.
        agent: Option<&'a str>,
    },
    /// To be told where to connect a call that comes by this dialect.
    Webhook {
        /// The dialect's name.
        dialect: &'a str,
    },
    /// Tickets or keys for others. What is short-lived itself does not give that.
    Mint,
}

/// Who a caller is, once that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Whose caller it is.
    pub tenant: String,
    /// What it may open, if it showed an ephemeral key.
    pub session: Option<Arc<EphemeralSession>>,
    /// The only agent or model that it may reach, if it showed a ticket.
    pub agent: Option<String>,
    /// What [`Authenticator::use_up`] marks as used, with its end in Unix seconds.
    one_time: Option<(OneTimeId, u64)>,
}

impl Identity {
    /// A caller of this tenant, of whom nothing else is known.
    #[must_use]
    pub fn of(tenant: impl Into<String>) -> Self {
        Self {
            tenant: tenant.into(),
            ..Self::default()
        }
    }

    /// The same, but what it showed is good for one call only; it is remembered until `expires`, in Unix seconds.
    pub(super) fn good_once(self, id: OneTimeId, expires: u64) -> Self {
        Self {
            one_time: Some((id, expires)),
            ..self
        }
    }
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
    /// A key, ticket or token that was good once.
    #[error("expired")]
    Expired,
    /// Nothing that we have signed.
    #[error("bad ticket")]
    BadTicket,
    /// A good ticket or ephemeral key, for something else.
    #[error("shown where it is not for")]
    Misplaced,
    /// A ticket that was used before.
    #[error("ticket used twice")]
    Replayed,
    /// A provider's signature that is none of any account, or a token that its key did not sign.
    #[error("bad signature")]
    BadSignature,
    /// The token cannot be read, or has a member twice.
    #[error("malformed token")]
    MalformedToken,
    /// The token is of another kind, or has extensions that are not understood.
    #[error("unsupported token")]
    UnsupportedToken,
    /// The token's algorithm is none that its issuer may use, or not that of its key.
    #[error("algorithm not allowed")]
    BadAlgorithm,
    /// No issuer of the configuration made the token.
    #[error("wrong issuer")]
    WrongIssuer,
    /// The token is meant for another service.
    #[error("wrong audience")]
    WrongAudience,
    /// The token says that it is from the future.
    #[error("not yet valid")]
    NotYetValid,
    /// The token would be good for ever.
    #[error("no expiry")]
    NoExpiry,
    /// A claim that the configuration asks for is missing or says something else.
    #[error("missing claim")]
    MissingClaim,
    /// The token leads to no tenant.
    #[error("no tenant")]
    NoTenant,
    /// The issuer has no such key.
    #[error("unknown signing key")]
    UnknownSigningKey,
    /// The issuer's keys were never fetched.
    #[error("signing keys unavailable")]
    KeysUnavailable,
    /// Whether another replica has made that ephemeral key, nobody can say.
    #[error("the store of ephemeral keys does not answer")]
    StoreUnavailable,
    /// Two tickets, or credentials of two tenants.
    #[error("credentials that contradict each other")]
    Contradictory,
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
            Self::Expired => "expired",
            Self::BadTicket => "bad_ticket",
            Self::Misplaced => "misplaced",
            Self::Replayed => "replayed",
            Self::BadSignature => "bad_signature",
            Self::MalformedToken => "malformed_token",
            Self::UnsupportedToken => "unsupported_token",
            Self::BadAlgorithm => "bad_algorithm",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::NotYetValid => "not_yet_valid",
            Self::NoExpiry => "no_expiry",
            Self::MissingClaim => "missing_claim",
            Self::NoTenant => "no_tenant",
            Self::UnknownSigningKey => "unknown_signing_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::StoreUnavailable => "store_unavailable",
            Self::Contradictory => "contradictory",
            Self::UnknownCertificate => "unknown_certificate",
        }
    }
}

/// A new ticket.
#[derive(Debug)]
pub struct NewTicket {
    /// The ticket, which is kept nowhere.
    pub value: SecretString,
    /// When it ceases to be good, in Unix seconds.
    pub expires_at: u64,
}

/// Why no ticket or key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// There is no secret that signs.
    #[error("tickets need [auth.signing] in the configuration")]
    NoSigning,
    /// A life of less than a second, or longer than the configuration allows.
    #[error("the life of a ticket is from 1 s to {max_s} s")]
    Life {
        /// The longest, in seconds.
        max_s: u64,
    },
    /// The tenant or all together have as many as they may.
    #[error("too many ephemeral keys")]
    TooMany,
    /// The other replicas cannot be told of it.
    #[error("the store of ephemeral keys does not answer")]
    NoStore,
    /// The system has none.
    #[error("no randomness")]
    NoRandomness,
}

/// Knows all ways to be let in.
#[derive(Clone, Debug)]
pub struct Authenticator {
    keys: KeyRing,
    issuers: Arc<[Arc<Issuer>]>,
    certificates: Certificates,
    signer: Option<TicketSigner>,
    ephemeral: Arc<EphemeralKeys>,
    sealer: Option<KeySealer>,
    /// Where other replicas learn of ephemeral keys.
    store: Option<Arc<dyn KeyStore>>,
    shared: Option<SharedKeys>,
    tenants: BTreeSet<String>,
    used: Arc<dyn OneTimeIds>,
    providers: Vec<ProviderScheme>,
    clock: Clock,
}

impl Authenticator {
    /// Checks the configuration. `providers` are the schemes of those that sign their requests, `tenants` all
    /// that there are.
    ///
    /// # Errors
    ///
    /// If it cannot work.
    pub fn new(
        config: &AuthConfig,
        providers: Vec<ProviderScheme>,
        tenants: &BTreeSet<String>,
    ) -> Result<Self, AuthError> {
        let keys = KeyRing::new(config)?;
        let issuers = issuers(config, tenants)?;
        let signer = config.ticket_signer()?;
        let has_any = !keys.is_empty() || !config.certificates.is_empty() || !issuers.is_empty();
        if !keys.is_off() && !has_any && signer.is_none() && providers.is_empty() {
            return Err(AuthError::NoKeys);
        }
        Ok(Self {
            keys,
            issuers,
            certificates: Certificates::new(&config.certificates),
            signer,
            ephemeral: Arc::new(EphemeralKeys::new(config.ephemeral_keys)),
            sealer: config.key_sealer()?,
            store: None,
            shared: None,
            tenants: tenants.clone(),
            used: Arc::new(InProcess::default()),
            providers,
            clock: Clock::start(),
        })
    }

    /// Has used tickets remembered elsewhere than in this process.
    pub fn remember_tickets(&mut self, used: Arc<dyn OneTimeIds>) {
        self.used = used;
    }

    /// Has ephemeral keys known to all that use the same store and the same signing secret. Without such a secret
    /// nothing changes.
    pub fn share_ephemeral_keys(&mut self, store: Arc<dyn KeyStore>) {
        let sealer = self.sealer.clone();
        self.shared = sealer.map(|sealer| SharedKeys::new(sealer, Arc::clone(&store)));
        self.store = Some(store);
    }

    /// Remembers what `old` did, whose place this takes while the process runs: tickets and nonces that were used,
    /// ephemeral keys of tenants that are still there, issuers' signing keys, the time.
    pub fn take_over(&mut self, old: &Self) {
        self.clock = old.clock;
        self.used = Arc::clone(&old.used);
        if let Some(store) = &old.store {
            self.share_ephemeral_keys(Arc::clone(store));
        }
        let is_tenant = |name: &str| {
            let is_open = self.is_off() && name == TENANT_WITHOUT_AUTH;
            is_open || self.tenants.contains(name)
        };
        self.ephemeral = Arc::new(self.ephemeral.after(&old.ephemeral, is_tenant));
        for issuer in self.all_issuers() {
            old.all_issuers().for_each(|old| issuer.take_keys(old));
        }
    }

    /// Those of tokens, and those of providers.
    fn all_issuers(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        let providers = self.providers.iter().filter_map(ProviderScheme::issuer);
        self.issuers.iter().chain(providers)
    }

    /// Whether other replicas know the ephemeral keys that are made here.
    #[must_use]
    pub fn shares_ephemeral_keys(&self) -> bool {
        self.shared.is_some()
    }

    /// Keeps the issuers' signing keys fresh while it is polled, until `stop`. From the call on, callers wait for keys
    /// that are not there yet; without it no token is good.
    pub fn keep_keys_fresh(
        &self,
        outbound: Outbound,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let issuers: Vec<_> = self.all_issuers().cloned().collect();
        issuers.iter().for_each(|issuer| issuer.start());
        async move {
            let fetching = issuers
                .iter()
                .map(|issuer| issuer.keep_fresh(outbound.clone(), &metrics, stop.clone()));
            join_all(fetching).await;
        }
    }

    /// Whether everybody may come in, so that tenants are not told apart.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.keys.is_off()
    }

    /// Who shows this. Everybody is [`TENANT_WITHOUT_AUTH`] where authentication is off and no provider signs. A
    /// ticket is not used up by this, see [`Self::use_up`].
    ///
    /// # Errors
    ///
    /// If it is nobody that may come in.
    pub async fn identify(
        &self,
        shown: Shown<'_>,
        purpose: Purpose<'_>,
    ) -> Result<Identity, Denied> {
        self.decide(shown, purpose, self.clock.now()).await
    }

    /// Marks the ticket as used that the caller showed, if it did. To be done when nothing else stands against the
    /// call, and before anything is done for it: a caller who was refused for want of room may come again with the
    /// same ticket, and one who was let in may not.
    ///
    /// # Errors
    ///
    /// If it was used before, or nobody can say.
    pub async fn use_up(&self, identity: &Identity) -> Result<(), UseError> {
        match identity.one_time {
            Some((id, expires)) => self.used.use_up(id, expires, self.clock.now()).await,
            None => Ok(()),
        }
    }

    /// Whether there can be tickets.
    #[must_use]
    pub fn has_tickets(&self) -> bool {
        self.signer.is_some()
    }

    /// Makes a ticket for a call of `tenant` by `dialect` to `agent`; without `life`, as long-lived as is allowed.
    ///
    /// # Errors
    ///
    /// If there are no tickets, or none of that life.
    pub fn make_ticket(
        &self,
        tenant: &str,
        dialect: &str,
        agent: &str,
        life: Option<Duration>,
    ) -> Result<NewTicket, MintError> {
        let signer = self.signer.as_ref().ok_or(MintError::NoSigning)?;
        let max_s = signer.max_life();
        let life = life.map_or(max_s, |life| life.as_secs());
        if life == 0 || life > max_s {
            return Err(MintError::Life { max_s });
        }
        let expires_at = self.clock.now().wall + life;
        let value = signer.sign(&Ticket {
            tenant: tenant.to_owned(),
            agent: agent.to_owned(),
            dialect: dialect.to_owned(),
            expires: expires_at,
            id: random()?,
        });
        Ok(NewTicket { value, expires_at })
    }

    /// Makes an ephemeral key of `tenant` that opens such sessions for `life`.
    ///
    /// # Errors
    ///
    /// If there are too many, or other replicas are to know it and cannot be told.
    pub async fn make_ephemeral_key(
        &self,
        tenant: &str,
        session: EphemeralSession,
        life: Duration,
    ) -> Result<EphemeralKey, MintError> {
        let (random, now) = (random()?, self.clock.now());
        let (shared, life) = (&self.shared, life.as_secs());
        let told = shared.as_ref().map(|shared| (shared, session.clone()));
        let key = self
            .ephemeral
            .mint(tenant, session, life, random, now)
            .ok_or(MintError::TooMany)?;
        if let Some((shared, session)) = told {
            let value = key.value.expose_secret();
            let kept = shared.keep(value, tenant, &session, key.expires_at, life);
            if kept.await.is_err() {
                self.ephemeral.forget(value);
                return Err(MintError::NoStore);
            }
        }
        Ok(key)
    }

    fn takes_tokens(&self) -> bool {
        !self.keys.is_off() && !self.issuers.is_empty()
    }

    /// Tokens are judged by the wall clock as it is: unlike what this process signs, they are made by another.
    async fn by_token(&self, token: &str) -> Result<Identity, Denied> {
        let token = Token::parse(token)?;
        let says = token.issuer();
        let issuer = self.issuers.iter().find(|it| Some(it.url()) == says);
        let issuer = issuer.ok_or(Denied::WrongIssuer)?;
        let now = unix_seconds(SystemTime::now());
        issuer.tenant(&token, now).await.map(Identity::of)
    }

    async fn decide(
        &self,
        shown: Shown<'_>,
        purpose: Purpose<'_>,
        now: Now,
    ) -> Result<Identity, Denied> {
        let mut found = None;
        if let Some(identity) = self.by_provider(shown, purpose).await? {
            agree(&mut found, identity)?;
        }
        let secret_ticket = shown.secret.filter(|text| text.starts_with(ticket::PREFIX));
        match (shown.ticket, secret_ticket) {
            (Some(_), Some(_)) => return Err(Denied::Contradictory),
            (Some(text), None) | (None, Some(text)) => {
                agree(&mut found, self.by_ticket(text, purpose, now)?)?;
            }
            (None, None) => {}
        }
        match shown.secret {
            Some(text) if text.starts_with(ticket::PREFIX) => {}
            Some(text) if text.starts_with(ephemeral::PREFIX) => {
                agree(&mut found, self.by_ephemeral_key(text, purpose, now).await?)?;
            }
            Some(text) if self.takes_tokens() && jwt::is_token(text) => {
                agree(&mut found, self.by_token(text).await?)?;
            }
            Some(text) if !self.keys.is_off() => {
                agree(&mut found, self.by_key(text, now)?)?;
            }
            _ => {}
        }
        let is_open = self.keys.is_off() && self.provider(purpose).is_none();
        if let Some(certificate) = shown.certificate {
            match self.certificates.tenant(certificate) {
                Some(tenant) => agree(&mut found, Identity::of(tenant))?,
                None if found.is_none() && !is_open => return Err(Denied::UnknownCertificate),
                // One that means nothing here may be there for a proxy, besides what does.
                None => {}
            }
        }
        match found {
            Some(identity) => Ok(identity),
            None if is_open => Ok(Identity::of(TENANT_WITHOUT_AUTH)),
            None => Err(Denied::Missing),
        }
    }

    fn by_key(&self, text: &str, now: Now) -> Result<Identity, Denied> {
        let tenant = self.keys.tenant(text, now).map_err(Denied::from)?;
        Ok(Identity::of(tenant))
    }

    /// The scheme of the provider whose callers come by this dialect, if the operator named its accounts.
    fn provider(&self, purpose: Purpose<'_>) -> Option<&ProviderScheme> {
        let (Purpose::Call { dialect, .. } | Purpose::Webhook { dialect }) = purpose else {
            return None;
        };
        let mut providers = self.providers.iter();
        providers.find(|provider| provider.dialect() == dialect)
    }

    async fn by_provider(
        &self,
        shown: Shown<'_>,
        purpose: Purpose<'_>,
    ) -> Result<Option<Identity>, Denied> {
        let (Some(provider), Some(request)) = (self.provider(purpose), shown.signed) else {
            return Ok(None);
        };
        // As tokens, what a provider signed is judged by the wall clock as it is.
        let now = unix_seconds(SystemTime::now());
        match provider.caller(request, now).await? {
            // A webhook is answered to the provider alone, whatever else is shown.
            None if matches!(purpose, Purpose::Webhook { .. }) => Err(Denied::Missing),
            identity => Ok(identity),
        }
    }

    /// Used elsewhere, a ticket is not good and not used up either: nothing is won by trying it there, and who
    /// mistook the place may still go to the right one.
    fn by_ticket(&self, text: &str, purpose: Purpose<'_>, now: Now) -> Result<Identity, Denied> {
        let signer = self.signer.as_ref().ok_or(Denied::BadTicket)?;
        let ticket = signer.verify(text, now).map_err(|bad| match bad {
            BadTicket::Forged => Denied::BadTicket,
            BadTicket::Expired => Denied::Expired,
        })?;
        match purpose {
            Purpose::Call { dialect, agent }
                if dialect == ticket.dialect && agent.is_none_or(|agent| agent == ticket.agent) =>
            {
                Ok(Identity {
                    one_time: Some((ticket.id, ticket.expires)),
                    agent: Some(ticket.agent),
                    ..Identity::of(ticket.tenant)
                })
            }
            _ => Err(Denied::Misplaced),
        }
    }

    /// The model is not looked at: another one than the key's is no question of who somebody is.
    async fn by_ephemeral_key(
        &self,
        text: &str,
        purpose: Purpose<'_>,
        now: Now,
    ) -> Result<Identity, Denied> {
        let found = match (self.ephemeral.find(text, now), &self.shared) {
            (Err(NoKey::Unknown), Some(shared)) => {
                let found = shared.find(text, now).await;
                found.map_err(|_| Denied::StoreUnavailable)?
            }
            (found, _) => found,
        };
        let (tenant, session) = found.map_err(Denied::from)?;
        match purpose {
            Purpose::Call {
                dialect: "realtime",
                ..
            } => Ok(Identity {
                session: Some(session),
                ..Identity::of(tenant)
            }),
            _ => Err(Denied::Misplaced),
        }
    }
}

fn issuers(
    config: &AuthConfig,
    tenants: &BTreeSet<String>,
) -> Result<Arc<[Arc<Issuer>]>, AuthError> {
    let mut issuers: Vec<Arc<Issuer>> = Vec::new();
    for (config, n) in config.issuers.iter().zip(1..) {
        let mistake = |(field, problem)| AuthError::Issuer(n, field, problem);
        let issuer = Issuer::new(config, tenants).map_err(mistake)?;
        if issuers.iter().any(|other| other.url() == issuer.url()) {
            return Err(mistake(("url", "this issuer stands twice")));
        }
        issuers.push(Arc::new(issuer));
    }
    Ok(issuers.into())
}

impl From<NoKey> for Denied {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => Self::UnknownKey,
            NoKey::Expired => Self::Expired,
        }
    }
}

/// Adds what another credential says to what is known.
fn agree(known: &mut Option<Identity>, also: Identity) -> Result<(), Denied> {
    match known {
        None => *known = Some(also),
        Some(known) if known.tenant != also.tenant => return Err(Denied::Contradictory),
        Some(known) => {
            known.session = known.session.take().or(also.session);
            known.agent = known.agent.take().or(also.agent);
            known.one_time = known.one_time.or(also.one_time);
        }
    }
    Ok(())
}

fn random<const N: usize>() -> Result<[u8; N], MintError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| MintError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
