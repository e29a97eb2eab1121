//! What is promised in seconds, while others make trouble: a disapproval counts in time.
//!
//! A program of its own, so that no other test takes the processor meanwhile; and one test at a time has all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails may fail loudly")]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "what the tests beside this one need too")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures::future::join_all;
use oauthconsumer_operator::controller::Settings;
use oauthconsumer_operator::store::{self, Access};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::support::{Check, Cluster, Operator, Proxy, Records, TestStore, eventually, is, keep, on_both_stores, record};

on_both_stores!(a_disapproval_counts_in_time_while_another_namespace_is_emptied, decisions_do_not_wait_for_a_pile_of_tombstones);

const SECRET: &str = "a secret, long enough for all";

/// What is promised in tests: from the API server's answer to the last yes.
const BOUND: Duration = Duration::from_secs(2);

/// Consumers that are deleted at once.
const STORM: usize = 300;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Disapproves while sign-ins are asked for all the time. Answers how long after the API server's answer the last yes came.
async fn last_yes(cluster: &Cluster, check: &Check, key: &str) -> Duration {
    let over = AtomicBool::new(false);
    let asking = async {
        let (mut last, mut allowed) = (Instant::now(), 0);
        while !over.load(Ordering::SeqCst) {
            match check.status(key, SECRET).await {
                StatusCode::OK => (last, allowed) = (Instant::now(), allowed + 1),
                StatusCode::UNAUTHORIZED | StatusCode::SERVICE_UNAVAILABLE => {}
                status => panic!("{status}"),
            }
            // Without a pause it would take a core from those it watches.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(allowed > 0, "it never was allowed");
        last
    };
    let deciding = async {
        eventually("it is allowed", || async { check.status(key, SECRET).await == StatusCode::OK }).await;
        cluster.edit("jazz", json!({ "approved": false })).await;
        let answered = Instant::now();
        tokio::time::sleep(BOUND * 2).await;
        over.store(true, Ordering::SeqCst);
        answered
    };
    let (last, answered) = tokio::join!(asking, deciding);
    last.saturating_duration_since(answered)
}

async fn a_disapproval_counts_in_time_while_another_namespace_is_emptied(store: TestStore) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, stormy) = (Cluster::new().await, Cluster::new().await);
    let both = |settings: &mut Settings| settings.namespaces = vec![cluster.namespace.clone(), stormy.namespace.clone()];
    let operator = Operator::start_with(&cluster, store.store.clone(), "admin", both).await;
    let key = cluster.approved("jazz", SECRET).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    for chunk in (0..STORM).collect::<Vec<_>>().chunks(16) {
        join_all(chunk.iter().map(|i| {
            let stormy = &stormy;
            async move { stormy.consumer(&format!("c{i}"), json!({})).await }
        }))
        .await;
    }
    let last = stormy.wait(&format!("c{}", STORM - 1), "seen", is("Ready", "False/SecretNotFound")).await;
    let emptying = async {
        for chunk in (0..STORM).collect::<Vec<_>>().chunks(16) {
            join_all(chunk.iter().map(|i| {
                let stormy = &stormy;
                async move { stormy.delete(&format!("c{i}")).await }
            }))
            .await;
        }
    };
    let (late, ()) = tokio::join!(last_yes(&cluster, &check, &key), emptying);
    assert!(late < BOUND, "the last yes came {late:?} after the disapproval");
    stormy.gone(&last).await;
    operator.stop().await;
}

async fn decisions_do_not_wait_for_a_pile_of_tombstones(store: TestStore) {
    const COUNT: u32 = 50_000;
    let _alone = ONE_AT_A_TIME.lock().await;
    store.seed_tombstones(COUNT).await;
    let decided = store.store.insert(record("decided")).await.unwrap();
    let dropping = async {
        let mut dropped = 0;
        loop {
            let batch = store.store.drop_tombstones("cluster", &keep(COUNT * 2, 500)).await.unwrap();
            dropped += batch;
            if batch < 500 {
                return dropped;
            }
        }
    };
    let over = CancellationToken::new();
    let deciding = async {
        let (mut decisions, mut version) = (0, decided.version);
        while !over.is_cancelled() {
            let begun = Instant::now();
            version = store.store.replace(record("decided"), version).await.unwrap().version;
            assert!(begun.elapsed() < BOUND, "a decision waited {:?}", begun.elapsed());
            decisions += 1;
        }
        decisions
    };
    let (dropped, decisions) = tokio::join!(
        async {
            let dropped = dropping.await;
            over.cancel();
            dropped
        },
        deciding
    );
    assert_eq!(dropped, COUNT as usize + 1);
    assert!(decisions > 10, "{decisions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_the_database_heals_by_itself() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (cluster, database) = (Cluster::new().await, TestStore::postgres().await);
    let proxy = Proxy::before(&database.url).await;
    let operator = Operator::start(&cluster, store::open(&proxy.url, Access::Controller).await.unwrap()).await;
    let key = cluster.approved("jazz", SECRET).await;
    let check = Arc::new(Check::of(store::open(&proxy.url, Access::SignIn).await.unwrap()).await);
    check.is_current().await;
    // Clients that ask all the time, some with a secret that needs a look at the store.
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|i| {
            let (check, over, key) = (check.clone(), over.clone(), key.clone());
            tokio::spawn(async move {
                let secret = if i % 2 == 0 { SECRET } else { "a wrong secret, long enough" };
                while !over.load(Ordering::SeqCst) {
                    let status = check.status(&key, secret).await;
                    let is_wrong = (status == StatusCode::OK) != (i % 2 == 0) && status != StatusCode::SERVICE_UNAVAILABLE;
                    assert!(!is_wrong, "{status} in a pause");
                }
            })
        })
        .collect();
    let address = database.url.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    for _ in 0..2 {
        // The connections that there are hang, and then there are none for a while.
        proxy.freeze();
        proxy.lead_to(None);
        eventually("memory is no longer proved", || async { !check.directory.is_current() }).await;
        proxy.lead_to(Some(&address));
        check.is_current().await;
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let late = last_yes(&cluster, &check, &key).await;
    assert!(late < BOUND, "the last yes came {late:?} after the disapproval");
    operator.stop().await;
}
