//! The contract of a store, held by every store.

use std::time::Duration;

use oauthconsumer_operator::consumer::{ConsumerKey, Owner, Record, Revocation, SecretOutcome, SecretProblem, State};
use oauthconsumer_operator::store::{self, Access, Controller, Epoch, Head, OpenError, Replaces, RevokeError, StoreError};
use sqlx::{Connection, PgConnection};

use crate::support::{Proxy, Records, TestStore, bury, eventually, keep, now, on_both_stores, record};

on_both_stores!(
    a_record_comes_back_as_it_was_written,
    a_write_needs_the_version_that_was_read,
    an_owner_has_one_record_and_a_key_one_owner,
    a_version_never_comes_twice,
    of_many_writers_one_wins,
    tombstones_are_kept_and_then_dropped,
    live_records_are_those_of_one_cluster,
    the_feed_counts_every_change_whoever_makes_it,
    an_edit_behind_the_back_shows,
    secret_versions_can_be_forgotten,
    the_view_shows_what_may_sign_in,
    the_previous_release_opens_a_newer_schema,
    a_revocation_is_written_over_whatever_there_is,
    an_installation_is_verified_alone,
    no_more_tombstones_are_kept_than_a_tenant_may_fill,
    an_insert_that_slept_through_a_tombstone_is_refused,
    controllers_check_in_and_out,
    a_statement_for_many_rows_comes_to_its_end,
    open_records_are_counted_by_whom_they_name,
);

async fn a_record_comes_back_as_it_was_written(store: TestStore) {
    let store = store.store;
    let bare = Record {
        state: State::AwaitingApproval,
        decision: None,
        secret_source: None,
        secret: SecretOutcome::Refused(SecretProblem::NotFound),
        ..record("bare")
    };
    let full = Record {
        state: State::Revoked,
        unproved_approval: Some(2),
        hold: Some("leaked; \"quoted\" 'text' %s $1".into()),
        revocation: Some(Revocation { at: now(), reason: "INC-1".into(), disapproved: true }),
        ..record("full")
    };
    for record in [bare, full, record("plain")] {
        let written = store.insert(record.clone()).await.unwrap();
        assert!(written.intact);
        assert_eq!(written.record, record);
        assert_eq!(store.find(&record.owner).await, Some(written.clone()));
        assert_eq!(store.by_key(&record.consumer_key).await.unwrap().1.unwrap().stored, written);
    }
    assert_eq!(store.find(&Owner { cluster_id: "cluster".into(), uid: "none".into() }).await, None);
    assert_eq!(store.find(&Owner { cluster_id: "other".into(), uid: "full".into() }).await, None);
    assert_eq!(store.by_key(&ConsumerKey::derive("x", "y")).await.unwrap().1, None);
}

async fn a_write_needs_the_version_that_was_read(store: TestStore) {
    let store = store.store;
    let first = store.insert(record("a")).await.unwrap();
    let second = store.replace(Record { generation: 4, ..record("a") }, first.version).await.unwrap();
    assert_eq!(second.version, first.version + 1);
    let absent = Replaces::NothingAt(store.head().await.unwrap());
    for stale in [absent, Replaces::Version(first.version), Replaces::Version(second.version + 1)] {
        let refused = store.write(Record { generation: 9, ..record("a") }, stale.clone(), now()).await;
        assert!(matches!(refused, Err(StoreError::Conflict)), "{stale:?}: {refused:?}");
    }
    assert_eq!(store.find(&record("a").owner).await, Some(second));
    let absent = store.replace(record("absent"), 1).await;
    assert!(matches!(absent, Err(StoreError::Conflict)), "{absent:?}");
}

async fn an_owner_has_one_record_and_a_key_one_owner(store: TestStore) {
    let store = store.store;
    let first = store.insert(record("a")).await.unwrap();
    let thief = Record { consumer_key: first.record.consumer_key.clone(), ..record("b") };
    let refused = store.insert(thief.clone()).await;
    assert!(matches!(refused, Err(StoreError::KeyInUse(_))), "{refused:?}");
    store.replace(first.record.removed(), first.version).await.unwrap();
    let refused = store.insert(thief).await;
    assert!(matches!(refused, Err(StoreError::KeyInUse(_))), "not even after its end: {refused:?}");
}

