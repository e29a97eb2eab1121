//! The sweep: compares all records with all objects, and puts right what no event told of.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, ObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::observe::Look;
use super::reconcile::bury_if_gone;
use super::scope::Scope;
use super::{Context, failure, now};
use crate::api::{OAuthConsumer, OAuthConsumerSpec, SecretReference, render, same_but_for_times};
use crate::consumer::{Failure, Outcome, Record, State, Stored, conclude, decide};
use crate::store::StoreError;

/// How long tombstones are kept: longer than any process sleeps and any backup is restored.
const TOMBSTONES: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Objects asked for at a time.
const PAGE: u32 = 500;

/// Sweeps every period until told to stop.
pub(super) async fn run(ctx: Arc<Context>, scopes: Vec<Arc<Scope>>, shutdown: CancellationToken) {
    for scope in &scopes {
        tokio::select! { () = scope.wait_until_ready() => {}, () = shutdown.cancelled() => return }
    }
    let mut sweep = Sweep { ctx, scopes, absent: HashSet::new() };
    let mut period = interval(sweep.ctx.settings.sweep_period);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = period.tick() => {}, () = shutdown.cancelled() => return }
        if let Err(failure) = sweep.once().await {
            warn!(cause = %failure, "the sweep was not finished; it tries again next period");
        }
    }
}

/// Looks after the records of objects that vanished without a reconcile: somebody took the finalizer off by force.
pub(super) async fn follow_deletions(ctx: Arc<Context>, scope: Arc<Scope>, shutdown: CancellationToken) {
    let Some(deletions) = scope.deletions.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let follow = deletions.for_each(|object| {
        let ctx = ctx.clone();
        async move {
            if let Err(failure) = bury_if_gone(&ctx, object.clone()).await {
                warn!(object = object.name_any(), cause = %failure, "the record of a deleted object is left to the sweep");
            }
            let uid = object.uid().unwrap_or_default();
            ctx.own_writes.forget(&uid);
            ctx.known_hashes.forget(&uid);
            ctx.attempts.succeeded(&uid);
        }
    });
    tokio::select! { () = follow => {}, () = shutdown.cancelled() => {} }
}

struct Sweep {
    ctx: Arc<Context>,
    scopes: Vec<Arc<Scope>>,
    /// The UIDs that had a record and were in no list, last time.
    absent: HashSet<String>,
}

// === impl Sweep ===

impl Sweep {
    async fn once(&mut self) -> Result<(), Failure> {
        let settings = &self.ctx.settings;
        let records = self.ctx.store.live(&settings.cluster_id, &settings.installation).await?;
        self.ctx.metrics.records.set(i64::try_from(records.len()).unwrap_or(i64::MAX));
        let total = records.len();
        let mut records: HashMap<String, Stored> =
            records.into_iter().map(|stored| (stored.record.owner.uid.clone(), stored)).collect();

        for scope in &self.scopes {
            for object in scope.objects.state() {
                let record = object.uid().and_then(|uid| records.remove(&uid));
                let reference = ObjectRef::from_obj(&*object);
                if Self::has_work(&Look::glance(settings, scope, object, record)) {
                    scope.enqueue(reference);
                }
            }
        }
        self.remove_orphans(records.into_values().collect(), total).await?;
        let dropped = self.ctx.store.drop_tombstones(Timestamp::now() - TOMBSTONES).await?;
        if dropped > 0 {
            info!(dropped, "dropped tombstones older than 90 days");
        }
        Ok(())
    }

    /// Whether a reconcile would find anything to write, as far as the caches tell.
    fn has_work(look: &Look) -> bool {
        if !decide(&look.seen).is_empty() {
            return true;
        }
        let outcome = Outcome { record: look.seen.record.clone(), ..Outcome::default() };
        let old = look.object.status.clone().unwrap_or_default();
        conclude(&look.seen, &outcome).statement.is_some_and(|statement| {
            let generation = look.object.metadata.generation.unwrap_or_default();
            !same_but_for_times(&old, &render(&old, &statement, generation, now()))
        })
    }

