//! What is to be done for a consumer. Pure and total: the controller acts on it, the sweep asks it.

use super::{
    ConsumerKey, Decision, Object, Observed, Record, Revocation, SecretOutcome, SecretProblem, SecretSeen, SecretSource, State,
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
    Draft::new(seen, object, true).state != Draft::new(seen, object, false).state
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
                if matches!(draft.secret, SecretDraft::Accept(_)) {
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
        let recorded = trusted.and_then(|record| record.decision.clone());
        let recorded_decision = recorded.as_ref().map(|decision| decision.approved);
        // Another stamp in a later generation: decided to and fro between two looks.
        let is_same = |decision: &Decision| {
            let stamped = object.decided_by.is_some() && object.decided_by != decision.by;
            Some(decision.approved) == object.approved
                && !(stamped && trusted.is_some_and(|record| object.generation > record.generation))
        };
        let decision = object.approved.map(|approved| match recorded.filter(is_same) {
            Some(decision) => DecisionDraft::Keep(decision),
            None => DecisionDraft::New { approved, by: object.decided_by.clone() },
        });
        let is_new = matches!(decision, Some(DecisionDraft::New { .. }));
        // More than another stamp: a decision against it was recorded in between.
        let is_reversed = recorded_decision != object.approved;
        // An approval that did not count does not count later, either, until it is made anew. Where the record tells no more of
        // it, the status does.
        let was_unproved = match trusted.filter(|record| record.state != State::OutOfScope) {
            Some(record) => !is_reversed && record.is_unproved(),
            None => object.says_unproved,
        };
        let opens = is_new || (object.hold.is_none() && !is_known_to_be_open(trusted, object));
        let is_unproved = object.approved == Some(true) && (was_unproved || (opens && !approvals_count));
        // A revocation is sticky, in tombstones and edited rows, too: it goes only with a decision that is known to be new.
        let newly_approved = object.approved == Some(true)
            && is_reversed
            && !is_unproved
            && trusted.is_some_and(|record| record.state != State::OutOfScope);
        let revocation = seen
            .record
            .as_ref()
            .and_then(|stored| stored.record.revocation.clone())
            .filter(|revocation| !(newly_approved && object.generation > revocation.generation));
        let state = match (&revocation, &object.hold, object.approved) {
            (Some(_), _, _) => State::Revoked,
            (None, _, _) if is_unproved => State::AwaitingApproval,
            (None, Some(_), _) => State::OnHold,
            (None, None, Some(true)) => State::Approved,
            (None, None, Some(false)) => State::Disapproved,
            (None, None, None) => State::AwaitingApproval,
        };
        Self { consumer_key: seen.key_of(object), state, decision, revocation, secret: secret(seen, trusted) }
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
                record.secret == SecretOutcome::Refused(*problem) && *source == record.secret_source
            }
            SecretDraft::Accept(_) => false,
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
            && record.hold == object.hold
            && record.revocation == self.revocation
    }
}

fn secret(seen: &Observed, trusted: Option<&Record>) -> SecretDraft {
    let recorded = |source: &SecretSource| trusted.is_some_and(|record| record.secret_source.as_ref() == Some(source));
    match &seen.secret {
        SecretSeen::Missing => SecretDraft::Refuse(SecretProblem::NotFound, None),
        SecretSeen::Read(source, Err(problem)) => SecretDraft::Refuse(*problem, Some(source.clone())),
        // The floor is a setting: what was too short for the last process may do for this one, so it is read again.
        SecretSeen::Unread(source) if recorded(source) && !trusted.is_some_and(is_too_short) => {
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

fn is_too_short(record: &Record) -> bool {
    record.secret == SecretOutcome::Refused(SecretProblem::TooShort)
}
