//! The controllers of the store: which of them run, and which namespaces they manage.
//!
//! Each controller raises its counter (`beat`) in the store once in a period. It counts as ended if the counter did not change in
//! the reads of three periods, of the longer period of the two. Reads are counted, not time: so an outage of the store proves
//! nothing, and no clocks are compared.
//!
//! The end of a controller closes no record. It only decides which installation a record names, and whether another process of
//! this installation still manages a namespace.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Context, now};
use crate::consumer::Stored;
use crate::store::{ConsumerStore, Controller, OpenRecords, StoreError};

/// Periods without a new beat after which a controller counts as ended.
const MISSED_PERIODS: u32 = 3;

/// Periods after which the row of an ended controller is removed.
const FORGOTTEN_PERIODS: u32 = 100;

/// How long the removal of our own row may take.
const CHECK_OUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Which controllers run, as of the last read.
pub(super) struct Peers {
    own: Controller,
    /// Whether the records of this installation are verified.
    is_verified: AtomicBool,
    /// The other controllers, by instance. None before the first read.
    others: Mutex<Option<HashMap<String, Peer>>>,
}

struct Peer {
    controller: Controller,
    beat: i64,
    /// How long the beat has not changed, counted in our own periods.
    silent: Duration,
}

/// Checks in once in a period, and checks out at shutdown.
pub(super) async fn run(ctx: Arc<Context>, shutdown: CancellationToken) {
    let mut period = interval(ctx.peers.own.period);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(period.tick()).await.is_some() {
        if let Err(error) = ctx.peers.refresh(&*ctx.store).await {
            // Cause: the store fails.
            // Next step: none if it passes. Else read `error`.
            warn!(%error, "the controller could not tell the store that it runs; other controllers may take it for stopped");
        }
    }
    if !matches!(timeout(CHECK_OUT_TIMEOUT, ctx.store.check_out(&ctx.peers.own.instance)).await, Ok(Ok(()))) {
        // Cause: the store fails.
        // Next step: none.
        warn!(
            "the controller could not tell the store that it stops; others take it for running for {MISSED_PERIODS} sweep periods"
        );
    }
}

// === impl Peers ===

impl Peers {
    pub(super) fn new(own: Controller) -> Self {
        Self { own, is_verified: AtomicBool::new(false), others: Mutex::default() }
    }

    /// Checks in, and reads the other controllers.
    pub(super) async fn refresh(&self, store: &dyn ConsumerStore) -> Result<(), StoreError> {
        store.check_in(&self.own, now()).await?;
        let mut seen = store.controllers().await?;
        seen.retain(|(controller, _)| controller.instance != self.own.instance);
        for instance in self.take_in(seen) {
            store.check_out(&instance).await?;
        }
        Ok(())
    }

    /// Updates the other controllers from a read. Returns those that ended long ago.
    fn take_in(&self, seen: Vec<(Controller, i64)>) -> Vec<String> {
        let mut others = self.others.lock();
        let mut before = others.take().unwrap_or_default();
        let peers = seen.into_iter().map(|(controller, beat)| {
            let known = before.remove(&controller.instance).filter(|peer| peer.beat == beat);
            let silent = known.map_or(Duration::ZERO, |peer| peer.silent.saturating_add(self.own.period));
            let peer = Peer { controller, beat, silent };
            (peer.controller.instance.clone(), peer)
        });
        let peers = others.insert(peers.collect());
        let is_forgotten = |peer: &&Peer| peer.silent > peer.controller.period.saturating_mul(FORGOTTEN_PERIODS);
        peers.values().filter(is_forgotten).map(|peer| peer.controller.instance.clone()).collect()
    }

    pub(super) fn set_verified(&self, is_verified: bool) {
        self.is_verified.store(is_verified, Ordering::Release);
    }

    /// The installation that a record of this namespace has to name: usually this one. The name of another installation stays in
    /// three cases. This one does not manage the namespace; its records are not verified yet; or the other one runs and manages
    /// the namespace, too. Without the last case, two installations would overwrite each other's name again and again.
    pub(super) fn keeper(&self, record: Option<&Stored>, namespace: &str) -> String {
        let own = &self.own.installation;
        let Some(recorded) = record.map(|stored| &stored.record.installation).filter(|recorded| *recorded != own) else {
            return own.clone();
        };
        let is_kept = !self.own.covers(&self.own.cluster_id, namespace)
            || !self.is_verified.load(Ordering::Acquire)
            || self.is_run_by_another(recorded, namespace);
        if is_kept { recorded.clone() } else { own.clone() }
    }