async fn a_version_never_comes_twice(store: TestStore) {
    let first = store.store.insert(record("a")).await.unwrap();
    let second = store.store.replace(record("a"), first.version).await.unwrap();
    // The row is lost, and written anew: a writer that has read the lost one must not match the new one.
    store.sql("DELETE FROM oauth_consumers").await;
    let anew = store.store.insert(Record { state: State::Disapproved, ..record("a") }).await.unwrap();
    for stale in [first.version, second.version] {
        let refused = store.store.replace(record("a"), stale).await;
        assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    }
    assert_eq!(store.store.find(&record("a").owner).await, Some(anew));
}

async fn of_many_writers_one_wins(store: TestStore) {
    let first = store.store.insert(record("a")).await.unwrap();
    let attempts = (0..20).map(|generation| {
        let store = store.store.clone();
        tokio::spawn(async move { store.replace(Record { generation, ..record("a") }, first.version).await })
    });
    let results = futures::future::join_all(attempts).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    assert!(lost.iter().all(|result| matches!(result, Err(StoreError::Conflict))), "{lost:?}");
}

/// A record that was removed so many hours ago.
async fn tombstones_are_kept_and_then_dropped(store: TestStore) {
    let store = store.store;
    let brought = |uid: &str| Record { consumer_key: ConsumerKey::parse(&format!("legacy.{uid}")).unwrap(), ..record(uid) };
    let revocation = Revocation { at: now(), reason: "INC-1".into(), disapproved: false };
    let revoked = |uid: &str| Record { revocation: Some(revocation.clone()), ..record(uid) };
    for (record, hours) in [
        (record("hours"), 2),
        (record("minutes"), 0),
        (brought("brought-days"), 24 * 89),
        (brought("brought-months"), 24 * 91),
        (revoked("revoked-days"), 24 * 89),
        (revoked("revoked-months"), 24 * 91),
    ] {
        bury(&*store, record, hours).await;
    }
    let never_recorded = record("never");
    let unclaimed = Record { consumer_key: never_recorded.owner.unclaimed_key(), ..never_recorded };
    bury(&*store, unclaimed, 2).await;
    store.insert(record("alive")).await.unwrap();
    assert_eq!(store.drop_tombstones("another", &keep(100, 100)).await.unwrap(), 0, "those of other clusters are theirs");
    assert_eq!(store.drop_tombstones("cluster", &keep(100, 100)).await.unwrap(), 4);
    for (uid, is_kept) in [
        ("hours", false),
        ("minutes", true),
        ("brought-days", true),
        ("brought-months", false),
        ("revoked-days", true),
        ("revoked-months", false),
        ("never", false),
        ("alive", true),
    ] {
        let found = store.find(&record(uid).owner).await;
        assert_eq!(found.is_some(), is_kept, "{uid}");
        assert!(found.is_none_or(|stored| stored.allows_signin() == (uid == "alive")));
    }
}

async fn no_more_tombstones_are_kept_than_a_tenant_may_fill(store: TestStore) {
    let store = store.store;
    for i in 0..20 {
        bury(&*store, record(&format!("uid-{i}")), 0).await;
    }
    let brought = Record { consumer_key: ConsumerKey::parse("legacy-key").unwrap(), ..record("brought") };
    bury(&*store, brought.clone(), 0).await;
    // In batches, the oldest first.
    for dropped in [4, 4, 2, 0] {
        assert_eq!(store.drop_tombstones("cluster", &keep(10, 4)).await.unwrap(), dropped);
    }
    for i in 0..20 {
        assert_eq!(store.find(&record(&format!("uid-{i}")).owner).await.is_some(), i >= 10, "{i}");
    }
    assert!(store.find(&brought.owner).await.is_some(), "a key that could come again is kept");
}

async fn an_insert_that_slept_through_a_tombstone_is_refused(store: TestStore) {
    let store = store.store;
    // A slow controller finds no record of an object, which is then recorded and removed by another one.
    let (head, found) = store.by_owner(&record("slow").owner).await.unwrap();
    assert_eq!(found, None);
    let slow = || store.write(record("slow"), Replaces::NothingAt(head.clone()), now());
    bury(&*store, record("slow"), 2).await;
    assert!(matches!(slow().await, Err(StoreError::Conflict)), "the tombstone stands in the way");
    assert_eq!(store.drop_tombstones("cluster", &keep(10, 10)).await.unwrap(), 1);
    assert!(matches!(slow().await, Err(StoreError::Conflict)), "and so does that one was dropped");
    assert_eq!(store.find(&record("slow").owner).await, None);
    // Who reads later looks at the object later, too.
    store.insert(record("slow")).await.unwrap();
    // What was read in another store, or in one that stood further, says nothing of this one.
    let head = store.head().await.unwrap();
    let another = Epoch { id: "another".into(), ..head.epoch.clone() };
    for elsewhere in [Head { epoch: another, ..head.clone() }, Head { sequence: head.sequence + 1, ..head }, Head::default()] {
        let refused = store.write(record("elsewhere"), Replaces::NothingAt(elsewhere), now()).await;
        assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    }
}

