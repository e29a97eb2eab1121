//! The closed sets of reasons that conditions and events give. The names are part of the contract.

/// Why a condition has its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::EnumString, strum::IntoStaticStr)]
pub enum Reason {
    /// The store holds exactly what the object says.
    Synced,
    /// Not looked at yet, or not all of it could be read.
    Pending,
    /// The store does not answer; nothing was changed.
    StoreUnavailable,
    /// `spec.consumerKey` belongs, or once belonged, to another consumer.
    KeyInUse,
    /// The key in status is not this object's.
    ForeignKey,
    /// Revoked in the store by `revoke`, until a disapproval is seen and an approval after it.
    Revoked,
    /// The record could not be removed yet, so the object cannot go.
    DeletionBlocked,
    Active,
    Approved,
    AwaitingApproval,
    /// Approved while the API server did not ask who may approve.
    ApprovalUnproved,
    Disapproved,
    OnHold,
    Accepted,
    SecretNotFound,
    SecretKeyMissing,
    SecretTooShort,
    SecretTooLong,
    /// The value holds what a secret must not hold.
    SecretInvalid,
}

/// What an event reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr)]
pub enum EventReason {
    KeyGenerated,
    Approved,
    /// The approval was refused or withdrawn.
    Disapproved,
    /// An approval does not count: the API server did not ask who may approve.
    ApprovalUnproved,
    Held,
    HoldLifted,
    SecretChanged,
    SecretUnusable,
    /// The record had been changed or lost behind the operator's back.
    RecordRepaired,
    /// The record is gone; the key will never be used again.
    RecordRemoved,
    Revoked,
    /// The cluster shows an older version than was seen before: it was restored from a backup.
    ClusterRestored,
}
