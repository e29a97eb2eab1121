//! Before an uninstall: refuse while there are consumers, or take their finalizers off, so that none is stuck.

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

/// The end is when no finalizer was put back for this long: a controller that was just told to stop may do that.
const QUIET: Duration = Duration::from_secs(10);

/// The pause between two lists.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// Objects that are let go at a time.
const CONCURRENT_RELEASES: usize = 16;

/// The consumers in these namespaces, none meaning all, as `namespace/name`.
///
/// # Errors
/// When the API server does not answer or refuses. Without the CRD there are no consumers.
pub async fn consumers(client: &Client, namespaces: &[String]) -> Result<Vec<String>, Failure> {
    let described = |object: &OAuthConsumer| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    Ok(list(client, namespaces).await?.iter().map(described).collect())
}

/// Takes the finalizer off all consumers in these namespaces, none meaning all, until none has been put back for a while. Their
/// records stay in the store as they are. Says after each round how many were let go so far, and answers how many in the end.
pub async fn release(client: &Client, namespaces: &[String], progress: impl Fn(usize)) -> Result<usize, Failure> {
    let (mut released, mut last) = (0, Instant::now());
    while last.elapsed() < QUIET {
        let held =
            list(client, namespaces).await?.into_iter().filter(|object| object.finalizers().iter().any(|f| f == FINALIZER));
        let attempts = stream::iter(held.map(|object| async move {
            match patch::finalizer(client, &object, false).await {
                Ok(_) => Ok(1),
                // The next list tells what has become of it.
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
