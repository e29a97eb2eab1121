//! The sweep: compares all records with all objects, and puts right what no event told of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use jiff::SignedDuration;
use kube::api::{ListParams, ObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::observe::Look;
use super::reconcile::bury_if_gone;
use super::scope::{Scope, within};
use super::{Context, cluster_uid, failure, now};
use crate::api::{OAuthConsumer, OAuthConsumerSpec, SecretReference};
use crate::consumer::{Failure, Outcome, Record, State, Stored, conclude, decide};
use crate::store::{Head, StoreError};

/// How long tombstones are kept: longer than any process sleeps and any backup is restored.
const TOMBSTONES: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The pause after a sweep that failed, at most.
const RETRY: Duration = Duration::from_secs(2);

/// How often a store is asked whether it is still in the life that its records were compared in.
const VIGILANCE: Duration = Duration::from_secs(1);

/// The pause between two comparisons while the reconciles catch up, and how many there are before doubtful records are closed.
const COMPARISON: Duration = Duration::from_millis(200);
const COMPARISONS: u32 = 25;

/// Objects asked for at a time.
const PAGE: u32 = 500;

/// Sweeps every period until told to stop.
pub(super) async fn run(ctx: Arc<Context>, scopes: Vec<Arc<Scope>>, shutdown: CancellationToken) {
    for scope in &scopes {
        tokio::select! { () = scope.wait_until_ready() => {}, () = shutdown.cancelled() => return }
    }
    let mut sweep = Sweep { ctx, scopes, absent: HashSet::new(), head: None, comparisons: 0 };
    loop {
        let pause = match sweep.once().await {
            Ok(()) => {
                sweep.ctx.metrics.sweeps.inc();
                sweep.pause()
            }
            Err(failure) => {
                warn!(cause = %failure, "the sweep was not finished; it tries again");
                sweep.ctx.settings.sweep_period.min(RETRY)
            }
        };
        tokio::select! { () = sweep.rest(pause) => {}, () = shutdown.cancelled() => return }
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
    /// The store's head at the last sweep.
    head: Option<Head>,
    /// Comparisons so far that did not end in vouching; 0 when there is nothing to vouch for.
    comparisons: u32,
}

// === impl Sweep ===

impl Sweep {
    async fn once(&mut self) -> Result<(), Failure> {
        let ctx = self.ctx.clone();
        let (cluster_id, installation) = (&ctx.settings.cluster_id, &ctx.settings.installation);
        let is_vouched_for = self.is_vouched_for().await?;
        let records = ctx.store.live(cluster_id, installation).await?;
        ctx.metrics.records.set(i64::try_from(records.len()).unwrap_or(i64::MAX));
        let total = records.len();
        let mut records: HashMap<String, Stored> =
            records.into_iter().map(|stored| (stored.record.owner.uid.clone(), stored)).collect();

        let (mut present, mut doubtful) = (HashSet::new(), Vec::new());
        for scope in &self.scopes {
            for object in scope.objects.state() {
                let uid = object.uid().unwrap_or_default();
                let record = records.remove(&uid);
                let reference = ObjectRef::from_obj(&*object);
                let look = Look::glance(&ctx.settings, scope, object, record);
                if has_work(&look) {
                    scope.enqueue(reference);
                }
                let differs = decide(&look.seen).writes_record();
                doubtful.extend(look.seen.record.filter(|stored| stored.admits() && differs));
                present.insert(uid);
            }
        }
        ctx.forget_all_but(&present);
        let orphans = self.remove_orphans(records.into_values().collect(), total).await?;
        if !is_vouched_for {
            self.vouch(orphans, doubtful).await?;
        }
        let dropped = ctx.store.drop_tombstones(cluster_id, installation, now() - TOMBSTONES).await?;
        if dropped > 0 {
            info!(dropped, "dropped tombstones older than 90 days");
        }
        Ok(())
    }

    /// Whether the records have been compared with their objects in this life of the store: since it was restored, failed over,
    /// or (SQLite) was opened.
    async fn is_vouched_for(&mut self) -> Result<bool, Failure> {
        let ctx = &self.ctx;
        let head = ctx.store.head().await?;
        let went_back = self.head.replace(head.clone()).is_some_and(|before| {
            (before.store_id, before.incarnation) == (head.store_id, head.incarnation) && before.head > head.head
        });
        let vouched = ctx.store.is_vouched_for(&ctx.settings.cluster_id, &ctx.settings.installation).await?;
        Ok(vouched && !went_back && self.comparisons == 0)
    }

    /// Vouches for the records, so that those who are approved can sign in: closes those without an object, gives the others
    /// some time to be put right by reconciles, and closes those that could not be.
    async fn vouch(&mut self, orphans: Option<Vec<Stored>>, doubtful: Vec<Stored>) -> Result<(), Failure> {
        self.comparisons += 1;
        let Some(orphans) = orphans else {
            // Without a list that can be believed there is nothing to compare with, and no hurry.
            self.comparisons = COMPARISONS;
            return Ok(());
        };
        if !doubtful.is_empty() && self.comparisons < COMPARISONS {
            return Ok(());
        }
        let (ctx, closed) = (self.ctx.clone(), orphans.len() + doubtful.len());
        for stored in orphans.into_iter().chain(doubtful) {
            let version = stored.version;
            match ctx.store.write(stored.out_of_scope(), Some(version), now()).await {
                Ok(_) => {}
                // Whoever wrote has looked; the next comparison sees what it is now.
                Err(StoreError::Swapped) => {
                    self.comparisons = COMPARISONS - 1;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        ctx.store.vouch(&ctx.settings.cluster_id, &ctx.settings.installation).await?;
        info!(comparisons = self.comparisons, closed, "all records have been compared with their objects: they count now");
        self.comparisons = 0;
        Ok(())
    }

    fn pause(&self) -> Duration {
        if (1..COMPARISONS).contains(&self.comparisons) { COMPARISON } else { self.ctx.settings.sweep_period }
    }

    /// Rests until the next sweep, which comes early when the store has failed over or was restored.
    async fn rest(&self, pause: Duration) {
        let (settings, until) = (&self.ctx.settings, Instant::now() + pause);
        loop {
            sleep_until(until.min(Instant::now() + VIGILANCE)).await;
            if Instant::now() >= until {
                return;
            }
            if self.comparisons > 0 {
                continue;
            }
            let vouched = self.ctx.store.is_vouched_for(&settings.cluster_id, &settings.installation).await;
            if vouched.is_ok_and(|vouched| !vouched) {
                return;
            }
        }
    }

    /// Removes records whose objects are gone. An object counts as gone when two complete lists in a row lacked it, the
    /// cluster is still the same, and a look says so. No more than a few are removed per period, and none by a list that
    /// shares nothing with the records: such a list is more likely a mistake than the truth.
    ///
    /// Answers the records without an object that would still open; none if the list is in doubt.
    async fn remove_orphans(&mut self, unclaimed: Vec<Stored>, total: usize) -> Result<Option<Vec<Stored>>, Failure> {
        let claimed = total - unclaimed.len();
        let (ours, foreign): (Vec<_>, Vec<_>) =
            unclaimed.into_iter().partition(|stored| self.scopes.iter().any(|scope| scope.covers(&stored.record.namespace)));
        for stored in foreign {
            self.disable(stored).await?;
        }
        let listed = if ours.is_empty() { HashSet::new() } else { self.list_uids().await? };
        let mut orphans: Vec<_> = ours.into_iter().filter(|stored| !listed.contains(&stored.record.owner.uid)).collect();
        let mut open: Vec<_> = orphans.iter().filter(|stored| stored.admits()).cloned().collect();
        let absent_before = std::mem::replace(&mut self.absent, orphans.iter().map(|s| s.record.owner.uid.clone()).collect());
        orphans.retain(|stored| absent_before.contains(&stored.record.owner.uid));

        let metrics = &self.ctx.metrics;
        let (found, limit) = (orphans.len(), (total / 20).max(5));
        let doubt = if found.max(open.len()) > limit && claimed == 0 {
            Some("no object at all has a record")
        } else if found.max(open.len()) > 0 && !self.is_same_cluster().await? {
            Some("the UID of kube-system is not the cluster id of the records")
        } else {
            None
        };
        metrics.orphans.set(i64::try_from(found).unwrap_or(i64::MAX));
        metrics.sweep_guard.set(i64::from(found > limit || doubt.is_some()));
        if let Some(doubt) = doubt {
            error!(orphans = found, doubt, "records lack an object, and nothing is removed; is this the right cluster?");
            return Ok(None);
        }
        if found > limit {
            error!(
                orphans = found,
                limit, "more records lack an object than one sweep removes; was something deleted by mistake?"
            );
        }
        for stored in orphans.into_iter().take(limit) {
            let (namespace, name) = (stored.record.namespace.clone(), stored.record.object.clone());
            let owner = stored.record.owner.clone();
            match bury_if_gone(&self.ctx, Arc::new(namesake(&stored.record))).await {
                Ok(()) => {
                    metrics.orphans.dec();
                    open.retain(|left| left.record.owner != owner);
                }
                Err(failure) => warn!(namespace, name, cause = %failure, "a record without an object could not be removed"),
            }
        }
        Ok(Some(open))
    }

    /// The UIDs of all objects in scope, by complete, consistent lists.
    async fn list_uids(&self) -> Result<HashSet<String>, Failure> {
        let mut uids = HashSet::new();
        for scope in &self.scopes {
            let api: Api<OAuthConsumer> = within(&self.ctx.client, scope.namespace.as_deref());
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
