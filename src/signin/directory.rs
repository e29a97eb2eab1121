//! All records in memory, and whether they can be trusted.
//!
//! One lock protects both, so that records and trust always belong together. Only the follower changes the trust. A lookup in the
//! store may only update a record.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use parking_lot::{RwLock, RwLockUpgradableReadGuard};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

use crate::consumer::{ConsumerKey, Fingerprint, Phc, Record};
use crate::hashing::KnownHash;
use crate::store::{Change, Head};

/// The most checks of one key that wait for a hash. Checks with the right secret wait for one hash together. Guesses at one key
/// take no places of other keys.
const QUEUE_PER_KEY: usize = 64;

/// The records of a store. They count only while they [are current](Self::is_current).
pub struct Directory {
    state: RwLock<State>,
    max_staleness: Duration,
}

struct State {
    entries: HashMap<ConsumerKey, Held>,
    trust: Trust,
    /// The head of the feed that the follower saw last.
    seen: Option<Head>,
    /// Why the follower's last read failed.
    failure: Option<String>,
    /// Counts the loads of all records.
    load_id: u64,
    is_loading: bool,
}

/// What is trusted.
#[derive(Clone, Copy)]
enum Trust {
    /// Lookups in the store. Memory is not, because all records have to be read first.
    Loading,
    /// Nothing: no installation has verified its records in this epoch. A lookup shows the same.
    Unverified,
    /// Nothing: the feed went back within its epoch. Lookups count again after a verification later than `last_verification`.
    GoneBack { last_verification: i64 },
    /// Memory, for a while: at a moment after `at` it was equal to the store. The clock is monotonic, so it cannot be set back.
    Fresh { at: Instant },
}

/// Why an answer of the store does not count.
#[derive(Debug, thiserror::Error)]
pub(super) enum Distrusted {
    /// Cause: the store's URL leads to a server that was replaced by a failover.
    /// Next step: let the URL lead to the primary. After a restore to an earlier timeline, restart the process.
    #[error("it is a former primary: a later timeline has been seen; let the store's URL lead to the primary")]
    FormerPrimary,
    /// Cause: the store was restarted, restored or failed over.
    /// Next step: wait. If it lasts, start a controller that reaches the API server.
    #[error("waiting for a controller to compare all records with their objects")]
    Unverified,
}

/// What to read next from the feed.
pub(super) enum Feed {
    /// The changes after the last one.
    Continues,
    /// All records again.
    Reload,
    /// All records again: the feed went back within its epoch.
    WentBack,
    /// All records again: a new epoch has begun.
    NewEpoch,
}

/// The part of a record that a sign-in needs.
pub(super) struct Entry {
    /// The sequence of its last change.
    pub(super) sequence: i64,
    /// Whether its installation has verified it.
    pub(super) verified: bool,
    /// The consumer that signs in with the right secret. None unless the record allows it.
    pub(super) consumer: Option<Consumer>,
    hash: Option<KnownHash>,
    /// Created when it is needed: most records have none, and a queue takes 80 bytes.
    queue: OnceLock<Box<Queue>>,
}

/// The checks of one key that need a hash. They run one at a time.
struct Queue {
    places: Semaphore,
    turn: Mutex<()>,
}

/// The consumer that signed in, as values of headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    pub key: HeaderValue,
    /// The consumer name, percent-encoded.
    pub name: HeaderValue,
    pub namespace: HeaderValue,
}

struct Held {
    entry: Arc<Entry>,
    /// The last load that contained it.
    load_id: u64,
}

// === impl Directory ===

impl Directory {
    pub(super) fn new(max_staleness: Duration) -> Self {
        let (entries, trust) = (HashMap::new(), Trust::Loading);
        let state = State { entries, trust, seen: None, failure: None, load_id: 0, is_loading: true };
        Self { state: RwLock::new(state), max_staleness }
    }

    /// Whether memory was equal to the store no longer than `--max-staleness` ago.
    pub fn is_current(&self) -> bool {
        self.state.read().trust.is_fresh(self.max_staleness)
    }

    /// The same for probes, with what is missing.
    pub fn check(&self) -> Result<(), String> {
        let state = self.state.read();
        match (&state.failure, state.trust) {
            (_, trust) if trust.is_fresh(self.max_staleness) => Ok(()),
            (Some(failure), _) => Err(failure.clone()),
            (_, Trust::Loading) => Err("reading all records".into()),
            (_, Trust::Unverified | Trust::GoneBack { .. }) => Err(Distrusted::Unverified.to_string()),
            (_, Trust::Fresh { .. }) => Err(format!("not confirmed by the store for more than {:?}", self.max_staleness)),
        }
    }

