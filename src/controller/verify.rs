//! The resync: vouches for the records in a store that begins a new life.
//!
//! A store that was restored, or has failed over and lost its last commits, holds records that may be open and should not be.
//! Until the controller has compared all of them with their objects they admit nobody. A SQLite file begins a new life whenever
//! a controller opens it, because nobody can tell whether it is the same file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::observe::{Look, SecretWanted};
use super::scope::Scope;
use super::{Context, now};
use crate::consumer::{Failure, Object, Stored, decide};
use crate::store::{Head, Replaces, StoreError};

/// How often the store is asked which life it is in.
const PERIOD: Duration = Duration::from_secs(1);

/// The pause while reconciles put records right.
const PAUSE: Duration = Duration::from_millis(200);

/// How long they have for it. Then what is still open and should not be is closed, and what is still closed and should not be
/// is left to them.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nothing may get better meanwhile: what is left then, a reconcile cannot mend, as an unusable Secret or a key in use.
const STALL: Duration = Duration::from_secs(1);

/// Vouches for the records whenever nobody does, until told to stop.
pub(super) async fn run(ctx: Arc<Context>, scopes: Vec<Arc<Scope>>, shutdown: CancellationToken) {
    for scope in &scopes {
        tokio::select! { () = scope.wait_until_ready() => {}, () = shutdown.cancelled() => return }
    }
    let mut resync = Resync { ctx, scopes, seen: None, is_unsure: true, wait: None };
    loop {
        let pause = resync.step().await.unwrap_or_else(|failure| {
            // A store that is down is said often enough by everybody else.
            debug!(cause = %failure, "the records were not compared with their objects; trying again");
            // It may come back as another one, and say that it is the same.
            (resync.is_unsure, resync.wait) = (true, None);
            PERIOD
        });
        tokio::select! { () = sleep(pause) => {}, () = shutdown.cancelled() => return }
    }
}

struct Resync {
    ctx: Arc<Context>,
    scopes: Vec<Arc<Scope>>,
    /// Where the feed stood when it was last asked.
    seen: Option<Head>,
    /// The store may not be what it was, whatever it says: it stood further once, or was not seen for a moment.
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

/// Records that admit somebody and perhaps should not.
#[derive(Default)]
struct Comparison {
    /// Their objects say otherwise, or are gone.
    wrong: Vec<Stored>,
    /// Their objects are there, and the cache does not show yet what they say.
    unknown: Vec<Stored>,
}

// === impl Resync ===

impl Resync {
    /// Compares if that is needed. Answers when to come back.
    async fn step(&mut self) -> Result<Duration, Failure> {
        let ctx = self.ctx.clone();
        let (cluster_id, installation) = (&ctx.settings.cluster_id, &ctx.settings.installation);
        let head = ctx.store.head().await?;
        if let Some(seen) = self.seen.replace(head.clone()) {
            let same_life = seen.is_of_same_life_as(&head);
            self.is_unsure |= same_life && seen.head > head.head;
            self.wait = self.wait.filter(|_| same_life);
        }
        if !self.is_unsure && ctx.store.is_vouched_for(cluster_id, installation).await? {
            return Ok(PERIOD);
        }

        ctx.peers.set_compared(false);
        // The records first: what is listed after that is newer.
        let records = ctx.store.live(cluster_id).await?;
        let differences = self.differences(&records, self.wait.is_none());
        let start = Wait { began: Instant::now(), fewest: differences, progress: Instant::now() };
        let wait = self.wait.get_or_insert(start);
        if differences < wait.fewest {
            (wait.fewest, wait.progress) = (differences, Instant::now());
        }
        if differences > 0 && wait.progress.elapsed() < STALL && wait.began.elapsed() < PATIENCE {
            return Ok(PAUSE);
        }
        let seconds = wait.began.elapsed().as_secs_f32();
        let is_over = wait.began.elapsed() >= PATIENCE;
        let Some(Comparison { wrong, unknown }) = self.compare(records).await? else {
            self.wait = None;
            return Ok(ctx.settings.sweep_period);
        };
        if !unknown.is_empty() && !is_over {
            return Ok(PAUSE);
        }
        let mut overtaken = false;
        for stored in wrong.into_iter().chain(unknown) {
            let (version, record) = (stored.version, &stored.record);
            let (namespace, name, key) = (record.namespace.clone(), record.object.clone(), record.consumer_key.clone());
            match ctx.store.write(stored.out_of_scope(), Replaces::Version(version), now()).await {
                Ok(_) => {
                    warn!(namespace, name, %key, "its record was open and its object says otherwise: closed until it was looked at");
                    for scope in self.scopes.iter().filter(|scope| scope.covers(&namespace)) {
                        scope.enqueue(ObjectRef::new(&name).within(&namespace));
                    }
                }
                // Whoever wrote has looked; what it is now shows next time.
                Err(StoreError::Swapped) => overtaken = true,
                Err(error) => return Err(error.into()),
            }
        }
        if overtaken {
            return Ok(PAUSE);
        }
        ctx.store.vouch(cluster_id, installation, &head.incarnation).await?;
        (self.is_unsure, self.wait) = (false, None);
        ctx.peers.set_compared(true);
        // What another installation has left behind can be taken over from now on, or by the next sweep.
        if let Ok(records) = ctx.store.live(cluster_id).await {
            self.differences(&records, true);
        }
        info!(seconds, "all records have been compared with their objects: they count");
        Ok(PERIOD)
    }

