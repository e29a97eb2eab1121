//! May this consumer sign in? Memory says yes at once to whom it knows; anybody else costs a look at the store and a hash.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::directory::Entry;
use super::follow::{FORMER_PRIMARY, Follower};
use super::limits::{Buckets, Exhausted, Rate};
use super::{Caller, Consumer, Credentials, Directory, Settings};
use crate::consumer::{ConsumerKey, Fingerprint, FingerprintKey, Phc, Record, SecretOutcome, SecretValue};
use crate::hashing::{HashError, HashPool};
use crate::store::{Change, ConsumerStore, Replaces, StoreError, now};
use crate::telemetry::Metrics;

/// Hashes that may wait per thread: together they take less than two seconds.
const WAITING_PER_THREAD: usize = 48;

/// Checks of one key that may wait for their turn: those with the right secret wait for one hash, not for one each, and
/// guesses at one key do not take the turns of all others.
const WAITING_PER_KEY: usize = 64;

/// How long a check may wait for its turn among those of one key.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at the store for what memory does not accept, a second.
const LOOKS: Rate = Rate { burst: 200, refill: 200 };

/// Checks credentials against the store's records.
pub struct Verifier {
    /// Empty until the store could be opened.
    store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
    directory: Arc<Directory>,
    settings: Settings,
    metrics: Arc<Metrics>,
    hashing: HashPool,
    /// Hashes that wait or are being computed.
    waiting: Semaphore,
    fingerprints: FingerprintKey,
    misses_by_caller: Buckets<Caller>,
    misses_by_key: Buckets<(Caller, ConsumerKey)>,
    looks: Buckets<()>,
    /// The hash that is checked where a consumer has none, so that its refusal takes as long as any other.
    decoy: Phc,
}

/// The answer to a check.
pub enum Verdict {
    /// An approved consumer with the right secret.
    Allowed(Consumer),
    /// Anybody else. Why is nobody's business.
    Refused,
    /// The caller has had too many misses; how long until the next check.
    Limited(Duration),
    /// Nobody can tell now.
    Unavailable,
}

/// Why nobody can tell.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("the store is not open yet")]
    NotOpen,
    #[error("waiting for a controller to compare all records with their objects")]
    NotCompared,
    #[error("the store cannot be asked: {}", FORMER_PRIMARY)]
    FormerPrimary,
    #[error("the store took longer to answer than --max-staleness")]
    Late,
    #[error("too many hashes wait already")]
    Busy,
    #[error("too many misses")]
    Limited(Exhausted),
    #[error("its hash has changed while it was compared; the next attempt sees the new one")]
    Rotated,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Hash(#[from] HashError),
}

// === impl CheckError ===

