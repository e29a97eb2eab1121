//! Proof that the API server asks who may approve, before an approval counts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tracing::error;

use super::Context;
use super::failure::{api, message};
use super::patch::{consumers, written_by};
use crate::api::OAuthConsumer;
use crate::consumer::Failure;

/// The start of what the API server says when it is this policy that refuses.
const REFUSAL: &str = "ValidatingAdmissionPolicy 'oauthconsumers-approve' ";

/// Of a name, what leaves room for more: 255 characters is the most.
const LONGEST_STEM: usize = 240;

/// Whether approvals need a proof to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum ApprovalProof {
    /// An approval counts once the API server was seen to refuse one, by the policy `oauthconsumers-approve`.
    Required,
    /// Whoever may update an `OAuthConsumer` may approve it: for clusters that do not want the policies.
    Off,
}

/// In which namespaces the policy was seen at work, and when.
#[derive(Default)]
pub(super) struct Proofs(Mutex<HashMap<String, Instant>>);

// === impl Proofs ===

impl Proofs {
    /// Whether an approval of this object counts. Asks by trying, without effect, what our own account must not do: to approve
    /// the object under another name.
    pub(super) async fn of(&self, ctx: &Context, object: &OAuthConsumer) -> Result<bool, Failure> {
        let namespace = object.namespace().unwrap_or_default();
        if ctx.settings.approval_proof == ApprovalProof::Off || self.is_fresh(&namespace, ctx.settings.proof_lifetime) {
            return Ok(true);
        }
        let asked = Instant::now();
        // With the UID, so that another object of this name is a conflict; and nearly under its own name, which other people's
        // rules about names then have little to say about.
        let near: String = object.spec.name.chars().take(LONGEST_STEM).collect();
        let name =
            [" (proof)", " (a proof)"].map(|suffix| format!("{near}{suffix}")).into_iter().find(|name| *name != object.spec.name);
        let forbidden = json!({ "metadata": { "uid": object.uid() }, "spec": { "name": name, "approved": true } });
        let without_effect = PatchParams { dry_run: true, ..written_by() };
        let what = format!("OAuthConsumer {namespace}/{}", object.name_any());
        match consumers(&ctx.client, &namespace).patch(&object.name_any(), &without_effect, &Patch::Merge(forbidden)).await {
            Err(error)
                if matches!(&error, kube::Error::Api(status) if status.code == 403) && message(&error).contains(REFUSAL) =>
            {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace, asked);
                Ok(true)
            }
            Err(error) => Err(api("patch", &format!("{what} without effect, to see whether approvals are guarded"), &error)),
            Ok(_) => {
                ctx.metrics.approvals_unproved.inc();
                error!(
                    object = what,
                    "the API server lets the operator itself approve, so the policy oauthconsumers-approve is missing, does not \
                     bind this namespace, does not deny, or the operator was given the verb approve: the approval does not count"
                );
                Ok(false)
            }
        }
    }

    fn is_fresh(&self, namespace: &str, lifetime: Duration) -> bool {
        let proved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        proved.get(namespace).is_some_and(|since| since.elapsed() < lifetime)
    }
}