async fn live_records_are_those_of_one_cluster(store: TestStore) {
    let store = store.store;
    store.insert(record("mine")).await.unwrap();
    store.insert(Record { installation: "other".into(), ..record("theirs") }).await.unwrap();
    let elsewhere = Owner { cluster_id: "elsewhere".into(), uid: "far".into() };
    store.insert(Record { owner: elsewhere, ..record("far") }).await.unwrap();
    bury(&*store, record("removed"), 0).await;
    let mut live: Vec<_> = store.live("cluster").await.unwrap().into_iter().map(|stored| stored.record.owner.uid).collect();
    live.sort();
    assert_eq!(live, ["mine", "theirs"]);
}

async fn controllers_check_in_and_out(store: TestStore) {
    let store = store.store;
    let controller = |instance: &str, namespaces: &[&str]| Controller {
        instance: instance.into(),
        cluster_id: "cluster".into(),
        installation: "default".into(),
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        period: Duration::from_secs(30),
    };
    let (one, other) = (controller("one", &["team-a", "team-b"]), controller("other", &[]));
    let head = store.head().await.unwrap();
    for controller in [&one, &other, &one] {
        store.check_in(controller, now()).await.unwrap();
    }
    let mut seen = store.controllers().await.unwrap();
    seen.sort_by_key(|(controller, _)| controller.instance.clone());
    assert_eq!(seen, [(one, 2), (other.clone(), 1)]);
    assert_eq!(store.head().await.unwrap(), head, "that is no change of a record");
    store.check_out("one").await.unwrap();
    assert_eq!(store.controllers().await.unwrap(), [(other, 1)]);
}

async fn open_records_are_counted_by_whom_they_name(store: TestStore) {
    let store = store.store;
    for record in [record("a"), record("b"), Record { state: State::OnHold, ..record("held") }, record("gone").removed()] {
        store.insert(record).await.unwrap();
    }
    store.insert(Record { installation: "other".into(), namespace: "team-b".into(), ..record("c") }).await.unwrap();
    let mut open = store.open_records().await.unwrap();
    open.sort_by_key(|records| records.namespace.clone());
    let counts: Vec<_> = open.iter().map(|r| (r.namespace.as_str(), r.installation.as_str(), r.count)).collect();
    assert_eq!(counts, [("team-a", "default", 2), ("team-b", "other", 1)]);
}

async fn the_feed_counts_every_change_whoever_makes_it(store: TestStore) {
    let head = || async { store.store.head().await.unwrap() };
    let store_id = || store.text("SELECT store_id FROM feed");
    let (start, id) = (head().await, store_id().await.unwrap());
    assert_eq!((start.sequence, start.reload), (0, 0));
    let first = store.store.insert(record("a")).await.unwrap();
    assert_eq!(head().await.sequence, 1);
    store.store.replace(Record { generation: 4, ..record("a") }, first.version).await.unwrap();
    assert_eq!(head().await.sequence, 2);
    let _ = store.store.replace(record("a"), first.version).await.unwrap_err();
    assert_eq!(head().await.sequence, 2, "what was not written is no change");
    store.sql("UPDATE oauth_consumers SET name = 'edited'").await;
    assert_eq!(head().await.sequence, 3, "an edit by hand is a change, too");
    let change = "SELECT CAST(sequence AS TEXT) FROM oauth_consumers";
    assert_eq!(store.text(change).await.as_deref(), Some("3"), "a row says when it was last changed");
    store.sql("DELETE FROM oauth_consumers").await;
    let end = head().await;
    assert_eq!((end.sequence, end.reload), (4, 4), "a row that is gone can only be missed by starting over");
    store.store.insert(record("b")).await.unwrap();
    store.sql("UPDATE oauth_consumers SET consumer_key = 'another-key'").await;
    assert_eq!((head().await.sequence, head().await.reload), (6, 6), "and so can a key");
    assert_eq!((store_id().await.as_ref(), end.epoch), (Some(&id), start.epoch));
    assert!(id.len() >= 32);
}

