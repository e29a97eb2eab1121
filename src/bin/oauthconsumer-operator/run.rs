//! Starts the parts of the process. Parts that fail on a wrong configuration start first.

use std::error::Error;
use std::num::NonZero;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use oauthconsumer_operator::consumer::{Failure, HashCost, SecretLimits};
use oauthconsumer_operator::controller::{self, ApprovalProof, Settings, cleanup};
use oauthconsumer_operator::hashing::HashPool;
use oauthconsumer_operator::signin::{self, Certificate, Verifier};
use oauthconsumer_operator::store::{self, Access, ConsumerStore, OpenError};
use oauthconsumer_operator::telemetry::{self, Metrics, Readiness};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cli::{
    CleanupOptions, Common, ControllerOnly, ControllerOptions, RevokeOptions, RunOptions, SigninOnly, SigninOptions,
};
use crate::error::ProgramError;
use crate::logs;

type Outcome = Result<(), Box<dyn Error>>;

/// How long open work may take to finish: less than the 30 s that Kubernetes gives a pod.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

/// How long closing a store may take after that.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two attempts to reach the store or the API server.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// How long a namespace counts as guarded by the policy before it is checked again.
const POLICY_CHECK_LIFETIME: Duration = Duration::from_mins(1);

/// How long `cleanup` tries to reach the API server.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How many consumers `cleanup` lists by name.
const NAMES_SHOWN: usize = 10;

/// Watches end by themselves after 30 s; a connection that is silent for longer is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(35);

/// How often the store is checked for `/readyz`.
const STORE_CHECK_PERIOD: Duration = Duration::from_secs(1);

/// How long that check may take before the store counts as missing.
const STORE_TIMEOUT: Duration = Duration::from_secs(6);

pub fn both(options: RunOptions) -> Outcome {
    start(options.common, Some(options.controller), Some(options.signin))
}

pub fn controller(options: ControllerOnly) -> Outcome {
    start(options.common, Some(options.controller), None)
}

pub fn signin(options: SigninOnly) -> Outcome {
    start(options.common, None, Some(options.signin))
}

