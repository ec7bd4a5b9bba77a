//! Who a caller is. Pure decisions, given what it shows and the time; knows neither sockets nor what the caller
//! wants. [`Authenticator`] is the thin shell around them that reads the clock and holds what has to be remembered;
//! `issuer.rs` has the task that fetches the keys of those who sign tokens.

mod algorithm;
mod authenticator;
mod certificate;
mod clock;
mod config;
mod ephemeral;
mod http_signature;
mod issuer;
mod issuer_config;
mod json;
mod jwks;
mod jwt;
#[cfg(test)]
mod jwt_tests;
mod keys;
mod one_time;
mod provider;
mod provider_acs;
mod provider_audiosocket;
mod provider_genesys;
mod provider_plivo;
mod provider_telnyx;
mod provider_vonage;
mod provider_webex;
mod shared_keys;
mod ticket;
mod twilio_signature;

pub use algorithm::Algorithm;
pub use authenticator::{
    Authenticator, Denied, Identity, MintError, NewTicket, Purpose, Shown, TENANT_WITHOUT_AUTH,
};
pub use certificate::{CertificateConfig, ClientCertificate};
pub use clock::Now;
pub use config::{AuthConfig, AuthError, AuthMode, SigningConfig, TicketConfig};
pub use ephemeral::{EphemeralConfig, EphemeralKey, EphemeralSession};
pub use issuer_config::IssuerConfig;
pub use keys::{KeyConfig, hash_key};
pub use one_time::{OneTimeIds, UseError};
pub use provider::{
    Mistake, ProviderScheme, ProvidersConfig, SignedRequest, TwilioAccountConfig, TwilioAccounts,
};
pub use provider_acs::{AcsAccountConfig, AcsConfig};
pub use provider_audiosocket::{AUDIOSOCKET_UUID, AudioSocketAccountConfig, AudioSocketConfig};
pub use provider_genesys::{GenesysAccountConfig, GenesysConfig};
pub use provider_plivo::{PlivoAccountConfig, PlivoConfig};
pub use provider_telnyx::{TelnyxAccountConfig, TelnyxConfig};
pub use provider_vonage::{VonageAccountConfig, VonageConfig};
pub use provider_webex::{WebexAccountConfig, WebexConfig};
pub use shared_keys::{KeyStore, NoStore};
pub use ticket::OneTimeId;
pub use twilio_signature::Signed;
