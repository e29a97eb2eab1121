//! The cluster, Helm, kubectl, and people who use them.

#[path = "../it/support/proxy.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod proxy;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

pub use proxy::Proxy;

/// The release, and the namespace it is in.
pub const RELEASE: &str = "oac";
pub const SYSTEM: &str = "oac-system";

/// The namespace whose consumers it manages.
pub const TEAM: &str = "team-a";

pub const CHART: &str = "charts/oauthconsumer-operator";
pub const SECRET: &str = "a secret of jazz, long enough";

/// How long a test waits for anything. Only failures take this long.
const PATIENCE: Duration = Duration::from_secs(90);

/// The cluster, for one test, with nothing in it.
pub struct Cluster {
    _alone: MutexGuard<'static, ()>,
}

/// PostgreSQL, where pods reach it.
pub struct Postgres {
    /// Between the pods and the server.
    pub proxy: Proxy,
    url: String,
}

/// An installation on PostgreSQL, and jazz, who signs in.
pub struct World {
    pub cluster: Cluster,
    pub postgres: Postgres,
    pub check: Check,
    pub key: String,
}

/// Where sign-ins are checked.
#[derive(Clone)]
pub struct Check {
    address: SocketAddr,
}

/// Runs a command to its end.
pub fn run(program: &str, args: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).env("KUBECONFIG", kubeconfig());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Closed before the wait: many commands read to the end.
    let written = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{program}: {error}"),
        _ => child.wait_with_output().unwrap(),
    }
}

pub fn kubeconfig() -> String {
    std::env::var("OAUTHCONSUMER_TEST_CLUSTER").expect("these tests need a cluster of their own: run `make test`, as root")
}

/// What a command that has to succeed says.
pub fn succeed(program: &str, args: &[&str], stdin: &str) -> String {
    let output = run(program, args, stdin);
    let said = text(&output);
    assert!(output.status.success(), "{program} {}\n{said}\n{}", args.join(" "), everything(SYSTEM));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that has to fail says.
pub fn fail(program: &str, args: &[&str]) -> String {
    let output = run(program, args, "");
    assert!(!output.status.success(), "{program} {}\n{}", args.join(" "), text(&output));
    text(&output)
}

pub fn kubectl(args: &[&str]) -> String {
    succeed("kubectl", args, "")
}

pub fn helm(args: &[&str]) -> String {
    succeed("helm", args, "")
}

/// As this user, who has nothing but their roles.
pub fn kubectl_as(user: &str, args: &[&str]) -> Output {
    run("kubectl", &[&["--as", user, "-n", TEAM], args].concat(), "")
}

/// A decision as the documentation tells people to make it: with a field manager that tools leave alone.
pub fn decide(user: &str, name: &str, spec: &Value) -> Output {
    let patch = json!({ "spec": spec }).to_string();
    kubectl_as(user, &["patch", "oac", name, "--type=merge", "--field-manager=oauthconsumers-approval", "-p", &patch])
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// An object as the API server has it; null if there is none.
pub fn get(namespace: &str, kind: &str, name: &str) -> Value {
    let found = kubectl(&["-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found"]);
    if found.is_empty() { Value::Null } else { serde_json::from_str(&found).unwrap() }
}

pub fn list(namespace: &str, kind: &str, selector: &str) -> Vec<Value> {
    let found: Value = serde_json::from_str(&kubectl(&["-n", namespace, "get", kind, "-l", selector, "-o", "json"])).unwrap();
    found["items"].as_array().unwrap().clone()
}

pub fn apply(objects: &[Value]) {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    succeed("kubectl", &["apply", "-f", "-"], &list.to_string());
}

/// Asks again until the answer is yes.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "never came to: {what}\n{}", everything(SYSTEM));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What there is in the cluster, and what an installation has said, for when a test has failed.
pub fn everything(system: &str) -> String {
    let looks: [&[&str]; 4] = [
        &["get", "pods,jobs,pvc,svc", "-A", "-o", "wide"],
        &["get", "oauthconsumers", "-A", "-o", "wide"],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
        &[
            "-n",
            system,
            "logs",
            "-l",
            "app.kubernetes.io/name=oauthconsumer-operator",
            "--tail=30",
            "--prefix",
            "--all-containers",
        ],
    ];
    let looks = looks.map(|args| text(&run("kubectl", args, "")));
    let tail = |text: &String| text.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    looks.iter().map(tail).collect::<Vec<_>>().join("\n----\n")
}

/// For some seconds after the CRD was made the API server knows too little of it to judge and stamp.
fn until_known() {
    let probe = consumer(TEAM, "probe", &json!({ "approved": true })).to_string();
    eventually("the API server knows the CRD", || {
        run("kubectl", &["apply", "--dry-run=server", "-f", "-"], &probe).status.success()
    });
}

/// Makes a namespace, under the strictest Pod Security there is.
pub fn namespace(name: &str) {
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted" });
    apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })]);
}

