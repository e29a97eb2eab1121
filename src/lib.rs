//! The operator for OAuth consumers, as a library. The programs in `src/bin` only start its parts.
//!
//! Dependencies point one way. [`consumer`] depends on no other module; [`api`], [`store`] and [`telemetry`] depend on it.
//! [`controller`] and [`signin`] depend on all of these, but not on each other. [`actions`] depends
//! on `api` and `consumer`. [`listener`] depends on none, and serves the
//! ports of `signin` and `telemetry`.

pub mod actions;
pub mod api;
pub mod consumer;
pub mod controller;
pub mod hashing;
pub mod listener;
pub mod signin;
pub mod store;
pub mod telemetry;
