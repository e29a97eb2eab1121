//! Records of a test's own making.

use jiff::{SignedDuration, Timestamp};
use oauthconsumer_operator::consumer::{
    ConsumerKey, Decision, HashCost, HashMemory, Owner, Phc, Profile, Record, SecretOutcome, SecretSource, SecretValue, State,
    Stored,
};
use oauthconsumer_operator::store::{ConsumerStore, KeepTombstones, Replaces, StoreError};

/// As cheap as argon2 allows: 32 KiB, about 50 µs.
pub const CHEAP: HashCost = HashCost { memory: 32, passes: 1, lanes: 1 };

/// A record with all that a record can have, and a hash that nobody knows the secret of.
pub fn record(uid: &str) -> Record {
    Record {
        consumer_key: ConsumerKey::derive("cluster", uid),
        owner: Owner { cluster_id: "cluster".into(), uid: uid.into() },
        installation: "default".into(),
        namespace: "team-a".into(),
        object: "jazz".into(),
        profile: Profile { name: "Jazz Team Server ü \u{1F3B7}".into() },
        generation: 3,
        state: State::Approved,
        decision: Some(Decision { approved: true, by: Some("alice".into()), at: now(), generation: 2 }),
        unproved_approval: None,
        hold: None,
        revocation: None,
        secret_source: Some(SecretSource {
            name: "jazz-oauth".into(),
            key: "consumerSecret".into(),
            uid: "secret-uid".into(),
            resource_version: "4711".into(),
        }),
        secret: SecretOutcome::Accepted(Phc::stored("$argon2id$v=19$m=32,t=1,p=1$c29tZXNhbHQ$Rdescudvih8".into())),
        secret_floor: 16,
    }
}

/// An approved record with this secret.
pub fn approved(uid: &str, secret: &str) -> Record {
    with_cost(uid, secret, CHEAP)
}

/// The same, with a hash of this cost.
pub fn with_cost(uid: &str, secret: &str, cost: HashCost) -> Record {
    let value = SecretValue::presented(secret.as_bytes().to_vec());
    let phc = Phc::hash(&value, cost, &mut HashMemory::default()).unwrap();
    Record { secret: SecretOutcome::Accepted(phc), ..record(uid) }
}

/// Records of a store, without the pieces that only controllers need.
#[allow(async_fn_in_trait, reason = "for tests alone")]
pub trait Records {
    /// The record of this object.
    async fn find(&self, owner: &Owner) -> Option<Stored>;

    /// Writes a record where there is none now.
    async fn insert(&self, record: Record) -> Result<Stored, StoreError>;

    /// Writes a record over this version.
    async fn replace(&self, record: Record, version: i64) -> Result<Stored, StoreError>;
}

impl<S: ConsumerStore + ?Sized> Records for S {
    async fn find(&self, owner: &Owner) -> Option<Stored> {
        self.by_owner(owner).await.unwrap().1
    }

    async fn insert(&self, record: Record) -> Result<Stored, StoreError> {
        let head = self.head().await?;
        self.write(record, Replaces::NothingAt(head), now()).await
    }

    async fn replace(&self, record: Record, version: i64) -> Result<Stored, StoreError> {
        self.write(record, Replaces::Version(version), now()).await
    }
}

/// Writes a record as it is to be now, whatever it was before.
pub async fn put(store: &dyn ConsumerStore, record: Record) {
    let (head, before) = store.by_owner(&record.owner).await.unwrap();
    store.write(record, Replaces::what_was_read(before.as_ref(), &head), now()).await.unwrap();
}

/// Writes a record, and then that it was removed so many hours ago.
pub async fn bury(store: &dyn ConsumerStore, record: Record, hours: i64) {
    let written = store.insert(record).await.unwrap();
    let then = now() - SignedDuration::from_hours(hours);
    store.write(written.record.removed(), Replaces::Version(written.version), then).await.unwrap();
}

/// Which tombstones are kept: those of brought keys for 90 days, others for an hour.
pub fn keep(at_most: u32, batch: u32) -> KeepTombstones {
    let since = |hours| now() - SignedDuration::from_hours(hours);
    KeepTombstones { reserved_since: since(24 * 90), others_since: since(1), at_most, batch }
}

/// Any time.
pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}
