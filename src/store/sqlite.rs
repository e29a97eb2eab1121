//! SQLite: the embedded store. One file, one controller.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Pool, Sqlite};

use super::file::FileIdentity;
use super::sql::{self, INSERT, News, SqlStore};
use super::{Access, OpenError};

/// How long to wait for the file, which another process (a backup) may hold for a moment, or for a connection.
const WAIT_TIMEOUT: Duration = Duration::from_secs(4);

const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the feed is polled. A poll takes about 50 µs, and also finds changes by other processes.
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// Opens the file. A controller also takes its lock, checks it for damage, and brings its schema up to date.
pub(super) async fn open(path: &str, access: Access) -> Result<SqlStore<Sqlite>, OpenError> {
    let lock = match access {
        Access::Controller => {
            if let Some(folder) = Path::new(path).parent() {
                std::fs::create_dir_all(folder).map_err(|error| OpenError::File(path.to_owned(), error))?;
            }
            // SQLite gives its other files the same mode.
            private(path)?;
            Some(lock(path)?)
        }
        Access::SignIn => None,
    };
    // Read before the file is opened, so that a replacement in between is noticed.
    let named = FileIdentity::of(path);
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(WAIT_TIMEOUT)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = |size| SqlitePoolOptions::new().max_connections(size).acquire_timeout(WAIT_TIMEOUT).connect_with(options.clone());
    let write = pool(1).await.map_err(|error| damaged(path, error))?;
    if access == Access::Controller {
        check(path, &write).await?;
        sql::migrate(sqlx::migrate!("src/store/migrations/sqlite"), &write).await?;
        // A new epoch: the file may have been restored or replaced since the last controller closed it. No other controller runs.
        sqlx::query("UPDATE feed SET opened = lower(hex(randomblob(16)))").execute(&write).await?;
        sqlx::query("DELETE FROM controllers").execute(&write).await?;
    }
    let file = Some(named.or_else(|_| FileIdentity::of(path))?);
    let (insert, news) = (INSERT.as_str(), News::Ask(POLL_PERIOD));
    Ok(SqlStore { read: pool(4).await?, write, query_timeout: QUERY_TIMEOUT, insert, file, news, _lock: lock })
}

/// A file that only its owner can read: with a hash, a secret can be guessed offline.
fn private(path: &str) -> Result<File, OpenError> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.map_err(|error| OpenError::File(path.to_owned(), error))
}

/// Locks a file beside the store, because SQLite's own locks last only for a transaction.
fn lock(path: &str) -> Result<File, OpenError> {
    let lock_path = format!("{path}.lock");
    let lock = private(&lock_path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::File(lock_path, error)),
    }
}

async fn check(path: &str, pool: &Pool<Sqlite>) -> Result<(), OpenError> {
    let check = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(pool).await;
    let finding: String = check.map_err(|error| damaged(path, error))?;
    if finding == "ok" { Ok(()) } else { Err(OpenError::Damaged { path: path.to_owned(), finding }) }
}

/// Tells damage from other errors, by [SQLite's result codes](https://www.sqlite.org/rescode.html): corrupt, not a database.
fn damaged(path: &str, error: sqlx::Error) -> OpenError {
    match error {
        sqlx::Error::Database(error) if matches!(error.code().as_deref(), Some("11" | "26")) => {
            OpenError::Damaged { path: path.to_owned(), finding: error.to_string() }
        }
        error => error.into(),
    }
}