    /// How many records a reconcile would write, as far as the caches tell; asks for those reconciles, or only counts.
    fn differences(&self, records: &[Stored], asks: bool) -> usize {
        let records: HashMap<_, _> = records.iter().map(|stored| (stored.record.owner.uid.as_str(), stored)).collect();
        let mut differences = 0;
        for scope in &self.scopes {
            for object in scope.objects.state() {
                let reference = ObjectRef::from_obj(&*object);
                let record = object.metadata.uid.as_deref().and_then(|uid| records.get(uid)).map(|stored| (*stored).clone());
                if decide(&Look::glance(&self.ctx, scope, object, (Head::default(), record)).seen).writes_record() {
                    differences += 1;
                    if asks {
                        scope.enqueue(reference);
                    }
                }
            }
        }
        differences
    }

    /// Compares the records that admit somebody with their objects. None if there is nothing to compare them with: a list that
    /// shares nothing with the records, or another cluster, is more likely a mistake than the truth.
    async fn compare(&self, records: Vec<Stored>) -> Result<Option<Comparison>, Failure> {
        let ctx = &self.ctx;
        let is_own = |stored: &Stored| stored.admits() && stored.record.installation == ctx.settings.installation;
        let mut open: HashMap<_, _> =
            records.into_iter().filter(is_own).map(|stored| (stored.record.owner.uid.clone(), stored)).collect();
        if open.is_empty() {
            return Ok(Some(Comparison::default()));
        }
        let generations = ctx.list(&self.scopes).await?;
        let inside = |stored: &Stored| self.scopes.iter().any(|scope| scope.covers(&stored.record.namespace));
        let count = open.values().filter(|stored| inside(stored)).count();
        let shared = open.keys().filter(|uid| generations.contains_key(*uid)).count();
        let doubt = if shared == 0 && count > 5 {
            Some("no object at all has a record")
        } else if shared < count && !ctx.is_same_cluster().await? {
            Some("the UID of kube-system is not the cluster id of the records")
        } else {
            None
        };
        if let Some(doubt) = doubt {
            error!(doubt, "the records cannot be compared, and nobody vouches for them; is this the right cluster and store?");
            return Ok(None);
        }
        let mut wrong = Vec::new();
        for scope in &self.scopes {
            for object in scope.objects.state() {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                // A cache that is behind the list, as it is for moments after every edit, proves nothing.
                if generations.get(&uid) != object.metadata.generation.as_ref() {
                    continue;
                }
                let Some(stored) = open.remove(&uid) else { continue };
                let look = Look::glance(ctx, scope, object, (Head::default(), Some(stored.clone())));
                // A hash that is behind its Secret is none of this: that Secret was accepted once, and waits its turn.
                if decide(&look.seen).closing(&look.seen).is_some() && is_confirmed(ctx, look).await {
                    wrong.push(stored);
                }
            }
        }
        let (inside, outside): (Vec<_>, Vec<_>) =
            open.into_values().partition(|stored| self.scopes.iter().any(|scope| scope.covers(&stored.record.namespace)));
        let (unknown, orphans): (Vec<_>, Vec<_>) =
            inside.into_iter().partition(|stored| generations.contains_key(&stored.record.owner.uid));
        wrong.extend(orphans);
        // Another process of this installation may look after those outside; then only what their objects say counts.
        if !outside.is_empty() {
            let objects = ctx.list_outside(&self.scopes).await?;
            let is_open =
                |stored: &Stored| objects.get(&stored.record.owner.uid).is_some_and(|object| !object.observed().is_shut());
            wrong.extend(outside.into_iter().filter(|stored| ctx.peers.has_given_up(stored) || !is_open(stored)));
        }
        Ok(Some(Comparison { wrong, unknown }))
    }
}

/// Whether a record that seems to be open wrongly is. What its object says was listed just now and counts. That its Secret is gone
/// is known from a cache only, so the Secret is asked for; one that cannot be asked for is not gone.
async fn is_confirmed(ctx: &Context, glance: Look) -> bool {
    if glance.seen.object.as_ref().is_none_or(Object::is_shut) {
        return true;
    }
    match glance.confirm(ctx, false, SecretWanted::Always).await {
        Ok(look) => decide(&look.seen).closing(&look.seen).is_some(),
        Err(cause) => {
            debug!(%cause, "a Secret could not be read; its consumer stays as it is");
            false
        }
    }
}
