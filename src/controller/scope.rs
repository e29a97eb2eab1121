//! What a controller watches: the objects of one namespace or of all, and the metadata of the Secrets there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, PartialObjectMeta, WatchParams};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::SetOnce;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::failure::{has_code, message};
use crate::api::{DECIDED, DECIDED_BY, OAuthConsumer};
use crate::consumer::{Object, SecretSeen, SecretSource};

/// A watch ends after this many seconds, so that a broken connection is noticed. The default is 290.
const WATCH_TIMEOUT_SECONDS: u32 = 30;

/// How long to wait for the list of Secrets. After that, consumers stay as they are until the list comes.
const SECRETS_TIMEOUT: Duration = Duration::from_secs(5);

type SecretMeta = PartialObjectMeta<Secret>;
type Cached<K> = std::pin::Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

/// The caches of one watch, and the queues that it fills.
pub(super) struct Scope {
    /// None means all namespaces.
    pub(super) namespace: Option<String>,
    /// The objects as last seen.
    pub(super) objects: Store<OAuthConsumer>,
    secrets: Store<SecretMeta>,
    /// Set once the objects were listed. `Store::wait_until_ready` would wake only one of several waiters.
    objects_listed: SetOnce<()>,
    /// Set once the list of Secrets has come or failed. After a failure, Secrets are read one by one.
    secrets_tried: SetOnce<()>,
    /// Whether the cache of Secrets has been filled.
    secrets_known: AtomicBool,
    /// Why the Secrets cannot be listed or watched now.
    secrets_refused: Mutex<Option<String>>,
    /// Which objects refer to a Secret.
    references: Mutex<References>,
    waiting: mpsc::UnboundedSender<ObjectRef<OAuthConsumer>>,
    denials: mpsc::UnboundedSender<ObjectRef<OAuthConsumer>>,
    deleted: mpsc::UnboundedSender<Arc<OAuthConsumer>>,
}

/// The work that a scope has found.
pub(super) struct Queues {
    /// Objects that may need a reconcile.
    pub(super) waiting: mpsc::UnboundedReceiver<ObjectRef<OAuthConsumer>>,
    /// Objects whose sign-in may have to end, before anything else.
    pub(super) denials: mpsc::UnboundedReceiver<ObjectRef<OAuthConsumer>>,
    /// Deleted objects, perhaps without a reconcile.
    pub(super) deleted: mpsc::UnboundedReceiver<Arc<OAuthConsumer>>,
}

/// The streams that fill a scope's caches.
pub(super) struct Feeds {
    objects: Cached<OAuthConsumer>,
    secrets: Cached<SecretMeta>,
}

/// An index of objects by their Secret, both by namespace and name.
#[derive(Default)]
struct References {
    by_secret: HashMap<(String, String), BTreeSet<String>>,
    by_object: HashMap<(String, String), String>,
}

/// One scope for each namespace, or one for all namespaces if none is named.
pub(super) fn scopes_of(namespaces: &[String]) -> Vec<Option<&str>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|name| Some(name.as_str())).collect() }
}

/// The API of a kind in one namespace, or in all.
pub(super) fn within<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

// === impl Scope ===

impl Scope {
    pub(super) fn new(client: &Client, namespace: Option<&str>) -> (Self, Feeds, Queues) {
        let (objects, objects_writer) = store();
        let (secrets, secrets_writer) = store();
        let config = || watcher::Config::default().timeout(WATCH_TIMEOUT_SECONDS);
        let feeds = Feeds {
            objects: watch(within(client, namespace), config()).default_backoff().modify(strip).reflect(objects_writer).boxed(),
            secrets: watch(within(client, namespace), config()).default_backoff().modify(strip).reflect(secrets_writer).boxed(),
        };
        let (to_waiting, waiting) = mpsc::unbounded();
        let (to_denials, denials) = mpsc::unbounded();
        let (to_deleted, deleted) = mpsc::unbounded();
        let scope = Self {
            namespace: namespace.map(str::to_owned),
            objects,
            secrets,
            objects_listed: SetOnce::new(),
            secrets_tried: SetOnce::new(),
            secrets_known: AtomicBool::new(false),
            secrets_refused: Mutex::default(),
            references: Mutex::default(),
            waiting: to_waiting,
            denials: to_denials,
            deleted: to_deleted,
        };
        (scope, feeds, Queues { waiting, denials, deleted })
    }

