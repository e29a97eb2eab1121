//! Verification: compares the records with their objects in a new epoch of the store.
//!
//! After a restore, or a failover that lost commits, a record may allow a sign-in that its object forbids. So no record allows
//! one until all are compared. A SQLite file begins a new epoch whenever a controller opens it, because the file may have been
//! replaced.
//!
//! Verification is not part of a sweep: it has to be quick, and sweeps are rare. Each installation verifies its own records,
//! because only it can compare them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::Context;
use super::execute::close_unseen;
use super::snapshot::Snapshot;
use crate::consumer::{Failure, Object, Plan, Stored, decide, deny};
use crate::store::Head;

/// How often the epoch of the store is read.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// The pause while reconciles repair records.
const WAIT_PAUSE: Duration = Duration::from_millis(200);

/// How long reconciles have for that. Then verification closes the records that must not be open, and leaves the rest to
/// reconciles.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long they may make no progress. A reconcile cannot repair what is left then, for example an unusable Secret or a key in
/// use.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Fewer orphans than this are no reason for doubt.
const ORPHANS_WITHOUT_DOUBT: usize = 5;

/// Verifies the records whenever they are not verified.
pub(super) async fn run(ctx: Arc<Context>) {
    ctx.scopes.wait_until_ready().await;
    let mut verification = Verification { ctx, seen: None, is_unsure: true, wait: None };
    loop {
        let pause = verification.step().await.unwrap_or_else(|failure| {
            // Other parts log that the store is down.
            debug!(cause = %failure, "the records were not compared with their objects; trying again");
            // A restored store may have the same epoch as before.
            (verification.is_unsure, verification.wait) = (true, None);
            CHECK_PERIOD
        });
        sleep(pause).await;
    }
}

struct Verification {
    ctx: Arc<Context>,
    /// The head of the feed at the last read.
    seen: Option<Head>,
    /// Whether the store may have been restored within the epoch: true at the start, after an outage, and if the feed went back.
    is_unsure: bool,
    /// Set while reconciles repair records.
    wait: Option<Wait>,
}

/// The progress of reconciles that repair records.
#[derive(Clone, Copy)]
struct Wait {
    began: Instant,
    /// The fewest records that were left, and when this number last fell.
    fewest: usize,
    progress: Instant,
}

/// Records that allow a sign-in, and may have to be closed.
#[derive(Default)]
struct Comparison {
    /// Their objects forbid it, or are gone.
    wrong: Vec<Stored>,
    /// Their objects exist, but the cache does not show their latest generation yet.
    unknown: Vec<Stored>,
}

// === impl Verification ===

impl Verification {
    /// Compares the records if needed. Returns the pause until the next step.
    async fn step(&mut self) -> Result<Duration, Failure> {
        let ctx = self.ctx.clone();
        let (cluster_id, installation) = (&ctx.settings.cluster_id, &ctx.settings.installation);
        let head = ctx.store.head().await?;
        if let Some(seen) = self.seen.replace(head.clone()) {
            let same_epoch = seen.epoch == head.epoch;
            self.is_unsure |= same_epoch && seen.sequence > head.sequence;
            self.wait = self.wait.filter(|_| same_epoch);
        }
        if !self.is_unsure && ctx.store.is_verified(cluster_id, installation).await? {
            return Ok(CHECK_PERIOD);
        }

        ctx.peers.set_verified(false);
        // Records are read first, so that lists are newer.
        let records = ctx.store.live(cluster_id).await?;
        let Some(waited) = self.wait_for_reconciles(&records) else { return Ok(WAIT_PAUSE) };
        let Some(Comparison { wrong, unknown }) = self.compare(records).await? else {
            self.wait = None;
            return Ok(ctx.settings.sweep_period);
        };
        if !unknown.is_empty() && waited < WAIT_TIMEOUT {
            return Ok(WAIT_PAUSE);
        }
        if !self.close(wrong.into_iter().chain(unknown)).await? {
            return Ok(WAIT_PAUSE);
        }
        ctx.store.verify(cluster_id, installation, &head.epoch).await?;
        (self.is_unsure, self.wait) = (false, None);
        ctx.peers.set_verified(true);
        // From now on this installation may take over records that another one has left. After a failure, the next sweep does it.
        if let Ok(records) = ctx.store.live(cluster_id).await {
            self.differences(&records, true);
        }
        info!(
            seconds = waited.as_secs_f32(),
            "all records have been compared with their objects; approved consumers can sign in"
        );
        Ok(CHECK_PERIOD)
    }

    /// None while reconciles make progress. After that, how long they took.
    fn wait_for_reconciles(&mut self, records: &[Stored]) -> Option<Duration> {
        let differences = self.differences(records, self.wait.is_none());
        let start = Wait { began: Instant::now(), fewest: differences, progress: Instant::now() };
        let wait = self.wait.get_or_insert(start);
        if differences < wait.fewest {
            (wait.fewest, wait.progress) = (differences, Instant::now());
        }
        let waited = wait.began.elapsed();
        let goes_on = differences > 0 && wait.progress.elapsed() < STALL_TIMEOUT && waited < WAIT_TIMEOUT;
        (!goes_on).then_some(waited)
    }

