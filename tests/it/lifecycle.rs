//! The main job, from `kubectl apply` to a consumer that can sign in, and back.

use std::collections::HashSet;

use axum::http::StatusCode;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use oauthconsumer_operator::api::OAuthConsumer;
use oauthconsumer_operator::consumer::ConsumerKey;
use oauthconsumer_operator::controller;
use serde_json::json;

use crate::support::{Cluster, Operator, TestStore, condition, eventually, is, on_both_stores, says};

on_both_stores!(
    the_whole_life_of_a_consumer,
    the_key_comes_before_the_secret_and_before_any_decision,
    decisions_are_honoured_and_dated,
    a_hold_beats_an_approval,
    names_and_secrets_change_and_the_key_stays,
    a_new_object_of_the_same_name_is_another_consumer,
    a_key_can_be_brought_along,
    the_key_survives_the_loss_of_status_and_record,
);

const SECRET: &str = "a secret of jazz, long enough";

fn key(object: &OAuthConsumer) -> String {
    object.status.as_ref().and_then(|status| status.consumer_key.clone()).expect("no key in status")
}

fn state(object: &OAuthConsumer) -> String {
    object.status.as_ref().and_then(|status| status.state.clone()).expect("no state in status")
}

async fn the_whole_life_of_a_consumer(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("jazz-oauth", SECRET).await;
    let created = cluster.consumer("jazz", json!({ "name": "Jazz Team Server ü" })).await;

    // Registered: keyed at once, inactive until approved.
    let ready = cluster.ready("jazz").await;
    let key = key(&ready);
    let cluster_id = controller::cluster_uid(&cluster.client).await.unwrap();
    assert_eq!(key, ConsumerKey::derive(&cluster_id, &created.uid().unwrap()).to_string());
    assert_eq!(state(&ready), "AwaitingApproval");
    assert_eq!(condition(&ready, "Approved"), "False/AwaitingApproval");
    assert_eq!(condition(&ready, "SecretReady"), "True/Accepted");
    assert!(!operator.admits(&key, SECRET).await);

    // Approved: signs in.
    cluster.edit("jazz", json!({ "approved": true })).await;
    let approved = cluster.wait("jazz", "Approved", is("Active", "True/Active")).await;
    assert_eq!(condition(&approved, "Ready"), "True/Synced");
    let answer = operator.signin(&key, SECRET).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["x-oauth-consumer-key"], key);
    assert_eq!(answer.headers["x-oauth-consumer-name"], "Jazz%20Team%20Server%20%C3%BC");
    assert_eq!(answer.headers["x-oauth-consumer-namespace"], cluster.namespace);
    assert!(!operator.admits(&key, "another secret, long enough").await);

    // Disapproved: refused, and back again.
    cluster.edit("jazz", json!({ "approved": false })).await;
    cluster.wait("jazz", "Disapproved", is("Approved", "False/Disapproved")).await;
    assert!(!operator.admits(&key, SECRET).await);
    cluster.edit("jazz", json!({ "approved": true })).await;
    cluster.wait("jazz", "Approved", is("Active", "True/Active")).await;
    assert!(operator.admits(&key, SECRET).await);

    // Removed: gone for good, and the tombstone says so.
    cluster.delete("jazz").await;
    cluster.gone(&created).await;
    assert!(!operator.admits(&key, SECRET).await);
    let state = store.text(&format!("SELECT state FROM oauth_consumers WHERE consumer_key = '{key}'")).await;
    assert_eq!(state.as_deref(), Some("Removed"));
    cluster.event("jazz", "RecordRemoved").await;
    assert_eq!(cluster.events("jazz").await, ["KeyGenerated", "Approved", "Disapproved", "Approved", "RecordRemoved"]);
    operator.stop().await;
}

async fn the_key_comes_before_the_secret_and_before_any_decision(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.consumer("early", json!({ "approved": true })).await;
    let waiting = cluster.wait("early", "SecretNotFound", is("Ready", "False/SecretNotFound")).await;
    let key = key(&waiting);
    assert_eq!(condition(&waiting, "Active"), "False/SecretNotFound");
    assert_eq!(condition(&waiting, "Approved"), "True/Approved", "the decision is another matter");
    assert_eq!(condition(&waiting, "SecretReady"), "False/SecretNotFound");
    assert_eq!(condition(&waiting, "Stalled"), "absent", "the Secret may still be on its way");
    assert_eq!(state(&waiting), "Approved");
    assert!(!operator.admits(&key, SECRET).await);

    cluster.secret("early-oauth", SECRET).await;
    let ready = cluster.wait("early", "Approved", is("Active", "True/Active")).await;
    assert_eq!(condition(&ready, "Ready"), "True/Synced");
    assert_eq!(self::key(&ready), key);
    assert!(operator.admits(&key, SECRET).await);
    operator.stop().await;
}

