//! The check before an uninstall: fails while there are consumers, or removes their finalizers.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use kube::{Client, ResourceExt};
use tracing::debug;

use super::failure::{api, has_code};
use super::patch;
use super::scope::{scopes_of, within};
use super::scopes::list_pages;
use crate::api::{FINALIZER, OAuthConsumer};
use crate::consumer::Failure;

/// How long no finalizer may come back before the release ends. A controller that is stopping may still add one.
const QUIET: Duration = Duration::from_secs(10);

/// The pause between two lists.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// Objects that are released at a time.
const CONCURRENT_RELEASES: usize = 16;

/// The consumers in these namespaces, as `namespace/name`. An empty list means all namespaces.
///
/// # Errors
/// If the API server does not answer, or refuses. A missing CRD is no error: then there are no consumers.
pub async fn consumers(client: &Client, namespaces: &[String]) -> Result<Vec<String>, Failure> {
    let described = |object: &OAuthConsumer| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    Ok(list(client, namespaces).await?.iter().map(described).collect())
}

/// Removes our finalizer from all consumers in these namespaces, until none has come back for a while. Their records stay in the
/// store.
/// Reports after each round how many objects were released so far, and returns the sum.
pub async fn release(client: &Client, namespaces: &[String], progress: impl Fn(usize)) -> Result<usize, Failure> {
    let (mut released, mut last) = (0, Instant::now());
    while last.elapsed() < QUIET {
        let held =
            list(client, namespaces).await?.into_iter().filter(|object| object.finalizers().iter().any(|f| f == FINALIZER));
        let attempts = stream::iter(held.map(|object| async move {
            match patch::finalizer(client, &object, false).await {
                Ok(_) => Ok(1),
                // The next list shows the outcome.
                Err(Failure::Conflict(cause)) => {
                    debug!(cause, "conflict");
                    Ok(0)
                }
                Err(failure) => Err(failure),
            }
        }));
        let done: Vec<usize> = attempts.buffer_unordered(CONCURRENT_RELEASES).try_collect().await?;
        if !done.is_empty() {
            released += done.iter().sum::<usize>();
            last = Instant::now();
            progress(released);
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    Ok(released)
}

async fn list(client: &Client, namespaces: &[String]) -> Result<Vec<OAuthConsumer>, Failure> {
    let mut found = Vec::new();
    for namespace in scopes_of(namespaces) {
        let consumers = &within::<OAuthConsumer>(client, namespace);
        match list_pages(async move |params| consumers.list(&params).await, |object| found.push(object)).await {
            Err(error) if has_code(&error, 404) => break,
            listed => listed.map_err(|error| api("list", "OAuthConsumers", &error))?,
        }
    }
    Ok(found)
}
