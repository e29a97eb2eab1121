//! One reconcile: observe, decide, apply, conclude; within a time limit, and a panic costs only its own object.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::apply::apply;
use super::observe::{Look, SecretWanted};
use super::scope::Scope;
use super::{Context, patch};
use crate::api::OAuthConsumer;
use crate::consumer::{
    Again, Conclusion, Effect, EventReason, Failure, Notice, Observed, Outcome, Statement, Stored, conclude, decide,
};
use crate::store::{Found, Head};
use crate::telemetry::{Operation, ReconcileResult};

/// Reconciles of one scope that are begun at once; most wait for one of the process's slots.
const WAITING: u16 = 64;

/// Objects of one scope whose sign-in is ended at once.
const CLOSING: usize = 16;

/// Attempts to end it before somebody else writes.
const CLOSING_ATTEMPTS: u32 = 5;

type Queue = mpsc::UnboundedReceiver<ObjectRef<OAuthConsumer>>;

/// How long a cache that is behind our own write is given to catch up.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Reconciles the objects in the scope's queue, until the queue is closed and what had begun is finished.
pub(super) async fn run(ctx: Arc<Context>, scope: Arc<Scope>, queue: Queue, shutdown: CancellationToken) {
    tokio::select! { () = scope.wait_until_ready() => {}, () = shutdown.cancelled() => return }
    let reconciled = applier(
        |object: Arc<OAuthConsumer>, shared: Arc<(Arc<Context>, Arc<Scope>)>| {
            async move { Ok::<_, Infallible>(reconcile(&shared.0, &shared.1, object).await) }.boxed()
        },
        |_, never: &Infallible, _| match *never {},
        Arc::new((ctx.clone(), scope.clone())),
        scope.objects.clone(),
        queue.map(Ok::<ObjectRef<OAuthConsumer>, Infallible>),
        Config::default().concurrency(WAITING),
    );
    reconciled
        .for_each(|result| {
            if let Err(error) = result {
                // Nearly always an object that went between being queued and being reconciled.
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
    let begun = Instant::now();
    let task = tokio::spawn({
        let (ctx, scope, object) = (ctx.clone(), scope.clone(), object.clone());
        async move { tokio::time::timeout(ctx.settings.reconcile_timeout, pass(&ctx, &scope, object)).await }
    });
    let failure = match task.await {
        Ok(Ok(again)) => {
            ctx.metrics.reconcile_duration.observe(begun.elapsed().as_secs_f64());
            return again;
        }
        Ok(Err(_)) => Failure::Internal(format!("no end within {:?}", ctx.settings.reconcile_timeout)),
        Err(error) => Failure::Internal(format!("a panic: {error}")),
    };
    let glance = Look::glance(ctx, scope, object, Found::default());
    let settled = tokio::time::timeout(ctx.settings.reconcile_timeout, settle(ctx, glance, Outcome::failed(None, failure)));
    settled.await.unwrap_or_else(|_| Action::requeue(ctx.attempts.failed(&uid)))
}

async fn pass(ctx: &Context, scope: &Scope, object: Arc<OAuthConsumer>) -> Action {
    // The record is read before anything is looked at: so a write rests on a newer look than what it replaces.
    let owner = ctx.owner(&object.uid().unwrap_or_default());
    let mut found = match ctx.store.by_owner(&owner).await {
        Ok(found) => found,
        Err(error) => {
            let glance = Look::glance(ctx, scope, object, Found::default());
            return settle(ctx, glance, Outcome::failed(None, error.into())).await;
        }
    };
    // What the lane could not end is ended here in the same way, which needs no Secret: one that cannot be read must not keep a
    // sign-in open.
    if found.1.as_ref().is_some_and(Stored::admits) && object.observed().is_shut() {
        let closed = close(ctx, scope, &ObjectRef::from_obj(&*object)).await;
        let again = ctx.store.by_owner(&owner).await;
        match (closed, again) {
            (Ok(()), Ok(again)) => found = again,
            (Err(failure), _) => {
                let record = found.1.clone();
                return settle(ctx, Look::glance(ctx, scope, object, found), Outcome::failed(record, failure)).await;
            }
            (Ok(()), Err(error)) => {
                return settle(ctx, Look::glance(ctx, scope, object, found), Outcome::failed(None, error.into())).await;
            }
        }
    }
    let mut look = Look::glance(ctx, scope, object, found);
    let mut plan = decide(&look.seen);
    if plan.writes_record() {
        let glance = look.clone();
        let patch_comes_first = plan.effects.first() == Some(&Effect::AddFinalizer) && look.seen.record.is_none();
        look = match look.confirm(ctx, patch_comes_first, SecretWanted::Always).await {
            Ok(look) => look,
            Err(failure) => {
                let record = glance.seen.record.clone();
                return settle(ctx, glance, Outcome::failed(record, failure)).await;
            }
        };
        plan = decide(&look.seen);
    }
    let outcome = apply(ctx, &mut look, plan).await;
    settle(ctx, look, outcome).await
}

/// Ends what is over: removes the record of an object that is gone or is to go, and closes that of one that no longer wants sign-in.
/// Leaves everything else as it is, and needs no Secret: so any controller may do it for any object of the cluster that its store has
/// a record of. An object without one may have it in another store, whose controller then lets it go.
pub(super) async fn end_if_over(ctx: &Context, object: Arc<OAuthConsumer>) -> Result<(), Failure> {
    let found = ctx.store.by_owner(&ctx.owner(&object.uid().unwrap_or_default())).await?;
    if found.1.is_none() {
        return Ok(());
    }
    let mut look = Look::unseen(ctx, object, found).confirm(ctx, false, SecretWanted::Never).await?;
    let plan = decide(&look.seen);
    let is_going = look.seen.object.as_ref().is_none_or(|object| object.deleting);
    let plan = if is_going { Some(plan) } else { plan.closing(&look.seen) };
    let Some(plan) = plan.filter(|plan| !plan.is_empty()) else { return Ok(()) };
    let outcome = apply(ctx, &mut look, plan).await;
    let failure = outcome.failure.clone();
    if is_going || failure.is_some() {
        settle(ctx, look, outcome).await;
    } else {
        let Conclusion { statement, notices, .. } = conclude(&look.seen, &outcome);
        report(ctx, &look, &notices);
        if let Some(statement) = statement {
            publish(ctx, &look, &statement.without_secret()).await?;
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Ends sign-in where that is what an object asks for, in a lane of its own: with other slots than reconciles and without a
/// hash, so that no storm of registrations delays it. Then hands the object on to a reconcile, for whatever else there is.
pub(super) async fn run_closing(ctx: Arc<Context>, scope: Arc<Scope>, queue: Queue, shutdown: CancellationToken) {
    tokio::select! { () = scope.wait_until_ready() => {}, () = shutdown.cancelled() => {} }
    let closed = queue.for_each_concurrent(CLOSING, |reference| {
        let (ctx, scope) = (ctx.clone(), scope.clone());
        async move {
            let task = tokio::spawn({
                let (ctx, scope, reference) = (ctx, scope.clone(), reference.clone());
                async move { tokio::time::timeout(ctx.settings.reconcile_timeout, close(&ctx, &scope, &reference)).await }
            });
            // Whatever became of it, the reconcile sees it, retries it and says it.
            if let Ok(Ok(Err(failure))) = task.await {
                debug!(object = %reference, cause = %failure, "not closed at once");
            }
            scope.enqueue(reference);
        }
    });
    closed.await;
    scope.stop_reconciles();
}

async fn close(ctx: &Context, scope: &Scope, reference: &ObjectRef<OAuthConsumer>) -> Result<(), Failure> {
    for attempt in 1.. {
        let Some(object) = scope.objects.get(reference) else { return Ok(()) };
        let found = ctx.store.by_owner(&ctx.owner(&object.uid().unwrap_or_default())).await?;
        if !found.1.as_ref().is_some_and(Stored::admits) {
            return Ok(());
        }
        let mut look = Look::glance(ctx, scope, object, found).confirm(ctx, false, SecretWanted::IfOpen).await?;
        let Some(closing) = decide(&look.seen).closing(&look.seen) else { return Ok(()) };
        // With what the cache knows of the Secret, which was perhaps not read: is there anything else to do?
        let glance = Look::glance(ctx, scope, look.object.clone(), (Head::default(), look.seen.record.clone()));
        let is_whole = decide(&Observed { secret: glance.seen.secret, ..look.seen.clone() }) == closing;
        let outcome = apply(ctx, &mut look, closing).await;
        if outcome.failure.is_some() && (outcome.cluster_restored || outcome.record != look.seen.record) {
            report(ctx, &look, &conclude(&look.seen, &outcome).notices);
        }
        match &outcome.failure {
            // Somebody else wrote first, and may have opened it.
            Some(Failure::Overtaken(_)) if attempt < CLOSING_ATTEMPTS => continue,
            Some(failure) => return Err(failure.clone()),
            None if is_whole => {
                settle(ctx, look, outcome).await;
            }
            // There is more to do, and until then nothing to say about the object but that this has happened.
            None => report(ctx, &look, &conclude(&look.seen, &outcome).notices),
        }
        break;
    }
    Ok(())
}

fn report(ctx: &Context, look: &Look, notices: &[Notice]) {
    for notice in notices {
        ctx.events.report(&look.object, notice);
    }
}

/// Concludes, publishes what changed, reports it, and says when to come back. Status is written here and nowhere else.
pub(super) async fn settle(ctx: &Context, look: Look, outcome: Outcome) -> Action {
    let conclusion = conclude(&look.seen, &outcome);
    let uid = look.seen.owner.uid.clone();
    // Reported once the status says so, which happens once.
    let (revoked, others): (Vec<_>, Vec<_>) =
        conclusion.notices.into_iter().partition(|notice| notice.reason == EventReason::Revoked);
    report(ctx, &look, &others);
    let (mut failure, mut again) = (outcome.failure, conclusion.again);
    let mut wrote = look.seen.record != outcome.record;
    if let Some(statement) = &conclusion.statement {
        match publish(ctx, &look, statement).await {
            Ok(published) => {
                wrote |= published;
                report(ctx, &look, &revoked);
            }
            Err(error) => {
                again = Again::Backoff;
                failure = failure.or(Some(error));
            }
        }
    }
    ctx.metrics.reconciles.inc(match &failure {
        None if wrote => ReconcileResult::Changed,
        None => ReconcileResult::Unchanged,
        Some(Failure::Overtaken(_)) => ReconcileResult::Conflict,
        Some(Failure::Store(_)) => ReconcileResult::StoreFailed,
        Some(Failure::Api(_)) => ReconcileResult::ApiFailed,
        Some(Failure::KeyInUse(_)) => ReconcileResult::KeyInUse,
        Some(Failure::Internal(_)) => ReconcileResult::Internal,
    });
    if let Some(failure) = &failure {
        let (namespace, name) = (look.object.namespace().unwrap_or_default(), look.object.name_any());
        match failure {
            Failure::Overtaken(cause) => debug!(namespace, name, cause, "overtaken; looking again"),
            // Its status says so, and every sweep finds it again.
            Failure::KeyInUse(_) => debug!(namespace, name, cause = %failure, "not reconciled"),
            failure => warn!(namespace, name, cause = %failure, "not reconciled"),
        }
    } else {
        ctx.attempts.succeeded(&uid);
    }
    match again {
        Again::AtChange => Action::await_change(),
        Again::Backoff => Action::requeue(ctx.attempts.failed(&uid)),
    }
}

async fn publish(ctx: &Context, look: &Look, statement: &Statement) -> Result<bool, Failure> {
    let Some(status) = look.status_to_write(statement) else { return Ok(false) };
    let written = patch::status(&ctx.client, &look.object, &status).await?;
    ctx.own_writes.remember(&look.seen.owner.uid, written.metadata.resource_version.as_deref());
    ctx.metrics.effects.inc(Operation::StatusWritten);
    Ok(true)
}
