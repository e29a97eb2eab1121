//! Two installations in one cluster, each with namespaces of its own.

use serde_json::{Value, json};

use crate::support::{
    CHART, Check, Cluster, POSTGRES, Postgres, RELEASE, SECRET, SYSTEM, TEAM, apply, condition, consumer, eventually, fail, get,
    helm, key_of, kubectl, namespace, pods, secret, wait_for,
};

/// The second one.
const SECOND: &str = "second";
const SECOND_SYSTEM: &str = "second-system";
const SECOND_TEAM: &str = "team-b";
const SECOND_CONTROLLER: &str = "cluster.controllers={system:serviceaccount:second-system:second-controller}";

/// Sweeps often, so that whatever one of them might do to the other, it does now.
const SWEEPS: [&str; 2] = ["--set", "controller.sweepPeriod=1s"];

/// `helm install` or `helm upgrade` of the second one: what there is once in a cluster is there already.
fn second(verb: &str, args: &[&str]) {
    let fixed = [verb, SECOND, CHART, "-n", SECOND_SYSTEM, "--wait", "--timeout=90s", "--set", "namespaces={team-b}"];
    helm(&[&fixed[..], &["--set", "cluster.create=false"], &SWEEPS, args].concat());
}

/// Registers a consumer that is approved, as an administrator of the cluster.
fn register(namespace: &str, name: &str) {
    let spec = json!({ "approved": true });
    apply(&[secret(namespace, &format!("{name}-oauth"), SECRET), consumer(namespace, name, &spec)]);
}

fn set(namespace: &str, name: &str, spec: &Value) {
    let patch = json!({ "spec": spec }).to_string();
    kubectl(&["-n", namespace, "patch", "oac", name, "--type=merge", "--field-manager=oauthconsumers-approval", "-p", &patch]);
}

fn finalizers(namespace: &str, name: &str) -> Value {
    get(namespace, "oac", name)["metadata"]["finalizers"].clone()
}

