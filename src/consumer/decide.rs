//! What is to be done for a consumer. Pure and total: the controller acts on it, the sweep asks it.

use super::{
    ConsumerKey, Decision, Object, Observed, Record, Revocation, SecretLimits, SecretOutcome, SecretProblem, SecretSeen,
    SecretSource, State,
};

/// What is to be done, in this order; the first failure stops the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most two effects.
    pub effects: Vec<Effect>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put our finalizer on the object, so that it cannot go before its record.
    AddFinalizer,
    /// Make the record what the object says.
    WriteRecord(Box<Draft>),
    /// Turn the record into a tombstone, or leave one where there never was a record.
    RemoveRecord,
    /// Let the object go.
    RemoveFinalizer,
}

/// A record to be, but for what only the moment of writing can tell: the time and the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// See [`Record::consumer_key`].
    pub consumer_key: ConsumerKey,
    /// See [`Record::state`].
    pub state: State,
    /// See [`Record::decision`].
    pub decision: Option<DecisionDraft>,
    /// See [`Record::unproved_approval`].
    pub unproved_approval: Option<i64>,
    /// See [`Record::revocation`].
    pub revocation: Option<Revocation>,
    /// See [`Record::secret`].
    pub secret: SecretDraft,
}

/// The decision to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionDraft {
    /// The one already recorded.
    Keep(Decision),
    /// A new one, to be dated when it is committed.
    New {
        /// `spec.approved`.
        approved: bool,
        /// See [`Decision::by`].
        by: Option<String>,
    },
}

/// The hash to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretDraft {
    /// What is recorded still holds, for this version of the Secret.
    Keep(Option<SecretSource>),
    /// No usable secret.
    Refuse(SecretProblem, Option<SecretSource>),
    /// The Secret's value; its hash is kept if it fits, and computed otherwise.
    Accept(SecretSource),
    /// Not known before the Secret is read.
    Unknown,
}

/// Decides what is to be done.
#[must_use]
pub fn decide(seen: &Observed) -> Plan {
    let Some(object) = &seen.object else {
        return Plan::new(seen.live().map(|_| Effect::RemoveRecord));
    };
    if object.deleting {
        let buried = seen.record.as_ref().is_some_and(|stored| stored.record.is_removed());
        // With our finalizer on it, a tombstone is left even where there never was a record: a slow peer may be about
        // to insert one.
        let remove = seen.live().is_some() || (object.has_finalizer && !buried);
        return Plan::new([remove.then_some(Effect::RemoveRecord), object.has_finalizer.then_some(Effect::RemoveFinalizer)]);
    }
    if seen.has_foreign_key(object) {
        return Plan::new(seen.live().map(|_| Effect::RemoveRecord));
    }
    let draft = Draft::new(seen, object, seen.approvals_count);
    Plan::new([
        (!object.has_finalizer).then_some(Effect::AddFinalizer),
        (!draft.is_recorded(seen, object)).then(|| Effect::WriteRecord(Box::new(draft))),
    ])
}

/// Whether the spec says something that counts only when the API server asks who may say it: an approval that is not recorded
/// yet, or a change of what is approved.
#[must_use]
pub fn needs_proof(seen: &Observed) -> bool {
    let Some(object) = seen.object.as_ref().filter(|object| !object.deleting && !seen.has_foreign_key(object)) else {
        return false;
    };
    let outcome = |approvals_count| {
        let draft = Draft::new(seen, object, approvals_count);
        (draft.state, draft.unproved_approval.is_some())
    };
    outcome(true) != outcome(false)
}

/// What is recorded, but for edited rows, in which decision and hash prove nothing.
fn trusted(seen: &Observed) -> Option<&Record> {
    seen.live().filter(|stored| stored.intact).map(|stored| &stored.record)
}

/// Whether the spec was found approved before, as it is now.
fn is_known_to_be_open(trusted: Option<&Record>, object: &Object) -> bool {
    trusted.is_some_and(|record| record.state == State::Approved && record.generation == object.generation)
}

// === impl Plan ===

impl Plan {
    fn new(effects: impl IntoIterator<Item = impl Into<Option<Effect>>>) -> Self {
        Self { effects: effects.into_iter().filter_map(Into::into).collect() }
    }