async fn an_edit_behind_the_back_shows(store: TestStore) {
    let edits = [
        "state = 'OnHold'",
        "phc = '$argon2id$v=19$m=32,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAA'",
        "name = 'Mallory'",
        "generation = generation + 1",
        "consumer_key = 'another-key'",
        "uid = 'another-uid'",
        "namespace = 'team-b'",
        "decision_by = 'mallory'",
        "secret_resource_version = '1'",
        "decision_at = 'yesterday'",
        "phc = NULL, secret_problem = 'NoSuchProblem'",
        "consumer_key = '?'",
        "checksum = ''",
    ];
    for (i, edit) in edits.iter().enumerate() {
        let uid = format!("uid-{i}");
        let written = store.store.insert(record(&uid)).await.unwrap();
        assert!(written.allows_signin());
        store.sql(&format!("UPDATE oauth_consumers SET {edit} WHERE uid = '{uid}'")).await;
        let edited = store.store.live("cluster").await.unwrap().into_iter().find(|stored| !stored.intact);
        let edited = edited.unwrap_or_else(|| panic!("{edit} does not show"));
        assert!(!edited.allows_signin(), "{edit}");
        store.sql("DELETE FROM oauth_consumers").await;
    }
}

async fn secret_versions_can_be_forgotten(store: TestStore) {
    let store = store.store;
    let written = store.insert(record("a")).await.unwrap();
    let elsewhere = Owner { cluster_id: "elsewhere".into(), uid: "b".into() };
    store.insert(Record { owner: elsewhere.clone(), ..record("b") }).await.unwrap();
    assert_eq!(store::forget_secret_versions(&*store, "cluster", now()).await.unwrap(), 1);
    assert_eq!(store::forget_secret_versions(&*store, "cluster", now()).await.unwrap(), 0, "once is enough");
    let forgotten = store.find(&record("a").owner).await.unwrap();
    assert_eq!((forgotten.version, forgotten.intact), (written.version + 1, true), "a slow writer loses");
    assert_eq!(forgotten.record.secret_source.unwrap().resource_version, "");
    assert!(forgotten.record.secret == record("a").secret, "the hash stays");
    let other = store.find(&elsewhere).await.unwrap();
    assert_eq!(other.record.secret_source.unwrap().resource_version, "4711");
}

async fn the_view_shows_what_may_sign_in(store: TestStore) {
    store.store.insert(record("approved")).await.unwrap();
    for (uid, state) in [("held", State::OnHold), ("awaiting", State::AwaitingApproval)] {
        store.store.insert(Record { state, ..record(uid) }).await.unwrap();
    }
    let secretless = SecretOutcome::Refused(SecretProblem::KeyMissing);
    store.store.insert(Record { secret: secretless, ..record("secretless") }).await.unwrap();
    assert_eq!(store.text("SELECT CAST(COUNT(*) AS TEXT) FROM oauth_consumers_signin").await.as_deref(), Some("1"));
    let key = store.text("SELECT consumer_key FROM oauth_consumers_signin WHERE phc IS NOT NULL").await;
    assert_eq!(key.as_deref(), Some(record("approved").consumer_key.as_str()));
}

async fn the_previous_release_opens_a_newer_schema(store: TestStore) {
    let written = store.store.insert(record("a")).await.unwrap();
    // Its statements are prepared by now.
    assert!(store.store.find(&record("a").owner).await.is_some());
    store.sql("ALTER TABLE oauth_consumers ADD COLUMN of_the_next_release TEXT").await;
    store
        .sql(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         SELECT 9999, 'next', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
        )
        .await;
    for _ in 0..20 {
        assert!(store.store.find(&record("a").owner).await.unwrap().allows_signin(), "while it runs");
    }
    store.store.replace(record("a"), written.version).await.unwrap();
    let reader = store.reader().await;
    assert!(reader.find(&record("a").owner).await.unwrap().allows_signin(), "and when it starts");
    // The first one's lock goes with it; its folder stays.
    let TestStore { url, store: first, folder } = store;
    drop(first);
    store::open(&url, Access::Controller).await.expect("a controller of the previous release");
    drop(folder);
}

