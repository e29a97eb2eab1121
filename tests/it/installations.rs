//! Installations that come, go, share a store and are renamed: records of one that is gone do not sign in for ever, and an outage ends
//! no sign-in.

use std::time::Duration;

use kube::ResourceExt;
use oauthconsumer_operator::api::FINALIZER;
use oauthconsumer_operator::controller::{self, Settings};
use oauthconsumer_operator::store::Controller;
use serde_json::json;

use crate::support::{Cluster, FaultyStore, Operator, TestStore, condition, eventually, is, now, on_both_stores, says};

on_both_stores!(
    a_renamed_installation_leaves_nothing_that_signs_in_for_ever,
    what_an_installation_gives_up_is_closed_and_says_so,
    an_object_whose_record_is_in_another_store_is_left_alone,
    two_installations_of_one_namespace_do_not_fight,
    a_controller_that_vanished_is_missed_and_then_succeeded,
);

const SECRET: &str = "a secret, long enough for all";

pub fn installation<'a>(name: &'a str, of: &'a [&'a Cluster]) -> impl FnOnce(&mut Settings) + 'a {
    move |settings: &mut Settings| {
        settings.installation = name.into();
        settings.namespaces = of.iter().map(|cluster| cluster.namespace.clone()).collect();
    }
}

/// One that is not taken for ended because the machine is busy.
fn seldom<'a>(name: &'a str, of: &'a Cluster) -> impl FnOnce(&mut Settings) + 'a {
    move |settings: &mut Settings| {
        settings.installation = name.into();
        settings.namespaces = vec![of.namespace.clone()];
        settings.sweep_period = Duration::from_secs(1);
    }
}

/// The installation that a consumer's record names.
async fn keeper(store: &TestStore, key: &str) -> Option<String> {
    store.text(&format!("SELECT installation FROM oauth_consumers WHERE consumer_key = '{key}'")).await
}

async fn a_renamed_installation_leaves_nothing_that_signs_in_for_ever(store: TestStore) {
    let (kept, left) = (&Cluster::new().await, &Cluster::new().await);
    let before = Operator::start_with(kept, store.store.clone(), "admin", installation("before", &[kept, left])).await;
    let inside = kept.approved("inside", SECRET).await;
    let mut outside = Vec::new();
    for name in ["disapproved", "held", "deleted", "forced", "stays"] {
        outside.push(left.approved(name, SECRET).await);
    }
    before.stop().await;

    let after = Operator::start_with(kept, store.store.clone(), "admin", installation("after", &[kept])).await;
    eventually("its records are its own", || async { keeper(&store, &inside).await.as_deref() == Some("after") }).await;
    assert!(after.admits(&inside, SECRET).await);
    // Those that it does not manage stay as they are, and it says so.
    eventually("they are counted", || async { after.metrics.records_unattended.get() == 5 }).await;
    after.swept().await;
    for key in &outside {
        assert!(after.admits(key, SECRET).await, "that its controller is gone ends no sign-in");
        assert_eq!(keeper(&store, key).await.as_deref(), Some("before"));
    }

    left.edit("disapproved", json!({ "approved": false })).await;
    left.edit("held", json!({ "hold": { "reason": "leaked" } })).await;
    let deleted = left.get("deleted").await;
    left.delete("deleted").await;
    left.take_finalizers("forced").await;
    left.delete("forced").await;
    for key in &outside[..4] {
        eventually("what is over is ended", || async { !after.admits(key, SECRET).await }).await;
    }
    let object = left.wait("disapproved", "says so", is("Active", "False/Disapproved")).await;
    assert_eq!(condition(&object, "Ready"), "Unknown/Pending", "its Secret was not looked at");
    left.wait("held", "says so", is("Active", "False/OnHold")).await;
    left.gone(&deleted).await;
    assert!(after.admits(&outside[4], SECRET).await);
    // It opens nothing whose Secret is not its to read.
    left.edit("disapproved", json!({ "approved": true })).await;
    left.edit("held", json!({ "hold": null })).await;
    after.settled().await;
    assert!(!after.admits(&outside[0], SECRET).await && !after.admits(&outside[1], SECRET).await);
    eventually("the rest is counted", || async { after.metrics.records_unattended.get() == 1 }).await;
    after.stop().await;

    let both = Operator::start_with(kept, store.store.clone(), "admin", installation("after", &[kept, left])).await;
    for key in &outside[..2] {
        eventually("it is opened by a controller that may", || both.admits(key, SECRET)).await;
    }
    eventually("all are looked after", || async { both.metrics.records_unattended.get() == 0 }).await;
    both.stop().await;
}

