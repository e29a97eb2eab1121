//! What ends a sign-in does not wait for what else there is to do.

use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;

use crate::support::{Cluster, FaultyStore, Operator, TestStore, condition, eventually, is, on_both_stores};

on_both_stores!(an_end_does_not_wait_for_reconciles, what_else_there_was_to_do_is_done_after_it);

const SECRET: &str = "a secret, long enough for all";

/// More than are reconciled at a time.
const BUSY: usize = 20;

/// Occupies the operator with reconciles that do not end.
async fn occupy(cluster: &Cluster, store: &FaultyStore) {
    let mut uids = Vec::new();
    for i in 0..BUSY {
        let name = format!("busy-{i}");
        uids.push(cluster.consumer(&name, json!({})).await.uid().unwrap());
        cluster.wait(&name, "seen", |object| condition(object, "Ready") == "False/SecretNotFound").await;
    }
    // Not before all were seen: a reconcile that follows the status would take a slot from the next.
    for uid in &uids {
        store.stall(uid);
    }
    for i in 0..BUSY {
        cluster.edit(&format!("busy-{i}"), json!({ "name": "Renamed", "approved": true })).await;
    }
    eventually("all slots are taken", || async { store.stalled() >= 16 }).await;
}

async fn an_end_does_not_wait_for_reconciles(store: TestStore) {
    let (cluster, faulty) = (Cluster::new().await, FaultyStore::over(&store));
    let patient =
        |settings: &mut oauthconsumer_operator::controller::Settings| settings.reconcile_timeout = Duration::from_mins(5);
    let operator = Operator::start_with(&cluster, faulty.clone(), "admin", patient).await;
    let (disapproved, held, deleted, secretless, rotated) = (
        cluster.approved("disapproved", SECRET).await,
        cluster.approved("held", SECRET).await,
        cluster.approved("deleted", SECRET).await,
        cluster.approved("secretless", SECRET).await,
        cluster.approved("rotated", SECRET).await,
    );
    occupy(&cluster, &faulty).await;

    cluster.edit("disapproved", json!({ "approved": false })).await;
    cluster.edit("held", json!({ "hold": { "reason": "leaked" } })).await;
    cluster.delete("deleted").await;
    cluster.delete_secret("secretless-oauth").await;
    cluster.secret("rotated-oauth", "the secret after the rotation").await;
    cluster.edit("rotated", json!({ "approved": false })).await;
    for key in [disapproved, held, deleted, secretless, rotated] {
        eventually("it is refused", || async { !operator.admits(&key, SECRET).await }).await;
    }
    cluster.wait("disapproved", "says so", is("Approved", "False/Disapproved")).await;
    cluster.wait("held", "says so", is("Active", "False/OnHold")).await;
    cluster.wait("secretless", "says so", is("Ready", "False/SecretNotFound")).await;
    eventually("it is gone", || async { cluster.consumers.get_opt("deleted").await.unwrap().is_none() }).await;
    cluster.event("disapproved", "Disapproved").await;
    assert!(faulty.stalled() >= 16, "nothing else has moved");
}

async fn what_else_there_was_to_do_is_done_after_it(store: TestStore) {
    let (cluster, faulty) = (Cluster::new().await, FaultyStore::over(&store));
    let operator = Operator::start(&cluster, faulty.clone()).await;
    let key = cluster.approved("jazz", SECRET).await;
    operator.stop().await;
    cluster.secret("jazz-oauth", "the secret after the rotation").await;
    cluster.edit("jazz", json!({ "approved": false })).await;
    let operator = Operator::start(&cluster, faulty).await;
    cluster.wait("jazz", "says so", is("Approved", "False/Disapproved")).await;
    cluster.ready("jazz").await;
    operator.settled().await;
    let reasons = cluster.events("jazz").await;
    assert_eq!(reasons.iter().filter(|reason| *reason == "Disapproved").count(), 1, "{reasons:?}");
    cluster.edit("jazz", json!({ "approved": true })).await;
    cluster.wait("jazz", "Approved", is("Active", "True/Active")).await;
    assert!(operator.admits(&key, "the secret after the rotation").await && !operator.admits(&key, SECRET).await);
    operator.stop().await;
}
