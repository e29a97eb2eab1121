//! Stores of a test's own, and one that fails on demand.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use oauthconsumer_operator::consumer::{ConsumerKey, Owner, Record, Stored};
use oauthconsumer_operator::store::{
    self, Access, Change, ConsumerStore, Controller, Epoch, Found, Head, KeepTombstones, OpenRecords, Replaces, StoreError,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::Notify;
use uuid::Uuid;

use super::records::{approved, bury, put, record};

/// An empty store of the test's own.
pub struct TestStore {
    pub url: String,
    pub store: Arc<dyn ConsumerStore>,
    /// Removed with the test.
    pub folder: Option<TempDir>,
}

/// Passes everything on to a real store, unless told otherwise.
pub struct FaultyStore {
    inner: Arc<dyn ConsumerStore>,
    down: AtomicBool,
    /// Commits, and then says that it did not.
    lose_next_reply: AtomicBool,
    /// Owners whose records cannot be read without a panic.
    poison: Mutex<HashSet<String>>,
    /// Owners whose records are never answered.
    stall: Mutex<HashSet<String>>,
    stalled: AtomicUsize,
    feed_stalled: AtomicBool,
    writes: AtomicUsize,
    read_gate: Gate,
    write_gate: Gate,
    check_gate: Gate,
}

/// Holds the next call back until it is released.
#[derive(Default)]
pub struct Gate {
    /// The how manieth call from now is held; 0 means none.
    closed: AtomicUsize,
    reached: Notify,
    released: Notify,
}

pub fn postgres_url() -> String {
    std::env::var("OAUTHCONSUMER_TEST_POSTGRES_URL")
        .expect("tests need PostgreSQL: run `make test`, or `dev/with-control-plane.sh dev/with-postgres.sh cargo test`")
}

// === impl TestStore ===

impl TestStore {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("store.db").display());
        let store = store::open(&url, Access::Controller).await.unwrap();
        Self { url, store, folder: Some(folder) }
    }

    pub async fn postgres() -> Self {
        let server = postgres_url();
        let database = format!("t_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut connection).await.unwrap();
        let url = format!("{}/{database}", server.rsplit_once('/').unwrap().0);
        let store = store::open(&url, Access::Controller).await.unwrap();
        Self { url, store, folder: None }
    }

    /// Writes the record of an approved consumer with this secret; answers its key.
    pub async fn put_approved(&self, uid: &str, secret: &str) -> String {
        let record = approved(uid, secret);
        let key = record.consumer_key.to_string();
        put(&*self.store, record).await;
        key
    }

    /// The same in a store whose records are verified: it can sign in.
    pub async fn serving(&self, uid: &str, secret: &str) -> String {
        self.verify("cluster", "default").await;
        self.put_approved(uid, secret).await
    }

    /// Verifies an installation's records, as its controller does.
    pub async fn verify(&self, cluster_id: &str, installation: &str) {
        let head = self.store.head().await.unwrap();
        self.store.verify(cluster_id, installation, &head.epoch).await.unwrap();
    }

    /// Opens the same store once more, as another process would that only reads.
    pub async fn reader(&self) -> Arc<dyn ConsumerStore> {
        store::open(&self.url, Access::SignIn).await.unwrap()
    }

    /// Runs SQL behind the operator's back.
    pub async fn sql(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        if let Some(path) = self.url.strip_prefix("sqlite://") {
            let mut connection = SqliteConnection::connect(path).await.unwrap();
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
    }

    /// Backs the store up as `docs/how-to/backup.md` says. Answers the file.
    pub async fn back_up(&self) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        if self.url.starts_with("sqlite") {
            std::fs::remove_file(path).unwrap();
            self.sql(&format!("VACUUM INTO '{path}'")).await;
        } else {
            run("pg_dump", &["--clean", "--if-exists", "--file", path, &self.url]);
        }
        file
    }

    /// Puts a backup in the place of what there is, while nobody uses it.
    pub async fn restore(self, backup: NamedTempFile) -> Self {
        self.store.close().await;
        let Self { url, store, folder } = self;
        drop(store);
        if let Some(path) = url.strip_prefix("sqlite://") {
            std::fs::copy(backup.path(), path).unwrap();
        } else {
            let script = backup.path().to_str().unwrap();
            run("psql", &["-q", "--set", "ON_ERROR_STOP=1", "--single-transaction", "--file", script, &url]);
        }
        let store = store::open(&url, Access::Controller).await.unwrap();
        Self { url, store, folder }
    }

    /// One text column of one row.
    pub async fn text(&self, query: &str) -> Option<String> {
        let query = AssertSqlSafe(query.to_owned());
        if let Some(path) = self.url.strip_prefix("sqlite://") {
            let mut connection = SqliteConnection::connect(path).await.unwrap();
            sqlx::query_scalar(query).fetch_optional(&mut connection).await.unwrap()
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(query).fetch_optional(&mut connection).await.unwrap()
        }
    }

    /// Writes so many tombstones behind the operator's back, removed two hours ago.
    pub async fn seed_tombstones(&self, count: u32) {
        bury(&*self.store, record("seed"), 2).await;
        let others = "cluster_id, installation, namespace, object, name, generation, state, secret_problem, secret_floor, reserved, \
                      updated_at, version, checksum";
        let numbers = if self.url.starts_with("sqlite") {
            format!("(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n)")
        } else {
            format!("(SELECT generate_series(1, {count}) AS i)")
        };
        self.sql(&format!(
            "INSERT INTO oauth_consumers (consumer_key, uid, {others}) \
                 SELECT 'seeded-' || i, 'seeded-' || i, {others} FROM oauth_consumers, {numbers} AS numbers WHERE uid = 'seed'"
        ))
        .await;
    }
}

