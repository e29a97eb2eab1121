//! A hold outlasts every pipeline: it is lifted on purpose, or it stays.

use std::process::{Command, Output};

use oauthconsumer_operator::api::{OAuthConsumer, crd};
use serde_json::{Value, json};

use super::{MANAGER, approved, hold, object, people, with};
use crate::support::chart::{self, Guard};
use crate::support::{Cluster, kubeconfig, kubectl};

/// An account that may do everything with consumers and Secrets, approve included.
const PIPELINE: &str = "configure-server";

/// How a tool brings a manifest to the API server: what it has kubectl do, or does itself in the same way.
#[derive(Clone, Copy, Debug)]
enum Tool {
    ServerSideApply(&'static str),
    ClientSideApply(&'static str),
    Replace(&'static str),
    MergePatch,
    JsonPatch,
}

const TOOLS: [Tool; 9] = [
    Tool::ServerSideApply("kustomize-controller"),
    Tool::ClientSideApply("kubectl-client-side-apply"),
    Tool::Replace("kubectl-replace"),
    Tool::MergePatch,
    Tool::JsonPatch,
    // What Argo CD does: by default, with ServerSideApply=true, and with Replace=true.
    Tool::ClientSideApply("argocd-controller"),
    Tool::ServerSideApply("argocd-controller"),
    Tool::Replace("argocd-controller"),
    Tool::ServerSideApply("helm"),
];

fn as_user(cluster: &Cluster, user: &str, args: &[&str]) -> Output {
    kubectl(&cluster.namespace, &[&["--as", user], args].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn succeeds(what: &str, output: &Output) {
    assert!(output.status.success(), "{what}: {}", said(output));
}

/// Has a user bring a manifest to the API server, with this tool.
fn sync(cluster: &Cluster, user: &str, tool: Tool, manifest: &Value) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), manifest.to_string()).unwrap();
    let (path, name) = (file.path().to_str().unwrap(), manifest["metadata"]["name"].as_str().unwrap());
    let mut spec = manifest["spec"].clone();
    match tool {
        Tool::ServerSideApply(manager) => {
            as_user(cluster, user, &["apply", "--server-side", "--force-conflicts", "--field-manager", manager, "-f", path])
        }
        Tool::ClientSideApply(manager) => as_user(cluster, user, &["apply", "--field-manager", manager, "-f", path]),
        Tool::Replace(manager) => as_user(cluster, user, &["replace", "--field-manager", manager, "-f", path]),
        Tool::MergePatch => {
            if spec["hold"].is_null() {
                spec["hold"] = Value::Null;
            }
            as_user(cluster, user, &["patch", "oac", name, "--type=merge", "-p", &json!({ "spec": spec }).to_string()])
        }
        Tool::JsonPatch => {
            let replaced = json!([{ "op": "replace", "path": "/spec", "value": spec }]);
            as_user(cluster, user, &["patch", "oac", name, "--type=json", "-p", &replaced.to_string()])
        }
    }
}

/// Makes the object of a manifest, as this tool does.
fn make(cluster: &Cluster, tool: Tool, manifest: &Value) {
    let made = match tool {
        Tool::ServerSideApply(_) | Tool::ClientSideApply(_) => sync(cluster, PIPELINE, tool, manifest),
        Tool::Replace(_) | Tool::MergePatch | Tool::JsonPatch => {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), manifest.to_string()).unwrap();
            as_user(cluster, PIPELINE, &["create", "-f", file.path().to_str().unwrap()])
        }
    };
    succeeds(&format!("{tool:?}"), &made);
}

fn patch(cluster: &Cluster, user: &str, name: &str, spec: &Value) -> Output {
    let patch = json!({ "spec": spec }).to_string();
    as_user(cluster, user, &["patch", "oac", name, "--type=merge", "--field-manager", MANAGER, "-p", &patch])
}

fn reason(object: &OAuthConsumer) -> Option<&str> {
    object.spec.hold.as_ref().map(|hold| hold.reason.as_str())
}

/// Types the command that a refused lift names, as an approver.
fn type_what_it_says(refusal: &str) {
    let start = refusal.find("types: kubectl ").unwrap_or_else(|| panic!("no command: {refusal}")) + "types: ".len();
    let command = refusal[start..].lines().next().unwrap();
    let typed = Command::new("sh").args(["-c", &format!("{command} --as approver")]).env("KUBECONFIG", kubeconfig()).output();
    succeeds(command, &typed.unwrap());
}

