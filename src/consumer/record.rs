//! The record of a consumer: what the store keeps, and what a sign-in is checked against.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ConsumerKey, Object, Observed, Phc, SecretProblem};

/// Which object a record belongs to: a cluster and a UID in it. There is at most one record for an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The UID of the cluster's `kube-system` namespace, or what `--cluster-id` says.
    pub cluster_id: String,
    pub uid: String,
}

/// Whether this consumer may sign in, and if not, why.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display, strum::EnumString, strum::IntoStaticStr,
)]
pub enum State {
    AwaitingApproval,
    /// May sign in, given a usable secret.
    Approved,
    Disapproved,
    OnHold,
    /// Revoked in the store, until a disapproval is seen and an approval after it.
    Revoked,
    /// Closed until a controller compares it with its object: its installation gave up the namespace, or the store was restored.
    OutOfScope,
    /// The object is gone. The row stays as a tombstone, so that a slow controller cannot write the record again.
    Removed,
}

/// A decision, as it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub approved: bool,
    /// Who decided, as the API server stamped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When the decision was committed to the store.
    pub at: Timestamp,
    /// The object's generation at which the decision was first seen.
    pub generation: i64,
}

/// A revocation in the store itself. It ends with a disapproval that is seen after it, and an approval that is seen after that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    pub at: Timestamp,
    /// Why, in the words of the person who revoked.
    pub reason: String,
    /// Whether `approved: false` was seen since.
    pub disapproved: bool,
}

/// Where a hash comes from. While no field changes, the hash fits the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSource {
    pub name: String,
    pub key: String,
    pub uid: String,
    /// The Secret's `metadata.resourceVersion`. Empty after a restore of the cluster: an equal version proves nothing then.
    pub resource_version: String,
}

/// The fields of an object that no decision depends on. The record copies them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The consumer name.
    pub name: String,
}

/// What the check of the Secret found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretOutcome {
    Accepted(Phc),
    Refused(SecretProblem),
}

/// What the store keeps about a consumer.
///
/// A row's checksum is computed from this as JSON, so the order of the fields is part of the store's format. A new field must be
/// left out while it is empty, as `hold` is. Otherwise all rows of the release before would count as edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Unique in the store for all time.
    pub consumer_key: ConsumerKey,
    pub owner: Owner,
    pub installation: String,
    pub namespace: String,
    pub object: String,
    #[serde(flatten)]
    pub profile: Profile,
    /// The generation of the object that this record was made from.
    pub generation: i64,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Where an approval does not count because the API server did not check who gave it: the generation in which it was first
    /// seen. It stays until the object is seen without `approved: true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unproved_approval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    /// The Secret that was checked; none if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_source: Option<SecretSource>,
    pub secret: SecretOutcome,
    /// [`SecretLimits::min`](super::SecretLimits::min) when the Secret's value was judged; 0 if there was none.
    pub secret_floor: i64,
}

/// A record as it was read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub record: Record,
    /// Grows with each write. A later record of the same owner never has this version again. A write names the version that it
    /// replaces.
    pub version: i64,
    /// Whether the row's checksum fits. It does not fit after an edit by hand.
    pub intact: bool,
}

// === impl Record ===

impl Record {
    /// A record of this object with nothing decided and no secret.
    pub(super) fn of(seen: &Observed, object: &Object) -> Self {
        Self {
            consumer_key: seen.key_of(object),
            owner: seen.owner.clone(),
            installation: seen.installation.clone(),
            namespace: object.namespace.clone(),
            object: object.name.clone(),
            profile: object.profile.clone(),
            generation: object.generation,
            state: State::AwaitingApproval,
            decision: None,
            unproved_approval: None,
            hold: None,
            revocation: None,
            secret_source: None,
            secret: SecretOutcome::Refused(SecretProblem::NotFound),
            secret_floor: 0,
        }
    }

    /// The record at its commit: a new decision gets the date of the commit.
    pub fn dated(self, before: Option<&Self>, now: Timestamp) -> Self {
        let is_new = self.decision.is_some() && self.decision.as_ref() != before.and_then(|before| before.decision.as_ref());
        if is_new { Self { decision: self.decision.map(|decision| Decision { at: now, ..decision }), ..self } } else { self }
    }

    /// Whether the record is a tombstone.
    pub fn is_removed(&self) -> bool {
        self.state == State::Removed
    }

    /// The hash that a sign-in is checked against, if there is a usable secret.
    pub fn phc(&self) -> Option<&Phc> {
        match &self.secret {
            SecretOutcome::Accepted(phc) => Some(phc),
            SecretOutcome::Refused(_) => None,
        }
    }

    /// The record as a tombstone, without decision and secret.
    pub fn removed(self) -> Self {
        Self { state: State::Removed, decision: None, unproved_approval: None, hold: None, ..self }.without_secret()
    }

    /// Whether this tombstone has to keep its key from being used again. An adopted key could be, and a revocation must not be
    /// forgotten. All other keys are derived from a UID, which is never used again.
    pub fn reserves_key(&self) -> bool {
        let is_own = [ConsumerKey::derive(&self.owner.cluster_id, &self.owner.uid), self.owner.unclaimed_key()];
        self.is_removed() && (self.revocation.is_some() || !is_own.contains(&self.consumer_key))
    }

    pub(super) fn with_secret(self, source: Option<SecretSource>, outcome: SecretOutcome, floor: i64) -> Self {
        Self { secret_source: source, secret: outcome, secret_floor: floor, ..self }
    }

    pub(super) fn without_secret(self) -> Self {
        self.with_secret(None, SecretOutcome::Refused(SecretProblem::NotFound), 0)
    }
}

// === impl Owner ===

impl Owner {
    /// A key that no object has. It is for the tombstone of an object without a record, or with an edited one, which may name the
    /// key of another consumer.
    pub fn unclaimed_key(&self) -> ConsumerKey {
        ConsumerKey::derive(&self.cluster_id, &format!("removed/{}", self.uid))
    }
}

// === impl Stored ===

impl Stored {
    /// Whether a consumer with the right secret may sign in.
    pub fn allows_signin(&self) -> bool {
        self.intact && self.record.state == State::Approved && self.record.phc().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::fixture::approved;

    #[test]
    fn a_decision_is_dated_when_it_is_committed_first() {
        let (record, later) = (approved().record, Timestamp::MAX);
        let date = |record: Record| record.decision.map(|decision| decision.at);
        assert_eq!(date(record.clone().dated(Some(&record), later)), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(date(record.clone().dated(None, later)), Some(later));
        assert_eq!(date(Record { decision: None, ..record }.dated(None, later)), None);
    }
}
