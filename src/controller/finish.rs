//! The end of a reconcile: publishes the status, reports events, and requeues.
//!
//! The status is not an effect of a plan, because it is also written after a failure.

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tracing::{debug, warn};

use super::execute::Purpose;
use super::snapshot::Snapshot;
use super::{Context, patch};
use crate::consumer::{EventDraft, EventReason, Failure, Outcome, ReconcileResult, Requeue, StatusUpdate, conclude};
use crate::telemetry::Operation;

/// Publishes and reports what changed. No other function writes the status.
pub(super) async fn finish(ctx: &Context, snapshot: Snapshot, outcome: Outcome, purpose: Purpose) -> Action {
    let conclusion = conclude(&snapshot.seen, &outcome);
    // Reported when the status first shows it, and so reported once.
    let (revoked, others): (Vec<_>, Vec<_>) =
        conclusion.events.into_iter().partition(|event| event.reason == EventReason::Revoked);
    report(ctx, &snapshot, &others);
    let (mut failure, mut requeue) = (outcome.failure, conclusion.requeue);
    let mut wrote = snapshot.seen.record != outcome.record;
    let is_going = snapshot.seen.object.as_ref().is_none_or(|object| object.deleting);
    let status = conclusion.status.map(|status| match purpose {
        Purpose::DenyAnywhere if failure.is_none() && !is_going => status.without_secret(),
        _ => status,
    });
    if let Some(status) = &status {
        match publish(ctx, &snapshot, status).await {
            Ok(published) => {
                wrote |= published;
                report(ctx, &snapshot, &revoked);
            }
            Err(error) => {
                requeue = Requeue::Backoff;
                failure = failure.or(Some(error));
            }
        }
    }
    let uid = &snapshot.seen.owner.uid;
    if let Some(cause) = &failure {
        let (namespace, name, handling) = (snapshot.object.namespace(), snapshot.object.name_any(), cause.handling());
        ctx.metrics.reconciles.inc(handling.result);
        if handling.is_logged {
            // Cause: the store or the API server fails, or the operator has a fault.
            // Next step: none if it passes. Else read `cause`, and [troubleshoot](../how-to/troubleshoot.md#the-status-does-not-change).
            warn!(namespace, name, %cause, "the consumer was not reconciled; the controller tries again");
        } else {
            debug!(namespace, name, %cause, "not reconciled");
        }
    } else {
        ctx.metrics.reconciles.inc(if wrote { ReconcileResult::Changed } else { ReconcileResult::Unchanged });
        ctx.attempts.succeeded(uid);
    }
    match requeue {
        Requeue::AtChange => Action::await_change(),
        Requeue::Backoff => Action::requeue(ctx.attempts.failed(uid)),
    }
}

pub(super) fn report(ctx: &Context, snapshot: &Snapshot, events: &[EventDraft]) {
    for event in events {
        ctx.events.report(&snapshot.object, event);
    }
}

async fn publish(ctx: &Context, snapshot: &Snapshot, update: &StatusUpdate) -> Result<bool, Failure> {
    let Some(status) = snapshot.status_to_write(update) else { return Ok(false) };
    let written = patch::status(&ctx.client, &snapshot.object, &status).await?;
    ctx.own_writes.remember(&snapshot.seen.owner.uid, written.metadata.resource_version.as_deref());
    ctx.metrics.effects.inc(Operation::StatusWritten);
    Ok(true)
}
