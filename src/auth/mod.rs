//! Who a caller is. Decisions, pure but for the task that fetches issuers' keys; knows neither sockets nor what the
//! caller wants.

mod algorithm;
mod authenticator;
mod issuer;
mod issuer_config;
mod json;
mod jwks;
mod jwt;
#[cfg(test)]
mod jwt_tests;
mod keys;

pub use algorithm::Algorithm;
pub use authenticator::{Authenticator, Denied, Identity, Shown};
pub use issuer_config::IssuerConfig;
pub use keys::{AuthConfig, AuthError, AuthMode, KeyConfig, TENANT_WITHOUT_AUTH, hash_key};
