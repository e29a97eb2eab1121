//! Records edited, lost, made up and orphaned behind the operator's back; and the guard against mass deletion.

use kube::ResourceExt;
use oauthconsumer_operator::consumer::Owner;
use oauthconsumer_operator::controller::{self, Settings};
use oauthconsumer_operator::telemetry::Operation;
use serde_json::json;

use crate::support::{Cluster, FaultyStore, Operator, Records, TestStore, eventually, is, on_both_stores};

on_both_stores!(
    an_edited_record_is_refused_at_once_and_put_right,
    a_lost_record_is_written_again_under_its_key,
    a_made_up_record_is_removed,
    an_orphan_goes_when_its_finalizer_was_taken_by_force,
    records_out_of_scope_are_disabled_until_they_are_back,
    after_a_restore_of_the_cluster_hashes_are_checked_once,
    an_orphan_is_missed_twice_before_it_goes,
    nothing_is_removed_in_another_cluster,
    old_tombstones_are_dropped,
);

const SECRET: &str = "a secret, long enough for all";

/// No sweep comes by itself.
fn rarely(settings: &mut Settings) {
    settings.sweep_period = std::time::Duration::from_hours(1);
}

async fn an_edited_record_is_refused_at_once_and_put_right(store: TestStore) {
    let cluster = Cluster::new().await;
    let quiet = Operator::start_with(&cluster, store.store.clone(), "admin", rarely).await;
    let key = cluster.approved("edited", SECRET).await;
    cluster.secret("never-oauth", SECRET).await;
    cluster.consumer("never", json!({ "approved": false })).await;
    let never = cluster.ready("never").await.status.unwrap().consumer_key.unwrap();
    quiet.stop().await;

    let edits = [
        ("approved by hand", &never, format!("UPDATE oauth_consumers SET state = 'Approved' WHERE consumer_key = '{never}'")),
        (
            "given another hash",
            &key,
            "UPDATE oauth_consumers SET phc = '$argon2id$v=19$m=32,t=1,p=1$c29tZXNhbHQ$Rdescudvih8' WHERE state = 'Approved'"
                .into(),
        ),
        ("renamed", &key, format!("UPDATE oauth_consumers SET name = 'Mallory' WHERE consumer_key = '{key}'")),
        ("given to another object", &key, format!("UPDATE oauth_consumers SET uid = 'another-uid' WHERE consumer_key = '{key}'")),
        ("given a higher generation", &key, format!("UPDATE oauth_consumers SET generation = 99 WHERE consumer_key = '{key}'")),
    ];
    for (what, edited, edit) in edits {
        store.sql(&edit).await;
        let operator = Operator::start(&cluster, store.store.clone()).await;
        eventually(&format!("a record that was {what} is repaired"), || async { operator.count(Operation::RecordRepaired) == 1 })
            .await;
        operator.settled().await;
        assert_eq!(operator.admits(edited, SECRET).await, *edited == key, "{what}");
        assert_eq!(operator.count(Operation::RecordRepaired), 1, "once");
        operator.stop().await;
    }
    cluster.event("edited", "RecordRepaired").await;
    cluster.event("never", "RecordRepaired").await;

    // With nobody there to repair it, an edited record signs nobody in.
    let alone = Operator::start_with(&cluster, store.store.clone(), "admin", rarely).await;
    eventually("the first sweep is over", || async { alone.metrics.sweeps.get() == 1 }).await;
    store.sql(&format!("UPDATE oauth_consumers SET state = 'Approved' WHERE consumer_key = '{never}'")).await;
    assert!(!alone.admits(&never, SECRET).await);
    alone.stop().await;
}

async fn a_lost_record_is_written_again_under_its_key(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let key = cluster.approved("lost", SECRET).await;
    store.sql("DELETE FROM oauth_consumers").await;
    eventually("the consumer can sign in again", || operator.admits(&key, SECRET)).await;
    cluster.event("lost", "RecordRepaired").await;
    let status = cluster.ready("lost").await.status.unwrap();
    assert_eq!(status.consumer_key.as_deref(), Some(key.as_str()));
    operator.stop().await;
}