    /// Resolves once the objects have been listed, and the Secrets, too, if they can be.
    pub(super) async fn wait_until_ready(&self) {
        self.objects_listed.wait().await;
        let _ = timeout(SECRETS_TIMEOUT, self.secrets_tried.wait()).await;
    }

    /// Why the Secrets cannot be listed or watched now. Accepted secrets stay in use meanwhile.
    pub(super) fn secrets_refused(&self) -> Option<String> {
        self.secrets_refused.lock().clone()
    }

    /// Checks again whether the Secrets can be listed and watched, if they could not. A watch that works again does not report
    /// it.
    pub(super) async fn ask_for_secrets(&self, client: &Client) {
        if self.secrets_refused().is_none() {
            return;
        }
        let secrets: Api<Secret> = within(client, self.namespace.as_deref());
        let tried = match secrets.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => secrets.watch_metadata(&WatchParams::default().timeout(1), "0").await.map(drop),
            Err(error) => Err(error),
        };
        self.set_secrets_refused(tried.err().map(|error| message(&error)));
    }

    fn set_secrets_refused(&self, why: Option<String>) {
        *self.secrets_refused.lock() = why;
    }

    /// Whether a namespace is watched here.
    pub(super) fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }

    /// Asks for a reconcile.
    pub(super) fn enqueue(&self, object: ObjectRef<OAuthConsumer>) {
        // Fails only after the reconciler has ended.
        let _ = self.waiting.unbounded_send(object);
    }

    /// Ends the reconciles once the queue is empty.
    pub(super) fn stop_reconciles(&self) {
        self.waiting.close_channel();
    }

    /// The object's Secret, as cached. Unknown before the cache is filled.
    pub(super) fn secret(&self, object: &Object) -> SecretSeen {
        if !self.secrets_known.load(Ordering::Acquire) {
            return SecretSeen::Unknown;
        }
        let reference = &object.secret_ref;
        let cached = self.secrets.get(&ObjectRef::new(&reference.name).within(&object.namespace));
        cached.map_or(SecretSeen::Missing, |secret| {
            SecretSeen::Unread(SecretSource {
                name: reference.name.clone(),
                key: reference.key.clone(),
                uid: secret.uid().unwrap_or_default(),
                resource_version: secret.resource_version().unwrap_or_default(),
            })
        })
    }

    fn enqueue_all(&self) {
        self.objects.state().iter().for_each(|object| self.see(object));
    }

    /// Enqueues the object for the fast path or for a reconcile.
    fn see(&self, object: &OAuthConsumer) {
        let reference = ObjectRef::from_obj(object);
        if may_deny(object) { self.deny(reference) } else { self.enqueue(reference) }
    }

    fn on_object(&self, event: Event<OAuthConsumer>) {
        match event {
            Event::Apply(object) => {
                self.references().set(&object);
                self.see(&object);
            }
            Event::Delete(object) => {
                self.references().remove(&object);
                let _ = self.deleted.unbounded_send(Arc::new(object));
            }
            Event::Init | Event::InitApply(_) => {}
            // The cache shows a list only when the list is complete. Objects that the list lacks are gone.
            Event::InitDone => {
                let mut references = References::default();
                self.objects.state().iter().for_each(|object| references.set(object));
                *self.references() = references;
                let _ = self.objects_listed.set(());
                self.enqueue_all();
            }
        }
    }

    fn on_secret(&self, event: Event<SecretMeta>) {
        match event {
            Event::Apply(secret) => self.referring_to(&secret).into_iter().for_each(|object| self.enqueue(object)),
            Event::Delete(secret) => self.referring_to(&secret).into_iter().for_each(|object| self.deny(object)),
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                self.set_secrets_refused(None);
                self.secrets_known.store(true, Ordering::Release);
                let _ = self.secrets_tried.set(());
                self.enqueue_all();
            }
        }
    }

    /// Enqueues the object for the fast path, which then enqueues it for a reconcile.
    fn deny(&self, object: ObjectRef<OAuthConsumer>) {
        let _ = self.denials.unbounded_send(object);
    }

    fn referring_to(&self, secret: &SecretMeta) -> Vec<ObjectRef<OAuthConsumer>> {
        let namespace = secret.namespace().unwrap_or_default();
        let objects = self.references().of(&namespace, &secret.name_any());
        objects.iter().map(|object| ObjectRef::new(object).within(&namespace)).collect()
    }

    fn references(&self) -> MutexGuard<'_, References> {
        self.references.lock()
    }
}

