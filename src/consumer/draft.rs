//! Drafts the record of an object: one function for each rule. The tests have a table of cases for each.

use std::fmt;

use jiff::Timestamp;

use super::{
    ConsumerKey, Decision, Effect, Missing, Object, Observed, Phc, Record, Revocation, SecretOutcome, SecretProblem, SecretSeen,
    SecretSource, SecretValue, State,
};

/// The record that an object should have.
pub(super) struct Draft {
    /// All of it but the secret.
    record: Record,
    secret: SecretDraft,
}

/// What the record will say of the Secret.
#[derive(Clone)]
enum SecretDraft {
    /// This: nothing has to be read or hashed.
    Known(Option<SecretSource>, SecretOutcome, i64),
    /// The hash of this value. The recorded hash stays if it fits.
    Hash(SecretSource, SecretValue, Option<Phc>),
    /// The Secret has to be read first.
    Unread,
}

/// A record that lacks the hash of its secret.
#[derive(Clone)]
pub struct Unhashed {
    record: Record,
    pub value: SecretValue,
    /// The recorded hash. It stays if it fits the value.
    pub recorded: Option<Phc>,
}

// === impl Unhashed ===

impl Unhashed {
    pub fn key(&self) -> &ConsumerKey {
        &self.record.consumer_key
    }

    pub fn with_hash(self, phc: Phc) -> Record {
        Record { secret: SecretOutcome::Accepted(phc), ..self.record }
    }
}

impl fmt::Debug for Unhashed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Unhashed").field(&self.record).finish()
    }
}

// === impl Draft ===

impl Draft {
    pub(super) fn new(seen: &Observed, object: &Object, policy_is_enforced: bool) -> Self {
        let trusted = seen.trusted();
        let decision = decision(trusted, object, seen.now);
        let is_new = decision.is_some() && decision.as_ref() != trusted.and_then(|record| record.decision.as_ref());
        let unproved_approval = unproved_approval(trusted, object, is_new, policy_is_enforced);
        let revocation = revocation(seen, object, unproved_approval.is_none());
        let state = state(object, unproved_approval.is_some(), revocation.is_some());
        let hold = object.hold.clone();
        let record = Record { state, decision, unproved_approval, hold, revocation, ..Record::of(seen, object) };
        Self { record, secret: secret(seen, trusted) }
    }

    /// Whether both drafts decide the same about sign-in.
    pub(super) fn decides_like(&self, other: &Self) -> bool {
        let decided = |draft: &Self| (draft.record.state, draft.record.unproved_approval.is_some());
        decided(self) == decided(other)
    }

    /// Whether the store holds exactly this.
    pub(super) fn is_recorded(&self, seen: &Observed) -> bool {
        let (Some(old), SecretDraft::Known(source, outcome, floor)) = (seen.trusted(), &self.secret) else { return false };
        (&old.secret_source, &old.secret, old.secret_floor) == (source, outcome, *floor)
            && old.clone().without_secret() == self.record
    }

    /// None if the draft is recorded already.
    pub(super) fn write(self, seen: &Observed) -> Result<Option<Effect>, Missing> {
        if self.is_recorded(seen) {
            return Ok(None);
        }
        match self.secret {
            SecretDraft::Known(source, outcome, floor) => {
                Ok(Some(Effect::write(self.record.with_secret(source, outcome, floor))))
            }
            SecretDraft::Hash(source, value, recorded) => {
                let record = Record { secret_source: Some(source), secret_floor: seen.limits.floor(), ..self.record };
                Ok(Some(Effect::HashAndWriteRecord(Box::new(Unhashed { record, value, recorded }))))
            }
            SecretDraft::Unread => Err(Missing::Secret),
        }
    }

    /// The write that ends sign-in, without hashing or reading the Secret. None if sign-in is not to end.
    pub(super) fn denial(self, seen: &Observed) -> Option<Effect> {
        // A Secret whose refusal is recorded ended sign-in before.
        let is_refused_now = matches!(&self.secret, SecretDraft::Known(_, outcome @ SecretOutcome::Refused(_), _)
            if seen.trusted().is_none_or(|old| old.secret != *outcome));
        if self.is_recorded(seen) || (self.record.state == State::Approved && !is_refused_now) {
            return None;
        }
        // An edited row is not trusted, so its secret is dropped.
        let (source, outcome, floor) = match (self.secret, seen.trusted()) {
            (SecretDraft::Known(source, outcome, floor), _) => (source, outcome, floor),
            (_, Some(old)) => (old.secret_source.clone(), old.secret.clone(), old.secret_floor),
            (_, None) => (None, SecretOutcome::Refused(SecretProblem::NotFound), 0),
        };
        Some(Effect::write(self.record.with_secret(source, outcome, floor)))
    }
}