    /// Closes records until a reconcile has compared them with their objects. Returns whether all are closed.
    async fn close(&self, records: impl Iterator<Item = Stored>) -> Result<bool, Failure> {
        let mut are_closed = true;
        for stored in records {
            // Another writer was faster. The next step reads what it wrote.
            let Some(Stored { record, .. }) = close_unseen(&self.ctx, stored).await? else {
                are_closed = false;
                continue;
            };
            let (namespace, name, key) = (&record.namespace, &record.object, &record.consumer_key);
            // Cause: the store was restored or edited.
            // Next step: none. A reconcile that follows puts the record right.
            warn!(namespace, name, %key, "the record may allow a sign-in that its object does not; sign-in is refused until a reconcile");
            self.ctx.scopes.enqueue(namespace, name);
        }
        Ok(are_closed)
    }

    /// How many records a reconcile would write, as far as the caches show. If `asks`, enqueues their objects.
    fn differences(&self, records: &[Stored], asks: bool) -> usize {
        let records: HashMap<_, _> = records.iter().map(|stored| (stored.record.owner.uid.as_str(), stored)).collect();
        let mut differences = 0;
        for (scope, object) in self.ctx.scopes.cached() {
            let reference = ObjectRef::from_obj(&*object);
            let record = object.metadata.uid.as_deref().and_then(|uid| records.get(uid)).map(|stored| (*stored).clone());
            let snapshot = Snapshot::cached(&self.ctx, scope, object, (Head::default(), record));
            if decide(&snapshot.seen).as_ref().map_or(true, Plan::writes_record) {
                differences += 1;
                if asks {
                    scope.enqueue(reference);
                }
            }
        }
        differences
    }

    /// Compares the records that allow a sign-in with their objects. None if there is [doubt](Context::doubt) about the lists.
    async fn compare(&self, records: Vec<Stored>) -> Result<Option<Comparison>, Failure> {
        let ctx = &self.ctx;
        let is_own = |stored: &Stored| stored.allows_signin() && stored.record.installation == ctx.settings.installation;
        let mut open: HashMap<_, _> =
            records.into_iter().filter(is_own).map(|stored| (stored.record.owner.uid.clone(), stored)).collect();
        if open.is_empty() {
            return Ok(Some(Comparison::default()));
        }
        let generations = ctx.scopes.list(&ctx.client).await?;
        let inside = |stored: &Stored| ctx.scopes.covers(&stored.record.namespace);
        let count = open.values().filter(|stored| inside(stored)).count();
        let shared = open.keys().filter(|uid| generations.contains_key(*uid)).count();
        if let Some(doubt) = ctx.doubt(shared, count.saturating_sub(shared), ORPHANS_WITHOUT_DOUBT).await? {
            // Cause: the controller asks another cluster or store, or all objects are gone. `doubt` says which.
            // Next step: [check cluster and store](../explanation/epochs.md#what-the-controller-does).
            error!(
                doubt,
                "the records cannot be compared with their objects, so sign-in is not checked; check the cluster and the store's URL"
            );
            return Ok(None);
        }
        let mut wrong = Vec::new();
        for (scope, object) in ctx.scopes.cached() {
            let uid = object.metadata.uid.clone().unwrap_or_default();
            // A cache that is behind the list proves nothing. It is behind for a moment after each edit.
            if generations.get(&uid) != object.metadata.generation.as_ref() {
                continue;
            }
            let Some(stored) = open.remove(&uid) else { continue };
            let snapshot = Snapshot::cached(ctx, scope, object, (Head::default(), Some(stored.clone())));
            // An outdated hash is no reason to close: a reconcile will renew it.
            if deny(&snapshot.seen).is_some() && is_confirmed(ctx, snapshot).await {
                wrong.push(stored);
            }
        }
        let (inside, outside): (Vec<_>, Vec<_>) = open.into_values().partition(inside);
        let (unknown, orphans): (Vec<_>, Vec<_>) =
            inside.into_iter().partition(|stored| generations.contains_key(&stored.record.owner.uid));
        wrong.extend(orphans);
        // Another process of this installation may manage the records outside. Then only their objects count.
        if !outside.is_empty() {
            let objects = ctx.scopes.list_outside(&ctx.client).await?;
            let is_open =
                |stored: &Stored| objects.get(&stored.record.owner.uid).is_some_and(|object| object.observed().allows_signin());
            wrong.extend(outside.into_iter().filter(|stored| ctx.peers.has_given_up(stored) || !is_open(stored)));
        }
        Ok(Some(Comparison { wrong, unknown }))
    }
}

/// Checks again that a record must not allow sign-in. The object was listed just now, so it counts. That the Secret is missing is
/// known only from a cache, so the Secret is read. A Secret that cannot be read does not count as missing.
async fn is_confirmed(ctx: &Context, cached: Snapshot) -> bool {
    if !cached.seen.object.as_ref().is_some_and(Object::allows_signin) {
        return true;
    }
    match cached.refreshed(ctx, Object::allows_signin).await {
        Ok(refreshed) => deny(&refreshed.seen).is_some(),
        Err(cause) => {
            debug!(%cause, "a Secret could not be read; its consumer stays as it is");
            false
        }
    }
}