/// Whether a sign-in may have to end. A new object (generation 1) never allowed one.
fn may_deny(object: &OAuthConsumer) -> bool {
    let object = object.observed();
    object.deleting || (!object.allows_signin() && object.generation > 1)
}

/// Why a kind cannot be listed or watched. None if a watch only ended.
fn refusal(error: &watcher::Error) -> Option<String> {
    use watcher::Error::{InitialListFailed, WatchError, WatchStartFailed};
    match error {
        InitialListFailed(error) => Some(message(error)),
        WatchStartFailed(error) if has_code(error, 403) => Some(message(error)),
        WatchError(status) if status.code == 403 => Some(status.message.clone()),
        _ => None,
    }
}

/// Removes what caches do not need. The annotation `last-applied-configuration` of a Secret holds the secret.
fn strip<K: ResourceExt>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().retain(|name, _| name == DECIDED_BY || name == DECIDED);
    object.labels_mut().clear();
}

// === impl Feeds ===

impl Feeds {
    /// Fills the caches and the queues until shutdown. A watch that breaks is started again.
    pub(super) async fn watch(self, scope: Arc<Scope>, shutdown: CancellationToken) {
        let objects = self.objects.for_each(|event| {
            match event {
                Ok(event) => scope.on_object(event),
                // Cause: the API server does not answer, or refuses.
                // Next step: none if it passes. Else read `error`, and correct the controller's rights or network.
                Err(error) => warn!(%error, "OAuthConsumers cannot be watched; the controller tries again"),
            }
            std::future::ready(())
        });
        let secrets = self.secrets.for_each(|event| {
            match event {
                Ok(event) => scope.on_secret(event),
                Err(error) => {
                    // A namespace that is being deleted loses our role first. Other namespaces must not wait for its Secrets.
                    let _ = scope.secrets_tried.set(());
                    if let Some(why) = refusal(&error) {
                        scope.set_secrets_refused(Some(why));
                    }
                    // Cause: the API server does not answer, or refuses, as after the namespace was deleted.
                    // Next step: none if it passes. Else [the line `[!] secrets`](../how-to/troubleshoot.md#a-pod-is-not-ready).
                    warn!(%error, "Secrets cannot be watched; the controller tries again");
                }
            }
            std::future::ready(())
        });
        shutdown.run_until_cancelled(futures::future::join(objects, secrets)).await;
        // The queue of reconciles stays open, because the fast path still adds to it. The fast path closes it.
        scope.denials.close_channel();
        scope.deleted.close_channel();
    }
}

// === impl References ===

impl References {
    fn set(&mut self, object: &OAuthConsumer) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let secret = object.spec.secret_ref.name.clone();
        let before = self.by_object.insert((namespace.clone(), name.clone()), secret.clone());
        if let Some(before) = before.filter(|before| *before != secret) {
            self.unlink(&namespace, before, &name);
        }
        self.by_secret.entry((namespace, secret)).or_default().insert(name);
    }

    fn remove(&mut self, object: &OAuthConsumer) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        if let Some(secret) = self.by_object.remove(&(namespace.clone(), name.clone())) {
            self.unlink(&namespace, secret, &name);
        }
    }

    fn unlink(&mut self, namespace: &str, secret: String, name: &str) {
        let entry = (namespace.to_owned(), secret);
        if let Some(names) = self.by_secret.get_mut(&entry) {
            names.remove(name);
            if names.is_empty() {
                self.by_secret.remove(&entry);
            }
        }
    }

    fn of(&self, namespace: &str, secret: &str) -> Vec<String> {
        self.by_secret.get(&(namespace.to_owned(), secret.to_owned())).into_iter().flatten().cloned().collect()
    }
}
