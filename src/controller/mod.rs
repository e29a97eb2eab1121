//! The controller: it takes a snapshot, decides, carries out the plan, and publishes the status.
//!
//! Caches only show that there may be work. Each write of a record depends on a snapshot of the API server that is newer than the
//! record it replaces. So a stale cache, a slow process or a second controller can cost work, but does no harm.
//!
//! There is no leader: all controllers do all work. A write names the version that it replaces, so one of two concurrent writers
//! loses. At worst a secret is hashed twice. The end of a sign-in needs no Secret, so any controller may write it in the whole
//! cluster. Only a controller that may read the Secret makes a sign-in possible.

pub mod cleanup;
mod events;
mod execute;
mod failure;
mod finish;
mod memory;
mod patch;
mod peers;
mod policy;
mod reconcile;
mod scope;
mod scopes;
mod snapshot;
mod sweep;
mod verify;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::api::OAuthConsumer;
use crate::consumer::{Failure, FingerprintKey, Owner, SecretLimits};
use crate::hashing::HashPool;
use crate::store::{ConsumerStore, Controller, now};
use crate::telemetry::{Metrics, Readiness};
use events::Events;
pub use failure::message;
use memory::{Attempts, KnownHashes, OwnWrites};
use peers::Peers;
pub use policy::ApprovalProof;
use policy::PolicyChecks;
use scope::{Scope, scopes_of, within};
use scopes::Scopes;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Which cluster this is; part of every key.
    pub cluster_id: String,
    /// Whether that is the UID of the `kube-system` namespace, which the sweep can then compare.
    pub cluster_id_is_uid: bool,
    /// Which installation this is, where several share a store.
    pub installation: String,
    /// The namespaces to watch; none means all.
    pub namespaces: Vec<String>,
    pub limits: SecretLimits,
    /// Whether an approval counts only when the API server is known to enforce who may approve.
    pub approval_proof: ApprovalProof,
    /// How long the check of a namespace is valid.
    pub policy_check_lifetime: Duration,
    /// How often all records are compared with all objects.
    pub sweep_period: Duration,
    pub reconcile_timeout: Duration,
    /// The longest pause between two attempts at the same object.
    pub longest_pause: Duration,
}

/// What every reconcile needs.
pub struct Context {
    settings: Settings,
    scopes: Scopes,
    client: Client,
    store: Arc<dyn ConsumerStore>,
    hashing: HashPool,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    events: Events,
    fingerprints: FingerprintKey,
    known_hashes: KnownHashes,
    own_writes: OwnWrites,
    attempts: Attempts,
    policies: PolicyChecks,
    peers: Peers,
    /// Each reconcile takes one of these.
    slots: Semaphore,
}

/// The most reconciles at once. They mostly wait; hashing has its own limit.
const SLOTS: usize = 16;

/// The pause between two checks for the CRD.
const CRD_PAUSE: Duration = Duration::from_secs(2);

/// Runs the controller until the token is cancelled, and then finishes open work.
///
/// # Errors
/// If a part panicked. The other parts are shut down first.
pub async fn run(
    settings: Settings,
    client: Client,
    store: Arc<dyn ConsumerStore>,
    hashing: HashPool,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<(), JoinError> {
    if shutdown.run_until_cancelled(wait_for_crd(&settings, &client, &readiness)).await.is_none() {
        return Ok(());
    }
    let mut tasks = JoinSet::new();
    let (events, publisher) = Events::new(client.clone(), metrics.clone());
    tasks.spawn(publisher.run(shutdown.clone()));
    let controller = Controller {
        instance: Uuid::new_v4().to_string(),
        cluster_id: settings.cluster_id.clone(),
        installation: settings.installation.clone(),
        namespaces: settings.namespaces.clone(),
        period: settings.sweep_period,
    };
    let (mut scopes, mut sources) = (Vec::new(), Vec::new());
    for namespace in scopes_of(&settings.namespaces) {
        let (scope, feeds, queues) = Scope::new(&client, namespace);
        scopes.push(Arc::new(scope));
        sources.push((feeds, queues));
    }
    let ctx = Arc::new(Context {
        scopes: Scopes(scopes),
        attempts: Attempts::new(settings.longest_pause),
        settings,
        client,
        store,
        hashing,
        metrics,
        readiness,
        events,
        fingerprints: FingerprintKey::new(rand::random()),
        known_hashes: KnownHashes::default(),
        own_writes: OwnWrites::default(),
        policies: PolicyChecks::default(),
        peers: Peers::new(controller),
        slots: Semaphore::new(SLOTS),
    });

    for (scope, (feeds, queues)) in ctx.scopes.0.iter().zip(sources) {
        tasks.spawn(feeds.watch(scope.clone(), shutdown.clone()));
        tasks.spawn(reconcile::run(ctx.clone(), scope.clone(), queues.waiting, shutdown.clone()));
        tasks.spawn(reconcile::run_denials(ctx.clone(), scope.clone(), queues.denials, shutdown.clone()));
        tasks.spawn(until(shutdown.clone(), sweep::follow_deletions(ctx.clone(), queues.deleted)));
    }
    tasks.spawn(peers::run(ctx.clone(), shutdown.clone()));
    tasks.spawn(until(shutdown.clone(), sweep::run(ctx.clone())));
    tasks.spawn(until(shutdown.clone(), verify::run(ctx.clone())));
    tasks.spawn(until(shutdown.clone(), announce(ctx)));

    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err() {
            shutdown.cancel();
            result = ended;
        }
    }
    result
}

