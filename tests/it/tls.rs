//! TLS on both sides: to those who ask, and to the store.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use oauthconsumer_operator::hashing::HashPool;
use oauthconsumer_operator::signin::Certificate;
use oauthconsumer_operator::store::{self, Access};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore};
use tokio_util::sync::CancellationToken;

use crate::support::wire::request;
use crate::support::{CHEAP, Check, Companion, TestStore, approved, basic, eventually, put, unlimited};

const SECRET: &str = "a secret, long enough for all";

/// A certificate authority of the test's own.
struct Authority {
    folder: TempDir,
}

fn openssl(args: &[&str]) {
    let ran = Command::new("openssl").args(args).output().unwrap();
    assert!(ran.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

// === impl Authority ===

impl Authority {
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        let (key, certificate) = (this.path("ca.key"), this.certificate());
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let args = ["-x509", "-subj", "/CN=test", "-days", "2", "-keyout", text(&key), "-out", text(&certificate)];
        openssl(&[&["req"], &new_key[..], &args].concat());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Writes a certificate for this address, and its key.
    fn issue(&self, address: &str, certificate: &Path, key: &Path) {
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let (ca, ca_key, name) = (self.certificate(), self.path("ca.key"), format!("subjectAltName=IP:{address}"));
        let signed = ["-x509", "-CA", text(&ca), "-CAkey", text(&ca_key), "-subj", "/CN=server", "-days", "1", "-addext", &name];
        let constraint = ["-addext", "basicConstraints=critical,CA:false"];
        let out = ["-keyout", text(key), "-out", text(certificate)];
        openssl(&[&["req"], &new_key[..], &signed, &constraint, &out].concat());
    }
}

/// The status of a sign-in over TLS, or none if curl does not trust the server.
fn curl(check: &Check, key: &str, trusted: &Path) -> Option<String> {
    let url = format!("https://{}/signin", check.address);
    let args = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", text(trusted), "-u", &format!("{key}:{SECRET}"), &url];
    let ran = Command::new("curl").args(args).output().unwrap();
    ran.status.success().then(|| String::from_utf8(ran.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_without_a_restart() {
    let store = TestStore::sqlite().await;
    store.verify("cluster", "default").await;
    let record = approved("jazz", SECRET);
    let consumer_key = record.consumer_key.to_string();
    put(&*store.store, record).await;

    let (old, new) = (Authority::new(), Authority::new());
    let (chain, key) = (old.path("tls.crt"), old.path("tls.key"));
    old.issue("127.0.0.1", &chain, &key);
    let certificate = Arc::new(Certificate::load(chain.clone(), key.clone()).unwrap());
    let stop = CancellationToken::new();
    let follows = tokio::spawn({
        let (certificate, stop) = (certificate.clone(), stop.clone());
        async move { stop.run_until_cancelled(certificate.follow_files()).await }
    });
    let check = Check::serve(store.reader().await, unlimited(), HashPool::new(1, CHEAP).unwrap(), Some(certificate)).await;
    assert_eq!(curl(&check, &consumer_key, &old.certificate()).as_deref(), Some("200"));
    assert_eq!(curl(&check, &consumer_key, &new.certificate()), None);

    // Half of a change, and what is no certificate: the former one stays in use.
    std::fs::write(&key, "no key").unwrap();
    assert_eq!(curl(&check, &consumer_key, &old.certificate()).as_deref(), Some("200"));
    new.issue("127.0.0.1", &chain, &key);
    eventually("the new one is served", || async { curl(&check, &consumer_key, &new.certificate()).as_deref() == Some("200") })
        .await;
    assert_eq!(curl(&check, &consumer_key, &old.certificate()), None);
    stop.cancel();
    follows.await.unwrap();
}

/// What is answered to a request that is sent in one piece with the end of the TLS handshake.
fn exchange_at_once(address: SocketAddr, trusted: &Path, sent: &[u8]) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), address.ip().into()).unwrap();
    let mut stream = TcpStream::connect(address)?;
    client.write_tls(&mut stream)?;
    while client.is_handshaking() {
        client.read_tls(&mut stream)?;
        client.process_new_packets().unwrap();
    }
    client.writer().write_all(sent)?;
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight)?;
    }
    stream.write_all(&flight)?;
    let mut answer = String::new();
    rustls::Stream::new(&mut client, &mut stream).read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_small_and_a_large_request_may_follow_at_once() {
    let (store, authority) = (TestStore::sqlite().await, Authority::new());
    let key = store.serving("jazz", SECRET).await;
    let (chain, private) = (authority.path("tls.crt"), authority.path("tls.key"));
    authority.issue("127.0.0.1", &chain, &private);
    let certificate = Arc::new(Certificate::load(chain, private).unwrap());
    let check = Check::serve(store.reader().await, unlimited(), HashPool::new(1, CHEAP).unwrap(), Some(certificate)).await;
    check.is_current().await;
    let cookie = [b"cookie: ", &vec![b'x'; 15 << 10][..]].concat();
    let good = format!("authorization: {}", basic(&key, SECRET));
    let sent = request("GET /signin HTTP/1.1", &[&cookie, good.as_bytes()]);
    let (address, trusted) = (check.address, authority.certificate());
    let answer = spawn_blocking(move || exchange_at_once(address, &trusted, &sent)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    // Records of a greeting that says to have 60,000 bytes: it is cut off long before.
    let record = |content: &[u8]| [&[22, 3, 1][..], &u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat();
    let first = record(&[&[1, 0, 0xea, 0x60, 3, 3][..], &[0; 16_000]].concat());
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(&[first, record(&[0; 16_000]), record(&[0; 16_000])].concat()).await.unwrap();
    let ended = timeout(Duration::from_secs(9), client.read(&mut [0; 16])).await;
    let ended = ended.expect("it waits for more until the handshake's time is up");
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_with_the_reason() {
    let (ca, other) = (Authority::new(), Authority::new());
    let (chain, key) = (ca.path("tls.crt"), ca.path("tls.key"));
    let refusal = |chain: &Path, key: &Path| Certificate::load(chain.to_owned(), key.to_owned()).err().unwrap().to_string();
    assert!(refusal(&chain, &key).contains("failed to read"), "{}", refusal(&chain, &key));
    ca.issue("127.0.0.1", &chain, &key);
    assert!(Certificate::load(chain.clone(), key.clone()).is_ok());
    assert!(refusal(&chain, &other.path("ca.key")).contains("cannot be used"), "another one's key");
    assert!(refusal(&chain, &chain).contains("holds no usable private key"));
    assert!(refusal(&key, &key).contains("cannot be used"), "no certificate at all");
}

/// A PostgreSQL server of the test's own that speaks TLS.
struct Server {
    companion: Companion,
    data: PathBuf,
}

// === impl Server ===

impl Server {
    async fn start(authority: &Authority) -> Self {
        let companion = Companion::start("with-postgres.sh", "OAUTHCONSUMER_TEST_POSTGRES_URL");
        let data: String = {
            let mut connection = PgConnection::connect(&companion.value).await.unwrap();
            sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.unwrap()
        };
        let this = Self { companion, data: data.into() };
        this.sql("ALTER SYSTEM SET ssl = on").await;
        this.use_certificate(authority, "127.0.0.1").await;
        this
    }

    async fn sql(&self, statement: &str) {
        let mut connection = PgConnection::connect(&self.companion.value).await.unwrap();
        sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
    }

    async fn use_certificate(&self, authority: &Authority, address: &str) {
        let (certificate, key) = (self.data.join("server.crt"), self.data.join("server.key"));
        authority.issue(address, &certificate, &key);
        // The server is not root, and its key is for its eyes only.
        let reference = format!("--reference={}", text(&self.data));
        for file in [&certificate, &key] {
            assert!(Command::new("chown").args([&reference, text(file)]).status().unwrap().success());
            assert!(Command::new("chmod").args(["600", text(file)]).status().unwrap().success());
        }
        self.sql("SELECT pg_reload_conf()").await;
    }

    fn verified(&self, trusted: &Path) -> String {
        format!("{}?sslmode=verify-full&sslrootcert={}", self.companion.value, text(trusted))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_verified_and_its_new_authority_is_taken_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = Server::start(&old).await;
    let trusted = old.path("trusted.crt");
    std::fs::copy(old.certificate(), &trusted).unwrap();
    eventually("it speaks TLS", || async { store::open(&server.verified(&trusted), Access::Controller).await.is_ok() }).await;
    let store = store::open(&server.verified(&trusted), Access::Controller).await.unwrap();
    let epoch = store.head().await.unwrap().epoch;
    store.verify("cluster", "default", &epoch).await.unwrap();
    let record = approved("jazz", SECRET);
    let key = record.consumer_key.to_string();
    put(&*store, record).await;
    let check = Check::of(store::open(&server.verified(&trusted), Access::SignIn).await.unwrap()).await;
    check.is_current().await;
    assert!(check.admits(&key, SECRET).await);

    let refused = store::open(&server.verified(&new.certificate()), Access::SignIn).await.err().unwrap().to_string();
    assert!(refused.contains("certificate"), "{refused}");

    // A server by another name.
    server.use_certificate(&old, "127.0.0.2").await;
    eventually("it is not trusted", || async { store::open(&server.verified(&trusted), Access::SignIn).await.is_err() }).await;

    // Another authority: first the file, then the server, then all connections are made anew.
    std::fs::copy(new.certificate(), &trusted).unwrap();
    server.use_certificate(&new, "127.0.0.1").await;
    server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()")
        .await;
    eventually("it signs in", || async { check.status(&key, SECRET).await == StatusCode::OK }).await;
    check.is_current().await;
    store.close().await;
}
