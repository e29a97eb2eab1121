//! The store of the records: one trait, for SQLite and PostgreSQL.
//!
//! The schema is part of the interface, because other programs may read it (`docs/reference/store.md`). A new backend needs a
//! file in this folder with its migrations, a line in [`open`], and one in the tests' `on_both_stores!`.

mod file;
mod notifications;
mod postgres;
mod revoke;
mod row;
mod sql;
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::consumer::{ConsumerKey, Owner, Record, Stored};
pub use revoke::{RevokeError, revoke};

/// What a store promises.
///
/// # Writes
/// 1. A write happens completely or not at all. After [`StoreError::Unavailable`] it is unknown which.
/// 2. An owner has at most one record, and a key belongs to at most one record.
/// 3. A write over a version succeeds if the record still has this version. The new version is one more.
/// 4. A write over nothing needs three things: no record, the same epoch as was read, and a [`Head::reload`] not above the
///    [`Head::sequence`] that was read. Its version is one more than that sequence, so no earlier record of the owner had it.
/// 5. Every row can be read. A row that cannot be understood is not [`Stored::intact`].
///
/// # The feed
/// A backend counts the changes of its rows, also those by other programs: SQL stores do so in triggers.
/// 1. [`Head::sequence`] grows by one with each record that is inserted or updated. The record keeps the new value as its
///    [`Change::sequence`].
/// 2. The order of these values is the order of commits. A reader that sees one sees all changes up to it.
/// 3. A deletion raises the sequence, once for each row or once for a statement.
/// 4. `reload` becomes the new sequence when a record is deleted, its key changes, a table is truncated, or a verification
///    changes. A deleted tombstone raises it only to the tombstone's own sequence.
/// 5. [`Head::last_verification`] becomes the new sequence when a verification changes.
/// 6. [`changed`](Self::changed) reports changes soon, but not all of them: it is a hint.
///
/// # Epochs
/// 1. The store begins another [`Epoch`] when it may have lost commits: after a restore or a failover, or if it cannot rule them
/// out.
/// 2. A verification counts only in its own epoch.
/// 3. A server that is behind, for example a standby, answers with an error.
#[async_trait]
pub trait ConsumerStore: Send + Sync {
    /// The record of this object, tombstones included.
    async fn by_owner(&self, owner: &Owner) -> Result<Found, StoreError>;

    /// The record with this key, tombstones included, and the head of the feed at that moment.
    async fn by_key(&self, key: &ConsumerKey) -> Result<(Head, Option<Change>), StoreError>;

    /// All records of a cluster without tombstones, in one read.
    async fn live(&self, cluster_id: &str) -> Result<Vec<Stored>, StoreError>;

    /// Writes a record if what it replaces is still there. Returns the written record.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not, [`StoreError::KeyInUse`] if another owner has the key.
    async fn write(&self, record: Record, replaces: Replaces, now: Timestamp) -> Result<Stored, StoreError>;

    /// Deletes a batch of a cluster's tombstones, the oldest first. Returns how many: fewer than a batch if none is left to
    /// delete.
    async fn drop_tombstones(&self, cluster_id: &str, keep: &KeepTombstones) -> Result<usize, StoreError>;

    /// Raises the beat of a controller that runs. The feed does not change.
    async fn check_in(&self, controller: &Controller, now: Timestamp) -> Result<(), StoreError>;

    /// Removes the controller with this instance, which has ended.
    async fn check_out(&self, instance: &str) -> Result<(), StoreError>;

    /// The controllers that have checked in and not out, each with its beat.
    async fn controllers(&self) -> Result<Vec<(Controller, i64)>, StoreError>;

    /// How many records let consumers in, of all clusters.
    async fn open_records(&self) -> Result<Vec<OpenRecords>, StoreError>;

    /// Notes that an installation in a cluster has compared all its records with their objects in this epoch. Until then they let
    /// no consumer in.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another epoch has begun.
    async fn verify(&self, cluster_id: &str, installation: &str, epoch: &Epoch) -> Result<(), StoreError>;

