//! The `[listener]` and `[twilio]` tables.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

/// The `[listener]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerConfig {
    /// Address on which callers come in.
    pub address: SocketAddr,
    /// How callers reach it from outside: scheme and host, as in `wss://voice.example.com`.
    pub public_url: Option<String>,
    /// Calls at a time.
    pub max_calls: u32,
    /// How long a request's head may take.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// Whether an `api-version` on Azure's GA path is overlooked; the vendor answers 401.
    pub lenient_api_version: bool,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            max_calls: 1000,
            head_timeout: Duration::from_secs(5),
            lenient_api_version: false,
        }
    }
}

/// The `[twilio]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TwilioConfig {
    /// Who answers `POST /twilio/voice`; `POST /twilio/voice/AGENT` names another.
    pub agent: Option<String>,
}
