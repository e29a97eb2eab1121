//! Computes argon2 hashes on a few threads of its own, and remembers which secret a hash fits.
//!
//! tokio's blocking threads are not used: there can be hundreds of them, and a hash takes 19 MiB. Here each thread uses its own
//! 19 MiB again, so memory is bounded.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use rayon_core::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use rustix::process::nice;
use tokio::sync::oneshot;

use crate::consumer::{Fingerprint, HashCost, HashMemory, Phc, PhcError, SecretValue};

/// A bounded number of argon2 computations at once. Sign-in and controller each have a pool, so that many registrations do not
/// delay sign-ins.
#[derive(Clone)]
pub struct HashPool {
    threads: Arc<ThreadPool>,
    cost: HashCost,
}

/// A hash, and the secret that is known to fit it in this process. To check that secret again costs no hash.
#[derive(Clone)]
pub struct KnownHash {
    phc: Phc,
    fits: OnceLock<Fingerprint>,
}

#[derive(Debug, thiserror::Error)]
pub enum HashError {
    #[error(transparent)]
    Argon2(#[from] PhcError),
    #[error("the hash was not computed")]
    Interrupted,
}

/// The threads' nice value ([sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html): on Linux each thread has its own).
const NICE: i32 = 10;

thread_local! {
    static MEMORY: RefCell<HashMemory> = RefCell::default();
}

// === impl HashPool ===

impl HashPool {
    /// A pool of this many threads, for hashes of this cost. The threads end with the pool.
    pub fn new(threads: usize, cost: HashCost) -> Result<Self, ThreadPoolBuildError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("argon2-{index}"))
            // Work that needs no hash comes first, if the system allows that.
            .start_handler(|_| {
                let _ = nice(NICE);
            })
            // After a panic no reply is sent, which the caller sees as an error.
            .panic_handler(|_| {})
            .build()?;
        Ok(Self { threads: Arc::new(threads), cost })
    }

    /// Hashes a secret, unless `current` is its hash already.
    pub async fn renew(&self, current: Option<Phc>, secret: SecretValue) -> Result<Phc, HashError> {
        let cost = self.cost;
        self.run(move |memory| match current {
            Some(phc) if phc.verify(secret.expose(), memory) => Ok(phc),
            _ => Ok(Phc::hash(&secret, cost, memory)?),
        })
        .await?
    }

    /// The candidate that the hash fits. Computes a hash for each, so that the time does not depend on which one fits.
    pub async fn verify(&self, phc: Phc, candidates: Vec<SecretValue>) -> Result<Option<usize>, HashError> {
        let fitting = move |memory: &mut HashMemory| {
            let fits: Vec<_> = candidates.iter().map(|candidate| phc.verify(candidate.expose(), memory)).collect();
            fits.iter().position(|fits| *fits)
        };
        self.run(fitting).await
    }

    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    pub fn cost(&self) -> HashCost {
        self.cost
    }

    /// A hash of a random secret, at the usual cost: for refusals that must take as long as others.
    pub async fn decoy(&self) -> Result<Phc, HashError> {
        let cost = self.cost;
        self.run(move |memory| Ok(Phc::hash(&SecretValue::random(), cost, memory)?)).await?
    }

    async fn run<T, W>(&self, work: W) -> Result<T, HashError>
    where
        T: Send + 'static,
        W: FnOnce(&mut HashMemory) -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.threads.spawn_fifo(move || {
            // Skipped when the caller is gone: a client that disconnected, or a reconcile that timed out.
            if !reply.is_closed() {
                let _ = reply.send(MEMORY.with_borrow_mut(work));
            }
        });
        answer.await.map_err(|_| HashError::Interrupted)
    }
}

// === impl KnownHash ===

impl KnownHash {
    pub fn phc(&self) -> &Phc {
        &self.phc
    }

    pub fn is_known_to_fit(&self, secret: Fingerprint) -> bool {
        self.fits.get() == Some(&secret)
    }

    pub fn remember(&self, secret: Fingerprint) {
        // A hash fits one secret, so a value that is set already is the same.
        let _ = self.fits.set(secret);
    }
}

impl From<Phc> for KnownHash {
    fn from(phc: Phc) -> Self {
        Self { phc, fits: OnceLock::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: HashCost = HashCost { memory: 32, passes: 1, lanes: 1 };

    #[tokio::test]
    async fn a_panic_ends_one_computation_and_no_thread() {
        let pool = HashPool::new(1, CHEAP).unwrap();
        for _ in 0..3 {
            assert!(matches!(pool.run(|_| panic!("as the test wanted")).await, Err::<(), _>(HashError::Interrupted)));
        }
        assert!(pool.run(|_| true).await.unwrap());
    }

    #[tokio::test]
    async fn a_hash_that_still_fits_is_kept() {
        let pool = HashPool::new(2, CHEAP).unwrap();
        let secret = SecretValue::random();
        let first = pool.renew(None, secret.clone()).await.unwrap();
        assert_eq!(pool.renew(Some(first.clone()), secret).await.unwrap(), first);
        assert_ne!(pool.renew(Some(first.clone()), SecretValue::random()).await.unwrap(), first);
    }
}
