//! What things cost: requests to the API server, writes to the store, hashes.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use oauthconsumer_operator::controller::Settings;
use oauthconsumer_operator::telemetry::Operation;
use serde_json::json;

use crate::support::{Cluster, FaultyStore, Operator, TestStore, eventually, is};

const SECRET: &str = "a secret, long enough for all";

/// Rarely enough that no sweep comes in between.
fn seldom(settings: &mut Settings) {
    settings.sweep_period = Duration::from_secs(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_consumer_takes_one_secret_get_and_two_patches() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    // Before the operator starts, so that it is in its cache: one that is not yet is asked for once more.
    cluster.secret("cheap-oauth", SECRET).await;
    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", seldom).await;
    operator.requests.take();
    let store_writes = operator.count(Operation::RecordWritten);
    cluster.consumer("cheap", json!({ "approved": true })).await;
    cluster.wait("cheap", "Approved", is("Active", "True/Active")).await;
    operator.settled().await;
    assert_eq!(
        operator.requests.take(),
        ["GET secrets/cheap-oauth", "PATCH oauthconsumers/cheap", "PATCH oauthconsumers/cheap/status"]
    );
    assert_eq!(operator.count(Operation::RecordWritten), store_writes + 1);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_takes_one_look_and_one_patch_and_no_hash() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", seldom).await;
    cluster.secret("decided-oauth", SECRET).await;
    cluster.consumer("decided", json!({})).await;
    cluster.ready("decided").await;
    operator.settled().await;
    operator.requests.take();
    let hashes = operator.count(Operation::SecretHashed);
    cluster.edit("decided", json!({ "approved": true })).await;
    cluster.wait("decided", "Approved", is("Active", "True/Active")).await;
    operator.settled().await;
    assert_eq!(
        operator.requests.take(),
        ["GET oauthconsumers/decided", "GET secrets/decided-oauth", "PATCH oauthconsumers/decided/status"]
    );
    cluster.edit("decided", json!({ "approved": false })).await;
    cluster.wait("decided", "Disapproved", is("Approved", "False/Disapproved")).await;
    operator.settled().await;
    let looked_at = operator.requests.take();
    assert_eq!(looked_at, ["GET oauthconsumers/decided", "PATCH oauthconsumers/decided/status"], "the Secret is no matter");
    assert_eq!(operator.count(Operation::SecretHashed), hashes);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_reconcile_at_the_fixed_point_asks_and_writes_nothing() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let counted = FaultyStore::over(&store);
    let operator = Operator::start(&cluster, counted.clone()).await;
    cluster.secret("still-oauth", SECRET).await;
    cluster.consumer("still", json!({ "approved": true })).await;
    cluster.wait("still", "Approved", is("Active", "True/Active")).await;
    operator.settled().await;
    operator.requests.take();
    let (writes, reconciles) = (counted.writes(), operator.reconciles());

    // A label is an event, and so a reconcile, but nothing that a record or a status speaks of.
    let labels = Patch::Merge(json!({ "metadata": { "labels": { "touched": "yes" } } }));
    cluster.consumers.patch("still", &PatchParams::default(), &labels).await.unwrap();
    eventually("another reconcile", || async { operator.reconciles() > reconciles }).await;
    operator.settled().await;
    assert_eq!(operator.requests.take(), Vec::<String>::new());
    assert_eq!(counted.writes(), writes);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_thousand_consumers_writes_and_hashes_nothing() {
    const COUNT: usize = 1000;
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    cluster.secret("common", SECRET).await;
    let first = Operator::start(&cluster, store.store.clone()).await;
    let create = |i: usize| {
        let cluster = &cluster;
        async move { cluster.consumer(&format!("c{i}"), json!({ "approved": true, "secretRef": { "name": "common" } })).await }
    };
    for chunk in (0..COUNT).collect::<Vec<_>>().chunks(16) {
        futures::future::join_all(chunk.iter().map(|i| create(*i))).await;
    }
    // In steps, so that patience is for the lack of progress and not for a slow machine.
    for written in (100..=COUNT as u64).step_by(100) {
        let reached = || async { first.count(Operation::StatusWritten) >= written };
        eventually(&format!("{written} statuses are written"), reached).await;
    }
    first.settled().await;
    assert_eq!(first.count(Operation::SecretHashed), COUNT as u64);
    assert_eq!(first.count(Operation::StatusWritten), COUNT as u64, "one status each");
    first.stop().await;

    let counted = FaultyStore::over(&store);
    let second = Operator::start(&cluster, counted.clone()).await;
    eventually("all are reconciled", || async { second.reconciles() >= COUNT as u64 }).await;
    second.swept().await;
    second.settled().await;
    assert_eq!(second.requests.take(), Vec::<String>::new(), "nothing is asked, nothing is patched");
    assert_eq!((counted.writes(), second.count(Operation::SecretHashed)), (0, 0));
    second.stop().await;
}
