//! From `helm install` to the first sign-in, and what an installation may do.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{
    CHART, Cluster, Postgres, RELEASE, SECRET, SYSTEM, TEAM, World, apply, condition, consumer, eventually, get, helm, key_of,
    kubectl, kubectl_as, list, metrics, namespace, pods, secret, succeed, text, wait_for,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_default_install_leads_to_a_sign_in() {
    let cluster = Cluster::alone().await;
    let began = Instant::now();
    let said = cluster.install(&[]);
    for next in ["kubectl", "oauthconsumers-approver", "oac-signin.oac-system"] {
        assert!(said.contains(next), "the notes do not speak of {next}: {said}");
    }
    cluster.people();
    let key = cluster.approved("jazz");
    let check = cluster.check();
    check.answers(&key, SECRET, 200);
    println!("from helm install to the first sign-in: {:.1} s", began.elapsed().as_secs_f64());

    let decision = get(TEAM, "oauthconsumer", "jazz")["status"]["decision"].clone();
    assert_eq!((&decision["by"], &decision["approved"]), (&json!("approver"), &json!(true)));
    assert_eq!(check.ask(&key, "another secret, long enough").unwrap(), 401);

    // A requester may not approve, and is told who can; but may end it, with a word to go with it.
    let refused = text(&kubectl_as("requester", &["patch", "oac", "jazz", "--type=merge", "-p", r#"{"spec":{"name":"Blues"}}"#]));
    assert!(refused.contains("oauthconsumers-approver"), "{refused}");
    assert!(
        kubectl_as("requester", &["patch", "oac", "jazz", "--type=merge", "-p", r#"{"spec":{"hold":{"reason":"leaked"}}}"#])
            .status
            .success()
    );
    check.answers(&key, SECRET, 401);
    wait_for(TEAM, "jazz", "Active", "False/OnHold");
    assert!(kubectl_as("requester", &["delete", "oac", "jazz", "--timeout=60s"]).status.success());
    assert_eq!(check.ask(&key, SECRET).unwrap(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_signing_in_takes_no_token() {
    let World { cluster: _alone, postgres: _postgres, check, key } = World::with_jazz().await;
    check.answers(&key, SECRET, 200);
    assert_eq!((pods(SYSTEM, "controller").len(), pods(SYSTEM, "signin").len()), (2, 2));
    for pod in list(SYSTEM, "pods", "app.kubernetes.io/component=signin") {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert!(volumes.iter().all(|volume| volume["projected"].is_null()), "{volumes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_may_do_what_is_written_down_and_no_more() {
    let cluster = Cluster::alone().await;
    let postgres = Postgres::new().await;
    cluster.install_on(&postgres, &[]);
    let rights = |account: &str, namespace: &str| {
        let user = format!("--as=system:serviceaccount:{SYSTEM}:oac-{account}");
        let listed = kubectl(&["auth", "can-i", "--list", "--no-headers", "-n", namespace, &user]);
        let mut rights: Vec<_> = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        rights.sort();
        rights
    };
    // The hook's account has its rights only while it runs.
    let hooks = helm(&["get", "hooks", "oac", "-n", SYSTEM]);
    for hook in serde_yaml::from_multiple::<Value>(&hooks).unwrap() {
        if ["ClusterRole", "ClusterRoleBinding"].contains(&hook["kind"].as_str().unwrap()) {
            apply(&[hook]);
        }
    }
    // Everybody has these, as any account of a cluster.
    let anybody = rights("nobody", "default");
    let mut found = Vec::new();
    for account in ["controller", "signin", "cleanup"] {
        for namespace in [TEAM, SYSTEM, "default"] {
            found.push(format!("{account} in {namespace}:"));
            let own = rights(account, namespace).into_iter().filter(|right| !anybody.contains(right));
            found.extend(own.map(|right| format!("  {right}")));
        }
    }
    let found = found.join("\n") + "\n";
    assert_eq!(found, include_str!("rights.txt"), "what the accounts may do has changed:\n{found}");
    assert!(!found.contains('*'));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_cluster_is_a_choice_of_its_own() {
    let cluster = Cluster::alone().await;
    [SYSTEM, TEAM].into_iter().for_each(namespace);
    helm(&["install", RELEASE, CHART, "-n", SYSTEM, "--wait", "--timeout=90s", "--set", "secrets.clusterWide=true"]);
    cluster.people();
    let key = cluster.approved("jazz");
    cluster.check().answers(&key, SECRET, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_policies_it_says_so_loudly() {
    let cluster = Cluster::alone().await;
    let said = cluster.install(&["--set", "cluster.policies=false", "--set", "approval.proof=off"]);
    assert!(said.contains("APPROVALS COUNT WITHOUT PROOF") && said.contains("POLICIES ARE LEFT OUT"), "{said}");
    cluster.people();
    let made = [secret(TEAM, "jazz-oauth", SECRET), consumer(TEAM, "jazz", &json!({ "approved": true }))];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": made });
    succeed("kubectl", &["--as=requester", "apply", "-f", "-"], &list.to_string());
    wait_for(TEAM, "jazz", "Active", "True/Active");
    cluster.check().answers(&key_of(TEAM, "jazz"), SECRET, 200);
    let metrics = metrics(&pods(SYSTEM, "controller")[0]);
    assert!(metrics.contains("oauthconsumer_approval_proof 0"), "{metrics}");

    // Wanted after all: what was approved before stays so, and from now on it takes an approver.
    cluster.helm("upgrade", &[]);
    eventually("the policies are at work", || {
        text(&kubectl_as(
            "requester",
            &["patch", "oac", "jazz", "--dry-run=server", "--type=merge", "-p", r#"{"spec":{"name":"Blues"}}"#],
        ))
        .contains("needs the verb approve")
    });
    assert_eq!(condition(TEAM, "jazz", "Active"), "True/Active");
    cluster.check().answers(&key_of(TEAM, "jazz"), SECRET, 200);
}
