//! The addresses that count as one client.

use std::net::IpAddr;

/// An IPv4 address, or an IPv6 network of 64 bits, which is what one client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u128);

// === impl ClientNetwork ===

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u128::from(address.to_bits())),
            IpAddr::V6(address) => Self(address.to_bits() >> 64 << 64),
        }
    }
}
