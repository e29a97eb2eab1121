//! What follows from a reconcile: status, events and requeue. Pure: they depend only on what was seen and what was done.

use super::conditions::{StatusUpdate, from_record};
use super::{
    ConditionStatus, Decision, EventReason, Failure, Object, Observed, Reason, Record, Requeue, SecretOutcome, SecretProblem,
    State, Stored,
};

/// What a reconcile did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The record in the store now, as far as is known.
    pub record: Option<Stored>,
    /// What stopped the plan.
    pub failure: Option<Failure>,
    /// Whether the cluster turned out to be restored from a backup, and the recorded versions were forgotten.
    pub cluster_restored: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// None if the object is gone or about to go, or if the next reconcile will say it.
    pub status: Option<StatusUpdate>,
    pub events: Vec<EventDraft>,
    pub requeue: Requeue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventDraft {
    pub reason: EventReason,
    pub note: String,
}

pub fn conclude(seen: &Observed, outcome: &Outcome) -> Conclusion {
    Conclusion {
        status: seen.object.as_ref().and_then(|object| status(seen, object, outcome)),
        events: events(seen, outcome),
        requeue: outcome.failure.as_ref().map_or(Requeue::AtChange, |failure| failure.handling().requeue),
    }
}

fn status(seen: &Observed, object: &Object, outcome: &Outcome) -> Option<StatusUpdate> {
    match &outcome.failure {
        Some(Failure::Conflict(_)) => None,
        failure if object.deleting => deletion(object, outcome, failure.as_ref()),
        Some(failure) => failure.status(object),
        None if seen.has_foreign_key(object) => {
            let message = format!(
                "status.consumerKey is not the key of this object, which is {}. Delete the object, and create it again without a \
                 status.",
                seen.key_of(object)
            );
            Some(StatusUpdate::nothing(Reason::ForeignKey, &message, true))
        }
        None => outcome.record.as_ref().map(|stored| from_record(seen, object, &stored.record)),
    }
}

/// The status of an object that is being deleted. None if nothing delays the deletion.
fn deletion(object: &Object, outcome: &Outcome, failure: Option<&Failure>) -> Option<StatusUpdate> {
    let removed = outcome.record.as_ref().is_some_and(|stored| stored.record.is_removed());
    let message = match failure {
        None if object.other_finalizers.is_empty() => return None,
        None => format!(
            "The record is removed, so sign-in is refused. The object waits for finalizers of other programs: {}.",
            object.other_finalizers.join(", ")
        ),
        Some(_) if removed => {
            "The record is removed, so sign-in is refused. The controller could not remove its finalizer from the \
                               object yet, and tries again."
                .to_owned()
        }
        Some(failure) => {
            let cause = match failure {
                Failure::Store(_) => "the store is unavailable",
                Failure::Api(cause) => cause,
                _ => "the operator failed, and its log says why",
            };
            let message = format!(
                "The controller could not remove the record yet: {cause}. Sign-in may still be possible. The controller tries again."
            );
            return Some(StatusUpdate::unknown(ConditionStatus::False, Reason::DeletionBlocked, &message));
        }
    };
    Some(StatusUpdate::nothing(Reason::DeletionBlocked, &message, false))
}

/// Compares the record before and after: only committed changes are reported.
fn events(seen: &Observed, outcome: &Outcome) -> Vec<EventDraft> {
    let mut events = Vec::new();
    let mut say = |reason, note: String| events.push(EventDraft { reason, note });
    if outcome.cluster_restored {
        say(
            EventReason::ClusterRestored,
            "The cluster was restored from a backup: it shows an older version of the object than the store has seen. The \
             controller compares every hash with its Secret once. Check which consumers are approved."
                .into(),
        );
    }
    // The command `revoke` writes this record, not the controller. So it is reported until the status shows it.
    let revoked = outcome.record.as_ref().filter(|stored| stored.record.state == State::Revoked && outcome.failure.is_none());
    if let Some(revocation) = revoked.and_then(|stored| stored.record.revocation.as_ref())
        && seen.object.as_ref().is_some_and(|object| object.published.state != Some(State::Revoked))
    {
        say(
            EventReason::Revoked,
            format!("Sign-in is revoked in the store: {}. The condition Active says how to allow it again.", revocation.reason),
        );
    }
    let written =
        outcome.record.as_ref().filter(|after| seen.record.as_ref().is_none_or(|before| before.version != after.version));
    let Some(after) = written.map(|stored| &stored.record) else { return events };
    let key = &after.consumer_key;
    match seen.live() {
        Some(_) if after.is_removed() => {
            say(EventReason::RecordRemoved, format!("The record of key {key} is removed. Sign-in with this key is refused."));
        }
        None if after.is_removed() => {}
        // A published key shows that neither the consumer nor its decision is new.
        None if seen.object.as_ref().is_some_and(|object| object.published.key.is_some()) => {
            say(
                EventReason::RecordRepaired,
                format!("The record of key {key} was missing in the store. The controller has written it again."),
            );
        }
        None => {
            say(EventReason::KeyGenerated, format!("The consumer key is {key}."));
            changes(seen, None, after, &mut say);
        }
        // The contents of an edited row are not trusted, so they are not compared.
        Some(before) if !before.intact => {
            say(
                EventReason::RecordRepaired,
                format!("The record of key {key} was edited in the store. The controller has restored it."),
            );
        }
        Some(before) => changes(seen, Some(&before.record), after, &mut say),
    }
    events
}

