//! Follows the store's feed, so that the directory is equal to the store.
//!
//! Notifications and pauses only decide when to read. Only a read makes the directory fresh: it returns the head of the feed, and
//! all changes up to it, at one moment. So lost notifications, poolers, broken connections and slow processes can delay or stop
//! the directory, but not make it wrong.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::directory::{Directory, Feed};
use crate::store::{ConsumerStore, StoreError};
use crate::telemetry::Metrics;

/// Records read at a time.
const PAGE: u32 = 1_000;

/// The fewest reads per `--max-staleness`: a few may fail before the directory is too old.
const QUESTIONS: u32 = 4;

/// How long a read may take. After that another connection is tried.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause after a failed read, and while the store is not open yet.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Follows the feed. Nothing else changes the trust of the directory.
pub(super) struct Follower {
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    /// The sequence of the last applied change.
    applied: i64,
}

// === impl Follower ===

impl Follower {
    pub(super) fn new(directory: Arc<Directory>, metrics: Arc<Metrics>) -> Self {
        Self { directory, metrics, applied: 0 }
    }

    pub(super) async fn run(mut self, store: Arc<OnceLock<Arc<dyn ConsumerStore>>>, max_staleness: Duration) {
        let period = max_staleness / QUESTIONS;
        loop {
            let Some(store) = store.get() else {
                sleep(RETRY_PAUSE).await;
                continue;
            };
            let asked = self.ask(&**store).await;
            self.metrics.directory_current.set(i64::from(self.directory.is_current()));
            self.metrics.feed_notifications.set(i64::from(store.complaint().is_none()));
            match asked {
                Ok(()) => tokio::select! { () = store.changed() => {}, () = sleep(period) => {} },
                Err(error) => {
                    self.directory.fail(error.to_string());
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn ask(&mut self, store: &dyn ConsumerStore) -> Result<(), StoreError> {
        loop {
            let asked = Instant::now();
            let answer = timeout(QUERY_TIMEOUT, store.changes(self.applied, PAGE)).await;
            let unavailable = |why: String| StoreError::Unavailable(why);
            let (head, changes) = answer.map_err(|_| unavailable(format!("no answer within {QUERY_TIMEOUT:?}")))??;
            let feed = self.directory.advance(&head, self.applied).map_err(|why| unavailable(why.to_string()))?;
            match feed {
                Feed::WentBack => {
                    // Cause: the store was restored, or its URL leads to another server.
                    // Next step: none after a restore. Else check the store's URL.
                    warn!(
                        sequence = head.sequence,
                        "the store shows an older state than before; sign-in is not checked until a controller has verified all records"
                    );
                }
                Feed::NewEpoch => {
                    info!(
                        "the store was restarted, restored or failed over; sign-in is not checked until a controller has verified all records"
                    );
                }
                Feed::Reload | Feed::Continues => {}
            }
            if !matches!(feed, Feed::Continues) {
                self.applied = 0;
                continue;
            }
            let last = changes.last().map_or(head.sequence, |change| change.sequence);
            self.directory.apply(changes);
            self.applied = last;
            if last < head.sequence {
                // There may be more records, or the last changes were deletions, which show no record.
                continue;
            }
            if self.directory.finish(&head, asked) {
                self.metrics.feed_loads.inc();
                info!(records = self.directory.len(), sequence = head.sequence, "all records are in memory");
            }
            self.metrics.directory_records.set(i64::try_from(self.directory.len()).unwrap_or(i64::MAX));
            return Ok(());
        }
    }
}
