//! Who a caller is. Pure decisions; knows neither sockets nor what the caller wants.

mod keys;

pub use keys::{
    AuthConfig, AuthError, AuthMode, KeyConfig, KeyRing, TENANT_WITHOUT_AUTH, hash_key,
};
