//! The reconciles of a scope, and the fast path that ends sign-ins before them.
//!
//! Each reconcile is a task of its own with a time limit, so a panic affects only its own object.
//!
//! The fast path uses the same rules as a reconcile, only earlier. Where the object itself forbids sign-in, it reads no Secret.
//! So a disapproval does not depend on the Secret, and does not wait for approvals.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::ObjectRef;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Context;
use super::execute::{Purpose, execute};
use super::finish::{finish, report};
use super::scope::Scope;
use super::snapshot::Snapshot;
use crate::api::OAuthConsumer;
use crate::consumer::{Failure, Observed, Outcome, Stored, conclude, decide};
use crate::store::Found;

/// The most reconciles of one scope at once. Most of them wait for one of the process's slots.
const CONCURRENT_RECONCILES: u16 = 64;

/// The most objects of one scope in the fast path at once.
const CONCURRENT_DENIALS: usize = 16;

/// Attempts to end a sign-in while another writer is faster.
const DENIAL_ATTEMPTS: u32 = 5;

/// How long to wait for a cache that is behind our own write.
const CATCH_UP: Duration = Duration::from_secs(1);

type Queue = mpsc::UnboundedReceiver<ObjectRef<OAuthConsumer>>;

/// Reconciles the objects in the scope's queue until the queue is closed, and then finishes open work.
pub(super) async fn run(ctx: Arc<Context>, scope: Arc<Scope>, queue: Queue, shutdown: CancellationToken) {
    if shutdown.run_until_cancelled(scope.wait_until_ready()).await.is_none() {
        return;
    }
    let reconciled = applier(
        |object: Arc<OAuthConsumer>, shared: Arc<(Arc<Context>, Arc<Scope>)>| {
            async move { Ok::<_, Infallible>(reconcile(&shared.0, &shared.1, object).await) }.boxed()
        },
        |_, never: &Infallible, _| match *never {},
        Arc::new((ctx.clone(), scope.clone())),
        scope.objects.clone(),
        queue.map(Ok::<ObjectRef<OAuthConsumer>, Infallible>),
        Config::default().concurrency(CONCURRENT_RECONCILES),
    );
    reconciled
        .for_each(|result| {
            if let Err(error) = result {
                // Nearly always the object was deleted while it was queued.
                debug!(%error, "not reconciled");
            }
            std::future::ready(())
        })
        .await;
}

async fn reconcile(ctx: &Arc<Context>, scope: &Arc<Scope>, object: Arc<OAuthConsumer>) -> Action {
    let uid = object.uid().unwrap_or_default();
    if ctx.own_writes.is_older(&uid, object.metadata.resource_version.as_deref()) {
        return Action::requeue(CATCH_UP);
    }
    let Ok(_slot) = ctx.slots.acquire().await else { return Action::await_change() };
    let (begun, limit) = (Instant::now(), ctx.settings.reconcile_timeout);
    let task = tokio::spawn({
        let (ctx, scope, object) = (ctx.clone(), scope.clone(), object.clone());
        async move { timeout(limit, reconcile_once(&ctx, &scope, object)).await }
    });
    let failure = match task.await {
        Ok(Ok(action)) => {
            ctx.metrics.reconcile_duration.observe(begun.elapsed().as_secs_f64());
            return action;
        }
        Ok(Err(_)) => Failure::Internal(format!("no end within {limit:?}")),
        Err(error) => Failure::Internal(format!("a panic: {error}")),
    };
    let (snapshot, outcome) = Snapshot::cached(ctx, scope, object, Found::default()).failed(failure);
    let finished = timeout(limit, finish(ctx, snapshot, outcome, Purpose::Reconcile)).await;
    finished.unwrap_or_else(|_| Action::requeue(ctx.attempts.failed(&uid)))
}

async fn reconcile_once(ctx: &Context, scope: &Scope, object: Arc<OAuthConsumer>) -> Action {
    let (snapshot, outcome) = match denied_and_read(ctx, scope, &object).await {
        Ok(found) => execute(ctx, Snapshot::cached(ctx, scope, object, found), Purpose::Reconcile).await,
        Err((found, failure)) => Snapshot::cached(ctx, scope, object, found).failed(failure),
    };
    finish(ctx, snapshot, outcome, Purpose::Reconcile).await
}