    /// Removes records whose objects are gone. An object counts as gone when two complete lists in a row lacked it, the
    /// cluster is still the same, and a look says so. No more than a few are removed per period: a list that lacks
    /// everything is more likely a mistake than the truth.
    async fn remove_orphans(&mut self, unclaimed: Vec<Stored>, total: usize) -> Result<(), Failure> {
        let (ours, foreign): (Vec<_>, Vec<_>) =
            unclaimed.into_iter().partition(|stored| self.scopes.iter().any(|scope| scope.covers(&stored.record.namespace)));
        for stored in foreign {
            self.disable(stored).await?;
        }
        let mut orphans = Vec::new();
        if !ours.is_empty() {
            let listed = self.list_uids().await?;
            orphans = ours.into_iter().filter(|stored| !listed.contains(&stored.record.owner.uid)).collect();
        }
        let absent_before = std::mem::replace(&mut self.absent, orphans.iter().map(|s| s.record.owner.uid.clone()).collect());
        orphans.retain(|stored| absent_before.contains(&stored.record.owner.uid));

        let limit = (total / 20).max(5);
        let too_many = orphans.len() > limit;
        self.ctx.metrics.sweep_guard.set(i64::from(too_many));
        if too_many {
            error!(
                orphans = orphans.len(),
                limit,
                "more records lack an object than one sweep may remove; check that this is the right cluster and that nothing was deleted by mistake"
            );
        }
        if !orphans.is_empty() && !self.is_same_cluster().await? {
            error!("this is another cluster than the records belong to; nothing is removed");
            return Ok(());
        }
        let mut left = orphans.len();
        for stored in orphans.into_iter().take(limit) {
            bury_if_gone(&self.ctx, Arc::new(namesake(&stored.record))).await?;
            left -= 1;
        }
        self.ctx.metrics.orphans.set(i64::try_from(left).unwrap_or(i64::MAX));
        Ok(())
    }

    /// The UIDs of all objects in scope, by complete, consistent lists.
    async fn list_uids(&self) -> Result<HashSet<String>, Failure> {
        let mut uids = HashSet::new();
        for scope in &self.scopes {
            let api: Api<OAuthConsumer> = match &scope.namespace {
                Some(namespace) => Api::namespaced(self.ctx.client.clone(), namespace),
                None => Api::all(self.ctx.client.clone()),
            };
            let mut params = ListParams::default().limit(PAGE);
            loop {
                let page = api.list_metadata(&params).await.map_err(|error| failure::api("list", "OAuthConsumers", &error))?;
                uids.extend(page.items.iter().filter_map(ResourceExt::uid));
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(uids)
    }

    async fn is_same_cluster(&self) -> Result<bool, Failure> {
        if !self.ctx.settings.cluster_id_is_uid {
            return Ok(true);
        }
        let uid = cluster_uid(&self.ctx.client).await.map_err(|error| failure::api("get", "Namespace kube-system", &error))?;
        Ok(uid == self.ctx.settings.cluster_id)
    }

    /// Nobody looks after this record's object any more: it must not stay open.
    async fn disable(&self, stored: Stored) -> Result<(), Failure> {
        if stored.record.state == State::OutOfScope {
            return Ok(());
        }
        let (namespace, name) = (stored.record.namespace.clone(), stored.record.object.clone());
        let record = Record { state: State::OutOfScope, ..stored.record };
        match self.ctx.store.write(record, Some(stored.version), now()).await {
            Ok(_) => warn!(namespace, name, "the namespace is no longer watched: sign-in is disabled until it is"),
            Err(StoreError::Swapped) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// The object that a record says it belongs to, to look for.
fn namesake(record: &Record) -> OAuthConsumer {
    OAuthConsumer {
        metadata: ObjectMeta {
            namespace: Some(record.namespace.clone()),
            name: Some(record.object.clone()),
            uid: Some(record.owner.uid.clone()),
            ..ObjectMeta::default()
        },
        spec: OAuthConsumerSpec {
            name: record.name.clone(),
            secret_ref: SecretReference { name: String::new(), key: String::new() },
            approved: None,
            hold: None,
            consumer_key: None,
        },
        status: None,
    }
}

/// The UID of the `kube-system` namespace, which stands for the cluster.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn cluster_uid(client: &kube::Client) -> Result<String, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    Ok(namespaces.get("kube-system").await?.uid().unwrap_or_default())
}
