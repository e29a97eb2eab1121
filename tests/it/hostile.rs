//! Clients that send what no client should. Nobody gets in by it, nothing breaks, and the others are served.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use futures::future::join_all;
use oauthconsumer_operator::consumer::HashCost;
use oauthconsumer_operator::hashing::HashPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::support::wire::{FORM, authorized, essence, exchange, form, oauth, request, with_body};
use crate::support::{CHEAP, Check, Program, TestStore, approved, basic, corpus, eventually, put, unlimited, with_cost};

const SECRET: &str = "a secret, long enough: ü & + %";
const NEVER_ISSUED: &str = "00000000-0000-5000-8000-000000000000";

const GET: &str = "GET /signin HTTP/1.1";
const POST: &str = "POST /signin HTTP/1.1";
const PUT: &str = "PUT /signin HTTP/1.1";

/// A check with one consumer that may sign in, and what that consumer has to send.
struct World {
    check: Check,
    key: String,
    /// What everybody gets who may not sign in.
    refusal: String,
    _store: TestStore,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let store = TestStore::sqlite().await;
        store.verify("cluster", "default").await;
        let record = approved("hostile", SECRET);
        let key = record.consumer_key.to_string();
        put(&*store.store, record).await;
        let check = Check::of(store.store.clone()).await;
        check.is_current().await;
        let refused = exchange(check.address, &authorized(GET, basic(NEVER_ISSUED, SECRET).as_bytes())).await;
        let refusal = essence(&refused);
        assert!(
            refusal.starts_with("HTTP/1.1 401 ") && refusal.ends_with("\r\n\r\n{\"error\":\"invalid_client\"}\n"),
            "{refusal}"
        );
        Self { check, key, refusal, _store: store }
    }

    async fn exchange(&self, sent: &[u8]) -> String {
        exchange(self.check.address, sent).await
    }

    async fn is_refused(&self, what: &str, sent: &[u8]) {
        assert_eq!(essence(&self.exchange(sent).await), self.refusal, "{what}");
    }

    async fn is_answered(&self, what: &str, sent: &[u8], status: u16) {
        let answer = self.exchange(sent).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer:?}");
    }

    /// Not understood at all: the connection is closed, and nothing said but that this was a mistake.
    async fn is_cut_off(&self, what: &str, sent: &[u8]) {
        let answer = self.exchange(sent).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer:?}");
    }

    fn basic(&self) -> String {
        basic(&self.key, SECRET)
    }

    /// The right credentials work in all forms, by every method, at every path.
    async fn everybody_else_is_served(&self) {
        for authorization in [self.basic(), oauth(&self.key, SECRET)] {
            for method in ["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "FOO"] {
                for path in ["/signin", "/signin/", "/signin/deep/path?x=1", "/signin?x=1"] {
                    let method = Method::from_bytes(method.as_bytes()).unwrap();
                    let request = Request::builder().method(&method).uri(format!("http://{}{path}", self.check.address));
                    let request = request.header("authorization", &authorization).body(Body::empty()).unwrap();
                    let answer = self.check.send(request).await;
                    assert_eq!(answer.status, StatusCode::OK, "{method} {path} {authorization}");
                    assert_eq!(answer.headers["x-oauth-consumer-key"], self.key);
                }
            }
        }
        assert_eq!(self.check.post(form(&self.key, SECRET)).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_credentials_are_refused_like_wrong_ones() {
    let world = World::new().await;
    let good = world.basic();
    let header = |value: &str| format!("authorization: {value}").into_bytes();
    let two = |one: &str, other: &str| request(GET, &[&header(one), &header(other)]);
    let plaintext = oauth(&world.key, SECRET);
    for (what, sent) in [
        ("none", request(GET, &[])),
        ("an empty header", authorized(GET, b"")),
        ("two good headers", two(&good, &good)),
        ("a good header and a bad one", two(&good, "Basic !!!!")),
        ("a bad header and a good one", two("Bearer x", &good)),
        ("two kinds", two(&good, &plaintext)),
        ("names in other cases", request(GET, &[&header(&good), format!("AUTHORIZATION: {good}").as_bytes()])),
        ("two in one", authorized(GET, format!("{good}, {good}").as_bytes())),
        ("15 KiB of base64", authorized(GET, format!("Basic {}", "QUFB".repeat(15 << 8)).as_bytes())),
        ("15 KiB of nothing", authorized(GET, &vec![b'x'; 15 << 10])),
        ("15 KiB of secret", authorized(GET, basic(&world.key, &"x".repeat(11 << 10)).as_bytes())),
        ("15 KiB of realm", authorized(GET, format!("OAuth realm=\"{}", "\\\"".repeat(15 << 9)).as_bytes())),
        ("15 KiB of commas", authorized(GET, format!("OAuth {}", ",".repeat(15 << 10)).as_bytes())),
        ("15 KiB of parameters", authorized(GET, format!("OAuth {}", "a=\"\",".repeat(3 << 10)).as_bytes())),
        ("no UTF-8", authorized(GET, b"Basic \xff\xfe\xfd")),
        ("no UTF-8 in the scheme", authorized(GET, b"B\xc3sic QUFB")),
        ("an encoded NUL", authorized(GET, basic(&world.key, "a\0b").as_bytes())),
        ("a secret and a NUL", authorized(GET, basic(&world.key, &format!("{SECRET}\0")).as_bytes())),
        ("a key and a NUL", authorized(GET, basic(&format!("{}\0", world.key), SECRET).as_bytes())),
        ("a wrong secret by OAuth", authorized(GET, oauth(&world.key, "wrong").as_bytes())),
        ("HMAC", authorized(GET, plaintext.replace("PLAINTEXT", "HMAC-SHA1").as_bytes())),
        ("HTTP/1.0", authorized("GET /signin HTTP/1.0", b"Basic !!!!")),
        ("a method that is none", authorized("FOO /signin HTTP/1.1", b"Basic !!!!")),
        ("a target in absolute form", authorized("GET http://elsewhere/signin HTTP/1.1", b"Basic !!!!")),
        ("a path that leads up", authorized("GET /signin/../x HTTP/1.1", b"Basic !!!!")),
        ("a path that is no UTF-8", authorized("GET /signin/%ff%00 HTTP/1.1", b"Basic !!!!")),
        ("an empty path below", authorized("GET /signin//// HTTP/1.1", b"Basic !!!!")),
        ("a tunnel", authorized("CONNECT /signin HTTP/1.1", b"Basic !!!!")),
        ("an upgrade", request(GET, &[b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__"])),
    ] {
        world.is_refused(what, &sent).await;
    }
    world.everybody_else_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_corpus_is_refused() {
    let world = World::new().await;
    for corpus::Sample { line, input, .. } in corpus::authorizations() {
        let sent = authorized(GET, &input);
        let is_text = input.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
        if is_text { world.is_refused(line, &sent).await } else { world.is_answered(line, &sent, 400).await }
    }
    for corpus::Sample { line, input, .. } in corpus::forms() {
        world.is_refused(line, &with_body(POST, &[FORM], &input)).await;
    }
    world.everybody_else_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_counts_only_where_it_belongs() {
    let world = World::new().await;
    let good = form(&world.key, SECRET);
    let sent = |line: &str, headers: &[&[u8]]| with_body(line, headers, good.as_bytes());
    let other_case = b"Content-Type: APPLICATION/x-www-form-urlencoded ; charset=utf-8";
    world.is_answered("the right one", &sent(POST, &[FORM]), 200).await;
    world.is_answered("with a charset", &sent(POST, &[other_case]), 200).await;
    for (what, sent) in [
        ("by PUT", sent(PUT, &[FORM])),
        ("by GET", sent(GET, &[FORM])),
        ("with a slash", sent("POST /signin/ HTTP/1.1", &[FORM])),
        ("below", sent("POST /signin/deep HTTP/1.1", &[FORM])),
        ("with a header, too", sent(POST, &[FORM, b"authorization: Bearer x"])),
        ("with an empty header, too", sent(POST, &[FORM, b"authorization:"])),
        ("of another type", sent(POST, &[b"content-type: text/plain"])),
        ("of no type", sent(POST, &[])),
        ("in the query", request(&format!("POST /signin?{good} HTTP/1.1"), &[FORM])),
    ] {
        world.is_refused(what, &sent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_a_mistake_of_the_client() {
    let world = World::new().await;
    let good = format!("authorization: {}", world.basic());
    let to = |line: &str| request(line, &[good.as_bytes()]);
    let chunked = |body: &[u8]| [&request(POST, &[FORM, b"transfer-encoding: chunked"]), body].concat();
    let chunk = [&b"1000\r\n"[..], &[b'x'; 0x1000], b"\r\n"].concat();
    let many: Vec<_> = (0..200).map(|n| format!("x-{n}: y")).collect();
    for (what, sent, status) in [
        ("a head of 17 KiB", authorized(GET, &vec![b'A'; 17 << 10]), 431),
        ("200 headers", request(GET, &many.iter().map(String::as_bytes).collect::<Vec<_>>()), 431),
        ("a target of 17 KiB", authorized(&format!("GET /signin/{} HTTP/1.1", "x".repeat(17 << 10)), b""), 431),
        ("a NUL in a header", authorized(GET, b"Basic QUFB\0"), 400),
        ("a NUL in the path", authorized("GET /signin\0 HTTP/1.1", b""), 400),
        ("a bare CR in a header", authorized(GET, b"Basic\rQUFB"), 400),
        ("a header that goes on in the next line", request(GET, &[b"authorization: Basic", b" QUFB"]), 400),
        ("a space before the colon", request(GET, &[b"authorization : Basic QUFB"]), 400),
        ("a line without a colon", request(GET, &[b"authorization"]), 400),
        ("no version", authorized("GET /signin", b""), 400),
        ("an unknown version", authorized("GET /signin HTTP/9.9", b""), 400),
        ("a method with a slash", authorized("G/T /signin HTTP/1.1", b""), 400),
        ("a negative length", request(POST, &[FORM, b"content-length: -1"]), 400),
        ("an endless length", request(GET, &[b"content-length: 99999999999999999999999"]), 400),
        ("two lengths", request(GET, &[b"content-length: 1", b"content-length: 2"]), 400),
        ("an unknown coding", request(GET, &[b"transfer-encoding: gzip"]), 400),
        ("a chunk of nonsense", chunked(b"zz\r\nclient_id=x\r\n0\r\n\r\n"), 400),
        ("a chunk of endless size", chunked(b"ffffffffffffffffff\r\nclient_id=x\r\n0\r\n\r\n"), 400),
        ("a form of 10 MB", with_body(POST, &[FORM], &vec![b'x'; 10 << 20]), 413),
        ("a form of 10 MB in chunks", chunked(&chunk.repeat(2_500)), 413),
        ("two slashes", to("GET //signin HTTP/1.1"), 404),
        ("an encoded slash", to("GET /signin%2f HTTP/1.1"), 404),
        ("capitals", to("GET /SIGNIN HTTP/1.1"), 404),
        ("a longer word", to("GET /signing HTTP/1.1"), 404),
        ("a way around", to("GET /x/../signin HTTP/1.1"), 404),
        ("the root", to("GET / HTTP/1.1"), 404),
        ("the whole server", to("OPTIONS * HTTP/1.1"), 404),
        ("a tunnel", to("CONNECT elsewhere:443 HTTP/1.1"), 404),
    ] {
        world.is_answered(what, &sent, status).await;
    }
    let (zeros, letters) = (vec![0; 1 << 20], vec![b'A'; 1 << 20]);
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 512]].concat();
    for (what, sent) in [
        ("HTTP/2", &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"[..]),
        ("TLS", &hello),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n"),
        ("the PROXY protocol", b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 8080\r\nGET /signin HTTP/1.1\r\n\r\n"),
        ("a version that is no more", b"GET /signin\r\n"),
        ("zeros", &zeros),
        ("letters without end", &letters),
    ] {
        world.is_cut_off(what, sent).await;
    }
    world.everybody_else_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_asked_for_is_not_read() {
    let world = World::new().await;
    let (body, good) = (vec![b'x'; 10 << 20], format!("authorization: {}", world.basic()));
    let other = b"content-type: application/octet-stream";
    world.is_refused("10 MB of another type", &with_body(POST, &[other], &body)).await;
    world.is_refused("10 MB by PUT", &with_body(PUT, &[FORM], &body)).await;
    world.is_refused("10 MB below", &with_body("PUT /signin/deep/path HTTP/1.1", &[], &body)).await;
    world.is_answered("10 MB with the right credentials", &with_body(PUT, &[good.as_bytes()], &body), 200).await;
    // Nothing of the body is sent: the answer is there all the same, and nobody asks for it.
    for more in [&b"expect: 100-continue"[..], b"x: y"] {
        let headers = [FORM, b"content-length: 10485760", more];
        world.is_refused("the head of a request with 10 MB", &request(PUT, &headers)).await;
        world.is_answered("the head of a form of 10 MB", &request(POST, &headers), 413).await;
    }
    world.everybody_else_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_a_body_left_is_not_to_be_used_again() {
    let world = World::new().await;
    assert_eq!(world.check.ask(&[]).await.headers.get(header::CONNECTION), None, "but any other is");
    for method in [Method::PUT, Method::POST] {
        let request = Request::builder().method(method).uri(format!("http://{}/signin", world.check.address));
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = world.check.send(request.body(Body::from(vec![b'x'; 9_000])).unwrap()).await;
        assert_eq!(answer.headers[header::CONNECTION], "close");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stall_keep_nobody_waiting() {
    let world = World::new().await;
    let mut stalled = Vec::new();
    for sent in [
        &b""[..],
        b"GET /sig",
        b"GET /signin HTTP/1.1\r\nauthorization: Basic",
        b"POST /signin HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 100\r\n\r\nclient_id=",
        b"POST /signin HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\ntransfer-encoding: chunked\r\n\r\n9\r\ncli",
        b"\x16\x03\x01",
    ] {
        for _ in 0..50 {
            let mut client = TcpStream::connect(world.check.address).await.unwrap();
            client.write_all(sent).await.unwrap();
            stalled.push(client);
        }
    }
    world.everybody_else_is_served().await;
    drop(stalled);
    world.everybody_else_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_give_their_turns_back() {
    let (store, cost) = (TestStore::sqlite().await, HashCost { memory: 32 * 1024, passes: 4, lanes: 1 });
    store.verify("cluster", "default").await;
    let record = with_cost("hostile", SECRET, cost);
    let key = record.consumer_key.to_string();
    put(&*store.store, record).await;
    let check = Check::serve(store.store.clone(), unlimited(), HashPool::new(1, CHEAP), None).await;
    check.is_current().await;

    // More than may wait for one key.
    let wrong = authorized(GET, basic(&key, "a wrong secret, long enough").as_bytes());
    let clients = (0..40).map(|_| async {
        let mut client = TcpStream::connect(check.address).await.unwrap();
        client.write_all(&wrong).await.unwrap();
        client
    });
    let clients = join_all(clients).await;
    eventually("all of them have asked", || async { check.metrics.signin_looks.get() >= 40 }).await;
    drop(clients);
    eventually("the right secret has a turn", || async { check.status(&key, SECRET).await == StatusCode::OK }).await;
}

/// In a process of its own: here others need memory at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_what_is_sent() {
    let store = TestStore::sqlite().await;
    store.verify("cluster", "default").await;
    // At the cost of the program: a cheaper hash would be renewed meanwhile.
    let record = with_cost("hostile", SECRET, HashCost::STANDARD);
    let good = authorized(GET, basic(record.consumer_key.as_str(), SECRET).as_bytes());
    put(&*store.store, record).await;
    let program = Program::signin(&store.url);
    let address = program.signin;
    let signs_in =
        || async { TcpStream::connect(address).await.is_ok() && exchange(address, &good).await.starts_with("HTTP/1.1 200 ") };
    eventually("the program admits", signs_in).await;
    let before = program.peak();

    let body = vec![b'x'; 10 << 20];
    let (put, post) = (with_body(PUT, &[], &body), with_body(POST, &[FORM], &body));
    join_all((0..10).flat_map(|_| [exchange(address, &put), exchange(address, &post)])).await;
    // Slowly, so that each byte is received for itself: whoever kept them as they come would keep a buffer for each.
    let head = request(POST, &[FORM, b"content-length: 300"]);
    let slow = (0..40).map(|_| async {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(&head).await.unwrap();
        for _ in 0..300 {
            client.write_all(b"x").await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 401 "));
    });
    join_all(slow).await;
    let grown = program.peak() - before;
    assert!(grown < 20 << 10, "{grown} KiB more than before");
    assert!(signs_in().await);
}
