//! The configurations in `examples/gateways/`, in the real gateways.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use oauthconsumer_operator::consumer::{Record, State};
use oauthconsumer_operator::signin::{Rate, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::{Answer, Check, FaultyStore, TestStore, approved, basic, eventually, put, send};

const SECRET: &str = "a secret, long enough for all";
const WRONG: &str = "a wrong secret, long enough";

/// A gateway: its files, how it is started, and what it is known by.
struct Kind {
    files: &'static [&'static str],
    command: &'static [&'static str],
}

const NGINX: Kind = Kind { files: &["nginx.conf"], command: &["nginx", "-e", "stderr", "-p", ".", "-c", "PREFIX/nginx.conf"] };
const TRAEFIK: Kind =
    Kind { files: &["traefik/traefik.yaml", "traefik/dynamic.yaml"], command: &["traefik", "--configFile=traefik.yaml"] };
const CADDY: Kind = Kind { files: &["Caddyfile"], command: &["caddy", "run", "--config", "Caddyfile"] };
const ENVOY: Kind = Kind {
    files: &["envoy.yaml"],
    command: &["envoy", "-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"],
};

/// A running gateway.
struct Gateway {
    url: String,
    child: Child,
    _folder: TempDir,
}

// === impl Gateway ===

impl Gateway {
    /// Starts a gateway with the committed configuration, but for the three addresses in it.
    async fn start(kind: &Kind, check: u16, backend: u16) -> Self {
        static PROGRAMS: OnceLock<String> = OnceLock::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let programs = PROGRAMS.get_or_init(|| {
            let ran = Command::new(root.join("dev/gateways.sh")).stderr(Stdio::inherit()).output().unwrap();
            assert!(ran.status.success(), "dev/gateways.sh failed");
            String::from_utf8(ran.stdout).unwrap().trim().to_owned()
        });
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        for file in kind.files {
            let mut text = std::fs::read_to_string(root.join("examples/gateways").join(file)).unwrap();
            for (from, to) in [(8000, port), (8080, check), (9000, backend)] {
                let places = [
                    (format!("127.0.0.1:{from}"), format!("127.0.0.1:{to}")),
                    (format!("port_value: {from}"), format!("port_value: {to}")),
                ];
                text = places.iter().fold(text, |text, (from, to)| text.replace(from, to));
            }
            std::fs::write(folder.path().join(PathBuf::from(file).file_name().unwrap()), text).unwrap();
        }
        let prefix = folder.path().to_str().unwrap();
        let args: Vec<_> = kind.command[1..].iter().map(|arg| arg.replace("PREFIX", prefix)).collect();
        let child = Command::new(format!("{programs}/{}", kind.command[0]))
            .args(args)
            .current_dir(folder.path())
            .env("XDG_DATA_HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let gateway = Self { url, child, _folder: folder };
        // It may listen before it knows its routes.
        eventually("the gateway guards", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
                && gateway.get(&[]).await.status == StatusCode::UNAUTHORIZED
        })
        .await;
        gateway
    }

