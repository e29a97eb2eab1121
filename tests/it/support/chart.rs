//! What the Helm chart makes, as the tests put it on their API server.

use std::process::Command;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use oauthconsumer_operator::api::{DECIDED_BY, OAuthConsumer};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::cluster::{Cluster, client_of, eventually};

/// The user that the chart gives to the controller.
pub const CONTROLLER: &str = "system:serviceaccount:oac-system:oac-controller";

/// The label that says how the policies bind a namespace of the tests. The policies are there once for all tests, but most tests
/// are about something else.
const POLICIES: &str = "tests.oauthconsumers.dev/policies";

const APPROVE: &str = "oauthconsumers-approve";
const STAMP: &str = "oauthconsumers-stamp";

/// The chart's `oauthconsumers-stamp` for Kubernetes 1.33, beside the one for 1.36.
const OLD_STAMP: &str = "tests-stamp-of-1.33";

/// A policy of other people's.
const QUOTING: &str = "tests-quoting";

const GUARDS: [Guard; 10] = [
    Guard::Deny,
    Guard::Warn,
    Guard::Audit,
    Guard::Excluded,
    Guard::Unstamped,
    Guard::Kubernetes133,
    Guard::Emptied,
    Guard::WithoutCreate,
    Guard::WithoutUpdate,
    Guard::Quoted,
];

/// Who tries out whether the policies are at work.
const PROBE: &str = "probe";

/// How a namespace is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// As the chart does it.
    Deny,
    /// The policies are bound, but only warn.
    Warn,
    /// The policies are bound, but only write it down.
    Audit,
    /// No binding of the policies includes the namespace.
    Excluded,
    /// As the chart does it, but for the stamp: the API server cannot set it.
    Unstamped,
    /// As the chart does it on Kubernetes 1.33, which knows no stamp.
    Kubernetes133,
    /// As the chart does it, but the first validation of `oauthconsumers-approve` was emptied: it is `true`.
    Emptied,
    /// As the chart does it, but `oauthconsumers-approve` is not asked about creations.
    WithoutCreate,
    /// As the chart does it, but `oauthconsumers-approve` is not asked about updates.
    WithoutUpdate,
    /// As the chart does it, but in place of `oauthconsumers-approve` another policy refuses what the controller tries out, with
    /// a message that quotes the consumer's name.
    Quoted,
}

/// What `helm template` makes of the chart, as the release `oac` in the namespace `oac-system`.
pub fn render(args: &[&str]) -> Vec<Value> {
    let rendered = Command::new("helm")
        .args(["template", "oac", "charts/oauthconsumer-operator", "--namespace", "oac-system", "--kube-version", "1.36"])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("tests need the helm of `dev/with-control-plane.sh`");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let documents: Vec<Value> = serde_yaml::from_slice_multiple(&rendered.stdout).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// A namespace under the policies, in which the controller has what the chart gives it.
pub async fn guarded(guard: Guard) -> Cluster {
    static POLICED: OnceCell<()> = OnceCell::const_new();
    let cluster = Cluster::new().await;
    POLICED.get_or_init(|| install_policies(&cluster.client)).await;
    bind(&cluster, guard).await;
    let rights = render(&["--set", &format!("namespaces={{{}}}", cluster.namespace)]);
    for right in rights.iter().filter(|object| is_right_of_controller(object)) {
        apply(&cluster.client, right.clone()).await;
    }
    cluster
}

/// Changes how a namespace is guarded, and waits until it is.
pub async fn bind(cluster: &Cluster, guard: Guard) {
    let patch = Patch::Merge(json!({ "metadata": { "labels": { POLICIES: guard.label() } } }));
    Api::<Namespace>::all(cluster.client.clone()).patch(&cluster.namespace, &PatchParams::default(), &patch).await.unwrap();
    grant(&cluster.client, &cluster.namespace, PROBE, "oauthconsumers-editor").await;
    allow(&cluster.client, &cluster.namespace, PROBE, ("", "secrets", "get")).await;
    let consumers: Api<OAuthConsumer> = Api::namespaced(client_of(PROBE).await, &cluster.namespace);
    let try_out = |approved: bool| {
        let spec = json!({ "name": "Probe", "secretRef": { "name": "probe" }, "approved": approved });
        let object = json!({ "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": "probe" }, "spec": spec });
        let consumers = consumers.clone();
        async move {
            consumers
                .create(&PostParams { dry_run: true, ..PostParams::default() }, &serde_json::from_value(object).unwrap())
                .await
        }
    };
    eventually("the policies are as they are to be", || async {
        let refused = try_out(true).await.is_err_and(|error| error.to_string().contains("oauthconsumers-approve"));
        // The stamp is set where the policies are bound, whatever they do about what they refuse.
        let stamped = try_out(false).await.is_ok_and(|object| object.annotations().get(DECIDED_BY).is_some_and(|by| by == PROBE));
        refused == guard.refuses_approved_creation() && stamped == guard.stamps()
    })
    .await;
}

