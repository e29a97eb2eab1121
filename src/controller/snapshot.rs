//! Snapshots: the input of a decision, read from the caches or from the API server. The only writes here are dry runs.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tracing::warn;

use super::failure::{api, is_absent};
use super::patch::{consumers, secrets};
use super::scope::Scope;
use super::{Context, now};
use crate::api::{OAuthConsumer, OAuthConsumerStatus, render, same_but_for_times};
use crate::consumer::{
    Failure, Missing, Object, Observed, Outcome, Phc, PolicyEnforced, SecretLimits, SecretProblem, SecretSeen, SecretSource,
    SecretValue, StatusUpdate, decide,
};
use crate::store::{Found, Head, Replaces};

/// What was seen of an object, and the object itself, for the preconditions of patches.
#[derive(Clone)]
pub(super) struct Snapshot {
    /// The object; only its name, if it is gone.
    pub(super) object: Arc<OAuthConsumer>,
    /// The input of decisions.
    pub(super) seen: Observed,
    /// The head of the feed when the record was read.
    read_at: Head,
}

// === impl Snapshot ===

impl Snapshot {
    /// From the caches: enough to tell whether there is something to do.
    pub(super) fn cached(ctx: &Context, scope: &Scope, object: Arc<OAuthConsumer>, found: Found) -> Self {
        let view = object.observed();
        let secret = scope.secret(&view);
        Self::new(ctx, object, Some(view), secret, found)
    }

    /// From a list of objects. Nothing is known of their Secrets.
    pub(super) fn listed(ctx: &Context, object: Arc<OAuthConsumer>, found: Found) -> Self {
        let view = object.observed();
        Self::new(ctx, object, Some(view), SecretSeen::Unknown, found)
    }

    /// Of an object that is gone, as far as is known.
    pub(super) fn gone(ctx: &Context, object: Arc<OAuthConsumer>, found: Found) -> Self {
        Self::new(ctx, object, None, SecretSeen::Unknown, found)
    }

    /// From the API server, newer than the record. An object that has neither a record nor our finalizer is not read again. Its
    /// first write is a patch with UID and resourceVersion, so the answer is as new.
    pub(super) async fn refreshed(&self, ctx: &Context, needs_secret: impl FnOnce(&Object) -> bool) -> Result<Self, Failure> {
        let is_patched_first = |object: &Object| !object.has_finalizer && !object.deleting && self.seen.record.is_none();
        let object = if self.seen.object.as_ref().is_some_and(is_patched_first) {
            Some(self.object.clone())
        } else {
            current(ctx, &self.object).await?.map(Arc::new)
        };
        let found = (self.read_at.clone(), self.seen.record.clone());
        let Some(object) = object else { return Ok(Self::gone(ctx, self.object.clone(), found)) };
        let view = object.observed();
        let mut snapshot = Self::new(ctx, object, Some(view.clone()), SecretSeen::Unknown, found);
        if needs_secret(&view) {
            let recorded = snapshot.seen.trusted().and_then(|record| record.phc());
            (snapshot.seen.secret, snapshot.seen.hash_is_known) = secret(ctx, &view, &snapshot.seen.owner.uid, recorded).await?;
        }
        if matches!(decide(&snapshot.seen), Err(Missing::Policy)) {
            snapshot.seen.policy = match ctx.policies.check(ctx, &snapshot.object).await {
                Ok(policy) => policy,
                // The end of a sign-in must not wait for this check, so the approval does not count.
                Err(cause) if !view.allows_signin() => {
                    // Cause: sign-in had to end while the API server did not answer, or another policy refused.
                    // Next step: [approve again](../explanation/approval.md#recover).
                    warn!(%cause, "the policy oauthconsumers-approve could not be tested, so the approval does not count");
                    PolicyEnforced::Absent
                }
                Err(cause) => return Err(cause),
            };
        }
        Ok(snapshot)
    }

    /// The outcome if this failure prevented all work.
    pub(super) fn failed(self, failure: Failure) -> (Self, Outcome) {
        let outcome = Outcome { record: self.seen.record.clone(), failure: Some(failure), cluster_restored: false };
        (self, outcome)
    }

