//! Limits how fast a caller may guess, with token buckets.
//!
//! A check takes a token before it computes a hash, and returns the token unless it is refused. So parallel guesses count, too.
//! The crate `governor` cannot return tokens, so the buckets are our own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The most buckets of a kind, about 10 MB. A caller without recent misses needs none.
const MAX_BUCKETS: usize = 100_000;

/// How many misses (refused checks) a caller may have.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Misses at once; 0 is no limit.
    pub burst: u32,
    /// Misses that come back per second.
    pub refill: u32,
}

/// A bucket for each caller, or for each caller and key.
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

    /// Fails if no token is left.
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
            // A full bucket has no effect. If so many callers guess, limits per caller do not slow them down anyway.
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
    /// Returns the token: the check was no miss.
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
    fn each_caller_has_a_limit_of_its_own() {
        let misses = Buckets::new(NEVER);
        for _ in 0..3 {
            assert!(misses.reserve("alice").is_ok());
        }
        assert!(misses.reserve("alice").is_err());
        assert!(misses.reserve("bob").is_ok());
    }

    #[test]
    fn a_check_that_was_no_miss_returns_its_token() {
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
    fn tokens_come_back_up_to_the_burst() {
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
    fn the_number_of_buckets_is_bounded() {
        let misses = Buckets::new(NEVER);
        assert!((0..300_000).all(|caller| misses.reserve(caller).is_ok()));
        assert!(misses.buckets.lock().len() <= MAX_BUCKETS);
    }
}
