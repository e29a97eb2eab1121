//! The input of a decision.

use jiff::Timestamp;

use super::{
    ConsumerKey, Owner, PolicyEnforced, Profile, Record, SecretLimits, SecretProblem, SecretSource, SecretValue, State, Stored,
};

/// All that a decision depends on. Two controllers with the same input decide the same.
#[derive(Clone)]
pub struct Observed {
    pub owner: Owner,
    /// The installation that the record is to name.
    pub installation: String,
    pub limits: SecretLimits,
    /// The object, or nothing if it is gone (or another object has taken its name).
    pub object: Option<Object>,
    pub secret: SecretSeen,
    /// Its record. Read *before* object and Secret.
    pub record: Option<Stored>,
    pub policy: PolicyEnforced,
    /// When this was seen, by the wall clock. A new decision has this date until it is [committed](Record::dated).
    pub now: Timestamp,
    /// Whether this process knows the record's hash to be the hash of the Secret's value, so that none has to be computed.
    pub hash_is_known: bool,
}

/// An `OAuthConsumer`, reduced to what decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub namespace: String,
    pub name: String,
    /// `metadata.generation`: counts the changes of the spec.
    pub generation: i64,
    pub deleting: bool,
    pub has_finalizer: bool,
    pub other_finalizers: Vec<String>,
    pub profile: Profile,
    pub secret_ref: SecretRef,
    pub approved: Option<bool>,
    /// Who decided that, as the API server stamped it.
    pub decided_by: Option<String>,
    pub hold: Option<String>,
    /// `spec.consumerKey`.
    pub adopted_key: Option<ConsumerKey>,
    pub published: Published,
}

/// The part of an object's status that decisions read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    pub key: Option<String>,
    pub state: Option<State>,
    pub unproved_approval: Option<i64>,
}

/// Which Secret, and which key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    pub name: String,
    pub key: String,
}

/// What is known of the Secret.
#[derive(Clone)]
pub enum SecretSeen {
    /// A list that was refused or is late does not show that a Secret is absent.
    Unknown,
    Missing,
    /// The Secret exists in this version; its content was not read.
    Unread(SecretSource),
    Read(SecretSource, Result<SecretValue, SecretProblem>),
}

// === impl Object ===

impl Object {
    /// Whether the object asks for sign-in to be possible.
    pub fn allows_signin(&self) -> bool {
        self.approved == Some(true) && self.hold.is_none() && !self.deleting
    }
}

// === impl Observed ===

impl Observed {
    /// The record, if it is not a tombstone.
    pub fn live(&self) -> Option<&Stored> {
        self.record.as_ref().filter(|stored| !stored.record.is_removed())
    }

    /// The record, if it is neither a tombstone nor an edited row.
    pub fn trusted(&self) -> Option<&Record> {
        self.live().filter(|stored| stored.intact).map(|stored| &stored.record)
    }

    /// Whether a write of the record repairs an edited or lost one.
    pub fn is_repair(&self) -> bool {
        let was_published = || self.object.as_ref().is_some_and(|object| object.published.key.is_some());
        self.live().map_or_else(was_published, |stored| !stored.intact)
    }

    /// The tombstone of the record, or of an object that never had one.
    pub fn tombstone(&self) -> Option<Record> {
        let record = match (&self.record, &self.object) {
            (Some(stored), _) if stored.intact => stored.record.clone(),
            (Some(stored), _) => Record { consumer_key: self.owner.unclaimed_key(), ..stored.record.clone() },
            (None, Some(object)) => Record { consumer_key: self.owner.unclaimed_key(), ..Record::of(self, object) },
            (None, None) => return None,
        };
        Some(record.removed())
    }

    /// The key of the object: adopted, or derived.
    pub fn key_of(&self, object: &Object) -> ConsumerKey {
        let derived = || ConsumerKey::derive(&self.owner.cluster_id, &self.owner.uid);
        object.adopted_key.clone().unwrap_or_else(derived)
    }

    /// Whether the object's status carries a key that is not its own: forged, or restored from a backup of another object.
    pub fn has_foreign_key(&self, object: &Object) -> bool {
        object.published.key.as_deref().is_some_and(|published| published != self.key_of(object).as_str())
    }

    /// Whether object or Secret are older than the record. Versions only grow, so etcd was restored from a backup, and an equal
    /// version proves nothing. False once the recorded version is forgotten.
    pub fn shows_restored_cluster(&self) -> bool {
        let Some(record) = self.trusted() else { return false };
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
