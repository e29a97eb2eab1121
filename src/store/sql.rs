//! The contract in SQL that SQLite and PostgreSQL both speak. Only opening them differs.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::query::Query;
use sqlx::{ColumnIndex, Database, Decode, Encode, Executor, FromRow, IntoArguments, Pool, Type};
use tokio::time::{sleep, timeout};
use tracing::error;

use super::file::FileIdentity;
use super::notifications::Notifications;
use super::row::{AnyRow, Joined, checksum};
use super::{Change, ConsumerStore, Controller, Found, Head, KeepTombstones, OpenRecords, Replaces, StoreError};
use crate::consumer::{ConsumerKey, Owner, Record, SecretOutcome, Stored};

pub(super) struct SqlStore<DB: Database> {
    /// For reading.
    pub(super) read: Pool<DB>,
    /// For writing: SQLite has room for one writer, PostgreSQL for as many as for readers.
    pub(super) write: Pool<DB>,
    /// How long a statement may take once it has a connection.
    pub(super) patience: Duration,
    /// [`INSERT`] or [`INSERT_LOCKING`].
    pub(super) insert: &'static str,
    /// The file that was opened, where the store is one.
    pub(super) file: Option<FileIdentity>,
    /// How to learn of changes.
    pub(super) news: News,
    /// Held for as long as the store is open.
    pub(super) _lock: Option<File>,
}

/// How to learn that there may be changes.
pub(super) enum News {
    /// Ask this often: where asking costs next to nothing.
    Ask(Duration),
    /// Be told.
    Told(Arc<Notifications>),
}

/// The columns by name, never `*`: another release may add some while this one runs. In the order in which they are bound;
/// `change` is the triggers' business.
macro_rules! columns {
    () => {
        "consumer_key, cluster_id, uid, installation, namespace, object, name, generation, state, unproved_generation, hold, \
         phc, secret_problem, secret_floor, secret_name, secret_key, secret_uid, secret_resource_version, decision_approved, \
         decision_by, decision_at, decision_generation, revoked_at, revoked_reason, revoked_disapproved, reserved, updated_at, \
         version, checksum"
    };
}
macro_rules! placeholders {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, \
         $26, $27, $28, $29"
    };
}
macro_rules! select {
    ($condition:literal) => {
        concat!("SELECT ", columns!(), " FROM oauth_consumers WHERE ", $condition)
    };
}

/// The head of the feed beside whichever records the condition finds, seen in one and the same moment.
macro_rules! select_from_feed {
    ($records:literal) => {
        concat!(
            "SELECT store_id, head, reload, resynced, incarnation, timeline, compared, change, ",
            columns!(),
            ", EXISTS (SELECT 1 FROM resyncs WHERE resyncs.cluster_id = found.cluster_id \
             AND resyncs.installation = found.installation AND resyncs.incarnation = feed_state.incarnation) AS vouched \
             FROM feed_state LEFT JOIN (SELECT change, ",
            columns!(),
            " FROM oauth_consumers WHERE ",
            $records,
            ") AS found ON TRUE ORDER BY change"
        )
    };
}

/// Inserts a record, unless the feed says that what was read before is no longer the whole truth: a row that was written after
/// `$30` is gone again, or the store is another one. `$lock` makes PostgreSQL wait for a transaction that is about
/// to say so.
macro_rules! insert {
    ($lock:literal) => {
        concat!(
            "INSERT INTO oauth_consumers (",
            columns!(),
            ") SELECT ",
            placeholders!(),
            " FROM feed WHERE id = 1 AND head >= $30 AND reload <= $30 AND (SELECT incarnation FROM feed_state) = $31 ",
            $lock,
            " ON CONFLICT DO NOTHING RETURNING consumer_key"
        )
    };
}
/// For a store with one writer at a time.
pub(super) const INSERT: &str = insert!("");
/// For a store with many.
pub(super) const INSERT_LOCKING: &str = insert!("FOR UPDATE");
const UPDATE: &str = concat!(
    "UPDATE oauth_consumers SET (",
    columns!(),
    ") = (",
    placeholders!(),
    ") WHERE cluster_id = $2 AND uid = $3 AND version = $30 RETURNING consumer_key"
);

