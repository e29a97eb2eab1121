//! May this consumer sign in? The store decides, asked anew for every check.

use std::sync::{Arc, OnceLock};

use tracing::warn;

use super::Credentials;
use crate::consumer::{Phc, Record, Stored};
use crate::hashing::{HashError, HashPool};
use crate::store::{ConsumerStore, StoreError};

/// Checks credentials against the store.
pub struct Verifier {
    /// Empty until the store could be opened.
    store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
    hashing: HashPool,
    /// The hash that is checked where a consumer has none, so that its refusal takes as long as any other.
    decoy: Phc,
}

/// The answer to a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An approved consumer with the right secret.
    Allowed(Consumer),
    /// Anybody else. Why is nobody's business.
    Refused,
    /// Nobody can tell now.
    Unavailable,
}

/// Who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The consumer key.
    pub key: String,
    /// The consumer name.
    pub name: String,
    /// The namespace of its object.
    pub namespace: String,
}

// === impl Verifier ===

impl Verifier {
    /// A verifier over this store, once there is one.
    ///
    /// # Errors
    /// When the decoy cannot be hashed.
    pub async fn new(store: Arc<OnceLock<Arc<dyn ConsumerStore>>>, hashing: HashPool) -> Result<Self, HashError> {
        let decoy = hashing.decoy().await?;
        Ok(Self { store, hashing, decoy })
    }

    /// Checks credentials. A failure to find out is never a yes, and never a no.
    ///
    /// A key that was issued costs one hash, whatever the answer, so that time does not tell a disapproved consumer
    /// from a wrong secret. A key that never was is refused at once: keys are too long to guess.
    pub async fn check(&self, credentials: Credentials) -> Verdict {
        self.find(credentials).await.unwrap_or_else(|error| {
            warn!(%error, "a sign-in could not be checked");
            Verdict::Unavailable
        })
    }

    async fn find(&self, credentials: Credentials) -> Result<Verdict, CheckError> {
        let store = self.store.get().ok_or(CheckError::NotOpen)?;
        let Some(before) = store.by_key(&credentials.key).await? else { return Ok(Verdict::Refused) };
        let phc = before.record.phc().unwrap_or(&self.decoy).clone();
        if !self.hashing.verify(phc, credentials.secrets).await? || !before.admits() {
            return Ok(Verdict::Refused);
        }
        // The hash may have waited for others; meanwhile somebody may have disapproved.
        Ok(match store.by_key(&credentials.key).await? {
            Some(now) if now.admits() && now.record.phc() == before.record.phc() => Verdict::Allowed(Consumer::from(now)),
            _ => Verdict::Refused,
        })
    }
}

/// Why nobody can tell.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("the store is not open yet")]
    NotOpen,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Hash(#[from] HashError),
}

// === impl Consumer ===

impl From<Stored> for Consumer {
    fn from(Stored { record: Record { consumer_key, name, namespace, .. }, .. }: Stored) -> Self {
        Self { key: consumer_key.to_string(), name, namespace }
    }
}
