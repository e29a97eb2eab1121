//! What fails, and what it costs the rest.

use std::time::Duration;

use axum::http::StatusCode;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use oauthconsumer_operator::consumer::ReconcileResult;
use oauthconsumer_operator::controller::Settings;
use serde_json::json;

use crate::support::{Cluster, FaultyStore, Operator, TestStore, condition, eventually, is, on_both_stores, says};

on_both_stores!(an_outage_of_the_store_is_neither_yes_nor_no_and_passes, a_lost_reply_is_no_second_consumer);

const SECRET: &str = "a secret, long enough for all";

async fn an_outage_of_the_store_is_neither_yes_nor_no_and_passes(store: TestStore) {
    let cluster = Cluster::new().await;
    let faulty = FaultyStore::over(&store);
    let operator = Operator::start(&cluster, faulty.clone()).await;
    cluster.secret("outage-oauth", SECRET).await;
    cluster.consumer("outage", json!({ "approved": true })).await;
    let approved = cluster.wait("outage", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();

    faulty.set_down(true);
    for secret in [SECRET, "a wrong secret, long enough"] {
        let answer = operator.signin(&key, secret).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key("retry-after"));
    }
    cluster.edit("outage", json!({ "approved": false })).await;
    let failed = cluster.wait("outage", "StoreUnavailable", is("Ready", "False/StoreUnavailable")).await;
    assert_eq!(condition(&failed, "Approved"), "Unknown/StoreUnavailable", "nobody can tell");
    assert_eq!(failed.status.as_ref().unwrap().consumer_key.as_ref(), Some(&key));
    cluster.consumer("newborn", json!({ "secretRef": { "name": "outage-oauth" } })).await;
    let newborn = cluster.wait("newborn", "StoreUnavailable", is("Ready", "False/StoreUnavailable")).await;
    assert_eq!(newborn.status.unwrap().consumer_key, None, "no key before its record");

    faulty.set_down(false);
    cluster.wait("outage", "Disapproved", is("Approved", "False/Disapproved")).await;
    cluster.ready("newborn").await;
    assert!(!operator.admits(&key, SECRET).await);
    operator.stop().await;
}

async fn a_lost_reply_is_no_second_consumer(store: TestStore) {
    let cluster = Cluster::new().await;
    let faulty = FaultyStore::over(&store);
    let operator = Operator::start(&cluster, faulty.clone()).await;
    cluster.secret("lost-oauth", SECRET).await;
    faulty.lose_next_reply();
    cluster.consumer("lost", json!({ "approved": true })).await;
    let approved = cluster.wait("lost", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();
    assert!(operator.admits(&key, SECRET).await);
    let rows = store.text("SELECT CAST(COUNT(*) AS TEXT) FROM oauth_consumers").await;
    assert_eq!(rows.as_deref(), Some("1"));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_only_its_own_object() {
    one_object_fails(FaultyStore::poison).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_without_end_costs_only_its_own_object() {
    one_object_fails(FaultyStore::stall).await;
}

async fn one_object_fails(fail: impl Fn(&FaultyStore, &str)) {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let faulty = FaultyStore::over(&store);
    cluster.secret("common", SECRET).await;
    let spec = json!({ "approved": true, "secretRef": { "name": "common" } });
    let poisoned = cluster.consumer("poisoned", spec.clone()).await;
    fail(&faulty, &poisoned.uid().unwrap());
    let impatient = |settings: &mut Settings| settings.reconcile_timeout = Duration::from_secs(1);
    let operator = Operator::start_with(&cluster, faulty.clone(), "admin", impatient).await;
    let failed = cluster.wait("poisoned", "Pending", |object| says(object, "Ready", "The operator failed")).await;
    assert_eq!(condition(&failed, "Ready"), "Unknown/Pending");
    for name in ["well", "fine"] {
        cluster.consumer(name, spec.clone()).await;
        cluster.wait(name, "Approved", is("Active", "True/Active")).await;
    }
    // It is tried again, and does not write its status again and again.
    let version = cluster.get("poisoned").await.metadata.resource_version;
    let failures = operator.metrics.reconciles.get(ReconcileResult::Internal);
    eventually("more attempts", || async { operator.metrics.reconciles.get(ReconcileResult::Internal) > failures + 2 }).await;
    assert_eq!(cluster.get("poisoned").await.metadata.resource_version, version);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_secret_is_not_an_absent_one() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    cluster.secret("guarded-oauth", SECRET).await;
    cluster.consumer("guarded", json!({ "approved": true })).await;
    let all = Operator::start(&cluster, store.store.clone()).await;
    let approved = cluster.wait("guarded", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();
    all.stop().await;

    // The same operator, but without the right to read Secrets: it may only list and watch them.
    grant(
        &cluster,
        "operator",
        "blind",
        &[
            rule("oauthconsumers.dev", &["oauthconsumers", "oauthconsumers/status"], &["get", "list", "watch", "patch"]),
            rule("", &["secrets"], &["list", "watch"]),
        ],
    )
    .await;
    let blind = Operator::start_with(&cluster, store.store.clone(), "operator", |_| {}).await;
    cluster.edit("guarded", json!({ "name": "Another name" })).await;
    let failed = cluster.wait("guarded", "a reason", is("Ready", "Unknown/Pending")).await;
    assert!(says(&failed, "Ready", "failed to get Secret") && says(&failed, "Ready", "forbidden"), "{:?}", failed.status);
    assert!(blind.admits(&key, SECRET).await, "what was approved stays as it was");

    // What ends a sign-in has no need of the Secret.
    cluster.edit("guarded", json!({ "approved": false })).await;
    cluster.wait("guarded", "Disapproved", is("Approved", "False/Disapproved")).await;
    assert!(!blind.admits(&key, SECRET).await);
    cluster.edit("guarded", json!({ "approved": true })).await;

    grant(&cluster, "operator", "seeing", &[rule("", &["secrets"], &["get"])]).await;
    let mended = cluster.wait("guarded", "Approved", is("Active", "True/Active")).await;
    assert_eq!(condition(&mended, "Ready"), "True/Synced");
    blind.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_to_publish_events_is_in_nobodys_way() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    grant(
        &cluster,
        "operator",
        "silent",
        &[
            rule("oauthconsumers.dev", &["oauthconsumers", "oauthconsumers/status"], &["get", "list", "watch", "patch"]),
            rule("", &["secrets"], &["get", "list", "watch"]),
        ],
    )
    .await;
    let operator = Operator::start_with(&cluster, store.store.clone(), "operator", |_| {}).await;
    cluster.secret("silent-oauth", SECRET).await;
    let object = cluster.consumer("silent", json!({ "approved": true })).await;
    cluster.wait("silent", "Approved", is("Active", "True/Active")).await;
    cluster.delete("silent").await;
    cluster.gone(&object).await;
    eventually("dropped events are counted", || async { operator.metrics.events_dropped.get() >= 3 }).await;
    operator.stop().await;
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.into()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

async fn grant(cluster: &Cluster, user: &str, name: &str, rules: &[PolicyRule]) {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    let role = Role { metadata: metadata.clone(), rules: Some(rules.to_vec()) };
    let binding = RoleBinding {
        metadata,
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name: name.into() },
        subjects: Some(vec![Subject { kind: "User".into(), name: user.into(), ..Subject::default() }]),
    };
    let (client, namespace) = (&cluster.client, &cluster.namespace);
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &role).await.unwrap();
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &binding).await.unwrap();
}
