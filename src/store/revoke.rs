//! Revocation in the store alone.

use super::{Change, ConsumerStore, Replaces, StoreError, now};
use crate::consumer::{ConsumerKey, Record};

/// Attempts to write. Each fails if another writer was first. A record is rarely written twice a second.
const MAX_ATTEMPTS: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Next step: compare the store's URL with the controller's, and the key with `status.consumerKey`.
    #[error("no consumer in this store has the key {0}; check the store's URL and the key")]
    Unknown(ConsumerKey),
    /// Next step: none. Sign-in with the key is refused already.
    #[error("the consumer with the key {0} is removed already, so its sign-in is refused")]
    Removed(ConsumerKey),
    /// Cause: the store does not answer, or the role may not write.
    /// Next step: use [a role that may write](../how-to/postgres.md#further-roles).
    #[error("failed to revoke the consumer: {0}")]
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
