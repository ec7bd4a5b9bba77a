//! Who a caller is. Pure decisions, given what it shows and the time; knows neither sockets nor what the caller
//! wants. [`Authenticator`] is the thin shell around them that reads the clock and holds what has to be remembered.

mod authenticator;
mod clock;
mod config;
mod ephemeral;
mod keys;
mod one_time;
mod provider;
mod secret;
mod ticket;
mod twilio_signature;

pub use authenticator::{
    Authenticator, Denied, Identity, MintError, NewTicket, Purpose, Shown, TENANT_WITHOUT_AUTH,
};
pub use clock::Now;
pub use config::{AuthConfig, AuthError, AuthMode, SigningConfig, TicketConfig};
pub use ephemeral::{EphemeralConfig, EphemeralKey, EphemeralSession};
pub use keys::{KeyConfig, hash_key};
pub use one_time::{OneTimeIds, UseError};
pub use provider::{ProviderScheme, SignedRequest, TwilioAccountConfig, TwilioAccounts};
pub use ticket::OneTimeId;
pub use twilio_signature::Signed;
