//! `decide` and `conclude` without a cluster: every reachable record meets every possible observation.
//!
//! A world is what there is; one `settle` is one reconcile. An independent oracle, written from the contract, says what
//! has to come out.

use std::collections::HashSet;
use std::sync::LazyLock;

use jiff::Timestamp;
use oauthconsumer_operator::consumer::{
    Committed, ConditionStatus, ConsumerKey, Effect, EventReason, Failure, Missing, Object, Observed, Outcome, Owner, Phc, Plan,
    PolicyEnforced, Profile, Published, Reason, Record, Requeue, Revocation, SecretLimits, SecretOutcome, SecretProblem,
    SecretRef, SecretSeen, SecretSource, SecretValue, State, Stored, conclude, decide, deny,
};

const CLUSTER: &str = "cluster";
const UID: &str = "uid";

#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub object: Option<Object>,
    pub secret: Option<(&'static str, &'static str)>,
    pub record: Option<Stored>,
    /// Whether the API server asks who may approve.
    pub guarded: bool,
}

fn own_key() -> ConsumerKey {
    ConsumerKey::derive(CLUSTER, UID)
}

pub fn object() -> Object {
    Object {
        namespace: "team-a".into(),
        name: "jazz".into(),
        generation: 1,
        deleting: false,
        has_finalizer: true,
        other_finalizers: Vec::new(),
        profile: Profile { name: "Jazz".into() },
        secret_ref: SecretRef { name: "jazz-oauth".into(), key: "consumerSecret".into() },
        approved: None,
        decided_by: None,
        hold: None,
        adopted_key: None,
        published: Published::default(),
    }
}

pub const VALUE: &str = "a secret, long enough";
const OTHER: &str = "another secret, long enough";
const SHORT: &str = "short";

fn worlds() -> Vec<World> {
    let mut objects = vec![None];
    for (deleting, has_finalizer) in [(false, false), (false, true), (true, false), (true, true)] {
        for approved in [None, Some(true), Some(false)] {
            for hold in [None, Some("leaked".to_owned())] {
                for published in [None, Some(own_key().to_string()), Some("a-foreign-key".to_owned())] {
                    for generation in [1, 2] {
                        objects.push(Some(Object {
                            deleting,
                            has_finalizer,
                            approved,
                            hold: hold.clone(),
                            generation,
                            published: Published { key: published.clone(), ..Published::default() },
                            ..object()
                        }));
                    }
                }
            }
        }
    }
    let secrets = [None, Some(("1", VALUE)), Some(("2", VALUE)), Some(("3", OTHER)), Some(("4", SHORT))];
    let mut worlds = Vec::new();
    for object in &objects {
        for secret in secrets {
            worlds.push(World { object: object.clone(), secret, record: None, guarded: true });
        }
    }
    worlds
}

// === impl World ===

impl World {
    fn source(&self) -> Option<SecretSource> {
        let (version, _) = self.secret?;
        let reference = object().secret_ref;
        Some(SecretSource { name: reference.name, key: reference.key, uid: "secret".into(), resource_version: version.into() })
    }

    fn observed(&self, secret: SecretSeen) -> Observed {
        Observed {
            owner: Owner { cluster_id: CLUSTER.into(), uid: UID.into() },
            installation: "default".into(),
            limits: SecretLimits::default(),
            object: self.object.clone(),
            secret,
            record: self.record.clone(),
            policy: PolicyEnforced::Unknown,
            now: Timestamp::UNIX_EPOCH,
            hash_is_known: false,
        }
    }

    fn glance(&self) -> Observed {
        self.observed(self.source().map_or(SecretSeen::Missing, SecretSeen::Unread))
    }

