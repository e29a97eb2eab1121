//! The sweep: compares all records with all objects, and puts right what no event told of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::mpsc;
use jiff::SignedDuration;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::observe::Look;
use super::reconcile::bury_if_gone;
use super::scope::Scope;
use super::{Context, now};
use crate::api::{OAuthConsumer, OAuthConsumerSpec, SecretReference};
use crate::consumer::{Failure, Outcome, Record, State, Stored, conclude, decide};
use crate::store::StoreError;

/// How long tombstones are kept: longer than any process sleeps and any backup is restored.
const TOMBSTONES: SignedDuration = SignedDuration::from_hours(90 * 24);

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
        match sweep.once().await {
            Ok(()) => {
                sweep.ctx.metrics.sweeps.inc();
            }
            Err(failure) => warn!(cause = %failure, "the sweep was not finished; it tries again next period"),
        }
    }
}

/// Looks after the records of objects that vanished without a reconcile: somebody took the finalizer off by force.
pub(super) async fn follow_deletions(
    ctx: Arc<Context>,
    deleted: mpsc::UnboundedReceiver<Arc<OAuthConsumer>>,
    shutdown: CancellationToken,
) {
    let follow = deleted.for_each(|object| {
        let ctx = ctx.clone();
        async move {
            if let Err(failure) = bury_if_gone(&ctx, object.clone()).await {
                warn!(object = object.name_any(), cause = %failure, "the record of a deleted object is left to the sweep");
            }
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
        let ctx = self.ctx.clone();
        let (cluster_id, installation) = (&ctx.settings.cluster_id, &ctx.settings.installation);
        let records = ctx.store.live(cluster_id, installation).await?;
        ctx.metrics.records.set(i64::try_from(records.len()).unwrap_or(i64::MAX));
        let total = records.len();
        let mut records: HashMap<String, Stored> =
            records.into_iter().map(|stored| (stored.record.owner.uid.clone(), stored)).collect();

        let mut present = HashSet::new();
        for scope in &self.scopes {
            for object in scope.objects.state() {
                let uid = object.uid().unwrap_or_default();
                let record = records.remove(&uid);
                let reference = ObjectRef::from_obj(&*object);
                if has_work(&Look::glance(&ctx.settings, scope, object, record)) {
                    scope.enqueue(reference);
                }
                present.insert(uid);
            }
        }
        ctx.forget_all_but(&present);
        self.remove_orphans(records.into_values().collect(), total).await?;
        let dropped = ctx.store.drop_tombstones(cluster_id, installation, now() - TOMBSTONES).await?;
        if dropped > 0 {
            info!(dropped, "dropped tombstones older than 90 days");
        }
        Ok(())
    }

    /// Removes records whose objects are gone. An object counts as gone when two complete lists in a row lacked it, the
    /// cluster is still the same, and a look says so. No more than a few are removed per period, and none by a list that
    /// shares nothing with the records: such a list is more likely a mistake than the truth.
    async fn remove_orphans(&mut self, unclaimed: Vec<Stored>, total: usize) -> Result<(), Failure> {
        let claimed = total - unclaimed.len();
        let (ours, foreign): (Vec<_>, Vec<_>) =
            unclaimed.into_iter().partition(|stored| self.scopes.iter().any(|scope| scope.covers(&stored.record.namespace)));
        for stored in foreign {
            self.disable(stored).await?;
        }
        let listed = if ours.is_empty() { HashMap::new() } else { self.ctx.list(&self.scopes).await? };
        let mut orphans: Vec<_> = ours.into_iter().filter(|stored| !listed.contains_key(&stored.record.owner.uid)).collect();
        let absent_before = std::mem::replace(&mut self.absent, orphans.iter().map(|s| s.record.owner.uid.clone()).collect());
        orphans.retain(|stored| absent_before.contains(&stored.record.owner.uid));

        let metrics = &self.ctx.metrics;
        let (found, limit) = (orphans.len(), (total / 20).max(5));
        let doubt = if found > limit && claimed == 0 {
            Some("no object at all has a record")
        } else if found > 0 && !self.ctx.is_same_cluster().await? {
            Some("the UID of kube-system is not the cluster id of the records")
        } else {
            None
        };
        metrics.orphans.set(i64::try_from(found).unwrap_or(i64::MAX));
        metrics.sweep_guard.set(i64::from(found > limit || doubt.is_some()));
        if let Some(doubt) = doubt {
            error!(orphans = found, doubt, "records lack an object, and nothing is removed; is this the right cluster?");
            return Ok(());
        }
        if found > limit {
            error!(
                orphans = found,
                limit, "more records lack an object than one sweep removes; was something deleted by mistake?"
            );
        }
        for stored in orphans.into_iter().take(limit) {
            let (namespace, name) = (stored.record.namespace.clone(), stored.record.object.clone());
            match bury_if_gone(&self.ctx, Arc::new(namesake(&stored.record))).await {
                Ok(()) => {
                    metrics.orphans.dec();
                }
                Err(failure) => warn!(namespace, name, cause = %failure, "a record without an object could not be removed"),
            }
        }
        Ok(())
    }

    /// Nobody looks after this record's object any more: it must not stay open.
    async fn disable(&self, stored: Stored) -> Result<(), Failure> {
        if stored.record.state == State::OutOfScope {
            return Ok(());
        }
        let (namespace, name) = (stored.record.namespace.clone(), stored.record.object.clone());
        let version = stored.version;
        match self.ctx.store.write(stored.out_of_scope(), Some(version), now()).await {
            Ok(_) => warn!(namespace, name, "the namespace is no longer watched: sign-in is disabled until it is"),
            Err(StoreError::Swapped) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Whether a reconcile would find anything to write, as far as the caches tell.
fn has_work(look: &Look) -> bool {
    if !decide(&look.seen).is_empty() {
        return true;
    }
    let outcome = Outcome { record: look.seen.record.clone(), ..Outcome::default() };
    conclude(&look.seen, &outcome).statement.is_some_and(|statement| look.status_to_write(&statement).is_some())
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
