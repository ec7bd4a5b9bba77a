//! Addresses of deployments, and those of before while names cannot be looked up.
//!
//! A name is looked up for each dial, so a changed address is used as soon as the system's resolver tells it. Names of
//! callers or of calls never come here.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the last good addresses are used (faults reference, 14).
const LAST_GOOD: Duration = Duration::from_secs(600);

/// A resolver that is silent for so long is not waited for where there is an address from before.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// One that was silent is not asked again for so long, because each question waits in a thread.
const SILENT: Duration = Duration::from_secs(4);

/// Looks up names.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// The addresses of a host.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug)]
pub(super) struct System;

impl Resolve for System {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// The last good addresses of all hosts.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<(String, u16), Known>>);

#[derive(Clone, Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
    silent_until: Option<Instant>,
}

impl Addresses {
    /// A look-up brought these.
    pub(super) fn found(&self, host: &str, port: u16, addresses: &[SocketAddr], now: Instant) {
        let known = Known {
            addresses: addresses.to_vec(),
            at: now,
            silent_until: None,
        };
        self.lock().insert((host.to_owned(), port), known);
    }

    /// The resolver does not answer.
    pub(super) fn silent(&self, host: &str, port: u16, now: Instant) {
        if let Some(known) = self.lock().get_mut(&(host.to_owned(), port)) {
            known.silent_until = Some(now + SILENT);
        }
    }

    /// The addresses of before, if they may still be used, and whether the resolver need not even be asked.
    pub(super) fn last_good(
        &self,
        host: &str,
        port: u16,
        now: Instant,
    ) -> Option<(Vec<SocketAddr>, bool)> {
        let known = self.lock().get(&(host.to_owned(), port))?.clone();
        let is_usable = now.saturating_duration_since(known.at) < LAST_GOOD;
        let is_silent = known.silent_until.is_some_and(|until| now < until);
        is_usable.then_some((known.addresses, is_silent))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, u16), Known>> {
        self.0.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_for_ten_minutes() {
        let now = Instant::now();
        let all = Addresses::default();
        let address: SocketAddr = "10.0.0.1:443".parse().expect("an address");
        assert_eq!(all.last_good("a", 443, now), None);
        all.found("a", 443, &[address], now);
        assert_eq!(all.last_good("a", 80, now), None);
        let almost = now + LAST_GOOD - Duration::from_millis(1);
        assert_eq!(
            all.last_good("a", 443, almost),
            Some((vec![address], false))
        );
        assert_eq!(all.last_good("a", 443, now + LAST_GOOD), None);
        all.silent("a", 443, now);
        all.silent("b", 443, now);
        let is_silent = |after| all.last_good("a", 443, now + after).map(|found| found.1);
        assert_eq!(is_silent(Duration::ZERO), Some(true));
        assert_eq!(is_silent(SILENT), Some(false));
    }
}
