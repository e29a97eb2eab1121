//! An operator inside the test's process, with requests that are counted and hashes that are cheap.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::http::{Request, StatusCode};
use oauthconsumer_operator::consumer::{ReconcileResult, SecretLimits};
use oauthconsumer_operator::controller::{self, ApprovalProof, Settings};
use oauthconsumer_operator::hashing::HashPool;
use oauthconsumer_operator::listener::RemoteAddr;
use oauthconsumer_operator::signin::{self, Verifier};
use oauthconsumer_operator::store::ConsumerStore;
use oauthconsumer_operator::telemetry::{Metrics, Operation, Readiness};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::check::{Answer, basic};
use super::cluster::{Cluster, Requests};
use super::records::CHEAP;

pub struct Operator {
    pub metrics: Arc<Metrics>,
    pub readiness: Readiness,
    pub requests: Requests,
    store: Arc<dyn ConsumerStore>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

// === impl Operator ===

impl Operator {
    /// Starts an operator for the test's namespace, and waits until it watches.
    pub async fn start(cluster: &Cluster, store: Arc<dyn ConsumerStore>) -> Self {
        Self::start_with(cluster, store, "admin", |_| {}).await
    }

    pub async fn start_with(
        cluster: &Cluster,
        store: Arc<dyn ConsumerStore>,
        user: &str,
        adjust: impl FnOnce(&mut Settings),
    ) -> Self {
        let (client, requests) = Cluster::recorded_client(user).await;
        let mut settings = Settings {
            cluster_id: controller::cluster_uid(&cluster.client).await.unwrap(),
            cluster_id_is_uid: false,
            installation: "default".into(),
            namespaces: vec![cluster.namespace.clone()],
            limits: SecretLimits::default(),
            approval_proof: ApprovalProof::Off,
            policy_check_lifetime: Duration::from_secs(1),
            sweep_period: Duration::from_millis(250),
            reconcile_timeout: Duration::from_secs(10),
            longest_pause: Duration::from_millis(500),
        };
        adjust(&mut settings);
        let (metrics, shutdown) = (Arc::new(Metrics::default()), CancellationToken::new());
        let hashing = HashPool::new(1, CHEAP).unwrap();
        let readiness = Readiness::default();
        let run = controller::run(settings, client, store.clone(), hashing, metrics.clone(), readiness.clone(), shutdown.clone());
        let task = tokio::spawn(async move { run.await.expect("a part of the controller panicked") });
        let operator = Self { metrics, readiness, requests, store, shutdown, task };
        super::eventually("the operator watches, and its records count unless the store is down", || async {
            operator.metrics.watching.get() == 1 && operator.store.head().await.map_or(true, |head| head.verified)
        })
        .await;
        operator
    }

    /// Stops it as SIGTERM does, and waits until everything has finished.
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("the operator did not stop").unwrap();
    }

    pub fn count(&self, effect: Operation) -> u64 {
        self.metrics.effects.get(effect)
    }

    /// Reconciles that came to an end.
    pub fn reconciles(&self) -> u64 {
        use ReconcileResult::{ApiFailed, Changed, Conflict, Internal, KeyInUse, StoreFailed, Unchanged};
        let results = [ApiFailed, Changed, Conflict, Internal, KeyInUse, StoreFailed, Unchanged];
        results.into_iter().map(|result| self.metrics.reconciles.get(result)).sum()
    }

    /// Waits for a sweep that begins after now to finish.
    pub async fn swept(&self) {
        let before = self.metrics.sweeps.get();
        super::eventually("two sweeps", || async { self.metrics.sweeps.get() >= before + 2 }).await;
    }

    /// Waits until it has come to rest: no reconcile for two sweeps.
    pub async fn settled(&self) {
        super::eventually("no more reconciles", || async {
            let before = self.reconciles();
            self.swept().await;
            self.swept().await;
            self.reconciles() == before
        })
        .await;
    }

    /// Signs in as `curl -u KEY:SECRET` does.
    pub async fn signin(&self, key: &str, secret: &str) -> Answer {
        self.ask(&[("authorization", basic(key, secret).as_bytes())]).await
    }

    /// Asks `/signin` with these headers.
    pub async fn ask(&self, headers: &[(&str, &[u8])]) -> Answer {
        let (settings, hashing) = (signin::Settings::default(), HashPool::new(1, CHEAP).unwrap());
        let verifier = Verifier::new(Arc::new(self.store.clone().into()), settings, hashing, self.metrics.clone()).await.unwrap();
        let mut request = Request::get("/signin").extension(RemoteAddr(Ipv4Addr::LOCALHOST.into()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = signin::routes(Arc::new(verifier), self.metrics.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = String::from_utf8(to_bytes(body, 1 << 16).await.unwrap().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Whether these credentials sign in; anything but a clear yes or no fails the test.
    pub async fn admits(&self, key: &str, secret: &str) -> bool {
        let answer = self.signin(key, secret).await;
        match answer.status {
            StatusCode::OK => true,
            StatusCode::UNAUTHORIZED => false,
            _ => panic!("neither yes nor no: {answer:?}"),
        }
    }
}
