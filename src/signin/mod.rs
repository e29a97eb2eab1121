//! The sign-in check: compares the credentials of a request with the store's records. It needs the store, but no Kubernetes.
//!
//! Each process holds all records in memory and follows the store's feed. It uses memory only while the store has recently
//! confirmed that memory is current.
//!
//! Memory alone can only allow a sign-in, and only with a secret that is known to fit the record's hash. All other checks look
//! the record up in the store, so a new approval works in every process at once. Above a rate of lookups, they use memory while
//! it is current.

mod caller;
mod credentials;
mod directory;
mod follow;
mod http;
mod limits;
mod port;
mod tls;
mod verify;

use std::time::Duration;

use ipnet::IpNet;

pub use caller::Caller;
pub use credentials::Credentials;
pub use directory::{Consumer, Directory};
pub use http::routes;
pub use limits::Rate;
pub use port::port;
pub use tls::{Certificate, CertificateError};
pub use verify::{CheckResult, Verifier};

#[derive(Clone, Debug)]
pub struct Settings {
    /// How long ago the store may have confirmed that memory is current.
    pub max_staleness: Duration,
    /// Refused checks of one caller.
    pub misses_by_caller: Rate,
    /// Refused checks of one caller with one key.
    pub misses_by_key: Rate,
    /// Proxies whose `X-Forwarded-For` is used.
    pub trusted_proxies: Vec<IpNet>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(1),
            misses_by_caller: Rate { burst: 50, refill: 10 },
            misses_by_key: Rate { burst: 20, refill: 2 },
            trusted_proxies: Vec::new(),
        }
    }
}
