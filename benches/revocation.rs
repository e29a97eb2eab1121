//! How long a consumer can still sign in after the API server has said yes to its end. Run it with
//! `make bench ARGS="--bench revocation"`; `BENCH_CONSUMERS=3000 BENCH_SAMPLES=25` makes it shorter.
//!
//! The programs run as a user would run them: `run` on SQLite, `controller` and `signin` on PostgreSQL. A client asks all the
//! time. What is measured is the time from the API server's answer to the arrival of the last 200.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that fails may fail loudly")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use oauthconsumer_operator::api::OAuthConsumer;
use serde_json::json;
use support::{Program, SECRET, basic, percentile, table};
use tokio::net::TcpStream;

/// Requests under way while consumers are made.
const WRITERS: usize = 8;
/// How long a client goes on asking after it was refused, to see that it stays so.
const AFTERWARDS: Duration = Duration::from_millis(250);

/// The client that asks is refused often.
const UNLIMITED: [&str; 4] = ["--miss-limit-caller", "0", "--miss-limit-key", "0"];

#[derive(Clone, Copy)]
enum End {
    Disapproved,
    Deleted,
    SecretRemoved,
}

const ENDS: [(End, &str); 3] =
    [(End::Disapproved, "disapproved"), (End::Deleted, "deleted"), (End::SecretRemoved, "Secret removed")];

