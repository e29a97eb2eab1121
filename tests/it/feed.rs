//! Memory answers only while it is proved to hold what the store holds.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use oauthconsumer_operator::consumer::{Record, State};
use oauthconsumer_operator::signin::Settings;
use oauthconsumer_operator::store::{self, Access, ConsumerStore};

use crate::support::{
    Check, Companion, FaultyStore, Proxy, Records, TestStore, approved, eventually, on_both_stores, put, record, unlimited,
};

on_both_stores!(
    a_revocation_is_seen_and_stays,
    an_approval_works_at_once_where_memory_does_not_know_it_yet,
    without_the_store_there_is_neither_yes_nor_no,
    a_feed_that_does_not_answer_is_no_proof,
    a_row_that_is_gone_leaves_memory,
    a_removal_is_not_missed_when_its_tombstone_is_gone,
    what_is_removed_takes_no_memory,
    a_removal_that_was_looked_up_stays_when_older_news_arrives,
    a_row_that_was_edited_hides_no_other,
    many_records_are_all_read,
    what_is_not_verified_is_neither_allowed_nor_refused,
    a_store_that_has_gone_back_counts_when_it_was_compared_again,
);

const SECRET: &str = "a secret, long enough for all";
const NOBODY: &str = "00000000-0000-5000-8000-000000000000";

async fn set_state(store: &dyn ConsumerStore, state: State) {
    let stored = store.find(&approved("jazz", SECRET).owner).await.unwrap();
    put(store, Record { state, ..stored.record }).await;
}

async fn a_revocation_is_seen_and_stays(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    for state in [State::Disapproved, State::OnHold, State::AwaitingApproval, State::Revoked, State::OutOfScope] {
        assert!(check.admits(&key, SECRET).await);
        set_state(&*store.store, state).await;
        eventually("it is refused", || async { !check.admits(&key, SECRET).await }).await;
        for _ in 0..20 {
            assert!(!check.admits(&key, SECRET).await, "{state}");
        }
        set_state(&*store.store, State::Approved).await;
    }
}

async fn an_approval_works_at_once_where_memory_does_not_know_it_yet(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    set_state(&*store.store, State::AwaitingApproval).await;
    let faulty = FaultyStore::over(&store);
    let check = Check::with(faulty.clone(), Settings { max_staleness: Duration::from_mins(1), ..unlimited() }).await;
    check.is_current().await;
    faulty.stall_feed(true);
    assert!(!check.admits(&key, SECRET).await);
    set_state(&*store.store, State::Approved).await;
    assert!(check.admits(&key, SECRET).await);
    let newcomer = approved("newcomer", SECRET);
    put(&*store.store, newcomer.clone()).await;
    assert!(check.admits(newcomer.consumer_key.as_str(), SECRET).await);
    assert!(check.directory.is_current());
}

