//! The contract of a store, held by every store.

use std::time::Duration;

use jiff::SignedDuration;
use oauthconsumer_operator::consumer::{ConsumerKey, Owner, Record, Revocation, SecretOutcome, SecretProblem, State};
use oauthconsumer_operator::store::{self, Access, OpenError, RevokeError, StoreError};
use sqlx::{Connection, PgConnection};

use crate::support::{Proxy, TestStore, eventually, now, on_both_stores, record};

on_both_stores!(
    a_record_comes_back_as_it_was_written,
    a_write_needs_the_version_that_was_read,
    an_owner_has_one_record_and_a_key_one_owner,
    of_many_writers_one_wins,
    tombstones_are_kept_and_then_dropped,
    live_records_are_those_of_one_installation,
    the_feed_counts_every_change_whoever_makes_it,
    an_edit_behind_the_back_shows,
    secret_versions_can_be_forgotten,
    the_view_shows_what_may_sign_in,
    the_previous_release_opens_a_newer_schema,
    a_revocation_is_written_over_whatever_there_is,
    an_installation_is_vouched_for_alone,
    a_store_of_the_release_before_is_brought_up_to_date,
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
        hold: Some("leaked; \"quoted\" 'text' %s $1".into()),
        revocation: Some(Revocation { at: now(), reason: "INC-1".into(), generation: 3 }),
        ..record("full")
    };
    for record in [bare, full, record("plain")] {
        let written = store.write(record.clone(), None, now()).await.unwrap();
        assert_eq!((written.version, written.intact), (1, true));
        assert_eq!(written.record, record);
        assert_eq!(store.by_owner(&record.owner).await.unwrap(), Some(written.clone()));
        assert_eq!(store.by_key(&record.consumer_key).await.unwrap().1.unwrap().stored, written);
    }
    assert_eq!(store.by_owner(&Owner { cluster_id: "cluster".into(), uid: "none".into() }).await.unwrap(), None);
    assert_eq!(store.by_owner(&Owner { cluster_id: "other".into(), uid: "full".into() }).await.unwrap(), None);
    assert_eq!(store.by_key(&ConsumerKey::derive("x", "y")).await.unwrap().1, None);
}

async fn a_write_needs_the_version_that_was_read(store: TestStore) {
    let store = store.store;
    let first = store.write(record("a"), None, now()).await.unwrap();
    let second = store.write(Record { generation: 4, ..record("a") }, Some(first.version), now()).await.unwrap();
    assert_eq!(second.version, 2);
    for stale in [None, Some(1), Some(3)] {
        let refused = store.write(Record { generation: 9, ..record("a") }, stale, now()).await;
        assert!(matches!(refused, Err(StoreError::Swapped)), "{stale:?}: {refused:?}");
    }
    assert_eq!(store.by_owner(&record("a").owner).await.unwrap(), Some(second));
    let absent = store.write(record("absent"), Some(1), now()).await;
    assert!(matches!(absent, Err(StoreError::Swapped)), "{absent:?}");
}

async fn an_owner_has_one_record_and_a_key_one_owner(store: TestStore) {
    let store = store.store;
    let first = store.write(record("a"), None, now()).await.unwrap();
    let thief = Record { consumer_key: first.record.consumer_key.clone(), ..record("b") };
    let refused = store.write(thief.clone(), None, now()).await;
    assert!(matches!(refused, Err(StoreError::KeyInUse(_))), "{refused:?}");
    store.write(first.record.removed(), Some(first.version), now()).await.unwrap();
    let refused = store.write(thief, None, now()).await;
    assert!(matches!(refused, Err(StoreError::KeyInUse(_))), "not even after its end: {refused:?}");
}

async fn of_many_writers_one_wins(store: TestStore) {
    let first = store.store.write(record("a"), None, now()).await.unwrap();
    let attempts = (0..20).map(|generation| {
        let store = store.store.clone();
        tokio::spawn(async move { store.write(Record { generation, ..record("a") }, Some(first.version), now()).await })
    });
    let results = futures::future::join_all(attempts).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    assert!(lost.iter().all(|result| matches!(result, Err(StoreError::Swapped))), "{lost:?}");
}