async fn decisions_are_honoured_and_dated(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("dated-oauth", SECRET).await;
    cluster.consumer("dated", json!({})).await;
    let decision = |object: &OAuthConsumer| object.status.as_ref().and_then(|status| status.decision.clone());
    assert_eq!(decision(&cluster.ready("dated").await), None);

    cluster.edit("dated", json!({ "approved": true })).await;
    let approved = decision(&cluster.wait("dated", "Approved", is("Active", "True/Active")).await).unwrap();
    assert_eq!((approved.approved, approved.generation), (true, 2));
    let recorded = store.text("SELECT decision_at FROM oauth_consumers").await.unwrap();
    assert_eq!(recorded, approved.at.0.to_string(), "the date is that of the commit");

    // Another edit is no other decision.
    cluster.edit("dated", json!({ "name": "renamed" })).await;
    let renamed = decision(&cluster.ready("dated").await).unwrap();
    assert_eq!(renamed, approved);

    // Leaving the field out again is a revocation, too.
    cluster.edit("dated", json!({ "approved": null })).await;
    let withdrawn = cluster.wait("dated", "AwaitingApproval", is("Approved", "False/AwaitingApproval")).await;
    assert_eq!(decision(&withdrawn), None);
    assert!(!operator.admits(&key(&withdrawn), SECRET).await);
    operator.stop().await;
}

async fn a_hold_beats_an_approval(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("held-oauth", SECRET).await;
    cluster.consumer("held", json!({ "approved": true, "hold": { "reason": "leaked, INC-1234" } })).await;
    let held = cluster.wait("held", "OnHold", is("Active", "False/OnHold")).await;
    assert_eq!((state(&held).as_str(), condition(&held, "Ready").as_str()), ("OnHold", "True/Synced"));
    assert_eq!(condition(&held, "Approved"), "True/Approved", "the decision is another matter");
    assert!(says(&held, "Active", "leaked, INC-1234"));
    assert!(!operator.admits(&key(&held), SECRET).await);

    // Longer than an event can say.
    cluster.edit("held", json!({ "hold": { "reason": "ü".repeat(1024) } })).await;
    cluster.wait("held", "the longer hold", |object| says(object, "Active", &"ü".repeat(1024))).await;
    cluster.edit("held", json!({ "hold": null })).await;
    cluster.wait("held", "Approved", is("Active", "True/Active")).await;
    assert!(operator.admits(&key(&held), SECRET).await);
    cluster.event("held", "HoldLifted").await;
    assert_eq!(cluster.events("held").await, ["KeyGenerated", "Approved", "Held", "Held", "HoldLifted"]);
    operator.stop().await;
}

async fn names_and_secrets_change_and_the_key_stays(store: TestStore) {
    const NEXT: &str = "the next secret, long enough";
    const THIRD: &str = "the third secret, long enough";
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("edited-oauth", SECRET).await;
    cluster.consumer("edited", json!({ "approved": true })).await;
    let key = key(&cluster.wait("edited", "Approved", is("Active", "True/Active")).await);

    cluster.edit("edited", json!({ "name": "Another name" })).await;
    let renamed = cluster.ready("edited").await;
    assert_eq!(self::key(&renamed), key);
    assert_eq!(operator.signin(&key, SECRET).await.headers["x-oauth-consumer-name"], "Another%20name");

    cluster.secret("edited-oauth", NEXT).await;
    eventually("the next secret is in use", || operator.admits(&key, NEXT)).await;
    assert!(!operator.admits(&key, SECRET).await);
    cluster.event("edited", "SecretChanged").await;

    cluster.secret("elsewhere", THIRD).await;
    cluster.edit("edited", json!({ "secretRef": { "name": "elsewhere" } })).await;
    eventually("the third secret is in use", || operator.admits(&key, THIRD)).await;
    assert!(!operator.admits(&key, NEXT).await);

    // Another key of the same Secret.
    let data = [("consumerSecret", THIRD), ("other", SECRET)].map(|(k, v)| (k.to_owned(), k8s_openapi::ByteString(v.into())));
    cluster.secret_data("elsewhere", data.into()).await;
    cluster.edit("edited", json!({ "secretRef": { "key": "other" } })).await;
    eventually("the other key is in use", || operator.admits(&key, SECRET)).await;
    assert!(!operator.admits(&key, THIRD).await);
    assert_eq!(self::key(&cluster.ready("edited").await), key);
    operator.stop().await;
}

