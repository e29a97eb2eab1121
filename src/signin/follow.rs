//! Follows the store's feed, so that the directory holds what the store holds, and proves it.
//!
//! Notifications and pauses only say when to ask. The proof is the answer: the head of the feed at the moment of asking, and
//! everything that changed up to it, in one read.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Directory;
use crate::store::{ConsumerStore, Head, StoreError};
use crate::telemetry::Metrics;

/// Records read at a time.
const PAGE: u32 = 1_000;

/// Questions per `--max-staleness` at least: a few may be lost before the directory is too old.
const QUESTIONS: u32 = 4;

/// How long a question may take. After that another connection is tried.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause after a question without an answer, and while there is no store yet.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) const FORMER_PRIMARY: &str = "it is a former primary: a later timeline has been seen";

/// What a follower knows of the feed.
pub(super) struct Follower {
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    /// The last change that was taken in.
    applied: i64,
    /// The head that was last seen.
    seen: Option<Head>,
    /// Counts the times that everything was read.
    round: u64,
    /// Whether everything is being read.
    loading: bool,
    /// The store has gone back without a new epoch; nothing counts until its controller has said something again.
    distrusted: Option<i64>,
}

// === impl Follower ===

impl Follower {
    pub(super) fn new(directory: Arc<Directory>, metrics: Arc<Metrics>) -> Self {
        Self { directory, metrics, applied: 0, seen: None, round: 0, loading: true, distrusted: None }
    }

    /// Follows until told to stop.
    pub(super) async fn run(
        mut self,
        store: Arc<OnceLock<Arc<dyn ConsumerStore>>>,
        period: Duration,
        shutdown: CancellationToken,
    ) {
        let period = period / QUESTIONS;
        loop {
            let turn = async {
                let Some(store) = store.get() else { return sleep(PAUSE).await };
                let asked = self.ask(&**store).await;
                self.metrics.directory_current.set(i64::from(self.directory.is_current()));
                self.metrics.feed_notifications.set(i64::from(store.complaint().is_none()));
                match asked {
                    Ok(()) => tokio::select! { () = store.changed() => {}, () = sleep(period) => {} },
                    Err(error) => {
                        self.directory.suspect(&error.to_string());
                        sleep(PAUSE).await;
                    }
                }
            };
            tokio::select! { () = turn => {}, () = shutdown.cancelled() => return }
        }
    }

    async fn ask(&mut self, store: &dyn ConsumerStore) -> Result<(), StoreError> {
        loop {
            let asked = Instant::now();
            let answer = timeout(PATIENCE, store.changes(self.applied, PAGE)).await;
            let (head, changes) = answer.map_err(|_| StoreError::Unavailable(format!("no answer within {PATIENCE:?}")))??;
            if !self.continues(&head)? {
                continue;
            }
            let last = changes.last().map_or(head.sequence, |change| change.sequence);
            self.directory.apply(changes, self.round);
            self.applied = last;
            if last < head.sequence {
                // There may be more, or the rest of the way are changes without a record.
                continue;
            }
            if self.loading {
                self.loading = false;
                self.directory.retain(self.round);
                self.metrics.feed_loads.inc();
                info!(records = self.directory.len(), sequence = head.sequence, "all records are in memory");
            }
            self.metrics.directory_records.set(i64::try_from(self.directory.len()).unwrap_or(i64::MAX));
            if self.distrusted.is_none() && head.verified {
                self.directory.prove(asked);
            } else {
                self.directory.disprove("waiting for a controller to compare all records with their objects");
            }
            return Ok(());
        }
    }

    /// Whether the head continues the feed that was followed so far; else everything has to be read again. A former primary,
    /// which a failover left behind, is never believed.
    fn continues(&mut self, head: &Head) -> Result<bool, StoreError> {
        if self.directory.has_seen_later_than(head) {
            return Err(StoreError::Unavailable(FORMER_PRIMARY.into()));
        }
        let Some(seen) = self.seen.replace(head.clone()) else {
            self.directory.see(head);
            return Ok(true);
        };
        let same_epoch = seen.epoch == head.epoch;
        if same_epoch && head.sequence < seen.sequence {
            warn!(
                sequence = head.sequence,
                seen = seen.sequence,
                "the store has gone back: nobody signs in until all records were compared"
            );
            self.distrusted = Some(head.last_verification);
            self.directory.distrust(true);
            self.directory.clear();
        } else if !same_epoch {
            info!("the store has failed over or was restored: nobody signs in until all records were compared");
            self.distrusted = None;
            self.directory.distrust(false);
            // In this order: nothing of the old epoch is taken for the new one's.
            self.directory.clear();
            self.directory.see(head);
        } else if self.distrusted.is_some_and(|last_verification| head.last_verification > last_verification) {
            self.distrusted = None;
            self.directory.distrust(false);
        } else if head.reload == seen.reload || head.reload <= self.applied {
            return Ok(true);
        }
        self.applied = 0;
        self.round += 1;
        self.loading = true;
        Ok(false)
    }
}