/// Gives a user what is in this `ClusterRole`, in a namespace.
pub async fn grant(client: &Client, namespace: &str, user: &str, role: &str) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": format!("{user}-{role}"), "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    });
    apply(client, binding).await;
}

/// Gives a user a Role of this one rule in a namespace, and waits until the API server goes by it.
pub async fn allow(client: &Client, namespace: &str, user: &str, (group, resource, verb): (&str, &str, &str)) {
    let name = format!("{user}-{verb}-{}", resource.replace('/', "-"));
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": name, "namespace": namespace },
        "rules": [{ "apiGroups": [group], "resources": [resource], "verbs": [verb] }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": name, "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    });
    apply(client, role).await;
    apply(client, binding).await;
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let asked = json!({ "spec": { "user": user, "resourceAttributes": {
        "namespace": namespace, "group": group, "resource": resource, "subresource": subresource, "verb": verb,
    } } });
    let asked: SubjectAccessReview = serde_json::from_value(asked).unwrap();
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    eventually("the role counts", || async {
        reviews.create(&PostParams::default(), &asked).await.unwrap().status.is_some_and(|status| status.allowed)
    })
    .await;
}

/// Server-side apply of any object.
pub async fn apply(client: &Client, object: Value) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    // All kinds here have regular plurals.
    let plural = match kind.to_lowercase() {
        kind if kind.ends_with('y') => format!("{}ies", kind.trim_end_matches('y')),
        kind => format!("{kind}s"),
    };
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &kind), &plural);
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        namespace if namespace.is_empty() => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), &namespace, &resource),
    };
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap();
}

fn is_right_of_controller(object: &Value) -> bool {
    let kind = object["kind"].as_str().unwrap();
    let is_right = ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"].contains(&kind);
    is_right && object["metadata"]["name"].as_str().unwrap().ends_with("oac-controller")
}

/// The policies and the people's roles, as the chart has them; but each binding for the namespaces that are labelled for it.
async fn install_policies(client: &Client) {
    let mut objects = render(&["--set", "secrets.clusterWide=true"]);
    let mut old_stamp = render(&["--set", "secrets.clusterWide=true", "--kube-version", "1.33"]);
    old_stamp.retain(|object| object["kind"] == "ValidatingAdmissionPolicy" && object["metadata"]["name"] == STAMP);
    let [mut old_stamp] = <[Value; 1]>::try_from(old_stamp).unwrap();
    old_stamp["metadata"]["name"] = json!(OLD_STAMP);
    objects.extend([old_stamp, quoting_policy()]);
    // The one that is tried out comes last: when the API server knows it, it knows them all.
    objects.sort_by_key(|object| {
        let kind = object["kind"].as_str().unwrap();
        (kind.ends_with("Binding"), object["metadata"]["name"] == APPROVE)
    });
    apply(client, quoting_binding()).await;
    for mut object in objects {
        let (kind, name) = (object["kind"].as_str().unwrap().to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned());
        let is_peoples = kind == "ClusterRole" && name.starts_with("oauthconsumers-");
        if kind.ends_with("PolicyBinding") {
            for guard in GUARDS {
                if let Some(binding) = guard.binding(&object) {
                    apply(client, binding).await;
                }
            }
        } else if kind.ends_with("Policy") && kind.contains("Admission") || is_peoples {
            if name == APPROVE {
                let first = &mut object["spec"]["validations"][0]["expression"];
                let label = format!("namespaceObject.metadata.?labels[?'{POLICIES}'].orValue('')");
                *first = json!(format!("{label} == {} || ({})", Guard::Emptied.label(), first.as_str().unwrap()));
            }
            apply(client, object).await;
        }
    }
}

