//! Test data: the consumer jazz in generation 3, whose Secret was read.

use jiff::Timestamp;

use super::{
    Effect, Object, Observed, Owner, Phc, PolicyEnforced, Profile, Published, Record, Revocation, SecretLimits, SecretRef,
    SecretSeen, SecretSource, SecretValue, State, Stored, decide,
};

pub(super) fn object() -> Object {
    Object {
        namespace: "team-a".into(),
        name: "jazz".into(),
        generation: 3,
        deleting: false,
        has_finalizer: true,
        other_finalizers: Vec::new(),
        profile: Profile { name: "Jazz".into() },
        secret_ref: SecretRef { name: "jazz-oauth".into(), key: "consumerSecret".into() },
        approved: Some(true),
        decided_by: Some("alice".into()),
        hold: None,
        adopted_key: None,
        published: Published::default(),
    }
}

pub(super) fn source(version: &str) -> SecretSource {
    let reference = object().secret_ref;
    SecretSource { name: reference.name, key: reference.key, uid: "secret".into(), resource_version: version.into() }
}

pub(super) fn read(version: &str) -> SecretSeen {
    SecretSeen::Read(source(version), SecretValue::accept(b"a secret, long enough", SecretLimits::default()))
}

/// A snapshot without a record, where the policy is enforced.
pub(super) fn seen(object: Object) -> Observed {
    Observed {
        owner: Owner { cluster_id: "cluster".into(), uid: "uid".into() },
        installation: "default".into(),
        limits: SecretLimits::default(),
        object: Some(object),
        secret: read("1"),
        record: None,
        policy: PolicyEnforced::Enforced,
        now: Timestamp::UNIX_EPOCH,
        hash_is_known: false,
    }
}

/// The record that `decide` asks for.
pub(super) fn recorded(seen: &Observed) -> Stored {
    let record = decide(seen).unwrap().effects.into_iter().find_map(|effect| match effect {
        Effect::WriteRecord(record) => Some(*record),
        Effect::HashAndWriteRecord(unhashed) => Some(unhashed.with_hash(Phc::stored("a hash".into()))),
        Effect::AddFinalizer | Effect::RemoveFinalizer => None,
    });
    Stored { record: record.unwrap(), version: 1, intact: true }
}

/// The approved consumer, as it is recorded.
pub(super) fn approved() -> Stored {
    recorded(&seen(object()))
}

/// The record of the approved consumer, revoked.
pub(super) fn revoked(disapproved: bool) -> Stored {
    let revocation = Revocation { at: Timestamp::UNIX_EPOCH, reason: "INC-1".into(), disapproved };
    let record = Record { state: State::Revoked, revocation: Some(revocation), ..approved().record };
    Stored { record, ..approved() }
}
