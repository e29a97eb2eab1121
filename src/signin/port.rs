//! What the port of the sign-in check grants.

use std::sync::Arc;

use super::{Certificate, Verifier, routes};
use crate::listener::{Limits, Port};
use crate::telemetry::{Metrics, PortName};

/// Connections at once. Gateways need some dozens. A client can make each cost 32 KiB, or 64 KiB with TLS: all of them together
/// cost 32 or 64 MiB, for which the chart's memory check (`oac.check-memory`) leaves room.
const CONNECTIONS: usize = 1_024;

/// The largest head of a request, in bytes. Gateways forward their clients' cookies.
const HEAD_BYTES: usize = 16 * 1024;

/// The port of the sign-in check. Trusted proxies are its gateways.
pub fn port(verifier: Arc<Verifier>, metrics: Arc<Metrics>, certificate: Option<Arc<Certificate>>) -> Port {
    Port {
        limits: Limits { connections: CONNECTIONS, head: HEAD_BYTES, gateways: verifier.trusted_proxies().to_vec() },
        refused: metrics.connections_refused.counter(PortName::Signin),
        acceptor: certificate.map(|certificate| Box::new(move || certificate.acceptor()) as _),
        routes: routes(verifier, metrics),
    }
}
