//! The closed sets of reasons that conditions and events give. The names are part of the contract.
//!
//! The docs of the variants are a part of docs/reference/messages.md: what it means, the cause, and the next step.

/// Why a condition has its status.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumMessage,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
pub enum Reason {
    /// The store holds exactly what the object says.
    Synced,
    /// The controller has not looked at the object yet, or could not read all that it needs.
    ///
    /// Cause: the controller does not run or does not manage the namespace, or the API server refuses its requests.
    ///
    /// Next step: [find out why the status does not change](../how-to/troubleshoot.md#the-status-does-not-change).
    Pending,
    /// The controller can neither read nor change the record. What the store holds stays in force.
    ///
    /// Cause: the store does not answer, or it refuses, as on a full disk or with missing rights.
    ///
    /// Next step: wait. If it lasts, [look at the line `store` of `/readyz`](../how-to/troubleshoot.md#a-pod-is-not-ready).
    StoreUnavailable,
    /// The store refuses the object's key, so the object has no record.
    ///
    /// Cause: another consumer has the key, or had it, perhaps in another cluster with the same store.
    ///
    /// Next step: use another key, or [free the key of a removed consumer](store.md#tombstones).
    KeyInUse,
    /// The key in `status` is not this object's, so the object has no record to sign in with.
    ///
    /// Cause: the cluster id has changed, or the object was copied with its status.
    ///
    /// Next step: set [`clusterId`](../how-to/installations.md#several-clusters-on-one-store) back, or create the object again
    /// without a status.
    ForeignKey,
    /// Sign-in is revoked in the store. The controller honours no approval that was made before.
    ///
    /// Cause: an administrator has run [`revoke`](../how-to/stop.md#revoke).
    ///
    /// Next step: once the cause is mended, an approver disapproves, waits, and approves.
    Revoked,
    /// The object is deleted and still there.
    ///
    /// Cause: the store or the API server fails, or another program's finalizer is on the object.
    ///
    /// Next step: [read what the object waits for](../how-to/troubleshoot.md#an-object-is-not-deleted).
    DeletionBlocked,
    /// The consumer can sign in.
    Active,
    /// The approval counts.
    Approved,
    /// The consumer cannot sign in before it is approved.
    ///
    /// Cause: `spec.approved` is absent.
    ///
    /// Next step: [an approver](../how-to/approvers.md) approves or disapproves.
    AwaitingApproval,
    /// The approval does not count, also not later.
    ///
    /// Cause: the policy `oauthconsumers-approve` did not refuse the controller's trial requests, or the controller could not try.
    ///
    /// Next step: [restore the policy and approve again](../explanation/approval.md#recover).
    ApprovalUnproved,
    /// Sign-in is refused.
    ///
    /// Cause: `spec.approved` is `false`.
    ///
    /// Next step: none, or an approver approves.
    Disapproved,
    /// Sign-in is refused, whatever `spec.approved` says.
    ///
    /// Cause: `spec.hold` is set.
    ///
    /// Next step: once the cause is mended, an approver [lifts the hold](permissions.md#lifting-a-hold).
    OnHold,
    /// The Secret holds a usable value.
    Accepted,
    /// There is no secret to sign in with.
    ///
    /// Cause: the Secret is still on its way, was deleted, or has another name.
    ///
    /// Next step: create the Secret, or correct `spec.secretRef`.
    SecretNotFound,
    /// There is no secret to sign in with.
    ///
    /// Cause: the Secret lacks the data key.
    ///
    /// Next step: add the data key, or correct `spec.secretRef.key`.
    SecretKeyMissing,
    /// The secret is refused.
    ///
    /// Cause: the value is shorter than [`--min-secret-bytes`](command-line.md).
    ///
    /// Next step: [choose another secret](resource.md#secrets).
    SecretTooShort,
    /// The secret is refused.
    ///
    /// Cause: the value is longer than 512 bytes.
    ///
    /// Next step: [choose another secret](resource.md#secrets).
    SecretTooLong,
    /// The secret is refused, because it contains [what a secret must not contain](resource.md#secrets).
    ///
    /// Cause: often the newline at the end of a file.
    ///
    /// Next step: the message says what to change.
    SecretInvalid,
}

/// What an event reports.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::EnumMessage, strum::IntoStaticStr, strum::VariantArray,
)]
pub enum EventReason {
    /// The consumer is registered and has its key.
    KeyGenerated,
    /// An approval counts from now on.
    Approved,
    /// The consumer is disapproved, or `spec.approved` was removed.
    Disapproved,
    /// An approval does not count.
    ///
    /// Next step: [restore the policy and approve again](../explanation/approval.md#recover).
    ApprovalUnproved,
    /// A hold was set, or its reason has changed.
    Held,
    /// A hold was lifted.
    HoldLifted,
    /// A new or corrected secret is in use.
    SecretChanged,
    /// The Secret is missing or unusable, so sign-in is refused.
    ///
    /// Next step: the message says what to change. [All of them](#problems-with-a-secret).
    SecretUnusable,
    /// The record was edited or lost behind the operator's back.
    ///
    /// Next step: [find out who writes to the store](../explanation/epochs.md#edits-behind-the-operators-back).
    RecordRepaired,
    /// The consumer is removed.
    RecordRemoved,
    /// An administrator has run `revoke`.
    ///
    /// Next step: as for the [reason `Revoked`](#conditions).
    Revoked,
    /// The cluster was restored from a backup, and so were its decisions.
    ///
    /// Next step: [check what is approved](../how-to/backup.md#after-a-restore-of-the-cluster).
    ClusterRestored,
}
