//! Whether a refusal tells why, by its bytes or by its time. Run it with `make bench ARGS="--bench uniform"`.
//!
//! Each kind of refusal is compared with that of a wrong secret, in pairs, one right after the other, in an order that changes.
//! The hashes are cheaper than the standard, so that whatever else differs is a larger part of the time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that fails may fail loudly")]

mod support;

use std::sync::Arc;
use std::time::Instant;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, DATE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use oauthconsumer_operator::consumer::{HashCost, Record, SecretOutcome, SecretProblem, State};
use oauthconsumer_operator::hashing::HashPool;
use oauthconsumer_operator::signin::{self, Rate, Settings, Verifier};
use oauthconsumer_operator::store::{self, Access, Replaces};
use oauthconsumer_operator::telemetry::Metrics;
use support::{SECRET, basic, hash, percentile, record, table};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const PAIRS: usize = 2_000;
const COST: HashCost = HashCost { memory: 4 * 1024, passes: 2, lanes: 1 };
const WRONG: &str = "a wrong secret of a benchmark, as long";

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("store.db").display());
    let store = store::open(&url, Access::Controller).await.unwrap();
    let (phc, now) = (hash(COST), jiff::Timestamp::now());
    let approved = record("approved", &phc);
    let refused = Record { secret: SecretOutcome::Refused(SecretProblem::NotFound), ..record("without a Secret", &phc) };
    let mut classes = vec![("no usable Secret", refused)];
    for (name, state) in [
        ("awaiting approval", State::AwaitingApproval),
        ("disapproved", State::Disapproved),
        ("on hold", State::OnHold),
        ("revoked", State::Revoked),
        ("out of scope", State::OutOfScope),
    ] {
        classes.push((name, Record { state, ..record(name, &phc) }));
    }
    classes.push(("deleted", record("deleted", &phc).removed()));
    for record in classes.iter().map(|(_, record)| record).chain([&approved]) {
        store.write(record.clone(), Replaces::NothingAt(store.head().await.unwrap()), now).await.unwrap();
    }
    let epoch = store.head().await.unwrap().epoch;
    store.verify("cluster", "default", &epoch).await.unwrap();

    let settings = Settings {
        misses_by_caller: Rate { burst: 0, refill: 0 },
        misses_by_key: Rate { burst: 0, refill: 0 },
        ..Settings::default()
    };
    let metrics = Arc::new(Metrics::default());
    let verifier =
        Verifier::new(Arc::new(store.into()), settings, HashPool::new(1, COST).unwrap(), metrics.clone()).await.unwrap();
    let (verifier, stop) = (Arc::new(verifier), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(signin::port(verifier.clone(), metrics, None).serve(listener, stop.clone()));
    tokio::spawn({
        let stop = stop.clone();
        async move { stop.run_until_cancelled(verifier.follow()).await }
    });
    let (mut client, connection) = handshake(TokioIo::new(TcpStream::connect(address).await.unwrap())).await.unwrap();
    tokio::spawn(connection);

    let wrong = basic(approved.consumer_key.as_str(), WRONG);
    let (expected, _) = ask(&mut client, &wrong).await;
    let mut rows = Vec::new();
    for (name, record) in &classes {
        let other = basic(record.consumer_key.as_str(), SECRET);
        let (mut wrongs, mut others) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            let order: [(&String, &mut Vec<f64>); 2] = if pair % 2 == 0 {
                [(&wrong, &mut wrongs), (&other, &mut others)]
            } else {
                [(&other, &mut others), (&wrong, &mut wrongs)]
            };
            for (credentials, times) in order {
                let (answer, time) = ask(&mut client, credentials).await;
                assert_eq!(answer, expected, "{name}: every byte is the same");
                times.push(time);
            }
        }
        let (ours, theirs) = (percentile(&mut others, 0.5), percentile(&mut wrongs, 0.5));
        rows.push(vec![
            (*name).to_owned(),
            PAIRS.to_string(),
            format!("{ours:.3}"),
            format!("{theirs:.3}"),
            format!("{:+.2} %", (ours / theirs - 1.0) * 100.0),
        ]);
    }
    let never = basic("00000000-0000-5000-8000-000000000000", SECRET);
    let (answer, _) = ask(&mut client, &never).await;
    assert_eq!(answer, expected, "never issued: every byte is the same");
    let columns = ["refused because", "pairs", "median ms", "wrong secret: median ms", "difference"];
    table("Refusals, byte by byte the same, beside that of a wrong secret", &columns, &rows);
    stop.cancel();
}

/// Everything that was answered but the date, and the time in milliseconds.
async fn ask(client: &mut SendRequest<Empty<Bytes>>, authorization: &str) -> (String, f64) {
    let request = Request::get("/signin").header(HOST, "signin").header(AUTHORIZATION, authorization).body(Empty::new()).unwrap();
    client.ready().await.unwrap();
    let began = Instant::now();
    let response: Response<_> = client.send_request(request).await.unwrap();
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let time = began.elapsed().as_secs_f64() * 1e3;
    parts.headers.remove(DATE);
    (format!("{:?} {:?} {:?} {body:?}", parts.version, parts.status, parts.headers), time)
}