    pub fn look(&self) -> Observed {
        let read = |(_, value): (&str, &str)| SecretValue::accept(value.as_bytes(), SecretLimits::default());
        let mut look = match (self.source(), self.secret) {
            (Some(source), Some(secret)) => self.observed(SecretSeen::Read(source, read(secret))),
            _ => self.observed(SecretSeen::Missing),
        };
        if matches!(decide(&look), Err(Missing::Policy)) {
            look.policy = if self.guarded { PolicyEnforced::Enforced } else { PolicyEnforced::Absent };
        }
        look
    }

    /// One reconcile: the world afterwards, and what was done.
    pub fn settle(&self) -> (Self, Plan) {
        let plan = decide(&self.glance());
        let is_enough = plan.as_ref().is_ok_and(|plan| !plan.writes_record());
        let plan = if is_enough { plan } else { decide(&self.look()) }.unwrap();
        let mut after = self.clone();
        for effect in &plan.effects {
            after.carry_out(effect);
        }
        (after, plan)
    }

    pub fn carry_out(&mut self, effect: &Effect) {
        let version = self.record.as_ref().map_or(1, |stored| stored.version + 1);
        match effect {
            Effect::AddFinalizer => self.object.as_mut().unwrap().has_finalizer = true,
            Effect::RemoveFinalizer => self.object = None,
            Effect::WriteRecord(record) => self.record = Some(Stored { record: (**record).clone(), version, intact: true }),
            Effect::HashAndWriteRecord(unhashed) => {
                let hash = Phc::stored(format!("the hash of {}", self.secret.unwrap().1));
                self.record = Some(Stored { record: (**unhashed).clone().with_hash(hash), version, intact: true });
            }
        }
    }

    pub fn live(&self) -> Option<&Record> {
        self.record.as_ref().map(|stored| &stored.record).filter(|record| !record.is_removed())
    }
}

fn record(object: &Object, state: State) -> Record {
    Record {
        consumer_key: own_key(),
        owner: Owner { cluster_id: CLUSTER.into(), uid: UID.into() },
        installation: "default".into(),
        namespace: object.namespace.clone(),
        object: object.name.clone(),
        profile: object.profile.clone(),
        generation: object.generation,
        state,
        decision: None,
        unproved_approval: None,
        hold: None,
        revocation: None,
        secret_source: None,
        secret: SecretOutcome::Refused(SecretProblem::NotFound),
        secret_floor: 0,
    }
}

/// Every record that reconciles can lead to, and some that only an attacker or a `revoke` can.
fn records() -> Vec<Option<Stored>> {
    let mut seen = HashSet::new();
    let mut records = vec![None];
    for world in worlds() {
        let (after, _) = world.settle();
        if let Some(stored) =
            after.record.filter(|stored| seen.insert(format!("{stored:?} {:?}", stored.record.phc().map(Phc::as_str))))
        {
            let edited = Stored { intact: false, record: Record { state: State::Approved, ..stored.record.clone() }, ..stored };
            for disapproved in [false, true] {
                let revocation = Revocation { at: Timestamp::UNIX_EPOCH, reason: "INC-1".into(), disapproved };
                let revoked = Record { revocation: Some(revocation), state: State::Revoked, ..stored.record.clone() };
                let revoked_row = Stored { record: revoked.clone(), ..stored };
                records.push(Some(Stored { record: revoked.clone().removed(), ..stored }));
                if !stored.record.is_removed() {
                    records.push(Some(Stored { intact: false, ..revoked_row.clone() }));
                    for intact in [true, false] {
                        let record = Stored { intact, ..revoked_row.clone() }.out_of_scope();
                        records.push(Some(Stored { record, intact: true, ..stored }));
                    }
                    records.push(Some(revoked_row));
                }
            }
            if !stored.record.is_removed() {
                records.push(Some(edited));
                records.push(Some(Stored { record: Record { state: State::OutOfScope, ..stored.record.clone() }, ..stored }));
            }
            records.push(Some(stored));
        }
    }
    let others = other_worlds().into_iter().filter_map(|world| world.settle().0.record);
    records
        .extend(others.filter(|stored| seen.insert(format!("{stored:?} {:?}", stored.record.phc().map(Phc::as_str)))).map(Some));
    records
}