/// A consumer's manifest.
pub fn consumer(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "name": format!("The consumer {name}"), "secretRef": { "name": format!("{name}-oauth") } },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

pub fn secret(namespace: &str, name: &str, value: &str) -> Value {
    let metadata = json!({ "name": name, "namespace": namespace });
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": { "consumerSecret": value } })
}

pub fn binding(namespace: &str, user: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": format!("{user}-{role}"), "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    })
}

/// A condition of a consumer, as `status/reason`.
pub fn condition(namespace: &str, name: &str, kind: &str) -> String {
    let object = get(namespace, "oauthconsumer", name);
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
    match conditions.iter().find(|condition| condition["type"] == kind) {
        Some(found) if is_current => format!("{}/{}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap()),
        _ => "absent".into(),
    }
}

pub fn wait_for(namespace: &str, name: &str, kind: &str, expected: &str) {
    eventually(&format!("{kind}={expected} of {name}"), || condition(namespace, name, kind) == expected);
}

pub fn key_of(namespace: &str, name: &str) -> String {
    get(namespace, "oauthconsumer", name)["status"]["consumerKey"].as_str().expect("no key in status").to_owned()
}

// === impl Cluster ===

impl Cluster {
    /// Waits for its turn, and removes what the last test left, as hard as it takes.
    pub async fn alone() -> Self {
        static ONE: Mutex<()> = Mutex::const_new(());
        static IMAGE: OnceLock<()> = OnceLock::new();
        let cluster = Self { _alone: ONE.lock().await };
        IMAGE.get_or_init(|| {
            succeed("dev/cluster/load-image.sh", &[], "");
        });
        let releases: Value = serde_json::from_str(&helm(&["list", "-A", "-o", "json"])).unwrap();
        for release in releases.as_array().unwrap() {
            let (name, namespace) = (release["name"].as_str().unwrap(), release["namespace"].as_str().unwrap());
            run("helm", &["uninstall", name, "-n", namespace, "--no-hooks"], "");
        }
        let cluster_wide = "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,\
                            mutatingadmissionpolicy,mutatingadmissionpolicybinding";
        // The policies first: nothing may stand in the way of cleaning up, and nothing of the last test's in the next one's.
        kubectl(&["delete", cluster_wide, "-l", "app.kubernetes.io/name=oauthconsumer-operator", "--wait=false"]);
        let consumers = run("kubectl", &["get", "oauthconsumers", "-A", "-o", "json"], "");
        if consumers.status.success() {
            let consumers: Value = serde_json::from_slice(&consumers.stdout).unwrap();
            for object in consumers["items"].as_array().unwrap() {
                let (namespace, name) =
                    (object["metadata"]["namespace"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
                run(
                    "kubectl",
                    &["-n", namespace, "patch", "oac", name, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#],
                    "",
                );
            }
        }
        let namespaces = list_all("namespaces");
        let names = namespaces.iter().map(|object| object["metadata"]["name"].as_str().unwrap());
        let own: Vec<_> = names.filter(|name| *name != "default" && !name.starts_with("kube-")).collect();
        if !own.is_empty() {
            // A namespace waits for five seconds, and then for five more if it still has what takes its time to go.
            kubectl(&[&["delete", "namespace", "--wait=false"], &own[..]].concat());
            kubectl(&["delete", "pods,persistentvolumeclaims", "-A", "--all", "--grace-period=0", "--force"]);
            kubectl(&[&["wait", "namespace", "--for=delete", "--timeout=120s"], &own[..]].concat());
        }
        eventually("the CRD is gone", || get("default", "crd", "oauthconsumers.oauthconsumers.dev").is_null());
        cluster
    }

    /// Installs the chart with SQLite, as `helm install` with these further arguments. Answers what Helm said.
    pub fn install(&self, args: &[&str]) -> String {
        [SYSTEM, TEAM].into_iter().for_each(namespace);
        self.helm("install", args)
    }

    /// Installs the chart with PostgreSQL.
    pub fn install_on(&self, postgres: &Postgres, args: &[&str]) -> String {
        [SYSTEM, TEAM].into_iter().for_each(namespace);
        postgres.secrets(SYSTEM);
        self.helm("install", &[&POSTGRES[..], args].concat())
    }

    /// `helm install` or `helm upgrade` of the release, waiting until it is ready.
    pub fn helm(&self, verb: &str, args: &[&str]) -> String {
        let fixed = [verb, RELEASE, CHART, "-n", SYSTEM, "--wait", "--timeout=180s", "--set", "namespaces={team-a}"];
        let said = helm(&[&fixed[..], args].concat());
        until_known();
        said
    }

    /// Two people: a requester, who may edit and see to Secrets, and an approver.
    pub fn people(&self) {
        until_known();
        apply(&[binding(TEAM, "requester", "edit"), binding(TEAM, "approver", "oauthconsumers-approver")]);
        eventually("the role edit has what the chart adds to it", || {
            text(&kubectl_as("requester", &["auth", "can-i", "create", "oauthconsumers"])).starts_with("yes")
        });
    }

    /// Registers a consumer as the requester, and approves it as the approver. Answers its key.
    pub fn approved(&self, name: &str) -> String {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [secret(TEAM, &format!("{name}-oauth"), SECRET), consumer(TEAM, name, &json!({}))] });
        succeed("kubectl", &["--as=requester", "apply", "-f", "-"], &list.to_string());
        self.approve(name);
        wait_for(TEAM, name, "Active", "True/Active");
        key_of(TEAM, name)
    }

    pub fn approve(&self, name: &str) {
        let approved = decide("approver", name, &json!({ "approved": true }));
        assert!(approved.status.success(), "{}", text(&approved));
    }

    /// The check of this release, at the address of its Service.
    pub fn check(&self) -> Check {
        Check::of(SYSTEM, RELEASE)
    }
}

/// What `helm` is told of PostgreSQL.
pub const POSTGRES: [&str; 6] = [
    "--set",
    "store.type=postgres",
    "--set",
    "store.postgres.controller.secretName=store-controller",
    "--set",
    "store.postgres.signin.secretName=store-signin",
];

fn list_all(kind: &str) -> Vec<Value> {
    let found: Value = serde_json::from_str(&kubectl(&["get", kind, "-A", "-o", "json"])).unwrap();
    found["items"].as_array().unwrap().clone()
}

/// A pod's metrics.
pub fn metrics(pod: &str) -> String {
    kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}:9090/proxy/metrics")])
}

/// The names of a release's running pods of a component, the oldest first.
pub fn pods(namespace: &str, component: &str) -> Vec<String> {
    let mut pods = list(namespace, "pods", &format!("app.kubernetes.io/component={component}"));
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running");
    pods.sort_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str().unwrap().to_owned());
    pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

// === impl World ===

impl World {
    pub async fn with_jazz() -> Self {
        let (cluster, postgres) = (Cluster::alone().await, Postgres::new().await);
        cluster.install_on(&postgres, &[]);
        cluster.people();
        let (key, check) = (cluster.approved("jazz"), cluster.check());
        check.answers(&key, SECRET, 200);
        Self { cluster, postgres, check, key }
    }
}

// === impl Postgres ===

impl Postgres {
    /// A database of the test's own.
    pub async fn new() -> Self {
        let server = std::env::var("OAUTHCONSUMER_TEST_POSTGRES_URL").expect("these tests need PostgreSQL: run `make test`");
        let database = format!("t_{}", Uuid::new_v4().simple());
        succeed("psql", &[&server, "-qc", &format!("CREATE DATABASE {database}")], "");
        let url = server.rsplit_once('/').unwrap().0.to_owned() + "/" + &database;
        let host: Ipv4Addr = std::env::var("DEV_CLUSTER_HOST_IP").unwrap().parse().unwrap();
        Self { proxy: Proxy::listening(host, &url).await, url }
    }

    /// What the chart wants to be given: a Secret with the URL for each role.
    pub fn secrets(&self, namespace: &str) {
        for name in ["store-controller", "store-signin"] {
            let metadata = json!({ "name": name, "namespace": namespace });
            apply(&[
                json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": { "url": self.proxy.url } }),
            ]);
        }
    }

    /// Where the server itself is.
    pub fn address(&self) -> String {
        self.url.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned()
    }

    /// The answer to a query, past the proxy.
    pub fn ask(&self, query: &str) -> String {
        succeed("psql", &[&self.url, "-qtAc", query], "").trim().to_owned()
    }
}

// === impl Check ===

impl Check {
    pub fn of(namespace: &str, release: &str) -> Self {
        let service = get(namespace, "service", &format!("{release}-signin"));
        Self { address: format!("{}:8080", service["spec"]["clusterIP"].as_str().unwrap()).parse().unwrap() }
    }

    /// The status of the answer, on a connection of its own.
    pub fn ask(&self, key: &str, secret: &str) -> std::io::Result<u16> {
        let patience = Duration::from_secs(10);
        let mut connection = TcpStream::connect_timeout(&self.address, patience)?;
        connection.set_read_timeout(Some(patience))?;
        let credentials = STANDARD.encode(format!("{key}:{secret}"));
        let host = self.address;
        write!(
            connection,
            "GET /signin HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {credentials}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| std::io::Error::new(ErrorKind::InvalidData, format!("not HTTP: {answer:?}")))
    }

    /// Waits until sign-in with this key is answered so.
    pub fn answers(&self, key: &str, secret: &str, expected: u16) {
        eventually(&format!("{expected} for {key}"), || self.ask(key, secret).is_ok_and(|status| status == expected));
    }
}
