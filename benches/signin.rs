//! How fast `/signin` answers those it knows, against a handler that does nothing; what is left of that under attack; and what
//! memory it takes. Run it with `make bench ARGS="--bench signin"`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that fails may fail loudly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts and times are small"
)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderName, HeaderValue};
use axum::routing::any;
use oauthconsumer_operator::consumer::{HashCost, Phc};
use oauthconsumer_operator::store::{self, Access, Replaces};
use support::{Load, Program, SECRET, Wrk, basic, curl, hash, percentile, record, requests, table};
use tempfile::TempDir;
use tokio::net::TcpListener;

const CONNECTIONS: usize = 16;
/// Consumers that sign in; the others are there.
const ACTIVE: usize = 500;
const SECONDS: u64 = 5;
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // In memory, because filling it is not what is measured.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let phc = hash(HashCost::STANDARD);
    let bare = runtime.block_on(bare(&record("uid-0", &phc).consumer_key.to_string()));

    let (mut speed, mut memory) = (Vec::new(), Vec::new());
    for records in [10_000, 100_000] {
        let path = folder.path().join(format!("{records}.db"));
        runtime.block_on(fill(&path, records, &phc));
        let program = start(&path, folder.path());
        let (fresh, argon2) = (program.memory(), 19.0);
        let known = known(&folder, &program);
        memory.push(vec![
            format!("{records}"),
            format!("{fresh:.0}"),
            format!("{:.0}", fresh - argon2),
            format!("{:.0}", program.memory()),
        ]);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            theirs.push(Wrk::start(&bare, &known, CONNECTIONS, SECONDS, 0).finish());
            ours.push(Wrk::start(&program.signin, &known, CONNECTIONS, SECONDS, 0).finish());
        }
        for load in ours.iter().chain(&theirs) {
            assert_eq!((load.refused, load.failed), (0, 0), "everybody is known: {load:?}");
        }
        let (ours, theirs) = (median(&ours), median(&theirs));
        speed.push(line("a handler that does nothing", &theirs, &theirs));
        speed.push(line(&format!("/signin, {records} records"), &ours, &theirs));
        if records == 10_000 {
            floods(&folder, &program, &known, &phc);
        }
    }
    let columns = ["", "requests/s", "p50 ms", "p99 ms", "rate, times the handler's", "p99, times the handler's"];
    table(&format!("Speed, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS} s each in turn, medians"), &columns, &speed);
    table(
        "Resident memory of `signin`, MiB; each thread that has computed a hash keeps 19 MiB, one per core at most",
        &["records", "all loaded, one hash computed", "of that not argon2's", &format!("after {ACTIVE} hashes")],
        &memory,
    );
}