#[tokio::test]
async fn a_row_that_cannot_be_decoded_hides_nobody_and_can_be_put_right() {
    let store = TestStore::sqlite().await;
    for uid in ["good", "bad"] {
        store.store.insert(record(uid)).await.unwrap();
    }
    store.sql("UPDATE oauth_consumers SET name = CAST(x'ff41' AS TEXT) WHERE uid = 'bad'").await;
    let mut live = store.store.live("cluster").await.unwrap();
    live.sort_by_key(|stored| stored.record.owner.clone());
    let seen: Vec<_> = live.iter().map(|stored| (stored.record.owner.uid.as_str(), stored.intact)).collect();
    assert_eq!(seen, [("bad", false), ("good", true)]);
    let bad = store.store.find(&record("bad").owner).await.unwrap();
    assert!(!bad.allows_signin() && bad.record.consumer_key == record("bad").consumer_key);
    assert!(store.store.replace(record("bad"), bad.version).await.unwrap().allows_signin());
}

#[tokio::test]
async fn a_checksum_is_what_it_always_was() {
    // Written down once: a release that computes another one would take every row for edited.
    let store = TestStore::sqlite().await;
    store.store.insert(record("golden")).await.unwrap();
    assert_eq!(
        store.text("SELECT checksum FROM oauth_consumers").await.as_deref(),
        Some("1:0024367dbe3b07c67d7611776d9e7994803b62e4554932bd17f6f0caf94c8c19")
    );
    // A format that this release does not know is no reason to believe what it cannot check.
    store.sql("UPDATE oauth_consumers SET checksum = '2:later'").await;
    assert!(!store.store.find(&record("golden").owner).await.unwrap().intact);
}

