//! Apply: carries out a plan, effect by effect, and reports what really happened.

use std::sync::Arc;

use super::observe::Look;
use super::{Context, now, patch};
use crate::consumer::{
    ConsumerKey, Decision, DecisionDraft, Draft, Effect, Failure, Object, Observed, Outcome, Phc, Plan, Record, SecretDraft,
    SecretOutcome, SecretProblem, SecretSeen, State, Stored,
};
use crate::store::StoreError;
use crate::telemetry::Operation;

/// Carries out the plan and stops at the first failure. The look is brought up to date with the answers.
pub(super) async fn apply(ctx: &Context, look: &mut Look, plan: Plan) -> Outcome {
    let mut outcome = Outcome { record: look.seen.record.clone(), ..Outcome::default() };
    match forget_versions_after_restore(ctx, look).await {
        Ok(restored) => outcome.cluster_restored = restored,
        Err(failure) => outcome.failure = Some(failure),
    }
    if outcome.cluster_restored {
        outcome.failure = Some(Failure::Overtaken("the cluster was restored from a backup; looking again".into()));
    }
    for effect in plan.effects {
        if outcome.failure.is_some() {
            break;
        }
        if let Err(failure) = one(ctx, look, effect, &mut outcome.record).await {
            outcome.failure = Some(failure);
        }
    }
    outcome
}

async fn one(ctx: &Context, look: &mut Look, effect: Effect, record: &mut Option<Stored>) -> Result<(), Failure> {
    let done = match effect {
        Effect::AddFinalizer => {
            let generation = look.object.metadata.generation;
            look.object = Arc::new(patch::finalizer(&ctx.client, &look.object, true).await?);
            ctx.own_writes.remember(&look.seen.owner.uid, look.object.metadata.resource_version.as_deref());
            if look.object.metadata.generation != generation {
                return Err(Failure::Overtaken("admission changed the spec; looking again".into()));
            }
            Operation::FinalizerAdded
        }
        Effect::RemoveFinalizer => {
            look.object = Arc::new(patch::finalizer(&ctx.client, &look.object, false).await?);
            Operation::FinalizerRemoved
        }
        Effect::WriteRecord(draft) => {
            let Some(object) = look.seen.object.clone() else { return Err(Failure::Internal("nothing to record".into())) };
            let repairs = match look.seen.live() {
                Some(stored) => !stored.intact,
                None => object.published_key.is_some(),
            };
            *record = Some(write(ctx, look, &object, *draft).await?);
            if repairs { Operation::RecordRepaired } else { Operation::RecordWritten }
        }
        Effect::RemoveRecord => {
            *record = Some(bury(ctx, look).await?);
            Operation::RecordRemoved
        }
    };
    ctx.metrics.effects.inc(done);
    Ok(())
}

async fn write(ctx: &Context, look: &Look, object: &Object, draft: Draft) -> Result<Stored, Failure> {
    let seen = &look.seen;
    // Before a hash is spent: the key may be taken.
    if seen.record.is_none() {
        let (_, holder) = ctx.store.by_key(&draft.consumer_key).await?;
        if holder.is_some_and(|holder| holder.stored.record.owner != seen.owner) {
            return Err(StoreError::KeyInUse(draft.consumer_key).into());
        }
    }
    let (secret_source, secret, secret_floor) = match draft.secret {
        SecretDraft::Keep(source) => {
            let kept = seen.live().map(|stored| (source, stored.record.secret.clone(), stored.record.secret_floor));
            kept.ok_or_else(|| Failure::Internal("no hash to keep".into()))?
        }
        SecretDraft::Refuse(problem, source) => {
            let floor = source.as_ref().map_or(0, |_| seen.limits.floor());
            (source, SecretOutcome::Refused(problem), floor)
        }
        SecretDraft::Accept(source) => (Some(source), SecretOutcome::Accepted(hash(ctx, look).await?), seen.limits.floor()),
        SecretDraft::Unknown => return Err(Failure::Internal("the Secret was not read".into())),
    };
    let now = now();
    let decision = draft.decision.map(|decision| match decision {
        DecisionDraft::Keep(decision) => decision,
        DecisionDraft::New { approved, by } => Decision { approved, by, at: now, generation: object.generation },
    });
    let record = Record {
        decision,
        unproved_approval: draft.unproved_approval,
        hold: object.hold.clone(),
        revocation: draft.revocation,
        secret_source,
        secret,
        secret_floor,
        ..blank(&look.seen, object, draft.consumer_key, draft.state)
    };
    Ok(ctx.store.write(record, look.replaces(), now).await?)
}

/// The hash of the Secret's value; the recorded one if it fits.
async fn hash(ctx: &Context, look: &Look) -> Result<Phc, Failure> {
    let SecretSeen::Read(_, Ok(value)) = &look.seen.secret else {
        return Err(Failure::Internal("the Secret was not read".into()));
    };
    let recorded = look.seen.live().filter(|stored| stored.intact).and_then(|stored| stored.record.phc().cloned());
    let phc = ctx.hashing.renew(recorded, value.clone()).await?;
    ctx.metrics.effects.inc(Operation::SecretHashed);
    ctx.known_hashes.remember(&look.seen.owner.uid, phc.clone(), ctx.fingerprints.of(value));
    Ok(phc)
}

/// A record of this object with nothing decided and no secret.
fn blank(seen: &Observed, object: &Object, consumer_key: ConsumerKey, state: State) -> Record {
    Record {
        consumer_key,
        owner: seen.owner.clone(),
        installation: seen.installation.clone(),
        namespace: object.namespace.clone(),
        object: object.name.clone(),
        name: object.consumer_name.clone(),
        generation: object.generation,
        state,
        decision: None,
        unproved_approval: None,
        hold: None,
        revocation: None,
        secret_source: None,
        secret: SecretOutcome::Refused(SecretProblem::NotFound),
        secret_floor: 0,
    }
}

/// Turns the record into a tombstone, or leaves one where there never was a record.
async fn bury(ctx: &Context, look: &Look) -> Result<Stored, Failure> {
    let seen = &look.seen;
    let unclaimed = seen.owner.unclaimed_key();
    let record = match (&seen.record, &seen.object) {
        (Some(stored), _) if stored.intact => stored.record.clone(),
        (Some(stored), _) => Record { consumer_key: unclaimed, ..stored.record.clone() },
        (None, Some(object)) => blank(seen, object, unclaimed, State::Removed),
        (None, None) => return Err(Failure::Internal("nothing to remove".into())),
    };
    Ok(ctx.store.write(record.removed(), look.replaces(), now()).await?)
}

/// When a look shows an older version than was recorded, the cluster was restored from a backup, and versions prove
/// nothing any more: they are forgotten in the store, so that this survives a crash and reaches every controller.
async fn forget_versions_after_restore(ctx: &Context, look: &Look) -> Result<bool, Failure> {
    if !look.seen.shows_restored_cluster() {
        return Ok(false);
    }
    Ok(ctx.store.forget_secret_versions(&ctx.settings.cluster_id, now()).await? > 0)
}
