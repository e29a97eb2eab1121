//! The API server of the tests. Never anybody's own: only the kubeconfig that `dev/with-control-plane.sh` made is read.

use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use oauthconsumer_operator::api::OAuthConsumer;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tower::BoxError;
use tower::buffer::BufferLayer;
use tower::filter::AsyncFilterLayer;
use uuid::Uuid;

/// How long a test waits for anything. Only failures take this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A namespace of the test's own.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
    pub consumers: Api<OAuthConsumer>,
    pub secrets: Api<Secret>,
}

/// The requests that a client has sent: `GET secrets/jazz-oauth`, `PATCH oauthconsumers/jazz/status`.
#[derive(Clone, Default)]
pub struct Requests {
    sent: Arc<Mutex<Vec<String>>>,
    /// What happens just before a request is sent, once.
    before: Arc<Mutex<HashMap<String, BoxFuture<'static, ()>>>>,
}

pub fn kubeconfig() -> String {
    std::env::var("OAUTHCONSUMER_TEST_KUBECONFIG").expect(
        "tests need a control plane of their own: run `make test`, or `dev/with-control-plane.sh dev/with-postgres.sh cargo test`",
    )
}

/// The kubeconfig's context of this name; else the user of this name, by impersonation.
async fn config(user: &str) -> Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig()).unwrap();
    let context = kubeconfig.contexts.iter().map(|context| context.name.as_str()).find(|name| *name == user);
    let options = KubeConfigOptions { context: Some(context.unwrap_or("admin").to_owned()), ..KubeConfigOptions::default() };
    let impersonated = context.is_none().then(|| user.to_owned());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    config.auth_info.impersonate = impersonated;
    config.default_retry = false;
    config
}

/// A client that acts as this user.
pub async fn client_of(user: &str) -> Client {
    Client::try_from(config(user).await).unwrap()
}

/// Runs the server's own kubectl, as a user would.
pub fn kubectl(namespace: &str, args: &[&str]) -> Output {
    Command::new("kubectl").args(["--namespace", namespace]).args(args).env("KUBECONFIG", kubeconfig()).output().unwrap()
}

/// A condition of an object, as `status/reason`.
pub fn condition(object: &OAuthConsumer, kind: &str) -> String {
    let found = object.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == kind);
    found.map_or_else(|| "absent".to_owned(), |condition| format!("{}/{}", condition.status, condition.reason))
}

/// Whether a condition has this `status/reason`, and speaks of the object's present generation.
pub fn is(kind: &'static str, expected: &'static str) -> impl Fn(&OAuthConsumer) -> bool + Clone {
    move |object| {
        let current = object.status.as_ref().and_then(|status| status.observed_generation) == object.metadata.generation;
        current && condition(object, kind) == expected
    }
}

/// Whether a condition's message holds this text.
pub fn says(object: &OAuthConsumer, kind: &str, text: &str) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|condition| condition.type_ == kind).any(|condition| condition.message.contains(text))
}

// === impl Requests ===

impl Requests {
    /// Those sent since the last call, but for events, watches and lists.
    pub fn take(&self) -> Vec<String> {
        let all = std::mem::take(&mut *self.sent.lock().unwrap());
        all.into_iter().filter(|request| request.contains('/')).collect()
    }

    /// Lets something happen just before this request is sent for the next time.
    pub fn before(&self, request: &str, happens: impl Future<Output = ()> + Send + 'static) {
        self.before.lock().unwrap().insert(request.to_owned(), happens.boxed());
    }

    async fn record(self, request: Request<Body>) -> Result<Request<Body>, BoxError> {
        // /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME or /api/VERSION/namespaces/...
        let path = request.uri().path();
        let parts: Vec<_> = path.split('/').skip_while(|part| *part != "namespaces").skip(2).collect();
        if parts.first().is_some_and(|resource| *resource != "events") {
            let line = format!("{} {}", request.method(), parts.join("/"));
            let happens = self.before.lock().unwrap().remove(&line);
            self.sent.lock().unwrap().push(line);
            if let Some(happens) = happens {
                happens.await;
            }
        }
        Ok(request)
    }
}

// === impl Cluster ===