/// The decision in the spec. While it is the same, the recorded one stays, with its author and date.
fn decision(trusted: Option<&Record>, object: &Object, now: Timestamp) -> Option<Decision> {
    let approved = object.approved?;
    // Another stamp in a later generation: the decision was changed and changed back between two snapshots.
    let is_same = |decision: &&Decision| {
        let is_restamped = object.decided_by.is_some() && object.decided_by != decision.by;
        let is_later = trusted.is_some_and(|record| object.generation > record.generation);
        decision.approved == approved && !(is_restamped && is_later)
    };
    let recorded = trusted.and_then(|record| record.decision.as_ref()).filter(is_same);
    let new = || Decision { approved, by: object.decided_by.clone(), at: now, generation: object.generation };
    Some(recorded.cloned().unwrap_or_else(new))
}

/// The generation of the approval in the spec, if that approval does not count. It never counts until it is withdrawn and made
/// again.
/// Otherwise a user could approve while the policies are missing, and wait until they are restored. A new stamp alone does not
/// help, because nothing proves that stamps are protected.
///
/// Record and status both keep the generation, because either can be lost or restored from a backup.
fn unproved_approval(trusted: Option<&Record>, object: &Object, is_new: bool, policy_is_enforced: bool) -> Option<i64> {
    if object.approved != Some(true) {
        return None;
    }
    let recorded = trusted.and_then(|record| record.unproved_approval);
    // A record of a later generation, which the object has reached, has seen the approval made again. A record of the same
    // generation may come from a backup.
    let is_past =
        |generation: i64| trusted.is_some_and(|record| record.generation > generation && record.generation <= object.generation);
    let published =
        object.published.unproved_approval.filter(|generation| *generation <= object.generation && !is_past(*generation));
    let is_open = trusted.is_some_and(|record| record.state == State::Approved && record.generation == object.generation);
    let opens = is_new || (object.hold.is_none() && !is_open);
    recorded.or(published).or_else(|| (opens && !policy_is_enforced).then_some(object.generation))
}

/// The revocation in force. It ends with an approval that counts, if a disapproval was recorded after the revocation. An edited row, a
/// tombstone and a closed record prove no disapproval.
fn revocation(seen: &Observed, object: &Object, approval_counts: bool) -> Option<Revocation> {
    let revocation = seen.record.as_ref()?.record.revocation.clone()?;
    let was_disapproved = revocation.disapproved && seen.trusted().is_some_and(|record| record.state == State::Revoked);
    match object.approved {
        Some(true) if was_disapproved && approval_counts => None,
        Some(false) => Some(Revocation { disapproved: true, ..revocation }),
        Some(true) | None => Some(Revocation { disapproved: was_disapproved, ..revocation }),
    }
}

/// The first case that applies.
fn state(object: &Object, is_unproved: bool, is_revoked: bool) -> State {
    match object.approved {
        _ if is_revoked => State::Revoked,
        _ if object.hold.is_some() => State::OnHold,
        Some(true) if !is_unproved => State::Approved,
        Some(true) | None => State::AwaitingApproval,
        Some(false) => State::Disapproved,
    }
}

