//! Who a caller is. Pure decisions; knows neither sockets nor what the caller wants.

mod authenticator;
mod certificate;
mod keys;

pub use authenticator::{Authenticator, Denied, Identity, Shown};
pub use certificate::{CertificateConfig, ClientCertificate};
pub use keys::{AuthConfig, AuthError, AuthMode, KeyConfig, TENANT_WITHOUT_AUTH, hash_key};