async fn tombstones_are_kept_and_then_dropped(store: TestStore) {
    let store = store.store;
    for (uid, age) in [("old", 91), ("young", 89)] {
        let written = store.write(record(uid), None, now()).await.unwrap();
        let then = now() - SignedDuration::from_hours(24 * age);
        store.write(written.record.removed(), Some(written.version), then).await.unwrap();
    }
    store.write(record("alive"), None, now() - SignedDuration::from_hours(24 * 365)).await.unwrap();
    let before = now() - SignedDuration::from_hours(24 * 90);
    assert_eq!(store.drop_tombstones("cluster", "another", before).await.unwrap(), 0, "those of others are theirs");
    assert_eq!(store.drop_tombstones("cluster", "default", before).await.unwrap(), 1);
    assert_eq!(store.by_owner(&record("old").owner).await.unwrap(), None);
    let young = store.by_owner(&record("young").owner).await.unwrap().unwrap();
    assert!(young.record.is_removed() && young.record.phc().is_none() && !young.admits());
    assert!(store.by_owner(&record("alive").owner).await.unwrap().is_some());
}

async fn live_records_are_those_of_one_installation(store: TestStore) {
    let store = store.store;
    store.write(record("mine"), None, now()).await.unwrap();
    store.write(Record { installation: "other".into(), ..record("theirs") }, None, now()).await.unwrap();
    let elsewhere = Owner { cluster_id: "elsewhere".into(), uid: "far".into() };
    store.write(Record { owner: elsewhere, ..record("far") }, None, now()).await.unwrap();
    let removed = store.write(record("removed"), None, now()).await.unwrap();
    store.write(removed.record.removed(), Some(1), now()).await.unwrap();
    let live = store.live("cluster", "default").await.unwrap();
    assert_eq!(live.iter().map(|stored| stored.record.owner.uid.as_str()).collect::<Vec<_>>(), ["mine"]);
}

async fn the_feed_counts_every_change_whoever_makes_it(store: TestStore) {
    let head = || async { store.store.head().await.unwrap() };
    let start = head().await;
    assert_eq!((start.head, start.reload), (0, 0));
    let first = store.store.write(record("a"), None, now()).await.unwrap();
    assert_eq!(head().await.head, 1);
    store.store.write(Record { generation: 4, ..record("a") }, Some(first.version), now()).await.unwrap();
    assert_eq!(head().await.head, 2);
    let _ = store.store.write(record("a"), Some(first.version), now()).await.unwrap_err();
    assert_eq!(head().await.head, 2, "what was not written is no change");
    store.sql("UPDATE oauth_consumers SET name = 'edited'").await;
    assert_eq!(head().await.head, 3, "an edit by hand is a change, too");
    let change = "SELECT CAST(change AS TEXT) FROM oauth_consumers";
    assert_eq!(store.text(change).await.as_deref(), Some("3"), "a row says when it was last changed");
    store.sql("DELETE FROM oauth_consumers").await;
    let end = head().await;
    assert_eq!((end.head, end.reload), (4, 4), "a row that is gone can only be missed by starting over");
    store.store.write(record("b"), None, now()).await.unwrap();
    store.sql("UPDATE oauth_consumers SET consumer_key = 'another-key'").await;
    assert_eq!((head().await.head, head().await.reload), (6, 6), "and so can a key");
    assert_eq!(end.store_id, start.store_id);
    assert!(end.store_id.len() >= 32);
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
        let written = store.store.write(record(&uid), None, now()).await.unwrap();
        assert!(written.admits());
        store.sql(&format!("UPDATE oauth_consumers SET {edit} WHERE uid = '{uid}'")).await;
        let edited = store.store.live("cluster", "default").await.unwrap().into_iter().find(|stored| !stored.intact);
        let edited = edited.unwrap_or_else(|| panic!("{edit} does not show"));
        assert!(!edited.admits(), "{edit}");
        store.sql("DELETE FROM oauth_consumers").await;
    }
}

