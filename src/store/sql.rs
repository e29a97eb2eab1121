//! The store in SQL that both SQLite and PostgreSQL understand.

use std::fs::File;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::{Acquire, Database, Encode, Executor, IntoArguments, Pool, Type};
use tokio::time::{sleep, timeout};
use tracing::error;

use super::file::FileIdentity;
use super::notifications::Notifications;
use super::row::{COLUMNS, Readable, Statement, bind};
use super::{
    Change, ConsumerStore, Controller, Epoch, Found, Head, KeepTombstones, OpenError, OpenRecords, Replaces, StoreError,
};
use crate::consumer::{ConsumerKey, Owner, Record, Stored};

pub(super) struct SqlStore<DB: Database> {
    pub(super) read: Pool<DB>,
    /// For writes: SQLite has one writer, PostgreSQL uses the same pool as for reads.
    pub(super) write: Pool<DB>,
    /// How long a statement may take once it has a connection.
    pub(super) query_timeout: Duration,
    /// [`INSERT`] or [`INSERT_LOCKING`].
    pub(super) insert: &'static str,
    /// The file that was opened, where the store is one.
    pub(super) file: Option<FileIdentity>,
    pub(super) news: News,
    /// Held while the store is open.
    pub(super) _lock: Option<File>,
}

/// How to learn that there may be changes.
pub(super) enum News {
    /// Poll this often.
    Ask(Duration),
    Told(Arc<Notifications>),
}

/// For a store with one writer at a time.
pub(super) static INSERT: LazyLock<String> = LazyLock::new(|| insert(""));
/// For a store with many writers.
pub(super) static INSERT_LOCKING: LazyLock<String> = LazyLock::new(|| insert("FOR UPDATE"));
static UPDATE: LazyLock<String> = LazyLock::new(|| {
    let (columns, values) = (columns(), places_after(3));
    format!(
        "UPDATE oauth_consumers SET ({columns}) = ({values}) WHERE cluster_id = $1 AND uid = $2 AND version = $3 RETURNING uid"
    )
});
static BY_OWNER: LazyLock<String> = LazyLock::new(|| select_beside_head("cluster_id = $1 AND uid = $2"));
static BY_KEY: LazyLock<String> = LazyLock::new(|| select_beside_head("consumer_key = $1"));
static CHANGES: LazyLock<String> = LazyLock::new(|| select_beside_head("sequence > $1 ORDER BY sequence LIMIT $2"));
static LIVE: LazyLock<String> = LazyLock::new(|| {
    let columns = columns();
    format!("SELECT {columns} FROM oauth_consumers WHERE cluster_id = $1 AND state <> 'Removed'")
});
static HEAD: LazyLock<String> = LazyLock::new(|| format!("SELECT {FEED_COLUMNS} FROM feed_state"));

const FEED_COLUMNS: &str =
    "feed_state.sequence AS feed_sequence, reload, last_verification, epoch, lineage, rank, verified AS feed_verified";

fn columns() -> String {
    COLUMNS.join(", ")
}

/// The places for the columns' values, after those of the condition.
fn places_after(condition: usize) -> String {
    let places: Vec<_> = (1..=COLUMNS.len()).map(|column| format!("${}", condition + column)).collect();
    places.join(", ")
}

/// Inserts a record, unless a row that was written after the sequence that was read (`$1`) is deleted again, or the epoch (`$2`)
/// has changed. `lock` makes PostgreSQL wait for a transaction that is about to change the feed.
fn insert(lock: &str) -> String {
    let (columns, values) = (columns(), places_after(2));
    format!(
        "INSERT INTO oauth_consumers ({columns}) SELECT {values} FROM feed \
         WHERE id = 1 AND sequence >= $1 AND reload <= $1 AND (SELECT epoch FROM feed_state) = $2 {lock} \
         ON CONFLICT DO NOTHING RETURNING uid"
    )
}

/// The head of the feed, beside the records that the condition finds at the same moment.
fn select_beside_head(condition: &str) -> String {
    let columns = columns();
    format!(
        "SELECT {FEED_COLUMNS}, found.sequence, {columns}, \
         EXISTS (SELECT 1 FROM verifications WHERE verifications.cluster_id = found.cluster_id \
         AND verifications.installation = found.installation AND verifications.epoch = feed_state.epoch) AS verified \
         FROM feed_state LEFT JOIN (SELECT sequence, {columns} FROM oauth_consumers WHERE {condition}) AS found ON TRUE \
         ORDER BY found.sequence"
    )
}

