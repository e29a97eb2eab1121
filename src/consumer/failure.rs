//! Why a plan was not carried out, and what follows from it.

use super::conditions::{ConditionStatus, StatusUpdate};
use super::{Missing, Object, Reason};

/// Why a plan was not carried out. The docs of the variants are a part of docs/reference/messages.md.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::EnumCount, strum::EnumMessage)]
pub enum Failure {
    /// Another writer was faster, or the controller has to know more. The next attempt reads again.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The store does not answer, or refuses.
    #[error("{0}")]
    Store(String),
    /// The key belongs, or once belonged, to another consumer.
    #[error("the key {0} is in use")]
    KeyInUse(String),
    /// The API server does not answer, or refuses.
    #[error("{0}")]
    Api(String),
    /// The operator has a fault: a panic, a time-out, or a hash that it cannot compute.
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
            Self::Store(_) => {
                "The store is unavailable, so the controller can neither read nor change the record. It tries again. If this lasts, \
                 ask an administrator to read its log."
            }
            Self::Internal(_) => {
                "The operator failed on this object, and tries again. If this lasts, ask an administrator to read its log."
            }
            Self::Api(message) | Self::Conflict(message) => &format!("The controller {message}. It tries again."),
            Self::KeyInUse(key) => {
                let message = if object.adopted_key.is_some() {
                    format!(
                        "The key {key} belongs, or once belonged, to another consumer in the store. Delete this object, and create \
                         it again with another key."
                    )
                } else {
                    format!(
                        "Another consumer in the store holds the key {key}, which this object was to get. Delete this object, and \
                         create it again: it then gets another key."
                    )
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