fn start(common: Common, controller: Option<ControllerOptions>, signin: Option<SigninOptions>) -> Outcome {
    logs::init(&common.log_level, common.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(Process::default().run(common, controller, signin));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

#[derive(Default)]
struct Process {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    /// The store, for the controller.
    store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
    /// The store, for sign-in checks. It has its own connections, so that reconciles do not delay sign-ins.
    signin_store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
    tasks: JoinSet<Result<(), ProgramError>>,
}

// === impl Process ===

impl Process {
    async fn run(mut self, common: Common, controller: Option<ControllerOptions>, signin: Option<SigninOptions>) -> Outcome {
        let shutdown = telemetry::on_signal()?;
        let (url, cost) = (common.store.url()?, common.hash_cost());
        // First, because without a cluster there is nothing to control.
        let config = match &controller {
            Some(_) => Some(kubernetes().await?),
            None => None,
        };
        self.readiness.missing("store", "it is not open yet");
        if controller.is_some() {
            for check in ["cluster", "crd", "watch"] {
                self.readiness.missing(check, "not checked yet");
            }
        }
        // Ports open before the store: `/readyz` shows what is missing, and a sign-in check gets a 503 at once.
        let listener = listen(common.admin_addr, "--admin-addr").await?;
        info!(version = env!("CARGO_PKG_VERSION"), admin = %listener.local_addr()?, "starting");
        let serve = telemetry::port(self.metrics.clone(), self.readiness.clone()).serve(listener, shutdown.clone());
        self.spawn(serve);
        if let Some(options) = &signin {
            self.check_signins(options, cost, &shutdown).await?;
        }

        let access = if controller.is_some() { Access::Controller } else { Access::SignIn };
        let Some(store) = self.open_store(&url, access, &shutdown).await? else { return Ok(()) };
        let _ = self.store.set(store.clone());
        if signin.is_some() {
            let own = match access {
                Access::Controller => self.open_store(&url, Access::SignIn, &shutdown).await?,
                Access::SignIn => Some(store.clone()),
            };
            let Some(own) = own else { return Ok(()) };
            let _ = self.signin_store.set(own);
        }
        self.readiness.met("store");
        self.spawn_until(&shutdown, watch_store(store.clone(), self.readiness.clone()));
        if let (Some(options), Some(config)) = (controller, config) {
            let client = kube::Client::try_from(config).map_err(ProgramError::because(ProgramError::Client))?;
            let (metrics, readiness, shutdown) = (self.metrics.clone(), self.readiness.clone(), shutdown.clone());
            self.tasks.spawn(async move { control(options, cost, client, store, metrics, readiness, shutdown).await });
        }
        let stores = [self.signin_store.clone(), self.store.clone()];
        let outcome = self.wait(shutdown).await;
        for store in stores.iter().filter_map(|store| store.get()) {
            // A connection that hangs must not keep the process running.
            let _ = timeout(STORE_CLOSE_TIMEOUT, store.close()).await;
        }
        outcome
    }

    /// Starts the sign-in check. It answers 503 until the store is open.
    async fn check_signins(&mut self, options: &SigninOptions, cost: HashCost, shutdown: &CancellationToken) -> Outcome {
        let certificate = match (&options.signin_tls_cert, &options.signin_tls_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(Certificate::load(certificate.clone(), key.clone())?)),
            _ => None,
        };
        let listener = listen(options.signin_addr, "--signin-addr").await?;
        info!(address = %listener.local_addr()?, tls = certificate.is_some(), "checking sign-ins");
        let (hashing, metrics) = (hash_pool(cores(), cost)?, self.metrics.clone());
        let verifier = Arc::new(Verifier::new(self.signin_store.clone(), options.settings(), hashing, metrics.clone()).await?);
        let directory = verifier.directory();
        self.readiness.ask("directory", move || directory.check());

        if let Some(certificate) = certificate.clone() {
            self.spawn_until(shutdown, async move { certificate.follow_files().await });
        }
        self.spawn(signin::port(verifier.clone(), metrics, certificate).serve(listener, shutdown.clone()));
        self.spawn_until(shutdown, async move { verifier.follow().await });
        Ok(())
    }

    /// Runs a part that does not fail.
    fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(part.map(Ok));
    }

    /// Runs a part that may be stopped at any moment.
    fn spawn_until(&mut self, shutdown: &CancellationToken, part: impl Future<Output = ()> + Send + 'static) {
        let shutdown = shutdown.clone();
        self.spawn(async move { shutdown.run_until_cancelled(part).await.unwrap_or_default() });
    }

    /// Opens the store, and waits while the database cannot be reached. None at shutdown.
    async fn open_store(
        &self,
        url: &str,
        access: Access,
        shutdown: &CancellationToken,
    ) -> Result<Option<Arc<dyn ConsumerStore>>, OpenError> {
        loop {
            match store::open(url, access).await {
                Ok(store) => return Ok(Some(store)),
                Err(OpenError::Database(cause)) => {
                    // Cause: the database does not answer, or refuses.
                    // Next step: [check the store](../how-to/troubleshoot.md#a-pod-is-not-ready).
                    warn!(%cause, "the store cannot be opened; trying again");
                    self.readiness.missing("store", format!("it cannot be opened: {cause}"));
                }
                Err(error) => return Err(error),
            }
            tokio::select! { () = tokio::time::sleep(RETRY_PAUSE) => {}, () = shutdown.cancelled() => return Ok(None) }
        }
    }

    /// Waits until all parts have ended. A part that fails ends the others.
    async fn wait(mut self, shutdown: CancellationToken) -> Outcome {
        let mut failure = None;
        let mut overdue = pin!(overdue(&shutdown));
        while let Some(ended) = tokio::select! {
            ended = self.tasks.join_next() => ended,
            () = &mut overdue => {
                let cause = ProgramError::SlowShutdown(SHUTDOWN_TIMEOUT.as_secs());
                // Cause: a request, a reconcile or a hash did not end in time.
                // Next step: none.
                error!(%cause, "the process ends with work unfinished");
                return Err(cause.into());
            }
        } {
            if let Err(cause) = ended.unwrap_or_else(|panic| Err(ProgramError::Panic(panic.to_string()))) {
                // Next step: read `cause`. Kubernetes starts the pod again.
                error!(%cause, "a part of the process failed, so the process ends");
                failure.get_or_insert(cause);
                shutdown.cancel();
            }
        }
        failure.map_or(Ok(()), |cause| Err(cause.into()))
    }
}

/// Revokes a consumer in the store, without Kubernetes.
pub fn revoke(options: &RevokeOptions) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = store::open(&options.store.url()?, Access::SignIn).await?;
        let record = store::revoke(&*store, &options.key, &options.reason).await?;
        let (namespace, object) = (&record.namespace, &record.object);
        println!("revoked {}: {} ({namespace}/{object})", options.key, record.profile.name);
        println!("Sign-in is refused within --max-staleness of the sign-in check: a second, unless it was set.");
        println!("To allow sign-in again once the cause is mended, an approver types:");
        println!("  kubectl -n {namespace} wait --timeout=2m --for=jsonpath='{{.status.state}}'=Revoked oauthconsumer/{object}");
        for approved in [false, true] {
            println!(
                "  kubectl -n {namespace} patch oauthconsumer {object} --field-manager oauthconsumers-approval --type merge \
                 -p 'spec: {{approved: {approved}}}'"
            );
            if !approved {
                println!(
                    "  kubectl -n {namespace} wait --for=jsonpath='{{.status.decision.approved}}'=false oauthconsumer/{object}"
                );
            }
        }
        println!("If a pipeline sets spec.approved to true, set spec.hold first, or its next sync approves the consumer again.");
        println!("See docs/how-to/stop.md.");
        store.close().await;
        Ok(())
    })
}