    /// Records, without tombstones.
    pub fn len(&self) -> usize {
        self.state.read().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What memory holds of a key, and whether memory is current.
    pub(super) fn get(&self, key: &ConsumerKey) -> (Option<Arc<Entry>>, bool) {
        let state = self.state.read();
        let (entry, trust) = (state.entries.get(key).map(|held| held.entry.clone()), state.trust);
        drop(state);
        (entry, trust.is_fresh(self.max_staleness))
    }

    /// Updates a record from a lookup in the store, so that no later answer is older. Returns what is known of the key then. None
    /// if it is removed.
    ///
    /// Only a record in memory is updated: another one may be deleted by now, and the feed would not report that again. A removed
    /// record stays until the feed reaches it, because the feed may still bring an older version.
    pub(super) fn learn(&self, at: &Head, change: Option<Change>) -> Result<Option<Arc<Entry>>, Distrusted> {
        let mut state = self.state.write();
        if state.has_seen_later_than(at) {
            return Err(Distrusted::FormerPrimary);
        }
        if !at.verified || matches!(state.trust, Trust::GoneBack { .. }) {
            return Err(Distrusted::Unverified);
        }
        let Some(change) = change else { return Ok(None) };
        let is_removed = change.stored.record.is_removed();
        // Sequences of different epochs cannot be compared.
        let is_same_epoch = state.seen.as_ref().is_some_and(|seen| seen.epoch == at.epoch);
        let held = state.entries.get_mut(&change.stored.record.consumer_key).filter(|_| is_same_epoch);
        let Some(held) = held else { return Ok((!is_removed).then(|| Arc::new(Entry::new(change, None)))) };
        if held.entry.sequence > change.sequence {
            return Ok(Some(held.entry.clone()));
        }
        if (held.entry.sequence, held.entry.verified) != (change.sequence, change.verified) {
            held.entry = Arc::new(Entry::new(change, Some(&held.entry)));
        }
        Ok((!is_removed).then(|| held.entry.clone()))
    }

    /// Updates the head of the feed. All changes up to `applied` are in memory.
    pub(super) fn advance(&self, head: &Head, applied: i64) -> Result<Feed, Distrusted> {
        let state = self.state.upgradable_read();
        if state.seen.as_ref() == Some(head) && state.failure.is_none() {
            return Ok(Feed::Continues); // The usual case. It needs no write lock, so checks do not wait.
        }
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        if state.has_seen_later_than(head) {
            return Err(Distrusted::FormerPrimary);
        }
        state.failure = None;
        let Some(seen) = state.seen.replace(head.clone()) else { return Ok(Feed::Continues) };
        let feed = if seen.epoch != head.epoch {
            state.entries.clear();
            state.trust = Trust::Loading;
            Feed::NewEpoch
        } else if head.sequence < seen.sequence {
            state.entries.clear();
            state.trust = Trust::GoneBack { last_verification: head.last_verification };
            Feed::WentBack
        } else if matches!(state.trust, Trust::GoneBack { last_verification } if head.last_verification > last_verification) {
            state.trust = Trust::Loading;
            Feed::Reload
        } else if head.reload != seen.reload && head.reload > applied {
            Feed::Reload
        } else {
            return Ok(Feed::Continues);
        };
        state.load_id += 1;
        state.is_loading = true;
        Ok(feed)
    }

    /// Applies changes from the feed. A newer version in memory stays. Removed records are dropped: a key that is not in memory
    /// is looked up in the store.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.state.write();
        let load_id = state.load_id;
        for change in changes {
            let key = change.stored.record.consumer_key.clone();
            let entry = match state.entries.get(&key) {
                Some(held) if held.entry.sequence > change.sequence => held.entry.clone(),
                _ if change.stored.record.is_removed() => {
                    state.entries.remove(&key);
                    continue;
                }
                held => Arc::new(Entry::new(change, held.map(|held| &*held.entry))),
            };
            state.entries.insert(key, Held { entry, load_id });
        }
    }

    /// Call this when all changes up to this head are applied; its read began at `asked`. Returns whether that ended a load.
    pub(super) fn finish(&self, head: &Head, asked: Instant) -> bool {
        let mut state = self.state.write();
        let State { entries, is_loading, load_id, trust, .. } = &mut *state;
        let has_loaded = std::mem::take(is_loading);
        if has_loaded {
            // A record that the load did not contain is gone from the store.
            entries.retain(|_, held| held.load_id == *load_id);
            entries.shrink_to_fit();
        }
        *trust = match trust {
            Trust::GoneBack { .. } => return has_loaded,
            _ if head.verified => Trust::Fresh { at: asked },
            _ => Trust::Unverified,
        };
        has_loaded
    }

    /// Call this when the follower's read failed. Memory stays fresh until it is too old.
    pub(super) fn fail(&self, why: String) {
        self.state.write().failure = Some(why);
    }
}

// === impl State ===

impl State {
    fn has_seen_later_than(&self, head: &Head) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.epoch.is_later_than(&head.epoch))
    }
}

// === impl Trust ===

