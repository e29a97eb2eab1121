//! Approvals that do not count, and revocations: what ends them, and what does not.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use oauthconsumer_operator::api::OAuthConsumer;
use oauthconsumer_operator::consumer::ConsumerKey;
use oauthconsumer_operator::controller::{ApprovalProof, Settings};
use oauthconsumer_operator::store;
use serde_json::json;

use crate::support::chart::{self, CONTROLLER, Guard};
use crate::support::{Cluster, FaultyStore, Operator, TestStore, client_of, condition, eventually, is, on_both_stores};

on_both_stores!(
    an_unproved_approval_does_not_count_when_the_store_is_put_back,
    nor_when_an_outage_overwrites_the_status_and_the_record_is_lost,
    nor_when_the_status_is_lost,
    an_approval_that_was_not_seen_ends_no_revocation,
    a_disapproval_and_an_approval_that_were_not_seen_end_no_revocation,
    a_hold_does_not_wait_for_a_proof_that_does_not_come,
);

const SECRET: &str = "a secret, long enough for all";

async fn start(cluster: &Cluster, store: std::sync::Arc<dyn store::ConsumerStore>) -> Operator {
    let proving = |settings: &mut Settings| settings.approval_proof = ApprovalProof::Required;
    Operator::start_with(cluster, store, CONTROLLER, proving).await
}

fn key(object: &OAuthConsumer) -> String {
    object.status.as_ref().and_then(|status| status.consumer_key.clone()).unwrap()
}

/// Registers a consumer, and approves it while the policies are away.
async fn approve_unguarded(cluster: &Cluster) -> String {
    chart::bind(cluster, Guard::Excluded).await;
    cluster.edit("jazz", json!({ "approved": true })).await;
    let object = cluster.wait("jazz", "ApprovalUnproved", is("Approved", "False/ApprovalUnproved")).await;
    assert_eq!(object.status.as_ref().unwrap().unproved_approval.unwrap().generation, object.metadata.generation.unwrap());
    key(&object)
}

async fn registered() -> Cluster {
    let cluster = chart::guarded(Guard::Deny).await;
    cluster.secret("jazz-oauth", SECRET).await;
    cluster.consumer("jazz", json!({})).await;
    cluster
}

/// The approval does not count, and made anew it does.
async fn is_unproved_until_made_anew(cluster: &Cluster, operator: &Operator, key: &str) {
    operator.settled().await;
    let object = cluster.get("jazz").await;
    assert_eq!(condition(&object, "Approved"), "False/ApprovalUnproved");
    assert!(object.status.unwrap().unproved_approval.is_some());
    assert!(!operator.admits(key, SECRET).await);
    cluster.edit("jazz", json!({ "approved": false })).await;
    cluster.wait("jazz", "Disapproved", is("Approved", "False/Disapproved")).await;
    cluster.edit("jazz", json!({ "approved": true })).await;
    let object = cluster.wait("jazz", "Active", is("Active", "True/Active")).await;
    assert!(object.status.unwrap().unproved_approval.is_none());
    assert!(operator.admits(key, SECRET).await);
}

async fn an_unproved_approval_does_not_count_when_the_store_is_put_back(store: TestStore) {
    let cluster = registered().await;
    let operator = start(&cluster, store.store.clone()).await;
    cluster.ready("jazz").await;
    let backup = store.back_up().await;
    let key = approve_unguarded(&cluster).await;
    operator.stop().await;
    chart::bind(&cluster, Guard::Deny).await;
    let store = store.restore(backup).await;
    let operator = start(&cluster, store.store.clone()).await;
    is_unproved_until_made_anew(&cluster, &operator, &key).await;
    operator.stop().await;
}

async fn nor_when_an_outage_overwrites_the_status_and_the_record_is_lost(store: TestStore) {
    let cluster = registered().await;
    let faulty = FaultyStore::over(&store);
    let operator = start(&cluster, faulty.clone()).await;
    cluster.ready("jazz").await;
    let key = approve_unguarded(&cluster).await;
    chart::bind(&cluster, Guard::Deny).await;
    faulty.set_down(true);
    cluster.edit("jazz", json!({ "name": "Blues" })).await;
    let object = cluster.wait("jazz", "StoreUnavailable", is("Approved", "Unknown/StoreUnavailable")).await;
    assert!(object.status.unwrap().unproved_approval.is_some(), "no failure overwrites it");
    store.sql("DELETE FROM oauth_consumers").await;
    faulty.set_down(false);
    cluster.ready("jazz").await;
    is_unproved_until_made_anew(&cluster, &operator, &key).await;
    operator.stop().await;
}