async fn a_made_up_record_is_removed(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let key = cluster.approved("real", SECRET).await;
    let columns = "cluster_id, installation, namespace, object, name, generation, state, phc, secret_problem, secret_floor, \
                   secret_name, secret_key, secret_uid, secret_resource_version, decision_approved, decision_by, decision_at, \
                   decision_generation, reserved, updated_at, version, checksum";
    store
        .sql(&format!(
            "INSERT INTO oauth_consumers (consumer_key, uid, {columns}) \
             SELECT 'made-up-key', 'made-up-uid', {columns} FROM oauth_consumers WHERE consumer_key = '{key}'"
        ))
        .await;
    assert!(!operator.admits("made-up-key", SECRET).await, "its checksum does not fit");
    let state = "SELECT state FROM oauth_consumers WHERE uid = 'made-up-uid'";
    eventually("the made-up record is a tombstone", || async { store.text(state).await.as_deref() == Some("Removed") }).await;
    assert!(operator.admits(&key, SECRET).await);
    operator.stop().await;
}

async fn an_orphan_goes_when_its_finalizer_was_taken_by_force(store: TestStore) {
    let cluster = Cluster::new().await;
    // With the operator up: noticed by the deletion alone, for the reconcile of the object is held.
    let faulty = FaultyStore::over(&store);
    let operator = Operator::start_with(&cluster, faulty.clone(), "admin", rarely).await;
    let key = cluster.approved("forced", SECRET).await;
    faulty.reading().close();
    cluster.take_finalizers("forced").await;
    faulty.reading().held().await;
    cluster.delete("forced").await;
    eventually("the record is gone", || async { !operator.admits(&key, SECRET).await }).await;
    faulty.reading().release();

    // With the operator down: found by the sweep.
    let key = cluster.approved("forced", SECRET).await;
    operator.stop().await;
    cluster.take_finalizers("forced").await;
    cluster.delete("forced").await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    eventually("the orphan is gone", || async { !operator.admits(&key, SECRET).await }).await;
    assert_eq!(operator.metrics.sweep_guard.get(), 0);
    operator.stop().await;
}

async fn records_out_of_scope_are_disabled_until_they_are_back(store: TestStore) {
    let (kept, dropped) = (Cluster::new().await, Cluster::new().await);
    let both = |settings: &mut Settings| settings.namespaces = vec![kept.namespace.clone(), dropped.namespace.clone()];
    let operator = Operator::start_with(&kept, store.store.clone(), "admin", both).await;
    let (inside, outside) = (kept.approved("inside", SECRET).await, dropped.approved("outside", SECRET).await);
    operator.stop().await;

    let operator = Operator::start(&kept, store.store.clone()).await;
    eventually("the record out of scope is disabled", || async { !operator.admits(&outside, SECRET).await }).await;
    assert!(operator.admits(&inside, SECRET).await);
    // Another installation on the same store is left alone.
    let other = |settings: &mut Settings| settings.installation = "another".into();
    let stranger = Operator::start_with(&Cluster::new().await, store.store.clone(), "admin", other).await;
    stranger.swept().await;
    assert!(operator.admits(&inside, SECRET).await);
    stranger.stop().await;
    operator.stop().await;

    let operator = Operator::start_with(&kept, store.store.clone(), "admin", both).await;
    eventually("it is back with its namespace", || operator.admits(&outside, SECRET)).await;
    operator.stop().await;
}

async fn after_a_restore_of_the_cluster_hashes_are_checked_once(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let keys = [cluster.approved("one", SECRET).await, cluster.approved("two", SECRET).await];
    operator.stop().await;

    // As if etcd had been set back: of one Secret the store has seen a newer version than the cluster shows.
    for name in ["one", "two"] {
        let uid = cluster.get(name).await.uid().unwrap();
        let owner = Owner { cluster_id: controller::cluster_uid(&cluster.client).await.unwrap(), uid };
        let stored = store.store.find(&owner).await.unwrap();
        let mut record = stored.record;
        if name == "one" {
            record.secret_source.as_mut().unwrap().resource_version = "99999999999".into();
        }
        store.store.replace(record, stored.version).await.unwrap();
    }
    let operator = Operator::start(&cluster, store.store.clone()).await;
    eventually("every hash is compared with its Secret", || async { operator.count(Operation::SecretHashed) == 2 }).await;
    cluster.event("one", "ClusterRestored").await;
    operator.swept().await;
    assert_eq!(operator.count(Operation::SecretHashed), 2, "once");
    for key in &keys {
        assert!(operator.admits(key, SECRET).await);
    }
    operator.stop().await;
}

