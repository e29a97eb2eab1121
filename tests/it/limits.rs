//! How fast a caller may guess, and who is not kept waiting by it.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use futures::future::join_all;
use oauthconsumer_operator::hashing::HashPool;
use oauthconsumer_operator::signin::{CheckResult, Credentials, Rate, Settings, Verifier};
use oauthconsumer_operator::telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::support::wire::{form, oauth};
use crate::support::{CHEAP, Check, TestStore, approved, basic, eventually, put};

const SECRET: &str = "a secret, long enough for all";
const WRONG: &str = "a wrong secret, long enough";
const NEVER_ISSUED: &str = "00000000-0000-5000-8000-000000000000";

const OK: StatusCode = StatusCode::OK;
const REFUSED: StatusCode = StatusCode::UNAUTHORIZED;
const LIMITED: StatusCode = StatusCode::TOO_MANY_REQUESTS;

/// Misses at once, of which none come back.
fn limits(by_caller: u32, by_key: u32) -> Settings {
    let rate = |burst| Rate { burst, refill: 0 };
    Settings { misses_by_caller: rate(by_caller), misses_by_key: rate(by_key), ..Settings::default() }
}

/// A check, the keys of two consumers that may sign in, and their store.
async fn check(settings: Settings) -> (Check, [String; 2], TestStore) {
    let store = TestStore::sqlite().await;
    store.verify("cluster", "default").await;
    let records = ["one", "other"].map(|uid| approved(uid, SECRET));
    let keys = records.each_ref().map(|record| record.consumer_key.to_string());
    for record in records {
        put(&*store.store, record).await;
    }
    let check = Check::with(store.store.clone(), settings).await;
    check.is_current().await;
    (check, keys, store)
}

async fn statuses(check: &Check, times: usize, key: &str, secret: &str) -> Vec<StatusCode> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(check.status(key, secret).await);
    }
    statuses
}

