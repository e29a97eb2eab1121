//! How fast a caller may guess.
//!
//! Token buckets. A check takes a token before it costs a hash, and gives it back when it turns out to be good: so guesses that
//! run side by side count, too. The crate `governor` has no way to give back, so the buckets are our own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Buckets kept per kind at most, some 10 MB. Callers that have not missed for a while need none.
const MAX_BUCKETS: usize = 100_000;

/// Misses a caller may have at once, and how many come back a second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once; 0 is no limit.
    pub burst: u32,
    /// A second.
    pub refill: u32,
}

/// A bucket for each of those who share an allowance.
pub(super) struct Buckets<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, Bucket>>,
}

struct Bucket {
    /// As of `at`.
    tokens: f64,
    at: Instant,
}

/// A token that was taken. It counts as a miss when it is dropped.
pub(super) struct Reservation<'a, K> {
    buckets: &'a Buckets<K>,
    who: K,
}

/// Too many misses: how long until the next is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many misses")]
pub(super) struct Exhausted(pub(super) Duration);

// === impl Buckets ===

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Whether there is no token left, and until when.
    pub(super) fn check(&self, who: &K) -> Result<(), Exhausted> {
        self.buckets.lock().get(who).map_or(Ok(()), |bucket| bucket.check(self.rate, Instant::now()))
    }

    /// Takes a token.
    pub(super) fn reserve(&self, who: K) -> Result<Reservation<'_, K>, Exhausted> {
        let reservation = Reservation { buckets: self, who };
        if self.rate.burst == 0 {
            return Ok(reservation);
        }
        let (who, now) = (&reservation.who, Instant::now());
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(who) {
            // A full bucket is as good as none. If guesses come from this many callers, none of them is slowed down by this.
            buckets.retain(|_, bucket| bucket.level(self.rate, now) < f64::from(self.rate.burst));
            if buckets.len() >= MAX_BUCKETS {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(who.clone()).or_insert(Bucket { tokens: f64::from(self.rate.burst), at: now });
        bucket.check(self.rate, now)?;
        *bucket = Bucket { tokens: bucket.level(self.rate, now) - 1.0, at: now };
        Ok(reservation)
    }
}

// === impl Reservation ===

impl<K: Hash + Eq> Reservation<'_, K> {
    /// It was no miss: the token goes back.
    pub(super) fn forgive(self) {
        if let Some(bucket) = self.buckets.buckets.lock().get_mut(&self.who) {
            bucket.tokens += 1.0;
        }
    }
}

// === impl Bucket ===

impl Bucket {
    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate.refill);
        (self.tokens + grown).min(f64::from(rate.burst))
    }

    fn check(&self, rate: Rate, now: Instant) -> Result<(), Exhausted> {
        let missing = 1.0 - self.level(rate, now);
        if missing <= 0.0 { Ok(()) } else { Err(Exhausted(Duration::from_secs_f64(missing / f64::from(rate.refill.max(1))))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Rate = Rate { burst: 3, refill: 0 };

    #[test]
    fn misses_run_out_and_callers_do_not_pay_for_each_other() {
        let misses = Buckets::new(NEVER);
        for _ in 0..3 {
            assert!(misses.reserve("alice").is_ok());
        }
        assert!(misses.reserve("alice").is_err());
        assert!(misses.reserve("bob").is_ok());
    }

    #[test]
    fn what_was_no_miss_is_given_back() {
        let misses = Buckets::new(NEVER);
        for _ in 0..100 {
            assert!(misses.reserve("alice").map(Reservation::forgive).is_ok());
        }
    }

    #[test]
    fn no_burst_is_no_limit() {
        let misses = Buckets::new(Rate { burst: 0, refill: 0 });
        assert!((0..1_000).all(|_| misses.reserve("alice").is_ok()));
    }

    #[test]
    fn tokens_come_back_and_no_more_than_there_were() {
        let rate = Rate { burst: 2, refill: 10 };
        let now = Instant::now();
        let empty = Bucket { tokens: 0.0, at: now };
        assert!((empty.level(rate, now + Duration::from_millis(100)) - 1.0).abs() < 1e-9);
        assert!((empty.level(rate, now + Duration::from_secs(100)) - 2.0).abs() < 1e-9);

        let misses = Buckets::new(Rate { burst: 1, refill: 2 });
        let Exhausted(pause) = (0..2).find_map(|_| misses.reserve("alice").err()).unwrap();
        assert!(pause <= Duration::from_millis(500), "{pause:?}");
    }

    #[test]
    fn nobody_can_make_it_grow_without_end() {
        let misses = Buckets::new(NEVER);
        assert!((0..300_000).all(|caller| misses.reserve(caller).is_ok()));
        assert!(misses.buckets.lock().len() <= MAX_BUCKETS);
    }
}
