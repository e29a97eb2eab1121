//! argon2 off the async threads, and never more of it at once than the pool has permits.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::consumer::{HashCost, Phc, PhcError, SecretValue};

/// A bounded number of argon2 computations. Sign-in and controller have a pool each: a storm of registrations must not
/// keep anybody from signing in.
#[derive(Clone)]
pub struct HashPool {
    permits: Arc<Semaphore>,
    cost: HashCost,
}

/// A hash that was not computed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// argon2 refused.
    #[error(transparent)]
    Argon2(#[from] PhcError),
    /// The process is shutting down, or the computation panicked.
    #[error("the hash was not computed: {0}")]
    Interrupted(String),
}

// === impl HashPool ===

impl HashPool {
    /// A pool of this many permits, for hashes of this cost.
    #[must_use]
    pub fn new(permits: usize, cost: HashCost) -> Self {
        Self { permits: Arc::new(Semaphore::new(permits)), cost }
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
        let interrupted = |cause: &dyn std::fmt::Display| HashError::Interrupted(cause.to_string());
        let permit = self.permits.clone().acquire_owned().await.map_err(|e| interrupted(&e))?;
        // The permit goes along: a caller that gives up does not free it while the computation still runs.
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        task.await.map_err(|e| interrupted(&e))
    }
}
