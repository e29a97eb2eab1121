//! Patches with UID and resourceVersion as preconditions. kube's own `finalizer()` checks neither, so it is not used here.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::failure::api;
use crate::api::{FINALIZER, OAuthConsumer, OAuthConsumerStatus};
use crate::consumer::Failure;

pub(super) fn consumers(client: &Client, namespace: &str) -> Api<OAuthConsumer> {
    Api::namespaced(client.clone(), namespace)
}

pub(super) fn secrets(client: &Client, namespace: &str) -> Api<Secret> {
    Api::namespaced(client.clone(), namespace)
}

/// Names the operator in `managedFields`.
pub(super) fn written_by() -> PatchParams {
    PatchParams { field_manager: Some(env!("CARGO_PKG_NAME").to_owned()), ..PatchParams::default() }
}

/// Adds or removes our finalizer. Other finalizers stay.
pub(super) async fn finalizer(client: &Client, object: &OAuthConsumer, present: bool) -> Result<OAuthConsumer, Failure> {
    let mut finalizers: Vec<_> = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    if present {
        finalizers.push(FINALIZER.to_owned());
    }
    let patch = preconditioned(object, "/metadata/finalizers", &json!(finalizers))?;
    let namespace = object.namespace().unwrap_or_default();
    let result = consumers(client, &namespace).patch(&object.name_any(), &written_by(), &patch).await;
    result.map_err(|error| api("patch", &described(object), &error))
}

/// Replaces the status as a whole.
pub(super) async fn status(
    client: &Client,
    object: &OAuthConsumer,
    status: &OAuthConsumerStatus,
) -> Result<OAuthConsumer, Failure> {
    let patch = preconditioned(object, "/status", &json!(status))?;
    let namespace = object.namespace().unwrap_or_default();
    let result = consumers(client, &namespace).patch_status(&object.name_any(), &written_by(), &patch).await;
    result.map_err(|error| api("patch", &format!("the status of {}", described(object)), &error))
}

fn described(object: &OAuthConsumer) -> String {
    format!("OAuthConsumer {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// A JSON patch (RFC 6902). Another UID fails the test (422). The API server takes an outdated resourceVersion for a conflict
/// (409).
fn preconditioned(object: &OAuthConsumer, path: &str, value: &Value) -> Result<Patch<OAuthConsumer>, Failure> {
    let operations = json!([
        { "op": "test", "path": "/metadata/uid", "value": object.uid() },
        { "op": "replace", "path": "/metadata/resourceVersion", "value": object.resource_version() },
        { "op": "add", "path": path, "value": value },
    ]);
    serde_json::from_value(operations).map(Patch::Json).map_err(|error| Failure::Internal(error.to_string()))
}
