//! The controllers of the store: which of them run, and whose records are whose.
//!
//! Each raises its counter in the store once in a period. Another one has ended when its counter stood still in every read for three
//! periods, the longer of its and ours. Reads are counted, not time: nothing is concluded while the store does not answer, and no clocks are compared.
//!
//! That a controller has ended closes no record by itself. It decides which name a record gets, and whether a namespace that this
//! installation no longer lists is still looked after by another of its processes.

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

/// Periods without a sign of life after which a controller counts as ended.
const MISSED_PERIODS: u32 = 3;

/// Periods after which what it left behind is tidied up.
const FORGOTTEN_PERIODS: u32 = 100;

/// How long checking out may take.
const CHECK_OUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Which controllers run, as of the last read.
pub(super) struct Peers {
    own: Controller,
    /// Whether records that name this installation count, because it has compared its records with their objects.
    is_verified: AtomicBool,
    /// All others, by instance; nothing before the first read.
    others: Mutex<Option<HashMap<String, Peer>>>,
}

struct Peer {
    controller: Controller,
    beat: i64,
    /// How long this beat stood still, by our own periods.
    silent: Duration,
}

/// Checks in every period until told to stop, and then out.
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

    /// Checks in, and reads which others do.
    pub(super) async fn refresh(&self, store: &dyn ConsumerStore) -> Result<(), StoreError> {
        store.check_in(&self.own, now()).await?;
        let mut seen = store.controllers().await?;
        seen.retain(|(controller, _)| controller.instance != self.own.instance);
        for instance in self.take_in(seen) {
            store.check_out(&instance).await?;
        }
        Ok(())
    }

    /// Takes in who has checked in how often. Answers those that ended long ago.
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

    /// Says whether records that name this installation count.
    pub(super) fn set_verified(&self, is_verified: bool) {
        self.is_verified.store(is_verified, Ordering::Release);
    }

    /// The installation that a record of this namespace is to name. It is this one, with three exceptions: the namespace is not one
    /// of this installation's; records that name this one do not count yet; or the record names another one that runs and looks after
    /// the namespace, too. Without the last, two installations would write their names in turn for ever.
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

    /// Whether this record is one that this installation has given up: it names this installation, and no process of it that runs
    /// looks after the namespace.
    pub(super) fn has_given_up(&self, stored: &Stored) -> bool {
        let (recorded, namespace) = (&stored.record.installation, &stored.record.namespace);
        *recorded == self.own.installation
            && !self.own.covers(&self.own.cluster_id, namespace)
            && !self.is_run_by_another(recorded, namespace)
    }

    /// The records that can sign in and that no running controller looks after. None before the first read.
    pub(super) fn unattended(&self, open: Vec<OpenRecords>) -> Vec<OpenRecords> {
        let others = self.others.lock();
        let Some(others) = others.as_ref() else { return Vec::new() };
        let is_attended = |records: &OpenRecords| {
            let covers = |controller: &Controller| controller.covers(&records.cluster_id, &records.namespace);
            covers(&self.own) || others.values().any(|peer| peer.is_running(self.own.period) && covers(&peer.controller))
        };
        open.into_iter().filter(|records| !is_attended(records)).collect()
    }

    /// Whether another process of the given installation runs and looks after the namespace; yes while that is not known.
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
    /// Whether it has counted on in one of the last reads. We read once in a period of our own, which may be longer than its.
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

    /// Whether the other one counts as running after reads that found these beats.
    fn after(own: u64, other: u64, beats: &[i64]) -> bool {
        let peers = Peers::new(controller("own", own));
        for beat in beats {
            peers.take_in(vec![(controller("other", other), *beat)]);
        }
        peers.is_run_by_another("other", "team-a")
    }

    #[test]
    fn a_controller_has_ended_when_it_stood_still_in_the_reads_of_three_periods() {
        assert!(after(30, 30, &[7]), "one that was just found may run");
        assert!(after(30, 30, &[7, 7, 7, 7]), "it may be late");
        assert!(!after(30, 30, &[7, 7, 7, 7, 7]));
        assert!(after(30, 30, &[7, 7, 7, 7, 7, 8]), "and be back");
    }

    #[test]
    fn the_longer_of_two_periods_counts() {
        assert!(after(600, 30, &[7, 7]), "one read that found nothing new proves nothing");
        assert!(!after(600, 30, &[7, 7, 7, 7, 7]));
        assert!(after(1, 30, &[7; 60]), "it counts on every thirty seconds only");
        assert!(!after(1, 30, &[7; 100]));
    }

    #[test]
    fn without_a_read_nothing_is_concluded() {
        let peers = Peers::new(controller("own", 30));
        assert!(peers.is_run_by_another("other", "team-a"), "before the first one, all others may run");
        let open =
            OpenRecords { cluster_id: "cluster".into(), namespace: "team-b".into(), installation: "other".into(), count: 1 };
        assert!(peers.unattended(vec![open.clone()]).is_empty());
        peers.take_in(Vec::new());
        assert_eq!(peers.unattended(vec![open.clone()]), [open]);
    }
}
