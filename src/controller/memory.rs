//! What a controller remembers between reconciles. It only saves work, so it may be lost.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;

use crate::consumer::{Fingerprint, Phc};
use crate::hashing::KnownHash;

/// The secret that each hash is known to fit, so that an edit of a Secret's metadata costs no hash.
#[derive(Default)]
pub(super) struct KnownHashes(Mutex<HashMap<String, KnownHash>>);

/// The resource version of our last write of each object: it shows whether the cache is behind.
#[derive(Default)]
pub(super) struct OwnWrites(Mutex<HashMap<String, u128>>);

/// Failures in a row, by object.
pub(super) struct Attempts {
    failures: Mutex<HashMap<String, u32>>,
    longest: Duration,
}

// === impl KnownHashes ===

impl KnownHashes {
    pub(super) fn remember(&self, uid: &str, phc: Phc, of: Fingerprint) {
        let hash = KnownHash::from(phc);
        hash.remember(of);
        self.0.lock().insert(uid.to_owned(), hash);
    }

    pub(super) fn is_known(&self, uid: &str, phc: &Phc, of: Fingerprint) -> bool {
        self.0.lock().get(uid).is_some_and(|known| known.phc() == phc && known.is_known_to_fit(of))
    }

    pub(super) fn retain(&self, uids: &HashSet<String>) {
        self.0.lock().retain(|uid, _| uids.contains(uid));
    }
}

// === impl OwnWrites ===

impl OwnWrites {
    pub(super) fn remember(&self, uid: &str, resource_version: Option<&str>) {
        if let Some(version) = resource_version.and_then(|version| version.parse().ok()) {
            self.0.lock().insert(uid.to_owned(), version);
        }
    }

    /// Whether this version is older than our last write of the object. True only once for a write: after a restore of the
    /// cluster, the older version may be the newest.
    pub(super) fn is_older(&self, uid: &str, resource_version: Option<&str>) -> bool {
        let Some(version) = resource_version.and_then(|version| version.parse::<u128>().ok()) else { return false };
        let mut writes = self.0.lock();
        let older = writes.get(uid).is_some_and(|own| version < *own);
        if older {
            writes.remove(uid);
        }
        older
    }

    pub(super) fn retain(&self, uids: &HashSet<String>) {
        self.0.lock().retain(|uid, _| uids.contains(uid));
    }
}

// === impl Attempts ===

impl Attempts {
    const FIRST_PAUSE: Duration = Duration::from_millis(100);

    pub(super) fn new(longest: Duration) -> Self {
        Self { failures: Mutex::default(), longest }
    }

    pub(super) fn succeeded(&self, uid: &str) {
        self.failures.lock().remove(uid);
    }

    /// The pause before the next attempt. It doubles with each failure in a row, up to the longest. Up to half of it is cut at
    /// random, so that objects that failed together are not retried together.
    pub(super) fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(uid.to_owned()).or_default();
        let pause = Self::FIRST_PAUSE.saturating_mul(1 << (*count).min(20)).min(self.longest);
        *count += 1;
        pause.mul_f64(rand::random_range(0.5..1.0))
    }

    pub(super) fn retain(&self, uids: &HashSet<String>) {
        self.failures.lock().retain(|uid, _| uids.contains(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_capped_and_start_over() {
        let longest = Duration::from_secs(5);
        let attempts = Attempts::new(longest);
        let pauses: Vec<_> = (0..40).map(|_| attempts.failed("a")).collect();
        assert!(pauses[0] <= Duration::from_millis(100));
        assert!(pauses[39] <= longest && pauses[39] >= longest / 2);
        assert!(attempts.failed("b") <= Duration::from_millis(100), "failures of one object must not slow another");
        attempts.succeeded("a");
        assert!(attempts.failed("a") <= Duration::from_millis(100));
    }

    #[test]
    fn a_cache_behind_our_own_write_is_noticed_once() {
        let writes = OwnWrites::default();
        writes.remember("a", Some("10"));
        assert!(!writes.is_older("a", Some("10")));
        assert!(!writes.is_older("a", Some("11")));
        assert!(!writes.is_older("b", Some("9")));
        assert!(writes.is_older("a", Some("9")));
        assert!(!writes.is_older("a", Some("9")));
    }
}