/// How often the controllers of an installation have compared all records with all objects.
fn sweeps(system: &str) -> u64 {
    let count = |pod: &String| {
        let path = format!("/api/v1/namespaces/{system}/pods/{pod}:9090/proxy/metrics");
        let metrics = kubectl(&["get", "--raw", &path]);
        let line = metrics.lines().find_map(|line| line.strip_prefix("oauthconsumer_sweeps_total ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    pods(system, "controller").iter().map(count).sum()
}

/// Waits until both have swept several times.
fn both_have_swept() {
    for system in [SYSTEM, SECOND_SYSTEM] {
        let before = sweeps(system);
        eventually(&format!("{system} has swept"), || sweeps(system) >= before + 6);
    }
}

/// `helm upgrade --set uninstall.force=true`, after a refused `helm uninstall`, as the chart's README says.
fn force(release: &str, system: &str) {
    let releases: Value = serde_json::from_str(&helm(&["list", "-n", system, "-o", "json", "--uninstalling"])).unwrap();
    let revision = releases[0]["revision"].as_str().unwrap().to_owned();
    helm(&["rollback", release, &revision, "-n", system, "--wait", "--timeout=90s"]);
    let forced = ["--reset-then-reuse-values", "--set", "uninstall.force=true"];
    helm(&[&["upgrade", release, CHART, "-n", system, "--wait", "--timeout=90s"], &forced[..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_share_a_store_and_leave_each_other_alone() {
    let cluster = Cluster::alone().await;
    let postgres = Postgres::new().await;
    cluster.install_on(&postgres, &SWEEPS);
    [SECOND_SYSTEM, SECOND_TEAM].into_iter().for_each(namespace);
    postgres.secrets(SECOND_SYSTEM);
    second("install", &POSTGRES);
    register(TEAM, "jazz");
    register(SECOND_TEAM, "blues");
    wait_for(TEAM, "jazz", "Active", "True/Active");

    // Nobody has said that the second one's controller is one.
    let log = || kubectl(&["-n", SECOND_SYSTEM, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=-1"]);
    eventually("the second one is told", || {
        let told = ["is written by its controllers only", "oac-system:oac-controller", "cluster.controllers"];
        told.iter().all(|words| log().contains(words))
    });
    assert_eq!(condition(SECOND_TEAM, "blues", "Ready"), "absent");
    cluster.helm("upgrade", &[&POSTGRES[..], &SWEEPS, &["--set", SECOND_CONTROLLER]].concat());
    wait_for(SECOND_TEAM, "blues", "Active", "True/Active");

    // One store, so both checks know both.
    let checks = [Check::of(SYSTEM, RELEASE), Check::of(SECOND_SYSTEM, SECOND)];
    let (jazz, blues) = (key_of(TEAM, "jazz"), key_of(SECOND_TEAM, "blues"));
    let answer = |jazz_is: u16, blues_is: u16| {
        for check in &checks {
            check.answers(&jazz, SECRET, jazz_is);
            check.answers(&blues, SECRET, blues_is);
        }
    };
    answer(200, 200);
    let records = || postgres.ask("SELECT installation, namespace, state FROM oauth_consumers ORDER BY namespace");
    let expected = "oac-system/oac|team-a|Approved\nsecond-system/second|team-b|Approved";
    assert_eq!(records(), expected);
    let versions = || postgres.ask("SELECT version FROM oauth_consumers ORDER BY namespace");
    let before = versions();
    both_have_swept();
    assert_eq!((records().as_str(), versions()), (expected, before), "nothing was written");
    set(SECOND_TEAM, "blues", &json!({ "hold": { "reason": "leaked" } }));
    answer(200, 401);
    set(SECOND_TEAM, "blues", &json!({ "hold": null }));
    set(TEAM, "jazz", &json!({ "approved": false }));
    answer(401, 200);
    set(TEAM, "jazz", &json!({ "approved": true }));
    answer(200, 200);

    // Each may go when its own consumers have, and is forced without the other's.
    let refused = fail("helm", &["uninstall", SECOND, "-n", SECOND_SYSTEM, "--timeout=60s"]);
    assert!(refused.contains("1 consumers are left: team-b/blues"), "{refused}");
    force(SECOND, SECOND_SYSTEM);
    helm(&["uninstall", SECOND, "-n", SECOND_SYSTEM, "--wait", "--timeout=120s"]);
    assert_eq!(
        (finalizers(SECOND_TEAM, "blues"), &finalizers(TEAM, "jazz")[0]),
        (Value::Null, &json!("oauthconsumers.dev/record"))
    );
    let before = sweeps(SYSTEM);
    eventually("the first one has swept", || sweeps(SYSTEM) >= before + 6);
    assert_eq!(records(), expected, "the first one does not clean up after the second");
    checks[0].answers(&blues, SECRET, 200);

    let refused = fail("helm", &["uninstall", RELEASE, "-n", SYSTEM, "--timeout=60s"]);
    assert!(refused.contains("1 consumers are left: team-a/jazz"), "{refused}");
    kubectl(&["-n", TEAM, "delete", "oac", "jazz", "--timeout=60s"]);
    helm(&["uninstall", RELEASE, "-n", SYSTEM, "--wait", "--timeout=60s"]);
    assert!(!get(SECOND_TEAM, "oac", "blues").is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_with_stores_of_their_own_know_nothing_of_each_other() {
    let cluster = Cluster::alone().await;
    let postgres = Postgres::new().await;
    cluster.install_on(&postgres, &[&SWEEPS[..], &["--set", SECOND_CONTROLLER]].concat());
    [SECOND_SYSTEM, SECOND_TEAM].into_iter().for_each(namespace);
    second("install", &[]);
    register(TEAM, "jazz");
    register(SECOND_TEAM, "blues");
    wait_for(TEAM, "jazz", "Active", "True/Active");
    wait_for(SECOND_TEAM, "blues", "Active", "True/Active");
    let (first, second) = (Check::of(SYSTEM, RELEASE), Check::of(SECOND_SYSTEM, SECOND));
    let (jazz, blues) = (key_of(TEAM, "jazz"), key_of(SECOND_TEAM, "blues"));
    let as_it_is = || {
        first.answers(&jazz, SECRET, 200);
        second.answers(&blues, SECRET, 200);
        assert_eq!(first.ask(&blues, SECRET).unwrap(), 401);
        assert_eq!(second.ask(&jazz, SECRET).unwrap(), 401);
    };
    as_it_is();
    both_have_swept();
    as_it_is();
    assert_eq!(postgres.ask("SELECT installation, namespace, state FROM oauth_consumers"), "oac-system/oac|team-a|Approved");

    // The last one of its own gone, it goes, whatever the other one has.
    kubectl(&["-n", SECOND_TEAM, "delete", "oac", "blues", "--timeout=60s"]);
    helm(&["uninstall", SECOND, "-n", SECOND_SYSTEM, "--wait", "--timeout=60s"]);
    assert!(get(SECOND_SYSTEM, "deployment", "second-controller").is_null());
    for policy in ["oauthconsumers-approve", "oauthconsumers-status"] {
        assert!(!get("default", "validatingadmissionpolicy", policy).is_null(), "{policy} is the first one's");
    }
    first.answers(&jazz, SECRET, 200);
    set(TEAM, "jazz", &json!({ "approved": false }));
    first.answers(&jazz, SECRET, 401);
}