/// Reads the record first, so that the snapshot of a write is newer than the record that it replaces. If the record allows a
/// sign-in that the object forbids, ends the sign-in at once: a Secret that cannot be read must not prevent that.
async fn denied_and_read(ctx: &Context, scope: &Scope, object: &OAuthConsumer) -> Result<Found, (Found, Failure)> {
    let read = async || {
        let found = ctx.store.by_owner(&ctx.owner(&object.uid().unwrap_or_default())).await;
        found.map_err(|error| (Found::default(), Failure::from(error)))
    };
    let found = read().await?;
    if !found.1.as_ref().is_some_and(Stored::allows_signin) || object.observed().allows_signin() {
        return Ok(found);
    }
    deny(ctx, scope, &ObjectRef::from_obj(object)).await.map_err(|failure| (found, failure))?;
    read().await
}

/// The fast path: ends sign-ins with slots of its own and without a hash, so that many registrations do not delay it. Then
/// enqueues the object for a reconcile, which does the rest.
pub(super) async fn run_denials(ctx: Arc<Context>, scope: Arc<Scope>, queue: Queue, shutdown: CancellationToken) {
    shutdown.run_until_cancelled(scope.wait_until_ready()).await;
    let denied = queue.for_each_concurrent(CONCURRENT_DENIALS, |reference| {
        let (ctx, scope) = (ctx.clone(), scope.clone());
        async move {
            let task = tokio::spawn({
                let (ctx, scope, reference) = (ctx, scope.clone(), reference.clone());
                async move { timeout(ctx.settings.reconcile_timeout, deny(&ctx, &scope, &reference)).await }
            });
            // The reconcile retries and reports it.
            if let Ok(Ok(Err(failure))) = task.await {
                debug!(object = %reference, cause = %failure, "sign-in was not ended at once");
            }
            scope.enqueue(reference);
        }
    });
    denied.await;
    scope.stop_reconciles();
}

async fn deny(ctx: &Context, scope: &Scope, reference: &ObjectRef<OAuthConsumer>) -> Result<(), Failure> {
    for attempt in 1.. {
        let Some(object) = scope.objects.get(reference) else { return Ok(()) };
        let found = ctx.store.by_owner(&ctx.owner(&object.uid().unwrap_or_default())).await?;
        if !found.1.as_ref().is_some_and(Stored::allows_signin) {
            return Ok(());
        }
        let (snapshot, outcome) = execute(ctx, Snapshot::cached(ctx, scope, object, found), Purpose::Deny).await;
        if outcome.failure.is_none() && is_finished(scope, &snapshot, &outcome) {
            finish(ctx, snapshot, outcome, Purpose::Deny).await;
            return Ok(());
        }
        // A reconcile will do the rest and write the status. Until then only the events are reported.
        report(ctx, &snapshot, &conclude(&snapshot.seen, &outcome).events);
        match outcome.failure {
            Some(Failure::Conflict(_)) if attempt < DENIAL_ATTEMPTS => {}
            failure => return failure.map_or(Ok(()), Err),
        }
    }
    Ok(())
}

/// Whether nothing is left to do for the object, with the Secret as cached.
fn is_finished(scope: &Scope, snapshot: &Snapshot, outcome: &Outcome) -> bool {
    let Some(object) = snapshot.seen.object.as_ref().filter(|object| !object.deleting) else { return true };
    let seen = Observed { record: outcome.record.clone(), secret: scope.secret(object), ..snapshot.seen.clone() };
    outcome.record != snapshot.seen.record && decide(&seen).is_ok_and(|plan| plan.is_empty())
}

/// Removes the record of an object that is gone or being deleted, and ends a sign-in that the object forbids. Any controller may
/// do this in the whole cluster, because it needs no Secret. An object without a record in this store is left alone: another
/// store may have its record.
pub(super) async fn deny_anywhere(ctx: &Context, object: Arc<OAuthConsumer>) -> Result<(), Failure> {
    let found = ctx.store.by_owner(&ctx.owner(&object.uid().unwrap_or_default())).await?;
    if found.1.is_none() {
        return Ok(());
    }
    let (snapshot, outcome) = execute(ctx, Snapshot::gone(ctx, object, found), Purpose::DenyAnywhere).await;
    let (has_changed, failure) = (outcome.record != snapshot.seen.record, outcome.failure.clone());
    let is_going = snapshot.seen.object.as_ref().is_none_or(|object| object.deleting);
    if has_changed || is_going || failure.is_some() {
        finish(ctx, snapshot, outcome, Purpose::DenyAnywhere).await;
    }
    failure.map_or(Ok(()), Err)
}