impl Trust {
    fn is_fresh(self, max_staleness: Duration) -> bool {
        matches!(self, Self::Fresh { at } if at.elapsed() <= max_staleness)
    }
}

// === impl Entry ===

impl Entry {
    /// An entry that keeps the known secret of the entry before, if the hash is the same.
    fn new(change: Change, before: Option<&Self>) -> Self {
        let Change { sequence, stored, verified } = change;
        let known = before.and_then(|before| before.hash.as_ref());
        let hash = stored.record.phc().map(|phc| match known {
            Some(known) if known.phc() == phc => known.clone(),
            _ => KnownHash::from(phc.clone()),
        });
        // Only consumers that may sign in need headers.
        let consumer = if stored.allows_signin() { Consumer::of(&stored.record) } else { None };
        Self { sequence, verified, consumer, hash, queue: OnceLock::new() }
    }

    /// The consumer, if it may sign in and one of these secrets is known to be its own.
    pub(super) fn allows_signin(&self, presented: &[Fingerprint]) -> Option<&Consumer> {
        let fits = self.hash.as_ref().is_some_and(|hash| presented.iter().any(|secret| hash.is_known_to_fit(*secret)));
        self.consumer.as_ref().filter(|_| self.verified && fits)
    }

    pub(super) fn phc(&self) -> Option<&Phc> {
        self.hash.as_ref().map(KnownHash::phc)
    }

    pub(super) fn remember(&self, secret: Fingerprint) {
        if let Some(hash) = &self.hash {
            hash.remember(secret);
        }
    }

    /// Waits until a hash may be computed for this key. None if too many checks wait already.
    pub(super) async fn turn(&self) -> Option<(SemaphorePermit<'_>, MutexGuard<'_, ()>)> {
        let queue = self.queue.get_or_init(|| Box::new(Queue { places: Semaphore::new(QUEUE_PER_KEY), turn: Mutex::default() }));
        let place = queue.places.try_acquire().ok()?;
        Some((place, queue.turn.lock().await))
    }
}

// === impl Consumer ===

impl Consumer {
    /// None if a value does not fit into a header, which the schema rules out. An answer with a missing header would be wrong.
    fn of(record: &Record) -> Option<Self> {
        // A name may be any text. Keys and namespaces are ASCII.
        let name = utf8_percent_encode(&record.profile.name, NON_ALPHANUMERIC).to_string();
        Some(Self {
            key: HeaderValue::from_str(record.consumer_key.as_str()).ok()?,
            name: HeaderValue::from_str(&name).ok()?,
            namespace: HeaderValue::from_str(&record.namespace).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Epoch;

    fn head(epoch: &str, sequence: i64, last_verification: i64) -> Head {
        let epoch = Epoch { id: epoch.into(), ..Epoch::default() };
        Head { sequence, reload: last_verification, last_verification, epoch, verified: last_verification > 0 }
    }

    /// Follows the feed to this head. Returns whether memory and lookups count then.
    fn follow(directory: &Directory, to: &Head) -> (bool, bool) {
        while !matches!(directory.advance(to, 0).unwrap(), Feed::Continues) {}
        directory.finish(to, Instant::now());
        (directory.is_current(), directory.learn(to, None).is_ok())
    }

    #[test]
    fn memory_and_lookups_count_when_a_controller_has_verified_the_records() {
        let directory = Directory::new(Duration::from_mins(1));
        assert!(!directory.is_current(), "nothing was read");
        assert_eq!(follow(&directory, &head("first", 5, 0)), (false, false));
        assert_eq!(follow(&directory, &head("first", 6, 6)), (true, true));
        assert_eq!(follow(&directory, &head("second", 7, 0)), (false, false));
        assert!(directory.learn(&head("second", 8, 8), None).is_ok(), "a lookup may know it before memory does");
        assert_eq!(follow(&directory, &head("second", 8, 8)), (true, true));
    }

    #[test]
    fn a_store_that_went_back_counts_after_a_new_verification() {
        let directory = Directory::new(Duration::from_mins(1));
        let before = head("first", 9, 8);
        assert_eq!(follow(&directory, &before), (true, true));
        assert_eq!(follow(&directory, &head("first", 4, 3)), (false, false));
        assert!(directory.learn(&before, None).is_err(), "a lookup from before does not count either");
        assert_eq!(follow(&directory, &head("first", 5, 3)), (false, false), "a change is no verification");
        assert_eq!(follow(&directory, &head("first", 6, 6)), (true, true));
    }

    #[test]
    fn memory_is_current_only_within_its_max_staleness() {
        let directory = Directory::new(Duration::ZERO);
        assert_eq!(follow(&directory, &head("first", 1, 1)), (false, true));
        assert!(directory.check().is_err_and(|why| why.contains("not confirmed")));
        directory.fail("no answer".into());
        assert_eq!(directory.check(), Err("no answer".into()));
    }
}
