//! The `OAuthConsumer` resource: its types, its schema, and its translation to and from [`consumer`](crate::consumer). No I/O.

mod resource;
mod schema;
mod status;

pub use resource::{
    Hold, OAuthConsumer, OAuthConsumerSpec, OAuthConsumerStatus, PublishedDecision, SecretReference, UnprovedApproval,
};
pub use schema::crd;
pub use status::{render, same_but_for_times};

use kube::ResourceExt;

use crate::consumer::{ConsumerKey, Object, Profile, Published, SecretRef};

/// The finalizer that keeps an object until its record is removed.
pub const FINALIZER: &str = "oauthconsumers.dev/record";

/// The annotation in which the API server writes down who changed `spec.approved` last.
pub const DECIDED_BY: &str = "oauthconsumers.dev/decided-by";

/// The annotation with what that user decided: `true`, `false`, or `none`.
pub const DECIDED: &str = "oauthconsumers.dev/decided";

/// The longest `status.decision.by`, in characters.
const LONGEST_USER: usize = 1024;

// === impl OAuthConsumer ===

impl OAuthConsumer {
    /// The object, reduced to what decisions need.
    pub fn observed(&self) -> Object {
        let (metadata, spec) = (&self.metadata, &self.spec);
        let (ours, other_finalizers): (Vec<_>, Vec<_>) =
            metadata.finalizers.iter().flatten().cloned().partition(|finalizer| finalizer == FINALIZER);
        Object {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            has_finalizer: !ours.is_empty(),
            other_finalizers,
            profile: Profile { name: spec.name.clone() },
            secret_ref: SecretRef { name: spec.secret_ref.name.clone(), key: spec.secret_ref.key.clone() },
            approved: spec.approved,
            decided_by: self.decided_by(),
            hold: spec.hold.as_ref().map(|hold| hold.reason.clone()),
            // The schema admits only well-formed keys.
            adopted_key: spec.consumer_key.as_deref().and_then(|key| ConsumerKey::parse(key).ok()),
            published: self.status.as_ref().map(Published::from).unwrap_or_default(),
        }
    }

    /// The user in the stamp, if the stamp is of the decision in the spec. An API server that cannot stamp leaves an older stamp.
    fn decided_by(&self) -> Option<String> {
        let decision = match self.spec.approved {
            None => "none",
            Some(true) => "true",
            Some(false) => "false",
        };
        let is_of_another = self.annotations().get(DECIDED).is_some_and(|decided| decided != decision);
        let user = self.annotations().get(DECIDED_BY).filter(|user| user.chars().count() <= LONGEST_USER);
        user.filter(|_| !is_of_another).cloned()
    }
}
