//! The record of a consumer: what the store keeps, and what a sign-in is checked against.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ConsumerKey, Phc, SecretProblem};

/// Which object a record belongs to: a cluster and a UID in it. There is at most one record for an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The UID of the cluster's `kube-system` namespace, or what `--cluster-id` says.
    pub cluster_id: String,
    /// The object's `metadata.uid`.
    pub uid: String,
}

/// Whether this consumer may sign in, and if not, why.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display, strum::EnumString, strum::IntoStaticStr,
)]
pub enum State {
    /// Nobody has decided yet.
    AwaitingApproval,
    /// May sign in, given a usable secret.
    Approved,
    /// Somebody decided against it.
    Disapproved,
    /// `spec.hold` is set.
    OnHold,
    /// Revoked in the store; a new approval clears it.
    Revoked,
    /// The object's namespace is no longer one that its installation watches.
    OutOfScope,
    /// The object is gone. The row stays as a tombstone, so that a slow peer cannot bring it back.
    Removed,
}

/// A person's decision, as it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `spec.approved` as decided.
    pub approved: bool,
    /// Who decided, if the API server vouched for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When the decision was committed to the store.
    pub at: Timestamp,
    /// The object's generation at which the decision was first seen.
    pub generation: i64,
}

/// A revocation in the store itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why, in the words of whoever revoked.
    pub reason: String,
    /// The generation the record had then: only an approval of a later generation clears the revocation.
    pub generation: i64,
}

/// Where a hash comes from. While all of it is the same, the hash is still the Secret's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSource {
    /// The Secret's name.
    pub name: String,
    /// The data key in it.
    pub key: String,
    /// The Secret's `metadata.uid`.
    pub uid: String,
    /// The Secret's `metadata.resourceVersion`; empty once versions have been found to prove nothing.
    pub resource_version: String,
}

/// What came of looking at the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretOutcome {
    /// Its hash.
    Accepted(Phc),
    /// No usable value.
    Refused(SecretProblem),
}

/// What the store keeps about a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The key, unique over the store's life.
    pub consumer_key: ConsumerKey,
    /// The object it belongs to.
    pub owner: Owner,
    /// The installation that manages it.
    pub installation: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub object: String,
    /// The consumer name.
    pub name: String,
    /// The generation this record rests on.
    pub generation: i64,
    /// Whether it may sign in.
    pub state: State,
    /// The decision, once somebody has decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Why sign-in is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// The revocation in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    /// Which Secret was looked at; none while there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_source: Option<SecretSource>,
    /// What came of it.
    pub secret: SecretOutcome,
}

/// A record as it was read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Counts the writes of this record; a write names the version it replaces.
    pub version: i64,
    /// Whether the row's checksum fits: false when somebody edited it behind our back.
    pub intact: bool,
}

// === impl Record ===

impl Record {
    /// Whether the record is a tombstone.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.state == State::Removed
    }

    /// Whether somebody set `spec.approved` while the API server did not ask whether they may: such an approval does not count,
    /// also when the API server asks again, until it is made anew.
    #[must_use]
    pub fn is_unproved(&self) -> bool {
        self.state == State::AwaitingApproval && self.decision.as_ref().is_some_and(|decision| decision.approved)
    }

    /// The hash that a sign-in is checked against, if there is a usable secret.
    #[must_use]
    pub fn phc(&self) -> Option<&Phc> {
        match &self.secret {
            SecretOutcome::Accepted(phc) => Some(phc),
            SecretOutcome::Refused(_) => None,
        }
    }

    /// The same record as a tombstone: nothing left to sign in with.
    #[must_use]
    pub fn removed(self) -> Self {
        Self {
            state: State::Removed,
            decision: None,
            hold: None,
            secret_source: None,
            secret: SecretOutcome::Refused(SecretProblem::NotFound),
            ..self
        }
    }
}

// === impl Stored ===

impl Stored {
    /// The record as one that nobody looks after any more. What an edited row says is not carried on under a new checksum.
    #[must_use]
    pub fn out_of_scope(self) -> Record {
        let record = Record { state: State::OutOfScope, ..self.record };
        if self.intact {
            return record;
        }
        Record { decision: None, secret_source: None, secret: SecretOutcome::Refused(SecretProblem::NotFound), ..record }
    }

    /// Whether a consumer with the right secret may sign in.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.intact && self.record.state == State::Approved && self.record.phc().is_some()
    }
}
