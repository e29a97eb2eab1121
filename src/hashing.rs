//! argon2 off the async threads, on a few threads of its own.
//!
//! Not on tokio's blocking threads: a hash takes 19 MiB, and allocators keep that much for each thread that ever computed
//! one. A few threads that compute all of them keep a few times 19 MiB.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tokio::sync::oneshot;

use crate::consumer::{HashCost, Phc, PhcError, SecretValue};

/// A bounded number of argon2 computations at once. Sign-in and controller have a pool each: a storm of registrations must
/// not keep anybody from signing in.
#[derive(Clone)]
pub struct HashPool {
    jobs: mpsc::Sender<Job>,
    cost: HashCost,
}

/// A hash that was not computed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// argon2 refused.
    #[error(transparent)]
    Argon2(#[from] PhcError),
    /// The computation panicked.
    #[error("the hash was not computed")]
    Interrupted,
}

type Job = Box<dyn FnOnce() + Send>;

// === impl HashPool ===

impl HashPool {
    /// A pool of this many threads, for hashes of this cost. The threads end with the pool.
    ///
    /// # Panics
    /// When the system gives no more threads.
    #[must_use]
    pub fn new(threads: usize, cost: HashCost) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            thread::spawn(move || {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(job) = next() {
                    // Whoever asked sees a panic by the answer that does not come.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            });
        }
        Self { jobs, cost }
    }

    /// Hashes a secret, unless `current` is its hash already.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn renew(&self, current: Option<Phc>, secret: SecretValue) -> Result<Phc, HashError> {
        let cost = self.cost;
        self.run(move || match current {
            Some(phc) if phc.verify(secret.expose()) => Ok(phc),
            _ => Ok(Phc::hash(&secret, cost)?),
        })
        .await?
    }

    /// Whether one of the candidates is what the hash was made of. Costs a hash for each, whichever it is.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn verify(&self, phc: Phc, candidates: Vec<SecretValue>) -> Result<bool, HashError> {
        self.run(move || candidates.iter().fold(false, |found, candidate| phc.verify(candidate.expose()) | found)).await
    }

    /// A hash of nothing, at the cost of any other: for refusals that must take as long.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn decoy(&self) -> Result<Phc, HashError> {
        let cost = self.cost;
        self.run(move || Ok(Phc::hash(&SecretValue::random(), cost)?)).await?
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
        let (reply, answer) = oneshot::channel();
        let job = move || {
            // Nobody waits any more: a client that has gone, a reconcile that has timed out.
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        };
        self.jobs.send(Box::new(job)).map_err(|_| HashError::Interrupted)?;
        answer.await.map_err(|_| HashError::Interrupted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: HashCost = HashCost { memory: 32, passes: 1, lanes: 1 };

    #[tokio::test]
    async fn a_panic_ends_one_computation_and_no_thread() {
        let pool = HashPool::new(1, CHEAP);
        for _ in 0..3 {
            assert!(matches!(pool.run(|| panic!("as the test wanted")).await, Err::<(), _>(HashError::Interrupted)));
        }
        assert!(pool.run(|| true).await.unwrap());
    }

    #[tokio::test]
    async fn a_hash_that_still_fits_is_kept() {
        let pool = HashPool::new(2, CHEAP);
        let secret = SecretValue::random();
        let first = pool.renew(None, secret.clone()).await.unwrap();
        assert_eq!(pool.renew(Some(first.clone()), secret).await.unwrap(), first);
        assert_ne!(pool.renew(Some(first.clone()), SecretValue::random()).await.unwrap(), first);
    }
}
