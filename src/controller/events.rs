//! Events: best effort, and never in the way of a reconcile.
//!
//! Each is an object of its own rather than one of a series: approved, disapproved, approved again has to read like that.

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
use crate::consumer::Notice;
use crate::telemetry::Metrics;

const REPORTER: &str = "oauthconsumer-operator";

/// Events waiting at most; what comes on top is dropped and counted.
const WAITING: usize = 8192;

/// How long publishing one may take.
const LIMIT: Duration = Duration::from_secs(10);

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
        let (sender, queue) = mpsc::channel(WAITING);
        (Self { queue: sender, metrics: metrics.clone() }, Publisher { queue, client, metrics })
    }

    /// Reports what happened to an object, in the log and as an event.
    pub(super) fn report(&self, object: &OAuthConsumer, notice: &Notice) {
        let event = event(object.object_ref(&()), notice);
        let (namespace, name) = (&object.metadata.namespace, &object.metadata.name);
        info!(namespace, name, reason = %notice.reason, "{}", notice.note);
        if self.queue.try_send(event).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

fn event(regarding: ObjectReference, notice: &Notice) -> Event {
    let now = Timestamp::now();
    let kind = if notice.is_warning() { "Warning" } else { "Normal" };
    Event {
        metadata: ObjectMeta {
            // Unique, as client-go names them.
            name: Some(format!("{}.{:x}", regarding.name.as_deref().unwrap_or_default(), rand::random::<u64>())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        regarding: Some(regarding),
        event_time: Some(MicroTime(now)),
        reason: Some(notice.reason.to_string()),
        note: Some(notice.note[..notice.note.floor_char_boundary(LONGEST_NOTE)].to_owned()),
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
        loop {
            let event = tokio::select! {
                event = self.queue.recv() => event,
                () = shutdown.cancelled() => return,
            };
            let Some(event) = event else { return };
            let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
            let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
            match timeout(LIMIT, events.create(&PostParams::default(), &event)).await {
                Ok(Ok(_)) => {}
                // A terminating namespace takes no events, and not everybody grants them.
                failed => {
                    self.metrics.events_dropped.inc();
                    debug!(event.reason, ?failed, "an event was not published");
                }
            }
        }
    }
}
