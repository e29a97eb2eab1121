//! Everything that can be wrong with a Secret: the condition, the message, the sign-in, and the way back.

use std::process::Command;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use oauthconsumer_operator::telemetry::Operation;
use serde_json::json;

use crate::support::{Cluster, Operator, TestStore, condition, eventually, is, kubeconfig, on_both_stores, says};

on_both_stores!(every_bad_value_has_its_reason_and_a_way_back, a_deleted_secret_ends_sign_in_until_it_is_back);

const GOOD: &str = "a good secret, long enough";

async fn every_bad_value_has_its_reason_and_a_way_back(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("edge-oauth", GOOD).await;
    cluster.consumer("edge", json!({ "approved": true })).await;
    let approved = cluster.wait("edge", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();

    let big = vec![b'x'; 1024 * 1024 - 1024];
    let cases: [(&[u8], &str, &str); 11] = [
        (b"", "False/SecretTooShort", "shorter than 16 bytes"),
        (b"fifteen bytes..", "False/SecretTooShort", "shorter than 16 bytes"),
        (b"short\n", "False/SecretTooShort", "shorter than 16 bytes"),
        (&[b'x'; 513], "False/SecretTooLong", "longer than 512 bytes"),
        (&big, "False/SecretTooLong", "longer than 512 bytes"),
        (&[0xff; 20], "False/SecretInvalid", "not UTF-8"),
        (b"0123456789\x00abcdef", "False/SecretInvalid", "control character"),
        (b"0123456789\nabcdef", "False/SecretInvalid", "control character"),
        (b" 0123456789abcdef", "False/SecretInvalid", "white space"),
        (b"0123456789abcdef\n", "False/SecretInvalid", "ends with a newline"),
        (b"0123456789abcdef\r\n", "False/SecretInvalid", "ends with a newline"),
    ];
    for (value, expected, words) in cases {
        let shown = String::from_utf8_lossy(&value[..value.len().min(20)]).into_owned();
        cluster.secret("edge-oauth", value).await;
        let bad = cluster.wait("edge", &format!("{shown:?} is {expected}"), is("Ready", expected)).await;
        assert_eq!(condition(&bad, "Active"), expected);
        assert_eq!(condition(&bad, "SecretReady"), expected);
        assert_eq!(condition(&bad, "Stalled"), expected.replace("False", "True"), "only the user can help");
        assert!(says(&bad, "SecretReady", words), "{shown:?}: {:?}", bad.status);
        assert!(!operator.admits(&key, GOOD).await);
        assert!(!operator.admits(&key, &String::from_utf8_lossy(value)).await);

        cluster.secret("edge-oauth", GOOD).await;
        let back = cluster.wait("edge", "Approved again", is("Active", "True/Active")).await;
        assert_eq!(condition(&back, "Ready"), "True/Synced");
        assert_eq!(condition(&back, "Stalled"), "absent");
        assert!(operator.admits(&key, GOOD).await, "after {shown:?}");
    }
    cluster.event("edge", "SecretUnusable").await;
    operator.stop().await;
}

async fn a_deleted_secret_ends_sign_in_until_it_is_back(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("gone-oauth", GOOD).await;
    cluster.consumer("gone", json!({ "approved": true })).await;
    let approved = cluster.wait("gone", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();

    for next in [GOOD, "another secret, long enough"] {
        cluster.delete_secret("gone-oauth").await;
        let waiting = cluster.wait("gone", "SecretNotFound", is("Active", "False/SecretNotFound")).await;
        assert_eq!(condition(&waiting, "Stalled"), "absent");
        assert!(!operator.admits(&key, GOOD).await);
        cluster.secret("gone-oauth", next).await;
        cluster.wait("gone", "Approved", is("Active", "True/Active")).await;
        assert!(operator.admits(&key, next).await);
        assert_eq!(operator.admits(&key, GOOD).await, next == GOOD, "only the secret that is back");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_that_the_message_gives_mends_a_newline_and_nothing_else() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let data = [("consumerSecret", format!("{GOOD}\n")), ("other", "stays".to_owned())];
    cluster.secret_data("file-oauth", data.map(|(key, value)| (key.to_owned(), ByteString(value.into()))).into()).await;
    cluster.consumer("file", json!({ "approved": true })).await;
    let bad = cluster.wait("file", "SecretInvalid", is("Ready", "False/SecretInvalid")).await;
    let status = bad.status.unwrap();
    let message = &status.conditions.iter().find(|condition| condition.type_ == "SecretReady").unwrap().message;
    let command = message.split_once("Write it without: ").unwrap().1;
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", command]).env("VALUE", GOOD).env("KUBECONFIG", kubeconfig());
    let ran = shell.output().unwrap();
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    cluster.wait("file", "Approved", is("Active", "True/Active")).await;
    assert!(operator.admits(&status.consumer_key.unwrap(), GOOD).await);
    assert_eq!(cluster.secrets.get("file-oauth").await.unwrap().data.unwrap()["other"].0, b"stays");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_without_the_key_waits_for_it() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret_data("keyless-oauth", [("other".to_owned(), ByteString(GOOD.into()))].into()).await;
    cluster.consumer("keyless", json!({ "approved": true })).await;
    let waiting = cluster.wait("keyless", "SecretKeyMissing", is("Ready", "False/SecretKeyMissing")).await;
    assert_eq!(condition(&waiting, "Stalled"), "absent");
    assert!(says(&waiting, "Ready", "has no key \"consumerSecret\""));
    cluster.secret("keyless-oauth", GOOD).await;
    cluster.wait("keyless", "Approved", is("Active", "True/Active")).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_secret_works_and_is_replaced_by_deleting_it() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let immutable = |value: &str| Secret {
        immutable: Some(true),
        data: Some([("consumerSecret".to_owned(), ByteString(value.into()))].into()),
        ..serde_json::from_value(json!({ "metadata": { "name": "fixed-oauth" } })).unwrap()
    };
    cluster.secrets.create(&kube::api::PostParams::default(), &immutable(GOOD)).await.unwrap();
    cluster.consumer("fixed", json!({ "approved": true })).await;
    let approved = cluster.wait("fixed", "Approved", is("Active", "True/Active")).await;
    let key = approved.status.unwrap().consumer_key.unwrap();
    cluster.delete_secret("fixed-oauth").await;
    let next = "another secret, long enough";
    cluster.secrets.create(&kube::api::PostParams::default(), &immutable(next)).await.unwrap();
    eventually("the new secret is in use", || operator.admits(&key, next)).await;
    assert!(!operator.admits(&key, GOOD).await);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_another_namespace_is_out_of_reach() {
    let (cluster, elsewhere, store) = (Cluster::new().await, Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    elsewhere.secret("far-oauth", GOOD).await;
    cluster.consumer("far", json!({ "approved": true })).await;
    cluster.wait("far", "SecretNotFound", is("Ready", "False/SecretNotFound")).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_consumers_with_one_secret_live_apart() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("shared", GOOD).await;
    let mut keys = Vec::new();
    for name in ["one", "two"] {
        cluster.consumer(name, json!({ "approved": true, "secretRef": { "name": "shared" } })).await;
        let approved = cluster.wait(name, "Approved", is("Active", "True/Active")).await;
        keys.push(approved.status.unwrap().consumer_key.unwrap());
    }
    let salted = store.text("SELECT CAST(COUNT(DISTINCT phc) AS TEXT) FROM oauth_consumers").await;
    assert_eq!(salted.as_deref(), Some("2"), "equal secrets have different hashes");
    let next = "the next secret, long enough";
    cluster.secret("shared", next).await;
    for key in &keys {
        eventually("the next secret is in use", || operator.admits(key, next)).await;
    }
    cluster.delete("one").await;
    eventually("the first is refused", || async { !operator.admits(&keys[0], next).await }).await;
    assert!(operator.admits(&keys[1], next).await);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secrets_labels_cost_neither_a_hash_nor_a_status() {
    use oauthconsumer_operator::telemetry::Operation;
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("labelled-oauth", GOOD).await;
    cluster.consumer("labelled", json!({ "approved": true })).await;
    let before = cluster.wait("labelled", "Approved", is("Active", "True/Active")).await;
    let (hashes, written) = (operator.count(Operation::SecretHashed), operator.count(Operation::RecordWritten));

    let labels = Patch::Merge(json!({ "metadata": { "labels": { "touched": "yes" } } }));
    let touched = cluster.secrets.patch("labelled-oauth", &PatchParams::default(), &labels).await.unwrap();
    let version = touched.metadata.resource_version.unwrap();
    eventually("the new version of the Secret is recorded", || async {
        store.text("SELECT secret_resource_version FROM oauth_consumers").await.as_ref() == Some(&version)
    })
    .await;
    operator.settled().await;
    assert_eq!(operator.count(Operation::SecretHashed), hashes);
    assert_eq!(operator.count(Operation::RecordWritten), written + 1);
    let after = cluster.get("labelled").await;
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version, "nothing was written to the object");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_floor_is_for_new_values() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let at = |min| move |settings: &mut oauthconsumer_operator::controller::Settings| settings.limits.min = min;
    let (short, long) = ("seventeen bytes..", "a secret of more than thirty-two bytes");
    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", at(16)).await;
    let key = cluster.approved("floor", short).await;
    operator.stop().await;

    // Twice, because another process knows nothing of what this one has compared.
    for touched in ["once", "twice"] {
        let operator = Operator::start_with(&cluster, store.store.clone(), "admin", at(32)).await;
        eventually("it is counted", || async { operator.metrics.secrets_below_floor.get() == 1 }).await;
        // Another version of the Secret with the same value is no new value.
        cluster.label_secret("floor-oauth", touched).await;
        operator.settled().await;
        assert!(operator.admits(&key, short).await);
        cluster.label_secret("floor-oauth", &format!("{touched}-again")).await;
        operator.settled().await;
        assert!(operator.admits(&key, short).await);
        operator.stop().await;
    }

    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", at(32)).await;
    cluster.secret("floor-oauth", "eighteen bytes....").await;
    let refused = cluster.wait("floor", "refused", is("Ready", "False/SecretTooShort")).await;
    assert!(says(&refused, "Ready", "shorter than 32 bytes"));
    assert!(!operator.admits(&key, short).await && !operator.admits(&key, "eighteen bytes....").await);
    cluster.secret("floor-oauth", short).await;
    operator.settled().await;
    assert!(!operator.admits(&key, short).await, "a value that comes back is a new one");
    cluster.secret("floor-oauth", long).await;
    cluster.wait("floor", "accepted", is("Active", "True/Active")).await;
    assert!(operator.admits(&key, long).await);
    eventually("none is counted", || async { operator.metrics.secrets_below_floor.get() == 0 }).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_floors_at_once_do_not_fight() {
    let (cluster, store) = (Cluster::new().await, TestStore::postgres().await);
    let at = |min| move |settings: &mut oauthconsumer_operator::controller::Settings| settings.limits.min = min;
    let low = Operator::start_with(&cluster, store.store.clone(), "admin", at(16)).await;
    let high = Operator::start_with(&cluster, store.reader().await, "admin", at(24)).await;
    for (name, secret) in [("short", "five."), ("between", "twenty bytes of text")] {
        cluster.secret(&format!("{name}-oauth"), secret).await;
        cluster.consumer(name, json!({ "approved": true })).await;
    }
    cluster.wait("short", "refused", is("Ready", "False/SecretTooShort")).await;
    cluster.wait("between", "accepted by the lower floor", is("Active", "True/Active")).await;
    low.settled().await;
    high.settled().await;
    let written = || low.count(Operation::StatusWritten) + high.count(Operation::StatusWritten);
    let before = written();
    for operator in [&low, &high, &low, &high] {
        operator.swept().await;
    }
    assert_eq!(written(), before, "each writes its own floor into the status");
    low.stop().await;
    high.stop().await;
}