/// Reports what changed about decision, hold and secret.
fn changes(seen: &Observed, before: Option<&Record>, after: &Record, say: &mut impl FnMut(EventReason, String)) {
    fn decided(record: &Record) -> Option<&Decision> {
        record.decision.as_ref().filter(|_| record.unproved_approval.is_none())
    }
    let by =
        seen.object.as_ref().and_then(|object| object.decided_by.as_ref()).map_or_else(String::new, |by| format!(" by {by}"));
    let when = format!("{by} in generation {}", after.generation);
    match (before.and_then(decided), decided(after)) {
        (before, after) if before == after => {}
        (_, Some(Decision { approved: true, .. })) => say(EventReason::Approved, format!("Approved{when}.")),
        (_, Some(_)) => say(EventReason::Disapproved, format!("Disapproved{when}.")),
        (_, None) if after.unproved_approval.is_some() => {}
        (_, None) => say(EventReason::Disapproved, format!("The decision is withdrawn{when}.")),
    }
    if after.unproved_approval.is_some() && before.is_none_or(|before| before.unproved_approval.is_none()) {
        let note = "The approval does not count: the API server did not check who set spec.approved. The condition Approved says \
                    what to do.";
        say(EventReason::ApprovalUnproved, note.into());
    }
    match (before.and_then(|record| record.hold.as_ref()), &after.hold) {
        (before, after) if before == after.as_ref() => {}
        (_, Some(why)) => say(EventReason::Held, format!("Sign-in is on hold until an approver lifts the hold: {why}")),
        (_, None) => say(EventReason::HoldLifted, "The hold is lifted.".into()),
    }
    match (before.map(|record| &record.secret), &after.secret) {
        (before, after) if before == Some(after) => {}
        (_, SecretOutcome::Refused(problem)) => say(EventReason::SecretUnusable, unusable(seen, *problem)),
        (Some(_), SecretOutcome::Accepted(_)) => {
            say(EventReason::SecretChanged, "The Secret's value is accepted and in use.".into());
        }
        (None, SecretOutcome::Accepted(_)) => {}
    }
}

fn unusable(seen: &Observed, problem: SecretProblem) -> String {
    seen.object
        .as_ref()
        .map_or_else(|| problem.to_string(), |object| problem.message(&object.namespace, &object.secret_ref, seen.limits))
}

// === impl EventDraft ===

impl EventDraft {
    pub fn is_warning(&self) -> bool {
        matches!(
            self.reason,
            EventReason::SecretUnusable
                | EventReason::RecordRepaired
                | EventReason::Revoked
                | EventReason::ClusterRestored
                | EventReason::ApprovalUnproved
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::fixture::{approved, object, recorded, seen};

    #[test]
    fn events_report_committed_changes() {
        use EventReason::{Approved, Disapproved, Held, KeyGenerated, RecordRemoved, RecordRepaired, SecretUnusable};
        let tombstone = Stored { record: approved().record.removed(), ..approved() };
        let edited = Stored { intact: false, ..approved() };
        let then = |change: fn(&mut Object)| {
            let mut object = object();
            change(&mut object);
            recorded(&Observed { record: Some(approved()), ..seen(object) })
        };
        let disapproved = then(|object| (object.approved, object.generation) = (Some(false), 4));
        let held = then(|object| object.hold = Some("leaked".into()));
        let unusable =
            recorded(&Observed { record: Some(approved()), secret: crate::consumer::SecretSeen::Missing, ..seen(object()) });
        for (what, before, after, expected) in [
            ("nothing was written", Some(approved()), approved(), &[][..]),
            ("registered and approved", None, approved(), &[KeyGenerated, Approved]),
            ("disapproved", Some(approved()), disapproved, &[Disapproved]),
            ("held", Some(approved()), held, &[Held]),
            ("its Secret is gone", Some(approved()), unusable, &[SecretUnusable]),
            ("removed", Some(approved()), tombstone, &[RecordRemoved]),
            ("put right", Some(edited), approved(), &[RecordRepaired]),
        ] {
            let version = if before.as_ref() == Some(&after) { 1 } else { 2 };
            let seen = Observed { record: before, ..seen(object()) };
            let outcome = Outcome { record: Some(Stored { version, ..after }), ..Outcome::default() };
            let reasons: Vec<_> = conclude(&seen, &outcome).events.into_iter().map(|event| event.reason).collect();
            assert_eq!(reasons, expected, "{what}");
        }
    }

    #[test]
    fn no_failure_makes_an_object_ready() {
        use ConditionStatus::{False, Unknown};
        for (failure, ready, requeue, is_logged) in [
            (Failure::Conflict("409".into()), None, Requeue::Backoff, false),
            (Failure::Store("down".into()), Some((False, Reason::StoreUnavailable)), Requeue::Backoff, true),
            (Failure::KeyInUse("key".into()), Some((False, Reason::KeyInUse)), Requeue::AtChange, false),
            (Failure::Api("forbidden".into()), Some((Unknown, Reason::Pending)), Requeue::Backoff, true),
            (Failure::Internal("panic".into()), Some((Unknown, Reason::Pending)), Requeue::Backoff, true),
        ] {
            let outcome = Outcome { failure: Some(failure.clone()), ..Outcome::default() };
            let conclusion = conclude(&seen(object()), &outcome);
            let said = conclusion.status.map(|status| (status.ready.status, status.ready.reason));
            assert_eq!((said, conclusion.requeue, failure.handling().is_logged), (ready, requeue, is_logged), "{failure}");
        }
    }
}
