//! The `[listener.limits]` table: what one connection, one source, one tenant and all together may take.

use std::time::Duration;

use serde::Deserialize;

/// The `[listener.limits]` table; the defaults are those of the limits reference where it names one. A count or rate
/// of zero switches that limit off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// How long a TLS handshake may take.
    #[serde(with = "humantime_serde")]
    pub tls_handshake: Duration,
    /// How long it may take from a connection's accept to knowing who calls. Opening the session at the deployment
    /// comes after it and has limits of its own. On a kept connection it counts from the request's head.
    #[serde(with = "humantime_serde")]
    pub upgrade: Duration,
    /// How long a connection may last on which no good credential was shown; counted from the end of its TLS
    /// handshake. A request under way is answered before.
    #[serde(with = "humantime_serde")]
    pub unauthenticated: Duration,
    /// How long sent bytes may stay unacknowledged before the system gives the connection up (`TCP_USER_TIMEOUT`).
    #[serde(with = "humantime_serde")]
    pub unacknowledged: Duration,
    /// Bytes of a request's head; more get a 431.
    pub head_bytes: usize,
    /// Headers of a request; more get a 431.
    pub headers: usize,
    /// Bytes of a request's path and query; more get a 414.
    pub target_bytes: usize,
    /// Requests on one connection.
    pub requests_per_connection: u32,
    /// TLS handshakes at a time.
    pub handshakes: u32,
    /// TLS handshakes of one source at a time.
    pub handshakes_per_source: u32,
    /// Connections of one source at a time on which no good credential was shown yet.
    pub connections_per_source: u32,
    /// Refused credentials of one source in a minute; after them, it gets a 429 whatever it shows.
    pub failed_auth_per_minute: u32,
    /// New calls in a second.
    pub calls_per_second: u32,
    /// New calls of one tenant in a second. Without authentication there are no tenants to tell apart.
    pub calls_per_second_per_tenant: u32,
    /// Sources that are remembered; beyond it the one that was quiet for longest is forgotten.
    pub sources: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(5),
            upgrade: Duration::from_secs(8),
            unauthenticated: Duration::from_secs(5),
            unacknowledged: Duration::from_secs(20),
            head_bytes: 16 * 1024,
            headers: 64,
            target_bytes: 4 * 1024,
            requests_per_connection: 100,
            handshakes: 256,
            handshakes_per_source: 16,
            connections_per_source: 64,
            failed_auth_per_minute: 60,
            calls_per_second: 200,
            calls_per_second_per_tenant: 20,
            sources: 64 * 1024,
        }
    }
}

/// The HTTP library takes no smaller buffer.
const LEAST_HEAD_BYTES: usize = 8 * 1024;

impl LimitsConfig {
    /// What cannot work: the field and why.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let durations = [
            ("tls_handshake", self.tls_handshake),
            ("upgrade", self.upgrade),
            ("unauthenticated", self.unauthenticated),
            ("unacknowledged", self.unacknowledged),
        ];
        let mut mistakes: Vec<_> = durations
            .into_iter()
            .filter(|(_, duration)| duration.is_zero())
            .map(|(field, _)| (field, "nobody could call in no time".to_owned()))
            .collect();
        let counts = [
            ("headers", self.headers),
            ("target_bytes", self.target_bytes),
            (
                "requests_per_connection",
                self.requests_per_connection as usize,
            ),
            ("sources", self.sources),
        ];
        for (field, count) in counts {
            if count == 0 {
                mistakes.push((field, "must be at least 1".to_owned()));
            }
        }
        if self.head_bytes < LEAST_HEAD_BYTES {
            let problem = format!("must be at least {LEAST_HEAD_BYTES}");
            mistakes.push(("head_bytes", problem));
        }
        mistakes
    }

    /// The limits that are switched off.
    #[must_use]
    pub fn switched_off(&self) -> Vec<&'static str> {
        let counts = [
            ("handshakes", self.handshakes),
            ("handshakes_per_source", self.handshakes_per_source),
            ("connections_per_source", self.connections_per_source),
            ("failed_auth_per_minute", self.failed_auth_per_minute),
            ("calls_per_second", self.calls_per_second),
            (
                "calls_per_second_per_tenant",
                self.calls_per_second_per_tenant,
            ),
        ];
        let off = counts.into_iter().filter(|(_, count)| *count == 0);
        off.map(|(field, _)| field).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        let check = |text: &str, expected: &[&str]| {
            let limits: LimitsConfig = toml::from_str(text).unwrap();
            let found: Vec<_> = limits.mistakes().into_iter().map(|it| it.0).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("", &[]);
        check("upgrade = '0s'", &["upgrade"]);
        check("headers = 0\nsources = 0", &["headers", "sources"]);
        check("head_bytes = 8191", &["head_bytes"]);
        check("head_bytes = 8192\nconnections_per_source = 0", &[]);
    }
}
