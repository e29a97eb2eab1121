//! The operator as its users have it: installed by Helm into a cluster with real pods. `make test` starts the cluster.
//!
//! There is one cluster, and some of what the chart makes is there once in a cluster: so one test at a time has all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails may fail loudly")]
#![allow(clippy::unused_self, reason = "who has the cluster to itself may do these things")]

mod docs;
mod gitops;
mod install;
mod installations;
mod life;
#[path = "../it/support/pages.rs"]
mod pages;
mod policies;
mod siege;
mod support;
mod upgrade;
