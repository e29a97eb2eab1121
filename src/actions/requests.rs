//! The requests themselves.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use rand::distr::{Alphanumeric, SampleString};
use serde_json::{Value, json};

use super::FIELD_MANAGER;
use crate::api::{OAuthConsumer, OAuthConsumerSpec, SecretReference};

/// Characters of a secret that is made here: more than 256 bits.
const SUGGESTED_LENGTH: usize = 48;

/// Attempts at one change, while the controller writes the status meanwhile.
const ATTEMPTS: u32 = 5;

/// A new consumer.
pub struct Registration {
    pub object: String,
    pub name: String,
    pub secret_ref: SecretReference,
}

/// What becomes of the Secret.
pub enum WriteSecret<'a> {
    /// It is there, or comes from elsewhere.
    Leave,
    /// It gets this value, and goes with the consumer if it is made here.
    Set(&'a str),
}

/// Requests of one person in one namespace.
#[derive(Clone)]
pub struct Requests {
    consumers: Api<OAuthConsumer>,
    secrets: Api<Secret>,
    dry_run: bool,
}

/// A secret that nobody can guess, of letters and digits, so that it survives every form and shell.
pub fn suggest_secret() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), SUGGESTED_LENGTH)
}

// === impl Requests ===

impl Requests {
    pub fn new(client: &Client, namespace: &str, dry_run: bool) -> Self {
        Self {
            consumers: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client.clone(), namespace),
            dry_run,
        }
    }

    pub fn consumers(&self) -> &Api<OAuthConsumer> {
        &self.consumers
    }

    pub async fn get(&self, name: &str) -> kube::Result<OAuthConsumer> {
        self.consumers.get(name).await
    }

    /// Makes the consumer, and then its Secret, which it owns. If the Secret cannot be made, the consumer goes again.
    pub async fn register(&self, new: Registration, secret: WriteSecret<'_>) -> kube::Result<OAuthConsumer> {
        let spec =
            OAuthConsumerSpec { name: new.name, secret_ref: new.secret_ref, approved: None, hold: None, consumer_key: None };
        let params = PostParams { dry_run: self.dry_run, field_manager: Some(FIELD_MANAGER.into()) };
        let made = self.consumers.create(&params, &OAuthConsumer::new(&new.object, spec)).await?;
        if let WriteSecret::Set(value) = secret
            && let Err(error) = self.secrets.create(&params, &self.secret_of(&made, value)).await
        {
            if !self.dry_run {
                let _ = self.consumers.delete(&new.object, &only(&made)).await;
            }
            return Err(error);
        }
        Ok(made)
    }

    /// Changes the object that was shown, or nothing: its version goes with the patch.
    pub async fn change(&self, shown: &OAuthConsumer, spec: &Value) -> kube::Result<OAuthConsumer> {
        let patch = async |present: OAuthConsumer| {
            let patch = json!({
                "metadata": { "uid": present.uid(), "resourceVersion": present.resource_version() },
                "spec": spec,
            });
            self.consumers.patch(&present.name_any(), &self.written_by(), &Patch::Merge(patch)).await
        };
        self.as_shown(shown, patch).await
    }

    /// Gives the Secret of this consumer a new value. Makes it where it is missing.
    pub async fn set_secret(&self, object: &OAuthConsumer, value: &str) -> kube::Result<()> {
        let reference = &object.spec.secret_ref;
        let patch = json!({ "stringData": { (reference.key.clone()): value } });
        match self.secrets.patch_metadata(&reference.name, &self.written_by(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let params = PostParams { dry_run: self.dry_run, field_manager: Some(FIELD_MANAGER.into()) };
                self.secrets.create(&params, &self.secret_of(object, value)).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    /// The secret of this consumer, if there is text in the Secret's key.
    pub async fn secret(&self, object: &OAuthConsumer) -> kube::Result<Option<String>> {
        let reference = &object.spec.secret_ref;
        let secret = self.secrets.get(&reference.name).await?;
        Ok(secret.data.and_then(|mut data| data.remove(&reference.key)).and_then(|value| String::from_utf8(value.0).ok()))
    }

    /// Deletes the object that was shown, or none.
    pub async fn remove(&self, shown: &OAuthConsumer) -> kube::Result<()> {
        let delete = async |present: OAuthConsumer| {
            let params = DeleteParams { dry_run: self.dry_run, ..only(&present) };
            self.consumers.delete(&present.name_any(), &params).await.map(drop)
        };
        self.as_shown(shown, delete).await
    }

    /// Tries again when nothing but the status has changed since the object was shown: the controller does that all the time.
    async fn as_shown<T>(
        &self,
        shown: &OAuthConsumer,
        request: impl AsyncFn(OAuthConsumer) -> kube::Result<T>,
    ) -> kube::Result<T> {
        let mut present = shown.clone();
        for _ in 1..ATTEMPTS {
            match request(present).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    present = self.get(&shown.name_any()).await?;
                    if (present.uid(), present.metadata.generation) != (shown.uid(), shown.metadata.generation) {
                        return Err(kube::Error::Api(status));
                    }
                }
                done => return done,
            }
        }
        request(present).await
    }

    fn written_by(&self) -> PatchParams {
        PatchParams { dry_run: self.dry_run, field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
    }

    fn secret_of(&self, object: &OAuthConsumer, value: &str) -> Secret {
        let reference = &object.spec.secret_ref;
        // A dry run has no UID that would last.
        let owner = OwnerReference { block_owner_deletion: None, ..object.owner_ref(&()).unwrap_or_default() };
        Secret {
            metadata: ObjectMeta {
                name: Some(reference.name.clone()),
                owner_references: (!self.dry_run).then(|| vec![owner]),
                ..ObjectMeta::default()
            },
            string_data: Some([(reference.key.clone(), value.to_owned())].into()),
            type_: Some("Opaque".into()),
            ..Secret::default()
        }
    }
}

/// This very object, and no other of its name.
fn only(object: &OAuthConsumer) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: object.uid(), resource_version: object.resource_version() }),
        ..DeleteParams::default()
    }
}