#[test]
fn both_stores_have_the_same_columns() {
    let columns = |migration: &'static str| -> Vec<&str> {
        let table = migration.split("CREATE TABLE oauth_consumers (").nth(1).unwrap().split("UNIQUE").next().unwrap();
        table.lines().filter_map(|line| line.split_whitespace().next()).collect()
    };
    assert_eq!(
        columns(include_str!("../../src/store/migrations/sqlite/0001_oauth_consumers.sql")),
        columns(include_str!("../../src/store/migrations/postgres/0001_oauth_consumers.sql"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_hangs_is_given_up() {
    let store = TestStore::postgres().await;
    store.store.insert(record("a")).await.unwrap();
    let proxy = Proxy::before(&store.url).await;
    let client = store::open(&proxy.url, Access::SignIn).await.unwrap();
    let ask = || async { client.by_owner(&record("a").owner).await };
    assert!(ask().await.unwrap().1.is_some());

    // As many requests as there are connections are under way when the primary falls silent.
    let mut lock = PgConnection::connect(&store.url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut lock).await.unwrap();
    sqlx::query("LOCK TABLE oauth_consumers").execute(&mut lock).await.unwrap();
    let waiting = async {
        let count = "SELECT CAST(COUNT(*) AS TEXT) FROM pg_locks WHERE NOT granted AND relation = 'oauth_consumers'::regclass";
        eventually("all of them wait", || async { store.text(count).await.as_deref() == Some("8") }).await;
        proxy.freeze();
        drop(lock);
    };
    // Half of those who ask go away before there can be an answer, as clients do.
    let asks = (0..8).map(|i| tokio::time::timeout(Duration::from_secs(if i % 2 == 0 { 3 } else { 30 }), ask()));
    let (answers, ()) = futures::join!(futures::future::join_all(asks), waiting);
    assert!(answers.iter().all(|answer| !matches!(answer, Ok(Ok(_)))), "{answers:?}");
    eventually("other connections work", || async { ask().await.is_ok() }).await;
}

async fn a_revocation_is_written_over_whatever_there_is(store: TestStore) {
    let (jazz, gone) = (record("jazz"), record("gone").removed());
    for record in [&jazz, &gone] {
        store.store.insert(record.clone()).await.unwrap();
    }
    let reader = store.reader().await;
    for reason in ["leaked", "once more"] {
        let revoked = store::revoke(&*reader, &jazz.consumer_key, reason).await.unwrap();
        assert_eq!(store.store.find(&jazz.owner).await.unwrap().record, revoked);
        let revocation = revoked.revocation.unwrap();
        assert_eq!((revoked.state, revocation.reason.as_str(), revocation.disapproved), (State::Revoked, reason, false));
    }
    // What somebody else has put into a row is not made good by a checksum that fits.
    let forged = "$argon2id$v=19$m=32,t=1,p=1$c29tZXNhbHQ$forged";
    store.sql(&format!("UPDATE oauth_consumers SET state = 'Approved', phc = '{forged}' WHERE uid = 'jazz'")).await;
    let revoked = store::revoke(&*reader, &jazz.consumer_key, "leaked").await.unwrap();
    assert_eq!((revoked.state, revoked.phc()), (State::Revoked, None));
    let unknown = store::revoke(&*reader, &ConsumerKey::derive("x", "y"), "x").await;
    assert!(matches!(unknown, Err(RevokeError::Unknown(_))));
    assert!(matches!(store::revoke(&*reader, &gone.consumer_key, "x").await, Err(RevokeError::Removed(_))));
}

async fn an_installation_is_verified_alone(store: TestStore) {
    let verified = async |cluster, installation| store.store.is_verified(cluster, installation).await.unwrap();
    assert!(!store.store.head().await.unwrap().verified);
    store.verify("a", "default").await;
    let before = store.store.head().await.unwrap();
    assert!(before.verified && verified("a", "default").await);
    assert!(!verified("a", "other").await && !verified("b", "default").await);
    store.verify("b", "default").await;
    let passed = store.store.verify("c", "default", &Epoch { id: "another".into(), ..before.epoch.clone() }).await;
    assert!(matches!(passed, Err(StoreError::Conflict)) && !verified("c", "default").await, "of an epoch that has passed");
    let after = store.store.head().await.unwrap();
    assert!(after.sequence > before.sequence && after.reload == after.sequence, "readers start over");
}

#[tokio::test]
async fn a_sqlite_file_has_one_controller() {
    let first = TestStore::sqlite().await;
    let second = store::open(&first.url, Access::Controller).await;
    assert!(matches!(second, Err(OpenError::Locked(_))));
    assert!(first.reader().await.head().await.is_ok(), "but any number of readers");
}

#[tokio::test]
async fn a_file_that_was_replaced_is_not_believed_any_more() {
    let TestStore { url, store, folder } = TestStore::sqlite().await;
    store.insert(record("a")).await.unwrap();
    let reader = store::open(&url, Access::SignIn).await.unwrap();
    assert!(reader.head().await.is_ok());
    let path = url.strip_prefix("sqlite://").unwrap();
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{path}{suffix}")).unwrap();
    }
    // The controller that still has it open is told, too: what it writes would be lost.
    for opened in [&reader, &store] {
        let refused = opened.head().await.unwrap_err().to_string();
        assert!(refused.contains("was removed or replaced") && refused.contains("restart this process"), "{refused}");
    }
    drop(store);
    let anew = store::open(&url, Access::Controller).await.unwrap();
    let refused = reader.changes(0, 10).await.unwrap_err().to_string();
    assert!(refused.contains("restart this process"), "{refused}");
    assert!(anew.head().await.is_ok());
    drop(folder);
}

#[tokio::test]
async fn a_sqlite_file_begins_a_new_epoch_with_each_controller() {
    let TestStore { url, store, folder } = TestStore::sqlite().await;
    let first = store.head().await.unwrap();
    store.verify("cluster", "default", &first.epoch).await.unwrap();
    store.close().await;
    drop(store);
    let store = store::open(&url, Access::Controller).await.unwrap();
    let second = store.head().await.unwrap();
    assert!(second.epoch != first.epoch, "it may have been restored in between, and stand further than a reader has seen");
    assert!(!second.verified);
    drop(folder);
}

async fn a_statement_for_many_rows_comes_to_its_end(store: TestStore) {
    const COUNT: u32 = 50_000;
    store.seed_tombstones(COUNT).await;
    let head = store.store.head().await.unwrap().sequence;
    assert_eq!(head, i64::from(COUNT) + 2, "each row is a change of its own");
    let last = store.text("SELECT CAST(MAX(sequence) AS TEXT) FROM oauth_consumers").await;
    assert_eq!(last, Some(head.to_string()));
    assert_eq!(
        store.text("SELECT CAST(COUNT(DISTINCT sequence) AS TEXT) FROM oauth_consumers").await,
        Some((COUNT + 1).to_string())
    );
    store.sql("UPDATE oauth_consumers SET name = 'Renamed'").await;
    assert_eq!(store.store.head().await.unwrap().sequence, head + i64::from(COUNT) + 1);
    store.sql("DELETE FROM oauth_consumers WHERE state = 'Removed'").await;
    let after = store.store.head().await.unwrap();
    assert_eq!(after.reload, head + i64::from(COUNT) + 1, "readers that have not seen the last of them start over");
    assert!(after.sequence > after.reload);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let notes = "my notes, ".repeat(100);
    std::fs::write(&path, &notes).unwrap();
    let refused = store::open(&format!("sqlite://{}", path.display()), Access::Controller).await;
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{:?}", refused.err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
}

#[tokio::test]
async fn a_closed_sqlite_store_is_one_file() {
    let store = TestStore::sqlite().await;
    store.store.insert(record("a")).await.unwrap();
    store.store.close().await;
    let path = store.url.strip_prefix("sqlite://").unwrap();
    assert!(!std::fs::exists(format!("{path}-wal")).unwrap(), "a copy of the file alone would miss what is in there");
}

#[tokio::test]
async fn a_damaged_sqlite_file_is_refused() {
    let store = TestStore::sqlite().await;
    for i in 0..200 {
        store.store.insert(record(&format!("uid-{i}"))).await.unwrap();
    }
    let TestStore { url, store, folder } = store;
    store.close().await;
    drop(store);
    let path = url.strip_prefix("sqlite://").unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0x5a);
    std::fs::write(path, bytes).unwrap();
    let refused = store::open(&url, Access::Controller).await;
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{:?}", refused.err());
    drop(folder);
}

#[tokio::test]
async fn a_sqlite_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let store = TestStore::sqlite().await;
    store.store.insert(record("a")).await.unwrap();
    let path = store.url.strip_prefix("sqlite://").unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = std::fs::metadata(format!("{path}{suffix}")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path}{suffix}");
    }
}

