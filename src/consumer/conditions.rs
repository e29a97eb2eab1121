//! The conditions of an object.

use super::{ConsumerKey, Decision, Object, Observed, Reason, Record, SecretLimits, SecretOutcome, State};

/// What to write into a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// What the store is known to hold.
    pub committed: Committed,
    pub ready: ConditionState,
    pub active: ConditionState,
    pub approved: ConditionState,
    /// The condition `SecretReady`; none if nothing new is known of the Secret.
    pub secret_ready: Option<ConditionState>,
    /// The condition `Stalled`, present only when it is true.
    pub stalled: Option<ConditionState>,
}

/// What the store is known to hold for an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Not known: the published status stays.
    Unknown,
    /// No record to sign in with.
    Nothing,
    Record {
        key: ConsumerKey,
        state: State,
        /// None if the decision does not count.
        decision: Option<Decision>,
        unproved_approval: Option<i64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionState {
    pub status: ConditionStatus,
    pub reason: Reason,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// The status of an object whose record is up to date.
pub(super) fn from_record(seen: &Observed, object: &Object, record: &Record) -> StatusUpdate {
    if record.state == State::OutOfScope {
        let message = "No controller manages this namespace, so sign-in is refused. Ask an administrator to add the namespace to an \
                       installation, or delete this object.";
        return StatusUpdate {
            committed: Committed::Nothing,
            ..StatusUpdate::unknown(ConditionStatus::Unknown, Reason::Pending, message)
        };
    }
    let secret_ready = secret_ready(seen, object, record);
    let (revoked, approved) = (revoked(record), approved(record));
    StatusUpdate {
        committed: Committed::Record {
            key: record.consumer_key.clone(),
            state: record.state,
            decision: record.decision.clone().filter(|_| record.unproved_approval.is_none()),
            unproved_approval: record.unproved_approval,
        },
        ready: first([revoked.clone(), unmet(&secret_ready)]).unwrap_or_else(|| {
            ConditionState::new(ConditionStatus::True, Reason::Synced, "The store holds exactly what this object says.")
        }),
        active: first([revoked.clone(), on_hold(object, record), unmet(&secret_ready), unmet(&approved)])
            .unwrap_or_else(|| ConditionState::new(ConditionStatus::True, Reason::Active, "The consumer can sign in.")),
        stalled: first([revoked.clone(), unmet(&secret_ready).filter(|_| !may_pass(record))])
            .map(|state| ConditionState { status: ConditionStatus::True, ..state }),
        approved: revoked.unwrap_or(approved),
        secret_ready: Some(secret_ready),
    }
}

fn first<const N: usize>(states: [Option<ConditionState>; N]) -> Option<ConditionState> {
    states.into_iter().flatten().next()
}

fn unmet(state: &ConditionState) -> Option<ConditionState> {
    (state.status != ConditionStatus::True).then(|| state.clone())
}

fn revoked(record: &Record) -> Option<ConditionState> {
    let revocation = record.revocation.as_ref()?;
    let next = if revocation.disapproved {
        "To allow sign-in again, an approver sets spec.approved to true."
    } else {
        "To allow sign-in again, an approver sets spec.approved to false. Once status.decision.approved is false, the approver \
         sets spec.approved to true."
    };
    Some(ConditionState::new(
        ConditionStatus::False,
        Reason::Revoked,
        format!("Revoked in the store: {}. {next}", revocation.reason),
    ))
}

fn on_hold(object: &Object, record: &Record) -> Option<ConditionState> {
    let message = format!(
        "On hold: {}. An approver lifts the hold: kubectl -n {} patch oac {} --field-manager oauthconsumers-approval --type merge \
         -p '{{\"spec\":{{\"hold\":null}}}}'",
        record.hold.as_ref()?,
        object.namespace,
        object.name
    );
    Some(ConditionState::new(ConditionStatus::False, Reason::OnHold, message))
}

/// The condition `Approved`: the decision alone, whatever Secret and hold are.
fn approved(record: &Record) -> ConditionState {
    if record.unproved_approval.is_some() {
        return ConditionState::new(
            ConditionStatus::False,
            Reason::ApprovalUnproved,
            "The approval does not count: the API server did not check who set spec.approved. An administrator restores the \
             policy oauthconsumers-approve in this namespace. Then an approver sets spec.approved to false, waits for the state \
             Disapproved, and sets it to true.",
        );
    }
    match record.decision.as_ref().map(|decision| decision.approved) {
        Some(true) => ConditionState::new(ConditionStatus::True, Reason::Approved, "The approval counts."),
        Some(false) => ConditionState::new(
            ConditionStatus::False,
            Reason::Disapproved,
            "spec.approved is false, so sign-in is refused. To allow it, an approver sets spec.approved to true.",
        ),
        None => ConditionState::new(
            ConditionStatus::False,
            Reason::AwaitingApproval,
            "The decision is still to be made, so sign-in is refused. To allow it, an approver sets spec.approved to true.",
        ),
    }
}

fn secret_ready(seen: &Observed, object: &Object, record: &Record) -> ConditionState {
    match &record.secret {
        SecretOutcome::Accepted(_) => {
            ConditionState::new(ConditionStatus::True, Reason::Accepted, "The Secret holds a usable value.")
        }
        SecretOutcome::Refused(problem) => {
            // The recorded floor: two controllers with different floors must not overwrite each other's status again and again.
            let judged_by = usize::try_from(record.secret_floor).ok().filter(|floor| *floor > 0);
            let limits = SecretLimits { min: judged_by.unwrap_or(seen.limits.min), ..seen.limits };
            ConditionState::new(
                ConditionStatus::False,
                problem.reason(),
                problem.message(&object.namespace, &object.secret_ref, limits),
            )
        }
    }
}

fn may_pass(record: &Record) -> bool {
    matches!(&record.secret, SecretOutcome::Refused(problem) if problem.may_pass())
}

// === impl StatusUpdate ===

impl StatusUpdate {
    /// What the store holds is unknown, so `Active` and `Approved` are unknown, too.
    pub(super) fn unknown(ready: ConditionStatus, reason: Reason, message: &str) -> Self {
        let unknown = ConditionState::new(ConditionStatus::Unknown, reason, message);
        Self {
            committed: Committed::Unknown,
            ready: ConditionState { status: ready, ..unknown.clone() },
            active: unknown.clone(),
            approved: unknown,
            secret_ready: None,
            stalled: None,
        }
    }

    /// From a controller that does not read the Secret: it reports the end of the sign-in, and nothing about the Secret.
    pub fn without_secret(self) -> Self {
        let message = "A controller of other namespaces has ended sign-in. The controller of this namespace still has to look at the \
                       object. If it does not, ask an administrator whether it runs.";
        Self {
            ready: ConditionState::new(ConditionStatus::Unknown, Reason::Pending, message),
            secret_ready: None,
            stalled: None,
            ..self
        }
    }

    /// There is no record to sign in with. Stalled if only the user can help.
    pub(super) fn nothing(reason: Reason, message: &str, stalled: bool) -> Self {
        let no = ConditionState::new(ConditionStatus::False, reason, message);
        Self {
            committed: Committed::Nothing,
            stalled: stalled.then(|| ConditionState { status: ConditionStatus::True, ..no.clone() }),
            active: no.clone(),
            ..Self::unknown(ConditionStatus::False, reason, message)
        }
    }
}

// === impl ConditionState ===

impl ConditionState {
    fn new(status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::fixture::{approved, object, revoked, seen};
    use crate::consumer::{SecretProblem, Stored};

    /// `Ready`, `Active` and `Approved` of a record, and whether it is stalled.
    fn said(record: &Record) -> (Reason, Reason, Reason, bool) {
        let object = Object { hold: record.hold.clone(), ..object() };
        let update = from_record(&seen(object.clone()), &object, record);
        for (condition, good) in
            [(&update.ready, Reason::Synced), (&update.active, Reason::Active), (&update.approved, Reason::Approved)]
        {
            assert_eq!(condition.status == ConditionStatus::True, condition.reason == good);
        }
        (update.ready.reason, update.active.reason, update.approved.reason, update.stalled.is_some())
    }

    #[test]
    fn conditions_give_the_first_reason_that_applies() {
        use Reason::{AwaitingApproval, Disapproved, OnHold, SecretInvalid, SecretNotFound, Synced};
        let held = Some("leaked".to_owned());
        let refused = |problem| SecretOutcome::Refused(problem);
        let usable = || approved().record.secret;
        let decided = |approved: bool| approved_decision(approved);
        for (what, hold, secret, decision, unproved_approval, expected) in [
            ("all is well", None, usable(), decided(true), None, (Synced, Reason::Active, Reason::Approved, false)),
            ("undecided", None, usable(), None, None, (Synced, AwaitingApproval, AwaitingApproval, false)),
            ("disapproved", None, usable(), decided(false), None, (Synced, Disapproved, Disapproved, false)),
            (
                "the approval does not count",
                None,
                usable(),
                decided(true),
                Some(3),
                (Synced, Reason::ApprovalUnproved, Reason::ApprovalUnproved, false),
            ),
            (
                "no Secret yet",
                None,
                refused(SecretProblem::NotFound),
                decided(true),
                None,
                (SecretNotFound, SecretNotFound, Reason::Approved, false),
            ),
            (
                "an unusable Secret, and undecided",
                None,
                refused(SecretProblem::NotUtf8),
                None,
                None,
                (SecretInvalid, SecretInvalid, AwaitingApproval, true),
            ),
            (
                "held, with an unusable Secret",
                held.clone(),
                refused(SecretProblem::NotUtf8),
                decided(true),
                None,
                (SecretInvalid, OnHold, Reason::Approved, true),
            ),
            ("held", held, usable(), decided(true), None, (Synced, OnHold, Reason::Approved, false)),
        ] {
            let record = Record { decision, unproved_approval, hold, secret, ..approved().record };
            assert_eq!(said(&record), expected, "{what}");
        }
    }

    fn approved_decision(approved: bool) -> Option<Decision> {
        let Stored { record, .. } = crate::consumer::fixture::approved();
        record.decision.map(|decision| Decision { approved, ..decision })
    }

    #[test]
    fn a_revocation_comes_before_all_else() {
        let record = Record { hold: Some("leaked".into()), ..revoked(false).record };
        assert_eq!(said(&record), (Reason::Revoked, Reason::Revoked, Reason::Revoked, true));
    }
}
