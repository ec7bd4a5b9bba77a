//! Whose word on a caller's address is taken: proxies that the operator named.
//!
//! Only `X-Forwarded-For` is read. A header that anybody can send says nothing unless the peer is such a proxy, and
//! then only what that proxy itself wrote: the right-most address that is none of the operator's own.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// The header that proxies add their peer's address to.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The proxies of the operator.
#[derive(Clone, Debug, Default)]
pub(super) struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self(networks.to_vec())
    }

    /// Whether this is the address of such a proxy.
    pub(super) fn include(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of who sent a request, if `peer` is on the other end of the connection. `None` if a proxy
    /// does not tell.
    pub(super) fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        if !self.include(peer) {
            return Some(peer.to_canonical());
        }
        let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        let hops = lines.iter().rev().flat_map(|line| {
            let line = line.to_str().unwrap_or_default();
            line.rsplit(',').map(|hop| address(hop.trim()))
        });
        for hop in hops {
            // What is no address was written by who is no proxy of ours, or by one that does not tell.
            let hop = hop?;
            if !self.include(hop) {
                return Some(hop);
            }
        }
        None
    }
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address = bracketed
        .unwrap_or(text)
        .parse::<IpAddr>()
        .ok()
        .or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn check(peer: &str, lines: &[&str], expected: Option<&str>) {
        let proxies = TrustedProxies(vec![
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ]);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let found = proxies.caller(peer.parse().unwrap(), &headers);
        let expected = expected.map(|it| it.parse::<IpAddr>().unwrap());
        assert_eq!(found, expected, "{peer} {lines:?}");
    }

    #[test]
    fn only_a_proxy_of_ours_is_believed() {
        check("192.0.2.9", &[], Some("192.0.2.9"));
        check("192.0.2.9", &["198.51.100.7"], Some("192.0.2.9"));
        check(PROXY, &["198.51.100.7"], Some("198.51.100.7"));
        check("::ffff:10.0.0.1", &["198.51.100.7"], Some("198.51.100.7"));
        check("2001:db8::5", &["198.51.100.7"], Some("198.51.100.7"));
    }

    #[test]
    fn the_right_most_stranger_counts() {
        // What stands further left was written by the caller.
        check(PROXY, &["1.1.1.1, 198.51.100.7"], Some("198.51.100.7"));
        check(PROXY, &["1.1.1.1", "198.51.100.7"], Some("198.51.100.7"));
        check(
            PROXY,
            &["1.1.1.1, 198.51.100.7, 10.9.9.9", "10.0.0.2"],
            Some("198.51.100.7"),
        );
        check(PROXY, &["10.1.1.1, 198.51.100.7"], Some("198.51.100.7"));
    }

    #[test]
    fn addresses_may_have_ports() {
        check(PROXY, &["198.51.100.7:4711"], Some("198.51.100.7"));
        check(PROXY, &["[2a00:1::7]:4711"], Some("2a00:1::7"));
        check(PROXY, &["[2a00:1::7]"], Some("2a00:1::7"));
        check(PROXY, &["2a00:1::7"], Some("2a00:1::7"));
    }

    #[test]
    fn nobody_is_made_up() {
        check(PROXY, &[], None);
        check(PROXY, &[""], None);
        check(PROXY, &["unknown"], None);
        check(PROXY, &["198.51.100.7, unknown"], None);
        check(PROXY, &["10.0.0.2, 10.0.0.3"], None);
    }
}