/// Runs a part that may be stopped at any await, because each of its writes is complete in itself.
async fn until(shutdown: CancellationToken, part: impl Future<Output = ()>) {
    shutdown.run_until_cancelled(part).await;
}

/// The UID of the `kube-system` namespace, which is used as the cluster's identity.
pub async fn cluster_uid(client: &Client) -> Result<String, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    Ok(namespaces.get("kube-system").await?.uid().unwrap_or_default())
}

/// Reports when all caches are filled.
async fn announce(ctx: Arc<Context>) {
    ctx.scopes.wait_until_ready().await;
    ctx.metrics.watching.set(1);
    ctx.readiness.met("watch");
    let namespaces = ctx.settings.namespaces.join(",");
    info!(namespaces = if namespaces.is_empty() { "all" } else { &namespaces }, "watching OAuthConsumers");
}

/// Waits until the API server serves `OAuthConsumer`s, and reports what is missing.
async fn wait_for_crd(settings: &Settings, client: &Client, readiness: &Readiness) {
    let api: Api<OAuthConsumer> = within(client, settings.namespaces.first().map(String::as_str));
    let first_only = ListParams::default().limit(1);
    loop {
        let what = match api.list_metadata(&first_only).await {
            Ok(_) => {
                readiness.met("crd");
                readiness.missing("watch", "waiting for the first list");
                return;
            }
            Err(error) if failure::has_code(&error, 404) => {
                "the CRD oauthconsumers.oauthconsumers.dev is missing; apply crds/oauthconsumers.yaml".to_owned()
            }
            Err(error) => format!("OAuthConsumers cannot be listed: {}", failure::message(&error)),
        };
        // Cause: the CRD is missing, or the API server does not answer or refuses.
        // Next step: read `cause`. Install the CRD, or correct the controller's rights.
        warn!(cause = what, "waiting until OAuthConsumers can be listed");
        readiness.missing("crd", what);
        tokio::time::sleep(CRD_PAUSE).await;
    }
}

// === impl Context ===

impl Context {
    /// Forgets objects that are gone.
    fn forget_all_but(&self, uids: &HashSet<String>) {
        self.known_hashes.retain(uids);
        self.own_writes.retain(uids);
        self.attempts.retain(uids);
    }

    /// Why records without an object may not be orphans. A list that shares no object with the records, or is of another cluster,
    /// is more likely a mistake.
    async fn doubt(&self, with_object: usize, missing: usize, limit: usize) -> Result<Option<&'static str>, Failure> {
        if missing > limit && with_object == 0 {
            return Ok(Some("none of the objects has a record"));
        }
        let is_other_cluster = missing > 0 && !self.is_same_cluster().await?;
        Ok(is_other_cluster.then_some("the UID of kube-system is not the cluster id of the records"))
    }

    /// Whether the API server still is that of the records' cluster.
    async fn is_same_cluster(&self) -> Result<bool, Failure> {
        if !self.settings.cluster_id_is_uid {
            return Ok(true);
        }
        let uid = cluster_uid(&self.client).await.map_err(|error| failure::api("get", "Namespace kube-system", &error))?;
        Ok(uid == self.settings.cluster_id)
    }

    fn owner(&self, uid: &str) -> Owner {
        Owner { cluster_id: self.settings.cluster_id.clone(), uid: uid.to_owned() }
    }
}
