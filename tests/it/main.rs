//! Every test runs against a real API server, etcd, PostgreSQL and SQLite: `make test` starts them.
//!
//! A test has a namespace, a store and an operator of its own, so that all of them run side by side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails may fail loudly")]

mod approvals;
mod closing;
mod connections;
mod crd;
mod credentials;
mod decisions;
mod documentation;
mod economy;
mod edges;
mod examples;
mod fast_path;
mod faults;
mod feed;
mod gateways;
mod health;
mod histories;
mod hostile;
mod installations;
mod lifecycle;
mod limits;
mod memory;
mod permission;
mod plugin;
mod program;
mod races;
mod reference;
mod restores;
mod rights;
mod secrets;
mod signin;
mod store;
mod support;
mod sweep;
mod tls;
