//! What was seen before a decision, in the words of the domain.

use super::{ConsumerKey, Owner, SecretLimits, SecretProblem, SecretSource, SecretValue, Stored};

/// Everything a decision rests on. Two controllers that observe the same decide the same.
#[derive(Clone)]
pub struct Observed {
    /// The object's owner identity in the store.
    pub owner: Owner,
    /// The installation that the record is to name.
    pub installation: String,
    /// The bounds of a secret.
    pub limits: SecretLimits,
    /// The object, or nothing if it is gone (or another object has taken its name).
    pub object: Option<Object>,
    /// Its Secret.
    pub secret: SecretSeen,
    /// Its record. Read *before* object and Secret were looked at.
    pub record: Option<Stored>,
    /// Whether a new approval counts: false when the API server was found not to ask whether people may approve.
    pub approvals_count: bool,
    /// Whether this process knows the record's hash to be the hash of the Secret's value, so that none has to be computed.
    pub hash_is_known: bool,
}

/// An `OAuthConsumer`, reduced to what decisions rest on.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.generation`: counts the changes of the spec.
    pub generation: i64,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Whether our finalizer is on it.
    pub has_finalizer: bool,
    /// The finalizers of others.
    pub other_finalizers: Vec<String>,
    /// `spec.name`.
    pub consumer_name: String,
    /// `spec.secretRef`.
    pub secret_ref: SecretRef,
    /// `spec.approved`.
    pub approved: Option<bool>,
    /// Who decided that, in the words of the API server's stamp.
    pub decided_by: Option<String>,
    /// `spec.hold.reason`.
    pub hold: Option<String>,
    /// `spec.consumerKey`: a key brought along.
    pub adopted_key: Option<ConsumerKey>,
    /// `status.consumerKey`: the key that was published.
    pub published_key: Option<String>,
    /// Whether `status.state` says that it is revoked.
    pub says_revoked: bool,
    /// `status.unprovedApproval`: the generation of an approval that does not count.
    pub unproved_approval: Option<i64>,
}

/// Which Secret, and which key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// The Secret's name.
    pub name: String,
    /// The data key.
    pub key: String,
}

/// What is known of the Secret.
#[derive(Clone)]
pub enum SecretSeen {
    /// It could not be looked for, or was not: as good as no news. A list that was refused or is late is no list of nothing.
    Unknown,
    /// There is none.
    Missing,
    /// It is there in this version; its content was not read.
    Unread(SecretSource),
    /// It was read.
    Read(SecretSource, Result<SecretValue, SecretProblem>),
}

// === impl Object ===

impl Object {
    /// Whether the object itself says that nobody is to sign in.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.approved != Some(true) || self.hold.is_some() || self.deleting
    }
}

// === impl Observed ===

impl Observed {
    /// The record, if it is not a tombstone.
    #[must_use]
    pub fn live(&self) -> Option<&Stored> {
        self.record.as_ref().filter(|stored| !stored.record.is_removed())
    }

    /// The key that belongs to the object: its own, or the one it brought along.
    #[must_use]
    pub fn key_of(&self, object: &Object) -> ConsumerKey {
        let derived = || ConsumerKey::derive(&self.owner.cluster_id, &self.owner.uid);
        object.adopted_key.clone().unwrap_or_else(derived)
    }

    /// Whether the object's status carries a key that is not its own: forged, or restored from a backup of another object.
    #[must_use]
    pub fn has_foreign_key(&self, object: &Object) -> bool {
        object.published_key.as_deref().is_some_and(|published| published != self.key_of(object).as_str())
    }

    /// Whether a look shows an older version than the record rests on. Versions only grow, so the cluster's etcd was
    /// restored from a backup, and versions prove nothing any more. Not asked again once the recorded version is forgotten.
    #[must_use]
    pub fn shows_restored_cluster(&self) -> bool {
        let Some(record) = self.live().filter(|stored| stored.intact).map(|stored| &stored.record) else { return false };
        let Some(then) = record.secret_source.as_ref().filter(|then| !then.resource_version.is_empty()) else { return false };
        let rewound_object = self.object.as_ref().is_some_and(|object| object.generation < record.generation);
        let rewound_secret = match &self.secret {
            SecretSeen::Read(now, _) => now.uid == then.uid && older(&now.resource_version, &then.resource_version),
            SecretSeen::Unknown | SecretSeen::Missing | SecretSeen::Unread(_) => false,
        };
        rewound_object || rewound_secret
    }
}

/// Resource versions are decimal numbers of any length, comparable within one resource
/// ([Kubernetes API concepts](https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions)).
fn older(a: &str, b: &str) -> bool {
    matches!((a.parse::<u128>(), b.parse::<u128>()), (Ok(a), Ok(b)) if a < b)
}