impl From<Exhausted> for CheckError {
    fn from(exhausted: Exhausted) -> Self {
        Self::Limited(exhausted)
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier over this store, once there is one. It has to [follow](Self::follow) the store to be fast.
    ///
    /// # Errors
    /// When the decoy cannot be hashed.
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
            looks: Buckets::new(LOOKS),
            waiting: Semaphore::new(hashing.threads() * WAITING_PER_THREAD),
            fingerprints: FingerprintKey::new(rand::random()),
            store,
            settings,
            metrics,
            hashing,
        })
    }

    /// The proxies that say for whom they ask.
    pub(super) fn trusted_proxies(&self) -> &[IpNet] {
        &self.settings.trusted_proxies
    }

    /// The records in memory.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// The caller behind a connection from `peer`.
    #[must_use]
    pub fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> Caller {
        Caller::of(peer, headers, &self.settings.trusted_proxies)
    }

    /// Keeps the records in memory current, until told to stop.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let follower = Follower::new(self.directory.clone(), self.metrics.clone());
        follower.run(self.store.clone(), self.settings.max_staleness, shutdown).await;
    }

    /// Checks credentials. A failure to find out is never a yes, and never a no.
    ///
    /// But for secrets that are known to be right, a key that was issued costs one hash, whatever the answer, so that time
    /// does not tell a disapproved consumer from a wrong secret. A key that never was, or whose consumer is removed, is refused at
    /// once: keys are too long to guess.
    pub async fn check(&self, credentials: Credentials, caller: Caller) -> Verdict {
        let presented: Vec<_> = credentials.secrets.iter().map(|secret| self.fingerprints.of(secret)).collect();
        // In this order: what is got after the proof is what was proved, or newer.
        let is_current = self.directory.is_current();
        let entry = self.directory.get(&credentials.key);
        let known = entry.as_ref().and_then(|entry| entry.opens_to(&presented));
        if let Some(consumer) = known.filter(|_| is_current) {
            return Verdict::Allowed(consumer.clone());
        }
        // Whoever has the right secret does not guess, also when it has to be asked whether it still signs in.
        if known.is_none()
            && let Err(Exhausted(pause)) = self.misses_by_caller.check(&caller)
        {
            return Verdict::Limited(pause);
        }
        self.find(credentials, &presented, caller).await.unwrap_or_else(|error| match error {
            CheckError::Limited(Exhausted(pause)) => Verdict::Limited(pause),
            error => {
                debug!(%error, "a sign-in could not be checked");
                Verdict::Unavailable
            }
        })
    }

    async fn find(&self, credentials: Credentials, presented: &[Fingerprint], caller: Caller) -> Result<Verdict, CheckError> {
        let Some(mut entry) = self.look(&credentials.key).await? else {
            self.misses_by_caller.take(caller)?;
            return Ok(Verdict::Refused);
        };
        if let Some(consumer) = entry.opens_to(presented) {
            return Ok(Verdict::Allowed(consumer.clone()));
        }
        let by_key = (caller, credentials.key.clone());
        self.misses_by_key.check(&by_key)?;
        let queue = entry.clone();
        let turn = timeout(PATIENCE, queue.turn(WAITING_PER_KEY)).await;
        let _turn = turn.ok().flatten().ok_or(CheckError::Busy)?;
        // Meanwhile another check may have been faster with the same secret, or the consumer was disapproved.
        let Some(now) = self.look_again(&credentials.key, &entry).await? else {
            self.misses_by_caller.take(caller)?;
            return Ok(Verdict::Refused);
        };
        entry = now;
        if let Some(consumer) = entry.opens_to(presented) {
            return Ok(Verdict::Allowed(consumer.clone()));
        }
        if !entry.verified {
            return Err(CheckError::NotCompared);
        }

        self.misses_by_caller.take(caller)?;
        let verdict = match self.misses_by_key.take(by_key.clone()) {
            Ok(()) => self.hash(credentials, presented, entry).await,
            Err(exhausted) => Err(exhausted.into()),
        };
        if !matches!(verdict, Ok(Verdict::Refused)) {
            self.misses_by_caller.give_back(&caller);
        }
        if !matches!(verdict, Ok(Verdict::Refused) | Err(CheckError::Limited(_))) {
            self.misses_by_key.give_back(&by_key);
        }
        verdict
    }

    async fn hash(&self, credentials: Credentials, presented: &[Fingerprint], entry: Arc<Entry>) -> Result<Verdict, CheckError> {
        let Ok(_place) = self.waiting.try_acquire() else { return Err(CheckError::Busy) };
        let phc = entry.phc.as_ref().unwrap_or(&self.decoy).clone();
        let fitting = self.hashing.verify(phc, credentials.secrets.clone()).await?;
        self.metrics.signin_hashes.inc();
        let Some(reading) = fitting.filter(|_| entry.consumer.is_some()) else {
            let is_rotated =
                self.directory.get(&credentials.key).is_some_and(|now| now.sequence > entry.sequence && now.phc != entry.phc);
            return if is_rotated { Err(CheckError::Rotated) } else { Ok(Verdict::Refused) };
        };
        // The hash may have waited for others; meanwhile the consumer may have been disapproved or removed.
        let Some(now) = self.look_again(&credentials.key, &entry).await? else { return Ok(Verdict::Refused) };
        if !now.verified {
            return Err(CheckError::NotCompared);
        }
        let Some(consumer) = now.consumer.clone() else { return Ok(Verdict::Refused) };
        if now.phc != entry.phc {
            return Err(CheckError::Rotated);
        }
        if let Some(fingerprint) = presented.get(reading) {
            now.remember(*fingerprint);
        }
        self.renew(&now, credentials, reading);
        Ok(Verdict::Allowed(consumer))
    }

    /// What is known now of a key that was in this state before.
    async fn look_again(&self, key: &ConsumerKey, before: &Entry) -> Result<Option<Arc<Entry>>, CheckError> {
        let is_current = self.directory.is_current();
        match self.directory.get(key).filter(|now| is_current && now.sequence >= before.sequence) {
            Some(now) => Ok(Some(now)),
            None => self.look_at_store(key).await,
        }
    }

    /// What is known of a key. The store is asked, so that a fresh approval works everywhere at once; but not without
    /// end, as long as memory can answer.
    async fn look(&self, key: &ConsumerKey) -> Result<Option<Arc<Entry>>, CheckError> {
        if self.directory.is_current() && self.looks.take(()).is_err() {
            let entry = self.directory.get(key);
            if entry.is_some() || self.directory.is_current() {
                return Ok(entry);
            }
        }
        self.look_at_store(key).await
    }

    async fn look_at_store(&self, key: &ConsumerKey) -> Result<Option<Arc<Entry>>, CheckError> {
        let asked = Instant::now();
        let (head, change) = self.store.get().ok_or(CheckError::NotOpen)?.by_key(key).await?;
        self.metrics.signin_looks.inc();
        // As with memory: an answer is as old as its question.
        if asked.elapsed() > self.settings.max_staleness {
            return Err(CheckError::Late);
        }
        if self.directory.has_seen_later_than(&head) {
            return Err(CheckError::FormerPrimary);
        }
        if !self.directory.believes(&head) {
            return Err(CheckError::NotCompared);
        }
        Ok(change.and_then(|change| self.directory.learn(&head, change)))
    }

    /// Hashes a good secret anew if hashes cost more now than this one did. The hash is swapped, so that nothing is lost that
    /// was written meanwhile; where the check may not write to the store, it stays as it is.
    fn renew(&self, entry: &Entry, credentials: Credentials, reading: usize) {
        let is_cheap = entry.phc.as_ref().is_some_and(|phc| phc.costs_less_than(self.hashing.cost()));
        let (true, Some(store)) = (is_cheap, self.store.get().cloned()) else { return };
        let (hashing, phc, Some(secret)) =
            (self.hashing.clone(), entry.phc.clone(), credentials.secrets.into_iter().nth(reading))
        else {
            return;
        };
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
    let renewed = hashing.renew(None, secret).await?;
    let record = Record { secret: SecretOutcome::Accepted(renewed), ..stored.record };
    match store.write(record, Replaces::Version(stored.version), now()).await {
        Err(StoreError::Conflict) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
