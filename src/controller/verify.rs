//! Verification: compares the records with their objects in a new epoch of the store.
//!
//! A store that was restored, or has failed over and lost its last commits, holds records that may allow a sign-in which their objects
//! do not. Until the controller has compared all of them, they allow none. A SQLite file begins a new epoch whenever a controller opens
//! it, because nothing tells whether it is the same file.
//!
//! It does not wait for a sweep: it has to be quick, and sweeps have to be rare. Each installation verifies its own records, because
//! only it can compare them.

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

/// How often the store is asked for its epoch.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// The pause while reconciles put records right.
const WAIT_PAUSE: Duration = Duration::from_millis(200);

/// How long reconciles have for it. After that, verification closes what is still open and should not be, and leaves the rest to them.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long they may make no progress. What is left then, a reconcile cannot mend, as an unusable Secret or a key in use.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Fewer orphans than this are no reason for doubt.
const ORPHANS_WITHOUT_DOUBT: usize = 5;

/// Verifies the records whenever they are not.
pub(super) async fn run(ctx: Arc<Context>) {
    ctx.scopes.wait_until_ready().await;
    let mut verification = Verification { ctx, seen: None, is_unsure: true, wait: None };
    loop {
        let pause = verification.step().await.unwrap_or_else(|failure| {
            // Other parts say often enough that the store is down.
            debug!(cause = %failure, "the records were not compared with their objects; trying again");
            // A restored store may come back with the epoch that it had.
            (verification.is_unsure, verification.wait) = (true, None);
            CHECK_PERIOD
        });
        sleep(pause).await;
    }
}

struct Verification {
    ctx: Arc<Context>,
    /// Where the feed stood when it was last asked.
    seen: Option<Head>,
    /// Whether the store may have been restored without another epoch: at the start, when it went back, and when it did not answer.
    is_unsure: bool,
    /// The comparison that is under way.
    wait: Option<Wait>,
}

/// Reconciles are putting records right.
#[derive(Clone, Copy)]
struct Wait {
    began: Instant,
    /// The fewest records that were left to them, and since when it is no fewer.
    fewest: usize,
    progress: Instant,
}

/// Records that allow a sign-in and perhaps should not.
#[derive(Default)]
struct Comparison {
    /// Their objects say otherwise, or are gone.
    wrong: Vec<Stored>,
    /// Their objects are there, and the cache does not show yet what they say.
    unknown: Vec<Stored>,
}

// === impl Verification ===

impl Verification {
    /// Compares if that is needed. Answers when to come back.
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
        // The records first: what is listed after that is newer.
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
        // What another installation has left behind can be taken over from now on, or by the next sweep.
        if let Ok(records) = ctx.store.live(cluster_id).await {
            self.differences(&records, true);
        }
        info!(
            seconds = waited.as_secs_f32(),
            "all records have been compared with their objects, and let approved consumers sign in"
        );
        Ok(CHECK_PERIOD)
    }

    /// Reconciles put right what they can. Answers how long they were waited for, once that is over.
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

    /// Closes records until a reconcile has looked at their objects. Answers whether all are closed.
    async fn close(&self, records: impl Iterator<Item = Stored>) -> Result<bool, Failure> {
        let mut are_closed = true;
        for stored in records {
            // The other writer has looked at the object. The next round reads what it wrote.
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

    /// How many records a reconcile would write, as far as the caches tell; asks for those reconciles, or only counts.
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
            // A cache that is behind the list, as it is for moments after every edit, proves nothing.
            if generations.get(&uid) != object.metadata.generation.as_ref() {
                continue;
            }
            let Some(stored) = open.remove(&uid) else { continue };
            let snapshot = Snapshot::cached(ctx, scope, object, (Head::default(), Some(stored.clone())));
            // An outdated hash is no reason to close: its Secret was accepted once, and waits its turn.
            if deny(&snapshot.seen).is_some() && is_confirmed(ctx, snapshot).await {
                wrong.push(stored);
            }
        }
        let (inside, outside): (Vec<_>, Vec<_>) = open.into_values().partition(inside);
        let (unknown, orphans): (Vec<_>, Vec<_>) =
            inside.into_iter().partition(|stored| generations.contains_key(&stored.record.owner.uid));
        wrong.extend(orphans);
        // Another process of this installation may look after those outside; then only what their objects say counts.
        if !outside.is_empty() {
            let objects = ctx.scopes.list_outside(&ctx.client).await?;
            let is_open =
                |stored: &Stored| objects.get(&stored.record.owner.uid).is_some_and(|object| object.observed().allows_signin());
            wrong.extend(outside.into_iter().filter(|stored| ctx.peers.has_given_up(stored) || !is_open(stored)));
        }
        Ok(Some(Comparison { wrong, unknown }))
    }
}

/// Checks again that a record must not allow sign-in. What its object says was listed just now and counts. That its Secret is gone
/// is known from a cache only, so the Secret is asked for; one that cannot be asked for is not gone.
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
