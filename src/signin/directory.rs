//! All records in memory, and whether they are proved to be what the store holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{Mutex, MutexGuard};

use crate::consumer::{ConsumerKey, Fingerprint, Phc, Record};
use crate::store::{Change, Head};

/// The records of a store. Answers count only while it [is current](Self::is_current).
pub struct Directory {
    entries: RwLock<HashMap<ConsumerKey, Held>>,
    max_staleness: Duration,
    epoch: Instant,
    /// Nanoseconds from `epoch` to the last proof; 0 while there is none. On the monotonic clock: nobody can set it back.
    proved: AtomicU64,
    doubt: RwLock<String>,
    standing: RwLock<Standing>,
}

/// What is known about the store itself.
#[derive(Default)]
struct Standing {
    /// The first head of the latest epoch that was seen.
    seen: Option<Head>,
    /// Nothing it says counts.
    distrusted: bool,
}

/// What a sign-in needs to know of a record.
pub struct Entry {
    /// The feed's head at which it was last changed.
    pub sequence: i64,
    /// Whether its controller has verified it.
    pub verified: bool,
    /// Who signs in with the right secret; none if nobody does.
    pub consumer: Option<Consumer>,
    /// The hash of its secret, if it has one.
    pub phc: Option<Phc>,
    /// The secret that is known to fit the hash.
    proven: OnceLock<Fingerprint>,
    /// Hashes for it are computed one after the other.
    turn: Mutex<()>,
    /// Those who wait for their turn or have it.
    waiting: AtomicUsize,
}

/// The turn to have a hash computed for a key.
pub(super) struct Turn<'a> {
    _place: Place<'a>,
    _turn: MutexGuard<'a, ()>,
}

struct Place<'a>(&'a AtomicUsize);

/// Who signed in, as it is said in headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The consumer key.
    pub key: HeaderValue,
    /// The consumer name, percent-encoded.
    pub name: HeaderValue,
    /// The namespace of its object.
    pub namespace: HeaderValue,
}

struct Held {
    entry: Arc<Entry>,
    /// The loading that brought it.
    round: u64,
}

// === impl Directory ===

impl Directory {
    pub(super) fn new(max_staleness: Duration) -> Self {
        Self {
            entries: RwLock::default(),
            max_staleness,
            epoch: Instant::now(),
            proved: AtomicU64::new(0),
            doubt: RwLock::new("not loaded yet".into()),
            standing: RwLock::default(),
        }
    }

    /// Whether it was proved, no longer ago than is allowed, to hold what the store holds.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let proved = self.proved.load(Ordering::Acquire);
        proved > 0 && self.epoch.elapsed().saturating_sub(Duration::from_nanos(proved)) <= self.max_staleness
    }

    /// The same with what is missing, for probes.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        if self.is_current() {
            return Ok(());
        }
        let doubt = self.doubt.read().unwrap_or_else(PoisonError::into_inner).clone();
        Err(if doubt.is_empty() { format!("no proof for more than {:?}", self.max_staleness) } else { doubt })
    }

    /// Records, without tombstones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, key: &ConsumerKey) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(key).map(|held| held.entry.clone())
    }

    /// Whether what a store says at this head may be believed.
    pub(super) fn believes(&self, head: &Head) -> bool {
        head.verified && !self.has_seen_later_than(head) && !self.standing().distrusted
    }

    /// Whether a later epoch of the same store has been seen.
    pub(super) fn has_seen_later_than(&self, head: &Head) -> bool {
        self.standing().seen.as_ref().is_some_and(|seen| seen.epoch.is_later_than(&head.epoch))
    }

    /// This epoch of the store has been seen.
    pub(super) fn see(&self, head: &Head) {
        self.standing.write().unwrap_or_else(PoisonError::into_inner).seen = Some(head.clone());
    }

    /// Whether nothing that the store says counts any more. Either way, what is held is not believed before the next proof.
    pub(super) fn distrust(&self, distrusted: bool) {
        self.standing.write().unwrap_or_else(PoisonError::into_inner).distrusted = distrusted;
        self.disprove("reading all records");
    }

    fn standing(&self) -> std::sync::RwLockReadGuard<'_, Standing> {
        self.standing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds is what the store held at some moment after `asked`.
    pub(super) fn prove(&self, asked: Instant) {
        let since = u64::try_from(asked.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        self.proved.store(since.max(1), Ordering::Release);
        self.doubt.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// It is no longer to be believed at all.
    pub(super) fn disprove(&self, why: &str) {
        self.proved.store(0, Ordering::Release);
        self.suspect(why);
    }

    /// It could not be proved just now; the last proof counts until it is too old.
    pub(super) fn suspect(&self, why: &str) {
        why.clone_into(&mut self.doubt.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes in changes. What is known already to be newer stays. What is removed takes no memory: a key that is not here is looked
    /// up in the store.
    pub(super) fn apply(&self, changes: Vec<Change>, round: u64) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let key = change.stored.record.consumer_key.clone();
            let entry = match entries.get(&key) {
                Some(held) if held.entry.sequence > change.sequence => held.entry.clone(),
                _ if change.stored.record.is_removed() => {
                    entries.remove(&key);
                    continue;
                }
                held => Arc::new(Entry::after(held.map(|held| &*held.entry), change)),
            };
            entries.insert(key, Held { entry, round });
        }
    }

    /// Takes in what a look at the store has shown of a key, and answers what is known of it then: so nothing older is answered from
    /// now on. None if it is removed. Only what is held already is changed: another row may be gone by now, and the feed would not
    /// say so again. And what is held stays until the feed has come as far, which may still bring an older version.
    pub(super) fn learn(&self, at: &Head, change: Change) -> Option<Arc<Entry>> {
        let is_removed = change.stored.record.is_removed();
        // Locked before the epoch is looked at, because whatever is loaded from another epoch has other numbers.
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let is_same_epoch = self.standing().seen.as_ref().is_some_and(|seen| seen.epoch == at.epoch);
        let held = entries.get_mut(&change.stored.record.consumer_key).filter(|_| is_same_epoch);
        let Some(held) = held else { return (!is_removed).then(|| Arc::new(Entry::from(change))) };
        if held.entry.sequence > change.sequence {
            return Some(held.entry.clone());
        }
        if (held.entry.sequence, held.entry.verified) != (change.sequence, change.verified) {
            held.entry = Arc::new(Entry::after(Some(&held.entry), change));
        }
        (!is_removed).then(|| held.entry.clone())
    }

    /// Drops everything: it was another epoch of the store.
    pub(super) fn clear(&self) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Drops what this loading did not bring.
    pub(super) fn retain(&self, round: u64) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, held| held.round == round);
        entries.shrink_to_fit();
    }
}

