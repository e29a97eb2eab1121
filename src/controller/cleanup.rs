//! What goes before an installation does: nothing, while there are consumers; or else their finalizers, so that none is stuck.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tracing::debug;

use super::failure::api;
use super::scope::within;
use super::{PAGE, patch};
use crate::api::{FINALIZER, OAuthConsumer};
use crate::consumer::Failure;

/// For how long nobody may have put a finalizer back: a controller that was just told to stop may be at it.
const QUIET: Duration = Duration::from_secs(10);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Objects that are let go at a time.
const AT_ONCE: usize = 16;

/// The consumers in these namespaces, none meaning all, as `namespace/name`.
///
/// # Errors
/// When the API server does not answer or refuses. Without the CRD there are no consumers.
pub async fn consumers(client: &Client, namespaces: &[String]) -> Result<Vec<String>, Failure> {
    let described = |object: &OAuthConsumer| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    Ok(list(client, namespaces).await?.iter().map(described).collect())
}

/// Takes the finalizer off all consumers in these namespaces, none meaning all, until none has been put back for a while. Their
/// records stay in the store as they are. Answers how many were let go.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn release(client: &Client, namespaces: &[String]) -> Result<usize, Failure> {
    let (mut released, mut last) = (0, Instant::now());
    while last.elapsed() < QUIET {
        let held =
            list(client, namespaces).await?.into_iter().filter(|object| object.finalizers().iter().any(|f| f == FINALIZER));
        let attempts = stream::iter(held.map(|object| async move {
            match patch::finalizer(client, &object, false).await {
                Ok(_) => Ok(1),
                // The next look tells what has become of it.
                Err(Failure::Overtaken(cause)) => {
                    debug!(cause, "overtaken");
                    Ok(0)
                }
                Err(failure) => Err(failure),
            }
        }));
        let done: Vec<usize> = attempts.buffer_unordered(AT_ONCE).try_collect().await?;
        if !done.is_empty() {
            released += done.iter().sum::<usize>();
            last = Instant::now();
            println!("{released} consumers let go");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(released)
}

async fn list(client: &Client, namespaces: &[String]) -> Result<Vec<OAuthConsumer>, Failure> {
    let scopes = if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|name| Some(name.as_str())).collect() };
    let mut found = Vec::new();
    for namespace in scopes {
        let consumers: Api<OAuthConsumer> = within(client, namespace);
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match consumers.list(&params).await {
                Ok(page) => page,
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(found),
                Err(error) => return Err(api("list", "OAuthConsumers", &error)),
            };
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(found)
}
