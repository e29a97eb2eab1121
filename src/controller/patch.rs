//! Patches that name the object they mean: UID and resourceVersion are preconditions of each.
//! kube's own `finalizer()` tests neither, so it is not used here.

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

/// Says in `managedFields` whose writes these are.
pub(super) fn written_by() -> PatchParams {
    PatchParams { field_manager: Some(env!("CARGO_PKG_NAME").to_owned()), ..PatchParams::default() }
}

/// Puts our finalizer on the object, or takes it off; foreign finalizers stay.
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

/// A JSON patch (RFC 6902): a wrong UID fails its test (422); an outdated resourceVersion, put where the API server looks
/// for it, is a conflict (409).
fn preconditioned(object: &OAuthConsumer, path: &str, value: &Value) -> Result<Patch<OAuthConsumer>, Failure> {
    let operations = json!([
        { "op": "test", "path": "/metadata/uid", "value": object.uid() },
        { "op": "replace", "path": "/metadata/resourceVersion", "value": object.resource_version() },
        { "op": "add", "path": path, "value": value },
    ]);
    serde_json::from_value(operations).map(Patch::Json).map_err(|error| Failure::Internal(error.to_string()))
}
