//! Metrics, probes and shutdown of a process.

mod admin;
mod metrics;
mod shutdown;

pub use admin::{Readiness, port};
pub use metrics::{CheckOutcome, Metrics, Operation, PortName};
pub use shutdown::on_signal;
