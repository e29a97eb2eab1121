//! Makes the plan for a consumer. Pure: the controller carries the plan out, the sweep asks whether there is one.

use super::draft::{Draft, Unhashed};
use super::{Object, Observed, Record};

/// What is to be done, in this order. The first failure stops the rest.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// At most two effects.
    pub effects: Vec<Effect>,
}

/// One write, with all that it needs.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Adds our finalizer, so that the object cannot be deleted before its record.
    AddFinalizer,
    /// Commits this record, which may be a tombstone.
    WriteRecord(Box<Record>),
    /// Hashes the value, and commits the record with the hash.
    HashAndWriteRecord(Box<Unhashed>),
    RemoveFinalizer,
}

/// A fact that the plan needs and the snapshot lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Reported before `Secret`, because no Secret is needed to find it out.
    #[error("it is not known whether the API server enforces who may approve")]
    Policy,
    #[error("the Secret was not read")]
    Secret,
}

/// Whether the API server enforces who may approve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyEnforced {
    Unknown,
    /// Also if approvals count without it.
    Enforced,
    /// A new approval does not count.
    Absent,
}

/// Makes the plan.
///
/// The policy matters for each change that lets a consumer in: a new approval, a lifted hold, a new generation of an approved
/// object, a lost, edited or closed record. A consumer that is let in stays so in this generation, so a cluster that loses its
/// policies keeps its sign-ins.
///
/// # Errors
/// The fact to find out first. A snapshot of the caches has neither a Secret's value nor the state of the policy. Most objects
/// need neither.
pub fn decide(seen: &Observed) -> Result<Plan, Missing> {
    let object = match wanted(seen) {
        Wanted::Removal(plan) => return Ok(plan),
        Wanted::Record(object) => object,
    };
    let enforced = Draft::new(seen, object, true);
    let draft = match seen.policy {
        PolicyEnforced::Enforced => enforced,
        PolicyEnforced::Absent => Draft::new(seen, object, false),
        // The policy is checked only where it makes a difference that is not recorded yet.
        PolicyEnforced::Unknown => {
            let makes_no_difference = Draft::new(seen, object, false).decides_like(&enforced) || enforced.is_recorded(seen);
            if makes_no_difference { enforced } else { return Err(Missing::Policy) }
        }
    };
    let finalizer = (!object.has_finalizer).then_some(Effect::AddFinalizer);
    Ok(Plan::new([finalizer, draft.write(seen)?]))
}

/// The part of the plan that ends a sign-in. It needs neither a hash nor the Secret. None if no sign-in is to end.
pub fn deny(seen: &Observed) -> Option<Plan> {
    let plan = match wanted(seen) {
        Wanted::Removal(plan) => plan,
        Wanted::Record(object) => Plan::new([Draft::new(seen, object, seen.policy != PolicyEnforced::Absent).denial(seen)]),
    };
    (!plan.effects.is_empty()).then_some(plan)
}

/// Whether the object is to have a record.
enum Wanted<'a> {
    Record(&'a Object),
    Removal(Plan),
}

fn wanted(seen: &Observed) -> Wanted<'_> {
    let (removes, releases) = match &seen.object {
        None => (seen.live().is_some(), false),
        Some(object) if object.deleting => {
            let is_removed = seen.record.as_ref().is_some_and(|stored| stored.record.is_removed());
            // An object with our finalizer leaves a tombstone even if it has no record: a slow controller may be about to insert
            // one.
            (seen.live().is_some() || (object.has_finalizer && !is_removed), object.has_finalizer)
        }
        Some(object) if seen.has_foreign_key(object) => (seen.live().is_some(), false),
        Some(object) => return Wanted::Record(object),
    };
    let tombstone = if removes { seen.tombstone() } else { None };
    Wanted::Removal(Plan::new([tombstone.map(Effect::write), releases.then_some(Effect::RemoveFinalizer)]))
}

// === impl Plan ===

impl Plan {
    fn new(effects: impl IntoIterator<Item = Option<Effect>>) -> Self {
        Self { effects: effects.into_iter().flatten().collect() }
    }

    /// Whether the plan writes the record. Such a plan needs a refreshed snapshot.
    pub fn writes_record(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::WriteRecord(_) | Effect::HashAndWriteRecord(_)))
    }

    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

// === impl Effect ===