impl Cluster {
    /// A fresh namespace on the shared API server, which has the committed CRD.
    pub async fn new() -> Self {
        static CRD: OnceCell<()> = OnceCell::const_new();
        let client = Client::try_from(config("admin").await).unwrap();
        CRD.get_or_init(|| install_crd(client.clone())).await;

        let namespace = format!("t-{}", Uuid::new_v4().simple());
        let object =
            Namespace { metadata: ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() }, ..Namespace::default() };
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let (consumers, secrets) = (Api::namespaced(client.clone(), &namespace), Api::namespaced(client.clone(), &namespace));
        Self { client, namespace, consumers, secrets }
    }

    /// A client for this user whose requests are recorded.
    pub async fn recorded_client(user: &str) -> (Client, Requests) {
        let requests = Requests::default();
        let recorder = requests.clone();
        let layer = AsyncFilterLayer::new(move |request| recorder.clone().record(request));
        let client = ClientBuilder::try_from(config(user).await).unwrap();
        // The buffer makes the service one that can be cloned, which the filter wants.
        (client.with_layer(&BufferLayer::new(64)).with_layer(&layer).build(), requests)
    }

    /// Creates or replaces a Secret with one key.
    pub async fn secret(&self, name: &str, value: impl AsRef<[u8]>) -> Secret {
        self.secret_data(name, [("consumerSecret".to_owned(), ByteString(value.as_ref().to_vec()))].into()).await
    }

    pub async fn secret_data(&self, name: &str, data: BTreeMap<String, ByteString>) -> Secret {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": data });
        self.secrets.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret)).await.unwrap()
    }

    pub async fn delete_secret(&self, name: &str) {
        self.secrets.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Creates a consumer that refers to the Secret `<name>-oauth`; `spec` adds to that.
    pub async fn consumer(&self, name: &str, spec: Value) -> OAuthConsumer {
        self.try_consumer(name, spec).await.unwrap()
    }

    pub async fn try_consumer(&self, name: &str, spec: Value) -> Result<OAuthConsumer, kube::Error> {
        let mut object = json!({
            "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": name },
            "spec": { "name": format!("The consumer {name}"), "secretRef": { "name": format!("{name}-oauth") } },
        });
        merge(&mut object["spec"], spec);
        self.consumers.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await
    }

    /// Creates a consumer with this secret that can sign in; answers its key.
    pub async fn approved(&self, name: &str, secret: &str) -> String {
        self.secret(&format!("{name}-oauth"), secret).await;
        self.consumer(name, json!({ "approved": true })).await;
        let object = self.wait(name, "Approved", is("Active", "True/Active")).await;
        object.status.unwrap().consumer_key.unwrap()
    }

    /// Merges a change into an object's spec, as `kubectl patch --type=merge` does.
    pub async fn edit(&self, name: &str, spec: Value) -> OAuthConsumer {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.consumers.patch(name, &PatchParams::default(), &patch).await.unwrap()
    }

    pub async fn get(&self, name: &str) -> OAuthConsumer {
        self.consumers.get(name).await.unwrap()
    }

    pub async fn delete(&self, name: &str) {
        self.consumers.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Labels a Secret, which is a new version of it with the same value.
    pub async fn label_secret(&self, name: &str, label: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let labelled = Patch::Merge(json!({ "metadata": { "labels": { "touched": label } } }));
        secrets.patch(name, &PatchParams::default(), &labelled).await.unwrap();
    }

    /// Takes all finalizers off an object, as people do who want to be rid of it.
    pub async fn take_finalizers(&self, name: &str) {
        let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        self.consumers.patch(name, &PatchParams::default(), &none).await.unwrap();
    }

    /// Changes an object in etcd itself, past the API server and all its rules. Answers its resourceVersion then.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Value)) -> u64 {
        let key = STANDARD.encode(format!("/registry/oauthconsumers.dev/oauthconsumers/{}/{name}", self.namespace));
        let stored = etcd("range", &json!({ "key": key }))["kvs"][0]["value"].as_str().unwrap().to_owned();
        let mut object: Value = serde_json::from_slice(&STANDARD.decode(stored).unwrap()).unwrap();
        change(&mut object);
        let put = etcd("put", &json!({ "key": key, "value": STANDARD.encode(object.to_string()) }));
        put["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until the object is as expected. Says what it is like, and its events, when that does not come.
    pub async fn wait(&self, name: &str, what: &str, expected: impl Fn(&OAuthConsumer) -> bool) -> OAuthConsumer {
        let reached =
            await_condition(self.consumers.clone(), name, |object: Option<&OAuthConsumer>| object.is_some_and(&expected));
        if let Ok(object) = tokio::time::timeout(PATIENCE, reached).await {
            return object.unwrap().unwrap();
        }
        let object = serde_json::to_string_pretty(&self.consumers.get_opt(name).await.unwrap()).unwrap();
        panic!("{name} never came to: {what}\nevents: {:?}\n{object}", self.events(name).await)
    }

    /// Waits until the object is ready in its present generation.
    pub async fn ready(&self, name: &str) -> OAuthConsumer {
        self.wait(name, "Ready=True", is("Ready", "True/Synced")).await
    }

    /// Waits until an object of this UID is gone.
    pub async fn gone(&self, object: &OAuthConsumer) {
        let (name, uid) = (object.name_any(), object.uid().unwrap());
        let gone = await_condition(self.consumers.clone(), &name, conditions::is_deleted(&uid));
        tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{name} was never deleted")).unwrap();
    }

    /// The reasons of an object's events, in the order in which they were made.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = events.list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| event.regarding.as_ref().and_then(|regarding| regarding.name.as_deref()) == Some(name));
        events.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        events.into_iter().filter_map(|event| event.reason).collect()
    }

    /// Waits until an object has an event of this reason.
    pub async fn event(&self, name: &str, reason: &str) {
        eventually(&format!("event {reason} of {name}"), || async { self.events(name).await.iter().any(|r| r == reason) }).await;
    }
}

/// A request to etcd's [JSON gateway](https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/).
fn etcd(method: &str, body: &Value) -> Value {
    let folder = std::env::var("DEV_CONTROL_PLANE_DIR").expect("dev/with-control-plane.sh says where etcd is");
    let url = std::fs::read_to_string(format!("{folder}/etcd-url")).unwrap();
    let url = format!("{}/v3/kv/{method}", url.trim());
    let answered = Command::new("curl").args(["--silent", "--fail", &url, "--data", &body.to_string()]).output().unwrap();
    serde_json::from_slice(&answered.stdout).unwrap()
}

/// Asks again until the answer is yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never came to: {what}"));
}

/// JSON merge patch (RFC 7396), for specs in tests.
fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) if target.is_object() => {
            for (name, value) in fields {
                merge(&mut target[name], value);
            }
        }
        value => *target = value,
    }
}

async fn install_crd(client: Client) {
    let crd: Value = serde_yaml::from_str(include_str!("../../../crds/oauthconsumers.yaml")).unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    let name = "oauthconsumers.oauthconsumers.dev";
    crds.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(crd)).await.unwrap();
    let established = await_condition(crds, name, conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await.expect("the CRD is never established").unwrap();
}
