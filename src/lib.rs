//! The operator for OAuth consumers, as a library. The program in `src/bin` only starts its parts.
//!
//! Dependencies point one way. [`consumer`] depends on no other module; [`api`], [`store`] and [`telemetry`] depend on it.
//! [`controller`] and [`signin`] depend on all of these, but not on each other. [`listener`] depends on none, and serves the
//! ports of `signin` and `telemetry`.

pub mod api;
pub mod consumer;
pub mod controller;
pub mod hashing;
pub mod listener;
pub mod signin;
pub mod store;
pub mod telemetry;