#[async_trait]
impl<DB> ConsumerStore for SqlStore<DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'r> AnyRow: FromRow<'r, DB::Row>,
    for<'r> Head: FromRow<'r, DB::Row>,
    usize: ColumnIndex<DB::Row>,
    for<'q> i64: Encode<'q, DB> + Decode<'q, DB> + Type<DB>,
    for<'q> String: Encode<'q, DB> + Decode<'q, DB> + Type<DB>,
    for<'q> Option<i64>: Encode<'q, DB>,
    for<'q> Option<bool>: Encode<'q, DB>,
    for<'q> Option<String>: Encode<'q, DB>,
    for<'r> Joined: FromRow<'r, DB::Row>,
    for<'r> OpenRecords: FromRow<'r, DB::Row>,
    for<'q> bool: Encode<'q, DB> + Type<DB>,
{
    async fn by_owner(&self, owner: &Owner) -> Result<Found, StoreError> {
        let query =
            sqlx::query(select_from_feed!("cluster_id = $1 AND uid = $2")).bind(owner.cluster_id.clone()).bind(owner.uid.clone());
        let (head, mut found) = self.joined(query).await?;
        Ok((head, found.pop().map(|change| change.stored)))
    }

    async fn by_key(&self, key: &ConsumerKey) -> Result<(Head, Option<Change>), StoreError> {
        let query = sqlx::query(select_from_feed!("consumer_key = $1")).bind(key.to_string());
        let (head, mut found) = self.joined(query).await?;
        Ok((head, found.pop()))
    }

    async fn live(&self, cluster_id: &str) -> Result<Vec<Stored>, StoreError> {
        let query = sqlx::query(select!("cluster_id = $1 AND state <> 'Removed'")).bind(cluster_id.to_owned());
        Ok(self.rows(&self.read, query).await?.into_iter().map(AnyRow::into).collect())
    }

    async fn write(&self, record: Record, replaces: Replaces, now: Timestamp) -> Result<Stored, StoreError> {
        let (statement, version) = match &replaces {
            // Never a version that an earlier record of the owner had: that was written before this head, and counted up to it at most.
            Replaces::NothingAt(read) => (self.insert, read.head.wrapping_add(1)),
            Replaces::Version(version) => (UPDATE, version.wrapping_add(1)),
        };
        let (decision, revocation, source) = (&record.decision, &record.revocation, &record.secret_source);
        let problem = match &record.secret {
            SecretOutcome::Refused(problem) => Some(problem.to_string()),
            SecretOutcome::Accepted(_) => None,
        };
        let query = sqlx::query(statement)
            .bind(record.consumer_key.to_string())
            .bind(record.owner.cluster_id.clone())
            .bind(record.owner.uid.clone())
            .bind(record.installation.clone())
            .bind(record.namespace.clone())
            .bind(record.object.clone())
            .bind(record.name.clone())
            .bind(record.generation)
            .bind(record.state.to_string())
            .bind(record.unproved_approval)
            .bind(record.hold.clone())
            .bind(record.phc().map(|phc| phc.as_str().to_owned()))
            .bind(problem)
            .bind(record.secret_floor)
            .bind(source.as_ref().map(|source| source.name.clone()))
            .bind(source.as_ref().map(|source| source.key.clone()))
            .bind(source.as_ref().map(|source| source.uid.clone()))
            .bind(source.as_ref().map(|source| source.resource_version.clone()))
            .bind(decision.as_ref().map(|decision| decision.approved))
            .bind(decision.as_ref().and_then(|decision| decision.by.clone()))
            .bind(decision.as_ref().map(|decision| decision.at.to_string()))
            .bind(decision.as_ref().map(|decision| decision.generation))
            .bind(revocation.as_ref().map(|revocation| revocation.at.to_string()))
            .bind(revocation.as_ref().map(|revocation| revocation.reason.clone()))
            .bind(revocation.as_ref().map(|revocation| revocation.disapproved))
            .bind(record.reserves_key())
            .bind(now.to_string())
            .bind(version)
            .bind(checksum(&record));
        let query = match replaces {
            Replaces::NothingAt(read) => query.bind(read.head).bind(read.incarnation),
            Replaces::Version(version) => query.bind(version),
        };
        match self.rows::<(String,)>(&self.write, query).await {
            Ok(written) if !written.is_empty() => return Ok(Stored { record, version, intact: true }),
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                return Err(StoreError::KeyInUse(record.consumer_key));
            }
            Err(error) => return Err(error.into()),
        }
        // Nothing was written: either the owner's record has moved on, or another consumer has the key.
        match self.by_key(&record.consumer_key).await?.1 {
            Some(holder) if holder.stored.record.owner != record.owner => Err(StoreError::KeyInUse(record.consumer_key)),
            _ => Err(StoreError::Swapped),
        }
    }

    async fn forget_secret_versions(&self, cluster_id: &str, now: Timestamp) -> Result<usize, StoreError> {
        // Row by row through `write`, so that versions and checksums stay right; a cluster is restored once in years.
        let query = sqlx::query(select!("cluster_id = $1 AND secret_resource_version <> ''")).bind(cluster_id.to_owned());
        let mut forgotten = 0;
        for row in self.rows(&self.read, query).await? {
            let Stored { mut record, version, intact } = AnyRow::into(row);
            let Some(source) = record.secret_source.as_mut().filter(|_| intact) else { continue };
            source.resource_version.clear();
            match self.write(record, Replaces::Version(version), now).await {
                Ok(_) => forgotten += 1,
                // Whoever wrote in between has looked after the restore.
                Err(StoreError::Swapped) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
    }

    async fn drop_tombstones(&self, cluster_id: &str, keep: &KeepTombstones) -> Result<usize, StoreError> {
        let newest = sqlx::query(
            "SELECT change FROM oauth_consumers WHERE cluster_id = $1 AND state = 'Removed' AND NOT reserved \
             ORDER BY change DESC LIMIT 1 OFFSET $2",
        )
        .bind(cluster_id.to_owned())
        .bind(i64::from(keep.at_most));
        let surplus = self.rows::<(i64,)>(&self.read, newest).await?.pop().map_or(0, |(change,)| change);
        // The state is asked for twice: PostgreSQL looks at it once more in a row that was written meanwhile.
        let query = sqlx::query(
            "DELETE FROM oauth_consumers WHERE state = 'Removed' AND consumer_key IN \
             (SELECT consumer_key FROM oauth_consumers WHERE cluster_id = $1 AND state = 'Removed' AND \
              ((reserved AND updated_at < $2) OR (NOT reserved AND (updated_at < $3 OR change <= $4))) \
              ORDER BY change LIMIT $5) RETURNING consumer_key",
        )
        .bind(cluster_id.to_owned())
        .bind(keep.reserved_since.to_string())
        .bind(keep.others_since.to_string())
        .bind(surplus)
        .bind(i64::from(keep.batch));
        Ok(self.rows::<(String,)>(&self.write, query).await?.len())
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
        self.rows::<(String,)>(&self.write, query).await?;
        Ok(())
    }

    async fn check_out(&self, instance: &str) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM controllers WHERE instance = $1 RETURNING instance").bind(instance.to_owned());
        self.rows::<(String,)>(&self.write, query).await?;
        Ok(())
    }

    async fn controllers(&self) -> Result<Vec<(Controller, i64)>, StoreError> {
        let query = sqlx::query("SELECT instance, cluster_id, installation, namespaces, period_ms, beat FROM controllers");
        let rows = self.rows::<(String, String, String, String, i64, i64)>(&self.read, query).await?;
        let controller = |(instance, cluster_id, installation, namespaces, period, beat): (_, _, _, String, i64, _)| {
            let namespaces = namespaces.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let period = Duration::from_millis(u64::try_from(period).unwrap_or_default());
            (Controller { instance, cluster_id, installation, namespaces, period }, beat)
        };
        Ok(rows.into_iter().map(controller).collect())
    }

    async fn open_records(&self) -> Result<Vec<OpenRecords>, StoreError> {
        let query = sqlx::query(
            "SELECT cluster_id, namespace, installation, count(*) AS count FROM oauth_consumers \
             WHERE state = 'Approved' AND phc IS NOT NULL GROUP BY cluster_id, namespace, installation",
        );
        Ok(self.rows(&self.read, query).await?)
    }

    async fn vouch(&self, cluster_id: &str, installation: &str, incarnation: &str) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO resyncs (cluster_id, installation, incarnation) SELECT $1, $2, incarnation FROM feed_state \
             WHERE incarnation = $3 \
             ON CONFLICT (cluster_id, installation) DO UPDATE SET incarnation = excluded.incarnation RETURNING cluster_id",
        )
        .bind(cluster_id.to_owned())
        .bind(installation.to_owned())
        .bind(incarnation.to_owned());
        if self.rows::<(String,)>(&self.write, query).await?.is_empty() { Err(StoreError::Swapped) } else { Ok(()) }
    }

    async fn is_vouched_for(&self, cluster_id: &str, installation: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "SELECT cluster_id FROM resyncs JOIN feed_state USING (incarnation) WHERE cluster_id = $1 AND installation = $2",
        )
        .bind(cluster_id.to_owned())
        .bind(installation.to_owned());
        Ok(!self.rows::<(String,)>(&self.read, query).await?.is_empty())
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let query = sqlx::query("SELECT store_id, head, reload, resynced, incarnation, timeline, compared FROM feed_state");
        self.rows(&self.read, query).await?.pop().ok_or_else(headless)
    }

    async fn changes(&self, after: i64, limit: u32) -> Result<(Head, Vec<Change>), StoreError> {
        let query = sqlx::query(select_from_feed!("change > $1 ORDER BY change LIMIT $2")).bind(after).bind(i64::from(limit));
        self.joined(query).await
    }

    async fn changed(&self) {
        match &self.news {
            News::Ask(pause) => sleep(*pause).await,
            News::Told(notifications) => notifications.next().await,
        }
    }

    fn complaint(&self) -> Option<&'static str> {
        match &self.news {
            News::Ask(_) => None,
            News::Told(notifications) => notifications.complaint(),
        }
    }

    async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

