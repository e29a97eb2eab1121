//! An attacker's best hour, on real pods with the chart's limits. A tenant creates and deletes consumers as fast as the API server
//! allows; that hour is seeded into the store. A client holds every connection that one address can get. Other clients sign in all
//! the time.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::support::{
    Check, Cluster, Postgres, SECRET, SYSTEM, TEAM, World, apply, consumer, eventually, get, key_of, kubectl, kubectl_as, list,
    metrics, pods, text, wait_for,
};

/// Tombstones of an hour: about a hundred a second.
const HOUR: usize = 400_000;

/// No more of them are kept than this, and what a sweep period brings.
const KEPT: usize = 10_000;

/// Rows that are seeded at a time into SQLite.
const PIECE: usize = 5_000;

/// What is promised of a disapproval in tests: from the API server's answer to the last 200.
const BOUND: Duration = Duration::from_secs(2);

/// The columns of a tombstone but for its key and UID.
const OTHERS: &str = "cluster_id, installation, namespace, object, name, generation, state, secret_problem, secret_floor, reserved, \
                      updated_at, version, checksum";

/// Copies of the one tombstone that there is, as SQL. They were removed just now.
fn copies(numbers: &str) -> String {
    let columns = OTHERS.replace("updated_at", &format!("'{}'", Timestamp::now()));
    format!(
        "INSERT INTO oauth_consumers (consumer_key, uid, {OTHERS}) SELECT 'churned-' || i, 'churned-' || i, {columns} \
         FROM (SELECT * FROM oauth_consumers WHERE state = 'Removed' AND object = 'churn' LIMIT 1) AS one, {numbers} AS numbers"
    )
}

/// What the kernel says of the process of a pod's only container.
fn process(pod: &str) -> String {
    let found = get(SYSTEM, "pod", pod);
    let id = found["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let tasks = text(&Command::new("ctr").args(["tasks", "ls"]).output().unwrap());
    let task = tasks.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("no task {id} in {tasks}"));
    let number = task.split_whitespace().nth(1).unwrap();
    // The node has process numbers of its own: a process lists its numbers from the outermost namespace inwards.
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let statuses = processes.filter_map(|process| std::fs::read_to_string(process.path().join("status")).ok());
    let numbers = |status: &str| status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default().to_owned();
    let mut found = statuses.filter(|status| {
        status.starts_with("Name:\toauthconsumer") && numbers(status).split_whitespace().rev().nth(1) == Some(number)
    });
    found.next().unwrap_or_else(|| panic!("no process {number} on the node"))
}

