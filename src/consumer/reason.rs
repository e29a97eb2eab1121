//! The closed sets of reasons that conditions and events give. The names are part of the contract.

/// Why a condition has its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr)]
pub enum Reason {
    /// The store holds exactly what the object says.
    Synced,
    /// Not reconciled yet, or something could not be read.
    Pending,
    /// The store does not answer.
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
    /// Approved while the API server did not enforce who may approve.
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
    /// An approval does not count: the API server did not enforce who may approve.
    ApprovalUnproved,
    Held,
    HoldLifted,
    SecretChanged,
    SecretUnusable,
    /// The record had been edited or lost in the store.
    RecordRepaired,
    /// The record is gone; the key will never be used again.
    RecordRemoved,
    Revoked,
    /// The cluster was restored from a backup: an object or a Secret is older than its record.
    ClusterRestored,
}
