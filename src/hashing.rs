//! argon2 off the async threads, on a few threads of its own; and which secret a hash is known to fit.
//!
//! Not on tokio's blocking threads: a hash takes 19 MiB, and there can be hundreds of those threads. Here each thread has its
//! 19 MiB and uses them again, so that memory is bounded and stays where it is.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use rayon_core::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use rustix::process::nice;
use tokio::sync::oneshot;

use crate::consumer::{Fingerprint, HashCost, HashMemory, Phc, PhcError, SecretValue};

/// A bounded number of argon2 computations at once. Sign-in and controller have a pool each, so that a storm of registrations
/// delays no sign-in.
#[derive(Clone)]
pub struct HashPool {
    threads: Arc<ThreadPool>,
    cost: HashCost,
}

/// A hash, and the secret that is known to fit it in this process: such a secret costs no hash.
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

/// How far the threads let others go first, from 0 to 19
/// ([sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html), "The nice value": on Linux each thread has its own).
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
            // Work that needs no hash comes first, as far as the system allows.
            .start_handler(|_| {
                let _ = nice(NICE);
            })
            // The asker sees a panic by the answer that does not come.
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

    /// Which of the candidates the hash was made of, if one. Costs a hash for each, whichever it is.
    pub async fn verify(&self, phc: Phc, candidates: Vec<SecretValue>) -> Result<Option<usize>, HashError> {
        let fitting = move |memory: &mut HashMemory| {
            let fits: Vec<_> = candidates.iter().map(|candidate| phc.verify(candidate.expose(), memory)).collect();
            fits.iter().position(|fits| *fits)
        };
        self.run(fitting).await
    }

    /// Computations at once.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// What its hashes cost.
    pub fn cost(&self) -> HashCost {
        self.cost
    }

    /// A hash of nothing, at the cost of any other: for refusals that must take as long.
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
            // Skipped when the asker has gone: a client that has left, a reconcile that has timed out.
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

    /// Whether this secret is known to fit.
    pub fn is_known_to_fit(&self, secret: Fingerprint) -> bool {
        self.fits.get() == Some(&secret)
    }

    /// This secret fits.
    pub fn remember(&self, secret: Fingerprint) {
        // A hash has one secret: what is there already is the same.
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