/// Refuses every dry run of the controller, in the words that an editor chose.
fn quoting_policy() -> Value {
    let rule = json!({
        "apiGroups": ["oauthconsumers.dev"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
        "resources": ["oauthconsumers"],
    });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": { "name": QUOTING },
        "spec": {
            "matchConstraints": { "resourceRules": [rule] },
            "validations": [{
                "expression": format!("request.userInfo.username != '{CONTROLLER}' || !request.?dryRun.orValue(false)"),
                "reason": "Forbidden",
                "messageExpression": "'the name ' + object.spec.name + ' is not a good one'",
            }],
        },
    })
}

fn quoting_binding() -> Value {
    let namespaces = json!({ "matchLabels": { POLICIES: Guard::Quoted.label() } });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": QUOTING },
        "spec": { "policyName": QUOTING, "validationActions": ["Deny"], "matchResources": { "namespaceSelector": namespaces } },
    })
}

// === impl Guard ===

impl Guard {
    fn label(self) -> Value {
        match self {
            Self::Deny => json!("deny"),
            Self::Warn => json!("warn"),
            Self::Audit => json!("audit"),
            Self::Excluded => Value::Null,
            Self::Unstamped => json!("unstamped"),
            Self::Kubernetes133 => json!("kubernetes-1.33"),
            Self::Emptied => json!("emptied"),
            Self::WithoutCreate => json!("without-create"),
            Self::WithoutUpdate => json!("without-update"),
            Self::Quoted => json!("quoted"),
        }
    }

    /// Whether `oauthconsumers-approve` keeps an editor from creating an approved consumer.
    fn refuses_approved_creation(self) -> bool {
        matches!(self, Self::Deny | Self::Unstamped | Self::Kubernetes133 | Self::WithoutUpdate)
    }

    fn stamps(self) -> bool {
        !matches!(self, Self::Excluded | Self::Unstamped | Self::Kubernetes133)
    }

    /// The chart's binding of a policy, for the namespaces that are guarded like this; none if the policy is not bound there.
    fn binding(self, chart: &Value) -> Option<Value> {
        let (kind, policy) = (chart["kind"].as_str().unwrap(), chart["spec"]["policyName"].as_str().unwrap());
        let is_left_out = kind.starts_with("Mutating") && !self.stamps() || self == Self::Quoted && policy == APPROVE;
        if is_left_out || self == Self::Excluded {
            return None;
        }
        let label = self.label().as_str().unwrap().to_owned();
        let mut binding = chart.clone();
        binding["metadata"]["name"] = json!(format!("{}-{label}", chart["metadata"]["name"].as_str().unwrap()));
        let mut matched = json!({ "namespaceSelector": { "matchLabels": { POLICIES: label } } });
        let left = match self {
            Self::WithoutCreate => Some("UPDATE"),
            Self::WithoutUpdate => Some("CREATE"),
            _ => None,
        };
        if let Some(operation) = left.filter(|_| policy == APPROVE) {
            matched["resourceRules"] = json!([{
                "apiGroups": ["oauthconsumers.dev"], "apiVersions": ["v1alpha1"], "operations": [operation], "resources": ["oauthconsumers"],
            }]);
        }
        binding["spec"]["matchResources"] = matched;
        if kind.starts_with("Validating") {
            let action = match self {
                Self::Warn => "Warn",
                Self::Audit => "Audit",
                _ => "Deny",
            };
            binding["spec"]["validationActions"] = json!([action]);
            if self == Self::Kubernetes133 && policy == STAMP {
                binding["spec"]["policyName"] = json!(OLD_STAMP);
            }
        }
        Some(binding)
    }
}
