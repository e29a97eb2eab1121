//! Revocation in the store alone.

use super::{Change, ConsumerStore, Replaces, StoreError, now};
use crate::consumer::{ConsumerKey, Record};

/// Attempts to write. Each fails if another writer was first. A record is rarely written twice a second.
const MAX_ATTEMPTS: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    #[error("no consumer has the key {0}; is this the right store, and the whole key?")]
    Unknown(ConsumerKey),
    #[error("the consumer with the key {0} is removed already; no sign-in is possible with it")]
    Removed(ConsumerKey),
    #[error("failed to revoke: {0}")]
    Store(#[from] StoreError),
}

/// Revokes a consumer until a controller sees its object disapproved and then approved. Returns the record.
pub async fn revoke(store: &dyn ConsumerStore, key: &ConsumerKey, reason: &str) -> Result<Record, RevokeError> {
    let mut attempt = 1;
    loop {
        let (_, Some(Change { stored, .. })) = store.by_key(key).await? else { return Err(RevokeError::Unknown(key.clone())) };
        if stored.record.is_removed() {
            return Err(RevokeError::Removed(key.clone()));
        }
        let (at, version) = (now(), stored.version);
        match store.write(stored.revoked(reason, at), Replaces::Version(version), at).await {
            Ok(written) => return Ok(written.record),
            Err(StoreError::Conflict) if attempt < MAX_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}
