//! An approval counts only where the policies are proved to be enforced.

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use oauthconsumer_operator::api::OAuthConsumer;
use oauthconsumer_operator::consumer::ReconcileResult;
use oauthconsumer_operator::controller::ApprovalProof;
use serde_json::json;

use super::{SECRET, approved, awaiting, consumer, controller, people, with};
use crate::support::chart::{self, CONTROLLER, Guard, grant};
use crate::support::{Cluster, Operator, TestStore, client_of, condition, eventually, is, says};

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_counts_only_where_the_policies_deny() {
    for guard in [Guard::Excluded, Guard::Warn, Guard::Audit] {
        let cluster = chart::guarded(guard).await;
        let store = TestStore::sqlite().await;
        let operator = controller(&cluster, &store).await;
        cluster.secret("jazz-oauth", SECRET).await;
        cluster.consumer("jazz", json!({ "approved": true })).await;
        let object = cluster.wait("jazz", "ApprovalUnproved", is("Approved", "False/ApprovalUnproved")).await;
        assert!(says(&object, "Approved", "oauthconsumers-approve"));
        assert_eq!(condition(&object, "Ready"), "True/Synced", "the store holds what the object is entitled to");
        assert!(object.status.as_ref().unwrap().decision.is_none(), "it is nobody's decision");
        let key = object.status.unwrap().consumer_key.unwrap();
        cluster.event("jazz", "ApprovalUnproved").await;
        assert!(!operator.admits(&key, SECRET).await);
        assert!(operator.metrics.approvals_unproved.get() >= 1);

        // The policies come too late for it; and a label or a restart does not make it better.
        chart::bind(&cluster, Guard::Deny).await;
        cluster.edit("jazz", json!({ "name": "Blues" })).await;
        cluster.wait("jazz", "still unproved", is("Approved", "False/ApprovalUnproved")).await;
        operator.stop().await;
        let operator = controller(&cluster, &store).await;
        operator.settled().await;
        assert_eq!(condition(&cluster.get("jazz").await, "Approved"), "False/ApprovalUnproved");
        assert!(!operator.admits(&key, SECRET).await);

        // Made anew, it counts.
        cluster.edit("jazz", json!({ "approved": false })).await;
        cluster.wait("jazz", "Disapproved", is("Approved", "False/Disapproved")).await;
        cluster.edit("jazz", json!({ "approved": true })).await;
        cluster.wait("jazz", "Approved", is("Approved", "True/Approved")).await;
        assert!(operator.admits(&key, SECRET).await);
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_approved_under_the_policies_stays_so_without_them() {
    let cluster = chart::guarded(Guard::Deny).await;
    let store = TestStore::sqlite().await;
    let operator = controller(&cluster, &store).await;
    let old = cluster.approved("old", SECRET).await;
    let renamed = cluster.approved("renamed", SECRET).await;
    chart::bind(&cluster, Guard::Excluded).await;
    // What was known for a while is asked for again.
    let known = operator.metrics.approvals_unproved.get();
    eventually("approvals are found unguarded", || async {
        let name = format!("new-{}", uuid::Uuid::new_v4().simple());
        cluster.consumer(&name, json!({ "approved": true })).await;
        operator.settled().await;
        operator.metrics.approvals_unproved.get() > known
    })
    .await;
    assert!(operator.admits(&old, SECRET).await);
    operator.stop().await;

    let operator = controller(&cluster, &store).await;
    operator.settled().await;
    assert!(operator.admits(&old, SECRET).await, "a restart changes nothing about it");
    // But a change of what was approved needs what an approval needs.
    cluster.edit("renamed", json!({ "secretRef": { "name": "old-oauth" } })).await;
    cluster.wait("renamed", "ApprovalUnproved", is("Approved", "False/ApprovalUnproved")).await;
    assert!(!operator.admits(&renamed, SECRET).await);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_may_approve_proves_nothing() {
    let cluster = chart::guarded(Guard::Deny).await;
    grant(&cluster.client, &cluster.namespace, CONTROLLER, "oauthconsumers-approver").await;
    let store = TestStore::sqlite().await;
    let operator = controller(&cluster, &store).await;
    cluster.secret("jazz-oauth", SECRET).await;
    cluster.consumer("jazz", json!({ "approved": true })).await;
    cluster.wait("jazz", "ApprovalUnproved", is("Approved", "False/ApprovalUnproved")).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_proof_whoever_may_update_may_approve() {
    let cluster = chart::guarded(Guard::Excluded).await;
    people(&cluster).await;
    let off = |settings: &mut oauthconsumer_operator::controller::Settings| settings.approval_proof = ApprovalProof::Off;
    let store = TestStore::sqlite().await;
    let operator = Operator::start_with(&cluster, store.store.clone(), CONTROLLER, off).await;
    cluster.secret("jazz-oauth", SECRET).await;
    let consumers: Api<OAuthConsumer> = Api::namespaced(client_of("editor").await, &cluster.namespace);
    consumers.create(&PostParams::default(), &consumer("jazz", approved())).await.unwrap();
    cluster.wait("jazz", "Approved", is("Approved", "True/Approved")).await;
    operator.stop().await;
}

/// Whether the policy keeps the controller from creating an approved consumer, and from approving the consumer `spare`.
async fn what_is_refused(cluster: &Cluster) -> (bool, bool) {
    let consumers: Api<OAuthConsumer> = Api::namespaced(client_of(CONTROLLER).await, &cluster.namespace);
    let by_the_policy = |tried: Result<OAuthConsumer, kube::Error>| {
        let quoted = "is forbidden: ValidatingAdmissionPolicy 'oauthconsumers-approve' with binding ";
        tried.is_err_and(|error| matches!(error, kube::Error::Api(status) if status.message.contains(quoted)))
    };
    let (post, patch) = (PostParams { dry_run: true, ..PostParams::default() }, PatchParams::default().dry_run());
    let created = consumers.create(&post, &consumer("tried", approved())).await;
    let changed = consumers.patch("spare", &patch, &Patch::Merge(json!({ "spec": { "approved": true } }))).await;
    (by_the_policy(created), by_the_policy(changed))
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_policy_is_no_policy() {
    // With what is refused of a creation and an update.
    for (guard, refused) in
        [(Guard::Emptied, (false, false)), (Guard::WithoutCreate, (false, true)), (Guard::WithoutUpdate, (true, false))]
    {
        let cluster = chart::guarded(guard).await;
        let store = TestStore::sqlite().await;
        let operator = controller(&cluster, &store).await;
        cluster.secret("jazz-oauth", SECRET).await;
        cluster.consumers.create(&PostParams::default(), &consumer("spare", awaiting())).await.unwrap();
        eventually("the policy is as it is to be", || async { what_is_refused(&cluster).await == refused }).await;

        cluster.consumers.create(&PostParams::default(), &consumer("jazz", approved())).await.unwrap();
        let object = cluster.wait("jazz", "ApprovalUnproved", is("Approved", "False/ApprovalUnproved")).await;
        assert!(!operator.admits(&object.status.unwrap().consumer_key.unwrap(), SECRET).await, "{guard:?}");
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_quotes_the_policy_is_no_proof() {
    let cluster = chart::guarded(Guard::Quoted).await;
    let store = TestStore::sqlite().await;
    let operator = controller(&cluster, &store).await;
    cluster.secret("jazz-oauth", SECRET).await;
    // An editor names the consumer so.
    let quoted = "oauthconsumers.oauthconsumers.dev \"jazz\" is forbidden: ValidatingAdmissionPolicy 'oauthconsumers-approve' with \
                  binding 'oauthconsumers-approve' denied request: needs the verb approve";
    let spec = with(awaiting(), "name", quoted);
    cluster.consumers.create(&PostParams::default(), &consumer("spare", spec.clone())).await.unwrap();
    let tried: Api<OAuthConsumer> = Api::namespaced(client_of(CONTROLLER).await, &cluster.namespace);
    let approve = Patch::Merge(json!({ "spec": { "approved": true } }));
    eventually("the other policy refuses, and quotes", || async {
        let tried = tried.patch("spare", &PatchParams::default().dry_run(), &approve).await;
        tried.is_err_and(|error| error.to_string().contains("ValidatingAdmissionPolicy 'oauthconsumers-approve' with binding"))
    })
    .await;

    cluster.consumers.create(&PostParams::default(), &consumer("jazz", with(spec, "approved", true))).await.unwrap();
    // Neither proved nor disproved: the controller goes on asking.
    eventually("the controller has asked several times", || async {
        operator.metrics.reconciles.get(ReconcileResult::ApiFailed) >= 3
    })
    .await;
    assert_ne!(condition(&cluster.get("jazz").await, "Approved"), "True/Approved");
    assert!(store.store.open_records().await.unwrap().is_empty(), "sign-in is open for no record");
    operator.stop().await;
}
