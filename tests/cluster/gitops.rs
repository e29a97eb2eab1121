//! Pipelines that apply consumers: Helm and Flux, as accounts that have nothing but their roles. Argo CD's health check is tested
//! with the other tests of a status.

mod flux;

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{
    Cluster, SECRET, TEAM, apply, binding, condition, consumer, decide, eventually, get, helm, key_of, kubectl, kubectl_as, run,
    secret, succeed, text, wait_for,
};
use flux::Flux;

const CONSUMERS: &str = "examples/gitops/chart";
/// What a lift is told that no approver has typed.
const LIFT: &str = "lifting a hold takes a request with the field manager oauthconsumers-approval";

const PIPELINE: &str = "--kube-as-user=requester";

/// What the examples' Secret holds.
const PLACEHOLDER: &str = "CHANGE-ME-jazz-consumer-secret";

/// `helm install`, `helm upgrade` of the team's consumers, by the account of a pipeline, that may edit and not approve.
fn pipeline(verb: &str, args: &[&str]) -> Output {
    run("helm", &[&[verb, "consumers", CONSUMERS, "-n", TEAM, PIPELINE, "--wait"], args].concat(), "")
}

fn decided(user: &str, name: &str, spec: &Value) {
    succeeds(&decide(user, name, spec));
}

/// Gives the account of a pipeline the role of an approver.
fn may_approve(username: &str) {
    apply(&[binding(TEAM, username, "oauthconsumers-approver")]);
    eventually("the role is seen", || kubectl_as(username, &["auth", "can-i", "approve", "oauthconsumers"]).status.success());
}

fn spec(name: &str) -> Value {
    get(TEAM, "oac", name)["spec"].clone()
}