async fn a_hold_outlasts_what_a_pipeline_does(guard: Guard) {
    let cluster = chart::guarded(Guard::Deny).await;
    people(&cluster).await;
    let manifests: Vec<_> = (0..TOOLS.len()).map(|i| object(&format!("jazz-{i}"), approved())).collect();
    for (tool, manifest) in TOOLS.into_iter().zip(&manifests) {
        make(&cluster, tool, manifest);
    }
    // Approvals are made where they are stamped; what follows, also where nothing is.
    chart::bind(&cluster, guard).await;
    for (tool, manifest) in TOOLS.into_iter().zip(&manifests) {
        let name = manifest["metadata"]["name"].as_str().unwrap();
        let held = |reason: &str| object(name, with(approved(), "hold", hold(reason)));
        succeeds("hold", &patch(&cluster, "editor", name, &json!({ "hold": hold("leaked, INC-1234") })));
        // Whether or not this tool would take away what it does not know.
        sync(&cluster, PIPELINE, tool, manifest);
        assert_eq!(reason(&cluster.get(name).await), Some("leaked, INC-1234"), "{tool:?}");

        // An editor makes the hold the pipeline's own: the whole spec in the pipeline's way and under its name.
        succeeds(&format!("{tool:?}"), &sync(&cluster, "editor", tool, &held("nothing of importance")));
        let synced = sync(&cluster, PIPELINE, tool, manifest);
        let refusal = said(&synced);
        assert!(!synced.status.success(), "{tool:?} has lifted the hold: {refusal}");
        assert!(refusal.contains("lifting a hold takes a request with the field manager oauthconsumers-approval"), "{refusal}");
        assert_eq!(reason(&cluster.get(name).await), Some("nothing of importance"), "{tool:?}");

        // Until an approver types what the refusal says. Then the pipeline finds nothing left to do.
        type_what_it_says(&refusal);
        assert_eq!(reason(&cluster.get(name).await), None, "{tool:?}");
        succeeds(&format!("{tool:?}"), &sync(&cluster, PIPELINE, tool, manifest));
        let object = cluster.get(name).await;
        assert_eq!((reason(&object), object.spec.approved), (None, Some(true)), "{tool:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlasts_every_pipeline() {
    a_hold_outlasts_what_a_pipeline_does(Guard::Deny).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlasts_every_pipeline_where_nothing_is_stamped() {
    a_hold_outlasts_what_a_pipeline_does(Guard::Unstamped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlasts_every_pipeline_on_kubernetes_1_33() {
    a_hold_outlasts_what_a_pipeline_does(Guard::Kubernetes133).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_a_pipeline_has_set_itself_is_lifted_by_a_person() {
    let cluster = chart::guarded(Guard::Deny).await;
    people(&cluster).await;
    for (i, tool) in
        [Tool::ServerSideApply("kustomize-controller"), Tool::ClientSideApply("argocd-controller")].into_iter().enumerate()
    {
        let name = format!("jazz-{i}");
        let (held, lifted) = (object(&name, with(approved(), "hold", hold("from Git"))), object(&name, approved()));
        make(&cluster, tool, &held);
        let refusal = said(&sync(&cluster, PIPELINE, tool, &lifted));
        assert_eq!(reason(&cluster.get(&name).await), Some("from Git"), "{tool:?}: {refusal}");
        type_what_it_says(&refusal);
        succeeds(&format!("{tool:?}"), &sync(&cluster, PIPELINE, tool, &lifted));
        assert_eq!(reason(&cluster.get(&name).await), None, "{tool:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_with_the_name_of_the_approvers_tool_lifts_nothing_by_the_way() {
    let cluster = chart::guarded(Guard::Deny).await;
    people(&cluster).await;
    let changes = [
        ("name", json!("Blues")),
        ("approved", json!(false)),
        ("secretRef", json!({ "name": "jazz-oauth", "key": "other" })),
        ("secretRef", json!({ "name": "other-oauth" })),
    ];
    for (i, tool) in
        [Tool::ServerSideApply(MANAGER), Tool::ClientSideApply(MANAGER), Tool::Replace(MANAGER)].into_iter().enumerate()
    {
        let name = format!("jazz-{i}");
        make(&cluster, tool, &object(&name, with(approved(), "hold", hold("leaked"))));
        for (field, value) in &changes {
            let synced = sync(&cluster, PIPELINE, tool, &object(&name, with(approved(), field, value.clone())));
            let refusal = said(&synced);
            assert!(
                !synced.status.success() && refusal.contains("changes nothing else in the spec"),
                "{tool:?}, {field}: {refusal}"
            );
        }
        let object = cluster.get(&name).await;
        assert_eq!((reason(&object), object.spec.name.as_str(), object.spec.approved), (Some("leaked"), "Jazz", Some(true)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_lift_says_what_to_type_also_to_those_who_may_not() {
    let cluster = chart::guarded(Guard::Deny).await;
    people(&cluster).await;
    make(&cluster, Tool::ServerSideApply("gitops"), &object("jazz", with(approved(), "hold", hold("leaked"))));
    let refusal = said(&patch(&cluster, "editor", "jazz", &json!({ "hold": null })));
    assert!(refusal.contains("lifting a hold needs the verb approve on oauthconsumers in namespace"), "{refusal}");
    assert!(
        refusal.contains("ask a holder of the ClusterRole oauthconsumers-approver there, who types: kubectl -n "),
        "{refusal}"
    );
    type_what_it_says(&refusal);
    assert_eq!(reason(&cluster.get("jazz").await), None);
}

#[test]
fn a_lift_is_compared_in_every_field_of_the_spec() {
    let approve = |version: &str| {
        let objects = chart::render(&["--set", "secrets.clusterWide=true", "--kube-version", version]);
        let is_it = |object: &&Value| {
            object["kind"] == "ValidatingAdmissionPolicy" && object["metadata"]["name"] == "oauthconsumers-approve"
        };
        objects.iter().find(is_it).unwrap().clone()
    };
    let policy = approve("1.36");
    assert_eq!(policy, approve("1.33"), "it is the same on every Kubernetes");
    let variables = policy["spec"]["variables"].as_array().unwrap();
    let compares = variables.iter().find(|variable| variable["name"] == "changesMore").unwrap()["expression"].as_str().unwrap();
    let crd = serde_json::to_value(crd()).unwrap();
    for version in crd["spec"]["versions"].as_array().unwrap() {
        let fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].as_object().unwrap();
        assert!(fields.contains_key("hold"));
        for field in fields.keys().filter(|field| *field != "hold") {
            let comparison = format!("object.spec.?{field} == oldObject.spec.?{field}");
            assert!(compares.contains(&comparison), "a lift may change spec.{field}: {compares}");
        }
    }
}