    /// The outcome if the cluster was restored from a backup: everything has to be read again.
    pub(super) fn restored(self) -> (Self, Outcome) {
        let failure = Failure::Conflict("the cluster was restored from a backup; looking again".into());
        let (snapshot, outcome) = self.failed(failure);
        (snapshot, Outcome { cluster_restored: true, ..outcome })
    }

    /// The status to write for this update. None if it is published already.
    pub(super) fn status_to_write(&self, update: &StatusUpdate) -> Option<OAuthConsumerStatus> {
        let old = self.object.status.clone().unwrap_or_default();
        let new = render(&old, update, self.object.metadata.generation.unwrap_or_default(), now());
        (!same_but_for_times(&old, &new)).then_some(new)
    }

    /// What a write of the record replaces: the version that was read.
    pub(super) fn replaces(&self) -> Replaces {
        Replaces::what_was_read(self.seen.record.as_ref(), &self.read_at)
    }

    fn new(
        ctx: &Context,
        object: Arc<OAuthConsumer>,
        view: Option<Object>,
        secret: SecretSeen,
        (read_at, record): Found,
    ) -> Self {
        let seen = Observed {
            owner: ctx.owner(&object.uid().unwrap_or_default()),
            installation: ctx.peers.keeper(record.as_ref(), &object.namespace().unwrap_or_default()),
            limits: ctx.settings.limits,
            object: view,
            secret,
            record,
            policy: PolicyEnforced::Unknown,
            now: now(),
            hash_is_known: false,
        };
        Self { object, seen, read_at }
    }
}

/// The object of this name and UID, if it still exists.
async fn current(ctx: &Context, object: &OAuthConsumer) -> Result<Option<OAuthConsumer>, Failure> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    if !is_name(&namespace) || !is_name(&name) {
        // No object can have this name, so the row was edited. The API server cannot be asked for it.
        return Ok(None);
    }
    match consumers(&ctx.client, &namespace).get(&name).await {
        Ok(found) => Ok(Some(found).filter(|found| found.uid() == object.uid())),
        Err(error) if is_absent(&error, &name) => Ok(None),
        Err(error) => Err(api("get", &format!("OAuthConsumer {namespace}/{name}"), &error)),
    }
}

/// Whether an object can have this name: a DNS subdomain
/// ([Kubernetes object names](https://kubernetes.io/docs/concepts/overview/working-with-objects/names/)).
fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 253 && name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_allowed))
}

/// The Secret, and whether its value is known to fit the recorded hash.
async fn secret(ctx: &Context, object: &Object, uid: &str, recorded: Option<&Phc>) -> Result<(SecretSeen, bool), Failure> {
    let reference = &object.secret_ref;
    let Secret { metadata, data, .. } = match secrets(&ctx.client, &object.namespace).get(&reference.name).await {
        Ok(secret) => secret,
        Err(error) if is_absent(&error, &reference.name) => return Ok((SecretSeen::Missing, false)),
        Err(error) => return Err(api("get", &format!("Secret {}/{}", object.namespace, reference.name), &error)),
    };
    let source = SecretSource {
        name: reference.name.clone(),
        key: reference.key.clone(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
    };
    let Some(bytes) = data.as_ref().and_then(|data| data.get(&reference.key)) else {
        return Ok((SecretSeen::Read(source, Err(SecretProblem::KeyMissing)), false));
    };
    let is_known = |value: &SecretValue, phc: &Phc| ctx.known_hashes.is_known(uid, phc, ctx.fingerprints.of(value));
    let judged = SecretValue::accept(&bytes.0, ctx.settings.limits);
    // A raised floor applies to new values only: a value that was accepted before stays accepted.
    if let (Err(SecretProblem::TooShort), Some(phc)) = (&judged, recorded)
        && let Ok(value) = SecretValue::accept(&bytes.0, SecretLimits { min: 1, ..ctx.settings.limits })
        && (is_known(&value, phc) || ctx.hashing.verify(phc.clone(), vec![value.clone()]).await?.is_some())
    {
        ctx.known_hashes.remember(uid, phc.clone(), ctx.fingerprints.of(&value));
        return Ok((SecretSeen::Read(source, Ok(value)), true));
    }
    let hash_is_known = matches!((&judged, recorded), (Ok(value), Some(phc)) if is_known(value, phc));
    Ok((SecretSeen::Read(source, judged), hash_is_known))
}