// === impl SqlStore ===

impl<DB> SqlStore<DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    async fn joined(&self, query: Query<'static, DB, DB::Arguments>) -> Result<(Head, Vec<Change>), StoreError>
    where
        for<'r> Joined: FromRow<'r, DB::Row>,
    {
        let mut rows: Vec<Joined> = self.rows(&self.read, query).await?;
        let head = rows.first().map(|row| row.head.clone()).ok_or_else(headless)?;
        Ok((head, rows.drain(..).filter_map(|row| row.change).collect()))
    }

    /// Runs a statement to its end and answers its rows. Never less than all of them: SQLite commits, or fails to, after
    /// the last row has been asked for.
    ///
    /// In a task of its own: a caller that goes away, as a client does, must not leave a connection in the middle of
    /// something.
    async fn rows<T>(&self, pool: &Pool<DB>, query: Query<'static, DB, DB::Arguments>) -> Result<Vec<T>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, DB::Row>,
    {
        if let Some(file) = &self.file {
            file.check().map_err(sqlx::Error::Io)?;
        }
        let (pool, patience) = (pool.clone(), self.patience);
        let statement = tokio::spawn(async move {
            let mut connection = pool.acquire().await?;
            match timeout(patience, query.fetch_all(&mut *connection)).await {
                Ok(result) => result,
                Err(elapsed) => {
                    // Nobody knows what state it is in; back in the pool it would keep its place for as long as it hangs.
                    connection.close_on_drop();
                    Err(sqlx::Error::Io(elapsed.into()))
                }
            }
        });
        let rows = statement.await.map_err(|error| sqlx::Error::Io(error.into()))??;
        // A row that cannot even be decoded was edited by hand; it must not keep the others from being read.
        let decode =
            |row| T::from_row(row).inspect_err(|cause| error!(%cause, "a row of the store cannot be read, and is passed over"));
        Ok(rows.iter().filter_map(|row| decode(row).ok()).collect())
    }
}

fn headless() -> StoreError {
    StoreError::Unavailable("its feed has no head".into())
}

// === impl StoreError ===

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // A prepared statement that is not there, or there already
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
