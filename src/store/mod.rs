//! The server's store of consumer records: one contract, kept by SQLite and by PostgreSQL.
//!
//! The schema is part of the interface and is documented in `docs/reference/store.md`: other programs may read it.
//! Another backend is a file in this folder with its migrations, a line in [`open`], and one in the tests' `on_both_stores!`.

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
/// 2. An owner has one record, and so has a key.
/// 3. A write over a version happens if the record still has it. Its own version is one more.
/// 4. A write over nothing happens if there is no record, the epoch is the one that was read, and [`Head::reload`] has not passed
///    the [`Head::sequence`] that was read. Its version is one more than that sequence, so no earlier record of the owner had it.
/// 5. Any row can be read. One that cannot be understood is not [`Stored::intact`].
///
/// # The feed
/// A backend counts the changes of its rows, also those by other programs: SQL stores do so in triggers.
/// 1. [`Head::sequence`] grows by one with each record that is inserted or updated. The record keeps the new value as its
///    [`Change::sequence`].
/// 2. The order of these values is the order of commits. A reader that sees one sees all changes up to it.
/// 3. A deletion raises the sequence, once for each row or once for a statement.
/// 4. `reload` becomes the new sequence when a record is deleted, when its key changes, when a table is emptied without its rows
///    being counted, and when a verification changes. A deleted tombstone only lifts it to its own sequence.
/// 5. [`Head::last_verification`] becomes the new sequence when a verification changes.
/// 6. A reader is told of changes soon ([`changed`](Self::changed)), and not of all: these are hints.
///
/// # Epochs
/// 1. The store begins another [`Epoch`] when it may have lost commits: when it was restored, has failed over, or cannot tell.
/// 2. A verification counts in its own epoch alone.
/// 3. A server that is behind, as a standby is, answers with an error.
#[async_trait]
pub trait ConsumerStore: Send + Sync {
    /// The record of this object, tombstones included.
    async fn by_owner(&self, owner: &Owner) -> Result<Found, StoreError>;

    /// The record with this key, tombstones included, and where the feed stood at that moment.
    async fn by_key(&self, key: &ConsumerKey) -> Result<(Head, Option<Change>), StoreError>;

    /// All records of a cluster but for tombstones, in one read.
    async fn live(&self, cluster_id: &str) -> Result<Vec<Stored>, StoreError>;

    /// Writes a record if what it replaces is still there. Answers the record as it is now.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not, [`StoreError::KeyInUse`] if another owner has the key.
    async fn write(&self, record: Record, replaces: Replaces, now: Timestamp) -> Result<Stored, StoreError>;

    /// Drops a batch of a cluster's tombstones, the oldest first. Answers how many; fewer than a batch if none is left to drop.
    async fn drop_tombstones(&self, cluster_id: &str, keep: &KeepTombstones) -> Result<usize, StoreError>;

    /// Says that a controller runs, once more. The feed does not change.
    async fn check_in(&self, controller: &Controller, now: Timestamp) -> Result<(), StoreError>;

    /// Says that the controller with this instance has ended.
    async fn check_out(&self, instance: &str) -> Result<(), StoreError>;

    /// The controllers that have checked in and not out, and how often each has checked in.
    async fn controllers(&self) -> Result<Vec<(Controller, i64)>, StoreError>;

    /// How many records can sign in, of all clusters.
    async fn open_records(&self) -> Result<Vec<OpenRecords>, StoreError>;

    /// Records that an installation in a cluster has compared all its records with their objects in this epoch. Until then they
    /// admit no consumer.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another epoch has begun.
    async fn verify(&self, cluster_id: &str, installation: &str, epoch: &Epoch) -> Result<(), StoreError>;

    /// Whether it has, in the present epoch.
    async fn is_verified(&self, cluster_id: &str, installation: &str) -> Result<bool, StoreError>;

    /// Where the feed stands. Also tells whether the store answers at all.
    async fn head(&self) -> Result<Head, StoreError>;

    /// At most `limit` of the records that changed after this head, in the order of their changes, and where the feed stood
    /// at that moment.
    async fn changes(&self, after: i64, limit: u32) -> Result<(Head, Vec<Change>), StoreError>;

    /// Resolves when asking for changes is worth while. It may resolve without a change, and may miss some.
    async fn changed(&self);

    /// What is known to be wrong with [`changed`](Self::changed), and what to do about it.
    fn complaint(&self) -> Option<&'static str>;

    /// Closes all connections, so that nothing is left to be written. SQLite then needs its `-wal` file no more.
    async fn close(&self);
}

/// A record, or its absence, and where the feed stood when it was read.
pub type Found = (Head, Option<Stored>);

/// What a write replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaces {
    /// The record in the version that was read.
    Version(i64),
    /// No record: there was none when the feed stood here. The write is refused if a row that was written since is gone again: it
    /// may have been the tombstone of this record.
    NothingAt(Head),
}

