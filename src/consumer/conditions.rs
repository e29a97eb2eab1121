//! What the conditions of an object say.

use super::{ConsumerKey, Decision, Object, Observed, Reason, Record, SecretLimits, SecretOutcome, State};

/// A status to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What the store is known to hold.
    pub committed: Committed,
    /// The condition `Ready`.
    pub ready: Verdict,
    /// The condition `Active`.
    pub active: Verdict,
    /// The condition `Approved`.
    pub approved: Verdict,
    /// The condition `SecretReady`; none if nothing new is known of the Secret.
    pub secret_ready: Option<Verdict>,
    /// The condition `Stalled`, present only when it is true.
    pub stalled: Option<Verdict>,
}

/// What the store is known to hold for an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is not known: what was published stays.
    Unknown,
    /// No record to sign in with.
    Nothing,
    /// This record.
    Record {
        /// Its key.
        key: ConsumerKey,
        /// Its state.
        state: State,
        /// Its decision, if that counts.
        decision: Option<Decision>,
        /// See [`Record::unproved_approval`].
        unproved_approval: Option<i64>,
    },
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
    /// It is not known.
    Unknown,
}

/// The statement about an object whose record is what the object says.
pub(super) fn from_record(seen: &Observed, object: &Object, record: &Record) -> Statement {
    if record.state == State::OutOfScope {
        let message = "no controller manages this namespace, so sign-in is refused; an administrator adds the namespace to the \
                       namespaces of an installation, or deletes this object";
        return Statement { committed: Committed::Nothing, ..Statement::unknown(Truth::Unknown, Reason::Pending, message) };
    }
    let secret_ready = secret_ready(seen, object, record);
    let (revoked, approved) = (revoked(record), approved(record));
    Statement {
        committed: Committed::Record {
            key: record.consumer_key.clone(),
            state: record.state,
            decision: record.decision.clone().filter(|_| record.unproved_approval.is_none()),
            unproved_approval: record.unproved_approval,
        },
        ready: first([revoked.clone(), unmet(&secret_ready)])
            .unwrap_or_else(|| Verdict::new(Truth::True, Reason::Synced, "the store holds exactly what this object says")),
        active: first([revoked.clone(), on_hold(object, record), unmet(&secret_ready), unmet(&approved)])
            .unwrap_or_else(|| Verdict::new(Truth::True, Reason::Active, "the consumer can sign in")),
        stalled: first([revoked.clone(), unmet(&secret_ready).filter(|_| !may_pass(record))])
            .map(|verdict| Verdict { status: Truth::True, ..verdict }),
        approved: revoked.unwrap_or(approved),
        secret_ready: Some(secret_ready),
    }
}

/// The first that applies.
fn first<const N: usize>(verdicts: [Option<Verdict>; N]) -> Option<Verdict> {
    verdicts.into_iter().flatten().next()
}

fn unmet(verdict: &Verdict) -> Option<Verdict> {
    (verdict.status != Truth::True).then(|| verdict.clone())
}

fn revoked(record: &Record) -> Option<Verdict> {
    let revocation = record.revocation.as_ref()?;
    let next = if revocation.disapproved {
        "set spec.approved to true to allow sign-in again"
    } else {
        "to allow sign-in again, set spec.approved to false, wait until status.decision.approved is false, then set it to true"
    };
    Some(Verdict::new(Truth::False, Reason::Revoked, format!("revoked in the store: {}; {next}", revocation.reason)))
}

fn on_hold(object: &Object, record: &Record) -> Option<Verdict> {
    let message = format!(
        "on hold: {}; an approver lifts it: kubectl -n {} patch oac {} --field-manager oauthconsumers-approval --type merge \
         -p '{{\"spec\":{{\"hold\":null}}}}'",
        record.hold.as_ref()?,
        object.namespace,
        object.name
    );
    Some(Verdict::new(Truth::False, Reason::OnHold, message))
}

/// The decision, as honoured. It does not depend on the Secret or on a hold.
fn approved(record: &Record) -> Verdict {
    if record.unproved_approval.is_some() {
        return Verdict::new(
            Truth::False,
            Reason::ApprovalUnproved,
            "the approval does not count: the API server did not check who set spec.approved. An administrator restores the \
             policy oauthconsumers-approve in this namespace; then an approver sets spec.approved to false, waits for the state \
             Disapproved, and sets it to true",
        );
    }
    match record.decision.as_ref().map(|decision| decision.approved) {
        Some(true) => Verdict::new(Truth::True, Reason::Approved, "the approval counts"),
        Some(false) => Verdict::new(Truth::False, Reason::Disapproved, "spec.approved is false: sign-in is refused"),
        None => Verdict::new(
            Truth::False,
            Reason::AwaitingApproval,
            "the decision is still to be made: sign-in starts when an approver sets spec.approved to true",
        ),
    }
}

fn secret_ready(seen: &Observed, object: &Object, record: &Record) -> Verdict {
    match &record.secret {
        SecretOutcome::Accepted(_) => Verdict::new(Truth::True, Reason::Accepted, "the Secret holds a usable value"),
        SecretOutcome::Refused(problem) => {
            // The floor that it was judged by: two controllers with different ones must not write their own in turn.
            let judged_by = usize::try_from(record.secret_floor).ok().filter(|floor| *floor > 0);
            let limits = SecretLimits { min: judged_by.unwrap_or(seen.limits.min), ..seen.limits };
            Verdict::new(Truth::False, problem.reason(), problem.message(&object.namespace, &object.secret_ref, limits))
        }
    }
}

/// Whether what is wrong with the Secret may mend itself.
fn may_pass(record: &Record) -> bool {
    matches!(&record.secret, SecretOutcome::Refused(problem) if problem.may_pass())
}

// === impl Statement ===

impl Statement {
    /// It is not known what the store holds, so whether the consumer can sign in is not known, either.
    pub(super) fn unknown(ready: Truth, reason: Reason, message: &str) -> Self {
        let unknown = Verdict::new(Truth::Unknown, reason, message);
        Self {
            committed: Committed::Unknown,
            ready: Verdict { status: ready, ..unknown.clone() },
            active: unknown.clone(),
            approved: unknown,
            secret_ready: None,
            stalled: None,
        }
    }

    /// The same, from a controller that does not read the Secret: it says what it has ended, and nothing of the rest.
    #[must_use]
    pub fn without_secret(self) -> Self {
        let message = "sign-in is ended; the controller that manages this namespace has still to look at the Secret";
        Self { ready: Verdict::new(Truth::Unknown, Reason::Pending, message), secret_ready: None, stalled: None, ..self }
    }

    /// There is no record to sign in with. Stalled if only the user can help.
    pub(super) fn nothing(reason: Reason, message: &str, stalled: bool) -> Self {
        let no = Verdict::new(Truth::False, reason, message);
        Self {
            committed: Committed::Nothing,
            stalled: stalled.then(|| Verdict { status: Truth::True, ..no.clone() }),
            active: no.clone(),
            ..Self::unknown(Truth::False, reason, message)
        }
    }
}

// === impl Verdict ===

impl Verdict {
    fn new(status: Truth, reason: Reason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }
}
