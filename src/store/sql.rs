//! The contract in SQL that SQLite and PostgreSQL both speak. Only opening them differs.

use std::fs::File;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::query::Query;
use sqlx::{ColumnIndex, Database, Decode, Encode, Executor, FromRow, IntoArguments, Pool, Type};
use tokio::time::timeout;
use tracing::error;

use super::row::{Row, checksum};
use super::{ConsumerStore, Head, StoreError};
use crate::consumer::{ConsumerKey, Owner, Record, SecretOutcome, Stored};

/// How long a statement may take once it has a connection.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct SqlStore<DB: Database> {
    /// For reading.
    pub(super) read: Pool<DB>,
    /// For writing: SQLite has room for one writer, PostgreSQL for as many as for readers.
    pub(super) write: Pool<DB>,
    /// Held for as long as the store is open.
    pub(super) _lock: Option<File>,
}

/// The columns by name, never `*`: another release may add some while this one runs. In the order in which they are bound;
/// `change` is the triggers' business.
macro_rules! columns {
    () => {
        "consumer_key, cluster_id, uid, installation, namespace, object, name, generation, state, hold, phc, \
         secret_problem, secret_name, secret_key, secret_uid, secret_resource_version, decision_approved, decision_by, \
         decision_at, decision_generation, revoked_at, revoked_reason, revoked_generation, updated_at, version, checksum"
    };
}
macro_rules! placeholders {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26"
    };
}
macro_rules! select {
    ($condition:literal) => {
        concat!("SELECT ", columns!(), " FROM oauth_consumers WHERE ", $condition)
    };
}

const INSERT: &str = concat!(
    "INSERT INTO oauth_consumers (",
    columns!(),
    ") VALUES (",
    placeholders!(),
    ") ON CONFLICT DO NOTHING RETURNING consumer_key"
);
const UPDATE: &str = concat!(
    "UPDATE oauth_consumers SET (",
    columns!(),
    ") = (",
    placeholders!(),
    ") WHERE cluster_id = $2 AND uid = $3 AND version = $27 RETURNING consumer_key"
);