/// Approvals that do not count, with a stamp, and under another name.
fn other_worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for world in worlds_of_approved_objects() {
        let with = |change: fn(&mut Object)| {
            let mut world = world.clone();
            change(world.object.as_mut().unwrap());
            world
        };
        worlds.push(with(|object| object.decided_by = Some("alice".into())));
        worlds.push(with(|object| object.profile.name = "Renamed".into()));
        worlds.push(World { guarded: false, ..world });
    }
    worlds
}

fn worlds_of_approved_objects() -> impl Iterator<Item = World> {
    worlds().into_iter().filter(|world| {
        world.object.as_ref().is_some_and(|object| {
            object.approved == Some(true) && object.has_finalizer && !object.deleting && object.published.key.is_none()
        })
    })
}

/// Every observation on every record, settled; with what was there before and what was done.
fn all() -> impl Iterator<Item = (World, World, Plan)> {
    static ALL: LazyLock<Vec<(World, World, Plan)>> = LazyLock::new(|| {
        let with = |record: Option<Stored>| {
            worlds().into_iter().map(move |world| {
                let before = World { record: record.clone(), ..world };
                let (after, plan) = before.settle();
                (before, after, plan)
            })
        };
        records().into_iter().flat_map(with).collect()
    });
    ALL.iter().cloned()
}

/// Whether the object is one whose record has to be kept.
fn is_kept(world: &World) -> bool {
    world
        .object
        .as_ref()
        .is_some_and(|object| !object.deleting && object.published.key.as_deref().is_none_or(|key| key == own_key().as_str()))
}

#[test]
fn there_are_enough_cases() {
    let count = all().count();
    assert!(count > 50_000, "{count}");
}

#[test]
fn a_settled_world_stays_as_it_is() {
    for (_, after, plan) in all() {
        assert!(plan.effects.len() <= 2);
        assert!(decide(&after.glance()).unwrap().is_empty(), "a glance finds more to do after {plan:?}");
        assert!(decide(&after.look()).unwrap().is_empty(), "a look finds more to do after {plan:?}");
    }
}

#[test]
fn the_end_state_does_not_depend_on_the_way() {
    for (before, after, _) in all().filter(|(before, ..)| is_kept(before)) {
        let (scratch, _) = World { record: None, ..before.clone() }.settle();
        let (reached, scratch) = (after.live().unwrap(), scratch.live().unwrap());
        assert_eq!(
            (&reached.consumer_key, &reached.profile, reached.generation),
            (&scratch.consumer_key, &scratch.profile, scratch.generation)
        );
        assert_eq!(
            (&reached.secret, &reached.secret_source, &reached.hold),
            (&scratch.secret, &scratch.secret_source, &scratch.hold)
        );
        let is_remembered = reached.unproved_approval.is_some();
        assert!(reached.state == scratch.state || reached.state == State::Revoked || is_remembered);
        assert_eq!(reached.decision.as_ref().map(|d| d.approved), scratch.decision.as_ref().map(|d| d.approved));
    }
}

#[test]
fn nothing_is_open_that_nobody_approved() {
    for (before, after, _) in all() {
        let open = after.record.as_ref().is_some_and(Stored::allows_signin);
        let object = before.object.as_ref();
        let allowed = is_kept(&before)
            && object.is_some_and(|object| object.approved == Some(true) && object.hold.is_none())
            && matches!(before.secret, Some((_, VALUE | OTHER)));
        assert!(!open || allowed, "{:?} is open for {object:?}", after.record);
        let is_unproved = before.live().is_some_and(|record| record.unproved_approval.is_some());
        assert!(!open || !is_unproved, "an approval that did not count counts now: {before:?}");
        if let Some(phc) = after.live().and_then(Record::phc) {
            assert_eq!(phc.as_str(), format!("the hash of {}", before.secret.unwrap().1), "the hash is of what the Secret holds");
        }
    }
}

