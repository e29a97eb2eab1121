//! The world of a test: a namespace, stores, operators, requests that are counted.

pub mod chart;
mod check;
mod cluster;
mod companion;
pub mod corpus;
mod operator;
pub mod pages;
mod program;
mod proxy;
mod records;
mod stores;
pub mod wire;

pub use check::{Answer, Check, basic, send, unlimited};
pub use cluster::{Cluster, client_of, condition, eventually, is, kubeconfig, kubectl, says};
pub use companion::Companion;
pub use operator::Operator;
pub use program::Program;
pub use proxy::Proxy;
pub use records::{CHEAP, Records, approved, bury, keep, now, put, record, with_cost};
pub use stores::{FaultyStore, Gate, TestStore};

/// Runs a test once on SQLite and once on PostgreSQL.
macro_rules! on_both_stores {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test($crate::support::TestStore::sqlite().await).await; })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test($crate::support::TestStore::postgres().await).await; })+
        }
    };
}
pub(crate) use on_both_stores;
