//! The sign-in check: credentials from a request, held against the store's records.
//!
//! Knows nothing of Kubernetes: it runs wherever the store can be reached. Each process holds all records in memory and follows
//! the store's feed. It answers from memory only while the store has confirmed, a moment ago, that memory is current.
//!
//! Memory alone only says yes, and only to a secret that it has seen fit the record's hash. All else is looked up in the store, so a
//! fresh approval works in every process at once. Beyond the rate of lookups, memory answers while it is current.

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

/// What the sign-in check is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long ago the store may have confirmed that memory is current.
    pub max_staleness: Duration,
    /// Refused checks of one caller.
    pub misses_by_caller: Rate,
    /// Refused checks of one caller with one key.
    pub misses_by_key: Rate,
    /// Proxies whose `X-Forwarded-For` is believed.
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
