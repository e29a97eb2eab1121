//! What happens between two steps of a reconcile: somebody else was faster.

use std::time::Duration;

use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use oauthconsumer_operator::consumer::ReconcileResult;
use oauthconsumer_operator::controller::Settings;
use serde_json::json;

use crate::support::{Cluster, FaultyStore, Gate, Operator, TestStore, condition, eventually, is, on_both_stores};

on_both_stores!(
    a_write_on_an_old_look_is_lost,
    a_look_is_newer_than_the_record_it_replaces,
    a_slow_peer_brings_nothing_back,
    status_waits_for_the_commit
);

const SECRET: &str = "a secret, long enough for all";

/// A held reconcile is not to end for another reason.
fn patient(settings: &mut Settings) {
    settings.reconcile_timeout = Duration::from_mins(2);
}

/// A consumer whose approval the slow operator is about to write; meanwhile it is approved and disapproved by another.
async fn overtaken(store: &TestStore, hold: impl Fn(&FaultyStore) -> &Gate) {
    let cluster = Cluster::new().await;
    cluster.secret("raced-oauth", SECRET).await;
    cluster.consumer("raced", json!({})).await;
    let faulty = FaultyStore::over(store);
    let slow = Operator::start_with(&cluster, faulty.clone(), "admin", patient).await;
    let key = cluster.ready("raced").await.status.unwrap().consumer_key.unwrap();
    slow.settled().await;

    hold(&faulty).close();
    cluster.edit("raced", json!({ "approved": true })).await;
    hold(&faulty).held().await;
    let fast = Operator::start(&cluster, store.store.clone()).await;
    cluster.wait("raced", "Approved", is("Active", "True/Active")).await;
    cluster.edit("raced", json!({ "approved": false })).await;
    let disapproved = cluster.wait("raced", "Disapproved", is("Approved", "False/Disapproved")).await;
    fast.stop().await;

    let before = slow.reconciles();
    hold(&faulty).release();
    eventually("the slow one ends its reconcile", || async { slow.reconciles() > before }).await;
    assert!(!slow.admits(&key, SECRET).await, "a disapproval was undone");
    let now = cluster.get("raced").await;
    assert_eq!(now.metadata.resource_version, disapproved.metadata.resource_version, "and nothing was said about it");
    slow.stop().await;
}

async fn a_write_on_an_old_look_is_lost(store: TestStore) {
    overtaken(&store, FaultyStore::writing).await;
}

async fn a_look_is_newer_than_the_record_it_replaces(store: TestStore) {
    overtaken(&store, FaultyStore::reading).await;
}

async fn a_slow_peer_brings_nothing_back(store: TestStore) {
    // The slow one is about to insert the first record, with the finalizer already on; meanwhile all is over.
    let cluster = Cluster::new().await;
    cluster.secret("over-oauth", SECRET).await;
    let faulty = FaultyStore::over(&store);
    let slow = Operator::start_with(&cluster, faulty.clone(), "admin", patient).await;
    faulty.writing().close();
    let object = cluster.consumer("over", json!({ "approved": true })).await;
    faulty.writing().held().await;
    cluster.delete("over").await;
    let fast = Operator::start(&cluster, store.store.clone()).await;
    cluster.gone(&object).await;
    fast.stop().await;

    let overtaken = slow.metrics.reconciles.get(ReconcileResult::Conflict);
    faulty.writing().release();
    eventually("the slow one is refused", || async { slow.metrics.reconciles.get(ReconcileResult::Conflict) > overtaken }).await;
    let live = store.text("SELECT consumer_key FROM oauth_consumers WHERE state <> 'Removed'").await;
    assert_eq!(live, None);
    slow.stop().await;
}