    /// Whether the installation has verified its records in the current epoch.
    async fn is_verified(&self, cluster_id: &str, installation: &str) -> Result<bool, StoreError>;

    /// The head of the feed. Also shows whether the store answers.
    async fn head(&self) -> Result<Head, StoreError>;

    /// The first `limit` records that changed after this sequence, in the order of their changes, and the head of the feed at
    /// that moment.
    async fn changes(&self, after: i64, limit: u32) -> Result<(Head, Vec<Change>), StoreError>;

    /// Resolves when there may be changes. It may resolve without a change, and may miss changes.
    async fn changed(&self);

    /// What is known to be wrong with [`changed`](Self::changed), and what to do about it.
    fn complaint(&self) -> Option<&'static str>;

    /// Closes all connections. SQLite then no longer needs its `-wal` file.
    async fn close(&self);
}

/// A record or its absence, and the head of the feed when it was read.
pub type Found = (Head, Option<Stored>);

/// What a write replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaces {
    /// The record in the version that was read.
    Version(i64),
    /// No record: there was none at this head. The write is refused if a row that was written since is deleted again: it may have
    /// been the tombstone of this record.
    NothingAt(Head),
}

/// The state of the feed. No store has the default, so an insert that names it is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Counts the changes of rows, in the order of their commits.
    pub sequence: i64,
    /// A reader that is behind this reads all records again: some may be deleted.
    pub reload: i64,
    /// The sequence at which a verification last changed.
    pub last_verification: i64,
    pub epoch: Epoch,
    /// Whether any installation has verified its records in this epoch.
    pub verified: bool,
}

/// A period in which a store loses no commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Differs between any two epochs, also of different stores.
    pub id: String,
    /// Epochs of the same lineage can be put in order.
    pub lineage: String,
    /// The place in that order. Several epochs may share one.
    pub rank: i64,
}

/// A record as the feed shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The sequence of its last change.
    pub sequence: i64,
    pub stored: Stored,
    /// Whether its installation has verified its records in this epoch.
    pub verified: bool,
}

/// How long tombstones are kept.
///
/// Without tombstones an insert would still be safe, by [`Replaces::NothingAt`], but each deletion would make all concurrent
/// inserts start again. If tombstones stayed for ever, a tenant could fill the store by creating and deleting objects.
#[derive(Clone, Copy, Debug)]
pub struct KeepTombstones {
    /// A tombstone that [reserves a key](Record::reserves_key) is kept if it was removed since then.
    pub reserved_since: Timestamp,
    /// Any other is kept if it was removed since then.
    pub others_since: Timestamp,
    /// How many of the others are kept.
    pub at_most: u32,
    /// How many are deleted at a time. Other writes wait for a batch, so it is small.
    pub batch: u32,
}

/// A controller process that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Random, and different for each process.
    pub instance: String,
    /// The cluster whose objects it manages.
    pub cluster_id: String,
    pub installation: String,
    /// The namespaces it manages; none means all.
    pub namespaces: Vec<String>,
    /// How often it checks in.
    pub period: Duration,
}

/// The records of an installation in a namespace that let consumers in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRecords {
    pub cluster_id: String,
    pub namespace: String,
    /// The installation that they name.
    pub installation: String,
    pub count: i64,
}

