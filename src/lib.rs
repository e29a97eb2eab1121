//! The operator for OAuth consumers, as a library: the programs in `src/bin` only wire it up.
//!
//! Dependencies point one way: [`consumer`] depends on no other module; [`api`], [`store`] and [`telemetry`] know `consumer`; [`controller`] and
//! [`signin`] know those, and each other not at all. [`actions`] knows `api` and `consumer`. [`listener`] knows none of them, and serves the ports of [`signin`] and
//! [`telemetry`].

pub mod actions;
pub mod api;
pub mod consumer;
pub mod controller;
pub mod hashing;
pub mod listener;
pub mod signin;
pub mod store;
pub mod telemetry;
