//! A sign-in check on a port of its own, as `oauthconsumer-operator signin` runs it, with hashes that are cheap.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oauthconsumer_operator::hashing::HashPool;
use oauthconsumer_operator::signin::{self, Certificate, Directory, Settings, Verifier};
use oauthconsumer_operator::store::ConsumerStore;
use oauthconsumer_operator::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::CHEAP;

/// A sign-in check; ended with the test.
pub struct Check {
    pub address: SocketAddr,
    pub metrics: Arc<Metrics>,
    pub directory: Arc<Directory>,
    client: Client<HttpConnector, Body>,
    _shutdown: DropGuard,
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// Without limits on misses, which most tests would run into.
pub fn unlimited() -> Settings {
    let mut settings = Settings::default();
    (settings.misses_by_caller.burst, settings.misses_by_key.burst) = (0, 0);
    settings
}

/// What `curl -u KEY:SECRET` sends.
pub fn basic(key: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{key}:{secret}")))
}

/// Sends a request over a connection of its own.
pub async fn send(request: Request<Body>) -> Answer {
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    answer(client.request(request).await.unwrap()).await
}

async fn answer(response: Response<Incoming>) -> Answer {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::DATE);
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

// === impl Check ===

impl Check {
    /// A check against this store without limits on misses.
    pub async fn of(store: Arc<dyn ConsumerStore>) -> Self {
        Self::with(store, unlimited()).await
    }

    pub async fn with(store: Arc<dyn ConsumerStore>, settings: Settings) -> Self {
        Self::serve(store, settings, HashPool::new(2, CHEAP).unwrap(), None).await
    }

    pub async fn serve(
        store: Arc<dyn ConsumerStore>,
        settings: Settings,
        hashing: HashPool,
        certificate: Option<Arc<Certificate>>,
    ) -> Self {
        let (metrics, shutdown) = (Arc::new(Metrics::default()), CancellationToken::new());
        let verifier = Verifier::new(Arc::new(store.into()), settings, hashing, metrics.clone()).await.unwrap();
        let verifier = Arc::new(verifier);
        let directory = verifier.directory();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = signin::port(verifier.clone(), metrics.clone(), certificate);
        tokio::spawn(port.serve(listener, shutdown.clone()));
        let stop = shutdown.clone();
        tokio::spawn(async move { stop.run_until_cancelled(verifier.follow()).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address, metrics, directory, client, _shutdown: shutdown.drop_guard() }
    }

    /// Waits until memory is proved current.
    pub async fn is_current(&self) {
        let asked = async {
            while !self.directory.is_current() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let current = tokio::time::timeout(Duration::from_secs(20), asked);
        current.await.unwrap_or_else(|_| panic!("the directory never was current: {:?}", self.directory.check()));
    }

    /// What is answered to this key and secret.
    pub async fn status(&self, key: &str, secret: &str) -> StatusCode {
        self.ask(&[("authorization", basic(key, secret).as_bytes())]).await.status
    }

    /// What is answered to a GET with these headers.
    pub async fn ask(&self, headers: &[(&str, &[u8])]) -> Answer {
        let mut request = Request::get(format!("http://{}/signin", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// What is answered to a form that is posted to `/signin`.
    pub async fn post(&self, form: impl Into<Body>) -> Answer {
        let request = Request::post(format!("http://{}/signin", self.address))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.into());
        self.send(request.unwrap()).await
    }

    /// What is answered to any request.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        answer(self.client.request(request).await.unwrap()).await
    }

    /// Whether these credentials sign in; anything but a clear yes or no fails the test.
    pub async fn admits(&self, key: &str, secret: &str) -> bool {
        match self.status(key, secret).await {
            StatusCode::OK => true,
            StatusCode::UNAUTHORIZED => false,
            status => panic!("neither yes nor no: {status}"),
        }
    }
}