/// Where the feed stands. The default is no store's: an insert that names it is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Counts the changes of rows, in the order of their commits.
    pub sequence: i64,
    /// A reader that is behind this starts over: what it has read may be gone.
    pub reload: i64,
    /// The head at which a verification last changed.
    pub last_verification: i64,
    /// The epoch that the store is in.
    pub epoch: Epoch,
    /// Whether any installation has verified its records in this epoch.
    pub verified: bool,
}

/// A stretch of a store's time in which no commit is lost.
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
    /// The head at which it was last changed.
    pub sequence: i64,
    pub stored: Stored,
    /// Whether its installation has verified its records in this epoch.
    pub verified: bool,
}

/// For how long tombstones are kept.
///
/// Without tombstones an insert would still be safe, by [`Replaces::NothingAt`], but each deletion would make all inserts under way
/// start again. Kept for ever, they would let a tenant fill the store by creating and deleting.
#[derive(Clone, Copy, Debug)]
pub struct KeepTombstones {
    /// A tombstone that [reserves a key](Record::reserves_key) is kept if it was removed since then.
    pub reserved_since: Timestamp,
    /// Any other is kept if it was removed since then.
    pub others_since: Timestamp,
    /// How many of the others are kept.
    pub at_most: u32,
    /// How many are dropped at a time. Decisions wait for a batch, so it is small.
    pub batch: u32,
}

/// A controller process that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Random, and another one for each process.
    pub instance: String,
    /// The cluster whose objects it looks after.
    pub cluster_id: String,
    pub installation: String,
    /// The namespaces it looks after; none means all.
    pub namespaces: Vec<String>,
    /// How often it checks in.
    pub period: Duration,
}

/// The records of an installation in a namespace that can sign in.
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
    /// Looks after the store; of these a SQLite file admits one.
    Controller,
    /// Reads, and follows the feed: the sign-in check, and commands beside a controller.
    SignIn,
}

/// Why the store did not do what it was asked.
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
    /// Cause: the database is down, full, not reachable or refuses.
    /// Next step: [look at the line `store` of `/readyz`](../how-to/troubleshoot.md#a-pod-is-not-ready).
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Next step: correct `--store-url` or the file of `--store-url-file`.
    #[error("the store URL must begin with sqlite:// or postgres://")]
    UnknownScheme,
    /// What is wrong with it is not said, because it may hold a password.
    /// Cause: often a character in the password that is not percent-encoded.
    /// Next step: correct the URL.
    #[error("the store URL cannot be understood; it has the form postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    BadUrl,
    /// Cause: two pods use one file.
    /// Next step: scale to one pod, or [install on PostgreSQL](../how-to/postgres.md).
    #[error("another controller uses {0}; a SQLite store has one controller: stop the other one, or use PostgreSQL")]
    Locked(String),
    /// Cause: the disk, a network file system, or a copy of a file in use.
    /// Next step: [restore the file](../how-to/backup.md#sqlite), or remove it.
    #[error(
        "{path} is damaged ({finding}); restore it from a backup, or remove it: the controller then writes all records again"
    )]
    Damaged { path: String, finding: String },
    /// Cause: the folder is missing, or belongs to another user.
    /// Next step: [give the volume to user 65532](../how-to/install.md#when-it-does-not-install).
    #[error("failed to open {0}: {1}")]
    File(String, std::io::Error),
    /// Cause: the database is down, not reachable or refuses.
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
    /// Whether the other one has ended, even where a former primary is still in it.
    pub fn is_later_than(&self, other: &Self) -> bool {
        self.lineage == other.lineage && self.rank > other.rank
    }
}

// === impl Controller ===

impl Controller {
    /// Whether it looks after the objects of this namespace.
    pub fn covers(&self, cluster_id: &str, namespace: &str) -> bool {
        self.cluster_id == cluster_id && (self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == namespace))
    }
}

/// Opens the store that the URL names, and brings its schema up to date if need be.
///
/// # Errors
/// [`OpenError`]; none of them prints the URL, which may hold a password.
pub async fn open(url: &str, access: Access) -> Result<Arc<dyn ConsumerStore>, OpenError> {
    match url.split_once("://") {
        Some(("sqlite", path)) => Ok(Arc::new(sqlite::open(path, access).await?)),
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(postgres::open(url, access).await?)),
        _ => Err(OpenError::UnknownScheme),
    }
}

/// Forgets which Secret versions the hashes of a cluster come from: the cluster was restored, so that versions prove nothing. Each
/// hash is then compared with its Secret once. Answers how many records changed.
pub async fn forget_secret_versions(store: &dyn ConsumerStore, cluster_id: &str, now: Timestamp) -> Result<usize, StoreError> {
    let mut forgotten = 0;
    for stored in store.live(cluster_id).await? {
        let version = Replaces::Version(stored.version);
        let Some(record) = stored.without_secret_version() else { continue };
        match store.write(record, version, now).await {
            Ok(_) => forgotten += 1,
            // Its writer has looked after the restore.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

/// The wall clock, for what people read, in whole seconds as Kubernetes writes them. Nothing is ordered by it; it decides only for how
/// long tombstones are kept.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
