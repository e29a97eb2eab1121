//! Observe: what a decision rests on. Writes nothing.

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
    Failure, Object, Observed, Phc, SecretLimits, SecretProblem, SecretSeen, SecretSource, SecretValue, Statement, needs_proof,
};
use crate::store::{Found, Head, Replaces};

/// What was seen, and the object it was seen on, for the preconditions of patches.
#[derive(Clone)]
pub(super) struct Look {
    /// The object as it was seen; the name it goes by if it is gone.
    pub(super) object: Arc<OAuthConsumer>,
    /// What decisions rest on.
    pub(super) seen: Observed,
    /// Where the feed stood when the record was read.
    read_at: Head,
}

/// Whether a look at an object reads its Secret.
#[derive(Clone, Copy)]
pub(super) enum SecretWanted {
    /// Whatever the object says.
    Always,
    /// Only if the object wants sign-in to be open: what ends it must not depend on a Secret that cannot be read.
    IfOpen,
    /// In no case: for objects whose Secrets are another controller's.
    Never,
}

// === impl Look ===

impl Look {
    /// A glance at the caches: enough to tell whether there is something to do.
    pub(super) fn glance(ctx: &Context, scope: &Scope, object: Arc<OAuthConsumer>, found: Found) -> Self {
        let view = object.observed();
        let secret = scope.secret(&view);
        Self::new(ctx, object, Some(view), secret, found)
    }

    /// An object as it was listed, or nothing but the name of one, with its record: something to look for.
    pub(super) fn unseen(ctx: &Context, object: Arc<OAuthConsumer>, found: Found) -> Self {
        Self::new(ctx, object, None, SecretSeen::Unknown, found)
    }

    /// An object as it was listed, with its record, for what there is to say about it.
    pub(super) fn listed(ctx: &Context, object: Arc<OAuthConsumer>, found: Found) -> Self {
        let view = object.observed();
        Self::new(ctx, object, Some(view), SecretSeen::Unknown, found)
    }

    /// A look at the API server, newer than the record in hand. Where there is no record yet, the object itself need not be
    /// asked for if the first write will be a patch with its UID and resourceVersion: its answer is a look.
    pub(super) async fn confirm(
        self,
        ctx: &Context,
        patch_comes_first: bool,
        secret_wanted: SecretWanted,
    ) -> Result<Self, Failure> {
        let object = if patch_comes_first { Some(self.object.clone()) } else { current(ctx, &self.object).await?.map(Arc::new) };
        let found = (self.read_at, self.seen.record);
        let Some(object) = object else {
            return Ok(Self::new(ctx, self.object, None, SecretSeen::Missing, found));
        };
        let view = object.observed();
        let trusted = found.1.as_ref().filter(|stored| stored.intact && !stored.record.is_removed());
        let phc = trusted.and_then(|stored| stored.record.phc());
        let (secret, hash_is_known) = match secret_wanted {
            _ if view.deleting => (SecretSeen::Unknown, false),
            SecretWanted::Never => (SecretSeen::Unknown, false),
            SecretWanted::IfOpen if view.is_shut() => (SecretSeen::Unknown, false),
            SecretWanted::IfOpen | SecretWanted::Always => secret(ctx, &view, &self.seen.owner.uid, phc).await?,
        };
        let mut look = Self::new(ctx, object, Some(view), secret, found);
        look.seen.hash_is_known = hash_is_known;
        if needs_proof(&look.seen) {
            look.seen.approvals_count = match ctx.proofs.of(ctx, &look.object).await {
                Ok(counts) => counts,
                // Nothing keeps a hold waiting: what it holds is then an approval that does not count.
                Err(cause) if look.seen.object.as_ref().is_some_and(Object::is_shut) => {
                    warn!(%cause, "an approval could not be proved, and its consumer is to be closed: it does not count");
                    false
                }
                Err(cause) => return Err(cause),
            };
        }
        Ok(look)
    }

    /// The status to write so that it says this; none if it does already.
    pub(super) fn status_to_write(&self, statement: &Statement) -> Option<OAuthConsumerStatus> {
        let old = self.object.status.clone().unwrap_or_default();
        let new = render(&old, statement, self.object.metadata.generation.unwrap_or_default(), now());
        (!same_but_for_times(&old, &new)).then_some(new)
    }

    /// What a write of the record replaces: what was read of it.
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
            approvals_count: true,
            hash_is_known: false,
        };
        Self { object, seen, read_at }
    }
}

/// The object of this name and UID, if it still exists.
async fn current(ctx: &Context, object: &OAuthConsumer) -> Result<Option<OAuthConsumer>, Failure> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    if !is_name(&namespace) || !is_name(&name) {
        // Made up in the store: no object can be called that, and the API server cannot be asked.
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

/// The Secret, and whether its value is known to be that of the recorded hash.
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
    // A raised floor is for new values: the value that was accepted under a lower one stays.
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