/// Fails while there are consumers. With `--force` it removes their finalizers instead.
pub fn cleanup(options: &CleanupOptions) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = kube::Client::try_from(kubernetes().await?)?;
        if options.force {
            let progress = |released| println!("{released} consumers are released so far");
            let released = retried(|| cleanup::release(&client, &options.namespaces, progress)).await?;
            println!("{released} consumers are released: the operator's finalizer is off. Their records stay in the store.");
            println!("To delete consumers: kubectl delete oauthconsumers --all -n NAMESPACE");
            return Ok(());
        }
        let left = retried(|| cleanup::consumers(&client, &options.namespaces)).await?;
        if left.is_empty() {
            println!("no consumers are left; the operator can be uninstalled");
            return Ok(());
        }
        let named: Vec<_> = left.iter().take(NAMES_SHOWN).map(String::as_str).collect();
        let more = if left.len() > NAMES_SHOWN { ", ..." } else { "" };
        Err(ProgramError::ConsumersLeft { count: left.len(), names: format!("{}{more}", named.join(", ")) }.into())
    })
}

/// Retries until `CLEANUP_TIMEOUT`: a role that the chart has just made may not be in force yet.
async fn retried<T, F: Future<Output = Result<T, Failure>>>(attempt: impl Fn() -> F) -> Result<T, Failure> {
    let since = Instant::now();
    loop {
        match attempt().await {
            Err(failure) if since.elapsed() < CLEANUP_TIMEOUT => {
                eprintln!("oauthconsumer-operator: {failure}; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            ended => return ended,
        }
    }
}

async fn kubernetes() -> Result<kube::Config, ProgramError> {
    let mut config = kube::Config::infer().await.map_err(ProgramError::because(ProgramError::NoCluster))?;
    // A reconcile has a time limit and retries of its own.
    config.default_retry = false;
    config.read_timeout = Some(READ_TIMEOUT);
    Ok(config)
}

async fn control(
    options: ControllerOptions,
    cost: HashCost,
    client: kube::Client,
    store: Arc<dyn ConsumerStore>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<(), ProgramError> {
    // An empty environment variable is as good as none.
    let given = options.cluster_id.filter(|id| !id.is_empty());
    let cluster_id_is_uid = given.is_none();
    let cluster_id = match given {
        Some(id) => {
            readiness.met("cluster");
            id
        }
        None => match shutdown.run_until_cancelled(cluster_id(&client, &readiness)).await {
            Some(id) => id,
            None => return Ok(()),
        },
    };
    info!(cluster_id, installation = options.installation, approval_proof = %options.approval_proof, "controlling OAuthConsumers");
    if options.approval_proof == ApprovalProof::Off {
        // Next step: none if that was meant. Else leave the flag out, and [install the policies](../how-to/install.md#without-the-policies).
        warn!("--approval-proof is off, so every account that may update a consumer may approve it");
    }
    metrics.approval_proof.set(i64::from(options.approval_proof == ApprovalProof::Required));
    let settings = Settings {
        cluster_id,
        cluster_id_is_uid,
        installation: options.installation,
        namespaces: options.namespaces,
        limits: SecretLimits { min: options.min_secret_bytes.into(), ..SecretLimits::default() },
        approval_proof: options.approval_proof,
        policy_check_lifetime: POLICY_CHECK_LIFETIME,
        sweep_period: options.sweep_period,
        reconcile_timeout: Duration::from_secs(30),
        longest_pause: Duration::from_mins(5),
    };
    // One core stays free for everything that is not a hash.
    let hashing = hash_pool((cores() - 1).max(1), cost)?;
    let ended = controller::run(settings, client, store, hashing, metrics, readiness, shutdown).await;
    ended.map_err(ProgramError::because(ProgramError::Panic))
}

fn hash_pool(threads: usize, cost: HashCost) -> Result<HashPool, ProgramError> {
    HashPool::new(threads, cost).map_err(ProgramError::because(ProgramError::Threads))
}

/// Checks the store in the background, so that requests to `/readyz` cost the store nothing.
async fn watch_store(store: Arc<dyn ConsumerStore>, readiness: Readiness) {
    let mut period = tokio::time::interval(STORE_CHECK_PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        match timeout(STORE_TIMEOUT, store.head()).await {
            Ok(Ok(_)) => readiness.met("store"),
            Ok(Err(error)) => readiness.missing("store", error.to_string()),
            Err(_) => readiness.missing("store", format!("it has not answered for {} s", STORE_TIMEOUT.as_secs())),
        }
    }
}

/// The cluster's identity. Waits for the API server.
async fn cluster_id(client: &kube::Client, readiness: &Readiness) -> String {
    loop {
        match controller::cluster_uid(client).await {
            Ok(uid) => {
                readiness.met("cluster");
                return uid;
            }
            Err(error) => {
                let cause = controller::message(&error);
                // Cause: the API server does not answer, or refuses.
                // Next step: read `cause`. Correct the network, or the controller's right to get the namespace.
                warn!(cause, "waiting until the UID of the namespace kube-system can be read");
                readiness.missing("cluster", format!("the UID of the namespace kube-system cannot be read: {cause}"));
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn listen(address: std::net::SocketAddr, flag: &'static str) -> Result<TcpListener, ProgramError> {
    TcpListener::bind(address).await.map_err(|error| ProgramError::Listen(address, flag, error))
}

async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
