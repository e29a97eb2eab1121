//! The sign-in check: credentials from a request, held against the store.
//!
//! Knows nothing of Kubernetes: it runs wherever the store can be reached.

mod credentials;
mod http;
mod verify;

pub use credentials::Credentials;
pub use http::{routes, serve};
pub use verify::{Consumer, Verdict, Verifier};
