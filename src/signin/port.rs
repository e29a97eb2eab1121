//! The port of the sign-in check and its limits.

use std::sync::Arc;

use super::{Certificate, Verifier, routes};
use crate::listener::{Limits, Port};
use crate::telemetry::{Metrics, PortName};

/// The most connections at once. Gateways need a few dozen. A client can make each take 32 KiB, or 64 KiB with TLS: 32 or 64 MiB
/// in all. The chart's memory check (`oac.check-memory`) leaves room for them.
const CONNECTIONS: usize = 1_024;

/// The largest head of a request, in bytes. Gateways forward their clients' cookies.
const HEAD_BYTES: usize = 16 * 1024;

/// Trusted proxies count as gateways.
pub fn port(verifier: Arc<Verifier>, metrics: Arc<Metrics>, certificate: Option<Arc<Certificate>>) -> Port {
    Port {
        limits: Limits { connections: CONNECTIONS, head: HEAD_BYTES, gateways: verifier.trusted_proxies().to_vec() },
        refused: metrics.connections_refused.counter(PortName::Signin),
        acceptor: certificate.map(|certificate| Box::new(move || certificate.acceptor()) as _),
        routes: routes(verifier, metrics),
    }
}