impl Effect {
    pub(super) fn write(record: Record) -> Self {
        Self::WriteRecord(Box::new(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::fixture::{approved, object, recorded, seen, source};
    use crate::consumer::{Phc, Profile, Published, SecretOutcome, SecretProblem, SecretSeen, Stored};

    fn told(plan: &Plan) -> String {
        let words = plan.effects.iter().map(|effect| match effect {
            Effect::AddFinalizer => "+finalizer",
            Effect::RemoveFinalizer => "-finalizer",
            Effect::WriteRecord(record) if record.is_removed() => "tombstone",
            Effect::WriteRecord(_) => "write",
            Effect::HashAndWriteRecord(_) => "hash",
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_plan_follows_from_the_snapshot() {
        let tombstone = || Stored { record: approved().record.removed(), ..approved() };
        let edited = || Stored { intact: false, ..approved() };
        let refused = || recorded(&Observed { secret: SecretSeen::Missing, ..seen(object()) });
        let going = |has_finalizer| Some(Object { deleting: true, has_finalizer, ..object() });
        let with = |change: fn(&mut Object)| {
            let mut object = object();
            change(&mut object);
            Some(object)
        };
        let unread = || SecretSeen::Unread(source("1"));
        let read = || seen(object()).secret;
        for (what, object, record, secret, plan, denial) in vec![
            ("gone, and never recorded", None, None, read(), "", ""),
            ("gone", None, Some(approved()), read(), "tombstone", "tombstone"),
            ("gone, and its record, too", None, Some(tombstone()), read(), "", ""),
            ("going", going(true), Some(approved()), read(), "tombstone -finalizer", "tombstone -finalizer"),
            ("going, and never recorded", going(true), None, read(), "tombstone -finalizer", "tombstone -finalizer"),
            ("going, and its record is gone", going(true), Some(tombstone()), read(), "-finalizer", "-finalizer"),
            ("going, without our finalizer", going(false), Some(approved()), read(), "tombstone", "tombstone"),
            (
                "another's key",
                with(|object| object.published = Published { key: Some("another-key".into()), ..Published::default() }),
                Some(approved()),
                read(),
                "tombstone",
                "tombstone",
            ),
            ("new", with(|object| object.has_finalizer = false), None, read(), "+finalizer hash", ""),
            (
                "new, without a Secret",
                with(|object| object.has_finalizer = false),
                None,
                SecretSeen::Missing,
                "+finalizer write",
                "write",
            ),
            ("as recorded", with(|_| ()), Some(approved()), unread(), "", ""),
            ("renamed", with(|object| object.profile.name = "Blues".into()), Some(approved()), unread(), "write", ""),
            ("disapproved", with(|object| object.approved = Some(false)), Some(approved()), unread(), "write", "write"),
            ("withdrawn", with(|object| object.approved = None), Some(approved()), SecretSeen::Unknown, "write", "write"),
            ("held", with(|object| object.hold = Some("leaked".into())), Some(approved()), unread(), "write", "write"),
            ("its Secret is gone", with(|_| ()), Some(approved()), SecretSeen::Missing, "write", "write"),
            (
                "renamed, and still without a Secret",
                with(|object| object.profile.name = "Blues".into()),
                Some(refused()),
                SecretSeen::Unknown,
                "write",
                "",
            ),
            ("rotated", with(|_| ()), Some(approved()), SecretSeen::Unread(source("2")), "? the Secret was not read", ""),
            ("edited", with(|_| ()), Some(edited()), read(), "hash", ""),
            ("removed, and there again", with(|_| ()), Some(tombstone()), read(), "hash", ""),
        ] {
            let seen = Observed { object, secret, record, ..seen(crate::consumer::fixture::object()) };
            let decided = decide(&seen).map_or_else(|missing| format!("? {missing}"), |plan| told(&plan));
            assert_eq!(decided, plan, "{what}");
            assert_eq!(deny(&seen).as_ref().map(told).unwrap_or_default(), denial, "{what}");
        }
    }

    #[test]
    fn the_policy_is_checked_only_where_it_makes_a_difference() {
        let held = Object { hold: Some("leaked".into()), ..object() };
        let undecided = Object { approved: None, ..object() };
        let renamed = Object { generation: 4, profile: Profile { name: "Blues".into() }, ..object() };
        for (what, object, record, is_asked) in [
            ("a new approval", object(), None, true),
            ("one that is open in this generation", object(), Some(approved()), false),
            ("what is approved was changed", renamed, Some(approved()), true),
            ("a hold", held, Some(approved()), false),
            ("nothing is approved", undecided, None, false),
        ] {
            let seen = Observed { record, policy: PolicyEnforced::Unknown, ..seen(object) };
            assert_eq!(decide(&seen).err() == Some(Missing::Policy), is_asked, "{what}");
        }
        let unproved = recorded(&Observed { policy: PolicyEnforced::Absent, ..seen(object()) });
        let seen = Observed { record: Some(unproved), policy: PolicyEnforced::Unknown, ..seen(object()) };
        assert!(decide(&seen).is_ok_and(|plan| plan.is_empty()), "an approval that does not count is asked about once");
    }

    #[test]
    fn a_denial_drops_the_hash_of_an_edited_row() {
        let mut edited = Stored { intact: false, ..approved() };
        edited.record.secret = SecretOutcome::Accepted(Phc::stored("another's hash".into()));
        let disapproved = Object { approved: Some(false), ..object() };
        let seen = Observed { record: Some(edited), secret: SecretSeen::Unknown, ..seen(disapproved) };
        let Some(Plan { effects }) = deny(&seen) else { panic!("it is to be closed") };
        let [Effect::WriteRecord(record)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!((&record.secret, &record.secret_source), (&SecretOutcome::Refused(SecretProblem::NotFound), &None));
    }
}
