//! Kubernetes events. A queue and a time limit keep them from delaying a reconcile.
//!
//! Each event is an object of its own. A series would hide the order of approved, disapproved, approved.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::api::OAuthConsumer;
use crate::consumer::EventDraft;
use crate::telemetry::Metrics;

const REPORTER: &str = "oauthconsumer-operator";

/// The most events that wait. Further events are dropped and counted.
const QUEUE_SIZE: usize = 8192;

/// How long publishing one may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// The API server refuses notes of more than 1 kB.
const LONGEST_NOTE: usize = 1024;

/// Takes events; hands them to the [`Publisher`].
pub(super) struct Events {
    queue: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
}

/// Publishes events, one after the other.
pub(super) struct Publisher {
    queue: mpsc::Receiver<Event>,
    client: Client,
    metrics: Arc<Metrics>,
}

// === impl Events ===

impl Events {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> (Self, Publisher) {
        let (sender, queue) = mpsc::channel(QUEUE_SIZE);
        (Self { queue: sender, metrics: metrics.clone() }, Publisher { queue, client, metrics })
    }

    /// Reports what happened to an object, in the log and as an event.
    pub(super) fn report(&self, object: &OAuthConsumer, draft: &EventDraft) {
        let event = event(object.object_ref(&()), draft);
        let (namespace, name) = (&object.metadata.namespace, &object.metadata.name);
        info!(namespace, name, reason = %draft.reason, "{}", draft.note);
        if self.queue.try_send(event).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

fn event(regarding: ObjectReference, draft: &EventDraft) -> Event {
    let now = Timestamp::now();
    let kind = if draft.is_warning() { "Warning" } else { "Normal" };
    Event {
        metadata: ObjectMeta {
            // Unique, as client-go names them.
            name: Some(format!("{}.{:x}", regarding.name.as_deref().unwrap_or_default(), rand::random::<u64>())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        regarding: Some(regarding),
        event_time: Some(MicroTime(now)),
        reason: Some(draft.reason.to_string()),
        note: Some(draft.note[..draft.note.floor_char_boundary(LONGEST_NOTE)].to_owned()),
        type_: Some(kind.to_owned()),
        action: Some("Reconcile".to_owned()),
        reporting_controller: Some(format!("oauthconsumers.dev/{REPORTER}")),
        reporting_instance: Some(std::env::var("HOSTNAME").unwrap_or_else(|_| REPORTER.to_owned())),
        ..Event::default()
    }
}

// === impl Publisher ===

impl Publisher {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        while let Some(Some(event)) = shutdown.run_until_cancelled(self.queue.recv()).await {
            let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
            let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
            match timeout(PUBLISH_TIMEOUT, events.create(&PostParams::default(), &event)).await {
                Ok(Ok(_)) => {}
                // A namespace that is being deleted takes no events, and a role may not grant them.
                failed => {
                    self.metrics.events_dropped.inc();
                    debug!(event.reason, ?failed, "an event was not published");
                }
            }
        }
    }
}