/// A server with a handler that answers 200 with the same headers.
async fn bare(key: &str) -> String {
    let headers = [
        (HeaderName::from_static("x-oauth-consumer-key"), HeaderValue::from_str(key).unwrap()),
        (HeaderName::from_static("x-oauth-consumer-name"), HeaderValue::from_static("The%20consumer%20uid%2D0")),
        (HeaderName::from_static("x-oauth-consumer-namespace"), HeaderValue::from_static("team-a")),
        (HeaderName::from_static("cache-control"), HeaderValue::from_static("no-store")),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = Router::new().route("/signin", any(move || async move { headers.clone() }));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

async fn fill(path: &Path, records: usize, phc: &Phc) {
    let began = Instant::now();
    let store = store::open(&format!("sqlite://{}", path.display()), Access::Controller).await.unwrap();
    let (now, head) = (jiff::Timestamp::now(), store.head().await.unwrap());
    for i in 0..records {
        store.write(record(&format!("uid-{i}"), phc), Replaces::NothingAt(head.clone()), now).await.unwrap();
    }
    let epoch = store.head().await.unwrap().epoch;
    store.verify("cluster", "default", &epoch).await.unwrap();
    store.close().await;
    eprintln!("{records} records written in {:?}", began.elapsed());
}

fn start(path: &Path, folder: &Path) -> Program {
    let url = format!("sqlite://{}", path.display());
    let args = ["signin", "--store-url", &url, "--trusted-proxies", "127.0.0.1"];
    let program = Program::start(&args, &folder.join("signin.log"));
    program.ready();
    program
}

/// Lets some consumers sign in for the first time; answers their requests.
fn known(folder: &TempDir, program: &Program) -> std::path::PathBuf {
    let path = folder.path().join("known.requests");
    let keys: Vec<_> = (0..ACTIVE).map(|i| key(&format!("uid-{i}"))).collect();
    for key in &keys {
        let url = format!("http://{}/signin", program.signin);
        curl(&["-sf", "-u", &format!("{key}:{SECRET}"), &url]).expect("a good secret signs in");
    }
    requests(&path, keys.iter().map(|key| format!("Authorization={}", basic(key, SECRET))));
    path
}

fn key(uid: &str) -> String {
    oauthconsumer_operator::consumer::ConsumerKey::derive("cluster", uid).to_string()
}

/// What those who are known get while others guess, and how long a first sign-in takes.
fn floods(folder: &TempDir, program: &Program, known: &Path, phc: &Phc) {
    let random = |i: usize| uuid::Uuid::from_u64_pair(i as u64, 0x5000_8000_0000_0000).to_string();
    let from = |i: usize| format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
    let unknown = folder.path().join("unknown.requests");
    requests(&unknown, (0..50_000).map(|i| format!("Authorization={}\tX-Forwarded-For=192.0.2.1", basic(&random(i), SECRET))));
    let many = folder.path().join("many.requests");
    requests(&many, (0..50_000).map(|i| format!("Authorization={}\tX-Forwarded-For={}", basic(&random(i), SECRET), from(i))));
    let victim = key("uid-0");
    let wrong = folder.path().join("wrong.requests");
    let guess = |i: usize| basic(&victim, &format!("guess number {i}, long enough"));
    requests(&wrong, (0..50_000).map(|i| format!("Authorization={}\tX-Forwarded-For=192.0.2.1", guess(i))));
    let spread = folder.path().join("spread.requests");
    requests(&spread, (0..50_000).map(|i| format!("Authorization={}\tX-Forwarded-For={}", guess(i), from(i))));

    // Ten times what the cores can hash in a second. And all that the attacker can send, which takes it half of the cores, as it
    // runs beside what it attacks.
    let hashes = capacity(phc);
    let tenfold = (10.0 * hashes) as usize;
    let attacks = [
        ("no attack", None),
        (&*format!("unknown keys, 50,000 callers, {tenfold}/s"), Some((&many, tenfold / 10, 100))),
        ("unknown keys, one caller, all it can send", Some((&unknown, 64, 0))),
        ("unknown keys, 50,000 callers, all they can send", Some((&many, 64, 0))),
        (&*format!("wrong secrets for one key, one caller, {tenfold}/s"), Some((&wrong, tenfold / 10, 100))),
        (&*format!("wrong secrets for one key, 50,000 callers, {tenfold}/s"), Some((&spread, tenfold / 10, 100))),
    ];
    let (mut rows, mut quiet, mut next) = (Vec::new(), None, ACTIVE);
    for (name, attack) in attacks {
        let seconds = 8;
        let attacker =
            attack.map(|(file, connections, pause)| Wrk::start(&program.signin, file, connections, seconds + 2, pause));
        std::thread::sleep(Duration::from_secs(1));
        let legitimate = Wrk::start(&program.signin, known, CONNECTIONS, seconds, 0);
        let (mut firsts, until) = (Vec::new(), Instant::now() + Duration::from_secs(seconds - 1));
        let mut others: HashMap<String, u32> = HashMap::new();
        while Instant::now() < until {
            let (credentials, began) = (format!("{}:{SECRET}", key(&format!("uid-{next}"))), Instant::now());
            next += 1;
            let url = format!("http://{}/signin", program.signin);
            let status = curl(&[
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                "X-Forwarded-For: 203.0.113.9",
                "-u",
                &credentials,
                &url,
            ]);
            match status.as_deref() {
                Some("200") => firsts.push(began.elapsed().as_secs_f64() * 1e3),
                other => *others.entry(other.unwrap_or("none").to_owned()).or_default() += 1,
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let (known, attack) = (legitimate.finish(), attacker.map(Wrk::finish));
        assert_eq!((known.refused, known.failed), (0, 0), "whoever is known is never refused: {known:?}");
        let quiet = *quiet.get_or_insert(known);
        rows.push(vec![
            name.to_owned(),
            attack.map_or("-".into(), |load| format!("{:.0}", load.rate)),
            format!("{:.0}", known.rate),
            format!("{:.2}", known.rate / quiet.rate),
            format!("{:.1}", known.p99),
            format!("{:.0}", percentile(&mut firsts, 0.5)),
            format!("{:.0}", percentile(&mut firsts, 1.0)),
            format!("{} of {}", firsts.len(), firsts.len() + others.values().sum::<u32>() as usize),
        ]);
    }
    let columns = [
        "attack",
        "attacker's requests/s",
        "known: requests/s",
        "times quiet",
        "known: p99 ms",
        "first sign-in: p50 ms",
        "max ms",
        "succeeded",
    ];
    table(
        &format!(
            "Under attack: {CONNECTIONS} connections of consumers that are known, first sign-ins ten a second; the cores hash {hashes:.0}/s"
        ),
        &columns,
        &rows,
    );
}

/// Hashes a second on all cores.
fn capacity(phc: &Phc) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut memory = oauthconsumer_operator::consumer::HashMemory::default();
                (0..20).for_each(|_| assert!(phc.verify(SECRET.as_bytes(), &mut memory)));
            });
        }
    });
    20.0 * threads as f64 / began.elapsed().as_secs_f64()
}

fn median(loads: &[Load]) -> Load {
    let of = |value: fn(&Load) -> f64| percentile(&mut loads.iter().map(value).collect::<Vec<_>>(), 0.5);
    Load { rate: of(|load| load.rate), p50: of(|load| load.p50), p99: of(|load| load.p99), refused: 0, failed: 0 }
}

fn line(name: &str, load: &Load, than: &Load) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:.0}", load.rate),
        format!("{:.2}", load.p50),
        format!("{:.2}", load.p99),
        format!("{:.2}", load.rate / than.rate),
        format!("{:.2}", load.p99 / than.p99),
    ]
}
