//! What may be claimed after a reconcile, and when to come back. Pure: status can only come from what really happened.

use super::{Decision, EventReason, Object, Observed, Reason, Record, SecretOutcome, SecretProblem, SecretRef, State, Stored};

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

/// A status to be. `None` means: nothing new is known, what was published stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Key, state and decision, as committed.
    pub committed: Option<(String, State, Option<Decision>)>,
    /// The condition `Ready`.
    pub ready: Verdict,
    /// The condition `Approved`.
    pub approved: Verdict,
    /// The condition `SecretReady`.
    pub secret_ready: Option<Verdict>,
    /// The condition `Stalled`, present only when it is true.
    pub stalled: Option<Verdict>,
}

/// A condition's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its status.
    pub status: Truth,
    /// Its reason.
    pub reason: Reason,
    /// Its message.
    pub message: String,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell.
    Unknown,
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
    let blocked = |reason, message: &str| Statement {
        committed: None,
        ready: Verdict::new(Truth::False, reason, message),
        approved: Verdict::new(Truth::Unknown, reason, message),
        secret_ready: None,
        stalled: None,
    };
    match &outcome.failure {
        Some(Failure::Overtaken(_)) => None,
        None if object.deleting => None,
        Some(failure) if object.deleting => {
            let cause = match failure {
                Failure::Store(_) => "the store does not answer",
                _ => "the operator could not finish",
            };
            let message = format!(
                "the record could not be removed yet because {cause}; sign-in may still be possible until it is; retrying"
            );
            Some(blocked(Reason::DeletionBlocked, &message))
        }
        Some(Failure::Store(_)) => {
            Some(blocked(Reason::StoreUnavailable, "the store does not answer, so nothing can be said or changed; retrying"))
        }
        Some(Failure::KeyInUse(key)) => {
            let message = format!(
                "the key {key} belongs, or once belonged, to another consumer; delete this object and choose another key"
            );
            Some(refused(Reason::KeyInUse, &message))
        }
        Some(Failure::Api(message)) => {
            Some(Statement { ready: Verdict::new(Truth::Unknown, Reason::Pending, message), ..blocked(Reason::Pending, message) })
        }
        Some(Failure::Internal(_)) => {
            let message = "the operator failed and tries again; its log says why";
            Some(Statement { ready: Verdict::new(Truth::Unknown, Reason::Pending, message), ..blocked(Reason::Pending, message) })
        }
        None if seen.has_foreign_key(object) => {
            let message = format!(
                "status.consumerKey is not the key of this object, which is {}; delete the object and create it again, \
                 without a status",
                seen.key_of(object)
            );
            Some(refused(Reason::ForeignKey, &message))
        }
        None => outcome.record.as_ref().map(|stored| from_record(seen, object, &stored.record)),
    }
}

/// There is no record, and only the user can help.
fn refused(reason: Reason, message: &str) -> Statement {
    Statement {
        committed: None,
        ready: Verdict::new(Truth::False, reason, message),
        approved: Verdict::new(Truth::False, reason, message),
        secret_ready: None,
        stalled: Some(Verdict::new(Truth::True, reason, message)),
    }
}

/// The record is what the object says; this is what it says.
fn from_record(seen: &Observed, object: &Object, record: &Record) -> Statement {
    let decided = match record.state {
        State::Approved => Verdict::new(Truth::True, Reason::Approved, "sign-in is allowed"),
        State::Disapproved => Verdict::new(Truth::False, Reason::Disapproved, "spec.approved is false: sign-in is refused"),
        State::OnHold => Verdict::new(
            Truth::False,
            Reason::OnHold,
            format!(
                "on hold: {}; sign-in is refused until an approver removes spec.hold",
                record.hold.as_deref().unwrap_or_default()
            ),
        ),
        State::Revoked => Verdict::new(
            Truth::False,
            Reason::Revoked,
            format!(
                "revoked in the store: {}; to allow sign-in again, disapprove and approve anew",
                record.revocation.as_ref().map_or("", |r| r.reason.as_str())
            ),
        ),
        State::AwaitingApproval | State::OutOfScope | State::Removed => Verdict::new(
            Truth::False,
            Reason::AwaitingApproval,
            "nobody has decided yet: sign-in starts when somebody with the permission to approve sets spec.approved to true",
        ),
    };
    let SecretRef { name, key } = &object.secret_ref;
    let secret_ready = match &record.secret {
        SecretOutcome::Accepted(_) => Verdict::new(Truth::True, Reason::Accepted, "the Secret holds a usable value"),
        SecretOutcome::Refused(problem) => Verdict::new(Truth::False, problem.reason(), problem.message(name, key, seen.limits)),
    };
    let stalled = match &record.secret {
        SecretOutcome::Refused(problem) if !problem.may_pass() => Some(Verdict { status: Truth::True, ..secret_ready.clone() }),
        _ => None,
    };
    // An unusable secret comes first: deciding would not help before it is mended.
    let (ready, approved) = if secret_ready.status != Truth::True {
        (secret_ready.clone(), secret_ready.clone())
    } else if record.state == State::Revoked {
        (decided.clone(), decided)
    } else {
        (Verdict::new(Truth::True, Reason::Synced, "the store holds exactly what this object says"), decided)
    };
    Statement {
        committed: Some((record.consumer_key.to_string(), record.state, record.decision.clone())),
        ready,
        approved,
        secret_ready: Some(secret_ready),
        stalled,
    }
}

