//! Clients that hold all connections they can get, while others sign in.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::http::StatusCode;
use futures::future::join_all;
use oauthconsumer_operator::consumer::HashCost;
use oauthconsumer_operator::signin::Settings;
use oauthconsumer_operator::telemetry::PortName;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::wire::{authorized, request};
use crate::support::{Check, Program, Proxy, TestStore, approved, basic, eventually, put, unlimited, with_cost};

const SECRET: &str = "a secret, long enough for all";

const HOARDERS: [Ipv4Addr; 2] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 3)];
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What each connection may cost, in KiB: the chart's memory check counts with it.
const COST: u64 = 32;

/// So many connections need more files than a process usually may open.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// What is answered to the last request of a connection.
async fn exchange(from: Ipv4Addr, to: SocketAddr, sent: &[u8]) -> String {
    let (mut client, mut answer) = (connect(from, to).await, Vec::new());
    // Both may fail: the server closes a connection without a place at once.
    let _ = client.write_all(sent).await;
    let _ = timeout(Duration::from_mins(1), client.read_to_end(&mut answer)).await.expect("the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_open(client: &TcpStream) -> bool {
    let read = client.try_read(&mut [0; 1 << 10]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Every second connection is idle, the others stop in the middle of a head that is as large as it may be.
async fn hoard(from: Ipv4Addr, to: SocketAddr, head: usize, times: usize) -> Vec<TcpStream> {
    let half = [b"GET /signin HTTP/1.1\r\ncookie: ", &vec![b'x'; head - 64][..]].concat();
    let mut clients = Vec::new();
    for n in 0..times {
        let mut client = connect(from, to).await;
        if n % 2 == 0 {
            let _ = client.write_all(&half).await;
        } else {
            let _ = client.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let _ = client.read(&mut [0; 1 << 10]).await;
        }
        clients.push(client);
    }
    clients
}

/// All connections of both ports are held by two addresses. It takes less than the 10 s after which half a head is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_all_connections_keeps_no_one_out() {
    allow_many_files();
    let store = TestStore::sqlite().await;
    store.verify("cluster", "default").await;
    let record = with_cost("jazz", SECRET, HashCost::STANDARD);
    let good = authorized("GET /signin HTTP/1.1", basic(record.consumer_key.as_str(), SECRET).as_bytes());
    put(&*store.store, record).await;
    let program = Program::signin(&store.url);
    let ready = request("GET /readyz HTTP/1.1", &[]);
    let is_answered = async || {
        let answers = [exchange(OTHER, program.signin, &good).await, exchange(OTHER, program.admin, &ready).await];
        answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 "))
    };
    eventually("it listens", || async {
        TcpStream::connect(program.signin).await.is_ok() && TcpStream::connect(program.admin).await.is_ok()
    })
    .await;
    eventually("it signs in and is ready", is_answered).await;
    let before = program.resident();

    // One address gets half of them, and not one more.
    let [one, other] = HOARDERS;
    let signin = hoard(one, program.signin, 16 << 10, 600).await;
    let admin = hoard(one, program.admin, 8 << 10, 60).await;
    let open = |held: &[TcpStream]| held.iter().filter(|client| is_open(client)).count();
    eventually("what is above its share is closed", async || (open(&signin), open(&admin)) == (512, 32)).await;
    for _ in 0..20 {
        assert!(is_answered().await);
    }
    assert_eq!((open(&signin), open(&admin)), (512, 32), "there was room for others");

    // Two get all of them; others take their places.
    let more = [hoard(other, program.signin, 16 << 10, 512).await, hoard(other, program.admin, 8 << 10, 32).await];
    let all = || more.iter().map(|held| open(held)).sum::<usize>() + open(&signin) + open(&admin);
    assert!(all() >= 1_000, "they hold {} connections", all());
    let grown = program.resident().saturating_sub(before);
    for _ in 0..50 {
        assert!(is_answered().await);
    }
    println!("{before} KiB, and {grown} KiB more while {} connections are held", all());
    assert!(grown <= (1_024 + 64) * COST, "{grown} KiB more than before");
    let metrics = exchange(OTHER, program.admin, &request("GET /metrics HTTP/1.1", &[])).await;
    for port in ["signin", "admin"] {
        let name = format!("oauthconsumer_connections_refused_total{{port=\"{port}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
        assert!(count.is_some_and(|count| count.parse::<u64>().unwrap() > 0), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_has_no_share_and_clients_cannot_take_its_part() {
    allow_many_files();
    let (store, gateway) = (TestStore::sqlite().await, Ipv4Addr::new(127, 0, 0, 99));
    store.verify("cluster", "default").await;
    let record = approved("jazz", SECRET);
    let good = format!("authorization: {}", basic(record.consumer_key.as_str(), SECRET));
    put(&*store.store, record).await;
    let settings = Settings { trusted_proxies: vec![std::net::IpAddr::from(gateway).into()], ..unlimited() };
    let check = Check::with(store.store.clone(), settings).await;
    check.is_current().await;

    let clients: Vec<_> = (1..=8).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
    let held = join_all(clients.iter().map(|client| hoard(*client, check.address, 16 << 10, 140))).await;
    let held: Vec<_> = held.into_iter().flatten().collect();
    let open = || held.iter().filter(|client| is_open(client)).count();
    eventually("clients have three quarters", async || open() == 768).await;
    assert!(check.metrics.refused_at(PortName::Signin).get() >= 8 * 12, "each has an eighth");
    // The gateway keeps all of its connections, and each is answered again and again.
    let keeps = format!("GET /signin HTTP/1.1\r\nhost: a\r\n{good}\r\n\r\n");
    let mut kept = Vec::new();
    for _ in 0..256 {
        kept.push(connect(gateway, check.address).await);
    }
    for _ in 0..3 {
        for client in &mut kept {
            client.write_all(keeps.as_bytes()).await.unwrap();
            let (mut answer, mut length) = ([0; 1 << 10], 0);
            while !answer[..length].ends_with(b"\r\n\r\n") {
                let more = client.read(&mut answer[length..]).await.unwrap();
                assert_ne!(more, 0, "the gateway lost a connection");
                length += more;
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 "));
        }
    }
    assert_eq!(open(), 768, "the gateway's part was free");
    assert_eq!(check.status("0b9f3f4e-1111-5222-8333-444455556666", SECRET).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused_on_both_ports() {
    let store = TestStore::sqlite().await;
    let program = Program::signin(&store.url);
    eventually("it listens", || async { TcpStream::connect(program.signin).await.is_ok() }).await;
    let sent = |path: &str, cookie: usize| {
        let cookie = [b"cookie: ", &vec![b'x'; cookie][..]].concat();
        request(&format!("GET {path} HTTP/1.1"), &[&cookie])
    };
    for (address, path, fits) in [(program.signin, "/elsewhere", 15 << 10), (program.admin, "/elsewhere", 7 << 10)] {
        let small = exchange(OTHER, address, &sent(path, fits)).await;
        assert!(small.starts_with("HTTP/1.1 404 "), "{small}");
        let large = exchange(OTHER, address, &sent(path, fits + (2 << 10))).await;
        assert!(large.starts_with("HTTP/1.1 431 "), "{large}");
    }
}

/// Asking the database each time, this would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_does_not_wait_for_the_database() {
    let store = TestStore::postgres().await;
    store.verify("cluster", "default").await;
    let proxy = Proxy::before(&store.url).await;
    let program = Program::signin(&proxy.url);
    let readyz = request("GET /readyz HTTP/1.1", &[]);
    eventually("it listens", || async { TcpStream::connect(program.admin).await.is_ok() }).await;
    let says = async |line: &str| exchange(OTHER, program.admin, &readyz).await.lines().any(|said| said.starts_with(line));
    eventually("it is ready", || says("[+] store ok")).await;

    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    proxy.lead_to(Some(&silent.local_addr().unwrap().to_string()));
    let asked = async {
        for _ in 0..100 {
            assert!(says("[").await);
        }
    };
    timeout(Duration::from_mins(1), asked).await.expect("an answer waits for the database");
    eventually("the store is missing", || says("[-] store: ")).await;
    let (_, server) = store.url.rsplit_once('@').unwrap();
    proxy.lead_to(Some(server.split('/').next().unwrap()));
    eventually("the store is back", || says("[+] store ok")).await;
}
