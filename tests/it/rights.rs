//! A controller that has lost rights: what it cannot see is not gone.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use oauthconsumer_operator::controller::{ApprovalProof, Settings};
use oauthconsumer_operator::store::ConsumerStore;
use serde_json::json;

use crate::support::chart::{self, CONTROLLER, Guard};
use crate::support::{Cluster, FaultyStore, Operator, TestStore, condition, eventually, is, on_both_stores, says};

on_both_stores!(a_restart_without_the_right_to_list_secrets_ends_no_sign_in, a_secret_that_no_watch_has_told_of_is_not_gone,);

const SECRET: &str = "a secret, long enough for all";
const ROTATED: &str = "the secret after the rotation";

async fn start(cluster: &Cluster, store: &Arc<dyn ConsumerStore>, namespaces: &[String]) -> Operator {
    let adjust = |settings: &mut Settings| {
        settings.approval_proof = ApprovalProof::Required;
        settings.namespaces = namespaces.to_vec();
    };
    let before = store.head().await.unwrap().last_verification;
    let operator = Operator::start_with(cluster, store.clone(), CONTROLLER, adjust).await;
    eventually("all records were compared", || async { store.head().await.unwrap().last_verification > before }).await;
    operator
}

async fn a_restart_without_the_right_to_list_secrets_ends_no_sign_in(store: TestStore) {
    let (kept, lost) = (chart::guarded(Guard::Deny).await, chart::guarded(Guard::Deny).await);
    let both = [kept.namespace.clone(), lost.namespace.clone()];
    let operator = start(&kept, &store.store, &both).await;
    let (key, other) = (lost.approved("jazz", SECRET).await, kept.approved("jazz", SECRET).await);
    let stopped = lost.approved("stopped", SECRET).await;
    operator.stop().await;
    let bindings: Api<RoleBinding> = Api::namespaced(lost.client.clone(), &lost.namespace);
    let binding = bindings.get("oac-controller").await.unwrap();
    bindings.delete("oac-controller", &DeleteParams::default()).await.unwrap();

    let operator = start(&kept, &store.store, &both).await;
    operator.swept().await;
    operator.swept().await;
    assert!(operator.admits(&key, SECRET).await, "what cannot be listed is not absent");
    assert_eq!(condition(&lost.get("jazz").await, "Active"), "True/Active", "nor is there anything new to say");
    assert_eq!(operator.metrics.secrets_unreadable.get(), 1);
    let (checks, notes) = operator.readiness.known();
    assert!(checks.values().all(Result::is_ok), "that makes it no less ready: {checks:?}");
    assert!(notes["secrets"].contains(&lost.namespace) && notes["secrets"].contains("forbidden"), "{notes:?}");
    // Who is to sign in no longer does not, and who is new waits and says why.
    lost.edit("stopped", json!({ "approved": false })).await;
    eventually("it is refused", || async { !operator.admits(&stopped, SECRET).await }).await;
    lost.secret("new-oauth", SECRET).await;
    lost.consumer("new", json!({})).await;
    let waits = lost.wait("new", "waits", is("Ready", "Unknown/Pending")).await;
    assert!(says(&waits, "Ready", "failed to get Secret"), "{waits:?}");
    // The other namespace notices nothing.
    kept.secret("jazz-oauth", ROTATED).await;
    eventually("the rotated secret is in use", || operator.admits(&other, ROTATED)).await;
    kept.approved("new", SECRET).await;
    operator.swept().await;
    assert!(operator.admits(&key, SECRET).await);

    // With the right back, it goes on.
    let mut again = binding;
    again.metadata.resource_version = None;
    bindings.create(&PostParams::default(), &again).await.unwrap();
    lost.ready("new").await;
    eventually("it is said no longer", || async { operator.metrics.secrets_unreadable.get() == 0 }).await;
    assert!(operator.readiness.known().1.is_empty());
    lost.delete_secret("jazz-oauth").await;
    eventually("what is gone is gone", || async { !operator.admits(&key, SECRET).await }).await;
    operator.stop().await;
}

async fn a_secret_that_no_watch_has_told_of_is_not_gone(store: TestStore) {
    let cluster = chart::guarded(Guard::Deny).await;
    let roles: Api<Role> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let mut role = roles.get("oac-controller").await.unwrap();
    for rule in role.rules.iter_mut().flatten().filter(|rule| rule.resources == Some(vec!["secrets".into()])) {
        rule.verbs.retain(|verb| verb != "watch");
    }
    roles.replace("oac-controller", &PostParams::default(), &role).await.unwrap();
    let counted = FaultyStore::over(&store);
    let counting: Arc<dyn ConsumerStore> = counted.clone();
    let operator = start(&cluster, &counting, std::slice::from_ref(&cluster.namespace)).await;
    // The list was empty, and no watch tells of what came after it.
    let key = cluster.approved("jazz", SECRET).await;
    eventually("it is said", || async { operator.metrics.secrets_unreadable.get() == 1 }).await;
    let writes = counted.writes();
    store.sql("DELETE FROM verifications").await;
    eventually("all records were compared again", || async { store.store.head().await.unwrap().verified }).await;
    assert_eq!(counted.writes(), writes, "nothing is closed by what a cache lacks");
    assert!(operator.admits(&key, SECRET).await);
    operator.stop().await;
}
