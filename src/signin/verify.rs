//! Checks credentials. Memory allows a known secret at once. All others cost a lookup in the store and a hash.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::directory::{Distrusted, Entry};
use super::follow::Follower;
use super::limits::{Buckets, Exhausted, Rate};
use super::{Caller, Consumer, Credentials, Directory, Settings};
use crate::consumer::{ConsumerKey, Fingerprint, FingerprintKey, Phc, SecretValue};
use crate::hashing::{HashError, HashPool};
use crate::store::{Change, ConsumerStore, Replaces, StoreError, now};
use crate::telemetry::Metrics;

/// Hashes that may wait per thread: together they take less than two seconds.
const QUEUE_PER_THREAD: usize = 48;

/// How long a check may wait for other checks of the same key.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// The rate of lookups in the store, for checks that memory does not allow.
const LOOKUP_RATE: Rate = Rate { burst: 200, refill: 200 };

/// Checks credentials against the store's records.
pub struct Verifier {
    /// Empty until the store is open.
    store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
    directory: Arc<Directory>,
    settings: Settings,
    metrics: Arc<Metrics>,
    hashing: HashPool,
    /// Hashes that wait or are being computed.
    queue: Semaphore,
    fingerprints: FingerprintKey,
    misses_by_caller: Buckets<Caller>,
    misses_by_key: Buckets<(Caller, ConsumerKey)>,
    lookups: Buckets<()>,
    /// The hash that is checked where a consumer has none, so that its refusal takes as long as any other.
    decoy: Phc,
}

/// The answer to a check.
pub enum CheckResult {
    /// An approved consumer with the right secret.
    Allowed(Consumer),
    /// All others. The answer does not say why.
    Refused,
    /// The caller has had too many misses; how long until the next check.
    Limited(Duration),
    Unavailable,
}