async fn status_waits_for_the_commit(store: TestStore) {
    let cluster = Cluster::new().await;
    cluster.secret("first-oauth", SECRET).await;
    let faulty = FaultyStore::over(&store);
    let operator = Operator::start_with(&cluster, faulty.clone(), "admin", patient).await;
    faulty.writing().close();
    cluster.consumer("first", json!({})).await;
    faulty.writing().held().await;
    let object = cluster.get("first").await;
    assert_eq!(condition(&object, "Ready"), "Unknown/Pending");
    assert_eq!(object.status.unwrap().consumer_key, None, "no key without a record");
    faulty.writing().release();
    cluster.ready("first").await;

    operator.settled().await;
    faulty.writing().close();
    cluster.edit("first", json!({ "approved": true })).await;
    faulty.writing().held().await;
    assert_eq!(condition(&cluster.get("first").await, "Approved"), "False/AwaitingApproval");
    faulty.writing().release();
    cluster.wait("first", "Approved", is("Active", "True/Active")).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disapproval_during_a_check_counts() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let faulty = FaultyStore::over(&store);
    let operator = Operator::start(&cluster, faulty.clone()).await;
    cluster.secret("checked-oauth", SECRET).await;
    cluster.consumer("checked", json!({ "approved": true })).await;
    let approved = cluster.wait("checked", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();
    assert!(operator.admits(&key, SECRET).await);

    // The record is read, the hash fits; before the answer, somebody disapproves.
    faulty.checking().close_at(2);
    let disapproved = async {
        faulty.checking().held().await;
        cluster.edit("checked", json!({ "approved": false })).await;
        cluster.wait("checked", "Disapproved", is("Approved", "False/Disapproved")).await;
        faulty.checking().release();
    };
    let (admitted, ()) = futures::join!(operator.admits(&key, SECRET), disapproved);
    assert!(!admitted);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_mean_the_version_that_was_seen() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("versions-oauth", SECRET).await;
    // Somebody edits the object just before each of the operator's patches arrives.
    for (request, label) in [("PATCH oauthconsumers/versions", "first"), ("PATCH oauthconsumers/versions/status", "second")] {
        let consumers = cluster.consumers.clone();
        operator.requests.before(request, async move {
            let edit = json!({ "metadata": { "labels": { label: "kept" }, "finalizers": [format!("example.com/{label}")] } });
            consumers.patch("versions", &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
        });
    }
    operator.requests.take();
    cluster.consumer("versions", json!({ "approved": true })).await;
    let approved = cluster.wait("versions", "Approved", is("Active", "True/Active")).await;
    assert!(approved.finalizers().contains(&"example.com/second".to_owned()), "{:?}", approved.finalizers());
    let sent = operator.requests.take();
    let patches = |path: &str| sent.iter().filter(|request| *request == path).count();
    assert!(patches("PATCH oauthconsumers/versions") >= 2, "{sent:?}");
    assert!(patches("PATCH oauthconsumers/versions/status") >= 2, "{sent:?}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_never_published_on_another_object_of_the_name() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("twin-oauth", SECRET).await;
    // Just before its status is written, the object is replaced by another one of the same name.
    let replaced = cluster.clone();
    operator.requests.before("PATCH oauthconsumers/twin/status", async move {
        let unbound = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        replaced.consumers.patch("twin", &PatchParams::default(), &unbound).await.unwrap();
        replaced.consumers.delete("twin", &DeleteParams::default()).await.unwrap();
        replaced.consumer("twin", json!({ "approved": true })).await;
    });
    let first = cluster.consumer("twin", json!({ "approved": true })).await;
    let second = cluster
        .wait("twin", "the second is approved", |object| object.uid() != first.uid() && is("Active", "True/Active")(object))
        .await;
    let live = store.text(&format!("SELECT consumer_key FROM oauth_consumers WHERE uid = '{}'", second.uid().unwrap())).await;
    assert_eq!(second.status.unwrap().consumer_key, live);
    eventually("the first one's record is removed", || async {
        let state = format!("SELECT state FROM oauth_consumers WHERE uid = '{}'", first.uid().unwrap());
        store.text(&state).await.as_deref() == Some("Removed")
    })
    .await;
    operator.stop().await;
}
