//! The `OAuthConsumer` resource: its types, its schema with the rules that the API server enforces, and how it
//! translates to and from the domain. No I/O.

mod resource;
mod schema;
mod status;

pub use resource::{OAuthConsumer, OAuthConsumerSpec, OAuthConsumerStatus, PublishedDecision, PublishedState, SecretReference};
pub use schema::crd;
pub use status::{render, same_but_for_times};

use crate::consumer::{ConsumerKey, Decision, Object, Published, SecretRef};

/// The finalizer that keeps an object until its record is removed.
pub const FINALIZER: &str = "oauthconsumers.dev/record";

// === impl OAuthConsumer ===

impl OAuthConsumer {
    /// The object in the words of the domain.
    #[must_use]
    pub fn observed(&self) -> Object {
        let (metadata, spec) = (&self.metadata, &self.spec);
        let status = self.status.clone().unwrap_or_default();
        Object {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            has_finalizer: metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER),
            consumer_name: spec.name.clone(),
            secret_ref: SecretRef { name: spec.secret_ref.name.clone(), key: spec.secret_ref.key.clone() },
            approved: spec.approved,
            hold: spec.hold.clone(),
            // The schema lets only well-formed keys in.
            adopted_key: spec.consumer_key.as_deref().and_then(|key| ConsumerKey::parse(key).ok()),
            published: Published {
                consumer_key: status.consumer_key,
                state: status.state.map(Into::into),
                decision: status.decision.map(|decision| Decision {
                    approved: decision.approved,
                    by: decision.by,
                    at: decision.at.0,
                    generation: decision.generation,
                }),
            },
        }
    }
}