#[async_trait]
impl<DB> ConsumerStore for SqlStore<DB>
where
    DB: Database<Row: Readable, Arguments: IntoArguments<DB>>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'q> bool: Encode<'q, DB> + Type<DB>,
    for<'q> i64: Encode<'q, DB> + Type<DB>,
    for<'q> String: Encode<'q, DB> + Type<DB>,
    for<'q> Option<bool>: Encode<'q, DB>,
    for<'q> Option<i64>: Encode<'q, DB>,
    for<'q> Option<String>: Encode<'q, DB>,
{
    async fn by_owner(&self, owner: &Owner) -> Result<Found, StoreError> {
        let query = sqlx::query(BY_OWNER.as_str()).bind(owner.cluster_id.clone()).bind(owner.uid.clone());
        let (head, mut found) = self.fetch_beside_head(query).await?;
        Ok((head, found.pop().map(|change| change.stored)))
    }

    async fn by_key(&self, key: &ConsumerKey) -> Result<(Head, Option<Change>), StoreError> {
        let (head, mut found) = self.fetch_beside_head(sqlx::query(BY_KEY.as_str()).bind(key.to_string())).await?;
        Ok((head, found.pop()))
    }

    async fn live(&self, cluster_id: &str) -> Result<Vec<Stored>, StoreError> {
        let query = sqlx::query(LIVE.as_str()).bind(cluster_id.to_owned());
        Ok(self.fetch(&self.read, query).await?.iter().filter_map(|row| readable(row.stored())).collect())
    }

    async fn write(&self, record: Record, replaces: Replaces, now: Timestamp) -> Result<Stored, StoreError> {
        let (query, version) = match replaces {
            // No earlier record of the owner had this version: its versions were no higher than the sequence that was read.
            Replaces::NothingAt(read) => {
                (sqlx::query(self.insert).bind(read.sequence).bind(read.epoch.id), read.sequence.wrapping_add(1))
            }
            Replaces::Version(version) => {
                let Owner { cluster_id, uid } = record.owner.clone();
                (sqlx::query(UPDATE.as_str()).bind(cluster_id).bind(uid).bind(version), version.wrapping_add(1))
            }
        };
        match self.fetch(&self.write, bind(query, &record, version, now)).await {
            Ok(written) if !written.is_empty() => return Ok(Stored { record, version, intact: true }),
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                return Err(StoreError::KeyInUse(record.consumer_key));
            }
            Err(error) => return Err(error.into()),
        }
        // Nothing was written: either the owner's record has changed, or another consumer has the key.
        match self.by_key(&record.consumer_key).await?.1 {
            Some(holder) if holder.stored.record.owner != record.owner => Err(StoreError::KeyInUse(record.consumer_key)),
            _ => Err(StoreError::Conflict),
        }
    }

    async fn drop_tombstones(&self, cluster_id: &str, keep: &KeepTombstones) -> Result<usize, StoreError> {
        let newest = sqlx::query(
            "SELECT sequence FROM oauth_consumers WHERE cluster_id = $1 AND state = 'Removed' AND NOT reserved \
             ORDER BY sequence DESC LIMIT 1 OFFSET $2",
        )
        .bind(cluster_id.to_owned())
        .bind(i64::from(keep.at_most));
        let surplus = self.fetch(&self.read, newest).await?.first().map_or(Ok(0), Readable::sequence)?;
        // The outer condition repeats the state: PostgreSQL checks it again in a row that was written meanwhile.
        let query = sqlx::query(
            "DELETE FROM oauth_consumers WHERE state = 'Removed' AND consumer_key IN \
             (SELECT consumer_key FROM oauth_consumers WHERE cluster_id = $1 AND state = 'Removed' AND \
              ((reserved AND updated_at < $2) OR (NOT reserved AND (updated_at < $3 OR sequence <= $4))) \
              ORDER BY sequence LIMIT $5) RETURNING consumer_key",
        )
        .bind(cluster_id.to_owned())
        .bind(keep.reserved_since.to_string())
        .bind(keep.others_since.to_string())
        .bind(surplus)
        .bind(i64::from(keep.batch));
        Ok(self.fetch(&self.write, query).await?.len())
    }

    async fn check_in(&self, controller: &Controller, now: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO controllers (instance, cluster_id, installation, namespaces, period_ms, beat, seen_at) \
             VALUES ($1, $2, $3, $4, $5, 1, $6) \
             ON CONFLICT (instance) DO UPDATE SET beat = controllers.beat + 1, seen_at = excluded.seen_at RETURNING instance",
        )
        .bind(controller.instance.clone())
        .bind(controller.cluster_id.clone())
        .bind(controller.installation.clone())
        .bind(controller.namespaces.join(","))
        .bind(i64::try_from(controller.period.as_millis()).unwrap_or(i64::MAX))
        .bind(now.to_string());
        self.fetch(&self.write, query).await?;
        Ok(())
    }

    async fn check_out(&self, instance: &str) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM controllers WHERE instance = $1 RETURNING instance").bind(instance.to_owned());
        self.fetch(&self.write, query).await?;
        Ok(())
    }

    async fn controllers(&self) -> Result<Vec<(Controller, i64)>, StoreError> {
        let query = sqlx::query("SELECT instance, cluster_id, installation, namespaces, period_ms, beat FROM controllers");
        Ok(self.fetch(&self.read, query).await?.iter().filter_map(|row| readable(row.controller())).collect())
    }

    async fn open_records(&self) -> Result<Vec<OpenRecords>, StoreError> {
        let query = sqlx::query(
            "SELECT cluster_id, namespace, installation, count(*) AS count FROM oauth_consumers \
             WHERE state = 'Approved' AND phc IS NOT NULL GROUP BY cluster_id, namespace, installation",
        );
        Ok(self.fetch(&self.read, query).await?.iter().filter_map(|row| readable(row.open_records())).collect())
    }

    async fn verify(&self, cluster_id: &str, installation: &str, epoch: &Epoch) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO verifications (cluster_id, installation, epoch) SELECT $1, $2, epoch FROM feed_state WHERE epoch = $3 \
             ON CONFLICT (cluster_id, installation) DO UPDATE SET epoch = excluded.epoch RETURNING cluster_id",
        )
        .bind(cluster_id.to_owned())
        .bind(installation.to_owned())
        .bind(epoch.id.clone());
        if self.fetch(&self.write, query).await?.is_empty() { Err(StoreError::Conflict) } else { Ok(()) }
    }

    async fn is_verified(&self, cluster_id: &str, installation: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "SELECT cluster_id FROM verifications JOIN feed_state USING (epoch) WHERE cluster_id = $1 AND installation = $2",
        )
        .bind(cluster_id.to_owned())
        .bind(installation.to_owned());
        Ok(!self.fetch(&self.read, query).await?.is_empty())
    }

    async fn head(&self) -> Result<Head, StoreError> {
        head(&self.fetch(&self.read, sqlx::query(HEAD.as_str())).await?)
    }

    async fn changes(&self, after: i64, limit: u32) -> Result<(Head, Vec<Change>), StoreError> {
        self.fetch_beside_head(sqlx::query(CHANGES.as_str()).bind(after).bind(i64::from(limit))).await
    }

    async fn changed(&self) {
        match &self.news {
            News::Ask(pause) => sleep(*pause).await,
            News::Told(notifications) => notifications.next().await,
        }
    }

    fn complaint(&self) -> Option<&'static str> {
        let News::Told(notifications) = &self.news else { return None };
        notifications.complaint()
    }

    async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

