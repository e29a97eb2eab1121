//! The parts of the schema that types cannot express, and the finished CRD.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON, JSONSchemaProps};
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::OAuthConsumer;

/// A rule of the root, so that it also refuses to remove the whole status. A rule of a field does not run when the field is
/// removed.
pub(super) const KEY_IS_IMMUTABLE: &str = "!has(oldSelf.status) || !has(oldSelf.status.consumerKey) \
    || (has(self.status) && has(self.status.consumerKey) && self.status.consumerKey == oldSelf.status.consumerKey)";

/// Refuses control, bidirectional and zero-width characters. PostgreSQL, for example, cannot store NUL.
pub(super) const IS_PLAIN_TEXT: &str = r"!self.matches('[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}]')";

/// The schema of `metav1.Condition`, with the bounds that Kubernetes gives it, as a list-map by type.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the object's state.",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "What the condition is about: Ready, Active, Approved, SecretReady or Stalled."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether the condition holds."},
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the spec that the condition describes.",
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "description": "When the status of the condition last changed.",
                },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "Why, in one word, for programs.",
                },
                "message": {"type": "string", "maxLength": 32768, "description": "Why, for people, and what to do."},
            },
        },
    })
}

pub(super) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// The `CustomResourceDefinition`, as `oauthconsumer-operator crd` prints it and `crds/oauthconsumers.yaml` holds it.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = OAuthConsumer::crd();
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    for schema in schemas {
        refuse_null(schema);
        if let Some(status) = schema.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
            // A new object must not look finished to kstatus or `kubectl wait`.
            status.default = Some(JSON(json!({ "conditions": [pending("Ready"), pending("Active")] })));
        }
    }
    crd
}

/// An optional field is absent or has a value. Null would be a third case for every rule and policy. Without `nullable` the API
/// server
/// refuses null.
fn refuse_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(BTreeMap::values_mut).for_each(refuse_null);
}

/// A condition of an object that no controller has seen, as in Gateway API.
fn pending(kind: &str) -> Value {
    json!({
        "type": kind,
        "status": "Unknown",
        "reason": "Pending",
        "message": "Waiting for the controller. If this lasts, ask an administrator whether a controller manages this namespace.",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    })
}
