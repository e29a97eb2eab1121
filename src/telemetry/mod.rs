//! What people and programs can see of a running process: metrics, probes; and how it ends.

mod admin;
mod metrics;
mod shutdown;

pub use admin::{Readiness, port};
pub use metrics::{CheckOutcome, Metrics, Operation, PortName};
pub use shutdown::on_signal;
