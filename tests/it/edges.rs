//! Ends that come at a bad time: deletion while the store or the Secret is gone, finalizers of others, two operators.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use oauthconsumer_operator::api::FINALIZER;
use oauthconsumer_operator::consumer::{Owner, State};
use oauthconsumer_operator::controller;
use serde_json::json;

use crate::support::{Cluster, FaultyStore, Operator, Records, TestStore, condition, eventually, is, on_both_stores, says};

on_both_stores!(
    deletion_waits_visibly_for_the_store_and_finishes_by_itself,
    an_object_without_a_record_leaves_a_tombstone,
    two_operators_at_once_do_no_harm,
);

const SECRET: &str = "a secret, long enough for all";

async fn deletion_waits_visibly_for_the_store_and_finishes_by_itself(store: TestStore) {
    let cluster = Cluster::new().await;
    let faulty = FaultyStore::over(&store);
    let operator = Operator::start(&cluster, faulty.clone()).await;
    cluster.secret("stuck-oauth", SECRET).await;
    let object = cluster.consumer("stuck", json!({ "approved": true })).await;
    let approved = cluster.wait("stuck", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();

    faulty.set_down(true);
    cluster.delete_secret("stuck-oauth").await;
    cluster.delete("stuck").await;
    let blocked = cluster.wait("stuck", "DeletionBlocked", |object| condition(object, "Ready") == "False/DeletionBlocked").await;
    assert!(says(&blocked, "Ready", "the store is unavailable"));
    assert!(blocked.finalizers().contains(&FINALIZER.to_owned()));

    faulty.set_down(false);
    cluster.gone(&object).await;
    assert!(!operator.admits(&key, SECRET).await);
    operator.stop().await;
}

async fn an_object_without_a_record_leaves_a_tombstone(store: TestStore) {
    let cluster = Cluster::new().await;
    let faulty = FaultyStore::over(&store);
    faulty.set_down(true);
    let operator = Operator::start(&cluster, faulty.clone()).await;
    // Our finalizer, but no record yet: a slow peer may be about to write one.
    let object = cluster.consumer("unborn", json!({ "approved": true })).await;
    let finalizers = Patch::Merge(json!({ "metadata": { "finalizers": [FINALIZER] } }));
    cluster.consumers.patch("unborn", &PatchParams::default(), &finalizers).await.unwrap();
    cluster.wait("unborn", "StoreUnavailable", |object| condition(object, "Ready") == "False/StoreUnavailable").await;
    cluster.delete("unborn").await;
    faulty.set_down(false);
    cluster.gone(&object).await;
    let cluster_id = controller::cluster_uid(&cluster.client).await.unwrap();
    let tombstone = store.store.find(&Owner { cluster_id, uid: object.uid().unwrap() }).await.unwrap();
    assert_eq!(tombstone.record.state, State::Removed);
    operator.stop().await;
}

async fn two_operators_at_once_do_no_harm(store: TestStore) {
    const COUNT: usize = 20;
    let cluster = Cluster::new().await;
    let first = Operator::start(&cluster, store.store.clone()).await;
    let second = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("common", SECRET).await;
    let spec = json!({ "approved": true, "secretRef": { "name": "common" } });
    let mut keys = Vec::new();
    for i in 0..COUNT {
        cluster.consumer(&format!("c{i}"), spec.clone()).await;
    }
    for i in 0..COUNT {
        let name = format!("c{i}");
        let object = cluster.wait(&name, "Approved", is("Active", "True/Active")).await;
        let key = object.status.unwrap().consumer_key.unwrap();
        assert!(first.admits(&key, SECRET).await);
        keys.push(key);
        cluster.edit(&name, json!({ "approved": i % 2 == 0 })).await;
    }
    cluster.secret("common", "the next secret, long enough").await;
    for (i, key) in keys.iter().enumerate() {
        let name = format!("c{i}");
        let expected = if i % 2 == 0 { "True/Approved" } else { "False/Disapproved" };
        let object = cluster.wait(&name, expected, is("Approved", expected)).await;
        assert_eq!(object.status.unwrap().consumer_key.as_ref(), Some(key), "for one UID one key");
        eventually("the next secret is in use", || async {
            first.admits(key, "the next secret, long enough").await == (i % 2 == 0)
        })
        .await;
        assert!(!first.admits(key, SECRET).await);
    }
    for i in 0..COUNT {
        let object = cluster.get(&format!("c{i}")).await;
        cluster.delete(&format!("c{i}")).await;
        cluster.gone(&object).await;
    }
    let live = store.text("SELECT consumer_key FROM oauth_consumers WHERE state <> 'Removed'").await;
    assert_eq!(live, None, "nothing came back");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_finalizers_labels_and_annotations_stay() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    cluster.secret("shared-oauth", SECRET).await;
    cluster.consumer("shared", json!({ "approved": true })).await;
    let theirs =
        json!({ "metadata": { "finalizers": ["example.com/theirs"], "labels": { "a": "b" }, "annotations": { "c": "d" } } });
    cluster.consumers.patch("shared", &PatchParams::default(), &Patch::Merge(theirs)).await.unwrap();
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let ready = cluster.ready("shared").await;
    assert_eq!(ready.finalizers(), ["example.com/theirs", FINALIZER]);
    assert_eq!((ready.labels()["a"].as_str(), ready.annotations()["c"].as_str()), ("b", "d"));

    cluster.delete("shared").await;
    let waiting = cluster
        .wait("shared", "ours is off, and it says so", |object| {
            object.finalizers() == ["example.com/theirs"] && condition(object, "Ready") == "False/DeletionBlocked"
        })
        .await;
    assert!(says(
        &waiting,
        "Ready",
        "The record is removed, so sign-in is refused. The object waits for finalizers of other programs: example.com/theirs"
    ));
    assert_eq!(waiting.status.as_ref().unwrap().state, None, "there is nothing left that could be approved");
    let key = waiting.status.unwrap().consumer_key.unwrap();
    assert!(!operator.admits(&key, SECRET).await);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_deleted_although_its_secret_is_gone() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let object = cluster.consumer("bare", json!({})).await;
    cluster.wait("bare", "SecretNotFound", is("Ready", "False/SecretNotFound")).await;
    cluster.delete("bare").await;
    cluster.gone(&object).await;
    operator.stop().await;
}
