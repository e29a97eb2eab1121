//! Stores that went back in time: nobody signs in by what they say until a controller has compared it with the objects.

use std::process::Command;

use axum::http::StatusCode;
use oauthconsumer_operator::consumer::Record;
use oauthconsumer_operator::store::{self, Access, ConsumerStore};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::{Check, Cluster, Companion, Operator, Proxy, TestStore, approved, eventually, is, on_both_stores, put};

on_both_stores!(what_a_backup_approves_counts_when_it_was_compared);

const SECRET: &str = "a secret, long enough for all";

async fn what_a_backup_approves_counts_when_it_was_compared(store: TestStore) {
    let cluster = Cluster::new().await;
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let (kept, revoked, deleted) = (
        cluster.approved("kept", SECRET).await,
        cluster.approved("revoked", SECRET).await,
        cluster.approved("deleted", SECRET).await,
    );
    let backup = store.back_up().await;
    cluster.edit("revoked", json!({ "approved": false })).await;
    cluster.ready("revoked").await;
    let object = cluster.get("deleted").await;
    cluster.delete("deleted").await;
    cluster.gone(&object).await;
    let later = cluster.approved("later", SECRET).await;
    operator.stop().await;

    let store = store.restore(backup).await;
    let state = format!("SELECT state FROM oauth_consumers WHERE consumer_key = '{revoked}'");
    assert_eq!(store.text(&state).await.as_deref(), Some("Approved"), "the backup knows no better");
    let check = Check::of(store.reader().await).await;
    for key in [&kept, &revoked, &deleted] {
        assert_eq!(check.status(key, SECRET).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    let operator = Operator::start(&cluster, store.store.clone()).await;
    eventually("the one that is approved signs in", || async {
        for key in [&revoked, &deleted] {
            assert_ne!(check.status(key, SECRET).await, StatusCode::OK);
        }
        for key in [&kept, &later] {
            assert_ne!(check.status(key, SECRET).await, StatusCode::UNAUTHORIZED, "a restore is no denial");
        }
        check.status(&kept, SECRET).await == StatusCode::OK
    })
    .await;
    assert!(!check.admits(&revoked, SECRET).await && !check.admits(&deleted, SECRET).await);
    operator.settled().await;
    assert!(check.admits(&kept, SECRET).await && check.admits(&later, SECRET).await);
    assert!(!check.admits(&revoked, SECRET).await && !check.admits(&deleted, SECRET).await);
    operator.stop().await;
}

/// Two PostgreSQL servers under Patroni, one streaming to the other asynchronously.
struct Pair(Companion);

// === impl Pair ===

impl Pair {
    fn start() -> Self {
        Self(Companion::start("with-patroni.sh", "PATRONI_DIR"))
    }

    /// Runs one of the pair's programs and answers what it prints.
    fn run(&self, program: &str) -> String {
        let ran = Command::new(format!("{}/{program}", self.0.value)).output().unwrap();
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }

    fn url(port: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    async fn state_at(port: &str, key: &str) -> Option<String> {
        let mut connection = PgConnection::connect(&Self::url(port)).await.unwrap();
        let query = AssertSqlSafe(format!("SELECT state FROM oauth_consumers WHERE consumer_key = '{key}'"));
        sqlx::query_scalar(query).fetch_optional(&mut connection).await.ok().flatten()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_a_disapproval_does_not_bring_the_sign_in_back() {
    let (cluster, pair) = (Cluster::new().await, Pair::start());
    let (leader, replica) = (pair.run("leader-port"), pair.run("replica-port"));
    let proxy = Proxy::before(&Pair::url(&leader)).await;
    let store = store::open(&proxy.url, Access::Controller).await.unwrap();
    let operator = Operator::start(&cluster, store.clone()).await;
    let check = Check::of(store::open(&proxy.url, Access::SignIn).await.unwrap()).await;
    let key = cluster.approved("jazz", SECRET).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    eventually("the replica knows", || async { Pair::state_at(&replica, &key).await.as_deref() == Some("Approved") }).await;

    // Disapproved, seen, and lost.
    pair.run("cut-replication");
    cluster.edit("jazz", json!({ "approved": false })).await;
    cluster.wait("jazz", "Disapproved", is("Approved", "False/Disapproved")).await;
    eventually("it is refused", || async { !check.admits(&key, SECRET).await }).await;
    operator.stop().await;
    store.close().await;
    pair.run("kill-leader");
    pair.run("expire-lock");
    let new_leader = pair.run("wait-leader");
    assert_eq!(Pair::state_at(&new_leader, &key).await.as_deref(), Some("Approved"), "the commit is lost");
    proxy.lead_to(Some(&format!("127.0.0.1:{new_leader}")));
    let is_unknown = || async {
        for _ in 0..20 {
            assert_ne!(check.status(&key, SECRET).await, StatusCode::OK);
        }
        check.status(&key, SECRET).await == StatusCode::SERVICE_UNAVAILABLE
    };
    eventually("nobody can tell", is_unknown).await;
    eventually("and it says why", || async {
        check.directory.check().is_err_and(|doubt| doubt.contains("waiting for a controller to compare"))
    })
    .await;

    // The old leader wakes up, and knows nothing of the new one. What it says is not believed any more, not even a no.
    let old_leader = pair.run("wake-old-leader");
    proxy.lead_to(Some(&format!("127.0.0.1:{old_leader}")));
    eventually("it is not believed", || async {
        assert_eq!(check.status(&key, SECRET).await, StatusCode::SERVICE_UNAVAILABLE);
        check.directory.check().is_err_and(|doubt| doubt.contains("former primary"))
    })
    .await;
    proxy.lead_to(Some(&format!("127.0.0.1:{new_leader}")));

    // A controller on the new leader knows from the object that it is disapproved.
    let store = store::open(&proxy.url, Access::Controller).await.unwrap();
    let operator = Operator::start(&cluster, store.clone()).await;
    eventually("it is refused again", || async {
        let status = check.status(&key, SECRET).await;
        assert_ne!(status, StatusCode::OK);
        status == StatusCode::UNAUTHORIZED
    })
    .await;
    check.is_current().await;
    cluster.edit("jazz", json!({ "approved": true })).await;
    cluster.wait("jazz", "Approved", is("Active", "True/Active")).await;
    assert!(check.admits(&key, SECRET).await);
    operator.stop().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_put_back_and_moved_on_is_not_taken_for_the_one_before() {
    let pair = Pair::start();
    let leader = pair.run("leader-port");
    let proxy = Proxy::before(&Pair::url(&leader)).await;
    let store = store::open(&Pair::url(&leader), Access::Controller).await.unwrap();
    let verify = async |store: &dyn ConsumerStore| {
        let head = store.head().await.unwrap();
        store.verify("cluster", "default", &head.epoch).await.unwrap();
        head
    };
    verify(&*store).await;
    let jazz = approved("jazz", SECRET);
    put(&*store, jazz.clone()).await;
    put(&*store, Record { generation: 4, ..jazz.clone() }).await;
    let check = Check::of(store::open(&proxy.url, Access::SignIn).await.unwrap()).await;
    check.is_current().await;
    let key = jazz.consumer_key.as_str();
    assert!(check.admits(key, SECRET).await);
    let before = store.head().await.unwrap();
    store.close().await;

    // The reader is cut off. Meanwhile the server starts once more on its timeline, as from a snapshot of its disk: its feed begins
    // again further back, a disapproval gets a number that the reader has passed, and then it is ahead of the reader.
    proxy.lead_to(None);
    pair.run("kill-leader");
    let woken = pair.run("wake-old-leader");
    assert_eq!(woken, leader);
    let mut connection = PgConnection::connect(&Pair::url(&woken)).await.unwrap();
    for statement in [
        "UPDATE feed SET sequence = 0, reload = 0",
        "UPDATE oauth_consumers SET state = 'Disapproved'",
        "UPDATE feed SET sequence = 1000",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let store = store::open(&Pair::url(&woken), Access::Controller).await.unwrap();
    let after = store.head().await.unwrap();
    assert_eq!((&after.epoch.lineage, after.epoch.rank), (&before.epoch.lineage, before.epoch.rank));
    assert!(after.epoch != before.epoch && !after.verified);
    proxy.lead_to(Some(&format!("127.0.0.1:{woken}")));
    eventually("it waits for a controller", || async {
        check.directory.check().is_err_and(|doubt| doubt.contains("waiting for a controller to compare"))
    })
    .await;
    assert_eq!(check.status(key, SECRET).await, StatusCode::SERVICE_UNAVAILABLE);
    verify(&*store).await;
    check.is_current().await;
    for _ in 0..20 {
        assert!(!check.admits(key, SECRET).await);
    }
    store.close().await;
}
