//! What ends sign-ins does that and nothing else, and says what it could not do.

use kube::ResourceExt;
use oauthconsumer_operator::consumer::{Owner, SecretOutcome, SecretProblem};
use oauthconsumer_operator::controller;
use serde_json::json;

use crate::installations::installation;
use crate::support::{Cluster, FaultyStore, Operator, Records, TestStore, condition, eventually, is, on_both_stores};

on_both_stores!(a_snapshot_older_than_the_record_is_no_restored_cluster, a_restore_that_is_seen_outside_the_scopes_is_reported,);

const SECRET: &str = "a secret, long enough for all";

async fn owner(cluster: &Cluster, name: &str) -> Owner {
    let uid = cluster.get(name).await.uid().unwrap();
    Owner { cluster_id: controller::cluster_uid(&cluster.client).await.unwrap(), uid }
}

/// A controller for the first namespace alone, and the approved consumer `one` in the second, whose controller is gone.
async fn left_behind(store: &TestStore) -> (Cluster, Cluster, Operator) {
    let (kept, left) = (Cluster::new().await, Cluster::new().await);
    let before = Operator::start_with(&kept, store.store.clone(), "admin", installation("before", &[&kept, &left])).await;
    left.approved("one", SECRET).await;
    before.stop().await;
    let after = Operator::start_with(&kept, store.store.clone(), "admin", installation("after", &[&kept])).await;
    (kept, left, after)
}

/// The fast path takes the object from the cache, then reads the record. Meanwhile a reconcile writes it in the next generation.
async fn a_snapshot_older_than_the_record_is_no_restored_cluster(store: TestStore) {
    let (cluster, faulty) = (Cluster::new().await, FaultyStore::over(&store));
    let operator = Operator::start(&cluster, faulty.clone()).await;
    cluster.approved("one", SECRET).await;
    cluster.approved("two", SECRET).await;
    operator.settled().await;
    let two = store.store.find(&owner(&cluster, "two").await).await.unwrap().version;

    faulty.reading().close();
    cluster.delete_secret("one-oauth").await;
    faulty.reading().held().await;
    cluster.secret("one-oauth", SECRET).await;
    cluster.edit("one", json!({ "name": "Renamed" })).await;
    cluster.wait("one", "renamed", is("Active", "True/Active")).await;
    eventually("the record is renamed", || async {
        store.store.find(&owner(&cluster, "one").await).await.unwrap().record.generation == 2
    })
    .await;
    faulty.reading().release();
    operator.settled().await;
    let events = cluster.events("one").await;
    let now = store.store.find(&owner(&cluster, "two").await).await.unwrap().version;
    operator.stop().await;
    assert_eq!((now, events.iter().any(|event| event == "ClusterRestored")), (two, false), "{events:?}");
}

async fn a_restore_that_is_seen_outside_the_scopes_is_reported(store: TestStore) {
    let (kept, left) = (&Cluster::new().await, &Cluster::new().await);
    let before = Operator::start_with(kept, store.store.clone(), "admin", installation("before", &[kept, left])).await;
    let key = left.approved("one", SECRET).await;
    before.stop().await;
    // As if etcd had been set back.
    let stored = store.store.find(&owner(left, "one").await).await.unwrap();
    let mut record = stored.record;
    record.generation = 9;
    store.store.replace(record, stored.version).await.unwrap();
    let after = Operator::start_with(kept, store.store.clone(), "admin", installation("after", &[kept])).await;
    left.edit("one", json!({ "hold": { "reason": "leaked" } })).await;
    eventually("it is ended", || async { !after.admits(&key, SECRET).await }).await;
    after.swept().await;
    let events = left.events("one").await;
    after.stop().await;
    assert!(events.iter().any(|event| event == "ClusterRestored"), "{events:?}");
}

/// The store reads and does not write, as on a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_outside_the_scopes_that_cannot_be_recorded_says_so() {
    let store = TestStore::sqlite().await;
    let (_kept, left, after) = left_behind(&store).await;
    store.sql("CREATE TRIGGER full BEFORE UPDATE ON oauth_consumers BEGIN SELECT RAISE(ABORT, 'disk full'); END").await;
    left.delete("one").await;
    after.swept().await;
    after.swept().await;
    let object = left.get("one").await;
    let said = condition(&object, "Ready");
    store.sql("DROP TRIGGER full").await;
    after.stop().await;
    assert_eq!(said, "False/DeletionBlocked", "{:?}", object.status);
}

/// What could not be ended is tried again by the next sweep; by then it is approved anew, and its Secret is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_outside_the_scopes_is_left_to_its_controller() {
    let store = TestStore::sqlite().await;
    let (_kept, left, after) = left_behind(&store).await;
    store
        .sql("CREATE TRIGGER full BEFORE UPDATE ON oauth_consumers WHEN NEW.state <> 'Approved' BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .await;
    left.edit("one", json!({ "hold": { "reason": "leaked" } })).await;
    after.swept().await;
    after.swept().await;
    let stored = store.store.find(&owner(&left, "one").await).await.unwrap();
    let mut record = stored.record;
    (record.secret, record.secret_source, record.secret_floor) = (SecretOutcome::Refused(SecretProblem::NotFound), None, 0);
    let version = store.store.replace(record, stored.version).await.unwrap().version;
    left.edit("one", json!({ "hold": null, "name": "Renamed" })).await;
    after.swept().await;
    after.swept().await;
    let now = store.store.find(&owner(&left, "one").await).await.unwrap();
    let object = left.get("one").await;
    after.stop().await;
    assert_eq!(now.version, version, "{:?} {:?}", now.record, object.status);
}