#[async_trait]
impl<DB> ConsumerStore for SqlStore<DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'r> Row: FromRow<'r, DB::Row>,
    for<'r> Head: FromRow<'r, DB::Row>,
    usize: ColumnIndex<DB::Row>,
    for<'q> i64: Encode<'q, DB> + Decode<'q, DB> + Type<DB>,
    for<'q> String: Encode<'q, DB> + Decode<'q, DB> + Type<DB>,
    for<'q> Option<i64>: Encode<'q, DB>,
    for<'q> Option<bool>: Encode<'q, DB>,
    for<'q> Option<String>: Encode<'q, DB>,
    bool: Type<DB>,
{
    async fn by_owner(&self, owner: &Owner) -> Result<Option<Stored>, StoreError> {
        let query = sqlx::query(select!("cluster_id = $1 AND uid = $2")).bind(owner.cluster_id.clone()).bind(owner.uid.clone());
        Ok(rows(&self.read, query).await?.pop().map(Row::into))
    }

    async fn by_key(&self, key: &ConsumerKey) -> Result<Option<Stored>, StoreError> {
        let query = sqlx::query(select!("consumer_key = $1")).bind(key.to_string());
        Ok(rows(&self.read, query).await?.pop().map(Row::into))
    }

    async fn live(&self, cluster_id: &str, installation: &str) -> Result<Vec<Stored>, StoreError> {
        let query = sqlx::query(select!("cluster_id = $1 AND installation = $2 AND state <> 'Removed'"))
            .bind(cluster_id.to_owned())
            .bind(installation.to_owned());
        Ok(rows(&self.read, query).await?.into_iter().map(Row::into).collect())
    }

    async fn write(&self, record: Record, replaces: Option<i64>, now: Timestamp) -> Result<Stored, StoreError> {
        let version = replaces.map_or(1, |version| version.wrapping_add(1));
        let (decision, revocation, source) = (&record.decision, &record.revocation, &record.secret_source);
        let problem = match &record.secret {
            SecretOutcome::Refused(problem) => Some(problem.to_string()),
            SecretOutcome::Accepted(_) => None,
        };
        let query = sqlx::query(if replaces.is_none() { INSERT } else { UPDATE })
            .bind(record.consumer_key.to_string())
            .bind(record.owner.cluster_id.clone())
            .bind(record.owner.uid.clone())
            .bind(record.installation.clone())
            .bind(record.namespace.clone())
            .bind(record.object.clone())
            .bind(record.name.clone())
            .bind(record.generation)
            .bind(record.state.to_string())
            .bind(record.hold.clone())
            .bind(record.phc().map(|phc| phc.as_str().to_owned()))
            .bind(problem)
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
            .bind(revocation.as_ref().map(|revocation| revocation.generation))
            .bind(now.to_string())
            .bind(version)
            .bind(checksum(&record));
        let query = if let Some(replaces) = replaces { query.bind(replaces) } else { query };
        match rows::<DB, (String,)>(&self.write, query).await {
            Ok(written) if !written.is_empty() => return Ok(Stored { record, version, intact: true }),
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                return Err(StoreError::KeyInUse(record.consumer_key));
            }
            Err(error) => return Err(error.into()),
        }
        // Nothing was written: either the owner's record has moved on, or the key is somebody else's.
        match self.by_key(&record.consumer_key).await? {
            Some(holder) if holder.record.owner != record.owner => Err(StoreError::KeyInUse(record.consumer_key)),
            _ => Err(StoreError::Swapped),
        }
    }

    async fn forget_secret_versions(&self, cluster_id: &str, now: Timestamp) -> Result<usize, StoreError> {
        // Row by row through `write`, so that versions and checksums stay right; a cluster is restored once in years.
        let query = sqlx::query(select!("cluster_id = $1 AND secret_resource_version <> ''")).bind(cluster_id.to_owned());
        let mut forgotten = 0;
        for row in rows(&self.read, query).await? {
            let Stored { mut record, version, intact } = Row::into(row);
            let Some(source) = record.secret_source.as_mut().filter(|_| intact) else { continue };
            source.resource_version.clear();
            match self.write(record, Some(version), now).await {
                Ok(_) => forgotten += 1,
                // Whoever wrote in between has looked after the restore.
                Err(StoreError::Swapped) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
    }

    async fn drop_tombstones(&self, cluster_id: &str, installation: &str, before: Timestamp) -> Result<usize, StoreError> {
        let query = sqlx::query(
            "DELETE FROM oauth_consumers WHERE cluster_id = $1 AND installation = $2 AND state = 'Removed' AND updated_at < $3 \
             RETURNING consumer_key",
        )
        .bind(cluster_id.to_owned())
        .bind(installation.to_owned())
        .bind(before.to_string());
        Ok(rows::<DB, (String,)>(&self.write, query).await?.len())
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let query = sqlx::query("SELECT store_id, head, reload FROM feed");
        rows(&self.read, query).await?.pop().ok_or_else(|| StoreError::Unavailable("its feed has no head".into()))
    }

    async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// Runs a statement to its end and answers its rows. Never less than all of them: SQLite commits, or fails to, after the
/// last row has been asked for.
///
/// In a task of its own: a caller that goes away, as a client does, must not leave a connection in the middle of something.
async fn rows<DB, T>(pool: &Pool<DB>, query: Query<'static, DB, DB::Arguments>) -> Result<Vec<T>, sqlx::Error>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    T: for<'r> FromRow<'r, DB::Row>,
{
    let pool = pool.clone();
    let statement = tokio::spawn(async move {
        let mut connection = pool.acquire().await?;
        match timeout(TIMEOUT, query.fetch_all(&mut *connection)).await {
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

// === impl StoreError ===

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}