    /// Whether the record is to be written, which needs a look first.
    #[must_use]
    pub fn writes_record(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::WriteRecord(_) | Effect::RemoveRecord))
    }

    /// The part of this plan that ends sign-in and needs neither a hash nor anything else before it; none if it is not about that.
    #[must_use]
    pub fn closing(&self, seen: &Observed) -> Option<Self> {
        let mut plan = self.clone();
        plan.effects.retain(|effect| *effect != Effect::AddFinalizer);
        for effect in &mut plan.effects {
            if let Effect::WriteRecord(draft) = effect {
                if draft.state == State::Approved && !matches!(draft.secret, SecretDraft::Refuse(..)) {
                    return None;
                }
                if matches!(draft.secret, SecretDraft::Accept(_) | SecretDraft::Unknown) {
                    draft.secret = SecretDraft::Keep(seen.live().and_then(|stored| stored.record.secret_source.clone()));
                }
            }
        }
        plan.writes_record().then_some(plan)
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

// === impl Draft ===

impl Draft {
    fn new(seen: &Observed, object: &Object, approvals_count: bool) -> Self {
        let trusted = trusted(seen);
        let decision = decision(trusted, object);
        let is_new = matches!(decision, Some(DecisionDraft::New { .. }));
        let unproved_approval = unproved_approval(trusted, object, is_new, approvals_count);
        let revocation = revocation(seen, trusted, object, unproved_approval.is_none());
        let state = match (&revocation, &object.hold, object.approved) {
            (Some(_), _, _) => State::Revoked,
            (None, Some(_), _) => State::OnHold,
            (None, None, _) if unproved_approval.is_some() => State::AwaitingApproval,
            (None, None, Some(true)) => State::Approved,
            (None, None, Some(false)) => State::Disapproved,
            (None, None, None) => State::AwaitingApproval,
        };
        let (consumer_key, secret) = (seen.key_of(object), secret(seen, trusted));
        Self { consumer_key, state, decision, unproved_approval, revocation, secret }
    }

    /// Whether the store already holds exactly this.
    fn is_recorded(&self, seen: &Observed, object: &Object) -> bool {
        let Some(stored) = seen.live().filter(|stored| stored.intact) else { return false };
        let record = &stored.record;
        let same_decision = match &self.decision {
            None => record.decision.is_none(),
            Some(DecisionDraft::Keep(_)) => true,
            Some(DecisionDraft::New { .. }) => false,
        };
        let same_secret = match &self.secret {
            SecretDraft::Keep(source) => *source == record.secret_source,
            SecretDraft::Refuse(problem, source) => {
                let same_floor = *problem != SecretProblem::TooShort || record.secret_floor <= seen.limits.floor();
                record.secret == SecretOutcome::Refused(*problem) && *source == record.secret_source && same_floor
            }
            SecretDraft::Accept(_) | SecretDraft::Unknown => false,
        };
        same_decision
            && same_secret
            && record.consumer_key == self.consumer_key
            && record.installation == seen.installation
            && record.namespace == object.namespace
            && record.object == object.name
            && record.name == object.consumer_name
            && record.generation == object.generation
            && record.state == self.state
            && record.unproved_approval == self.unproved_approval
            && record.hold == object.hold
            && record.revocation == self.revocation
    }
}

/// The decision in the spec: the recorded one while it is the same.
fn decision(trusted: Option<&Record>, object: &Object) -> Option<DecisionDraft> {
    // Another stamp in a later generation: decided to and fro between two looks.
    let is_same = |decision: &Decision| {
        let stamped = object.decided_by.is_some() && object.decided_by != decision.by;
        Some(decision.approved) == object.approved
            && !(stamped && trusted.is_some_and(|record| object.generation > record.generation))
    };
    let recorded = trusted.and_then(|record| record.decision.clone()).filter(is_same);
    object.approved.map(|approved| match recorded {
        Some(decision) => DecisionDraft::Keep(decision),
        None => DecisionDraft::New { approved, by: object.decided_by.clone() },
    })
}

/// The generation of the approval in the spec, if that does not count. It does not count later, either, until it is made anew:
/// record and status both remember it, because either of them may be lost or put back.
fn unproved_approval(trusted: Option<&Record>, object: &Object, is_new: bool, approvals_count: bool) -> Option<i64> {
    if object.approved != Some(true) {
        return None;
    }
    let recorded = trusted.and_then(|record| record.unproved_approval);
    // The status may be behind the record: a record of a later generation, which the object has reached, has seen it made anew. One of
    // the same generation may have been put back from a backup.
    let is_past =
        |generation: i64| trusted.is_some_and(|record| record.generation > generation && record.generation <= object.generation);
    let published = object.unproved_approval.filter(|generation| *generation <= object.generation && !is_past(*generation));
    let opens = is_new || (object.hold.is_none() && !is_known_to_be_open(trusted, object));
    recorded.or(published).or_else(|| (opens && !approvals_count).then_some(object.generation))
}

/// The revocation in force. It ends with an approval that counts, if a disapproval was recorded after it: then the approval is
/// newer than both. An edited row, a tombstone or a closed record proves no disapproval.
fn revocation(seen: &Observed, trusted: Option<&Record>, object: &Object, approval_counts: bool) -> Option<Revocation> {
    let revocation = seen.record.as_ref()?.record.revocation.clone()?;
    let was_disapproved = revocation.disapproved && trusted.is_some_and(|record| record.state == State::Revoked);
    match object.approved {
        Some(true) if was_disapproved && approval_counts => None,
        Some(false) => Some(Revocation { disapproved: true, ..revocation }),
        Some(true) | None => Some(Revocation { disapproved: was_disapproved, ..revocation }),
    }
}

fn secret(seen: &Observed, trusted: Option<&Record>) -> SecretDraft {
    let recorded = |source: &SecretSource| trusted.is_some_and(|record| record.secret_source.as_ref() == Some(source));
    match &seen.secret {
        SecretSeen::Unknown => trusted.map_or(SecretDraft::Unknown, |record| SecretDraft::Keep(record.secret_source.clone())),
        SecretSeen::Missing => SecretDraft::Refuse(SecretProblem::NotFound, None),
        SecretSeen::Read(source, Err(problem)) => SecretDraft::Refuse(*problem, Some(source.clone())),
        // The floor is a setting: what was too short under a higher one may do now, so it is read again.
        SecretSeen::Unread(source) if recorded(source) && !trusted.is_some_and(|r| was_too_short(r, seen.limits)) => {
            SecretDraft::Keep(Some(source.clone()))
        }
        SecretSeen::Read(source, Ok(_))
            if seen.hash_is_known || (recorded(source) && trusted.is_some_and(|r| r.phc().is_some())) =>
        {
            SecretDraft::Keep(Some(source.clone()))
        }
        SecretSeen::Unread(source) | SecretSeen::Read(source, Ok(_)) => SecretDraft::Accept(source.clone()),
    }
}

fn was_too_short(record: &Record, limits: SecretLimits) -> bool {
    record.secret == SecretOutcome::Refused(SecretProblem::TooShort) && limits.floor() < record.secret_floor
}
