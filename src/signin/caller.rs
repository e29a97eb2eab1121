//! The caller of a sign-in check: the client's address, also behind proxies.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::listener::ClientNetwork;

/// The client that refused checks are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller(ClientNetwork);

// === impl Caller ===

impl Caller {
    /// The caller behind a connection from `peer`. If `peer` is a trusted proxy, the caller is the last address in
    /// `X-Forwarded-For` that is no trusted proxy. Each proxy appends the address that it sees. Addresses before that may come
    /// from the client.
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
        let mut caller = peer.to_canonical();
        if is_trusted(caller) {
            let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
            let hops = values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
            for hop in hops {
                // Trusted proxies write only addresses. So the last address that was read is the caller.
                let Some(address) = parse(hop) else { break };
                caller = address;
                if !is_trusted(address) {
                    break;
                }
            }
        }
        Self(caller.into())
    }
}

/// An address, which some proxies write with a port.
fn parse(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let address = text.parse().ok().or_else(|| Some(text.parse::<std::net::SocketAddr>().ok()?.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(peer: &str, forwarded: &[&str]) -> Caller {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        Caller::of(peer.parse().unwrap(), &headers, &trusted)
    }

    #[test]
    fn only_trusted_proxies_may_name_the_caller() {
        let client = caller("203.0.113.7", &[]);
        for (peer, forwarded) in [
            ("203.0.113.7", &["198.51.100.1"][..]),
            ("10.0.0.1", &["203.0.113.7"]),
            ("::ffff:10.0.0.1", &["203.0.113.7:4711"]),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7, 10.2.0.9"]),
            ("10.0.0.1", &["198.51.100.1", "203.0.113.7", "10.2.0.9, fd00::1"]),
            ("10.0.0.1", &["not an address,203.0.113.7"]),
        ] {
            assert_eq!(caller(peer, forwarded), client, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn without_an_address_the_last_known_hop_is_the_caller() {
        let proxy = caller("10.0.0.1", &[]);
        for forwarded in [&[""][..], &["unknown"], &["203.0.113.7, garbage"], &["203.0.113.7,"]] {
            assert_eq!(caller("10.0.0.1", forwarded), proxy, "{forwarded:?}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_caller() {
        assert_eq!(caller("2001:db8::1", &[]), caller("2001:db8::2:3:4:5", &[]));
        assert_ne!(caller("2001:db8::1", &[]), caller("2001:db8:0:1::1", &[]));
        assert_eq!(caller("fd00::1", &["[2001:db8::9]:443"]), caller("2001:db8::1", &[]));
    }
}
