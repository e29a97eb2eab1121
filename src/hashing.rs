//! argon2 off the async threads, on a few threads of its own.
//!
//! Not on tokio's blocking threads: a hash takes 19 MiB, and there can be hundreds of those. Here each thread has its 19 MiB
//! and uses them again, so that memory is bounded and stays where it is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use rustix::process::nice;
use tokio::sync::oneshot;

use crate::consumer::{HashCost, HashMemory, Phc, PhcError, SecretValue};

/// A bounded number of argon2 computations at once. Sign-in and controller have a pool each: a storm of registrations must
/// not keep anybody from signing in.
#[derive(Clone)]
pub struct HashPool {
    jobs: mpsc::Sender<Job>,
    threads: usize,
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

/// How much the threads yield to others, from 0 to 19
/// ([sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html), "The nice value": on Linux each thread has its own).
const YIELDING: i32 = 10;

type Job = Box<dyn FnOnce(&mut HashMemory) + Send>;

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
                // Hashes take what is left of the cores: those who need none must not wait for those who do. Best effort.
                let _ = nice(YIELDING);
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let mut memory = HashMemory::default();
                while let Ok(job) = next() {
                    // Whoever asked sees a panic by the answer that does not come.
                    let _ = catch_unwind(AssertUnwindSafe(|| job(&mut memory)));
                }
            });
        }
        Self { jobs, threads, cost }
    }

    /// Hashes a secret, unless `current` is its hash already.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn renew(&self, current: Option<Phc>, secret: SecretValue) -> Result<Phc, HashError> {
        let cost = self.cost;
        self.run(move |memory| match current {
            Some(phc) if phc.verify(secret.expose(), memory) => Ok(phc),
            _ => Ok(Phc::hash(&secret, cost, memory)?),
        })
        .await?
    }

    /// Which of the candidates the hash was made of, if one. Costs a hash for each, whichever it is.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn verify(&self, phc: Phc, candidates: Vec<SecretValue>) -> Result<Option<usize>, HashError> {
        let fitting = move |memory: &mut HashMemory| {
            let fits: Vec<_> = candidates.iter().map(|candidate| phc.verify(candidate.expose(), memory)).collect();
            fits.iter().position(|fits| *fits)
        };
        self.run(fitting).await
    }

    /// Computations at once.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What its hashes cost.
    #[must_use]
    pub fn cost(&self) -> HashCost {
        self.cost
    }

    /// A hash of nothing, at the cost of any other: for refusals that must take as long.
    ///
    /// # Errors
    /// [`HashError`].
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
        let job = move |memory: &mut HashMemory| {
            // Nobody waits any more: a client that has gone, a reconcile that has timed out.
            if !reply.is_closed() {
                let _ = reply.send(work(memory));
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
            assert!(matches!(pool.run(|_| panic!("as the test wanted")).await, Err::<(), _>(HashError::Interrupted)));
        }
        assert!(pool.run(|_| true).await.unwrap());
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
