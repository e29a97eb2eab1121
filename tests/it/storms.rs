//! What the others notice of a storm: their disapprovals count in time, and a pause of the database heals by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures::future::join_all;
use oauthconsumer_operator::controller::Settings;
use oauthconsumer_operator::store::{self, Access};
use serde_json::json;

use crate::support::{Check, Cluster, Operator, Proxy, TestStore, eventually, is, on_both_stores};

on_both_stores!(a_disapproval_counts_in_time_while_another_namespace_is_emptied);

const SECRET: &str = "a secret, long enough for all";

/// What is promised in tests: from the API server's answer to the last yes.
const BOUND: Duration = Duration::from_secs(2);

/// Consumers that are deleted at once.
const STORM: usize = 300;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_the_database_heals_by_itself() {
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