/// The most memory that a pod has used, in MiB.
fn peak(pod: &str) -> u64 {
    let status = process(pod);
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// What the pods' memory is limited to, in MiB, and how much of it they have used at most. None was restarted.
fn within_limits(component: &str) -> Vec<(u64, u64)> {
    let measured = list(SYSTEM, "pods", &format!("app.kubernetes.io/component={component}")).into_iter().map(|pod| {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{component} was restarted");
        let limit = pod["spec"]["containers"][0]["resources"]["limits"]["memory"].as_str().unwrap();
        let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
        let used = peak(pod["metadata"]["name"].as_str().unwrap());
        assert!(used < limit, "{component} used {used} of {limit} MiB");
        (used, limit)
    });
    measured.collect()
}

/// Registers and removes a consumer without a Secret, as the tenant does.
fn churn_once() {
    apply(&[consumer(TEAM, "churn", &json!({}))]);
    wait_for(TEAM, "churn", "Ready", "False/SecretNotFound");
    kubectl(&["-n", TEAM, "delete", "oac", "churn"]);
}

/// Ends the threads of a scope, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks for a good sign-in all the time, while it is allowed and until it was over for a while. Answers how long after `ends` had
/// returned the last yes came.
fn last_yes(check: &Check, key: &str, ends: impl FnOnce()) -> Duration {
    let (over, allowed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut last = Instant::now();
            while !over.load(Ordering::SeqCst) {
                match check.ask(key, SECRET).expect("a sign-in without an answer") {
                    200 => {
                        last = Instant::now();
                        allowed.fetch_add(1, Ordering::SeqCst);
                    }
                    401 | 429 | 503 => {}
                    status => panic!("{status}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            last
        });
        let ending = Ends(&over);
        eventually("sign-ins are allowed", || allowed.load(Ordering::SeqCst) > 5);
        ends();
        let returned = Instant::now();
        std::thread::sleep(BOUND * 2);
        drop(ending);
        asking.join().unwrap().saturating_duration_since(returned)
    })
}

fn disapprove(name: &str) {
    let patched = kubectl_as("requester", &["patch", "oac", name, "--type=merge", "-p", r#"{"spec":{"approved":false}}"#]);
    assert!(patched.status.success(), "{}", text(&patched));
}

/// What the others notice: nothing.
fn others_notice_nothing(cluster: &Cluster, check: &Check, left: impl Fn() -> usize) {
    // While the pile is dropped: a decision, a sign-in, a new consumer.
    let jazz = key_of(TEAM, "jazz");
    let late = last_yes(check, &jazz, || disapprove("jazz"));
    assert!(late < BOUND, "the last yes came {late:?} after the disapproval");
    check.answers(&jazz, SECRET, 401);
    let key = cluster.approved("newcomer");
    check.answers(&key, SECRET, 200);
    eventually("the pile is gone", || left() <= KEPT + 1_000);
    let late = last_yes(check, &key, || disapprove("newcomer"));
    assert!(late < BOUND, "the last yes came {late:?} after the disapproval");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_churn_costs_the_others_nothing_on_postgres() {
    let cluster = Cluster::alone().await;
    let postgres = Postgres::new().await;
    cluster.install_on(&postgres, &[]);
    cluster.people();
    let (key, check) = (cluster.approved("jazz"), cluster.check());
    check.answers(&key, SECRET, 200);
    churn_once();
    postgres.ask(&copies(&format!("(SELECT generate_series(1, {HOUR}) AS i)")));
    // A sign-in process that starts reads all there is.
    kubectl(&["-n", SYSTEM, "rollout", "restart", "deployment/oac-signin"]);
    kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/oac-signin", "--timeout=120s"]);
    others_notice_nothing(&cluster, &check, || {
        postgres.ask("SELECT count(*) FROM oauth_consumers WHERE state = 'Removed'").parse().unwrap()
    });
    let used = [within_limits("signin"), within_limits("controller")].concat();
    println!("memory used and allowed, in MiB: {used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_churn_costs_the_others_nothing_on_sqlite() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let (key, check) = (cluster.approved("jazz"), cluster.check());
    check.answers(&key, SECRET, 200);
    churn_once();
    let volume = list("", "persistentvolumes", "").into_iter().find(|volume| volume["status"]["phase"] == "Bound").unwrap();
    let folder = volume["spec"]["local"]["path"].as_str().unwrap().to_owned();
    let mut store = SqliteConnection::connect(&format!("sqlite://{folder}/store.db")).await.unwrap();
    // In pieces: one writer at a time is SQLite's rule, and a tenant's deletions are small writes.
    for from in (0..HOUR).step_by(PIECE) {
        let numbers = format!(
            "(WITH RECURSIVE n(i) AS (SELECT {from} + 1 UNION ALL SELECT i + 1 FROM n WHERE i < {from} + {PIECE}) SELECT i FROM n)"
        );
        sqlx::query(AssertSqlSafe(copies(&numbers))).execute(&mut store).await.unwrap();
    }
    let path = format!("{folder}/store.db");
    let left = || {
        let query = "SELECT count(*) FROM oauth_consumers WHERE state = 'Removed'";
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut store = SqliteConnection::connect(&format!("sqlite://{path}")).await.unwrap();
                let count: i64 = sqlx::query_scalar(query).fetch_one(&mut store).await.unwrap();
                usize::try_from(count).unwrap()
            })
        })
    };
    others_notice_nothing(&cluster, &check, left);
    let used = within_limits("controller");
    println!("memory used and allowed, in MiB: {used:?}");
    let held = metrics(&pods(SYSTEM, "controller")[0]);
    let held = held.lines().find_map(|line| line.strip_prefix("oauthconsumer_directory_records ")).unwrap();
    assert!(held.parse::<usize>().unwrap() < 10, "what is removed takes no memory: {held}");
}

/// A port of a pod, and what one address gets of it.
#[derive(Clone, Copy)]
struct PodPort {
    number: u16,
    /// The largest head, in bytes.
    head: usize,
    /// Half of all connections.
    share: usize,
}

const SIGNIN: PodPort = PodPort { number: 8080, head: 16 << 10, share: 512 };
const ADMIN: PodPort = PodPort { number: 9090, head: 8 << 10, share: 32 };

/// Holds as many connections as this address can get, until it is over; opens again what is closed. Every second connection is idle.
/// The others stop in the middle of the largest head. Writes down how many are open.
fn hold_connections(pod: IpAddr, port: PodPort, open: &AtomicUsize, over: &AtomicBool) {
    let half = [b"GET /livez HTTP/1.1\r\ncookie: ", &vec![b'x'; port.head - 64][..]].concat();
    let whole = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut held: Vec<TcpStream> = Vec::new();
    let is_open = |mut client: &TcpStream| loop {
        match client.read(&mut [0; 1 << 10]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    };
    while !over.load(Ordering::SeqCst) {
        for n in 0..(port.share + port.share / 8).saturating_sub(held.len()) {
            let mut client = TcpStream::connect(SocketAddr::new(pod, port.number)).unwrap();
            // Fails where the server has closed the connection already.
            let _ = client.write_all(if n % 2 == 0 { &half } else { whole });
            client.set_nonblocking(true).unwrap();
            held.push(client);
        }
        std::thread::sleep(Duration::from_millis(200));
        held.retain(is_open);
        open.store(held.len(), Ordering::SeqCst);
    }
}

/// The pods' addresses are asked past the Service, by this machine. The check is asked through the Service, so its requests come from
/// the node's address.
fn others_sign_in_while_one_address_holds_all_it_can_get(check: &Check, key: &str, ports: &[(&str, PodPort)]) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let address = |pod: String| get(SYSTEM, "pod", &pod)["status"]["podIP"].as_str().unwrap().parse::<IpAddr>().unwrap();
    let of_pods = |(component, port): &(&str, PodPort)| {
        let port = *port;
        pods(SYSTEM, component).into_iter().map(move |pod| (address(pod), port, AtomicUsize::new(0)))
    };
    let targets: Vec<_> = ports.iter().flat_map(of_pods).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        for (pod, port, open) in &targets {
            scope.spawn(|| hold_connections(*pod, *port, open, &over));
        }
        eventually("one address has its share of every port", || {
            targets.iter().all(|(_, port, open)| open.load(Ordering::SeqCst) == port.share)
        });
        // Longer than a head may take: so they are opened again and again.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(25) {
            assert_eq!(check.ask(key, SECRET).expect("a sign-in without an answer"), 200);
            std::thread::sleep(Duration::from_millis(100));
        }
        let late = last_yes(check, key, || disapprove("jazz"));
        assert!(late < BOUND, "the last yes came {late:?} after the disapproval");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_of_an_address_fit_into_the_memory_on_postgres() {
    let world = World::with_jazz().await;
    let ports = [("signin", SIGNIN), ("signin", ADMIN), ("controller", ADMIN)];
    others_sign_in_while_one_address_holds_all_it_can_get(&world.check, &world.key, &ports);
    let used = [within_limits("signin"), within_limits("controller")].concat();
    println!("memory used and allowed, in MiB: {used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_of_an_address_fit_into_the_memory_on_sqlite() {
    let cluster = Cluster::alone().await;
    cluster.install(&[]);
    cluster.people();
    let (key, check) = (cluster.approved("jazz"), cluster.check());
    check.answers(&key, SECRET, 200);
    others_sign_in_while_one_address_holds_all_it_can_get(&check, &key, &[("controller", SIGNIN), ("controller", ADMIN)]);
    let used = within_limits("controller");
    println!("memory used and allowed, in MiB: {used:?}");
}
