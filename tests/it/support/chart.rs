//! What the Helm chart makes, as the tests put it on their API server.

use std::process::Command;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use oauthconsumer_operator::api::{DECIDED_BY, OAuthConsumer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::cluster::{Cluster, client_of, eventually};

/// The user that the chart gives to the controller.
pub const CONTROLLER: &str = "system:serviceaccount:oac-system:oac-controller";

/// The label that says how the policies bind a namespace of the tests. The policies are there once for all tests, but most tests
/// are about something else.
const POLICIES: &str = "tests.oauthconsumers.dev/policies";

/// Who tries out whether the policies are at work.
const PROBE: &str = "probe";

/// How a namespace is guarded.
#[derive(Clone, Copy, PartialEq, Eq)]
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
    let documents = serde_yaml::Deserializer::from_slice(&rendered.stdout);
    documents.map(|document| Value::deserialize(document).unwrap()).filter(|document| !document.is_null()).collect()
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
    let label = match guard {
        Guard::Deny => json!("deny"),
        Guard::Warn => json!("warn"),
        Guard::Audit => json!("audit"),
        Guard::Excluded => Value::Null,
        Guard::Unstamped => json!("unstamped"),
    };
    let patch = Patch::Merge(json!({ "metadata": { "labels": { POLICIES: label } } }));
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
        refused == matches!(guard, Guard::Deny | Guard::Unstamped)
            && stamped == !matches!(guard, Guard::Excluded | Guard::Unstamped)
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

/// Gives a user a Role of this one rule in a namespace.
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
    // The one that is tried out comes last: when the API server knows it, it knows them all.
    objects.sort_by_key(|object| {
        let kind = object["kind"].as_str().unwrap();
        (kind.ends_with("Binding"), object["metadata"]["name"] == "oauthconsumers-approve")
    });
    for mut object in objects {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let is_peoples = kind == "ClusterRole" && object["metadata"]["name"].as_str().unwrap().starts_with("oauthconsumers-");
        if kind.ends_with("PolicyBinding") {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            for (label, action) in [("deny", "Deny"), ("warn", "Warn"), ("audit", "Audit"), ("unstamped", "Deny")] {
                if label == "unstamped" && kind.starts_with("Mutating") {
                    continue;
                }
                object["metadata"]["name"] = json!(format!("{name}-{label}"));
                object["spec"]["matchResources"] = json!({ "namespaceSelector": { "matchLabels": { POLICIES: label } } });
                if kind.starts_with("Validating") {
                    object["spec"]["validationActions"] = json!([action]);
                }
                apply(client, object.clone()).await;
            }
        } else if kind.ends_with("Policy") && kind.contains("Admission") || is_peoples {
            apply(client, object).await;
        }
    }
}