    /// Whether this installation has given up the record: the record names it, and none of its running processes manages the
    /// namespace.
    pub(super) fn has_given_up(&self, stored: &Stored) -> bool {
        let (recorded, namespace) = (&stored.record.installation, &stored.record.namespace);
        *recorded == self.own.installation
            && !self.own.covers(&self.own.cluster_id, namespace)
            && !self.is_run_by_another(recorded, namespace)
    }

    /// The records that let consumers in, in namespaces that no running controller manages. Empty before the first read.
    pub(super) fn unattended(&self, open: Vec<OpenRecords>) -> Vec<OpenRecords> {
        let others = self.others.lock();
        let Some(others) = others.as_ref() else { return Vec::new() };
        let is_attended = |records: &OpenRecords| {
            let covers = |controller: &Controller| controller.covers(&records.cluster_id, &records.namespace);
            covers(&self.own) || others.values().any(|peer| peer.is_running(self.own.period) && covers(&peer.controller))
        };
        open.into_iter().filter(|records| !is_attended(records)).collect()
    }

    /// Whether another process of the given installation runs and manages the namespace. True before the first read.
    fn is_run_by_another(&self, installation: &str, namespace: &str) -> bool {
        let others = self.others.lock();
        let keeps = |peer: &Peer| {
            let controller = &peer.controller;
            controller.installation == installation
                && controller.covers(&self.own.cluster_id, namespace)
                && peer.is_running(self.own.period)
        };
        others.as_ref().is_none_or(|others| others.values().any(keeps))
    }
}

// === impl Peer ===

impl Peer {
    /// Whether its beat changed in one of the last reads. We read once in our own period, which may be the longer one.
    fn is_running(&self, period: Duration) -> bool {
        self.silent <= self.controller.period.max(period).saturating_mul(MISSED_PERIODS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(instance: &str, seconds: u64) -> Controller {
        Controller {
            instance: instance.into(),
            cluster_id: "cluster".into(),
            installation: instance.into(),
            namespaces: vec!["team-a".into()],
            period: Duration::from_secs(seconds),
        }
    }

    /// Whether the other controller counts as running after reads with these beats.
    fn after(own: u64, other: u64, beats: &[i64]) -> bool {
        let peers = Peers::new(controller("own", own));
        for beat in beats {
            peers.take_in(vec![(controller("other", other), *beat)]);
        }
        peers.is_run_by_another("other", "team-a")
    }

    #[test]
    fn a_controller_has_ended_if_its_beat_did_not_change_for_three_periods() {
        assert!(after(30, 30, &[7]), "a controller that was just found may run");
        assert!(after(30, 30, &[7, 7, 7, 7]), "it may be late");
        assert!(!after(30, 30, &[7, 7, 7, 7, 7]));
        assert!(after(30, 30, &[7, 7, 7, 7, 7, 8]), "its beat changes again");
    }

    #[test]
    fn the_longer_of_two_periods_counts() {
        assert!(after(600, 30, &[7, 7]), "one read that found nothing new proves nothing");
        assert!(!after(600, 30, &[7, 7, 7, 7, 7]));
        assert!(after(1, 30, &[7; 60]), "its beat changes only every thirty seconds");
        assert!(!after(1, 30, &[7; 100]));
    }

    #[test]
    fn before_the_first_read_all_other_controllers_may_run() {
        let peers = Peers::new(controller("own", 30));
        assert!(peers.is_run_by_another("other", "team-a"), "before the first read, all others may run");
        let open =
            OpenRecords { cluster_id: "cluster".into(), namespace: "team-b".into(), installation: "other".into(), count: 1 };
        assert!(peers.unattended(vec![open.clone()]).is_empty());
        peers.take_in(Vec::new());
        assert_eq!(peers.unattended(vec![open.clone()]), [open]);
    }
}
