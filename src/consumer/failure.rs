//! Why a plan was not carried out, and what follows from it.

use super::conditions::{ConditionStatus, StatusUpdate};
use super::{Missing, Object, Reason};

/// Why a plan was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Another writer was faster, or a fact is missing. The next reconcile takes a newer snapshot.
    #[error("conflict: {0}")]
    Conflict(String),
    #[error("{0}")]
    Store(String),
    /// The key belongs, or once belonged, to another consumer.
    #[error("the key {0} is in use")]
    KeyInUse(String),
    /// The API server does not answer, or refuses.
    #[error("{0}")]
    Api(String),
    /// A fault of the operator: a panic, a time-out, a hash that cannot be computed.
    #[error("{0}")]
    Internal(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    AtChange,
    /// After a pause that grows with each failure in a row.
    Backoff,
}

/// How a reconcile ended, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ReconcileResult {
    Unchanged,
    Changed,
    Conflict,
    StoreFailed,
    ApiFailed,
    KeyInUse,
    Internal,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handling {
    pub result: ReconcileResult,
    pub requeue: Requeue,
    /// False for a failure that ends by itself, or that the status shows until a user acts.
    pub is_logged: bool,
    /// What the condition `Ready` says. None: what was published stays.
    pub ready: Option<(ConditionStatus, Reason)>,
}

// === impl Failure ===

impl Failure {
    pub fn handling(&self) -> Handling {
        use ConditionStatus::{False, Unknown};
        use Requeue::{AtChange, Backoff};
        let (result, requeue, is_logged, ready) = match self {
            Self::Conflict(_) => (ReconcileResult::Conflict, Backoff, false, None),
            Self::Store(_) => (ReconcileResult::StoreFailed, Backoff, true, Some((False, Reason::StoreUnavailable))),
            // Only a change by the user can help. The sweep checks whether the key became free.
            Self::KeyInUse(_) => (ReconcileResult::KeyInUse, AtChange, false, Some((False, Reason::KeyInUse))),
            Self::Api(_) => (ReconcileResult::ApiFailed, Backoff, true, Some((Unknown, Reason::Pending))),
            Self::Internal(_) => (ReconcileResult::Internal, Backoff, true, Some((Unknown, Reason::Pending))),
        };
        Handling { result, requeue, is_logged, ready }
    }

    pub(super) fn status(&self, object: &Object) -> Option<StatusUpdate> {
        let (ready, reason) = self.handling().ready?;
        let message = match self {
            Self::Store(_) => "the store does not answer, so nothing can be said or changed; retrying",
            Self::Internal(_) => "the operator failed and tries again; its log says why",
            Self::Api(message) | Self::Conflict(message) => message,
            Self::KeyInUse(key) => {
                let message = if object.adopted_key.is_some() {
                    format!(
                        "the key {key} belongs, or once belonged, to another consumer in the store; delete this object and choose \
                         another key, or free that one in the store"
                    )
                } else {
                    format!("the key {key} of this object was brought along by another consumer; delete that one, then this one")
                };
                return Some(StatusUpdate::nothing(reason, &message, true));
            }
        };
        Some(StatusUpdate::unknown(ready, reason, message))
    }
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        Self::Conflict(missing.to_string())
    }
}