async fn secret_versions_can_be_forgotten(store: TestStore) {
    let store = store.store;
    store.write(record("a"), None, now()).await.unwrap();
    let elsewhere = Owner { cluster_id: "elsewhere".into(), uid: "b".into() };
    store.write(Record { owner: elsewhere.clone(), ..record("b") }, None, now()).await.unwrap();
    assert_eq!(store.forget_secret_versions("cluster", now()).await.unwrap(), 1);
    assert_eq!(store.forget_secret_versions("cluster", now()).await.unwrap(), 0, "once is enough");
    let forgotten = store.by_owner(&record("a").owner).await.unwrap().unwrap();
    assert_eq!((forgotten.version, forgotten.intact), (2, true), "a slow writer loses");
    assert_eq!(forgotten.record.secret_source.unwrap().resource_version, "");
    assert!(forgotten.record.secret == record("a").secret, "the hash stays");
    let other = store.by_owner(&elsewhere).await.unwrap().unwrap();
    assert_eq!(other.record.secret_source.unwrap().resource_version, "4711");
}

async fn the_view_shows_what_may_sign_in(store: TestStore) {
    store.store.write(record("approved"), None, now()).await.unwrap();
    for (uid, state) in [("held", State::OnHold), ("awaiting", State::AwaitingApproval)] {
        store.store.write(Record { state, ..record(uid) }, None, now()).await.unwrap();
    }
    let secretless = SecretOutcome::Refused(SecretProblem::KeyMissing);
    store.store.write(Record { secret: secretless, ..record("secretless") }, None, now()).await.unwrap();
    assert_eq!(store.text("SELECT CAST(COUNT(*) AS TEXT) FROM oauth_consumers_signin").await.as_deref(), Some("1"));
    let key = store.text("SELECT consumer_key FROM oauth_consumers_signin WHERE phc IS NOT NULL").await;
    assert_eq!(key.as_deref(), Some(record("approved").consumer_key.as_str()));
}

async fn the_previous_release_opens_a_newer_schema(store: TestStore) {
    let written = store.store.write(record("a"), None, now()).await.unwrap();
    // Its statements are prepared by now.
    assert!(store.store.by_owner(&record("a").owner).await.unwrap().is_some());
    store.sql("ALTER TABLE oauth_consumers ADD COLUMN of_the_next_release TEXT").await;
    store
        .sql(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         SELECT 9999, 'next', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
        )
        .await;
    for _ in 0..20 {
        assert!(store.store.by_owner(&record("a").owner).await.unwrap().unwrap().admits(), "while it runs");
    }
    store.store.write(record("a"), Some(written.version), now()).await.unwrap();
    let reader = store.reader().await;
    assert!(reader.by_owner(&record("a").owner).await.unwrap().unwrap().admits(), "and when it starts");
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
        store.store.write(record(uid), None, now()).await.unwrap();
    }
    store.sql("UPDATE oauth_consumers SET name = CAST(x'ff41' AS TEXT) WHERE uid = 'bad'").await;
    let mut live = store.store.live("cluster", "default").await.unwrap();
    live.sort_by_key(|stored| stored.record.owner.clone());
    let seen: Vec<_> = live.iter().map(|stored| (stored.record.owner.uid.as_str(), stored.intact)).collect();
    assert_eq!(seen, [("bad", false), ("good", true)]);
    let bad = store.store.by_owner(&record("bad").owner).await.unwrap().unwrap();
    assert!(!bad.admits() && bad.record.consumer_key == record("bad").consumer_key);
    assert!(store.store.write(record("bad"), Some(bad.version), now()).await.unwrap().admits());
}