/// Why a check has no result.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("the store is not open yet")]
    NotOpen,
    #[error("the store does not count: {0}")]
    Distrusted(#[from] Distrusted),
    #[error("the store took longer to answer than --max-staleness")]
    Late,
    #[error("too many hashes wait already")]
    Busy,
    #[error(transparent)]
    Limited(#[from] Exhausted),
    #[error("its hash has changed while it was compared; the next attempt sees the new one")]
    Rotated,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Hash(#[from] HashError),
}

// === impl Verifier ===

impl Verifier {
    /// A verifier for this store, which may be opened later. Run [`follow`](Self::follow), or each check costs a lookup.
    ///
    /// # Errors
    /// If the decoy cannot be hashed.
    pub async fn new(
        store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
        settings: Settings,
        hashing: HashPool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, HashError> {
        Ok(Self {
            decoy: hashing.decoy().await?,
            directory: Arc::new(Directory::new(settings.max_staleness)),
            misses_by_caller: Buckets::new(settings.misses_by_caller),
            misses_by_key: Buckets::new(settings.misses_by_key),
            lookups: Buckets::new(LOOKUP_RATE),
            queue: Semaphore::new(hashing.threads() * QUEUE_PER_THREAD),
            fingerprints: FingerprintKey::new(rand::random()),
            store,
            settings,
            metrics,
            hashing,
        })
    }

    pub(super) fn trusted_proxies(&self) -> &[IpNet] {
        &self.settings.trusted_proxies
    }

    pub fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// The caller behind a connection from `peer`.
    pub fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> Caller {
        Caller::of(peer, headers, &self.settings.trusted_proxies)
    }

    /// Keeps the records in memory current.
    pub async fn follow(&self) {
        let follower = Follower::new(self.directory.clone(), self.metrics.clone());
        follower.run(self.store.clone(), self.settings.max_staleness).await;
    }

    /// Checks credentials. A check that fails neither allows nor refuses: it is [`CheckResult::Unavailable`].
    ///
    /// Unless the secret is known to be right, a check of an issued key costs one hash. So the time does not tell a disapproved
    /// consumer from a wrong secret. An unknown key, or one of a removed consumer, is refused at once: keys are too long to
    /// guess.
    pub async fn check(&self, credentials: Credentials, caller: Caller) -> CheckResult {
        let presented: Vec<_> = credentials.secrets.iter().map(|secret| self.fingerprints.of(secret)).collect();
        let (entry, is_current) = self.directory.get(&credentials.key);
        let known = entry.as_ref().and_then(|entry| entry.allows_signin(&presented));
        if let Some(consumer) = known.filter(|_| is_current) {
            return CheckResult::Allowed(consumer.clone());
        }
        // A known secret is no guess, even if the store has to confirm that its consumer may still sign in.
        if known.is_none()
            && let Err(Exhausted(pause)) = self.misses_by_caller.check(&caller)
        {
            return CheckResult::Limited(pause);
        }
        self.check_in_store(credentials, &presented, caller).await.unwrap_or_else(|error| match error {
            CheckError::Limited(Exhausted(pause)) => CheckResult::Limited(pause),
            error => {
                debug!(%error, "a sign-in could not be checked");
                CheckResult::Unavailable
            }
        })
    }

    /// A check that memory does not allow: a lookup, a wait for other checks of the key, and a hash.
    async fn check_in_store(
        &self,
        credentials: Credentials,
        presented: &[Fingerprint],
        caller: Caller,
    ) -> Result<CheckResult, CheckError> {
        let Some(entry) = self.lookup(&credentials.key).await? else { return self.refuse_unknown(caller) };
        if let Some(consumer) = entry.allows_signin(presented) {
            return Ok(CheckResult::Allowed(consumer.clone()));
        }
        let by_key = (caller, credentials.key.clone());
        self.misses_by_key.check(&by_key)?;
        let _turn = timeout(TURN_TIMEOUT, entry.turn()).await.ok().flatten().ok_or(CheckError::Busy)?;
        // Meanwhile another check may have been faster with the same secret, or the consumer was disapproved.
        let Some(entry) = self.lookup_again(&credentials.key, &entry).await? else { return self.refuse_unknown(caller) };
        if let Some(consumer) = entry.allows_signin(presented) {
            return Ok(CheckResult::Allowed(consumer.clone()));
        }
        if !entry.verified {
            return Err(Distrusted::Unverified.into());
        }

        let by_caller = self.misses_by_caller.reserve(caller)?;
        let by_key = match self.misses_by_key.reserve(by_key) {
            Ok(by_key) => by_key,
            Err(exhausted) => {
                by_caller.forgive();
                return Err(exhausted.into());
            }
        };
        let result = self.hash(credentials, presented, entry).await;
        if !matches!(result, Ok(CheckResult::Refused)) {
            by_caller.forgive();
            by_key.forgive();
        }
        result
    }

    fn refuse_unknown(&self, caller: Caller) -> Result<CheckResult, CheckError> {
        self.misses_by_caller.reserve(caller)?;
        Ok(CheckResult::Refused)
    }

    /// The entry of a key, from the store, so that a new approval works everywhere at once. Above the rate of lookups it comes
    /// from memory, while memory is current.
    async fn lookup(&self, key: &ConsumerKey) -> Result<Option<Arc<Entry>>, CheckError> {
        let (entry, is_current) = self.directory.get(key);
        if is_current && self.lookups.reserve(()).is_err() {
            return Ok(entry);
        }
        self.lookup_in_store(key).await
    }

    /// The entry of a key now, no older than `before`.
    async fn lookup_again(&self, key: &ConsumerKey, before: &Entry) -> Result<Option<Arc<Entry>>, CheckError> {
        match self.directory.get(key) {
            (Some(now), true) if now.sequence >= before.sequence => Ok(Some(now)),
            _ => self.lookup_in_store(key).await,
        }
    }

    async fn lookup_in_store(&self, key: &ConsumerKey) -> Result<Option<Arc<Entry>>, CheckError> {
        let asked = Instant::now();
        let (head, change) = self.store.get().ok_or(CheckError::NotOpen)?.by_key(key).await?;
        self.metrics.store_lookups.inc();
        // As with memory: an answer may be as old as its question.
        if asked.elapsed() > self.settings.max_staleness {
            return Err(CheckError::Late);
        }
        Ok(self.directory.learn(&head, change)?)
    }

    /// Compares the secret with the hash, and then checks again whether the consumer may sign in.
    async fn hash(
        &self,
        credentials: Credentials,
        presented: &[Fingerprint],
        entry: Arc<Entry>,
    ) -> Result<CheckResult, CheckError> {
        let Ok(_place) = self.queue.try_acquire() else { return Err(CheckError::Busy) };
        let phc = entry.phc().unwrap_or(&self.decoy).clone();
        let fitting = self.hashing.verify(phc, credentials.secrets.clone()).await?;
        self.metrics.signin_hashes.inc();
        let Some(reading) = fitting.filter(|_| entry.consumer.is_some()) else {
            let (now, _) = self.directory.get(&credentials.key);
            let is_rotated = now.is_some_and(|now| now.sequence > entry.sequence && now.phc() != entry.phc());
            return if is_rotated { Err(CheckError::Rotated) } else { Ok(CheckResult::Refused) };
        };
        // The hash may have waited for others; meanwhile the consumer may have been disapproved or removed.
        let Some(now) = self.lookup_again(&credentials.key, &entry).await? else { return Ok(CheckResult::Refused) };
        if !now.verified {
            return Err(Distrusted::Unverified.into());
        }
        let Some(consumer) = now.consumer.clone() else { return Ok(CheckResult::Refused) };
        if now.phc() != entry.phc() {
            return Err(CheckError::Rotated);
        }
        if let Some(fingerprint) = presented.get(reading) {
            now.remember(*fingerprint);
        }
        self.renew(&now, credentials, reading);
        Ok(CheckResult::Allowed(consumer))
    }

    /// Replaces a hash that costs less than hashes do now. The write names the version that it replaces, so no other write is
    /// lost. Where the check may not write to the store, the hash stays.
    fn renew(&self, entry: &Entry, credentials: Credentials, reading: usize) {
        let is_cheap = entry.phc().is_some_and(|phc| phc.costs_less_than(self.hashing.cost()));
        let (true, Some(store)) = (is_cheap, self.store.get().cloned()) else { return };
        let (hashing, phc) = (self.hashing.clone(), entry.phc().cloned());
        let Some(secret) = credentials.secrets.into_iter().nth(reading) else { return };
        tokio::spawn(async move {
            let renewed = rewrite(&*store, &hashing, &credentials.key, phc.as_ref(), secret).await;
            renewed.unwrap_or_else(|error| debug!(%error, "a hash could not be renewed"));
        });
    }
}

async fn rewrite(
    store: &dyn ConsumerStore,
    hashing: &HashPool,
    key: &ConsumerKey,
    phc: Option<&Phc>,
    secret: SecretValue,
) -> Result<(), CheckError> {
    let (_, Some(Change { stored, .. })) = store.by_key(key).await? else { return Ok(()) };
    if stored.record.phc() != phc || !stored.allows_signin() {
        return Ok(());
    }
    let (renewed, version) = (hashing.renew(None, secret).await?, Replaces::Version(stored.version));
    match store.write(stored.rehashed(renewed), version, now()).await {
        Err(StoreError::Conflict) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