fn secret(seen: &Observed, trusted: Option<&Record>) -> SecretDraft {
    let floor = seen.limits.floor();
    let kept = |record: &Record, source| SecretDraft::Known(source, record.secret.clone(), record.secret_floor);
    let is_of = |record: &Record, source: &SecretSource| record.secret_source.as_ref() == Some(source);
    // A value that was too short under a higher floor may be long enough now.
    let is_below =
        |record: &Record| record.secret == SecretOutcome::Refused(SecretProblem::TooShort) && floor < record.secret_floor;
    let refused = |problem, source: Option<&SecretSource>| {
        let outcome = SecretOutcome::Refused(problem);
        // The recorded floor stays. Otherwise two controllers with different floors would overwrite each other again and again.
        let same = trusted.filter(|old| old.secret == outcome && old.secret_source.as_ref() == source && !is_below(old));
        SecretDraft::Known(source.cloned(), outcome, same.map_or_else(|| source.map_or(0, |_| floor), |old| old.secret_floor))
    };
    match (&seen.secret, trusted) {
        (SecretSeen::Missing, _) => refused(SecretProblem::NotFound, None),
        (SecretSeen::Read(source, Err(problem)), _) => refused(*problem, Some(source)),
        (SecretSeen::Unknown, Some(record)) => kept(record, record.secret_source.clone()),
        (SecretSeen::Unread(source), Some(record)) if is_of(record, source) && !is_below(record) => {
            kept(record, Some(source.clone()))
        }
        (SecretSeen::Read(source, Ok(_)), Some(record))
            if seen.hash_is_known || (is_of(record, source) && record.phc().is_some()) =>
        {
            kept(record, Some(source.clone()))
        }
        (SecretSeen::Read(source, Ok(value)), _) => {
            SecretDraft::Hash(source.clone(), value.clone(), trusted.and_then(Record::phc).cloned())
        }
        (SecretSeen::Unknown, None) | (SecretSeen::Unread(_), _) => SecretDraft::Unread,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::fixture::{approved, object, read, recorded, revoked, seen, source};
    use crate::consumer::{Published, Stored};

    const NOW: Timestamp = Timestamp::MAX;

    #[test]
    fn a_decision_stays_while_it_is_the_same() {
        let old = approved().record;
        let kept = ("alice", Timestamp::UNIX_EPOCH);
        for (what, approved, stamp, generation, expected) in [
            ("nothing is decided", None, Some("alice"), 3, None),
            ("the same", Some(true), Some("alice"), 3, Some(kept)),
            ("the same, in a later generation", Some(true), Some("alice"), 4, Some(kept)),
            ("a manifest without a stamp is no decision", Some(true), None, 4, Some(kept)),
            ("a stamp without a new generation is no decision", Some(true), Some("mallory"), 3, Some(kept)),
            ("decided to and fro", Some(true), Some("bob"), 5, Some(("bob", NOW))),
            ("decided otherwise", Some(false), Some("bob"), 4, Some(("bob", NOW))),
        ] {
            let object = Object { approved, decided_by: stamp.map(Into::into), generation, ..object() };
            let decided = decision(Some(&old), &object, NOW);
            assert_eq!(decided.as_ref().map(|d| (d.by.as_deref().unwrap(), d.at)), expected, "{what}");
        }
    }

    #[test]
    fn an_approval_that_is_new_counts_if_the_policy_is_enforced() {
        let open = approved().record;
        let unproved =
            |generation| Record { unproved_approval: Some(generation), state: State::AwaitingApproval, ..open.clone() };
        let published = |generation| Object {
            published: Published { unproved_approval: Some(generation), ..Published::default() },
            ..object()
        };
        let held = Object { hold: Some("leaked".into()), ..object() };
        let later = Object { generation: 4, ..object() };
        for (what, trusted, object, is_new, when_enforced, when_absent) in [
            ("not approved", None, Object { approved: None, ..object() }, true, None, None),
            ("new", None, object(), true, None, Some(3)),
            ("open in this generation", Some(open.clone()), object(), false, None, None),
            ("another generation of what is approved", Some(open.clone()), later, false, None, Some(4)),
            ("a hold opens nothing", Some(open.clone()), held, false, None, None),
            ("the record remembers one", Some(unproved(2)), object(), false, Some(2), Some(2)),
            ("the status remembers one, the record is lost", None, published(3), true, Some(3), Some(3)),
            ("the status is behind the record", Some(open.clone()), published(2), false, None, None),
            ("the status was forged for a generation to come", Some(open), published(9), false, None, None),
        ] {
            let rule = |enforced| unproved_approval(trusted.as_ref(), &object, is_new, enforced);
            assert_eq!((rule(true), rule(false)), (when_enforced, when_absent), "{what}");
        }
    }

    #[test]
    fn a_revocation_ends_by_an_approval_after_a_disapproval() {
        let edited = |stored: Stored| Stored { intact: false, ..stored };
        let closed = |stored: Stored| Stored { record: stored.clone().out_of_scope(), ..stored };
        // `expected` is `disapproved` of the revocation that stays.
        for (what, record, approved, counts, expected) in [
            ("none", approved(), Some(true), true, None),
            ("still approved", revoked(false), Some(true), true, Some(false)),
            ("disapproved", revoked(false), Some(false), true, Some(true)),
            ("no decision is no disapproval", revoked(false), None, true, Some(false)),
            ("disapproved, and no decision since", revoked(true), None, true, Some(true)),
            ("disapproved, then approved", revoked(true), Some(true), true, None),
            ("the approval does not count", revoked(true), Some(true), false, Some(true)),
            ("an edited row proves no disapproval", edited(revoked(true)), Some(true), true, Some(false)),
            ("nor does a closed record", closed(revoked(true)), Some(true), true, Some(false)),
        ] {
            let object = Object { approved, ..object() };
            let seen = Observed { record: Some(record), ..seen(object.clone()) };
            let kept = revocation(&seen, &object, counts);
            assert_eq!(kept.map(|revocation| revocation.disapproved), expected, "{what}");
        }
    }

    #[test]
    fn the_state_is_the_first_that_applies() {
        let held = || Some("leaked".to_owned());
        for (is_revoked, hold, approved, is_unproved, expected) in [
            (true, held(), Some(true), true, State::Revoked),
            (true, None, Some(false), false, State::Revoked),
            (false, held(), Some(true), true, State::OnHold),
            (false, held(), None, false, State::OnHold),
            (false, None, Some(true), true, State::AwaitingApproval),
            (false, None, Some(true), false, State::Approved),
            (false, None, Some(false), false, State::Disapproved),
            (false, None, None, false, State::AwaitingApproval),
        ] {
            let object = Object { approved, hold, ..object() };
            assert_eq!(state(&object, is_unproved, is_revoked), expected, "{object:?}");
        }
    }

    #[test]
    fn a_secret_is_read_and_hashed_only_if_it_may_have_changed() {
        let short = |version| SecretSeen::Read(source(version), Err(SecretProblem::TooShort));
        let too_short = recorded(&Observed { secret: short("1"), ..seen(object()) }).record;
        let under = |floor| Record { secret_floor: floor, ..too_short.clone() };
        let missing = recorded(&Observed { secret: SecretSeen::Missing, ..seen(object()) }).record;
        let hashed = approved().record;
        for (what, secret_seen, trusted, expected) in [
            ("nothing known, nothing recorded", SecretSeen::Unknown, None, "read"),
            ("nothing known: what is recorded stays", SecretSeen::Unknown, Some(&hashed), "kept, version 1"),
            ("gone", SecretSeen::Missing, Some(&hashed), "refused"),
            ("the recorded version", SecretSeen::Unread(source("1")), Some(&hashed), "kept, version 1"),
            ("another version", SecretSeen::Unread(source("2")), Some(&hashed), "read"),
            ("there again", SecretSeen::Unread(source("2")), Some(&missing), "read"),
            ("new", read("1"), None, "hash"),
            ("read in the recorded version", read("1"), Some(&hashed), "kept, version 1"),
            ("read in another version", read("2"), Some(&hashed), "hash"),
            ("too short", short("2"), Some(&hashed), "refused"),
            ("too short already, under this floor", SecretSeen::Unread(source("1")), Some(&under(16)), "kept, version 1"),
            ("too short under a higher floor", SecretSeen::Unread(source("1")), Some(&under(32)), "read"),
        ] {
            let seen = Observed { secret: secret_seen, ..seen(object()) };
            let found = match secret(&seen, trusted) {
                SecretDraft::Unread => "read".to_owned(),
                SecretDraft::Hash(..) => "hash".to_owned(),
                SecretDraft::Known(Some(source), outcome, _) if trusted.is_some_and(|old| old.secret == outcome) => {
                    format!("kept, version {}", source.resource_version)
                }
                SecretDraft::Known(_, outcome, _) => {
                    assert!(matches!(outcome, SecretOutcome::Refused(_)), "{what}");
                    "refused".to_owned()
                }
            };
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn a_known_hash_is_kept_under_a_new_version_of_its_secret() {
        let seen = Observed { secret: read("2"), hash_is_known: true, ..seen(object()) };
        let kept = secret(&seen, Some(&approved().record));
        assert!(
            matches!(kept, SecretDraft::Known(Some(source), SecretOutcome::Accepted(_), _) if source.resource_version == "2")
        );
    }
}
