//! Every history of decisions, revocations, losses and races up to a length, with the production `decide`: what is open is what an
//! oracle allows that knows nothing but the order of events.

use std::collections::HashSet;

use jiff::Timestamp;
use oauthconsumer_operator::consumer::{Effect, Object, Plan, Stored, decide};

use crate::decisions::{VALUE, World, object};

/// Everything that can be reached from a state, each state once. Answers how many there are.
fn explore<S: Clone + std::fmt::Debug>(start: S, next: impl Fn(&S) -> Vec<S>) -> usize {
    let (mut seen, mut open) = (HashSet::from([format!("{start:?}")]), vec![start]);
    while let Some(state) = open.pop() {
        for state in next(&state) {
            if seen.insert(format!("{state:?}")) {
                open.push(state);
            }
        }
    }
    seen.len()
}

fn registered() -> World {
    let world = World { object: Some(object()), secret: Some(("1", VALUE)), record: None, guarded: true };
    world.settle().0
}

fn is_open(world: &World) -> bool {
    world.record.as_ref().is_some_and(Stored::allows_signin)
}

/// Sets `spec.approved`, as a change of the spec.
fn decide_on(world: &World, approved: Option<bool>) -> World {
    let mut world = world.clone();
    let object = world.object.as_mut().unwrap();
    object.generation += 1;
    object.approved = approved;
    world
}

fn approved(world: &World) -> Option<bool> {
    world.object.as_ref().unwrap().approved
}

fn generation(world: &World) -> i64 {
    world.object.as_ref().unwrap().generation
}

/// What a controller has seen and written down, in the words of the promise.
#[derive(Clone, Debug)]
struct Revocation {
    world: World,
    revoked: bool,
    /// A disapproval was seen after the revocation.
    disapproval_seen: bool,
}

#[test]
fn a_revocation_ends_only_by_a_disapproval_seen_after_it_and_an_approval_after_that() {
    fn look(before: &Revocation) -> Revocation {
        let world = before.world.settle().0;
        let approved = approved(&world);
        let ends = before.revoked && before.disapproval_seen && approved == Some(true);
        let revoked = before.revoked && !ends;
        assert_eq!(is_open(&world), !revoked && approved == Some(true), "{before:?}");
        Revocation { world, revoked, disapproval_seen: revoked && (before.disapproval_seen || approved == Some(false)) }
    }
    let start = Revocation { world: registered(), revoked: false, disapproval_seen: false };
    let states = explore(start, |state| {
        let mut next = vec![look(state)];
        if generation(&state.world) < 6 {
            let decisions = [None, Some(true), Some(false)].into_iter().filter(|to| *to != approved(&state.world));
            next.extend(decisions.map(|to| Revocation { world: decide_on(&state.world, to), ..state.clone() }));
        }
        let mut world = state.world.clone();
        let stored = world.record.take().unwrap();
        let version = if stored.version < 12 { stored.version + 1 } else { return next };
        world.record = Some(Stored { record: stored.revoked("INC-1", Timestamp::UNIX_EPOCH), version, intact: true });
        next.push(Revocation { world, revoked: true, disapproval_seen: false });
        next
    });
    assert!(states > 1_000, "{states}");
}

/// Approvals while the policies come and go, and record or status are lost or put back.
#[derive(Clone, Debug)]
struct Approval {
    world: World,
    /// The approval in the spec was seen while it was not checked who gave it.
    unproved: bool,
    /// Record and status both say what is known.
    in_step: bool,
    backup: Option<Stored>,
}

#[test]
fn an_unproved_approval_never_counts_whatever_is_lost_of_status_or_store() {
    fn look(before: &Approval, publishes: bool) -> Approval {
        let was_open = is_open(&before.world);
        let recorded = before.world.record.as_ref().map(|stored| stored.record.generation);
        let is_untouched = was_open && recorded == Some(generation(&before.world));
        let mut world = before.world.settle().0;
        let is_approved = approved(&world) == Some(true);
        // A backup that remembers an unproved approval is believed: it cannot be told whether that was made anew since.
        let remembered = before.world.record.as_ref().filter(|stored| stored.intact);
        let is_remembered = remembered.is_some_and(|stored| stored.record.unproved_approval.is_some());
        let unproved = is_approved && (before.unproved || is_remembered || (!world.guarded && !is_untouched));
        assert!(!is_open(&world) || (is_approved && !unproved), "{before:?}");
        assert!(is_open(&world) || !is_approved || unproved, "what is proved counts: {before:?}");
        if publishes {
            let unproved = world.live().and_then(|record| record.unproved_approval);
            world.object.as_mut().unwrap().published.unproved_approval = unproved;
        }
        // The record's version is of no interest here, and would make states differ that are the same.
        world.record.as_mut().unwrap().version = 1;
        Approval { world, unproved, in_step: publishes, ..before.clone() }
    }
    let start = Approval { world: registered(), unproved: false, in_step: true, backup: registered().record };
    let states = explore(start, |state| {
        let mut next = vec![look(state, true), look(state, false)];
        let with = |world: World| Approval { world, ..state.clone() };
        next.push(with(World { guarded: !state.world.guarded, ..state.world.clone() }));
        if generation(&state.world) < 5 {
            let decisions = [None, Some(true), Some(false)].into_iter().filter(|to| *to != approved(&state.world));
            next.extend(decisions.map(|to| with(decide_on(&state.world, to))));
        }
        next.push(Approval { backup: state.world.record.clone(), ..state.clone() });
        // Of two that were in step, one is lost or put back; both at once is more than is promised.
        if state.in_step {
            let lost = |change: &dyn Fn(&mut World)| {
                let mut world = state.world.clone();
                change(&mut world);
                Approval { world, in_step: false, ..state.clone() }
            };
            next.push(lost(&|world| world.record = None));
            next.push(lost(&|world| world.record.clone_from(&state.backup)));
            next.push(lost(&|world| world.object.as_mut().unwrap().published.unproved_approval = None));
            next.push(lost(&|world| world.record.as_mut().unwrap().intact = false));
            next.push(lost(&|world| {
                let stored = world.record.take().unwrap();
                world.record = Some(Stored { record: stored.clone().out_of_scope(), ..stored });
            }));
        }
        next
    });
    assert!(states > 5_000, "{states}");
}