#[tokio::test]
async fn a_checksum_is_what_it_always_was() {
    // Written down once: a release that computes another one would take every row for edited.
    let store = TestStore::sqlite().await;
    store.store.write(record("golden"), None, now()).await.unwrap();
    assert_eq!(
        store.text("SELECT checksum FROM oauth_consumers").await.as_deref(),
        Some("1:26dea6a7aaa062419d045f4badcd0917a8839ae9fa28e434ce72980e6297b15c")
    );
    // And one that a later release computes in its own way is its own business.
    store.sql("UPDATE oauth_consumers SET checksum = '2:later'").await;
    assert!(store.store.by_owner(&record("golden").owner).await.unwrap().unwrap().intact);
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
    store.store.write(record("a"), None, now()).await.unwrap();
    let proxy = Proxy::before(&store.url).await;
    let client = store::open(&proxy.url, Access::SignIn).await.unwrap();
    let ask = || async { client.by_owner(&record("a").owner).await };
    assert!(ask().await.unwrap().is_some());

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
        store.store.write(record.clone(), None, now()).await.unwrap();
    }
    let reader = store.reader().await;
    for reason in ["leaked", "once more"] {
        let revoked = store::revoke(&*reader, &jazz.consumer_key, reason).await.unwrap();
        assert_eq!(store.store.by_owner(&jazz.owner).await.unwrap().unwrap().record, revoked);
        let revocation = revoked.revocation.unwrap();
        assert_eq!((revoked.state, revocation.reason.as_str(), revocation.generation), (State::Revoked, reason, 3));
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

async fn an_installation_is_vouched_for_alone(store: TestStore) {
    let vouched = async |cluster, installation| store.store.is_vouched_for(cluster, installation).await.unwrap();
    assert!(!store.store.head().await.unwrap().compared);
    store.vouch("a", "default").await;
    let before = store.store.head().await.unwrap();
    assert!(before.compared && vouched("a", "default").await);
    assert!(!vouched("a", "other").await && !vouched("b", "default").await);
    store.vouch("b", "default").await;
    let passed = store.store.vouch("c", "default", "another life").await;
    assert!(matches!(passed, Err(StoreError::Swapped)) && !vouched("c", "default").await, "of a life that has passed");
    let after = store.store.head().await.unwrap();
    assert!(after.head > before.head && after.reload == after.head, "readers start over");
}

async fn a_store_of_the_release_before_is_brought_up_to_date(store: TestStore) {
    let written = store.store.write(record("jazz"), None, now()).await.unwrap();
    let is_sqlite = store.url.starts_with("sqlite");
    let mut undo = vec!["DROP VIEW feed_state", "DROP TABLE resyncs", "ALTER TABLE feed DROP COLUMN resynced"];
    if !is_sqlite {
        undo.push("DROP FUNCTION resyncs_changed CASCADE");
    }
    undo.push("DELETE FROM _sqlx_migrations WHERE version = 2");
    for statement in undo {
        store.sql(statement).await;
    }
    let TestStore { url, store, folder: _folder } = store;
    store.close().await;
    drop(store);
    let store = store::open(&url, Access::Controller).await.unwrap();
    assert_eq!(store.by_owner(&written.record.owner).await.unwrap(), Some(written));
    let head = store.head().await.unwrap();
    assert!(!head.compared && head.head >= 1);
    store.vouch("cluster", "default", &head.incarnation).await.unwrap();
    assert!(store.head().await.unwrap().compared);
}

#[tokio::test]
async fn a_sqlite_file_has_one_controller() {
    let first = TestStore::sqlite().await;
    let second = store::open(&first.url, Access::Controller).await;
    assert!(matches!(second, Err(OpenError::Locked(_))));
    assert!(first.reader().await.head().await.is_ok(), "but any number of readers");
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
    store.store.write(record("a"), None, now()).await.unwrap();
    store.store.close().await;
    let path = store.url.strip_prefix("sqlite://").unwrap();
    assert!(!std::fs::exists(format!("{path}-wal")).unwrap(), "a copy of the file alone would miss what is in there");
}

#[tokio::test]
async fn a_damaged_sqlite_file_is_refused() {
    let store = TestStore::sqlite().await;
    for i in 0..200 {
        store.store.write(record(&format!("uid-{i}")), None, now()).await.unwrap();
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
    store.store.write(record("a"), None, now()).await.unwrap();
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
    store.store.write(record("jazz"), None, now()).await.unwrap();
    store.vouch("cluster", "default").await;
    let roles = ["reads", "writes"].map(|what| format!("{what}_{}", store.url.rsplit_once('/').unwrap().1));
    let documented = include_str!("../../docs/store.md");
    let grants: Vec<_> =
        documented.lines().filter(|line| line.starts_with("GRANT") && line.contains(" TO signin_role;")).collect();
    assert_eq!(grants.len(), 3, "{grants:?}");
    for (role, grants) in roles.iter().zip([&grants[..1], &grants[..]]) {
        store.sql(&format!("CREATE ROLE {role} LOGIN")).await;
        for grant in grants {
            store.sql(&grant.replace("signin_role", role)).await;
        }
    }
    let key = record("jazz").consumer_key;
    let [reading, writing] = roles.each_ref().map(|role| store.url.replace("postgres@", &format!("{role}@")));
    let reader = store::open(&reading, Access::SignIn).await.unwrap();
    assert!(reader.head().await.unwrap().compared);
    assert!(reader.by_key(&key).await.unwrap().1.unwrap().vouched);
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
