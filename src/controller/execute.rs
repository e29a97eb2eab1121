//! The executor: every plan for an object is made and carried out here.

use std::sync::Arc;

use super::snapshot::Snapshot;
use super::{Context, now, patch};
use crate::consumer::{Effect, Failure, Missing, Object, Observed, Outcome, Phc, Plan, Record, Stored, Unhashed, decide, deny};
use crate::store::{Replaces, StoreError};
use crate::telemetry::Operation;

/// What a plan is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// All that the object needs.
    Reconcile,
    /// The end of its sign-in, before all else.
    Deny,
    /// The end of its sign-in, for any object of the cluster. This controller may have no right to read the Secret.
    DenyAnywhere,
}

// === impl Purpose ===

impl Purpose {
    fn plan(self, seen: &Observed) -> Result<Plan, Missing> {
        match self {
            Self::Reconcile => decide(seen),
            Self::Deny | Self::DenyAnywhere => Ok(deny(seen).unwrap_or_default()),
        }
    }

    /// Whether the plan depends on the Secret. The end of a sign-in must not depend on a Secret that cannot be read.
    fn needs_secret(self, object: &Object) -> bool {
        match self {
            Self::Reconcile => !object.deleting,
            Self::Deny => object.allows_signin(),
            Self::DenyAnywhere => false,
        }
    }
}

/// Makes a plan. If it writes the record, refreshes the snapshot and makes the plan again. Then carries the plan out.
pub(super) async fn execute(ctx: &Context, mut snapshot: Snapshot, purpose: Purpose) -> (Snapshot, Outcome) {
    let mut plan = purpose.plan(&snapshot.seen);
    if purpose == Purpose::DenyAnywhere || plan.as_ref().map_or(true, Plan::writes_record) {
        snapshot = match snapshot.refreshed(ctx, |object| purpose.needs_secret(object)).await {
            Ok(refreshed) => refreshed,
            Err(failure) => return snapshot.failed(failure),
        };
        // Only with a refreshed snapshot: a cached one may be older than the record without a restore.
        match forget_versions_after_restore(ctx, &snapshot.seen).await {
            Ok(false) => {}
            Ok(true) => return snapshot.restored(),
            Err(failure) => return snapshot.failed(failure),
        }
        plan = purpose.plan(&snapshot.seen);
    }
    match plan {
        Ok(plan) => {
            let outcome = apply(ctx, &mut snapshot, plan).await;
            (snapshot, outcome)
        }
        Err(missing) => snapshot.failed(missing.into()),
    }
}

/// Closes a record that cannot be compared with its object. None if another writer was faster.
pub(super) async fn close_unseen(ctx: &Context, stored: Stored) -> Result<Option<Stored>, StoreError> {
    let version = Replaces::Version(stored.version);
    match ctx.store.write(stored.out_of_scope(), version, now()).await {
        Ok(closed) => Ok(Some(closed)),
        Err(StoreError::Conflict) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Carries out the plan and stops at the first failure. Updates the snapshot with the answers.
async fn apply(ctx: &Context, snapshot: &mut Snapshot, plan: Plan) -> Outcome {
    let mut outcome = Outcome { record: snapshot.seen.record.clone(), ..Outcome::default() };
    for effect in plan.effects {
        if let Err(failure) = carry_out(ctx, snapshot, effect, &mut outcome.record).await {
            outcome.failure = Some(failure);
            break;
        }
    }
    outcome
}

async fn carry_out(ctx: &Context, snapshot: &mut Snapshot, effect: Effect, record: &mut Option<Stored>) -> Result<(), Failure> {
    match effect {
        Effect::AddFinalizer => {
            let generation = snapshot.object.metadata.generation;
            snapshot.object = Arc::new(patch::finalizer(&ctx.client, &snapshot.object, true).await?);
            ctx.own_writes.remember(&snapshot.seen.owner.uid, snapshot.object.metadata.resource_version.as_deref());
            if snapshot.object.metadata.generation != generation {
                return Err(Failure::Conflict("admission changed the spec; looking again".into()));
            }
            ctx.metrics.effects.inc(Operation::FinalizerAdded);
        }
        Effect::RemoveFinalizer => {
            snapshot.object = Arc::new(patch::finalizer(&ctx.client, &snapshot.object, false).await?);
            ctx.metrics.effects.inc(Operation::FinalizerRemoved);
        }
        Effect::WriteRecord(to_write) => *record = Some(commit(ctx, snapshot, *to_write).await?),
        Effect::HashAndWriteRecord(unhashed) => {
            let to_write = hash(ctx, snapshot, *unhashed).await?;
            *record = Some(commit(ctx, snapshot, to_write).await?);
        }
    }
    Ok(())
}

async fn commit(ctx: &Context, snapshot: &Snapshot, record: Record) -> Result<Stored, Failure> {
    let now = now();
    let record = record.dated(snapshot.seen.trusted(), now);
    let stored = ctx.store.write(record, snapshot.replaces(), now).await?;
    let operation = if stored.record.is_removed() {
        Operation::RecordRemoved
    } else if snapshot.seen.is_repair() {
        Operation::RecordRepaired
    } else {
        Operation::RecordWritten
    };
    ctx.metrics.effects.inc(operation);
    Ok(stored)
}

/// The record with the hash of its secret. The recorded hash stays if it fits.
async fn hash(ctx: &Context, snapshot: &Snapshot, unhashed: Unhashed) -> Result<Record, Failure> {
    // A hash is expensive, so first see whether the key is in use.
    if snapshot.seen.record.is_none() {
        let (_, holder) = ctx.store.by_key(unhashed.key()).await?;
        if holder.is_some_and(|holder| holder.stored.record.owner != snapshot.seen.owner) {
            return Err(StoreError::KeyInUse(unhashed.key().clone()).into());
        }
    }
    let (value, uid) = (&unhashed.value, &snapshot.seen.owner.uid);
    let phc: Phc = ctx.hashing.renew(unhashed.recorded.clone(), value.clone()).await?;
    ctx.metrics.effects.inc(Operation::SecretHashed);
    ctx.known_hashes.remember(uid, phc.clone(), ctx.fingerprints.of(value));
    Ok(unhashed.with_hash(phc))
}

/// Forgets the recorded versions if the cluster was restored from a backup: equal versions prove nothing then. They are forgotten
/// in the store, so that this survives a crash and reaches every controller.
async fn forget_versions_after_restore(ctx: &Context, seen: &Observed) -> Result<bool, Failure> {
    if !seen.shows_restored_cluster() {
        return Ok(false);
    }
    Ok(crate::store::forget_secret_versions(&*ctx.store, &ctx.settings.cluster_id, now()).await? > 0)
}
