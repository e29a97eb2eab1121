//! What happens to pods, and what it does to those who sign in.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Cluster, Postgres, SECRET, SYSTEM, TEAM, World, apply, condition, consumer, decide, eventually, get, key_of, kubectl, list,
    pods, secret, wait_for,
};

/// Sends a signal to a pod's process from outside: KILL as the kernel does when memory runs out, without a word.
fn signal(pod: &str, signal: &str) {
    let found = get(SYSTEM, "pod", pod);
    let id = found["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let sent = Command::new("ctr").args(["tasks", "kill", "-s", signal, &id]).output().unwrap();
    assert!(sent.status.success(), "{sent:?}");
}

fn restarts(pod: &str) -> u64 {
    get(SYSTEM, "pod", pod)["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap()
}

fn register(count: usize, prefix: &str, spec: &Value) {
    let objects: Vec<_> = (0..count).map(|i| consumer(TEAM, &format!("{prefix}{i}"), spec)).collect();
    apply(&objects);
}

fn all_ready(count: usize) -> bool {
    let ready = list(TEAM, "oauthconsumers", "").into_iter().filter(|object| {
        let conditions = object["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    ready.count() == count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_comes_back_with_everything() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let key = cluster.approved("jazz");
    let check = cluster.check();
    check.answers(&key, SECRET, 200);
    let pod = pods(SYSTEM, "controller").remove(0);
    signal(&pod, "KILL");
    // While nobody is there, nobody gets a yes that may be outdated.
    assert!(decide("requester", "jazz", &json!({ "approved": false })).status.success());
    eventually("it is restarted", || restarts(&pod) == 1);
    check.answers(&key, SECRET, 401);
    wait_for(TEAM, "jazz", "Approved", "False/Disapproved");
    assert_eq!(key_of(TEAM, "jazz"), key);
    cluster.approve("jazz");
    check.answers(&key, SECRET, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_controllers_is_enough() {
    let World { cluster, postgres, check, key } = World::with_jazz().await;
    let both = pods(SYSTEM, "controller");
    assert_eq!(both.len(), 2);
    for (round, pod) in both.iter().enumerate() {
        // Neither dead nor alive, so that nobody restarts it for a while: the other one does all there is to do.
        signal(pod, "STOP");
        assert!(decide("requester", "jazz", &json!({ "approved": false })).status.success());
        check.answers(&key, SECRET, 401);
        cluster.approve("jazz");
        check.answers(&key, SECRET, 200);
        cluster.approved(&format!("new{round}"));
        assert_eq!(restarts(pod), 0, "it was not there");
        // And dead.
        signal(pod, "KILL");
        eventually("both are there again", || {
            get(SYSTEM, "deployment", "oac-controller")["status"]["readyReplicas"] == 2 && restarts(pod) == 1
        });
    }
    assert_eq!(postgres.ask("SELECT count(*) FROM oauth_consumers"), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_at_work_lose_nothing_and_do_nothing_twice() {
    const COUNT: usize = 120;
    let cluster = Cluster::alone().await;
    let postgres = Postgres::new().await;
    cluster.install_on(&postgres, &[]);
    apply(&[secret(TEAM, "common", SECRET)]);
    register(COUNT, "c", &json!({ "approved": true, "secretRef": { "name": "common" } }));
    // SIGTERM to both, one after the other, while they hash; and once more.
    for _ in 0..2 {
        kubectl(&["-n", SYSTEM, "rollout", "restart", "deployment/oac-controller"]);
        kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/oac-controller", "--timeout=120s"]);
    }
    eventually("all are ready", || all_ready(COUNT));
    assert_eq!(
        postgres.ask("SELECT count(*), count(DISTINCT consumer_key) FROM oauth_consumers WHERE state = 'Approved'"),
        format!("{COUNT}|{COUNT}")
    );
    let check = cluster.check();
    for i in [0, COUNT / 2, COUNT - 1] {
        check.answers(&key_of(TEAM, &format!("c{i}")), SECRET, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hashing_keeps_to_the_limits_of_memory() {
    const COUNT: usize = 100;
    let cluster = Cluster::alone().await;
    cluster.install(&["--set", "controller.resources.limits.memory=160Mi"]);
    apply(&[secret(TEAM, "common", SECRET)]);
    register(COUNT, "c", &json!({ "approved": true, "secretRef": { "name": "common" } }));
    eventually("all are ready", || all_ready(COUNT));
    // First sign-ins, each of which costs a hash, sixteen at a time.
    let (check, keys) = (cluster.check(), (0..COUNT).map(|i| key_of(TEAM, &format!("c{i}"))).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for keys in keys.chunks(COUNT.div_ceil(16)) {
            let check = &check;
            scope.spawn(move || keys.iter().for_each(|key| check.answers(key, SECRET, 200)));
        }
    });
    let pod = pods(SYSTEM, "controller").remove(0);
    assert_eq!(restarts(&pod), 0, "it was killed for its memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_ready_while_it_can_answer_and_lives_while_it_works() {
    let World { cluster: _alone, postgres, check, key } = World::with_jazz().await;
    postgres.proxy.lead_to(None);
    let ready = |count: u64| {
        let deployment = get(SYSTEM, "deployment", "oac-signin");
        deployment["status"]["readyReplicas"].as_u64().unwrap_or(0) == count
    };
    eventually("nobody is ready to answer", || ready(0));
    // Longer than a liveness probe has patience: an outage of the store is no reason to restart anything.
    std::thread::sleep(Duration::from_secs(75));
    let pods = [pods(SYSTEM, "signin"), pods(SYSTEM, "controller")].concat();
    assert!(pods.iter().all(|pod| restarts(pod) == 0));
    postgres.proxy.lead_to(Some(&postgres.address()));
    eventually("both are ready to answer", || ready(2));
    check.answers(&key, SECRET, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_its_consumers() {
    let cluster = Cluster::alone().await;
    let postgres = Postgres::new().await;
    cluster.install_on(&postgres, &[]);
    cluster.people();
    let keys: Vec<_> = ["jazz", "blues"].iter().map(|name| cluster.approved(name)).collect();
    apply(&[consumer(TEAM, "without-secret", &json!({}))]);
    let check = cluster.check();
    check.answers(&keys[0], SECRET, 200);
    kubectl(&["delete", "namespace", TEAM, "--timeout=60s"]);
    for key in &keys {
        check.answers(key, SECRET, 401);
    }
    assert_eq!(postgres.ask("SELECT count(*) FROM oauth_consumers WHERE state <> 'Removed'"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_with_its_owner_whatever_it_says() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let owner = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owner", "namespace": TEAM } });
    apply(&[owner, secret(TEAM, "owned-oauth", SECRET)]);
    let uid = get(TEAM, "configmap", "owner")["metadata"]["uid"].clone();
    let mut object = consumer(TEAM, "owned", &json!({ "approved": true, "hold": { "reason": "leaked" } }));
    object["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid }]);
    apply(&[object]);
    wait_for(TEAM, "owned", "Active", "False/OnHold");
    kubectl(&["-n", TEAM, "delete", "configmap", "owner"]);
    eventually("the garbage collector has taken it", || {
        condition(TEAM, "owned", "Ready") == "absent" && get(TEAM, "oac", "owned").is_null()
    });
}