#[test]
fn an_approval_that_nobody_guarded_never_counts() {
    let mut refused = 0;
    let is_revoked = |world: &World| world.record.as_ref().is_some_and(|stored| stored.record.revocation.is_some());
    let written = all().filter(|(before, after, _)| is_kept(before) && before.record != after.record);
    for (before, open, _) in written.filter(|(before, ..)| !is_revoked(before)) {
        let (unguarded, _) = World { guarded: false, ..before.clone() }.settle();
        let record = unguarded.live().unwrap();
        let object = before.object.as_ref().unwrap();
        let was_open = before.live().is_some_and(|old| old.state == State::Approved && old.generation == object.generation);
        assert!(record.state != State::Approved || (was_open && before.record.unwrap().intact), "{record:?}");
        if record.unproved_approval == open.live().unwrap().unproved_approval {
            assert_eq!(record.state, open.live().unwrap().state);
            continue;
        }
        // Neither does it count later, whether or not the hold that is on it is lifted; nor is anybody named for it.
        refused += 1;
        assert!(record.unproved_approval.is_some(), "{record:?}");
        let outcome = Outcome { record: unguarded.record.clone(), ..Outcome::default() };
        let status = conclude(&unguarded.look(), &outcome).status.unwrap();
        assert!(matches!(status.committed, Committed::Record { decision: None, unproved_approval: Some(_), .. }));
        assert_ne!((status.active.status, status.approved.status), (ConditionStatus::True, ConditionStatus::True));
        let mut later = World { guarded: true, ..unguarded };
        assert!(decide(&later.glance()).unwrap().is_empty());
        edit(&mut later, |object| object.hold = None);
        assert!(!later.settle().0.record.unwrap().allows_signin());
        // Made anew, it does.
        edit(&mut later, |object| object.approved = Some(false));
        later = later.settle().0;
        edit(&mut later, |object| object.approved = Some(true));
        assert_eq!(later.settle().0.live().unwrap().state, State::Approved);
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_status_of_another_generation_closes_nothing_that_an_intact_record_holds_open() {
    let approved = Object { approved: Some(true), generation: 3, ..object() };
    let open = World { object: Some(approved), secret: Some(("1", VALUE)), record: None, guarded: true }.settle().0;
    assert!(open.record.as_ref().unwrap().allows_signin());
    for forged in [1, 2, 4, 99] {
        let mut world = open.clone();
        world.object.as_mut().unwrap().published.unproved_approval = Some(forged);
        assert!(decide(&world.glance()).unwrap().is_empty(), "{forged}");
    }
}

#[test]
fn another_stamp_alone_is_no_second_thought() {
    let approved = Object { approved: Some(true), decided_by: Some("alice".into()), ..object() };
    let world = World { object: Some(approved), secret: Some(("1", VALUE)), record: None, guarded: true };
    let restamped = |mut world: World| {
        edit(&mut world, |object| object.decided_by = Some("mallory".into()));
        world.guarded = true;
        world.settle().0.live().unwrap().clone()
    };
    let mut revoked = world.settle().0;
    let stored = revoked.record.as_mut().unwrap();
    stored.record.revocation = Some(Revocation { at: Timestamp::UNIX_EPOCH, reason: "INC-1".into(), disapproved: false });
    stored.record.state = State::Revoked;
    assert_eq!(restamped(revoked).state, State::Revoked);
    assert!(restamped(World { guarded: false, ..world }.settle().0).unproved_approval.is_some());
}

#[test]
fn what_changes_about_an_approved_consumer_is_guarded_too() {
    let approved = || World {
        object: Some(Object { approved: Some(true), decided_by: Some("alice".into()), ..object() }),
        secret: Some(("1", VALUE)),
        record: None,
        guarded: true,
    };
    let then = |change: fn(&mut Object)| {
        let mut world = World { guarded: false, ..approved().settle().0 };
        edit(&mut world, change);
        world.settle().0.live().unwrap().clone()
    };
    assert!(then(|object| object.profile.name = "Another".into()).unproved_approval.is_some());
    assert!(then(|object| object.secret_ref.name = "another".into()).unproved_approval.is_some());
    assert_eq!(then(|object| object.hold = Some("leaked".into())).state, State::OnHold);
    // No decision, so no new generation: whatever the annotation says then was put there past the policies.
    let mut forged = approved().settle().0;
    forged.object.as_mut().unwrap().decided_by = Some("mallory".into());
    assert!(decide(&forged.glance()).unwrap().is_empty());
}

#[test]
fn decisions_to_and_fro_between_two_looks_are_told_by_their_stamp() {
    let object = Object { approved: Some(true), decided_by: Some("alice".into()), ..object() };
    let mut world = World { object: Some(object), secret: Some(("1", VALUE)), record: None, guarded: true }.settle().0;
    edit(&mut world, |_| {});
    edit(&mut world, |object| object.decided_by = Some("bob".into()));
    let decision = world.settle().0.live().unwrap().decision.clone().unwrap();
    assert_eq!((decision.by.as_deref(), decision.generation), (Some("bob"), 3));
    // A replaced manifest has no stamp: that is no decision.
    edit(&mut world, |object| object.decided_by = None);
    let decision = world.settle().0.live().unwrap().decision.clone().unwrap();
    assert_eq!((decision.by.as_deref(), decision.generation), (Some("alice"), 1));
}

fn edit(world: &mut World, change: impl FnOnce(&mut Object)) {
    let object = world.object.as_mut().unwrap();
    object.generation += 1;
    change(object);
}

#[test]
fn what_ends_a_sign_in_at_once_needs_no_hash_and_leads_to_the_same_end() {
    let mut closings = 0;
    for (before, after, _) in all().filter(|(before, ..)| before.record.as_ref().is_some_and(Stored::allows_signin)) {
        let plan = decide(&before.look()).unwrap();
        let Some(closing) = deny(&before.look()) else {
            assert!(!plan.writes_record() || after.record.is_some_and(|stored| stored.allows_signin()), "{plan:?}");
            continue;
        };
        closings += 1;
        let needs_hash = |effect: &Effect| matches!(effect, Effect::HashAndWriteRecord(_));
        assert!(!closing.effects.iter().any(needs_hash), "{closing:?}");
        let mut closed = before.clone();
        closing.effects.iter().for_each(|effect| closed.carry_out(effect));
        assert!(!closed.record.as_ref().is_some_and(Stored::allows_signin), "{closing:?}");
        assert_eq!(closed.settle().0.live(), after.live(), "{closing:?}");
    }
    assert!(closings > 100, "{closings}");
}

#[test]
fn what_is_gone_is_removed_and_leaves_a_tombstone_before_its_finalizer() {
    for (before, after, plan) in all().filter(|(before, ..)| !is_kept(before)) {
        assert!(after.live().is_none());
        assert!(!plan.effects.iter().any(|effect| match effect {
            Effect::WriteRecord(record) => !record.is_removed(),
            Effect::HashAndWriteRecord(_) | Effect::AddFinalizer => true,
            Effect::RemoveFinalizer => false,
        }));
        let Some(object) = &before.object else { continue };
        if object.deleting && object.has_finalizer {
            assert!(after.record.is_some_and(|stored| stored.record.is_removed()), "a slow peer could bring it back");
            assert!(matches!(plan.effects.last(), Some(Effect::RemoveFinalizer)));
        }
    }
}

#[test]
fn a_revocation_ends_by_an_approval_after_a_disapproval_was_seen() {
    let mut ended = 0;
    for (before, after, _) in all().filter(|(before, ..)| is_kept(before)) {
        let Some(stored) = before.record.as_ref() else { continue };
        let Some(revocation) = &stored.record.revocation else { continue };
        let (approved, record) = (before.object.as_ref().unwrap().approved, after.live().unwrap());
        let was_seen = stored.intact && stored.record.state == State::Revoked && revocation.disapproved;
        match &record.revocation {
            None => {
                ended += 1;
                assert!(was_seen && approved == Some(true), "{stored:?}");
            }
            Some(kept) => {
                assert!(!was_seen || approved != Some(true), "{stored:?}");
                assert_eq!(record.state, State::Revoked);
                assert_eq!(kept.disapproved, approved == Some(false) || was_seen);
            }
        }
    }
    assert!(ended > 0);
}

#[test]
fn a_lowered_floor_is_asked_about_once() {
    let world = World { object: Some(object()), secret: Some(("4", SHORT)), record: None, guarded: true }.settle().0;
    let under = |floor: i64| {
        let mut world = world.clone();
        world.record.as_mut().unwrap().record.secret_floor = floor;
        !decide(&world.glance()).is_ok_and(|plan| plan.is_empty())
    };
    assert!(under(32), "it was too short for thirty-two bytes, and may do for sixteen");
    assert!(!under(16) && !under(8), "it was too short for no more than that");
}

#[test]
fn a_secret_that_cannot_be_asked_for_is_not_gone() {
    let mut kept = 0;
    for (before, ..) in all().filter(|(before, ..)| is_kept(before)) {
        let unknown = Observed { policy: PolicyEnforced::Enforced, ..before.observed(SecretSeen::Unknown) };
        let Some(stored) = before.record.as_ref().filter(|stored| stored.allows_signin()) else { continue };
        let plan = decide(&unknown).unwrap();
        let allows_signin = before.object.as_ref().unwrap().allows_signin();
        assert_eq!(deny(&unknown).is_none(), allows_signin, "{plan:?}");
        for effect in &plan.effects {
            assert!(!matches!(effect, Effect::HashAndWriteRecord(_)), "{plan:?}");
            if let Effect::WriteRecord(record) = effect {
                assert_eq!((&record.secret_source, &record.secret), (&stored.record.secret_source, &stored.record.secret));
                kept += 1;
            }
        }
    }
    assert!(kept > 100, "{kept}");
}

/// What the contract says about an object whose record is in step, as `(Ready, Active, Approved, Stalled)`.
fn expected(before: &World, record: &Record) -> (Reason, Reason, Reason, bool) {
    let object = before.object.as_ref().unwrap();
    let decided = match object.approved {
        Some(true) if record.unproved_approval.is_some() => Reason::ApprovalUnproved,
        Some(true) => Reason::Approved,
        Some(false) => Reason::Disapproved,
        None => Reason::AwaitingApproval,
    };
    let secret = match before.secret {
        None => Reason::SecretNotFound,
        Some((_, SHORT)) => Reason::SecretTooShort,
        Some(_) => Reason::Accepted,
    };
    let ready = if secret == Reason::Accepted { Reason::Synced } else { secret };
    let active = match (&object.hold, secret, decided) {
        (Some(_), ..) => Reason::OnHold,
        (None, Reason::Accepted, Reason::Approved) => Reason::Active,
        (None, Reason::Accepted, _) => decided,
        (None, ..) => secret,
    };
    if record.revocation.is_some() {
        return (Reason::Revoked, Reason::Revoked, Reason::Revoked, true);
    }
    (ready, active, decided, secret == Reason::SecretTooShort)
}

#[test]
fn the_statement_is_what_the_contract_says() {
    for guarded in [true, false] {
        for (before, ..) in all() {
            let before = World { guarded, ..before };
            let (after, _) = before.settle();
            let outcome = Outcome { record: after.record.clone(), ..Outcome::default() };
            let conclusion = conclude(&before.look(), &outcome);
            assert_eq!(conclusion.requeue, Requeue::AtChange);
            if !is_kept(&before) {
                let foreign = before.object.as_ref().is_some_and(|object| !object.deleting);
                assert_eq!(conclusion.status.map(|status| status.ready.reason), foreign.then_some(Reason::ForeignKey));
                continue;
            }
            let (status, record) = (conclusion.status.unwrap(), after.live().unwrap());
            let (ready, active, approved, stalled) = expected(&before, record);
            let reasons = (status.ready.reason, status.active.reason, status.approved.reason);
            assert_eq!(reasons, (ready, active, approved));
            assert_eq!(status.ready.status == ConditionStatus::True, ready == Reason::Synced);
            assert_eq!(status.active.status == ConditionStatus::True, after.record.as_ref().is_some_and(Stored::allows_signin));
            assert_eq!(status.approved.status == ConditionStatus::True, approved == Reason::Approved);
            assert_eq!(status.stalled.is_some(), stalled);
            let (key, state, unproved_approval) = (record.consumer_key.clone(), record.state, record.unproved_approval);
            let decision = record.decision.clone().filter(|_| unproved_approval.is_none());
            assert_eq!(status.committed, Committed::Record { key, state, decision, unproved_approval });
        }
    }
}

#[test]
fn events_tell_of_what_was_committed_and_of_nothing_else() {
    for (before, after, plan) in all() {
        let outcome = Outcome { record: after.record.clone(), ..Outcome::default() };
        let mut reasons: Vec<_> = conclude(&before.look(), &outcome).events.into_iter().map(|event| event.reason).collect();
        // Of this the status decides: see below.
        reasons.retain(|reason| *reason != EventReason::Revoked);
        if before.record == after.record {
            assert!(reasons.is_empty(), "{reasons:?} without a write: {plan:?}");
            continue;
        }
        let has = |reason| reasons.contains(&reason);
        let published = before.object.as_ref().is_some_and(|object| object.published.key.is_some());
        match (before.live(), after.live()) {
            (Some(_), None) => assert_eq!(reasons, [EventReason::RecordRemoved]),
            (None, Some(_)) => assert!(has(if published { EventReason::RecordRepaired } else { EventReason::KeyGenerated })),
            (Some(_), Some(_)) if before.record.as_ref().is_some_and(|stored| !stored.intact) => {
                assert_eq!(reasons, [EventReason::RecordRepaired]);
            }
            (Some(old), Some(new)) => {
                let counts = |record: &Record| record.unproved_approval.is_none();
                let decided =
                    |record: &Record| record.decision.as_ref().filter(|_| counts(record)).map(|decision| decision.approved);
                let newly = |decision| decided(old) != decided(new) && decided(new) == decision;
                assert_eq!(has(EventReason::Approved), newly(Some(true)));
                assert_eq!(has(EventReason::Disapproved), newly(Some(false)) || newly(None));
                assert_eq!(has(EventReason::Held), old.hold.is_none() && new.hold.is_some());
                assert_eq!(has(EventReason::HoldLifted), old.hold.is_some() && new.hold.is_none());
                assert_eq!(has(EventReason::SecretChanged), new.phc().is_some() && old.secret != new.secret);
            }
            (None, None) => assert!(reasons.is_empty()),
        }
    }
}

#[test]
fn a_revocation_is_reported_until_the_status_says_so() {
    let mut revoked = 0;
    for (before, after, _) in all().filter(|(before, ..)| before.object.is_some()) {
        let outcome = Outcome { record: after.record.clone(), ..Outcome::default() };
        for says_revoked in [false, true] {
            let mut look = before.look();
            look.object.as_mut().unwrap().published.state = says_revoked.then_some(State::Revoked);
            let reported = conclude(&look, &outcome).events.iter().any(|event| event.reason == EventReason::Revoked);
            let is_revoked = after.live().is_some_and(|record| record.state == State::Revoked);
            assert_eq!(reported, is_revoked && !says_revoked);
            revoked += usize::from(reported);
        }
    }
    assert!(revoked > 100, "{revoked}");
}

#[test]
fn failures_claim_nothing() {
    let failures = [
        (Failure::Store("down".into()), Some(Reason::StoreUnavailable), Requeue::Backoff),
        (Failure::KeyInUse("key".into()), Some(Reason::KeyInUse), Requeue::AtChange),
        (Failure::Api("forbidden".into()), Some(Reason::Pending), Requeue::Backoff),
        (Failure::Internal("panic".into()), Some(Reason::Pending), Requeue::Backoff),
        (Failure::Conflict("409".into()), None, Requeue::Backoff),
    ];
    for world in worlds().into_iter().filter(|world| world.object.is_some()) {
        for (failure, reason, requeue) in &failures {
            let outcome = Outcome { failure: Some(failure.clone()), ..Outcome::default() };
            let conclusion = conclude(&world.look(), &outcome);
            assert_eq!(conclusion.requeue, *requeue);
            assert!(conclusion.events.is_empty());
            let deleting = world.object.as_ref().unwrap().deleting;
            let reason = reason.map(|reason| if deleting { Reason::DeletionBlocked } else { reason });
            assert_eq!(conclusion.status.as_ref().map(|status| status.ready.reason), reason);
            if let Some(status) = conclusion.status {
                assert_ne!(status.ready.status, ConditionStatus::True);
                assert_ne!(status.active.status, ConditionStatus::True);
                assert_eq!(status.approved.status, ConditionStatus::Unknown);
                assert!(!matches!(status.committed, Committed::Record { .. }));
            }
        }
    }
}

#[test]
fn a_removed_record_comes_back_only_with_its_object() {
    // Only a restore of etcd can show an object again whose removal was recorded.
    let tombstone = Stored { record: record(&object(), State::Removed), version: 7, intact: true };
    let back = World { object: Some(object()), secret: Some(("1", VALUE)), record: Some(tombstone), guarded: true };
    let (after, _) = back.settle();
    assert_eq!(after.live().map(|record| record.consumer_key.clone()), Some(own_key()));
    assert_eq!(after.record.unwrap().version, 8);
}

#[test]
fn a_key_that_was_brought_along_is_kept_and_reserved_when_it_goes() {
    let key = ConsumerKey::parse("a-key-from-elsewhere").unwrap();
    for world in worlds_of_approved_objects() {
        let mut world = world;
        world.object.as_mut().unwrap().adopted_key = Some(key.clone());
        let (after, _) = world.settle();
        assert_eq!(after.live().unwrap().consumer_key, key);
        assert!(decide(&after.glance()).unwrap().is_empty());
        let mut published = after.clone();
        published.object.as_mut().unwrap().published.key = Some(key.to_string());
        assert_eq!(published.settle().0.live(), after.live());
        // Whatever was published, another key is not its own.
        published.object.as_mut().unwrap().published.key = Some(own_key().to_string());
        assert!(published.settle().0.live().is_none());
        let mut going = after;
        going.object.as_mut().unwrap().deleting = true;
        assert!(going.settle().0.record.unwrap().record.reserves_key());
    }
}

#[test]
fn older_versions_betray_a_restored_cluster() {
    let recorded = |generation, version: &str| {
        let source = SecretSource {
            resource_version: version.into(),
            ..World { object: None, secret: Some(("", VALUE)), record: None, guarded: true }.source().unwrap()
        };
        let record = Record { generation, secret_source: Some(source), ..record(&object(), State::Approved) };
        Some(Stored { record, version: 1, intact: true })
    };
    let seen = |generation, version: &'static str, record| {
        let object = Object { generation, ..object() };
        World { object: Some(object), secret: Some((version, VALUE)), record, guarded: true }.look().shows_restored_cluster()
    };
    assert!(!seen(2, "100", recorded(2, "100")));
    assert!(!seen(3, "101", recorded(2, "100")));
    assert!(seen(1, "100", recorded(2, "100")), "an older generation");
    assert!(seen(2, "99", recorded(2, "100")), "an older Secret, by number and not by letter");
    assert!(!seen(2, "99", recorded(2, "")), "once forgotten, forgotten");
    assert!(!seen(2, "100", None));
}