async fn nor_when_the_status_is_lost(store: TestStore) {
    let cluster = registered().await;
    let operator = start(&cluster, store.store.clone()).await;
    cluster.ready("jazz").await;
    let key = approve_unguarded(&cluster).await;
    chart::bind(&cluster, Guard::Deny).await;
    let lost = cluster.tamper("jazz", |object| {
        object.as_object_mut().unwrap().remove("status");
    });
    let newer = |object: &OAuthConsumer| object.resource_version().unwrap().parse::<u64>().unwrap() > lost;
    let unproved = is("Approved", "False/ApprovalUnproved");
    cluster.wait("jazz", "unproved again", |object| newer(object) && unproved(object)).await;
    is_unproved_until_made_anew(&cluster, &operator, &key).await;
    operator.stop().await;
}

async fn an_approval_that_was_not_seen_ends_no_revocation(store: TestStore) {
    let cluster = registered().await;
    let operator = start(&cluster, store.store.clone()).await;
    let key = key(&cluster.ready("jazz").await);
    operator.stop().await;
    cluster.edit("jazz", json!({ "approved": true })).await;
    is_revoked_until_seen(&cluster, &store, &key).await;
}

async fn a_disapproval_and_an_approval_that_were_not_seen_end_no_revocation(store: TestStore) {
    let cluster = chart::guarded(Guard::Deny).await;
    let operator = start(&cluster, store.store.clone()).await;
    let key = cluster.approved("jazz", SECRET).await;
    operator.stop().await;
    cluster.edit("jazz", json!({ "approved": false })).await;
    cluster.edit("jazz", json!({ "approved": true })).await;
    is_revoked_until_seen(&cluster, &store, &key).await;
}

/// Revokes, and lets a controller see it: that ends by what is seen afterwards alone.
async fn is_revoked_until_seen(cluster: &Cluster, store: &TestStore, key: &str) {
    store::revoke(&*store.reader().await, &ConsumerKey::parse(key).unwrap(), "leaked").await.unwrap();
    let operator = start(cluster, store.store.clone()).await;
    let revoked = cluster.wait("jazz", "Revoked", is("Ready", "False/Revoked")).await;
    assert_eq!(revoked.status.as_ref().unwrap().state.as_deref(), Some("Revoked"));
    operator.settled().await;
    // Nor does anything else that is no disapproval.
    for change in [json!({ "name": "Blues" }), json!({ "approved": null }), json!({ "approved": true })] {
        cluster.edit("jazz", change).await;
        operator.settled().await;
        assert_eq!(condition(&cluster.get("jazz").await, "Active"), "False/Revoked");
        assert!(!operator.admits(key, SECRET).await);
    }
    cluster.edit("jazz", json!({ "approved": false })).await;
    let seen = |object: &OAuthConsumer| {
        object.status.as_ref().is_some_and(|status| status.decision.as_ref().is_some_and(|decision| !decision.approved))
    };
    let object = cluster.wait("jazz", "the disapproval is seen", seen).await;
    assert_eq!(condition(&object, "Approved"), "False/Revoked");
    cluster.edit("jazz", json!({ "approved": true })).await;
    cluster.wait("jazz", "Active", is("Active", "True/Active")).await;
    assert!(operator.admits(key, SECRET).await);
    operator.stop().await;
}

async fn a_hold_does_not_wait_for_a_proof_that_does_not_come(store: TestStore) {
    let cluster = chart::guarded(Guard::Deny).await;
    let operator = start(&cluster, store.store.clone()).await;
    let key = cluster.approved("jazz", SECRET).await;
    assert!(operator.admits(&key, SECRET).await);
    operator.stop().await;
    // Another approver decides to and fro, and a hold is set, before a controller looks. The approval would have to be proved, and
    // what proves it is refused by a policy of other people's.
    chart::grant(&cluster.client, &cluster.namespace, "bob", "oauthconsumers-approver").await;
    let bob: Api<OAuthConsumer> = Api::namespaced(client_of("bob").await, &cluster.namespace);
    for approved in [false, true] {
        let decision = Patch::Merge(json!({ "spec": { "approved": approved } }));
        eventually("bob decides", || async { bob.patch("jazz", &PatchParams::default(), &decision).await.is_ok() }).await;
    }
    cluster.edit("jazz", json!({ "hold": { "reason": "leaked" } })).await;
    chart::bind(&cluster, Guard::Quoted).await;
    let operator = start(&cluster, store.store.clone()).await;
    cluster.wait("jazz", "on hold", is("Active", "False/OnHold")).await;
    assert!(!operator.admits(&key, SECRET).await);
    operator.stop().await;
}