/// One object, a store whose tombstones are dropped, and two controllers between whose steps anything may happen.
#[derive(Clone, Debug)]
struct Race {
    object: Option<Object>,
    record: Option<Stored>,
    /// The feed: its head, the head of the record's last change, and the head below which a reader has to start over.
    head: i64,
    change: i64,
    reload: i64,
    controllers: [Step; 2],
}

#[allow(clippy::large_enum_variant, reason = "there are two of them at a time")]
#[derive(Clone, Debug)]
enum Step {
    Idle,
    /// Has read the record, at this head.
    Read(Option<Stored>, i64),
    /// Has looked at the object since, and does what is left of its plan.
    Acts {
        looked_at: Option<Object>,
        read: Option<Stored>,
        at: i64,
        left: Vec<Effect>,
    },
}

// === impl Race ===

impl Race {
    fn world(&self, record: Option<Stored>) -> World {
        World { object: self.object.clone(), secret: Some(("1", VALUE)), record, guarded: true }
    }

    fn with(&self, i: usize, step: Step) -> Self {
        let mut next = self.clone();
        next.controllers[i] = step;
        next
    }

    /// The next step of a controller.
    fn step(&self, i: usize, is_fenced: bool) -> Self {
        match &self.controllers[i] {
            Step::Idle => self.with(i, Step::Read(self.record.clone(), self.head)),
            Step::Read(read, at) => {
                let Plan { effects: left } = decide(&self.world(read.clone()).look()).unwrap();
                let acts = Step::Acts { looked_at: self.object.clone(), read: read.clone(), at: *at, left };
                self.with(i, acts)
            }
            Step::Acts { left, .. } if left.is_empty() => self.with(i, Step::Idle),
            Step::Acts { looked_at, read, at, left } => {
                let (effect, rest) = left.split_first().unwrap();
                let mut world = World { object: looked_at.clone(), ..self.world(read.clone()) };
                let done = |mut next: Self, looked_at: Option<Object>| {
                    next.controllers[i] = Step::Acts { looked_at, read: read.clone(), at: *at, left: rest.to_vec() };
                    next
                };
                match effect {
                    // A patch names UID and resourceVersion.
                    Effect::AddFinalizer | Effect::RemoveFinalizer if self.object != *looked_at => self.with(i, Step::Idle),
                    Effect::AddFinalizer | Effect::RemoveFinalizer => {
                        world.carry_out(effect);
                        done(Self { object: world.object.clone(), ..self.clone() }, world.object)
                    }
                    Effect::WriteRecord(_) | Effect::HashAndWriteRecord(_) => {
                        let is_same = self.record.as_ref().map(|r| r.version) == read.as_ref().map(|r| r.version);
                        let is_late = is_fenced && read.is_none() && self.reload > *at;
                        if !is_same || is_late {
                            return self.with(i, Step::Idle);
                        }
                        world.carry_out(effect);
                        let head = self.head + 1;
                        done(Self { record: world.record, head, change: head, ..self.clone() }, looked_at.clone())
                    }
                }
            }
        }
    }

    /// What may happen to object and store meanwhile.
    fn events(&self) -> Vec<Self> {
        let mut next = Vec::new();
        if let Some(object) = self.object.as_ref().filter(|object| !object.deleting) {
            let deleting = object.has_finalizer.then(|| Object { deleting: true, ..object.clone() });
            next.push(Self { object: deleting, ..self.clone() });
        }
        if self.record.as_ref().is_some_and(|stored| stored.record.is_removed()) {
            let (head, reload) = (self.head + 1, self.reload.max(self.change));
            next.push(Self { record: None, head, reload, ..self.clone() });
        }
        next
    }
}

/// Explores all that two controllers can do; answers the states in which a record outlives its object.
fn resurrections(is_fenced: bool) -> (usize, usize) {
    let object = Object { has_finalizer: false, approved: Some(true), ..object() };
    let idle = || Step::Idle;
    let start = Race { object: Some(object), record: None, head: 0, change: 0, reload: 0, controllers: [idle(), idle()] };
    let bad = std::cell::Cell::new(0);
    let states = explore(start, |state| {
        let live = state.record.as_ref().is_some_and(|stored| !stored.record.is_removed());
        if state.object.is_none() && live {
            bad.set(bad.get() + 1);
            return Vec::new();
        }
        if state.head > 6 {
            return Vec::new();
        }
        let mut next = state.events();
        next.extend([0, 1].map(|i| state.step(i, is_fenced)));
        next
    });
    (states, bad.get())
}

#[test]
fn a_dropped_tombstone_brings_nothing_back() {
    let (states, bad) = resurrections(true);
    assert!(states > 500, "{states}");
    assert_eq!(bad, 0);
}

#[test]
fn without_the_head_that_an_insert_names_a_dropped_tombstone_would_bring_a_record_back() {
    assert!(resurrections(false).1 > 0);
}
