//! All scopes of this process, and complete lists of the objects inside and outside of them.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use kube::api::{ListParams, ObjectList, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};

use super::failure::api;
use super::scope::{Scope, within};
use crate::api::OAuthConsumer;
use crate::consumer::Failure;

/// Objects on one page of a list.
const PAGE_SIZE: u32 = 500;

/// One scope for each namespace that is managed, or one for all of them.
pub(super) struct Scopes(pub(super) Vec<Arc<Scope>>);

// === impl Scopes ===

impl Scopes {
    /// Waits until all caches have been filled.
    pub(super) async fn wait_until_ready(&self) {
        join_all(self.0.iter().map(|scope| scope.wait_until_ready())).await;
    }

    /// Whether the namespace is managed here.
    pub(super) fn covers(&self, namespace: &str) -> bool {
        self.0.iter().any(|scope| scope.covers(namespace))
    }

    /// All objects, as cached.
    pub(super) fn cached(&self) -> impl Iterator<Item = (&Scope, Arc<OAuthConsumer>)> {
        self.0.iter().flat_map(|scope| scope.objects.state().into_iter().map(|object| (&**scope, object)))
    }

    /// Asks for a reconcile.
    pub(super) fn enqueue(&self, namespace: &str, name: &str) {
        for scope in self.0.iter().filter(|scope| scope.covers(namespace)) {
            scope.enqueue(ObjectRef::new(name).within(namespace));
        }
    }

    /// The generations of all objects, by UID, from complete and consistent lists instead of caches.
    pub(super) async fn list(&self, client: &Client) -> Result<HashMap<String, i64>, Failure> {
        let mut generations = HashMap::new();
        for scope in &self.0 {
            let consumers = &within::<OAuthConsumer>(client, scope.namespace.as_deref());
            let each = |object: PartialObjectMeta<_>| generations.extend(object.uid().zip(object.metadata.generation));
            let listed = list_pages(async move |params| consumers.list_metadata(&params).await, each).await;
            listed.map_err(|error| api("list", "OAuthConsumers", &error))?;
        }
        Ok(generations)
    }

    /// The objects of the cluster outside all scopes, by UID. They have no cache: a list in each sweep is enough to end their
    /// sign-ins.
    pub(super) async fn list_outside(&self, client: &Client) -> Result<HashMap<String, OAuthConsumer>, Failure> {
        let (consumers, mut objects) = (&Api::<OAuthConsumer>::all(client.clone()), HashMap::new());
        let each = |object: OAuthConsumer| {
            if !self.covers(&object.namespace().unwrap_or_default()) {
                objects.extend(object.uid().map(|uid| (uid, object)));
            }
        };
        let listed = list_pages(async move |params| consumers.list(&params).await, each).await;
        listed.map_err(|error| api("list", "OAuthConsumers of the cluster", &error))?;
        Ok(objects)
    }
}

/// Lists page by page, and hands each object on as it comes.
pub(super) async fn list_pages<K: Clone, F: Future<Output = kube::Result<ObjectList<K>>>>(
    list: impl Fn(ListParams) -> F,
    mut each: impl FnMut(K),
) -> kube::Result<()> {
    let mut params = ListParams::default().limit(PAGE_SIZE);
    loop {
        let page = list(params.clone()).await?;
        page.items.into_iter().for_each(&mut each);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}