fn decision(name: &str) -> Value {
    get(TEAM, "oac", name)["status"]["decision"].clone()
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

fn fails(output: &Output, words: &[&str]) {
    let said = text(output);
    assert!(!output.status.success(), "{said}");
    for words in words {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_waits_for_no_approval_and_keeps_the_one_that_comes() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    apply(&[secret(TEAM, "jazz-oauth", SECRET), secret(TEAM, "blues-oauth", SECRET)]);
    succeeds(&pipeline("install", &["--timeout=60s", "--set", "consumers.blues.name=Blues"]));
    assert_eq!(condition(TEAM, "jazz", "Approved"), "False/AwaitingApproval", "Helm waited until it was so");

    // Two ways to approve.
    decided("approver", "jazz", &json!({ "approved": true }));
    let approval = json!({
        "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer",
        "metadata": { "name": "blues", "namespace": TEAM }, "spec": { "approved": true },
    });
    let manager = "--field-manager=oauthconsumers-approval";
    succeed("kubectl", &["--as=approver", "apply", "--server-side", manager, "-f", "-"], &approval.to_string());
    let check = cluster.check();
    for name in ["jazz", "blues"] {
        check.answers(&key_of(TEAM, name), SECRET, 200);
        wait_for(TEAM, name, "Active", "True/Active");
    }

    // The next release changes one, adds one, and says nothing of approvals.
    let before = [decision("jazz"), decision("blues")];
    apply(&[secret(TEAM, "swing-oauth", SECRET)]);
    let args = ["--timeout=60s", "--set", "consumers.blues.name=Blues", "--set", "consumers.swing.name=Swing"];
    succeeds(&pipeline("upgrade", &args));
    assert!(!helm(&["get", "manifest", "consumers", "-n", TEAM]).contains("approved"));
    assert_eq!([decision("jazz"), decision("blues")], before);
    assert_eq!((&before[0]["by"], &spec("jazz")["approved"]), (&json!("approver"), &json!(true)));
    assert_eq!(condition(TEAM, "swing", "Approved"), "False/AwaitingApproval");

    // For whom somebody approved is not the pipeline's to change.
    let key = key_of(TEAM, "blues");
    let renamed = [&args[..], &["--set", "consumers.blues.name=Rhythm"]].concat();
    fails(&pipeline("upgrade", &renamed), &["renaming an approved consumer needs the verb approve", "oauthconsumers-approver"]);
    assert_eq!(spec("blues")["name"], "Blues");
    check.answers(&key, SECRET, 200);
    // Unless it may approve.
    may_approve("requester");
    succeeds(&pipeline("upgrade", &renamed));
    wait_for(TEAM, "blues", "Active", "True/Active");
    assert_eq!((spec("blues")["name"].as_str().unwrap(), key_of(TEAM, "blues")), ("Rhythm", key.clone()));
    check.answers(&key, SECRET, 200);

    helm(&["uninstall", "consumers", "-n", TEAM, PIPELINE, "--wait", "--timeout=60s"]);
    assert_eq!(kubectl(&["-n", TEAM, "get", "oac", "-o", "name"]), "");
    check.answers(&key, SECRET, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_waits_for_a_late_secret_and_not_for_an_unusable_one() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    std::thread::scope(|scope| {
        let helm = scope.spawn(|| pipeline("install", &["--timeout=60s"]));
        wait_for(TEAM, "jazz", "Ready", "False/SecretNotFound");
        assert!(!helm.is_finished());
        apply(&[secret(TEAM, "jazz-oauth", SECRET)]);
        succeeds(&helm.join().unwrap());
    });

    // Later than Helm has patience: the consumer comes without it, and the next release is a good one.
    let args = ["--set", "consumers.blues.name=Blues"];
    fails(&pipeline("upgrade", &[&args[..], &["--timeout=5s"]].concat()), &["blues", "not ready", "InProgress"]);
    apply(&[secret(TEAM, "blues-oauth", SECRET)]);
    wait_for(TEAM, "blues", "Ready", "True/Synced");
    succeeds(&pipeline("upgrade", &[&args[..], &["--timeout=60s"]].concat()));

    // Nothing but a person helps here: Helm does not wait for its timeout, and says what the matter is.
    apply(&[secret(TEAM, "swing-oauth", "too short")]);
    let failed = pipeline("upgrade", &["--set", "consumers.swing.name=Swing", "--timeout=90s"]);
    fails(&failed, &["swing", "Failed", "shorter than 16 bytes"]);
    assert!(!text(&failed).contains("deadline exceeded"), "{}", text(&failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_does_not_undo_an_emergency_disapproval() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    apply(&[secret(TEAM, "jazz-oauth", SECRET)]);
    may_approve("requester");
    let args = ["--timeout=60s", "--set", "consumers.jazz.approved=true"];
    succeeds(&pipeline("install", &args));
    let (check, key) = (cluster.check(), key_of(TEAM, "jazz"));
    check.answers(&key, SECRET, 200);
    assert_eq!(decision("jazz")["by"], "requester");

    decided("approver", "jazz", &json!({ "approved": false, "hold": { "reason": "leaked, INC-1234" } }));
    check.answers(&key, SECRET, 401);
    fails(&pipeline("upgrade", &args), &["conflict", "oauthconsumers-approval", ".spec.approved"]);
    assert_eq!(spec("jazz")["approved"], false);
    // Told to have its way, it has it; except for the hold, of which it knows nothing.
    succeeds(&pipeline("upgrade", &[&args[..], &["--force-conflicts"]].concat()));
    assert_eq!(spec("jazz")["approved"], true);
    wait_for(TEAM, "jazz", "Active", "False/OnHold");
    assert_eq!(check.ask(&key, SECRET).unwrap(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_waits_for_no_approval_and_keeps_the_one_that_comes() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let mut flux = Flux::start().await;
    flux.is_ready();
    assert_eq!(condition(TEAM, "jazz", "Approved"), "False/AwaitingApproval", "Flux waited until it was so");

    decided("approver", "jazz", &json!({ "approved": true }));
    wait_for(TEAM, "jazz", "Active", "True/Active");
    let (check, key) = (cluster.check(), key_of(TEAM, "jazz"));
    check.answers(&key, PLACEHOLDER, 200);
    let before = get(TEAM, "oac", "jazz");
    flux.sync();
    flux.is_ready();
    assert_eq!(get(TEAM, "oac", "jazz"), before, "nothing was written, not even the same again");

    // For whom somebody approved is not Flux's to change, and it says why.
    flux.edit("consumers/jazz.yaml", |file| file.replace("Jazz Team Server", "Something else"));
    flux.commit();
    let why = flux.is_not_ready();
    for words in ["renaming an approved consumer needs the verb approve", "oauthconsumers-approver"] {
        assert!(why.contains(words), "{why}");
    }
    check.answers(&key, PLACEHOLDER, 200);
    // An approver who agrees makes the same change, and Flux finds nothing left to do.
    decided("approver", "jazz", &json!({ "name": "Something else" }));
    flux.sync();
    flux.is_ready();
    assert_eq!((condition(TEAM, "jazz", "Active"), key_of(TEAM, "jazz")), ("True/Active".into(), key.clone()));

    // What Git does not have any more goes, with its record.
    flux.edit("consumers/kustomization.yaml", |file| file.replace("- jazz.yaml\n", ""));
    flux.commit();
    flux.is_ready();
    eventually("the consumer is gone", || get(TEAM, "oac", "jazz").is_null());
    check.answers(&key, PLACEHOLDER, 401);
    flux.edit("consumers/kustomization.yaml", |file| file.to_owned() + "- jazz.yaml\n");
    flux.commit();
    flux.is_ready();
    assert_ne!(key_of(TEAM, "jazz"), key);
    flux.uninstall();
    eventually("everything is gone", || get(TEAM, "oac", "jazz").is_null() && get(TEAM, "secret", "jazz-oauth").is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_waits_for_a_late_secret_and_recovers_from_an_unusable_one() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let mut flux = Flux::start().await;
    flux.is_ready();
    let late = consumer(TEAM, "late", &json!({}));
    std::fs::write(flux.folder.path().join("consumers/late.json"), late.to_string()).unwrap();
    flux.edit("consumers/kustomization.yaml", |file| file.to_owned() + "- late.json\n");
    flux.commit();
    wait_for(TEAM, "late", "Ready", "False/SecretNotFound");
    flux.is_waiting();
    // Only a person helps here: Flux does not wait for its timeout, and says with which it is over.
    apply(&[secret(TEAM, "late-oauth", "too short")]);
    let why = flux.is_not_ready();
    for words in ["stalled", "OAuthConsumer/team-a/late"] {
        assert!(why.contains(words), "{words:?} is not in: {why}");
    }
    // Nobody touches the consumer, or Flux.
    apply(&[secret(TEAM, "late-oauth", SECRET)]);
    flux.is_ready();
    assert_eq!(condition(TEAM, "late", "Ready"), "True/Synced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlasts_what_git_says() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let mut flux = Flux::start().await;
    flux.is_ready();
    // Git decides, so Flux's account may approve. Until then it is told that it may not.
    flux.edit("consumers/jazz.yaml", |file| file.to_owned() + "  approved: true\n");
    flux.commit();
    let why = flux.is_not_ready();
    assert!(why.contains("approving needs the verb approve"), "{why}");
    may_approve(flux::ACCOUNT);
    flux.is_ready();
    let (check, key) = (cluster.check(), key_of(TEAM, "jazz"));
    check.answers(&key, PLACEHOLDER, 200);
    assert_eq!(decision("jazz")["by"], flux::ACCOUNT);
    let before = get(TEAM, "oac", "jazz");
    flux.sync();
    assert_eq!(get(TEAM, "oac", "jazz"), before, "whose decision it is does not make it write again and again");

    // A disapproval alone does not last.
    decided("approver", "jazz", &json!({ "approved": false }));
    check.answers(&key, PLACEHOLDER, 401);
    flux.sync();
    check.answers(&key, PLACEHOLDER, 200);
    assert_eq!(decision("jazz")["by"], flux::ACCOUNT);

    // With a hold it does, although Git has its way with the rest. Every editor can do this.
    decided("requester", "jazz", &json!({ "approved": false, "hold": { "reason": "leaked, INC-1234" } }));
    check.answers(&key, PLACEHOLDER, 401);
    flux.sync();
    flux.is_ready();
    assert_eq!((&spec("jazz")["approved"], &spec("jazz")["hold"]), (&json!(true), &json!({ "reason": "leaked, INC-1234" })));
    wait_for(TEAM, "jazz", "Active", "False/OnHold");
    assert_eq!(check.ask(&key, PLACEHOLDER).unwrap(), 401);
    // An editor makes the hold Flux's own, with its field manager and in its way; Git does not have it, and Flux may approve.
    let mut stolen = get(TEAM, "oac", "jazz");
    stolen["metadata"] = json!({
        "name": "jazz", "namespace": TEAM,
        "labels": stolen["metadata"]["labels"], "annotations": { "kustomize.toolkit.fluxcd.io/ssa": "Merge" },
    });
    stolen["spec"]["hold"] = json!({ "reason": "nothing of importance" });
    stolen.as_object_mut().unwrap().remove("status");
    let theft =
        ["--as=requester", "apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", "-f", "-"];
    succeed("kubectl", &theft, &stolen.to_string());
    flux.sync();
    let why = flux.is_not_ready();
    for words in [LIFT, "kubectl -n team-a patch oac jazz --field-manager oauthconsumers-approval"] {
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(spec("jazz")["hold"]["reason"], "nothing of importance");
    assert_eq!(check.ask(&key, PLACEHOLDER).unwrap(), 401);
    // An approver ends it, and Flux goes on.
    fails(&decide("requester", "jazz", &json!({ "hold": null })), &["lifting a hold needs the verb approve"]);
    let unnamed = ["patch", "oac", "jazz", "--type=merge", "-p", r#"{"spec":{"hold":null}}"#];
    fails(&kubectl_as("approver", &unnamed), &[LIFT]);
    decided("approver", "jazz", &json!({ "hold": null }));
    check.answers(&key, PLACEHOLDER, 200);
    flux.sync();
    flux.is_ready();

    // A hold that Git itself has set stays, too, until a person lifts it.
    flux.edit("consumers/jazz.yaml", |file| file.to_owned() + "  hold: {reason: from Git}\n");
    flux.commit();
    flux.is_ready();
    check.answers(&key, PLACEHOLDER, 401);
    flux.edit("consumers/jazz.yaml", |file| file.replace("  hold: {reason: from Git}\n", ""));
    flux.commit();
    let why = flux.is_not_ready();
    assert!(why.contains(LIFT), "{why}");
    decided("approver", "jazz", &json!({ "hold": null }));
    flux.sync();
    flux.is_ready();
    check.answers(&key, PLACEHOLDER, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_leaves_what_plain_kubectl_set_because_of_the_annotation() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let mut flux = Flux::start().await;
    flux.is_ready();
    let (check, key) = (cluster.check(), key_of(TEAM, "jazz"));
    let hold = || {
        let patch = r#"{"spec":{"hold":{"reason":"leaked, INC-1234"}}}"#;
        succeeds(&kubectl_as("requester", &["patch", "oac", "jazz", "--type=merge", "-p", patch]));
    };
    // A decision without a field manager of its own.
    let approval = ["patch", "oac", "jazz", "--type=merge", "-p", r#"{"spec":{"approved":true}}"#];
    succeeds(&kubectl_as("approver", &approval));
    flux.sync();
    check.answers(&key, PLACEHOLDER, 200);
    hold();
    flux.sync();
    assert_eq!((&spec("jazz")["approved"], &spec("jazz")["hold"]), (&json!(true), &json!({ "reason": "leaked, INC-1234" })));
    assert_eq!(check.ask(&key, PLACEHOLDER).unwrap(), 401);

    decided("approver", "jazz", &json!({ "hold": null }));
    check.answers(&key, PLACEHOLDER, 200);

    // What the annotation is there for: without it Flux takes away an approval that was given with plain kubectl, ...
    flux.edit("consumers/jazz.yaml", |file| {
        file.replace("kustomize.toolkit.fluxcd.io/ssa: Merge", "an.example/other: annotation")
    });
    flux.commit();
    flux.is_ready();
    flux.sync();
    assert_eq!(spec("jazz")["approved"], Value::Null);
    wait_for(TEAM, "jazz", "Approved", "False/AwaitingApproval");
    // ... and not a hold: the sync fails and says what to type, also where Flux may approve.
    decided("approver", "jazz", &json!({ "approved": true }));
    hold();
    flux.sync();
    let why = flux.is_not_ready();
    assert!(why.contains("lifting a hold needs the verb approve"), "{why}");
    assert_eq!(check.ask(&key, PLACEHOLDER).unwrap(), 401);
    may_approve(flux::ACCOUNT);
    flux.sync();
    let why = flux.is_not_ready();
    assert!(why.contains(LIFT), "{why}");
    assert_eq!(check.ask(&key, PLACEHOLDER).unwrap(), 401);
    decided("approver", "jazz", &json!({ "hold": null }));
    flux.sync();
    flux.is_ready();
    check.answers(&key, PLACEHOLDER, 200);
}
