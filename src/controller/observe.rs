//! Observe: what a decision rests on. Reads, and nothing else.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::failure::{api, is_absent};
use super::patch::{consumers, secrets};
use super::scope::Scope;
use super::{Context, Settings, now};
use crate::api::{OAuthConsumer, OAuthConsumerStatus, render, same_but_for_times};
use crate::consumer::{
    Failure, Object, Observed, Owner, SecretProblem, SecretSeen, SecretSource, SecretValue, Statement, Stored, needs_proof,
};

/// What was seen, and the object it was seen on, for the preconditions of patches.
#[derive(Clone)]
pub(super) struct Look {
    /// The object as it was seen; the name it goes by if it is gone.
    pub(super) object: Arc<OAuthConsumer>,
    /// What decisions rest on.
    pub(super) seen: Observed,
}

/// Whether a look at an object reads its Secret.
#[derive(Clone, Copy)]
pub(super) enum SecretWanted {
    /// Whatever the object says.
    Always,
    /// Only if the object wants sign-in to be open: what ends it must not depend on a Secret that cannot be read.
    IfOpen,
}

// === impl Look ===

impl Look {
    /// A glance at the caches: enough to tell whether there is something to do.
    pub(super) fn glance(settings: &Settings, scope: &Scope, object: Arc<OAuthConsumer>, record: Option<Stored>) -> Self {
        let view = object.observed();
        let secret = scope.secret_version(&view).map_or(SecretSeen::Missing, SecretSeen::Unread);
        Self::new(settings, object, Some(view), secret, record)
    }

    /// Nothing but a record and the name of its object: something to look for.
    pub(super) fn unseen(settings: &Settings, object: Arc<OAuthConsumer>, record: Option<Stored>) -> Self {
        Self::new(settings, object, None, SecretSeen::Missing, record)
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
        let Some(object) = object else {
            return Ok(Self::new(&ctx.settings, self.object, None, SecretSeen::Missing, self.seen.record));
        };
        let view = object.observed();
        let secret = match secret_wanted {
            _ if view.deleting => SecretSeen::Missing,
            SecretWanted::IfOpen if view.is_shut() => {
                let recorded = self.seen.live().and_then(|stored| stored.record.secret_source.clone());
                recorded.map_or(SecretSeen::Missing, SecretSeen::Unread)
            }
            SecretWanted::IfOpen | SecretWanted::Always => secret(ctx, &view).await?,
        };
        let known = match (&secret, self.seen.live().and_then(|stored| stored.record.phc())) {
            (SecretSeen::Read(_, Ok(value)), Some(phc)) => {
                ctx.known_hashes.is_known(&self.seen.owner.uid, phc, ctx.fingerprints.of(value))
            }
            _ => false,
        };
        let mut look = Self::new(&ctx.settings, object, Some(view), secret, self.seen.record);
        look.seen.hash_is_known = known;
        if needs_proof(&look.seen) {
            look.seen.approvals_count = ctx.proofs.of(ctx, &look.object).await?;
        }
        Ok(look)
    }

    /// The status to write so that it says this; none if it does already.
    pub(super) fn status_to_write(&self, statement: &Statement) -> Option<OAuthConsumerStatus> {
        let old = self.object.status.clone().unwrap_or_default();
        let new = render(&old, statement, self.object.metadata.generation.unwrap_or_default(), now());
        (!same_but_for_times(&old, &new)).then_some(new)
    }

    fn new(
        settings: &Settings,
        object: Arc<OAuthConsumer>,
        view: Option<Object>,
        secret: SecretSeen,
        record: Option<Stored>,
    ) -> Self {
        let owner = Owner { cluster_id: settings.cluster_id.clone(), uid: object.uid().unwrap_or_default() };
        let installation = settings.installation.clone();
        let seen = Observed {
            owner,
            installation,
            limits: settings.limits,
            object: view,
            secret,
            record,
            approvals_count: true,
            hash_is_known: false,
        };
        Self { object, seen }
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

async fn secret(ctx: &Context, object: &Object) -> Result<SecretSeen, Failure> {
    let reference = &object.secret_ref;
    match secrets(&ctx.client, &object.namespace).get(&reference.name).await {
        Ok(Secret { metadata, data, .. }) => {
            let source = SecretSource {
                name: reference.name.clone(),
                key: reference.key.clone(),
                uid: metadata.uid.unwrap_or_default(),
                resource_version: metadata.resource_version.unwrap_or_default(),
            };
            let value = data.as_ref().and_then(|data| data.get(&reference.key));
            let judged = match value {
                None => Err(SecretProblem::KeyMissing),
                Some(bytes) => SecretValue::accept(&bytes.0, ctx.settings.limits),
            };
            Ok(SecretSeen::Read(source, judged))
        }
        Err(error) if is_absent(&error, &reference.name) => Ok(SecretSeen::Missing),
        Err(error) => Err(api("get", &format!("Secret {}/{}", object.namespace, reference.name), &error)),
    }
}