#[tokio::main]
async fn main() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    // How many consumers there are, and how many ends of each kind are measured.
    let (count, samples) = (number("BENCH_CONSUMERS", 10_000), number("BENCH_SAMPLES", 100));
    let mut rows = Vec::new();
    for store in ["SQLite", "PostgreSQL"] {
        let bench = Bench::start(store, count).await;
        rows.extend(bench.measure(store, "quiet", samples).await);
        let storm = tokio::spawn({
            let (client, namespace) = (bench.client.clone(), bench.namespace.clone());
            async move { make(&client, &namespace, "storm", count).await }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        rows.extend(bench.measure(store, "storm", samples).await);
        // The storm is over when its last consumer is ready; the figures count only if it lasted.
        let made = storm.is_finished();
        let ready = bench.ready("storm").await;
        eprintln!("{store}: while it was measured {ready} of the storm's {count} became ready; all made by then: {made}");
        assert!(ready < count, "the storm was over too soon");
        storm.abort();
        bench.end().await;
    }
    let columns = ["store", "controller", "end", "samples", "p50 ms", "p99 ms", "max ms"];
    table(
        &format!("From the API server's answer to the last 200, {count} consumers; storm: {count} more are being created"),
        &columns,
        &rows,
    );
}

struct Bench {
    client: Client,
    namespace: String,
    programs: Vec<Program>,
    count: usize,
    folder: tempfile::TempDir,
    next: std::cell::Cell<usize>,
}

async fn client() -> Client {
    let path = std::env::var("KUBECONFIG").expect("run it with `make bench`");
    let config = Kubeconfig::read_from(path).unwrap();
    let options = KubeConfigOptions { context: Some("admin".into()), ..KubeConfigOptions::default() };
    Client::try_from(Config::from_custom_kubeconfig(config, &options).await.unwrap()).unwrap()
}

// === impl Bench ===

impl Bench {
    async fn start(store: &str, count: usize) -> Self {
        let (client, folder) = (client().await, tempfile::tempdir().unwrap());
        let applied = Command::new("kubectl").args(["apply", "-f", "crds/oauthconsumers.yaml"]).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let namespace = format!("bench-{}", store.to_lowercase());
        let object = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();

        let began = Instant::now();
        let programs = if store == "SQLite" {
            let url = format!("sqlite://{}", folder.path().join("store.db").display());
            let args = ["run", "--store-url", &url, "--namespaces", &namespace];
            vec![Program::start(&[&args[..], &UNLIMITED].concat(), &folder.path().join("run.log"))]
        } else {
            let url = std::env::var("OAUTHCONSUMER_TEST_POSTGRES_URL").expect("run it with `make bench`");
            let controller = ["controller", "--store-url", &url, "--namespaces", &namespace];
            let signin = ["signin", "--store-url", &url];
            vec![
                Program::start(&[&signin[..], &UNLIMITED].concat(), &folder.path().join("signin.log")),
                Program::start(&controller, &folder.path().join("controller.log")),
            ]
        };
        let bench = Self { client, namespace, programs, count, folder, next: 0.into() };
        make(&bench.client, &bench.namespace, "jazz", count).await;
        while bench.ready("jazz").await < count {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        bench.programs.iter().for_each(Program::ready);
        eprintln!("{store}: {count} consumers ready after {:?}", began.elapsed());
        bench
    }

    fn consumers(&self) -> Api<OAuthConsumer> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// How many of these consumers have been approved as far as their status says.
    async fn ready(&self, prefix: &str) -> usize {
        let list = self.consumers().list(&ListParams::default()).await.unwrap();
        let is_ready = |object: &&OAuthConsumer| {
            object.metadata.name.as_ref().is_some_and(|name| name.starts_with(prefix))
                && object.status.as_ref().is_some_and(|status| status.state.is_some())
        };
        list.items.iter().filter(is_ready).count()
    }

    async fn measure(&self, store: &str, controller: &str, samples: usize) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut all = Vec::new();
        for (end, name) in ENDS {
            let mut times = Vec::new();
            for _ in 0..samples {
                // Spread over all of them.
                let next = self.next.replace(self.next.get() + 1);
                times.push(self.last_yes(&format!("jazz-{}", next * 16 % self.count + next * 16 / self.count), end).await);
            }
            all.extend(times.clone());
            rows.push(line(store, controller, name, &mut times));
        }
        rows.push(line(store, controller, "all", &mut all));
        rows
    }

    /// Milliseconds from the API server's answer to the last 200.
    async fn last_yes(&self, name: &str, end: End) -> f64 {
        let object = self.consumers().get(name).await.unwrap();
        let key = object.status.unwrap().consumer_key.unwrap();
        let authorization = basic(&key, SECRET);
        let mut asking = asking(&self.programs[0].signin).await;
        while !ask(&mut asking, &authorization).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let asks = tokio::spawn(async move {
            let (mut last_yes, mut first_no): (Instant, Option<Instant>) = (Instant::now(), None);
            while first_no.is_none_or(|first_no| first_no.elapsed() < AFTERWARDS) {
                if ask(&mut asking, &authorization).await {
                    last_yes = Instant::now();
                } else {
                    first_no.get_or_insert_with(Instant::now);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            last_yes
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        match end {
            End::Disapproved => {
                let patch = Patch::Merge(json!({ "spec": { "approved": false } }));
                self.consumers().patch(name, &PatchParams::default(), &patch).await.map(drop)
            }
            End::Deleted => self.consumers().delete(name, &DeleteParams::default()).await.map(drop),
            End::SecretRemoved => self.secrets().delete(name, &DeleteParams::default()).await.map(drop),
        }
        .unwrap();
        let answered = Instant::now();
        let last_yes = asks.await.unwrap();
        last_yes.saturating_duration_since(answered).as_secs_f64() * 1e3
    }

    async fn end(self) {
        drop(self.programs);
        drop(self.folder);
        // Nobody is there any more to let them go.
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
        let consumers: Api<OAuthConsumer> = Api::namespaced(self.client.clone(), &self.namespace);
        let _ = consumers.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        let names: Vec<_> = consumers.list_metadata(&ListParams::default()).await.unwrap().items;
        stream::iter(names)
            .for_each_concurrent(WRITERS, |object| {
                let (consumers, patch) = (&consumers, &patch);
                async move {
                    let _ = consumers.patch(&object.metadata.name.unwrap(), &PatchParams::default(), patch).await;
                }
            })
            .await;
    }
}

/// Makes approved consumers and their Secrets.
async fn make(client: &Client, namespace: &str, prefix: &str, count: usize) {
    let (consumers, secrets): (Api<OAuthConsumer>, Api<Secret>) =
        (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace));
    stream::iter(0..count)
        .for_each_concurrent(WRITERS, |i| {
            let (consumers, secrets, name) = (&consumers, &secrets, format!("{prefix}-{i}"));
            async move {
                let secret = json!({ "metadata": { "name": name }, "stringData": { "consumerSecret": SECRET } });
                let consumer = json!({
                    "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": name },
                    "spec": { "name": name, "approved": true, "secretRef": { "name": name } },
                });
                secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
                consumers.create(&PostParams::default(), &serde_json::from_value(consumer).unwrap()).await.unwrap();
            }
        })
        .await;
}

async fn asking(address: &str) -> SendRequest<Empty<Bytes>> {
    let (client, connection) = handshake(TokioIo::new(TcpStream::connect(address).await.unwrap())).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Whether the answer is 200.
async fn ask(client: &mut SendRequest<Empty<Bytes>>, authorization: &str) -> bool {
    let request = Request::get("/signin").header(HOST, "signin").header(AUTHORIZATION, authorization);
    let response = client.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    client.ready().await.unwrap();
    response.status() == 200
}

fn line(store: &str, controller: &str, end: &str, times: &mut [f64]) -> Vec<String> {
    let figure = |value: f64| format!("{value:.0}");
    let figures = [percentile(times, 0.5), percentile(times, 0.99), percentile(times, 1.0)].map(figure);
    [store, controller, end].map(ToOwned::to_owned).into_iter().chain([times.len().to_string()]).chain(figures).collect()
}
