//! What people and programs can see of a running process: logs, metrics, probes; and how it ends.

mod admin;
mod logs;
mod metrics;
mod shutdown;

pub use admin::{Readiness, port};
pub use logs::{LogFormat, init};
pub use metrics::{CheckOutcome, Metrics, Operation, PortName, ReconcileResult};
pub use shutdown::on_signal;