/// What a process does with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Brings the schema up to date. A SQLite file admits one controller.
    Controller,
    /// Uses the schema as it is: the sign-in check, and commands beside a controller.
    SignIn,
}

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The record was written since it was read.
    /// Next step: try again.
    #[error("another writer has changed the record in the meantime")]
    Conflict,
    /// Cause: the key belongs, or once belonged, to another consumer.
    /// Next step: as for the [reason `KeyInUse`](#conditions).
    #[error("the consumer key {0} is in use")]
    KeyInUse(ConsumerKey),
    /// No answer, or none in time. Whether a write happened is unknown.
    /// Cause: the database does not answer, is full, or refuses.
    /// Next step: [look at the line `store` of `/readyz`](../how-to/troubleshoot.md#a-pod-is-not-ready).
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Next step: correct `--store-url` or the file of `--store-url-file`.
    #[error("the store URL must begin with sqlite:// or postgres://")]
    UnknownScheme,
    /// The message does not say what is wrong with the URL, because it may hold a password.
    /// Cause: often a character in the password that is not percent-encoded.
    /// Next step: correct the URL.
    #[error("the store URL cannot be understood; it has the form postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    BadUrl,
    /// Cause: two pods use one file.
    /// Next step: scale to one pod, or [install on PostgreSQL](../how-to/postgres.md).
    #[error("another controller uses {0}; a SQLite store has one controller: stop the other one, or use PostgreSQL")]
    Locked(String),
    /// Cause: the disk, a network file system, or a copy that was made of a file in use.
    /// Next step: [restore the file](../how-to/backup.md#sqlite), or remove it.
    #[error(
        "{path} is damaged ({finding}); restore it from a backup, or remove it: the controller then writes all records again"
    )]
    Damaged { path: String, finding: String },
    /// Cause: the folder is missing, or belongs to another user.
    /// Next step: [give the volume to user 65532](../how-to/install.md#when-it-does-not-install).
    #[error("failed to open {0}: {1}")]
    File(String, std::io::Error),
    /// Cause: the database does not answer, or refuses.
    /// Next step: none for `run`, `controller` and `signin`, which try again. Else check the URL and the server.
    #[error("failed to open the store: {0}")]
    Database(String),
    /// Cause: the role does not own the tables, or the database has other tables of these names.
    /// Next step: use [the role that owns the tables](../how-to/postgres.md#1-make-the-roles-and-the-database).
    #[error("failed to bring the store's schema up to date: {0}")]
    Migration(String),
}

// === impl Replaces ===

impl Replaces {
    pub fn what_was_read(stored: Option<&Stored>, at: &Head) -> Self {
        stored.map_or_else(|| Self::NothingAt(at.clone()), |stored| Self::Version(stored.version))
    }
}

// === impl Epoch ===

impl Epoch {
    /// Whether this epoch is later. Then the other one has ended, even if a former primary is still in it.
    pub fn is_later_than(&self, other: &Self) -> bool {
        self.lineage == other.lineage && self.rank > other.rank
    }
}

// === impl Controller ===

impl Controller {
    /// Whether it manages this namespace.
    pub fn covers(&self, cluster_id: &str, namespace: &str) -> bool {
        self.cluster_id == cluster_id && (self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == namespace))
    }
}

/// Opens the store that the URL names.
///
/// # Errors
/// [`OpenError`]. It does not print the URL, which may contain a password.
pub async fn open(url: &str, access: Access) -> Result<Arc<dyn ConsumerStore>, OpenError> {
    match url.split_once("://") {
        Some(("sqlite", path)) => Ok(Arc::new(sqlite::open(path, access).await?)),
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(postgres::open(url, access).await?)),
        _ => Err(OpenError::UnknownScheme),
    }
}

/// Forgets the Secret versions of a cluster's records after a restore of the cluster, when an equal version proves nothing. Each
/// hash is then compared with its Secret once. Returns how many records changed.
pub async fn forget_secret_versions(store: &dyn ConsumerStore, cluster_id: &str, now: Timestamp) -> Result<usize, StoreError> {
    let mut forgotten = 0;
    for stored in store.live(cluster_id).await? {
        let version = Replaces::Version(stored.version);
        let Some(record) = stored.without_secret_version() else { continue };
        match store.write(record, version, now).await {
            Ok(_) => forgotten += 1,
            // The other writer has read the Secret after the restore.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

/// The wall clock, in whole seconds as in Kubernetes. It is for people, and for how long tombstones are kept. Nothing is ordered
/// by it.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
