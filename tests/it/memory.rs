//! What a sign-in check remembers, and what every check costs.

use std::sync::Arc;

use axum::http::StatusCode;
use futures::future::join_all;
use oauthconsumer_operator::consumer::{HashCost, Profile, Record, State};
use oauthconsumer_operator::hashing::HashPool;
use oauthconsumer_operator::signin::Settings;

use crate::support::{CHEAP, Check, Records, TestStore, approved, eventually, on_both_stores, put, unlimited, with_cost};

on_both_stores!(
    a_consumer_that_is_known_costs_no_look_and_no_hash,
    what_is_refused_costs_a_hash_unless_it_never_was_issued,
    a_known_secret_outlives_a_rename_and_not_a_rotation,
    a_cheap_hash_is_renewed_when_its_secret_is_seen,
    a_disapproval_while_a_hash_waits_is_refused,
    a_crowd_with_the_same_good_secret_costs_one_hash,
);

const SECRET: &str = "a secret, long enough for all";
const WRONG: &str = "a wrong secret, long enough";

async fn a_consumer_that_is_known_costs_no_look_and_no_hash(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);
    let cost = (check.metrics.store_lookups.get(), check.metrics.signin_hashes.get());
    assert_eq!(cost, (1, 1));
    for _ in 0..100 {
        assert!(check.admits(&key, SECRET).await);
    }
    assert_eq!(cost, (check.metrics.store_lookups.get(), check.metrics.signin_hashes.get()));
}

async fn what_is_refused_costs_a_hash_unless_it_never_was_issued(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let states = [State::AwaitingApproval, State::Disapproved, State::OnHold, State::Revoked, State::OutOfScope];
    let mut issued = vec![(key.clone(), WRONG)];
    for state in states {
        let record = Record { state, ..approved(&state.to_string(), SECRET) };
        issued.push((record.consumer_key.to_string(), SECRET));
        put(&*store.store, record).await;
    }
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await, "known from now on");
    for (key, secret) in &issued {
        for _ in 0..2 {
            let before = check.metrics.signin_hashes.get();
            assert!(!check.admits(key, secret).await);
            assert_eq!(check.metrics.signin_hashes.get(), before + 1, "failures are not remembered");
        }
    }
    let removed = approved("removed", SECRET).removed();
    put(&*store.store, removed.clone()).await;
    let before = check.metrics.signin_hashes.get();
    for key in ["00000000-0000-5000-8000-000000000000", removed.consumer_key.as_str()] {
        assert!(!check.admits(key, SECRET).await);
    }
    assert_eq!(check.metrics.signin_hashes.get(), before);
}

async fn a_known_secret_outlives_a_rename_and_not_a_rotation(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let check = Check::of(store.reader().await).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);

    let before = store.store.find(&approved("jazz", SECRET).owner).await.unwrap();
    put(&*store.store, Record { profile: Profile { name: "Renamed".into() }, generation: 4, ..before.record }).await;
    eventually("the new name is seen", || async {
        let answer = check.ask(&[("authorization", crate::support::basic(&key, SECRET).as_bytes())]).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.headers["x-oauth-consumer-name"] == "Renamed"
    })
    .await;
    assert_eq!(check.metrics.signin_hashes.get(), 1);

    put(&*store.store, approved("jazz", "the secret after the rotation")).await;
    eventually("the old secret is refused", || async { !check.admits(&key, SECRET).await }).await;
    assert!(check.admits(&key, "the secret after the rotation").await);
}

async fn a_cheap_hash_is_renewed_when_its_secret_is_seen(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let dear = HashCost { memory: 64, passes: 2, lanes: 1 };
    let check = Check::serve(store.reader().await, unlimited(), HashPool::new(2, dear).unwrap(), None).await;
    let phc = async || store.text("SELECT phc FROM oauth_consumers").await.unwrap();
    assert!(!check.admits(&key, WRONG).await);
    let before = store.store.find(&approved("jazz", SECRET).owner).await.unwrap();
    assert!(phc().await.contains("m=32,t=1"), "a wrong secret renews nothing");
    assert!(check.admits(&key, SECRET).await);
    eventually("it is renewed", || async { phc().await.contains("m=64,t=2") }).await;
    assert!(check.admits(&key, SECRET).await);
    assert!(!check.admits(&key, WRONG).await);
    let stored = store.store.find(&approved("jazz", SECRET).owner).await.unwrap();
    assert!(stored.allows_signin() && stored.version == before.version + 1, "one write, and a checksum that fits");
}

async fn a_disapproval_while_a_hash_waits_is_refused(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    // One thread, and something that keeps it busy for a while.
    let slow = with_cost("slow", SECRET, HashCost { memory: 64 * 1024, passes: 10, lanes: 1 });
    put(&*store.store, slow.clone()).await;
    let check = Arc::new(Check::serve(store.reader().await, unlimited(), HashPool::new(1, CHEAP).unwrap(), None).await);
    check.is_current().await;
    let ask = |key: String| {
        let check = check.clone();
        tokio::spawn(async move { check.status(&key, SECRET).await })
    };
    let busy = ask(slow.consumer_key.to_string());
    eventually("the thread is busy", || async { check.metrics.store_lookups.get() == 1 }).await;
    // The one waits for the thread, the others for their turn after it.
    let waiting: Vec<_> = (0..5).map(|_| ask(key.clone())).collect();
    eventually("all have looked", || async { check.metrics.store_lookups.get() == 6 }).await;
    let before = store.store.find(&approved("jazz", SECRET).owner).await.unwrap();
    put(&*store.store, Record { state: State::Disapproved, ..before.record }).await;
    assert_eq!(busy.await.unwrap(), StatusCode::OK);
    // 503 to those who waited for too long.
    for asked in waiting {
        assert_ne!(asked.await.unwrap(), StatusCode::OK);
    }
}

async fn a_crowd_with_the_same_good_secret_costs_one_hash(store: TestStore) {
    let key = store.serving("jazz", SECRET).await;
    let check = Check::with(store.reader().await, Settings::default()).await;
    check.is_current().await;
    let answers = join_all((0..60).map(|_| check.status(&key, SECRET))).await;
    assert_eq!(answers, [StatusCode::OK; 60]);
    assert_eq!(check.metrics.signin_hashes.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_one_key_do_not_take_the_turns_of_others() {
    let store = TestStore::sqlite().await;
    let key = store.serving("jazz", SECRET).await;
    let slow = with_cost("blues", SECRET, HashCost { memory: 4096, passes: 8, lanes: 1 });
    let attacked = slow.consumer_key.to_string();
    put(&*store.store, slow).await;
    let check = Arc::new(Check::serve(store.reader().await, unlimited(), HashPool::new(1, CHEAP).unwrap(), None).await);
    check.is_current().await;
    let guesses: Vec<_> = (0..100)
        .map(|i| {
            let (check, attacked) = (check.clone(), attacked.clone());
            tokio::spawn(async move { check.status(&attacked, &format!("guess number {i}, long enough")).await })
        })
        .collect();
    eventually("guesses wait", || async { check.metrics.signin_hashes.get() > 0 }).await;
    assert!(check.admits(&key, SECRET).await);
    let mut refused = 0;
    for guess in guesses {
        match guess.await.unwrap() {
            StatusCode::UNAUTHORIZED => refused += 1,
            StatusCode::SERVICE_UNAVAILABLE => {}
            status => panic!("{status}"),
        }
    }
    assert!(refused < 100, "the queue of a key has an end");
    assert!(check.admits(&attacked, SECRET).await);
}
