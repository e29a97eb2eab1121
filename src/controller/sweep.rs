//! The sweep: compares all records with all objects, and repairs what no event reported.
//!
//! A wrong removal would be its worst mistake. So it removes a record only if two complete lists and a read confirm that the
//! object is gone. It removes a few at a time, and none while the cluster is in doubt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::mpsc;
use jiff::SignedDuration;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::execute::{Purpose, close_unseen};
use super::finish::finish;
use super::reconcile::deny_anywhere;
use super::snapshot::Snapshot;
use super::{Context, now};
use crate::api::{OAuthConsumer, OAuthConsumerSpec};
use crate::consumer::{Failure, Outcome, Record, State, Stored, conclude, decide};
use crate::store::{Head, KeepTombstones, OpenRecords};

/// How long a tombstone stays that [reserves its key](Record::reserves_key).
const KEEP_RESERVED: SignedDuration = SignedDuration::from_hours(90 * 24);

/// How long all others stay. A controller that was paused for longer finds its insert refused: see [`Replaces::NothingAt`].
const KEEP_OTHERS: SignedDuration = SignedDuration::from_hours(1);

/// The most of those for a cluster, so that a tenant cannot fill the store by creating and deleting objects.
const MOST_TOMBSTONES: u32 = 10_000;

/// Tombstones that are deleted at a time. Other writes wait for it.
const TOMBSTONE_BATCH: u32 = 500;

pub(super) async fn run(ctx: Arc<Context>) {
    ctx.scopes.wait_until_ready().await;
    let mut sweep = Sweep { ctx, orphans: Default::default(), unattended: 0, unfinished: Vec::new() };
    let mut period = interval(sweep.ctx.settings.sweep_period);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        match sweep.once().await {
            Ok(()) => {
                sweep.ctx.metrics.sweeps.inc();
            }
            // Cause: the store or the API server fails.
            // Next step: none if it passes. Else read `cause`.
            Err(failure) => warn!(cause = %failure, "a sweep was not finished; the next one tries again"),
        }
    }
}

/// Removes the records of objects that were deleted without a reconcile, because their finalizer was removed by force.
pub(super) async fn follow_deletions(ctx: Arc<Context>, mut deleted: mpsc::UnboundedReceiver<Arc<OAuthConsumer>>) {
    while let Some(object) = deleted.next().await {
        if let Err(failure) = deny_anywhere(&ctx, object.clone()).await {
            // Cause: the store or the API server fails.
            // Next step: none if it passes. Else read `cause`.
            warn!(object = object.name_any(), cause = %failure, "the record of a deleted object was not removed; the next sweep tries again");
        }
    }
}

struct Sweep {
    ctx: Arc<Context>,
    /// Inside and outside of the scopes. Each has its own guard, so that records of other installations do not raise the limit
    /// for ours.
    orphans: [Orphans; 2],
    /// How many records no running controller managed in the last sweep.
    unattended: i64,
    /// Objects outside the scopes that failed in the last sweep. Their records may be tombstones by now, which no sweep reads.
    unfinished: Vec<Arc<OAuthConsumer>>,
}

const INSIDE: usize = 0;
const OUTSIDE: usize = 1;

/// What the last sweep knew of records without an object.
#[derive(Default)]
struct Orphans {
    /// The UIDs that had a record and were in no list.
    absent: HashSet<String>,
    /// How many were not removed.
    left: i64,
    /// Whether the guard limited or stopped the removal.
    is_guarded: bool,
}

// === impl Sweep ===

impl Sweep {
    /// Runs all parts, even if one fails. Returns the first failure, and logs the others.
    async fn once(&mut self) -> Result<(), Failure> {
        let compared = self.compare().await;
        let dropped = self.drop_tombstones().await;
        let reported = self.report_unattended().await;
        self.report_secrets().await;
        let mut failures = [compared, dropped, reported].into_iter().filter_map(Result::err);
        let first = failures.next();
        // Cause: the store or the API server fails.
        // Next step: none if it passes. Else read `cause`.
        failures.for_each(|failure| warn!(cause = %failure, "a part of a sweep was not finished; the next sweep tries again"));
        first.map_or(Ok(()), Err)
    }

