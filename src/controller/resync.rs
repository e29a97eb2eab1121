//! The resync: vouches for the records in a store that begins a new life.
//!
//! A store that was restored, or has failed over and lost its last commits, holds records that may be open and should not be.
//! Until the controller has compared all of them with their objects they admit nobody. A SQLite file begins a new life whenever
//! a controller opens it, because nobody can tell whether it is the same file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::observe::Look;
use super::scope::Scope;
use super::{Context, now};
use crate::consumer::{Failure, Stored, decide};
use crate::store::Head;

/// How often the store is asked which life it is in.
const PERIOD: Duration = Duration::from_secs(1);

/// The pause between two comparisons.
const PAUSE: Duration = Duration::from_millis(200);

/// How many comparisons reconciles have to put records right, before those that are wrong still are closed.
const PATIENCE: u32 = 25;

/// Vouches for the records whenever nobody does, until told to stop.
pub(super) async fn run(ctx: Arc<Context>, scopes: Vec<Arc<Scope>>, shutdown: CancellationToken) {
    for scope in &scopes {
        tokio::select! { () = scope.wait_until_ready() => {}, () = shutdown.cancelled() => return }
    }
    let mut resync = Resync { ctx, scopes, seen: None, is_unsure: true, comparisons: 0 };
    loop {
        let pause = match resync.step().await {
            Ok(pause) => pause,
            Err(failure) => {
                // A store that is down is said often enough by everybody else.
                if resync.comparisons > 0 {
                    warn!(cause = %failure, "the records could not be compared with their objects; trying again");
                }
                PERIOD
            }
        };
        tokio::select! { () = sleep(pause) => {}, () = shutdown.cancelled() => return }
    }
}

struct Resync {
    ctx: Arc<Context>,
    scopes: Vec<Arc<Scope>>,
    /// Where the feed stood when it was last asked.
    seen: Option<Head>,
    /// The store may not be what it was, whatever it says: it stood further once, or nobody looked before this process.
    is_unsure: bool,
    /// Comparisons so far in this life of the store.
    comparisons: u32,
}

/// The records that admit somebody and should not, as far as anybody can tell.
#[derive(Default)]
struct Comparison {
    /// There is no object in scope that a reconcile could make them right by.
    orphans: Vec<Stored>,
    /// They are not what their objects say.
    wrong: Vec<Stored>,
}

// === impl Resync ===

impl Resync {
    /// Compares if that is needed. Answers when to come back.
    async fn step(&mut self) -> Result<Duration, Failure> {
        let ctx = self.ctx.clone();
        let (cluster_id, installation) = (&ctx.settings.cluster_id, &ctx.settings.installation);
        let head = ctx.store.head().await?;
        let is_behind = |seen: Head| seen.incarnation == head.incarnation && seen.head > head.head;
        self.is_unsure |= self.seen.replace(head.clone()).is_some_and(is_behind);
        if !self.is_unsure && ctx.store.is_vouched_for(cluster_id, installation).await? {
            self.comparisons = 0;
            return Ok(PERIOD);
        }

        self.comparisons += 1;
        let Some(Comparison { orphans, wrong }) = self.compare().await? else { return Ok(ctx.settings.sweep_period) };
        if !wrong.is_empty() && self.comparisons < PATIENCE {
            return Ok(PAUSE);
        }
        let (comparisons, closed) = (self.comparisons, orphans.len() + wrong.len());
        for stored in orphans.into_iter().chain(wrong) {
            let version = stored.version;
            // Whoever writes in between has looked; the next comparison sees what it is then.
            ctx.store.write(stored.out_of_scope(), Some(version), now()).await?;
        }
        ctx.store.vouch(cluster_id, installation).await?;
        self.is_unsure = false;
        info!(comparisons, closed, "all records have been compared with their objects: they count");
        Ok(PERIOD)
    }

    /// Compares the records that admit somebody with their objects. None if there is nothing to compare them with: a list
    /// that shares nothing with the records, or another cluster, is more likely a mistake than the truth.
    async fn compare(&self) -> Result<Option<Comparison>, Failure> {
        let ctx = &self.ctx;
        // The records first: what is listed after that is newer.
        let records = ctx.store.live(&ctx.settings.cluster_id, &ctx.settings.installation).await?;
        let mut open: HashMap<_, _> =
            records.into_iter().filter(Stored::admits).map(|stored| (stored.record.owner.uid.clone(), stored)).collect();
        if open.is_empty() {
            return Ok(Some(Comparison::default()));
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
            error!(doubt, "the records cannot be compared, and nobody signs in; is this the right cluster, and the right store?");
            return Ok(None);
        }

        let mut wrong = Vec::new();
        for scope in &self.scopes {
            for object in scope.objects.state() {
                let uid = object.uid().unwrap_or_default();
                let Some(stored) = open.remove(&uid) else { continue };
                let is_listed = generations.get(&uid) == Some(&stored.record.generation);
                let reference = ObjectRef::from_obj(&*object);
                let look = Look::glance(&ctx.settings, scope, object, Some(stored.clone()));
                if !is_listed || decide(&look.seen).writes_record() {
                    scope.enqueue(reference);
                    wrong.push(stored);
                }
            }
        }
        Ok(Some(Comparison { orphans: open.into_values().collect(), wrong }))
    }
}
