//! The types of the resource. `kubectl explain oauthconsumers` prints their doc comments.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{LONGEST_USER, schema};

/// The consumer as it is to be: its name, its secret, and whether it is approved.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "oauthconsumers.dev",
    version = "v1alpha1",
    kind = "OAuthConsumer",
    plural = "oauthconsumers",
    shortname = "oac",
    namespaced,
    cel,
    status = "OAuthConsumerStatus",
    derive = "PartialEq",
    doc = "An OAuth consumer: an application that may use the server's API on behalf of users. To register one, create this \
           object. The consumer gets its key at once, and can sign in once it is approved.",
    printcolumn(name = "Consumer Name", type_ = "string", json_path = ".spec.name", description = "The consumer name, for people."),
    printcolumn(name = "Consumer Key", type_ = "string", json_path = ".status.consumerKey", description = "The key that the consumer signs in with. It never changes."),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.state", description = "The decision that the controllers honour."),
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].status"#,
        description = "Whether the consumer can sign in now."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the store holds exactly what this object says."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".spec.secretRef.name", priority = 1),
    printcolumn(name = "Decided By", type_ = "string", json_path = ".status.decision.by", priority = 1),
    printcolumn(name = "Decided", type_ = "date", json_path = ".status.decision.at", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].reason"#,
        description = "Why the consumer cannot sign in, or Active.",
        priority = 1
    ),
    selectable = ".spec.secretRef.name",
    selectable = ".status.consumerKey",
    selectable = ".status.state",
    validation = Rule::new(schema::KEY_IS_IMMUTABLE)
        .message("status.consumerKey is given once and never changes; leave it as it is")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.consumerKey) == has(oldSelf.consumerKey) && (!has(self.consumerKey) || self.consumerKey == oldSelf.consumerKey)")
        .message("spec.consumerKey can only be given when the object is created. To use another key, delete the object and create it again")
)]
pub struct OAuthConsumerSpec {
    /// The consumer name, for people. It can change and need not be unique. It has 1 to 255 characters, none of them a control,
    /// bidirectional or zero-width character.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = Rule::new(schema::IS_PLAIN_TEXT)
            .message("a consumer name must not contain control, bidirectional or zero-width characters; remove them")
    )]
    pub name: String,

    /// Where the consumer secret is: in a Secret of the same namespace. One field manager owns this field as a whole.
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub secret_ref: SecretReference,

    /// The decision: true approves, false disapproves, absent means that it is still to be made. Only an approved consumer can sign
    /// in. To set true takes the verb approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<bool>,

    /// Stops sign-in, whatever `approved` says. Any editor may set it. Only an approver lifts it: with the field manager
    /// oauthconsumers-approval, and in a request that changes nothing else. One field manager owns this field as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub hold: Option<Hold>,

    /// An existing consumer key, from another system or a rebuilt cluster. It can only be given when the object is created, and takes
    /// the verb adopt. No other consumer in the store may have it. It has 8 to 128 characters out of A-Z a-z 0-9 . _ ~ -. Without it,
    /// the consumer gets a new key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 128), regex(pattern = "^[A-Za-z0-9._~-]+$"))]
    pub consumer_key: Option<String>,
}

/// A key of a Secret in the same namespace. Its value is the consumer secret: 16 to 512 bytes of UTF-8 text without
/// control characters and without white space around it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub name: String,

    /// The data key in the Secret.
    #[serde(default = "SecretReference::default_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A hold on a consumer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Why, for people. It has 1 to 1024 characters, none of them a control, bidirectional or zero-width character. White space alone
    /// is not enough.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"[^\s\p{Z}]"))]
    #[x_kube(
        validation = Rule::new(schema::IS_PLAIN_TEXT)
            .message("the reason of a hold must not contain control, bidirectional or zero-width characters; remove them")
    )]
    pub reason: String,
}

/// What the controllers have seen and done. Only they write it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OAuthConsumerStatus {
    /// The consumer key, for sign-in. It is given once and never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 128))]
    pub consumer_key: Option<String>,

    /// The decision that the controllers honour, for people: `AwaitingApproval`, `Approved`, `Disapproved`, `OnHold` or `Revoked`.
    /// Later releases may add values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub state: Option<String>,

    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The last decision that counts.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub decision: Option<PublishedDecision>,

    /// The approval in spec.approved that does not count: the API server did not check who gave it. It stays here until a controller
    /// sees spec.approved without the value true.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub unproved_approval: Option<UnprovedApproval>,

    /// Ready: the store holds exactly what this object says. Active: the consumer can sign in now. Approved: the approval counts.
    /// SecretReady: the Secret holds a usable value. Stalled: waiting does not help, so a user must act; absent otherwise.
    #[serde(default, deserialize_with = "lenient")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// A decision, as committed to the store.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedDecision {
    /// Whether the consumer is approved (true) or disapproved (false).
    pub approved: bool,

    /// Who decided, as the API server stamped it. Absent without a stamp, as before Kubernetes 1.36.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = LONGEST_USER))]
    pub by: Option<String>,

    /// When the decision was committed to the store.
    #[schemars(schema_with = "schema::date_time")]
    pub at: Time,

    /// The generation of the spec in which the controller first saw the decision.
    pub generation: i64,
}

/// An approval that does not count.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnprovedApproval {
    /// The generation of the spec in which the controller first saw the approval.
    pub generation: i64,
}

/// Reads an unreadable field of a status as absent. Otherwise one bad object would make a whole list unreadable.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

// === impl SecretReference ===

impl SecretReference {
    fn default_key() -> String {
        "consumerSecret".to_owned()
    }
}
