//! Checks that the API server enforces who may approve. Only then does an approval count.
//!
//! The check is a dry run: reading the policy is not enough, because it may be unbound, only warn, or exclude a namespace. The
//! update also sets another name, because an update that changes nothing is never refused. Only a refusal by the policy itself
//! counts. After any other error the caller tries again.

use std::collections::HashMap;
use std::time::Instant;

use kube::ResourceExt;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use tracing::error;
use uuid::Uuid;

use super::Context;
use super::failure::{api, has_code, message};
use super::patch::{consumers, written_by};
use crate::api::{DECIDED, DECIDED_BY, OAuthConsumer, OAuthConsumerSpec};
use crate::consumer::{Failure, PolicyEnforced};

/// The part of a consumer name that is kept: a suffix has to fit into 255 characters.
const LONGEST_STEM: usize = 240;

/// The part of an object's name that is kept: a suffix has to fit into 253 characters.
const LONGEST_NAME_STEM: usize = 200;

/// Whether approvals count only where the policy is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum ApprovalProof {
    /// An approval counts if the policy `oauthconsumers-approve` refuses one by our own account.
    Required,
    /// Every account that may update an `OAuthConsumer` may approve it: for clusters that do not want the policies.
    Off,
}

/// The namespaces where the policy was enforced, and when that was checked.
#[derive(Default)]
pub(super) struct PolicyChecks(Mutex<HashMap<String, Instant>>);

// === impl PolicyChecks ===

impl PolicyChecks {
    /// Whether the policy is enforced for this object. Two dry runs try what our own account must not do: approve the object
    /// under another name, and create an approved one.
    pub(super) async fn check(&self, ctx: &Context, object: &OAuthConsumer) -> Result<PolicyEnforced, Failure> {
        let namespace = object.namespace().unwrap_or_default();
        let lifetime = ctx.settings.policy_check_lifetime;
        let is_fresh = |since: &Instant| since.elapsed() < lifetime;
        if ctx.settings.approval_proof == ApprovalProof::Off || self.0.lock().get(&namespace).is_some_and(is_fresh) {
            return Ok(PolicyEnforced::Enforced);
        }
        let asked = Instant::now();
        if refuses_update(ctx, object).await? && refuses_create(ctx, object).await? {
            let mut enforced = self.0.lock();
            // Deleted namespaces must not stay here.
            enforced.retain(|_, since| is_fresh(since));
            enforced.insert(namespace, asked);
            return Ok(PolicyEnforced::Enforced);
        }
        ctx.metrics.approvals_unproved.inc();
        // Cause: the policy is missing, was changed, does not bind this namespace, or does not deny. Or the controller's account has
        // the verb `approve`.
        // Next step: [restore the policy and approve again](../explanation/approval.md#recover).
        error!(
            object = format!("OAuthConsumer {namespace}/{}", object.name_any()),
            "the policy oauthconsumers-approve does not keep the controller itself from approving, so the approval does not count"
        );
        Ok(PolicyEnforced::Absent)
    }
}

/// Whether the policy forbids our account to approve this object under another name.
async fn refuses_update(ctx: &Context, object: &OAuthConsumer) -> Result<bool, Failure> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    // A name close to its own, so that other rules about names accept it.
    let near: String = object.spec.name.chars().take(LONGEST_STEM).collect();
    let other =
        [" (proof)", " (a proof)"].map(|suffix| format!("{near}{suffix}")).into_iter().find(|other| *other != object.spec.name);
    // With the UID, so that another object of this name is a conflict.
    let forbidden = json!({ "metadata": { "uid": object.uid() }, "spec": { "name": other, "approved": true } });
    let without_effect = PatchParams { dry_run: true, ..written_by() };
    let tried = consumers(&ctx.client, &namespace).patch(&name, &without_effect, &Patch::Merge(forbidden)).await;
    is_refused("patch", &namespace, &name, tried)
}

/// Whether the policy forbids our account to create an approved consumer like this one.
async fn refuses_create(ctx: &Context, object: &OAuthConsumer) -> Result<bool, Failure> {
    let namespace = object.namespace().unwrap_or_default();
    let near: String = object.name_any().chars().take(LONGEST_NAME_STEM).collect();
    let name = format!("{}-{}", near.trim_end_matches(['.', '-']), Uuid::new_v4().simple());
    // With its labels and annotations, so that other rules about them are met. Without the stamp, which only the API server sets.
    let mut annotations = object.annotations().clone();
    annotations.retain(|annotation, _| ![DECIDED, DECIDED_BY].contains(&annotation.as_str()));
    let spec = OAuthConsumerSpec { approved: Some(true), hold: None, consumer_key: None, ..object.spec.clone() };
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        labels: object.metadata.labels.clone(),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    let forbidden = OAuthConsumer { metadata, spec, status: None };
    let without_effect = PostParams { dry_run: true, field_manager: written_by().field_manager };
    is_refused("create", &namespace, &name, consumers(&ctx.client, &namespace).create(&without_effect, &forbidden).await)
}

/// Whether the policy itself refused. Any other refusal proves nothing, even if it quotes the policy. So the beginning of the
/// message is compared, where the API server names the object and the policy.
fn is_refused(verb: &str, namespace: &str, name: &str, tried: kube::Result<OAuthConsumer>) -> Result<bool, Failure> {
    let Err(error) = tried else { return Ok(false) };
    let refusal = format!(
        "oauthconsumers.oauthconsumers.dev \"{name}\" is forbidden: ValidatingAdmissionPolicy 'oauthconsumers-approve' with binding '"
    );
    if has_code(&error, 403) && message(&error).starts_with(&refusal) {
        return Ok(true);
    }
    let what = format!("OAuthConsumer {namespace}/{name} in a dry run that tests the policy oauthconsumers-approve");
    Err(api(verb, &what, &error))
}
