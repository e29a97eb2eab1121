//! Upgrade, rollback and uninstall, with consumers that go on signing in.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{
    CHART, Check, Cluster, POSTGRES, Postgres, RELEASE, SECRET, SYSTEM, TEAM, World, eventually, fail, get, helm, key_of,
    kubectl, list, namespace, succeed,
};

const PRESENT: &str = env!("CARGO_PKG_VERSION");

/// The chart and the image as the version before. None has been released yet, so they are the present ones under another version.
fn previous_chart(folder: &std::path::Path) -> String {
    let chart = folder.join("previous").display().to_string();
    succeed("cp", &["-r", CHART, &chart], "");
    let manifest = std::fs::read_to_string(format!("{chart}/Chart.yaml")).unwrap();
    let lines = manifest.lines().map(|line| if line.starts_with("version:") { "version: 0.0.9" } else { line });
    std::fs::write(format!("{chart}/Chart.yaml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let image = "docker.io/library/oauthconsumer-operator";
    succeed("ctr", &["images", "tag", "--force", &format!("{image}:{PRESENT}"), &format!("{image}:previous")], "");
    chart
}

/// Signs in all the while, each time on a new connection; answers how often, and what went wrong.
fn while_signing_in(check: &Check, key: &str, work: impl FnOnce()) -> (usize, Vec<String>) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut count, mut wrong) = (0, Vec::new());
                    while !done.load(Ordering::Relaxed) {
                        count += 1;
                        match check.ask(key, SECRET) {
                            Ok(200) => {}
                            other => wrong.push(format!("{other:?}")),
                        }
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    (count, wrong)
                })
            })
            .collect();
        work();
        done.store(true, Ordering::Relaxed);
        let results = clients.into_iter().map(|client| client.join().unwrap());
        results.fold((0, Vec::new()), |(sum, mut all), (count, wrong)| {
            all.extend(wrong);
            (sum + count, all)
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_and_a_rollback_lose_no_sign_in() {
    let cluster = Cluster::alone().await;
    let folder = tempfile::tempdir().unwrap();
    let previous = previous_chart(folder.path());
    let postgres = Postgres::new().await;
    [SYSTEM, TEAM].into_iter().for_each(namespace);
    postgres.secrets(SYSTEM);
    let fixed = ["-n", SYSTEM, "--wait", "--timeout=90s", "--set", "namespaces={team-a}"];
    helm(&[&["install", RELEASE, &previous, "--set", "image.tag=previous"], &fixed[..], &POSTGRES].concat());
    cluster.people();
    let key = cluster.approved("jazz");
    let check = cluster.check();
    check.answers(&key, SECRET, 200);
    let versions = || {
        let pods = list(SYSTEM, "pods", "app.kubernetes.io/component=signin").into_iter();
        pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap().rsplit(':').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(versions(), ["previous", "previous"]);

    let (asked, wrong) = while_signing_in(&check, &key, || {
        cluster.helm("upgrade", &POSTGRES);
        assert_eq!(versions(), [PRESENT, PRESENT]);
    });
    assert!(wrong.is_empty(), "{} of {asked}: {wrong:?}", wrong.len());
    assert!(asked > 100, "{asked}");
    let (asked, wrong) = while_signing_in(&check, &key, || {
        helm(&["rollback", RELEASE, "1", "-n", SYSTEM, "--wait", "--timeout=90s"]);
        assert_eq!(versions(), ["previous", "previous"]);
    });
    assert!(wrong.is_empty(), "{} of {asked}: {wrong:?}", wrong.len());
    assert_eq!(key_of(TEAM, "jazz"), key);
    cluster.approved("new-after-the-rollback");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstall_is_refused_while_there_are_consumers() {
    let World { cluster: _alone, postgres: _postgres, check, key } = World::with_jazz().await;
    let refused = fail("helm", &["uninstall", RELEASE, "-n", SYSTEM, "--timeout=60s"]);
    for words in ["1 consumers are left: team-a/jazz", "kubectl delete oauthconsumers", "uninstall.force=true"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    // Everything is as it was.
    check.answers(&key, SECRET, 200);
    assert_eq!(get(SYSTEM, "deployment", "oac-controller")["status"]["readyReplicas"], 2);

    kubectl(&["-n", TEAM, "delete", "oac", "jazz", "--timeout=60s"]);
    helm(&["uninstall", RELEASE, "-n", SYSTEM, "--wait", "--timeout=60s"]);
    let kinds = "all,serviceaccounts,roles,rolebindings,networkpolicies,pdb";
    eventually("nothing but what the cluster has once is left", || {
        kubectl(&["get", kinds, "-A", "-l", "app.kubernetes.io/instance=oac", "-o", "name"]).is_empty()
    });
    assert!(!get("default", "crd", "oauthconsumers.oauthconsumers.dev").is_null(), "the CRD stays");
    assert!(!get("default", "validatingadmissionpolicy", "oauthconsumers-approve").is_null(), "and does not stay unguarded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_uninstall_leaves_nothing_stuck() {
    let World { cluster, postgres, key, .. } = World::with_jazz().await;
    cluster.approved("blues");
    // As the refusal says.
    fail("helm", &["uninstall", RELEASE, "-n", SYSTEM, "--timeout=60s"]);
    helm(&["rollback", RELEASE, "1", "-n", SYSTEM, "--wait", "--timeout=90s"]);
    helm(&["upgrade", RELEASE, CHART, "-n", SYSTEM, "--reset-then-reuse-values", "--set", "uninstall.force=true"]);
    helm(&["uninstall", RELEASE, "-n", SYSTEM, "--timeout=120s"]);
    for name in ["jazz", "blues"] {
        let object = get(TEAM, "oauthconsumer", name);
        assert!(object["metadata"]["finalizers"].is_null(), "{object}");
        assert_eq!(object["spec"]["approved"], true);
    }
    // Nobody approves behind the next installation's back.
    let refused = fail(
        "kubectl",
        &["--as=requester", "-n", TEAM, "patch", "oac", "jazz", "--type=merge", "-p", r#"{"spec":{"name":"Blues"}}"#],
    );
    assert!(refused.contains("needs the verb approve"), "{refused}");
    kubectl(&["-n", TEAM, "delete", "oac", "blues", "--timeout=20s"]);

    // Installed again on the same store, it goes on where it was.
    cluster.helm("install", &POSTGRES);
    // The Service is a new one, too.
    cluster.check().answers(&key, SECRET, 200);
    assert_eq!(key_of(TEAM, "jazz"), key);
    eventually("the record of what was deleted meanwhile is removed", || {
        postgres.ask("SELECT string_agg(state, ' ' ORDER BY state) FROM oauth_consumers") == "Approved Removed"
    });
}