// === impl Entry ===

impl Entry {
    /// Who signs in, if one of these secrets is known to fit.
    pub(super) fn opens_to(&self, presented: &[Fingerprint]) -> Option<&Consumer> {
        let fits = presented.iter().any(|fingerprint| self.remembers(*fingerprint));
        self.consumer.as_ref().filter(|_| self.verified && fits)
    }

    /// Waits for the turn to have a hash computed for this key. None if so many wait already.
    pub(super) async fn turn(&self, most: usize) -> Option<Turn<'_>> {
        let is_free = self.waiting.fetch_add(1, Ordering::Relaxed) < most;
        let place = Place(&self.waiting);
        if !is_free {
            return None;
        }
        Some(Turn { _turn: self.turn.lock().await, _place: place })
    }

    /// Whether this secret is known to fit the hash.
    pub(super) fn remembers(&self, fingerprint: Fingerprint) -> bool {
        self.proven.get() == Some(&fingerprint)
    }

    /// This secret fits the hash.
    pub(super) fn remember(&self, fingerprint: Fingerprint) {
        // A hash has one secret: what is there already is the same.
        let _ = self.proven.set(fingerprint);
    }

    /// A record, with what is remembered of it: a secret that fits a hash fits it in the next version of the record, too.
    fn after(before: Option<&Self>, change: Change) -> Self {
        let entry = Self::from(change);
        if let Some(fingerprint) = before.filter(|before| before.phc == entry.phc).and_then(|before| before.proven.get()) {
            entry.remember(*fingerprint);
        }
        entry
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<Change> for Entry {
    fn from(Change { sequence, stored, verified }: Change) -> Self {
        // Nobody is told about anybody who may not sign in.
        let consumer = if stored.allows_signin() { Consumer::of(&stored.record) } else { None };
        let phc = stored.record.phc().cloned();
        Self { sequence, verified, consumer, phc, proven: OnceLock::new(), turn: Mutex::new(()), waiting: AtomicUsize::new(0) }
    }
}

// === impl Consumer ===

impl Consumer {
    /// None for what no header can say, which is not to be had from the schema: half an answer would be worse than none.
    fn of(record: &Record) -> Option<Self> {
        // Names are any text; keys and namespaces are plain ASCII already.
        let name = utf8_percent_encode(&record.name, NON_ALPHANUMERIC).to_string();
        Some(Self {
            key: HeaderValue::from_str(record.consumer_key.as_str()).ok()?,
            name: HeaderValue::from_str(&name).ok()?,
            namespace: HeaderValue::from_str(&record.namespace).ok()?,
        })
    }
}