// === impl SqlStore ===

impl<DB> SqlStore<DB>
where
    DB: Database<Row: Readable, Arguments: IntoArguments<DB>>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Runs a statement of [`select_beside_head`].
    async fn fetch_beside_head(&self, query: Statement<DB>) -> Result<(Head, Vec<Change>), StoreError> {
        let rows = self.fetch(&self.read, query).await?;
        Ok((head(&rows)?, rows.iter().filter_map(|row| readable(row.change()).flatten()).collect()))
    }

    /// Runs a statement and returns all its rows: SQLite commits, or fails to, only after the last row is read.
    ///
    /// It runs in its own task, so that a caller that is cancelled does not leave a connection in the middle of a statement.
    async fn fetch(&self, pool: &Pool<DB>, query: Statement<DB>) -> Result<Vec<DB::Row>, sqlx::Error> {
        if let Some(file) = &self.file {
            file.check().map_err(sqlx::Error::Io)?;
        }
        let (pool, query_timeout) = (pool.clone(), self.query_timeout);
        let statement = tokio::spawn(async move {
            let mut connection = pool.acquire().await?;
            match timeout(query_timeout, query.fetch_all(&mut *connection)).await {
                Ok(result) => result,
                Err(elapsed) => {
                    // Its state is unknown, and in the pool a connection that hangs would keep its place.
                    connection.close_on_drop();
                    Err(sqlx::Error::Io(elapsed.into()))
                }
            }
        });
        statement.await.map_err(|error| sqlx::Error::Io(error.into()))?
    }
}

/// The head of the feed, which is in each row.
fn head(rows: &[impl Readable]) -> Result<Head, StoreError> {
    let first = rows.first().ok_or_else(|| StoreError::Unavailable("its table feed is empty".into()))?;
    Ok(first.head()?)
}

/// Skips a row that cannot be read, because it was edited: the others must still be read.
fn readable<T>(read: Result<T, sqlx::Error>) -> Option<T> {
    // Cause: another program has written to the store.
    // Next step: correct `consumer_key`, `cluster_id` and `uid` of the row, or delete the row.
    read.inspect_err(|cause| error!(%cause, "a row of the store cannot be read and is skipped")).ok()
}

/// Brings the schema up to date. Ignores migrations that are newer than this program: they only add, so that the previous release
/// still runs beside the next one.
pub(super) async fn migrate<'a, A>(mut migrations: Migrator, database: A) -> Result<(), OpenError>
where
    A: Acquire<'a>,
    <A::Connection as Deref>::Target: Migrate,
{
    migrations.set_ignore_missing(true);
    migrations.run(database).await.map_err(|cause| OpenError::Migration(cause.to_string()))
}

// === impl StoreError ===

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // A prepared statement that does not exist, or exists already
        // (https://www.postgresql.org/docs/current/errcodes-appendix.html).
        let is_pooled =
            matches!(error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref(), Some("26000" | "42P05"));
        let advice = if is_pooled {
            "; a pooler in transaction mode mixes sessions up: connect directly, or through a pooler in session mode"
        } else {
            ""
        };
        Self::Unavailable(format!("{error}{advice}"))
    }
}

// === impl OpenError ===

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}