async fn an_orphan_is_missed_twice_before_it_goes(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.approved("kept", SECRET).await;
    vanished(&cluster, operator, 1).await;
    let once = Operator::start_with(&cluster, store.store.clone(), "admin", rarely).await;
    eventually("the first sweep is over", || async { once.metrics.sweeps.get() == 1 }).await;
    assert_eq!(once.count(Operation::RecordRemoved), 0, "one list may lack it by mistake");
    once.stop().await;
    let often = Operator::start(&cluster, store.store.clone()).await;
    eventually("the orphan is removed", || async { often.count(Operation::RecordRemoved) == 1 }).await;
    often.stop().await;
}

async fn nothing_is_removed_in_another_cluster(store: TestStore) {
    let cluster = Cluster::new().await;
    let elsewhere = |settings: &mut Settings| settings.cluster_id = "another-cluster".into();
    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", elsewhere).await;
    cluster.approved("kept", SECRET).await;
    let keys = vanished(&cluster, operator, 1).await;
    // The id is now said to be this cluster's UID, and is not.
    let mistaken = |settings: &mut Settings| {
        elsewhere(settings);
        settings.cluster_id_is_uid = true;
    };
    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", mistaken).await;
    eventually("the guard alarms", || async { operator.metrics.sweep_guard.get() == 1 }).await;
    operator.swept().await;
    assert_eq!(operator.count(Operation::RecordRemoved), 0);
    assert!(operator.admits(&keys[0], SECRET).await);
    operator.stop().await;
}

async fn old_tombstones_are_dropped(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let brought = format!("legacy.{}", cluster.namespace);
    for (name, minutes, key) in [("old", 61, None), ("young", 59, None), ("brought", 61, Some(&brought))] {
        cluster.secret(&format!("{name}-oauth"), SECRET).await;
        cluster.consumer(name, key.map_or(json!({}), |key| json!({ "consumerKey": key }))).await;
        let object = cluster.ready(name).await;
        cluster.delete(name).await;
        cluster.gone(&object).await;
        let then = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        store.sql(&format!("UPDATE oauth_consumers SET updated_at = '{then}' WHERE object = '{name}'")).await;
    }
    let row = |name: &str| format!("SELECT consumer_key FROM oauth_consumers WHERE object = '{name}'");
    eventually("the old one is dropped", || async { store.text(&row("old")).await.is_none() }).await;
    operator.swept().await;
    assert!(store.text(&row("young")).await.is_some());
    assert_eq!(store.text(&row("brought")).await, Some(brought), "it could be brought along by another consumer");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_removes_a_few_orphans_at_a_time_and_says_so() {
    const COUNT: u64 = 12;
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let kept = cluster.approved("kept", SECRET).await;
    let keys = vanished(&cluster, operator, COUNT).await;

    let slowly = |settings: &mut Settings| settings.sweep_period = std::time::Duration::from_secs(2);
    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", slowly).await;
    eventually("the guard alarms", || async { operator.metrics.sweep_guard.get() == 1 }).await;
    eventually("a sweep ends", || async { operator.metrics.orphans.get() == 7 }).await;
    assert_eq!(operator.count(Operation::RecordRemoved), 5, "no more than five of twelve in one period");
    eventually("all are removed", || async { operator.count(Operation::RecordRemoved) == COUNT }).await;
    eventually("the guard is calm again", || async { operator.metrics.sweep_guard.get() == 0 }).await;
    for key in keys {
        assert!(!operator.admits(&key, SECRET).await);
    }
    assert!(operator.admits(&kept, SECRET).await);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_shares_nothing_with_the_records_removes_nothing() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let keys = vanished(&cluster, operator, 8).await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    eventually("the guard alarms", || async { operator.metrics.sweep_guard.get() == 1 }).await;
    operator.swept().await;
    operator.swept().await;
    assert_eq!((operator.count(Operation::RecordRemoved), operator.metrics.orphans.get()), (0, 8));
    assert!(operator.admits(&keys[0], SECRET).await);
    operator.stop().await;
}

/// Consumers that all vanish while nobody looks, as after a mistake; answers their keys.
async fn vanished(cluster: &Cluster, operator: Operator, count: u64) -> Vec<String> {
    cluster.secret("common", SECRET).await;
    for i in 0..count {
        cluster.consumer(&format!("c{i}"), json!({ "approved": true, "secretRef": { "name": "common" } })).await;
    }
    let mut keys = Vec::new();
    for i in 0..count {
        let object = cluster.wait(&format!("c{i}"), "Approved", is("Active", "True/Active")).await;
        keys.push(object.status.unwrap().consumer_key.unwrap());
    }
    operator.stop().await;
    for i in 0..count {
        cluster.take_finalizers(&format!("c{i}")).await;
        cluster.delete(&format!("c{i}")).await;
    }
    keys
}
