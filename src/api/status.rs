//! Renders a status update as the `status` of the resource.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{OAuthConsumerStatus, PublishedDecision, UnprovedApproval};
use crate::consumer::{Committed, ConditionState, Published, StatusUpdate};

/// The status to publish. What the update does not mention stays. `lastTransitionTime` changes only with the condition's status.
pub fn render(old: &OAuthConsumerStatus, update: &StatusUpdate, generation: i64, now: Timestamp) -> OAuthConsumerStatus {
    let mut new = OAuthConsumerStatus { observed_generation: Some(generation), conditions: Vec::new(), ..old.clone() };
    match &update.committed {
        Committed::Unknown => {}
        Committed::Nothing => (new.state, new.decision) = (None, None),
        Committed::Record { key, state, decision, unproved_approval } => {
            // The API server refuses another key than the published one.
            new.consumer_key.get_or_insert_with(|| key.to_string());
            new.state = Some(state.to_string());
            new.unproved_approval = unproved_approval.map(|generation| UnprovedApproval { generation });
            new.decision = decision.as_ref().map(|decision| PublishedDecision {
                approved: decision.approved,
                by: decision.by.clone(),
                at: Time(decision.at),
                generation: decision.generation,
            });
        }
    }
    let previous = |kind: &str| old.conditions.iter().find(|condition| condition.type_ == kind);
    let mut set = |kind: &str, state: &ConditionState| {
        let status = state.status.to_string();
        let since = previous(kind).filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
        new.conditions.push(Condition {
            type_: kind.to_owned(),
            status,
            reason: state.reason.to_string(),
            message: state.message.clone(),
            observed_generation: Some(generation),
            last_transition_time: since.unwrap_or(Time(now)),
        });
    };
    set("Ready", &update.ready);
    set("Active", &update.active);
    set("Approved", &update.approved);
    if let Some(state) = &update.secret_ready {
        set("SecretReady", state);
    }
    if let Some(state) = &update.stalled {
        set("Stalled", state);
    }
    if update.secret_ready.is_none() {
        new.conditions.extend(previous("SecretReady").cloned());
    }
    new
}

impl From<&OAuthConsumerStatus> for Published {
    fn from(status: &OAuthConsumerStatus) -> Self {
        Self {
            key: status.consumer_key.clone(),
            state: status.state.as_deref().and_then(|state| state.parse().ok()),
            unproved_approval: status.unproved_approval.map(|approval| approval.generation),
        }
    }
}

/// Whether two statuses are equal but for their times and the order of their conditions.
pub fn same_but_for_times(a: &OAuthConsumerStatus, b: &OAuthConsumerStatus) -> bool {
    let timeless = |status: &OAuthConsumerStatus| {
        let mut status = status.clone();
        status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        for condition in &mut status.conditions {
            condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        }
        status
    };
    timeless(a) == timeless(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::{ConditionStatus, ConsumerKey, Reason, State};

    fn condition(status: ConditionStatus, reason: Reason) -> ConditionState {
        ConditionState { status, reason, message: String::new() }
    }

    fn update(ready: ConditionStatus) -> StatusUpdate {
        StatusUpdate {
            committed: Committed::Record {
                key: ConsumerKey::parse("a-consumer-key").unwrap(),
                state: State::Approved,
                decision: None,
                unproved_approval: None,
            },
            ready: condition(ready, Reason::Synced),
            active: condition(ConditionStatus::True, Reason::Active),
            approved: condition(ConditionStatus::True, Reason::Approved),
            secret_ready: Some(condition(ConditionStatus::True, Reason::Accepted)),
            stalled: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn time_of(status: &OAuthConsumerStatus, kind: &str) -> Timestamp {
        status.conditions.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.0
    }

    #[test]
    fn transition_times_move_only_with_the_status_of_their_condition() {
        let first = render(&OAuthConsumerStatus::default(), &update(ConditionStatus::False), 1, at(100));
        let second = render(&first, &update(ConditionStatus::True), 2, at(200));
        assert_eq!(time_of(&second, "Ready"), at(200));
        assert_eq!(time_of(&second, "Approved"), at(100));
        let third = render(&second, &update(ConditionStatus::True), 3, at(300));
        assert_eq!(time_of(&third, "Ready"), at(200));
    }

    #[test]
    fn statuses_that_differ_only_in_their_times_are_the_same() {
        let early = render(&OAuthConsumerStatus::default(), &update(ConditionStatus::True), 1, at(100));
        let late = render(&OAuthConsumerStatus::default(), &update(ConditionStatus::True), 1, at(200));
        assert_ne!(early, late);
        assert!(same_but_for_times(&early, &late));
        let other = render(&OAuthConsumerStatus::default(), &update(ConditionStatus::True), 2, at(100));
        assert!(!same_but_for_times(&early, &other));
    }

    #[test]
    fn a_failure_keeps_what_was_committed_and_leaves_the_secrets_condition_alone() {
        let good = render(&OAuthConsumerStatus::default(), &update(ConditionStatus::True), 1, at(100));
        let failed = StatusUpdate {
            committed: Committed::Unknown,
            ready: condition(ConditionStatus::False, Reason::StoreUnavailable),
            active: condition(ConditionStatus::Unknown, Reason::StoreUnavailable),
            approved: condition(ConditionStatus::Unknown, Reason::StoreUnavailable),
            secret_ready: None,
            stalled: None,
        };
        let status = render(&good, &failed, 2, at(200));
        assert_eq!(status.consumer_key.as_deref(), Some("a-consumer-key"));
        assert_eq!(status.state.as_deref(), Some("Approved"));
        assert_eq!(status.observed_generation, Some(2));
        assert_eq!(time_of(&status, "SecretReady"), at(100));
        assert_eq!(time_of(&status, "Ready"), at(200));
    }

    #[test]
    fn a_failure_keeps_the_unproved_approval() {
        let mut unproved = update(ConditionStatus::True);
        if let Committed::Record { unproved_approval, .. } = &mut unproved.committed {
            *unproved_approval = Some(1);
        }
        let remembered = render(&OAuthConsumerStatus::default(), &unproved, 1, at(100));
        assert_eq!(remembered.unproved_approval, Some(UnprovedApproval { generation: 1 }));
        for committed in [Committed::Unknown, Committed::Nothing] {
            let failed = render(&remembered, &StatusUpdate { committed, ..update(ConditionStatus::False) }, 2, at(200));
            assert_eq!(failed.unproved_approval, remembered.unproved_approval);
        }
        assert_eq!(render(&remembered, &update(ConditionStatus::True), 3, at(300)).unproved_approval, None);
    }

    #[test]
    fn stalled_is_removed_when_its_cause_is_gone() {
        let stalled = StatusUpdate {
            stalled: Some(condition(ConditionStatus::True, Reason::SecretInvalid)),
            ..update(ConditionStatus::False)
        };
        let bad = render(&OAuthConsumerStatus::default(), &stalled, 1, at(100));
        assert!(bad.conditions.iter().any(|c| c.type_ == "Stalled"));
        let good = render(&bad, &update(ConditionStatus::True), 1, at(200));
        assert!(good.conditions.iter().all(|c| c.type_ != "Stalled"));
    }
}