    async fn compare(&mut self) -> Result<(), Failure> {
        let ctx = self.ctx.clone();
        // Records are read first, so that lists are newer. A cache may be older, but each write reads its object again.
        let records = ctx.store.live(&ctx.settings.cluster_id).await?;
        ctx.metrics.records.set(i64::try_from(records.len()).unwrap_or(i64::MAX));
        let is_inside = |stored: &Stored| ctx.scopes.covers(&stored.record.namespace);
        let (inside, outside): (Vec<_>, Vec<_>) = records.into_iter().partition(is_inside);
        let (count_inside, count_outside) = (inside.len(), outside.len());
        let floor = ctx.settings.limits.floor();
        let below_floor = inside.iter().filter(|s| s.record.phc().is_some() && s.record.secret_floor < floor).count();
        ctx.metrics.secrets_below_floor.set(i64::try_from(below_floor).unwrap_or(i64::MAX));

        let mut unclaimed: HashMap<String, Stored> =
            inside.into_iter().map(|stored| (stored.record.owner.uid.clone(), stored)).collect();
        let mut present = HashSet::new();
        for (scope, object) in ctx.scopes.cached() {
            let uid = object.uid().unwrap_or_default();
            let record = unclaimed.remove(&uid);
            let reference = ObjectRef::from_obj(&*object);
            if has_work(&Snapshot::cached(&ctx, scope, object, (Head::default(), record))) {
                scope.enqueue(reference);
            }
            present.insert(uid);
        }
        ctx.forget_all_but(&present);
        // If one list fails, the other is still used.
        let inside = match self.without_object(unclaimed.into_values().collect()).await {
            Ok(orphans) => self.remove_orphans(INSIDE, orphans, count_inside).await,
            Err(failure) => Err(failure),
        };
        let outside = match self.look_outside(outside).await {
            Ok(orphans) => self.remove_orphans(OUTSIDE, orphans, count_outside).await,
            Err(failure) => Err(failure),
        };
        let sum = |of: fn(&Orphans) -> i64| self.orphans.iter().map(of).sum::<i64>();
        ctx.metrics.orphans.set(sum(|orphans| orphans.left));
        ctx.metrics.sweep_guard.set(i64::from(sum(|orphans| i64::from(orphans.is_guarded)) > 0));
        inside.and(outside)
    }

    /// The records whose objects are also missing from a complete list.
    async fn without_object(&self, mut records: Vec<Stored>) -> Result<Vec<Stored>, Failure> {
        if !records.is_empty() {
            let listed = self.ctx.scopes.list(&self.ctx.client).await?;
            records.retain(|stored| !listed.contains_key(&stored.record.owner.uid));
        }
        Ok(records)
    }

    /// Compares the records outside the scopes. Closes those that this installation has given up, and ends sign-ins for any
    /// controller. Returns the records without an object.
    async fn look_outside(&mut self, records: Vec<Stored>) -> Result<Vec<Stored>, Failure> {
        for object in std::mem::take(&mut self.unfinished) {
            self.end_outside(object).await;
        }
        if records.is_empty() {
            return Ok(records);
        }
        let mut closed = Vec::new();
        for stored in records {
            let stored = if self.ctx.peers.has_given_up(&stored) { self.close(stored).await } else { stored };
            closed.push(stored);
        }
        let mut objects = self.ctx.scopes.list_outside(&self.ctx.client).await?;
        let mut orphans = Vec::new();
        for stored in closed {
            let Some(object) = objects.remove(&stored.record.owner.uid).map(Arc::new) else {
                orphans.push(stored);
                continue;
            };
            let view = object.observed();
            if view.deleting || (stored.allows_signin() && !view.allows_signin()) {
                self.end_outside(object).await;
            } else if stored.record.state == State::OutOfScope && self.ctx.peers.has_given_up(&stored) {
                let outcome = Outcome { record: Some(stored.clone()), ..Outcome::default() };
                let snapshot = Snapshot::listed(&self.ctx, object, (Head::default(), Some(stored)));
                finish(&self.ctx, snapshot, outcome, Purpose::Reconcile).await;
            }
        }
        Ok(orphans)
    }

    async fn end_outside(&mut self, object: Arc<OAuthConsumer>) {
        if let Err(failure) = deny_anywhere(&self.ctx, object.clone()).await {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            // Cause: the store or the API server fails.
            // Next step: none if it passes. Else read `cause`, and [stop the consumer](../how-to/stop.md).
            warn!(namespace, name, cause = %failure, "the sign-in of a consumer outside the managed namespaces was not ended; the next sweep tries again");
            self.unfinished.push(object);
        }
    }

    /// Removes records whose objects are gone: two complete lists in a row lack the object, the cluster is still the same, and a
    /// last read confirms it. Removes only a few per period.
    async fn remove_orphans(&mut self, side: usize, mut orphans: Vec<Stored>, total: usize) -> Result<(), Failure> {
        let claimed = total - orphans.len();
        let uids = orphans.iter().map(|stored| stored.record.owner.uid.clone()).collect();
        let absent_before = std::mem::replace(&mut self.orphans[side].absent, uids);
        orphans.retain(|stored| absent_before.contains(&stored.record.owner.uid));

        let (found, limit) = (orphans.len(), (total / 20).max(5));
        let doubt = self.ctx.doubt(claimed, found, limit).await?;
        self.orphans[side].left = i64::try_from(found).unwrap_or(i64::MAX);
        self.orphans[side].is_guarded = found > limit || doubt.is_some();
        if let Some(doubt) = doubt {
            // Cause: the controller asks another cluster, or all objects are gone. `doubt` says which.
            // Next step: [check the cluster](../how-to/monitor.md#when-the-sweep-removes-nothing).
            error!(
                orphans = found,
                doubt, "records have no object, and the sweep removes none; check that this is the right cluster"
            );
            return Ok(());
        }
        if found > limit {
            // Cause: many objects were deleted without their finalizer.
            // Next step: [check whether the records may go](../how-to/monitor.md#when-the-sweep-removes-nothing).
            error!(
                orphans = found,
                limit, "more records have no object than one sweep removes; check that no objects were deleted by mistake"
            );
        }
        for stored in orphans.into_iter().take(limit) {
            let (namespace, name) = (stored.record.namespace.clone(), stored.record.object.clone());
            match deny_anywhere(&self.ctx, Arc::new(object_of(&stored.record))).await {
                Ok(()) => self.orphans[side].left -= 1,
                Err(failure) => {
                    // Cause: the store or the API server fails.
                    // Next step: none if it passes. Else read `cause`.
                    warn!(namespace, name, cause = %failure, "a record without an object was not removed; the next sweep tries again");
                }
            }
        }
        Ok(())
    }

