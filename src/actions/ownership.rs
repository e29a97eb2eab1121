//! Who else decides: a tool that sets `spec.approved` sets it again at its next sync.

use kube::ResourceExt;
use serde_json::Value;

use super::FIELD_MANAGER;
use crate::api::OAuthConsumer;

/// What `kubectl apply` keeps there is what it compares the next manifest with.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The tool that sets `spec.approved`: by server-side apply, or by `kubectl apply` and tools that do the same.
pub(super) fn other_decider(object: &OAuthConsumer) -> Option<String> {
    let applied = object.managed_fields().iter().find(|entry| {
        let owns = entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:approved").is_some());
        entry.operation.as_deref() == Some("Apply") && entry.manager.as_deref() != Some(FIELD_MANAGER) && owns
    });
    if let Some(entry) = applied {
        return Some(entry.manager.clone().unwrap_or_else(|| "another tool".to_owned()));
    }
    let last_applied = object.annotations().get(LAST_APPLIED)?;
    let manifest: Value = serde_json::from_str(last_applied).ok()?;
    manifest.pointer("/spec/approved").map(|_| "kubectl apply".to_owned())
}