#[tokio::test]
async fn a_url_that_names_no_store_is_refused_without_being_printed() {
    let refused = store::open("mysql://root:hunter2@db/x", Access::Controller).await.err().unwrap();
    assert!(matches!(refused, OpenError::UnknownScheme));
    assert!(!refused.to_string().contains("hunter2"));
    let garbled = store::open("postgres://u:hunter2@[/x", Access::Controller).await.err().unwrap();
    assert!(matches!(garbled, OpenError::BadUrl) && !garbled.to_string().contains("hunter2"), "{garbled}");
    let unreachable = store::open("postgres://u:hunter2@127.0.0.1:1/x", Access::Controller).await.err().unwrap();
    assert!(matches!(unreachable, OpenError::Database(_)));
    assert!(!unreachable.to_string().contains("hunter2"), "{unreachable}");
}

#[tokio::test]
async fn the_rights_that_the_documentation_grants_are_enough() {
    let store = TestStore::postgres().await;
    store.store.insert(record("jazz")).await.unwrap();
    store.verify("cluster", "default").await;
    let roles = ["reads", "writes"].map(|what| format!("{what}_{}", store.url.rsplit_once('/').unwrap().1));
    let documented = include_str!("../../docs/how-to/postgres.md");
    let grants: Vec<_> =
        documented.lines().filter(|line| line.starts_with("GRANT") && line.contains(" TO oauth_revoke;")).collect();
    assert_eq!(grants.len(), 3, "{grants:?}");
    for (role, grants) in roles.iter().zip([&grants[..1], &grants[..]]) {
        store.sql(&format!("CREATE ROLE {role} LOGIN")).await;
        for grant in grants {
            store.sql(&grant.replace("oauth_revoke", role)).await;
        }
    }
    let key = record("jazz").consumer_key;
    let [reading, writing] = roles.each_ref().map(|role| store.url.replace("postgres@", &format!("{role}@")));
    let reader = store::open(&reading, Access::SignIn).await.unwrap();
    assert!(reader.head().await.unwrap().verified);
    assert!(reader.by_key(&key).await.unwrap().1.unwrap().verified);
    assert_eq!(reader.changes(0, 10).await.unwrap().1.len(), 1);
    let refused = store::revoke(&*reader, &key, "leaked").await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    let writer = store::open(&writing, Access::SignIn).await.unwrap();
    assert_eq!(store::revoke(&*writer, &key, "leaked").await.unwrap().state, State::Revoked);
    reader.close().await;
    writer.close().await;
    for role in &roles {
        store.sql(&format!("DROP OWNED BY {role}")).await;
        store.sql(&format!("DROP ROLE {role}")).await;
    }
}