/// Compares the record before and after. What was not committed is not reported.
fn notices(seen: &Observed, outcome: &Outcome) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |reason, note: String| notices.push(Notice { reason, note });
    if outcome.cluster_restored {
        say(
            EventReason::ClusterRestored,
            "the cluster shows an older version than the store has seen, so it was restored from a backup; every hash is compared with its Secret once".into(),
        );
    }
    let Some(after) = &outcome.record else { return notices };
    if seen.record.as_ref().is_some_and(|before| before.version == after.version) {
        return notices;
    }
    let (before, after) = (seen.live(), &after.record);

    if after.is_removed() {
        if before.is_some() {
            say(
                EventReason::RecordRemoved,
                format!("the record of key {} is removed; nobody can sign in with it again", after.consumer_key),
            );
        }
        return notices;
    }
    match before {
        None if seen.object.as_ref().is_some_and(|object| object.published.consumer_key.is_some()) => {
            say(
                EventReason::RecordRepaired,
                format!("the record of key {} was missing and is written again", after.consumer_key),
            );
        }
        None => say(EventReason::KeyGenerated, format!("the consumer key is {}", after.consumer_key)),
        Some(stored) if !stored.intact => {
            say(
                EventReason::RecordRepaired,
                format!("the record of key {} had been edited in the store and is put right", after.consumer_key),
            );
        }
        Some(_) => {}
    }
    let old_state = before.map(|stored| stored.record.state);
    if old_state == Some(State::OnHold) && after.state != State::OnHold {
        say(EventReason::HoldLifted, "the hold is lifted".into());
    }
    if old_state != Some(after.state) {
        match (old_state, after.state) {
            (_, State::Approved) => say(EventReason::Approved, "sign-in is approved".into()),
            (_, State::Disapproved) => say(EventReason::Disapproved, "sign-in is disapproved".into()),
            (Some(State::Approved), State::AwaitingApproval) => {
                say(EventReason::Disapproved, "the approval is withdrawn; sign-in waits for a new one".into());
            }
            (_, State::OnHold) => {
                say(EventReason::Held, format!("sign-in is on hold: {}", after.hold.as_deref().unwrap_or_default()));
            }
            (_, State::Revoked) => say(EventReason::Revoked, "sign-in is revoked".into()),
            (_, State::AwaitingApproval | State::OutOfScope | State::Removed) => {}
        }
    }
    match (before.map(|stored| &stored.record.secret), &after.secret) {
        (old, SecretOutcome::Refused(problem)) if old != Some(&after.secret) => {
            say(EventReason::SecretUnusable, unusable(seen, *problem));
        }
        (Some(old), SecretOutcome::Accepted(_)) if *old != after.secret => {
            say(EventReason::SecretChanged, "the Secret's value is accepted and in use".into());
        }
        _ => {}
    }
    notices
}

fn unusable(seen: &Observed, problem: SecretProblem) -> String {
    seen.object.as_ref().map_or_else(
        || problem.to_string(),
        |object| problem.message(&object.secret_ref.name, &object.secret_ref.key, seen.limits),
    )
}

// === impl Verdict ===

impl Verdict {
    fn new(status: Truth, reason: Reason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }
}

// === impl Notice ===

impl Notice {
    /// Whether the event is a warning rather than news.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(
            self.reason,
            EventReason::SecretUnusable | EventReason::RecordRepaired | EventReason::Revoked | EventReason::ClusterRestored
        )
    }
}