async fn what_an_installation_gives_up_is_closed_and_says_so(store: TestStore) {
    let (kept, left) = (&Cluster::new().await, &Cluster::new().await);
    let counted = FaultyStore::over(&store);
    let both = Operator::start_with(kept, counted.clone(), "admin", installation("default", &[kept, left])).await;
    let (inside, outside) = (kept.approved("inside", SECRET).await, left.approved("outside", SECRET).await);
    both.settled().await;
    // While one process of the installation still manages it, as in a rolling upgrade, it is not given up: neither by a sweep nor
    // when all records are compared.
    let writes = counted.writes();
    let one = Operator::start_with(kept, counted.clone(), "admin", installation("default", &[kept])).await;
    store.sql("DELETE FROM verifications").await;
    eventually("all records were compared", || async { store.store.head().await.unwrap().verified }).await;
    one.swept().await;
    one.swept().await;
    assert_eq!(counted.writes(), writes);
    assert!(one.admits(&outside, SECRET).await);
    both.stop().await;
    eventually("it is closed", || async { !one.admits(&outside, SECRET).await }).await;
    let object = left.wait("outside", "says so", is("Active", "Unknown/Pending")).await;
    assert_eq!(
        (condition(&object, "Ready"), condition(&object, "Approved")),
        ("Unknown/Pending".into(), "Unknown/Pending".into())
    );
    assert!(says(&object, "Active", "No controller manages this namespace, so sign-in is refused"));
    assert!(one.admits(&inside, SECRET).await);
    // It can go all the same.
    left.delete("outside").await;
    left.gone(&object).await;
    one.stop().await;
}

async fn an_object_whose_record_is_in_another_store_is_left_alone(store: TestStore) {
    let (own, other) = (&Cluster::new().await, &Cluster::new().await);
    let elsewhere = TestStore::sqlite().await;
    let neighbour = Operator::start_with(other, elsewhere.store.clone(), "admin", installation("default", &[other])).await;
    let (key, going) = (other.approved("jazz", SECRET).await, other.approved("going", SECRET).await);
    assert!(neighbour.admits(&going, SECRET).await);
    neighbour.stop().await;
    // It has something to look after outside its namespaces, and so lists the whole cluster.
    let both = Operator::start_with(own, store.store.clone(), "admin", installation("before", &[own])).await;
    own.approved("blues", SECRET).await;
    both.stop().await;
    let third = &Cluster::new().await;
    let operator = Operator::start_with(own, store.store.clone(), "admin", installation("after", &[third])).await;
    let object = other.get("going").await;
    other.delete("going").await;
    operator.swept().await;
    operator.swept().await;
    let still = other.get("going").await;
    assert_eq!(still.finalizers(), [FINALIZER], "its record is not in this store, so it is not removed");
    operator.stop().await;
    let neighbour = Operator::start_with(other, elsewhere.store.clone(), "admin", installation("default", &[other])).await;
    other.gone(&object).await;
    assert!(!neighbour.admits(&going, SECRET).await && neighbour.admits(&key, SECRET).await);
    neighbour.stop().await;
}

async fn two_installations_of_one_namespace_do_not_fight(store: TestStore) {
    let cluster = &Cluster::new().await;
    let counted = FaultyStore::over(&store);
    let one = Operator::start_with(cluster, counted.clone(), "admin", seldom("one", cluster)).await;
    let key = cluster.approved("jazz", SECRET).await;
    let other = Operator::start_with(cluster, counted.clone(), "admin", seldom("other", cluster)).await;
    other.swept().await;
    one.settled().await;
    other.settled().await;
    let writes = counted.writes();
    for _ in 0..3 {
        one.swept().await;
        other.swept().await;
    }
    assert_eq!(counted.writes(), writes, "each leaves the other's name where it is");
    cluster.edit("jazz", json!({ "approved": false })).await;
    eventually("it is refused", || async { !one.admits(&key, SECRET).await }).await;
    cluster.edit("jazz", json!({ "approved": true })).await;
    cluster.wait("jazz", "Active again", is("Active", "True/Active")).await;
    assert_eq!(keeper(&store, &key).await.as_deref(), Some("one"));
    // With the one gone, the other takes its place.
    one.stop().await;
    eventually("the other one keeps it", || async { keeper(&store, &key).await.as_deref() == Some("other") }).await;
    assert!(other.admits(&key, SECRET).await);
    other.stop().await;
}

async fn a_controller_that_vanished_is_missed_and_then_succeeded(store: TestStore) {
    let cluster = &Cluster::new().await;
    let first = Operator::start_with(cluster, store.store.clone(), "admin", installation("vanished", &[cluster])).await;
    let key = cluster.approved("jazz", SECRET).await;
    first.stop().await;
    // As if it had not said goodbye.
    let dead = Controller {
        instance: "dead".into(),
        cluster_id: controller::cluster_uid(&cluster.client).await.unwrap(),
        installation: "vanished".into(),
        namespaces: vec![cluster.namespace.clone()],
        period: Duration::from_secs(1),
    };
    store.store.check_in(&dead, now()).await.unwrap();
    let second = Operator::start_with(cluster, store.store.clone(), "admin", installation("second", &[cluster])).await;
    second.swept().await;
    assert_eq!(keeper(&store, &key).await.as_deref(), Some("vanished"), "it may still be there");
    assert!(second.admits(&key, SECRET).await);
    eventually("it is succeeded", || async { keeper(&store, &key).await.as_deref() == Some("second") }).await;
    assert!(second.admits(&key, SECRET).await);
    assert_eq!(cluster.get("jazz").await.name_any(), "jazz");
    second.stop().await;
}
