//! The `[listener]` and `[twilio]` tables.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::auth::TwilioAccountConfig;
use crate::bridge::REALTIME;
use crate::ingress::Dialect;
use crate::telemetry::open_files;

use super::asterisk::AsteriskConfig;
use super::audiosocket::AudioSocketListenerConfig;
use super::callers::CallersConfig;
use super::limits::LimitsConfig;
use super::shed::ShedConfig;
use super::tls::TlsConfig;

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
    /// Connections at a time, those of calls included; beyond it callers get a 503. Without, half of the file
    /// descriptors that the process may have, because a call needs two: one to the caller, one to the deployment.
    pub max_connections: Option<u32>,
    /// Web pages that may call: scheme, host and port as browsers send them in `Origin`, like
    /// `https://app.example.com`. Any other page is refused; callers that are no browser send no `Origin`.
    pub allowed_origins: Vec<String>,
    /// Networks of proxies whose `X-Forwarded-For` is believed, like `10.0.0.0/8`. The header of anybody else is not
    /// looked at.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
    pub backlog: u32,
    /// How long a request's head may take, and after it a webhook's form. A kept connection may wait as long for its
    /// next request.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// Whether an `api-version` on Azure's GA path is overlooked; the vendor answers 401.
    pub lenient_api_version: bool,
    /// TLS; without it callers come in plain text.
    pub tls: Option<TlsConfig>,
    /// What one connection, one source, one tenant and all together may take.
    pub limits: LimitsConfig,
    /// When new calls are refused because the process has too little left.
    pub shed: ShedConfig,
    /// What callers may send once they are answered.
    pub callers: CallersConfig,
    /// Where calls wait in Asterisk that the gateway is to take.
    pub asterisk: AsteriskConfig,
    /// Where Asterisk calls by AudioSocket.
    pub audiosocket: AudioSocketListenerConfig,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            max_calls: 1000,
            max_connections: None,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            backlog: 1024,
            head_timeout: Duration::from_secs(5),
            lenient_api_version: false,
            tls: None,
            limits: LimitsConfig::default(),
            shed: ShedConfig::default(),
            callers: CallersConfig::default(),
            asterisk: AsteriskConfig::default(),
            audiosocket: AudioSocketListenerConfig::default(),
        }
    }
}

/// Descriptors that are kept for anything but calls: listeners, logs, webhooks, operators.
const SPARE_DESCRIPTORS: usize = 64;

/// Where the system does not say how many descriptors there are.
const USUAL_CONNECTIONS: usize = 1000;

impl ListenerConfig {
    /// Connections at a time: what was set, or what the process's descriptors allow.
    #[must_use]
    pub fn connection_limit(&self) -> usize {
        match self.max_connections {
            Some(limit) => limit as usize,
            None => usual_connections(),
        }
    }

    /// `public_url` as WebSocket clients write it, without a slash at its end.
    #[must_use]
    pub fn public_ws_url(&self) -> Option<String> {
        let url = self.public_url.as_deref()?.trim_end_matches('/');
        Some(match url.strip_prefix("http") {
            Some(rest) => format!("ws{rest}"),
            None => url.to_owned(),
        })
    }

    /// Where a caller goes with a ticket, if it is known how callers reach the gateway.
    #[must_use]
    pub fn ticket_url(&self, dialect: &str, agent: &str, ticket: &str) -> Option<String> {
        let base = self.public_ws_url()?;
        Some(match dialect {
            REALTIME => {
                let model: String = form_urlencoded::byte_serialize(agent.as_bytes()).collect();
                format!("{base}/v1/realtime?model={model}&ticket={ticket}")
            }
            _ => format!("{base}{}/{agent}/{ticket}", Dialect::path_of(dialect)?),
        })
    }
}

/// Whether this is an address as [`ListenerConfig::public_url`] wants it: scheme and host, perhaps port and path.
#[must_use]
pub fn is_public_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let is_host = authority
        .parse::<http::uri::Authority>()
        .is_ok_and(|parsed| !parsed.host().is_empty() && !authority.contains('@'));
    matches!(scheme, "wss" | "https" | "ws" | "http") && is_host && !rest.contains(['?', '#'])
}

/// Connections that the process's descriptors allow.
#[must_use]
pub fn usual_connections() -> usize {
    std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| open_files(&limits))
        .map_or(USUAL_CONNECTIONS, |files| {
            (files.saturating_sub(SPARE_DESCRIPTORS) / 2).max(1)
        })
}

/// Whether this is an origin as browsers write it (RFC 6454 section 6.2): scheme and host in lower case, the port
/// only if it is not the scheme's own, and nothing after it.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let is_host = authority
        .parse::<http::uri::Authority>()
        .is_ok_and(|parsed| !parsed.host().is_empty() && parsed.as_str() == authority);
    is_lower && is_host && !authority.contains('@') && !authority.ends_with(default_port)
}

/// The `[twilio]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TwilioConfig {
    /// Who answers `POST /twilio/voice`; `POST /twilio/voice/AGENT` names another.
    pub agent: Option<String>,
    /// What a caller hears who cannot come in, before the call ends; without it, the busy tone.
    pub busy_message: Option<String>,
    /// The accounts whose signature lets their calls in. Without any, no signature is looked at.
    pub accounts: Vec<TwilioAccountConfig>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             63229                63229                processes \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(
            open_files("Max open files  unlimited  unlimited  files"),
            None
        );
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn addresses_are_told_as_sockets() {
        let url = |public_url: &str, dialect: &str| {
            let config = ListenerConfig {
                public_url: Some(public_url.to_owned()),
                ..ListenerConfig::default()
            };
            config.ticket_url(dialect, "a b", "tt_x").unwrap()
        };
        assert_eq!(
            url("https://a.example/", "realtime"),
            "wss://a.example/v1/realtime?model=a+b&ticket=tt_x"
        );
        assert_eq!(
            url("wss://a.example", "audio"),
            "wss://a.example/v1/audio/a b/tt_x"
        );
        assert_eq!(
            url("http://a.example:1/b", "twilio"),
            "ws://a.example:1/b/twilio/media/a b/tt_x"
        );
        assert_eq!(
            ListenerConfig::default().ticket_url("twilio", "a", "t"),
            None
        );
        for good in [
            "wss://a.example",
            "https://a.example:8443/base",
            "ws://[::1]:80/",
        ] {
            assert!(is_public_url(good), "{good}");
        }
        for bad in [
            "a.example",
            "wss://",
            "ftp://a.example",
            "wss://me@a.example",
            "wss://a.example/?b",
            "wss://a b",
        ] {
            assert!(!is_public_url(bad), "{bad}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in [
            "https://app.example.com",
            "https://app.example.com:8443",
            "http://localhost:3000",
            "http://[::1]:3000",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "null",
            "*",
            "app.example.com",
            "https://",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com:443",
            "https://me@app.example.com",
            "ftp://app.example.com",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