    /// A GET of something that the backend has.
    async fn get(&self, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(format!("{}/api/things?x=1", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(request.body(Body::empty()).unwrap()).await
    }

    async fn sign_in(&self, key: &str, secret: &str) -> Answer {
        self.get(&[("authorization", &basic(key, secret))]).await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend that answers with what it saw, and counts.
async fn backend(asked: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = move |headers: HeaderMap| {
        asked.fetch_add(1, Ordering::SeqCst);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let seen: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        async move { serde_json::to_string(&seen).unwrap() }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    port
}

async fn guards(kind: Kind) {
    let store = TestStore::sqlite().await;
    store.verify("cluster", "default").await;
    let jazz = approved("jazz", SECRET);
    let key = jazz.consumer_key.to_string();
    put(&*store.store, jazz.clone()).await;
    let faulty = FaultyStore::over(&store);
    let settings = Settings {
        misses_by_caller: Rate { burst: 200, refill: 0 },
        misses_by_key: Rate { burst: 60, refill: 0 },
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..Settings::default()
    };
    let check = Check::with(faulty.clone(), settings).await;
    check.is_current().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let gateway = Gateway::start(&kind, check.address.port(), backend(asked.clone()).await).await;
    let asked = || asked.load(Ordering::SeqCst);
    assert_eq!(asked(), 0, "nobody has signed in yet");

    // Approved: the backend learns who it is from the check, whatever the client makes up, and never sees the secret.
    let authorization = basic(&key, SECRET);
    let forged = "forged";
    let answer = gateway
        .get(&[
            ("authorization", &authorization),
            ("x-oauth-consumer-key", forged),
            ("x-oauth-consumer-key", forged),
            ("X_OAuth_Consumer_Key", forged),
            ("x-oauth-consumer-name", forged),
            ("x-oauth-consumer-namespace", forged),
            ("x-forwarded-for", "198.51.100.1"),
        ])
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let seen: Vec<(String, String)> = serde_json::from_str(&answer.body).unwrap();
    let named =
        |wanted: &str| seen.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    assert_eq!(named("x-oauth-consumer-key"), [key.as_str()]);
    assert_eq!(named("x-oauth-consumer-name"), ["Jazz%20Team%20Server%20%C3%BC%20%F0%9F%8E%B7"]);
    assert_eq!(named("x-oauth-consumer-namespace"), ["team-a"]);
    assert!(!answer.body.contains(forged), "{}", answer.body);
    assert_eq!(named("authorization"), Vec::<&str>::new());

    // Everybody else is refused, and gets no further.
    let before = asked();
    let unknown = basic("00000000-0000-5000-8000-000000000000", SECRET);
    let wrong = basic(&key, WRONG);
    for headers in [
        &[][..],
        &[("authorization", "Bearer abc")],
        &[("authorization", unknown.as_str())],
        &[("authorization", wrong.as_str())],
    ] {
        let answer = gateway.get(headers).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic realm="));
        assert_eq!(answer.headers.get_all(header::WWW_AUTHENTICATE).iter().count(), 1);
        assert_eq!(answer.body.trim(), "{\"error\":\"invalid_client\"}");
    }
    assert_eq!(asked(), before);

    // A disapproval is felt, and an approval, too.
    put(&*store.store, Record { state: State::Disapproved, ..jazz.clone() }).await;
    eventually("it is refused", || async { gateway.sign_in(&key, SECRET).await.status == StatusCode::UNAUTHORIZED }).await;
    put(&*store.store, jazz.clone()).await;
    assert_eq!(gateway.sign_in(&key, SECRET).await.status, StatusCode::OK);

    // Without the store there is neither yes nor no.
    faulty.set_down(true);
    eventually("nobody can tell", || async {
        let status = gateway.sign_in(&key, SECRET).await.status;
        assert_ne!(status, StatusCode::UNAUTHORIZED);
        status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let before = asked();
    let answer = gateway.sign_in(&key, SECRET).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    assert_eq!(asked(), before);
    faulty.set_down(false);
    eventually("it signs in", || async { gateway.sign_in(&key, SECRET).await.status == StatusCode::OK }).await;

    // Whoever guesses too fast is told so, whatever address it makes up, and shuts nobody out who is known.
    let mut answer = gateway.sign_in(&key, WRONG).await;
    for i in 0..100 {
        let made_up = format!("198.51.100.{i}");
        answer = gateway.get(&[("authorization", &wrong), ("x-forwarded-for", &made_up)]).await;
    }
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let pause: u32 = answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!(pause >= 1);
    assert_eq!(gateway.sign_in(&key, SECRET).await.status, StatusCode::OK);

    // Without the check there is neither yes nor no.
    drop(check);
    eventually("nobody can tell", || async { gateway.sign_in(&key, SECRET).await.status == StatusCode::SERVICE_UNAVAILABLE })
        .await;
    let answer = gateway.sign_in(&key, SECRET).await;
    assert_eq!((answer.status, answer.headers[header::RETRY_AFTER].to_str().unwrap()), (StatusCode::SERVICE_UNAVAILABLE, "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_guards_a_backend() {
    guards(NGINX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_guards_a_backend() {
    guards(TRAEFIK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_guards_a_backend() {
    guards(CADDY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_guards_a_backend() {
    guards(ENVOY).await;
}