async fn a_new_object_of_the_same_name_is_another_consumer(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("again-oauth", SECRET).await;
    let mut keys = Vec::new();
    for _ in 0..3 {
        let created = cluster.consumer("again", json!({ "approved": true })).await;
        let approved = cluster.wait("again", "Approved", is("Active", "True/Active")).await;
        keys.push(key(&approved));
        assert!(operator.admits(&key(&approved), SECRET).await);
        cluster.delete("again").await;
        cluster.gone(&created).await;
    }
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 3);
    for key in keys {
        assert!(!operator.admits(&key, SECRET).await);
    }
    operator.stop().await;
}

async fn a_key_can_be_brought_along(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let brought = format!("legacy.{}~key", cluster.namespace);
    for name in ["first", "second"] {
        cluster.secret(&format!("{name}-oauth"), SECRET).await;
    }
    let first = cluster.consumer("first", json!({ "approved": true, "consumerKey": brought })).await;
    let approved = cluster.wait("first", "Approved", is("Active", "True/Active")).await;
    assert_eq!(key(&approved), brought);
    assert!(operator.admits(&brought, SECRET).await);

    let second = cluster.consumer("second", json!({ "approved": true, "consumerKey": brought })).await;
    let refused = cluster.wait("second", "KeyInUse", is("Ready", "False/KeyInUse")).await;
    assert_eq!(condition(&refused, "Stalled"), "True/KeyInUse");
    assert_eq!(condition(&refused, "Active"), "False/KeyInUse");
    assert_eq!(condition(&refused, "Approved"), "Unknown/KeyInUse");
    assert_eq!(refused.status.as_ref().unwrap().consumer_key, None);

    // Neither one's end is the other's business, and the key is never given to anybody else.
    cluster.delete("second").await;
    cluster.gone(&second).await;
    assert!(operator.admits(&brought, SECRET).await);
    cluster.delete("first").await;
    cluster.gone(&first).await;
    assert!(!operator.admits(&brought, SECRET).await);
    cluster.consumer("second", json!({ "approved": true, "consumerKey": brought })).await;
    cluster.wait("second", "KeyInUse", is("Ready", "False/KeyInUse")).await;
    operator.stop().await;
}

async fn the_key_survives_the_loss_of_status_and_record(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("lost-oauth", SECRET).await;
    cluster.consumer("lost", json!({ "approved": true })).await;
    let key = key(&cluster.wait("lost", "Approved", is("Active", "True/Active")).await);
    let lose_status = || {
        cluster.tamper("lost", |object| {
            object.as_object_mut().unwrap().remove("status");
        })
    };
    let newer = |object: &OAuthConsumer, than: u64| object.resource_version().unwrap().parse::<u64>().unwrap() > than;
    let back = async |lost: u64| {
        let approved = is("Active", "True/Active");
        cluster.wait("lost", "Approved again", |object| newer(object, lost) && approved(object)).await
    };

    let lost = lose_status();
    assert_eq!(self::key(&back(lost).await), key);
    store.sql("DELETE FROM oauth_consumers").await;
    let lost = lose_status();
    assert_eq!(self::key(&back(lost).await), key, "both at once");
    assert!(operator.admits(&key, SECRET).await);

    // Also when everything is lost while nobody looks.
    operator.stop().await;
    store.sql("DELETE FROM oauth_consumers").await;
    let lost = lose_status();
    let operator = Operator::start(&cluster, store.store.clone()).await;
    assert_eq!(self::key(&back(lost).await), key);
    assert!(operator.admits(&key, SECRET).await);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_in_status_is_never_honoured() {
    let store = TestStore::sqlite().await;
    let cluster = Cluster::new().await;
    cluster.secret("forged-oauth", SECRET).await;
    cluster.consumer("forged", json!({ "approved": true })).await;
    let forged = json!({ "status": { "consumerKey": "a-forged-key" } });
    cluster.consumers.patch_status("forged", &PatchParams::default(), &Patch::Merge(forged)).await.unwrap();

    let operator = Operator::start(&cluster, store.store.clone()).await;
    let refused = cluster.wait("forged", "ForeignKey", is("Ready", "False/ForeignKey")).await;
    assert_eq!(condition(&refused, "Stalled"), "True/ForeignKey");
    assert!(!operator.admits("a-forged-key", SECRET).await);
    let records = store.text("SELECT consumer_key FROM oauth_consumers").await;
    assert_eq!(records, None, "there is nothing to sign in with");
    cluster.delete("forged").await;
    cluster.gone(&refused).await;
    operator.stop().await;
}
