//! What may be claimed after a reconcile, and when to come back. Pure: status can only come from what really happened.

use super::conditions::{Statement, Truth, from_record};
use super::{Decision, EventReason, Object, Observed, Reason, Record, SecretOutcome, SecretProblem, State, Stored};

/// What really happened.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The record as it is in the store now, as far as is known.
    pub record: Option<Stored>,
    /// What stopped the plan, if it was stopped.
    pub failure: Option<Failure>,
    /// Whether the cluster turned out to be restored from a backup, and the recorded versions were forgotten.
    pub cluster_restored: bool,
}

/// Why a plan was not carried out. Each is handled once, here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Somebody else was faster; a newer look will tell.
    #[error("overtaken: {0}")]
    Overtaken(String),
    /// The store does not answer.
    #[error("{0}")]
    Store(String),
    /// The key belongs, or once belonged, to another consumer.
    #[error("the key {0} is in use")]
    KeyInUse(String),
    /// The API server does not answer, or refuses.
    #[error("{0}")]
    Api(String),
    /// A fault of ours: a panic, a time-out, a hash that cannot be computed.
    #[error("{0}")]
    Internal(String),
}

/// What to say and when to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// What the status has to say; nothing when the object is gone or a newer look is on its way.
    pub statement: Option<Statement>,
    /// What to report as events.
    pub notices: Vec<Notice>,
    /// When to come back.
    pub again: Again,
}

/// When to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// When something changes.
    AtChange,
    /// After a pause that grows with each failure in a row.
    Backoff,
}

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its reason.
    pub reason: EventReason,
    /// What happened, for people.
    pub note: String,
}

/// Concludes from what was seen and what happened.
#[must_use]
pub fn conclude(seen: &Observed, outcome: &Outcome) -> Conclusion {
    Conclusion {
        statement: seen.object.as_ref().and_then(|object| statement(seen, object, outcome)),
        notices: notices(seen, outcome),
        again: match outcome.failure {
            // The user has to act, and acting is a change. The sweep asks again, should the key become free.
            None | Some(Failure::KeyInUse(_)) => Again::AtChange,
            Some(_) => Again::Backoff,
        },
    }
}

fn statement(seen: &Observed, object: &Object, outcome: &Outcome) -> Option<Statement> {
    match &outcome.failure {
        Some(Failure::Overtaken(_)) => None,
        failure if object.deleting => deletion(object, outcome, failure.as_ref()),
        Some(Failure::Store(_)) => {
            let message = "the store does not answer, so nothing can be said or changed; retrying";
            Some(Statement::unknown(Truth::False, Reason::StoreUnavailable, message))
        }
        Some(Failure::KeyInUse(key)) => {
            let message = if object.adopted_key.is_some() {
                format!(
                    "the key {key} belongs, or once belonged, to another consumer in the store; delete this object and choose another key, or free that one in the store"
                )
            } else {
                format!("the key {key} of this object was brought along by another consumer; delete that one, then this one")
            };
            Some(Statement::nothing(Reason::KeyInUse, &message, true))
        }
        Some(Failure::Api(message)) => Some(Statement::unknown(Truth::Unknown, Reason::Pending, message)),
        Some(Failure::Internal(_)) => {
            Some(Statement::unknown(Truth::Unknown, Reason::Pending, "the operator failed and tries again; its log says why"))
        }
        None if seen.has_foreign_key(object) => {
            let message = format!(
                "status.consumerKey is not the key of this object, which is {}; delete the object and create it again, \
                 without a status",
                seen.key_of(object)
            );
            Some(Statement::nothing(Reason::ForeignKey, &message, true))
        }
        None => outcome.record.as_ref().map(|stored| from_record(seen, object, &stored.record)),
    }
}

/// What there is to say about an object on its way out; nothing if it goes at once.
fn deletion(object: &Object, outcome: &Outcome, failure: Option<&Failure>) -> Option<Statement> {
    let removed = outcome.record.as_ref().is_some_and(|stored| stored.record.is_removed());
    let message = match failure {
        None if object.other_finalizers.is_empty() => return None,
        None => format!("the record is removed; the object waits for others to finish: {}", object.other_finalizers.join(", ")),
        Some(_) if removed => "the record is removed, but the object could not be let go yet; retrying".to_owned(),
        Some(failure) => {
            let cause = match failure {
                Failure::Store(_) => "the store does not answer",
                Failure::Api(cause) => cause,
                _ => "the operator could not finish",
            };
            let message = format!("the record could not be removed yet: {cause}; sign-in may still be possible; retrying");
            return Some(Statement::unknown(Truth::False, Reason::DeletionBlocked, &message));
        }
    };
    Some(Statement::nothing(Reason::DeletionBlocked, &message, false))
}

