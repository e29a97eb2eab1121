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

use super::observe::Look;
use super::scope::Scope;
use super::{Context, now};
use crate::consumer::{Failure, Stored, decide};
use crate::store::Head;

/// How often the store is asked which life it is in.
const PERIOD: Duration = Duration::from_secs(1);

/// The pause while reconciles put records right.
const PAUSE: Duration = Duration::from_millis(200);

/// How long they have for it. Then what is still open and should not be is closed, and what is still closed and should not be
/// is left to them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Vouches for the records whenever nobody does, until told to stop.
pub(super) async fn run(ctx: Arc<Context>, scopes: Vec<Arc<Scope>>, shutdown: CancellationToken) {
    for scope in &scopes {
        tokio::select! { () = scope.wait_until_ready() => {}, () = shutdown.cancelled() => return }
    }
    let mut resync = Resync { ctx, scopes, seen: None, is_unsure: true, since: None };
    loop {
        let pause = resync.step().await.unwrap_or_else(|failure| {
            // A store that is down is said often enough by everybody else.
            debug!(cause = %failure, "the records were not compared with their objects; trying again");
            // It may come back as another one, and say that it is the same.
            resync.is_unsure = true;
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
    /// When the comparison began that is under way.
    since: Option<Instant>,
}

// === impl Resync ===

impl Resync {
    /// Compares if that is needed. Answers when to come back.
    async fn step(&mut self) -> Result<Duration, Failure> {
        let ctx = self.ctx.clone();
        let (cluster_id, installation) = (&ctx.settings.cluster_id, &ctx.settings.installation);
        let head = ctx.store.head().await?;
        if let Some(seen) = self.seen.replace(head.clone()) {
            let same_life = seen.incarnation == head.incarnation;
            self.is_unsure |= same_life && seen.head > head.head;
            self.since = self.since.filter(|_| same_life);
        }
        if !self.is_unsure && ctx.store.is_vouched_for(cluster_id, installation).await? {
            return Ok(PERIOD);
        }

        let began = *self.since.get_or_insert_with(Instant::now);
        // The records first: what is listed after that is newer.
        let records = ctx.store.live(cluster_id, installation).await?;
        if self.differences(&records) > 0 && began.elapsed() < PATIENCE {
            return Ok(PAUSE);
        }
        let Some(wrong) = self.wrongly_open(records).await? else { return Ok(ctx.settings.sweep_period) };
        for stored in wrong {
            let (version, record) = (stored.version, &stored.record);
            let (namespace, name, key) = (record.namespace.clone(), record.object.clone(), record.consumer_key.clone());
            ctx.store.write(stored.out_of_scope(), Some(version), now()).await?;
            warn!(namespace, name, %key, "its record was open and its object says otherwise: closed until a reconcile has looked");
        }
        ctx.store.vouch(cluster_id, installation, &head.incarnation).await?;
        (self.is_unsure, self.since) = (false, None);
        info!(seconds = began.elapsed().as_secs_f32(), "all records have been compared with their objects: they count");
        Ok(PERIOD)
    }

    /// How many records a reconcile would write, as far as the caches tell. They are asked for.
    fn differences(&self, records: &[Stored]) -> usize {
        let records: HashMap<_, _> = records.iter().map(|stored| (stored.record.owner.uid.as_str(), stored)).collect();
        let mut differences = 0;
        for scope in &self.scopes {
            for object in scope.objects.state() {
                let reference = ObjectRef::from_obj(&*object);
                let record = object.metadata.uid.as_deref().and_then(|uid| records.get(uid)).map(|stored| (*stored).clone());
                if decide(&Look::glance(&self.ctx.settings, scope, object, record).seen).writes_record() {
                    scope.enqueue(reference);
                    differences += 1;
                }
            }
        }
        differences
    }

    /// The records that admit somebody although their objects say otherwise, or are gone. None if there is nothing to compare
    /// them with: a list that shares nothing with the records, or another cluster, is more likely a mistake than the truth.
    async fn wrongly_open(&self, records: Vec<Stored>) -> Result<Option<Vec<Stored>>, Failure> {
        let ctx = &self.ctx;
        let mut open: HashMap<_, _> =
            records.into_iter().filter(Stored::admits).map(|stored| (stored.record.owner.uid.clone(), stored)).collect();
        if open.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let generations = ctx.list(&self.scopes).await?;
        let shared = open.keys().filter(|uid| generations.contains_key(*uid)).count();
        let doubt = if shared == 0 && open.len() > 5 {
            Some("no object at all has a record")
        } else if shared < open.len() && !ctx.is_same_cluster().await? {
            Some("the UID of kube-system is not the cluster id of the records")
        } else {
            None
        };
        if let Some(doubt) = doubt {
            error!(doubt, "the records cannot be compared, and nobody vouches for them; is this the right cluster and store?");
            return Ok(None);
        }
        for scope in &self.scopes {
            for object in scope.objects.state() {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                let Some(stored) = open.get(&uid) else { continue };
                // A cache that is behind the list proves nothing.
                let is_current = generations.get(&uid) == object.metadata.generation.as_ref();
                let look = Look::glance(&ctx.settings, scope, object, Some(stored.clone()));
                // A hash that is behind its Secret is none of this: that Secret was accepted once, and waits its turn.
                if is_current && decide(&look.seen).closing(&look.seen).is_none() {
                    open.remove(&uid);
                }
            }
        }
        Ok(Some(open.into_values().collect()))
    }
}