fn run(program: &str, args: &[&str]) {
    let ran = Command::new(program).args(args).output().unwrap();
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

// === impl Gate ===

impl Gate {
    /// Holds the next call.
    pub fn close(&self) {
        self.close_at(1);
    }

    /// Holds the nth call from now.
    pub fn close_at(&self, nth: usize) {
        self.closed.store(nth, Ordering::SeqCst);
    }

    /// Waits until a call is held.
    pub async fn held(&self) {
        self.reached.notified().await;
    }

    /// Lets the held call go on.
    pub fn release(&self) {
        self.released.notify_one();
    }

    async fn pass(&self) {
        let count_down = |left: usize| left.checked_sub(1);
        if self.closed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count_down) == Ok(1) {
            self.reached.notify_one();
            self.released.notified().await;
        }
    }
}

// === impl FaultyStore ===

impl FaultyStore {
    pub fn over(store: &TestStore) -> Arc<Self> {
        Arc::new(Self {
            inner: store.store.clone(),
            down: AtomicBool::new(false),
            lose_next_reply: AtomicBool::new(false),
            poison: Mutex::default(),
            stall: Mutex::default(),
            stalled: AtomicUsize::new(0),
            feed_stalled: AtomicBool::new(false),
            writes: AtomicUsize::new(0),
            read_gate: Gate::default(),
            write_gate: Gate::default(),
            check_gate: Gate::default(),
        })
    }

    /// Takes the store down, or brings it back.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Lets questions for changes go unanswered, or no longer.
    pub fn stall_feed(&self, stalled: bool) {
        self.feed_stalled.store(stalled, Ordering::SeqCst);
    }

    /// Commits the next write and then answers that the store is unavailable.
    pub fn lose_next_reply(&self) {
        self.lose_next_reply.store(true, Ordering::SeqCst);
    }

    /// Panics whenever this object's record is read.
    pub fn poison(&self, uid: &str) {
        self.poison.lock().unwrap().insert(uid.to_owned());
    }

    /// Never answers when this object's record is read.
    pub fn stall(&self, uid: &str) {
        self.stall.lock().unwrap().insert(uid.to_owned());
    }

    /// Readings that were begun and are never answered.
    pub fn stalled(&self) -> usize {
        self.stalled.load(Ordering::SeqCst)
    }

    /// Where the next reading of an object's record can be held.
    pub fn reading(&self) -> &Gate {
        &self.read_gate
    }

    /// Where the next reading by key, as for a sign-in, can be held.
    pub fn checking(&self) -> &Gate {
        &self.check_gate
    }

    /// Where the next write can be held.
    pub fn writing(&self) -> &Gate {
        &self.write_gate
    }

    /// Writes so far.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    fn up(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::SeqCst) { Err(StoreError::Unavailable("taken down by the test".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl ConsumerStore for FaultyStore {
    async fn by_owner(&self, owner: &Owner) -> Result<Found, StoreError> {
        self.up()?;
        self.read_gate.pass().await;
        if self.stall.lock().unwrap().contains(&owner.uid) {
            self.stalled.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        assert!(!self.poison.lock().unwrap().contains(&owner.uid), "a poisoned record, as the test wanted");
        self.inner.by_owner(owner).await
    }

    async fn by_key(&self, key: &ConsumerKey) -> Result<(Head, Option<Change>), StoreError> {
        self.up()?;
        self.check_gate.pass().await;
        self.inner.by_key(key).await
    }

    async fn live(&self, cluster_id: &str) -> Result<Vec<Stored>, StoreError> {
        self.up()?;
        self.inner.live(cluster_id).await
    }

    async fn write(&self, record: Record, replaces: Replaces, now: Timestamp) -> Result<Stored, StoreError> {
        self.up()?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.write_gate.pass().await;
        let result = self.inner.write(record, replaces, now).await;
        if self.lose_next_reply.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the reply was lost, as the test wanted".into()));
        }
        result
    }

    async fn drop_tombstones(&self, cluster_id: &str, keep: &KeepTombstones) -> Result<usize, StoreError> {
        self.up()?;
        self.inner.drop_tombstones(cluster_id, keep).await
    }

    async fn check_in(&self, controller: &Controller, now: Timestamp) -> Result<(), StoreError> {
        self.up()?;
        self.inner.check_in(controller, now).await
    }

    async fn check_out(&self, instance: &str) -> Result<(), StoreError> {
        self.up()?;
        self.inner.check_out(instance).await
    }

    async fn controllers(&self) -> Result<Vec<(Controller, i64)>, StoreError> {
        self.up()?;
        self.inner.controllers().await
    }

    async fn open_records(&self) -> Result<Vec<OpenRecords>, StoreError> {
        self.up()?;
        self.inner.open_records().await
    }

    async fn verify(&self, cluster_id: &str, installation: &str, epoch: &Epoch) -> Result<(), StoreError> {
        self.up()?;
        self.inner.verify(cluster_id, installation, epoch).await
    }

    async fn is_verified(&self, cluster_id: &str, installation: &str) -> Result<bool, StoreError> {
        self.up()?;
        self.inner.is_verified(cluster_id, installation).await
    }

    async fn changes(&self, after: i64, limit: u32) -> Result<(Head, Vec<Change>), StoreError> {
        self.up()?;
        if self.feed_stalled.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.changes(after, limit).await
    }

    async fn changed(&self) {
        self.inner.changed().await;
    }

    fn complaint(&self) -> Option<&'static str> {
        self.inner.complaint()
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.up()?;
        self.inner.head().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