/// What a guess gets that a gateway passes on for somebody.
async fn guess_for(check: &Check, forwarded: &str) -> StatusCode {
    let headers = [("authorization", basic(NEVER_ISSUED, WRONG)), ("x-forwarded-for", forwarded.to_owned())];
    check.ask(&headers.each_ref().map(|(name, value)| (*name, value.as_bytes()))).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_is_told_when_to_come_back() {
    let (check, _, _store) = check(limits(3, 0)).await;
    assert_eq!(statuses(&check, 5, NEVER_ISSUED, WRONG).await, [REFUSED, REFUSED, REFUSED, LIMITED, LIMITED]);
    let answer = check.ask(&[("authorization", basic(NEVER_ISSUED, WRONG).as_bytes())]).await;
    assert_eq!((answer.status, answer.body.as_str()), (LIMITED, "{\"error\":\"slow_down\"}\n"));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    let seconds: u64 = answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!(seconds >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_comes_back_after_a_while() {
    let once = Rate { burst: 1, refill: 1 };
    let (check, _, _store) = check(Settings { misses_by_caller: once, ..limits(0, 0) }).await;
    eventually("the guesses have run out", || async { check.status(NEVER_ISSUED, WRONG).await == LIMITED }).await;
    eventually("one has come back", || async { check.status(NEVER_ISSUED, WRONG).await == REFUSED }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_side_by_side_count_too() {
    let (check, _, _store) = check(limits(5, 0)).await;
    let answers = join_all((0..30).map(|_| check.status(NEVER_ISSUED, WRONG))).await;
    let refused = answers.iter().filter(|status| **status == REFUSED).count();
    let limited = answers.iter().filter(|status| **status == LIMITED).count();
    assert_eq!((refused, limited), (5, 25));
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_memory_knows_is_not_shut_out() {
    let (check, [key, other], _store) = check(limits(3, 2)).await;
    assert_eq!(check.status(&key, SECRET).await, OK);
    assert_eq!(statuses(&check, 4, &key, WRONG).await, [REFUSED, REFUSED, LIMITED, LIMITED], "by key");
    assert_eq!(statuses(&check, 3, NEVER_ISSUED, WRONG).await, [REFUSED, LIMITED, LIMITED], "by caller");
    // The same key and the same address, in all forms.
    for _ in 0..20 {
        assert_eq!(check.status(&key, SECRET).await, OK);
        assert_eq!(check.ask(&[("authorization", oauth(&key, SECRET).as_bytes())]).await.status, OK);
        assert_eq!(check.post(form(&key, SECRET)).await.status, OK);
    }
    assert_eq!(check.status(&other, SECRET).await, LIMITED, "whose secret is not known yet waits like a guesser");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_refused_credentials_count() {
    let (check, [key, other], _store) = check(limits(1, 1)).await;
    for key in [&key, &other] {
        assert_eq!(statuses(&check, 20, key, SECRET).await, [OK; 20]);
    }
    for _ in 0..20 {
        assert_eq!(check.ask(&[]).await.status, REFUSED);
        assert_eq!(check.ask(&[("authorization", b"Basic !!!!")]).await.status, REFUSED);
        assert_eq!(check.status("no-key!", SECRET).await, REFUSED);
        assert_eq!(check.post("client_id=only").await.status, REFUSED);
        assert_eq!(check.post(vec![b'x'; 9_000]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(statuses(&check, 2, &key, WRONG).await, [REFUSED, LIMITED], "the one that there was is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_one_key_leave_the_others_alone() {
    let (check, [key, other], _store) = check(limits(0, 2)).await;
    assert_eq!(statuses(&check, 3, &key, WRONG).await, [REFUSED, REFUSED, LIMITED]);
    assert_eq!(statuses(&check, 3, &other, WRONG).await, [REFUSED, REFUSED, LIMITED]);
    let hashes = check.metrics.signin_hashes.get();
    assert_eq!(check.status(&key, WRONG).await, LIMITED);
    assert_eq!(check.metrics.signin_hashes.get(), hashes, "what is limited costs nothing");
    // There is nothing to guess at: no room is kept for keys that somebody made up.
    assert_eq!(statuses(&check, 20, NEVER_ISSUED, WRONG).await, [REFUSED; 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_for_whom_it_asks_unless_trusted() {
    let (check, _, _store) = check(limits(2, 0)).await;
    assert_eq!(guess_for(&check, "203.0.113.1").await, REFUSED);
    assert_eq!(guess_for(&check, "203.0.113.2").await, REFUSED);
    assert_eq!(guess_for(&check, "203.0.113.3").await, LIMITED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_for_whom_it_asks() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let (check, [key, _], _store) = check(Settings { trusted_proxies, ..limits(2, 1) }).await;
    for _ in 0..2 {
        assert_eq!(guess_for(&check, "203.0.113.1").await, REFUSED);
    }
    assert_eq!(guess_for(&check, "203.0.113.1").await, LIMITED);
    // The proxy appends the address it sees; what is before it, the client wrote.
    for forged in ["203.0.113.9, 203.0.113.1", "127.0.0.1, 203.0.113.1", "garbage, 203.0.113.1", ",,203.0.113.1:4711"] {
        assert_eq!(guess_for(&check, forged).await, LIMITED, "{forged}");
    }
    let twice = [("x-forwarded-for", &b"203.0.113.9"[..]), ("x-forwarded-for", b"203.0.113.1")];
    let guess = basic(NEVER_ISSUED, WRONG);
    assert_eq!(check.ask(&[&twice[..], &[("authorization", guess.as_bytes())]].concat()).await.status, LIMITED, "in two headers");
    // Others have their own guesses, and their own at each key.
    assert_eq!(guess_for(&check, "203.0.113.2").await, REFUSED);
    assert_eq!(guess_for(&check, "203.0.113.1, 203.0.113.3").await, REFUSED);
    assert_eq!(statuses(&check, 2, &key, WRONG).await, [REFUSED, LIMITED], "the proxy for itself");
    let guess = basic(&key, WRONG);
    let guess = [("authorization", guess.as_bytes()), ("x-forwarded-for", b"203.0.113.4")];
    assert_eq!(check.ask(&guess).await.status, REFUSED);
    assert_eq!(check.ask(&guess).await.status, LIMITED);
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_is_no_limit() {
    let (check, [key, _], _store) = check(limits(0, 0)).await;
    assert_eq!(statuses(&check, 100, NEVER_ISSUED, WRONG).await, [REFUSED; 100]);
    assert_eq!(statuses(&check, 100, &key, WRONG).await, [REFUSED; 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_memory_knows_is_not_shut_out_while_memory_is_behind() {
    let store = TestStore::sqlite().await;
    store.verify("cluster", "default").await;
    let record = approved("one", SECRET);
    let key = record.consumer_key.to_string();
    put(&*store.store, record).await;
    let (metrics, hashing) = (Arc::new(Metrics::default()), HashPool::new(1, CHEAP).unwrap());
    let verifier = Verifier::new(Arc::new(store.store.clone().into()), limits(1, 1), hashing, metrics).await.unwrap();
    let verdict = async |key: &str, secret: &str| {
        let authorization = HeaderValue::try_from(basic(key, secret)).unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, authorization)]);
        let caller = verifier.caller([203, 0, 113, 1].into(), &headers);
        verifier.check(Credentials::from_headers(&headers).unwrap(), caller).await
    };

    let (directory, shutdown) = (verifier.directory(), CancellationToken::new());
    let knowing = async {
        eventually("memory is current", || async { directory.is_current() }).await;
        assert!(matches!(verdict(&key, SECRET).await, CheckResult::Allowed(_)));
        shutdown.cancel();
    };
    tokio::join!(shutdown.run_until_cancelled(verifier.follow()), knowing);
    eventually("memory is behind", || async { !directory.is_current() }).await;

    assert!(matches!(verdict(NEVER_ISSUED, WRONG).await, CheckResult::Refused));
    assert!(matches!(verdict(&key, WRONG).await, CheckResult::Limited(_)));
    assert!(
        matches!(verdict(&key, SECRET).await, CheckResult::Allowed(_)),
        "the store is asked, and says that it still signs in"
    );
}