async fn without_the_store_there_is_neither_yes_nor_no(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let faulty = FaultyStore::over(&store);
    let check = Check::with(faulty.clone(), Settings { ..unlimited() }).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    faulty.set_down(true);
    eventually("nobody can tell", || async {
        let status = check.status(&key, SECRET).await;
        assert_ne!(status, StatusCode::UNAUTHORIZED, "an outage is never a denial");
        status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(check.status(NOBODY, SECRET).await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(check.directory.check().unwrap_err().contains("taken down by the test"));
    faulty.set_down(false);
    assert!(check.admits(&key, SECRET).await, "at once: the store itself is asked while memory is not current");
    check.is_current().await;
}

async fn a_feed_that_does_not_answer_is_no_proof(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let faulty = FaultyStore::over(&store);
    let check = Check::with(faulty.clone(), Settings { ..unlimited() }).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    faulty.stall_feed(true);
    eventually("the proof is too old", || async { !check.directory.is_current() }).await;
    let (looks, hashes) = (check.metrics.signin_looks.get(), check.metrics.signin_hashes.get());
    assert!(check.admits(&key, SECRET).await);
    assert_eq!((check.metrics.signin_looks.get(), check.metrics.signin_hashes.get()), (looks + 1, hashes), "asked, not hashed");
    set_state(&*store.store, State::Disapproved).await;
    assert!(!check.admits(&key, SECRET).await, "the next check asks the store");
    faulty.stall_feed(false);
    check.is_current().await;
    assert!(!check.admits(&key, SECRET).await);
}

async fn a_row_that_is_gone_leaves_memory(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    put(&*store.store, record("other")).await;
    let check = Check::of(store.reader().await).await;
    eventually("both are in memory", || async { check.directory.len() == 2 }).await;
    assert!(check.admits(&key, SECRET).await);
    store.sql("DELETE FROM oauth_consumers WHERE uid = 'jazz'").await;
    eventually("one is left", || async { check.directory.len() == 1 }).await;
    assert!(!check.admits(&key, SECRET).await);
}

async fn a_removal_is_not_missed_when_its_tombstone_is_gone(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let faulty = FaultyStore::over(&store);
    let check = Check::of(faulty.clone()).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    let loads = check.metrics.feed_loads.get();

    // One that was seen is no news when it goes, and nothing is read again for it.
    put(&*store.store, record("other")).await;
    eventually("it is in memory", || async { check.directory.len() == 2 }).await;
    put(&*store.store, record("other").removed()).await;
    eventually("its removal is seen", || async { check.directory.len() == 1 }).await;
    store.sql("DELETE FROM oauth_consumers WHERE uid = 'other'").await;
    faulty.stall_feed(true);
    eventually("the proof is too old", || async { !check.directory.is_current() }).await;
    assert_eq!(check.metrics.feed_loads.get(), loads);

    let removed = store.store.find(&approved("jazz", SECRET).owner).await.unwrap().record.removed();
    put(&*store.store, removed).await;
    store.sql("DELETE FROM oauth_consumers WHERE uid = 'jazz'").await;
    faulty.stall_feed(false);
    check.is_current().await;
    assert!(!check.admits(&key, SECRET).await);
}

async fn what_is_removed_takes_no_memory(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    for i in 0..50 {
        put(&*store.store, record(&format!("churned-{i}"))).await;
        put(&*store.store, record(&format!("churned-{i}")).removed()).await;
    }
    put(&*store.store, record("last")).await;
    eventually("all of it was read", || async { check.directory.len() == 2 }).await;
    // Nor after everything is read again, nor by asking for it.
    let loads = check.metrics.feed_loads.get();
    store.sql("DELETE FROM oauth_consumers WHERE uid = 'last'").await;
    eventually("it is read again", || async { check.metrics.feed_loads.get() > loads }).await;
    for i in 0..50 {
        assert!(!check.admits(record(&format!("churned-{i}")).consumer_key.as_str(), SECRET).await);
    }
    assert_eq!(check.directory.len(), 1);
    assert!(check.admits(&key, SECRET).await);
}

async fn a_removal_that_was_looked_up_stays_when_older_news_arrives(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let faulty = FaultyStore::over(&store);
    let check = Check::with(faulty.clone(), Settings { max_staleness: Duration::from_mins(1), ..unlimited() }).await;
    check.is_current().await;
    // Memory has not heard of the removal yet; a check with another secret looks it up.
    faulty.stall_feed(true);
    let jazz = store.store.find(&approved("jazz", SECRET).owner).await.unwrap().record;
    put(&*store.store, jazz.removed()).await;
    assert!(!check.admits(&key, "another secret, long enough").await);
    for _ in 0..20 {
        assert!(!check.admits(&key, SECRET).await);
    }
    faulty.stall_feed(false);
    eventually("it is out of memory", || async { check.directory.is_empty() }).await;
    assert!(!check.admits(&key, SECRET).await);
}

async fn a_row_that_was_edited_hides_no_other(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let edited = approved("edited", SECRET);
    put(&*store.store, edited.clone()).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert!(check.admits(edited.consumer_key.as_str(), SECRET).await);
    // In SQLite so that it cannot even be read as text; PostgreSQL lets no such thing in.
    let name = if store.url.starts_with("sqlite") { "CAST(x'ff' AS TEXT)" } else { "'edited'" };
    store.sql(&format!("UPDATE oauth_consumers SET name = {name} WHERE uid = 'edited'")).await;
    eventually("it is refused", || async { !check.admits(edited.consumer_key.as_str(), SECRET).await }).await;
    assert!(check.admits(&key, SECRET).await);
    let another = Check::of(store.reader().await).await;
    another.is_current().await;
    assert!(another.admits(&key, SECRET).await && !another.admits(edited.consumer_key.as_str(), SECRET).await);
}

async fn many_records_are_all_read(store: TestStore) {
    store.verify("cluster", "default").await;
    // More than are read at a time, and gaps in the feed between them.
    for i in 0..1_100 {
        put(&*store.store, Record { state: State::Disapproved, ..record(&format!("uid-{i}")) }).await;
        if i % 100 == 0 {
            store.sql(&format!("DELETE FROM oauth_consumers WHERE uid = 'uid-{}'", i / 2)).await;
        }
    }
    let key = store.put_approved("jazz", SECRET).await;
    let rows = store.text("SELECT CAST(COUNT(*) AS TEXT) FROM oauth_consumers").await.unwrap();
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert_eq!(check.directory.len().to_string(), rows);
    assert!(check.admits(&key, SECRET).await);
}

async fn what_is_not_verified_is_neither_allowed_nor_refused(store: TestStore) {
    let key = store.put_approved("jazz", SECRET).await;
    let other = Record { installation: "other".into(), ..approved("other", SECRET) };
    put(&*store.store, other.clone()).await;
    let check = Check::of(store.reader().await).await;
    for key in [key.as_str(), other.consumer_key.as_str(), NOBODY] {
        assert_eq!(check.status(key, SECRET).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    eventually("it says what it waits for", || async {
        check.directory.check().is_err_and(|doubt| doubt.contains("waiting for a controller to compare all records"))
    })
    .await;
    store.verify("cluster", "default").await;
    assert!(check.admits(&key, SECRET).await);
    assert!(!check.admits(NOBODY, SECRET).await);
    assert_eq!(check.status(other.consumer_key.as_str(), SECRET).await, StatusCode::SERVICE_UNAVAILABLE, "each for its own");
    check.is_current().await;
    assert_eq!(check.status(other.consumer_key.as_str(), SECRET).await, StatusCode::SERVICE_UNAVAILABLE, "in memory, too");
    store.verify("cluster", "other").await;
    eventually("they count", || async { check.status(other.consumer_key.as_str(), SECRET).await == StatusCode::OK }).await;
}

async fn a_store_that_has_gone_back_counts_when_it_was_compared_again(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    store.sql("UPDATE feed SET sequence = 1, reload = 1").await;
    eventually("nobody can tell", || async {
        let status = check.status(&key, SECRET).await;
        assert_ne!(status, StatusCode::UNAUTHORIZED);
        status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    store.verify("cluster", "default").await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
}

// What only PostgreSQL can do.

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_emptied_leaves_memory() {
    let store = TestStore::postgres().await;
    let key = store.serving("jazz", SECRET).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    store.sql("TRUNCATE oauth_consumers").await;
    eventually("it is refused", || async { !check.admits(&key, SECRET).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_notifications_are_found_by_asking() {
    let store = TestStore::postgres().await;
    let key = store.serving("jazz", SECRET).await;
    // Triggers count the feed as ever, and say nothing.
    store.sql("CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'").await;
    store.sql("ALTER FUNCTION oauth_consumers_changed() SET search_path = public, pg_catalog").await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    set_state(&*store.store, State::Disapproved).await;
    eventually("it is refused", || async { !check.admits(&key, SECRET).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_or_silent_lose_nothing() {
    let store = TestStore::postgres().await;
    let key = store.serving("jazz", SECRET).await;
    let proxy = Proxy::before(&store.url).await;
    let check = Check::of(store::open(&proxy.url, Access::SignIn).await.unwrap()).await;
    check.is_current().await;
    let faults: [(&str, &dyn Fn()); 2] = [("cut", &|| proxy.cut()), ("silent", &|| proxy.freeze())];
    for (fault, happens) in faults {
        eventually("it signs in", || async { check.status(&key, SECRET).await == StatusCode::OK }).await;
        happens();
        set_state(&*store.store, State::Disapproved).await;
        eventually(&format!("it is refused although connections were {fault}"), || async {
            check.status(&key, SECRET).await == StatusCode::UNAUTHORIZED
        })
        .await;
        for _ in 0..50 {
            assert_ne!(check.status(&key, SECRET).await, StatusCode::OK);
        }
        set_state(&*store.store, State::Approved).await;
    }
    check.is_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_checks_follow_one_store() {
    let store = TestStore::postgres().await;
    let key = store.serving("jazz", SECRET).await;
    let mut checks = Vec::new();
    for _ in 0..4 {
        checks.push(Arc::new(Check::of(store.reader().await).await));
    }
    for check in &checks {
        check.is_current().await;
        assert!(check.admits(&key, SECRET).await);
    }
    set_state(&*store.store, State::OnHold).await;
    for check in &checks {
        eventually("each refuses it", || async { !check.admits(&key, SECRET).await }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_noticed_and_said() {
    let store = TestStore::postgres().await;
    let key = store.serving("jazz", SECRET).await;
    let pooler = Companion::start("with-pgbouncer.sh", "OAUTHCONSUMER_TEST_PGBOUNCER_URL");
    let database = store.url.rsplit_once('/').unwrap().1;
    let url = format!("{}/{database}", pooler.value.rsplit_once('/').unwrap().0);
    let reader = store::open(&url, Access::SignIn).await.unwrap();
    let check = Check::of(reader.clone()).await;
    eventually("it is said", || async { reader.complaint().is_some_and(|says| says.contains("a pooler in transaction mode")) })
        .await;
    eventually("and counted", || async { check.metrics.feed_notifications.get() == 0 }).await;
    // Slower, and with a 503 now and then, but as right as ever.
    eventually("it signs in", || async { check.status(&key, SECRET).await == StatusCode::OK }).await;
    set_state(&*store.store, State::Disapproved).await;
    eventually("it is refused", || async { check.status(&key, SECRET).await == StatusCode::UNAUTHORIZED }).await;
    for _ in 0..20 {
        assert_ne!(check.status(&key, SECRET).await, StatusCode::OK);
    }
}
