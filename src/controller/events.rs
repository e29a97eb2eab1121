//! Events: best effort, and never in the way of a reconcile.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::api::OAuthConsumer;
use crate::consumer::Notice;
use crate::telemetry::Metrics;

/// Events waiting at most; what comes on top is dropped and counted.
const WAITING: usize = 8192;
/// Events being published at once.
const CONCURRENCY: usize = 4;
/// How long publishing one may take.
const LIMIT: Duration = Duration::from_secs(10);

type Waiting = (Event, ObjectReference);

/// Takes events; hands them to the [`Publisher`].
#[derive(Clone)]
pub(super) struct Events {
    queue: mpsc::Sender<Waiting>,
    metrics: Arc<Metrics>,
}

/// Publishes events, one process-wide recorder for all.
pub(super) struct Publisher {
    queue: mpsc::Receiver<Waiting>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
}

// === impl Events ===

impl Events {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> (Self, Publisher) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let reporter = Reporter { controller: "oauthconsumer-operator".into(), instance: std::env::var("HOSTNAME").ok() };
        let recorder = Recorder::new(client, reporter);
        (Self { queue: sender, metrics: metrics.clone() }, Publisher { queue: receiver, recorder, metrics })
    }

    /// Reports what happened to an object, in the log and as an event.
    pub(super) fn report(&self, object: &OAuthConsumer, notice: &Notice) {
        let reference = object.object_ref(&());
        let (namespace, name) =
            (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        info!(namespace, name, reason = %notice.reason, "{}", notice.note);
        let event = Event {
            type_: if notice.is_warning() { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.to_string(),
            // The API server refuses notes of more than 1 kB.
            note: Some(notice.note.chars().take(250).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        if self.queue.clone().try_send((event, reference)).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

// === impl Publisher ===

impl Publisher {
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let Self { queue, recorder, metrics } = self;
        let publish = queue.for_each_concurrent(CONCURRENCY, |(event, reference)| {
            let (recorder, metrics) = (&recorder, &metrics);
            async move {
                match timeout(LIMIT, recorder.publish(&event, &reference)).await {
                    Ok(Ok(())) => {}
                    // A terminating namespace takes no events, and not everybody grants them.
                    failed => {
                        metrics.events_dropped.inc();
                        debug!(reason = event.reason, ?failed, "an event was not published");
                    }
                }
            }
        });
        tokio::select! { () = publish => {}, () = shutdown.cancelled() => {} }
    }
}