/// Compares the record before and after. What was not committed is not reported.
fn notices(seen: &Observed, outcome: &Outcome) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |reason, note: String| notices.push(Notice { reason, note });
    if outcome.cluster_restored {
        say(
            EventReason::ClusterRestored,
            "the cluster shows an older version than the store has seen, so it was restored from a backup; \
             every hash is compared with its Secret once"
                .into(),
        );
    }
    // It is not the controller who revokes, so this is news as long as the status does not say so.
    let revoked = outcome.record.as_ref().filter(|stored| stored.record.state == State::Revoked && outcome.failure.is_none());
    if let Some(revocation) = revoked.and_then(|stored| stored.record.revocation.as_ref())
        && seen.object.as_ref().is_some_and(|object| !object.says_revoked)
    {
        say(EventReason::Revoked, format!("sign-in is revoked in the store: {}", revocation.reason));
    }
    let written =
        outcome.record.as_ref().filter(|after| seen.record.as_ref().is_none_or(|before| before.version != after.version));
    let Some(after) = written.map(|stored| &stored.record) else { return notices };
    let key = &after.consumer_key;
    match seen.live() {
        Some(_) if after.is_removed() => {
            say(EventReason::RecordRemoved, format!("the record of key {key} is removed; nobody can sign in with it again"));
        }
        None if after.is_removed() => {}
        // The key was published before, so this is no new consumer, and its decision no new one.
        None if seen.object.as_ref().is_some_and(|object| object.published_key.is_some()) => {
            say(EventReason::RecordRepaired, format!("the record of key {key} was missing and is written again"));
        }
        None => {
            say(EventReason::KeyGenerated, format!("the consumer key is {key}"));
            changes(seen, None, after, &mut say);
        }
        // What an edited row said was never true, so nothing changed from it.
        Some(before) if !before.intact => {
            say(EventReason::RecordRepaired, format!("the record of key {key} had been edited in the store and is put right"));
        }
        Some(before) => changes(seen, Some(&before.record), after, &mut say),
    }
    notices
}

/// What changed about decision, hold and secret.
fn changes(seen: &Observed, before: Option<&Record>, after: &Record, say: &mut impl FnMut(EventReason, String)) {
    fn decided(record: &Record) -> Option<&Decision> {
        record.decision.as_ref().filter(|_| record.unproved_approval.is_none())
    }
    let by =
        seen.object.as_ref().and_then(|object| object.decided_by.as_ref()).map_or_else(String::new, |by| format!(" by {by}"));
    let when = format!("{by} in generation {}", after.generation);
    match (before.and_then(decided), decided(after)) {
        (before, after) if before == after => {}
        (_, Some(Decision { approved: true, .. })) => say(EventReason::Approved, format!("approved{when}")),
        (_, Some(_)) => say(EventReason::Disapproved, format!("disapproved{when}")),
        (_, None) if after.unproved_approval.is_some() => {}
        (_, None) => say(EventReason::Disapproved, format!("the approval is withdrawn{when}")),
    }
    if after.unproved_approval.is_some() && before.is_none_or(|before| before.unproved_approval.is_none()) {
        let note = "spec.approved is true, but the API server did not check who set it, so it does not count";
        say(EventReason::ApprovalUnproved, note.into());
    }
    match (before.and_then(|record| record.hold.as_ref()), &after.hold) {
        (before, after) if before == after.as_ref() => {}
        (_, Some(why)) => say(EventReason::Held, format!("sign-in is on hold: {why}")),
        (_, None) => say(EventReason::HoldLifted, "the hold is lifted".into()),
    }
    match (before.map(|record| &record.secret), &after.secret) {
        (before, after) if before == Some(after) => {}
        (_, SecretOutcome::Refused(problem)) => say(EventReason::SecretUnusable, unusable(seen, *problem)),
        (Some(_), SecretOutcome::Accepted(_)) => {
            say(EventReason::SecretChanged, "the Secret's value is accepted and in use".into());
        }
        (None, SecretOutcome::Accepted(_)) => {}
    }
}

fn unusable(seen: &Observed, problem: SecretProblem) -> String {
    seen.object
        .as_ref()
        .map_or_else(|| problem.to_string(), |object| problem.message(&object.namespace, &object.secret_ref, seen.limits))
}

// === impl Outcome ===

impl Outcome {
    /// Nothing happened: this stood in the way.
    #[must_use]
    pub fn failed(record: Option<Stored>, failure: Failure) -> Self {
        Self { record, failure: Some(failure), cluster_restored: false }
    }
}

// === impl Notice ===

impl Notice {
    /// Whether the event is a warning rather than news.
    #[must_use]
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