    /// Closes a record that this installation has given up, and returns it. The next sweep retries a failure.
    async fn close(&self, stored: Stored) -> Stored {
        if stored.record.state == State::OutOfScope {
            return stored;
        }
        let (namespace, name) = (stored.record.namespace.clone(), stored.record.object.clone());
        match close_unseen(&self.ctx, stored.clone()).await {
            Ok(Some(closed)) => {
                // Cause: the namespace was taken out of `--namespaces`.
                // Next step: none if that was meant. Else add the namespace again, or [move it](../how-to/installations.md#move-a-namespace).
                warn!(namespace, name, "this installation no longer manages the namespace, so the consumer's sign-in is refused");
                closed
            }
            Ok(None) => stored,
            Err(cause) => {
                // Cause: the store fails.
                // Next step: none if it passes. Else read `cause`.
                warn!(namespace, name, %cause, "the sign-in of a consumer that is no longer managed was not ended; the next sweep tries again");
                stored
            }
        }
    }

    async fn drop_tombstones(&self) -> Result<(), Failure> {
        let keep = KeepTombstones {
            reserved_since: now() - KEEP_RESERVED,
            others_since: now() - KEEP_OTHERS,
            at_most: MOST_TOMBSTONES,
            batch: TOMBSTONE_BATCH,
        };
        let mut dropped = 0;
        loop {
            let batch = self.ctx.store.drop_tombstones(&self.ctx.settings.cluster_id, &keep).await?;
            dropped += batch;
            if batch < TOMBSTONE_BATCH as usize {
                break;
            }
        }
        if dropped > 0 {
            info!(dropped, "old tombstones were deleted");
        }
        Ok(())
    }

    /// Reports where Secrets cannot be listed.
    async fn report_secrets(&self) {
        let mut refused = Vec::new();
        for scope in &self.ctx.scopes.0 {
            scope.ask_for_secrets(&self.ctx.client).await;
            if let Some(why) = scope.secrets_refused() {
                refused.push(format!("{}: {why}", scope.namespace.as_deref().unwrap_or("all namespaces")));
            }
        }
        self.ctx.metrics.secrets_unreadable.set(i64::try_from(refused.len()).unwrap_or(i64::MAX));
        let note = (!refused.is_empty()).then(|| {
            format!(
                "these cannot be listed or watched, so accepted secrets stay in use and changes are not noticed; grant get, list and \
                 watch, or take a deleted namespace out of --namespaces ({})",
                refused.join("; ")
            )
        });
        self.ctx.readiness.note("secrets", note);
    }

    /// Reports records that let consumers in although no running controller manages them. They stay open: an upgrade of their
    /// controller must not end sign-ins.
    async fn report_unattended(&mut self) -> Result<(), Failure> {
        let unattended = self.ctx.peers.unattended(self.ctx.store.open_records().await?);
        let count = unattended.iter().map(|records| records.count).sum();
        self.ctx.metrics.records_unattended.set(count);
        if count == self.unattended {
            return Ok(());
        }
        self.unattended = count;
        for OpenRecords { cluster_id, namespace, installation, count } in unattended {
            // Cause: their controller is gone for good, or pauses.
            // Next step: start their controller, or [add the namespace to an installation](../how-to/installations.md#what-a-shared-store-means).
            warn!(
                cluster_id,
                namespace,
                installation,
                count,
                "no running controller manages these consumers, which can sign in; add the namespace to an installation, or delete them"
            );
        }
        Ok(())
    }
}

/// Whether a reconcile would write anything, as far as the caches show.
fn has_work(snapshot: &Snapshot) -> bool {
    if !decide(&snapshot.seen).is_ok_and(|plan| plan.is_empty()) {
        return true;
    }
    let outcome = Outcome { record: snapshot.seen.record.clone(), ..Outcome::default() };
    conclude(&snapshot.seen, &outcome).status.is_some_and(|status| snapshot.status_to_write(&status).is_some())
}

/// The object of a record, with namespace, name and UID only.
fn object_of(record: &Record) -> OAuthConsumer {
    OAuthConsumer {
        metadata: ObjectMeta {
            namespace: Some(record.namespace.clone()),
            name: Some(record.object.clone()),
            uid: Some(record.owner.uid.clone()),
            ..ObjectMeta::default()
        },
        spec: OAuthConsumerSpec::default(),
        status: None,
    }
}
