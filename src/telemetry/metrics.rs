//! Metrics. Labels are closed sets: no object names, no error texts.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use strum::VariantArray;

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    /// Reconciles, by result.
    pub reconciles: Family<ReconcileLabels, Counter>,
    /// How long a reconcile takes, in seconds.
    pub reconcile_duration: Histogram,
    /// What the controller did, by effect.
    pub effects: Family<EffectLabels, Counter>,
    /// Events that were not published.
    pub events_dropped: Counter,
    /// Whether the objects have been listed and are watched: 0 while waiting for the CRD or the first list.
    pub watching: Gauge,
    /// 1 if an approval counts only when the API server asks who may approve, 0 if that is not looked at.
    pub approval_proof: Gauge,
    /// Approvals that did not count because it does not.
    pub approvals_unproved: Counter,
    /// Sweeps that were finished.
    pub sweeps: Counter,
    /// Live records, as of the last sweep.
    pub records: Gauge,
    /// Records that can sign in and that no running controller looks after, as of the last sweep.
    pub records_unattended: Gauge,
    /// Secrets in use that were accepted under a lower floor than today's, as of the last sweep.
    pub secrets_below_floor: Gauge,
    /// Scopes whose Secrets cannot be listed now: what was accepted stays, and changes are not noticed.
    pub secrets_unreadable: Gauge,
    /// Records without an object that the sweep has not removed yet.
    pub orphans: Gauge,
    /// 1 while the sweep finds more orphans than it may remove in one period.
    pub sweep_guard: Gauge,
    /// Sign-in checks, by outcome.
    pub signin_checks: Family<CheckLabels, Counter>,
    /// How long a sign-in check takes, in seconds.
    pub signin_duration: Histogram,
    /// Hashes computed for sign-in checks.
    pub signin_hashes: Counter,
    /// Looks at the store for what memory does not accept or cannot prove.
    pub signin_looks: Counter,
    /// Connections that got no place, or lost theirs, by port.
    pub connections_refused: Family<PortLabels, Counter>,
    /// Records in memory.
    pub directory_records: Gauge,
    /// How often all records were read into memory.
    pub feed_loads: Counter,
    /// 0 while the store's notifications do not arrive, and changes are found by asking alone.
    pub feed_notifications: Gauge,
    /// Whether memory was proved current when it was last asked.
    pub directory_current: Gauge,
}

/// The label of [`Metrics::reconciles`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReconcileLabels {
    result: ReconcileResult,
}

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue, strum::VariantArray)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ReconcileResult {
    Quiet,
    Done,
    Overtaken,
    StoreFailed,
    ApiFailed,
    KeyInUse,
    Internal,
}

/// The label of [`Metrics::effects`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EffectLabels {
    effect: Effects,
}

/// What the controller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue, strum::VariantArray)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Effects {
    FinalizerAdded,
    FinalizerRemoved,
    RecordWritten,
    RecordRemoved,
    RecordRepaired,
    SecretHashed,
    StatusWritten,
}

/// The label of [`Metrics::signin_checks`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CheckLabels {
    outcome: CheckOutcome,
}

/// How a sign-in check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue, strum::VariantArray)]
#[allow(missing_docs, reason = "the names say it")]
pub enum CheckOutcome {
    Allowed,
    Refused,
    Limited,
    Unavailable,
}

/// The label of [`Metrics::connections_refused`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PortLabels {
    port: PortName,
}

/// A port of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PortName {
    Signin,
    Admin,
}

// === impl PortName ===

impl EncodeLabelValue for PortName {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Signin => "signin",
            Self::Admin => "admin",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 4.0, 9));
        let mut metrics = Self {
            registry: Registry::with_prefix("oauthconsumer"),
            reconciles: Family::default(),
            reconcile_duration: seconds(),
            effects: Family::default(),
            events_dropped: Counter::default(),
            watching: Gauge::default(),
            approval_proof: Gauge::default(),
            approvals_unproved: Counter::default(),
            sweeps: Counter::default(),
            records: Gauge::default(),
            records_unattended: Gauge::default(),
            secrets_below_floor: Gauge::default(),
            secrets_unreadable: Gauge::default(),
            orphans: Gauge::default(),
            sweep_guard: Gauge::default(),
            signin_checks: Family::default(),
            signin_duration: seconds(),
            signin_hashes: Counter::default(),
            signin_looks: Counter::default(),
            connections_refused: Family::default(),
            directory_records: Gauge::default(),
            feed_loads: Counter::default(),
            feed_notifications: Gauge::default(),
            directory_current: Gauge::default(),
        };
        let m = &mut metrics;
        let r = &mut m.registry;
        r.register("reconciles", "Reconciles, by result", m.reconciles.clone());
        r.register_with_unit("reconcile_duration", "Time a reconcile takes", Unit::Seconds, m.reconcile_duration.clone());
        r.register("effects", "What the controller did", m.effects.clone());
        r.register("events_dropped", "Events that could not be published", m.events_dropped.clone());
        r.register(
            "watching",
            "1 once OAuthConsumers are watched, 0 while waiting for the CRD or the first list",
            m.watching.clone(),
        );
        r.register(
            "approval_proof",
            "1 if an approval counts only when the API server is known to ask who may approve, 0 if that is not looked at",
            m.approval_proof.clone(),
        );
        r.register(
            "approvals_unproved",
            "Approvals that did not count because the API server does not ask who may approve",
            m.approvals_unproved.clone(),
        );
        r.register("sweeps", "Sweeps that were finished", m.sweeps.clone());
        r.register("records", "Live records, as of the last sweep", m.records.clone());
        r.register(
            "records_unattended",
            "Records that can sign in and that no running controller looks after, as of the last sweep",
            m.records_unattended.clone(),
        );
        r.register(
            "secrets_below_floor",
            "Secrets in use that were accepted under a lower --min-secret-bytes than today's, as of the last sweep",
            m.secrets_below_floor.clone(),
        );
        r.register(
            "secrets_unreadable",
            "Namespaces (or 1 for all of them) whose Secrets cannot be listed: accepted secrets stay in use",
            m.secrets_unreadable.clone(),
        );
        r.register("orphans", "Records without an object, as of the last sweep", m.orphans.clone());
        r.register("sweep_guard", "1 while there are more orphans than one sweep may remove", m.sweep_guard.clone());
        r.register("signin_checks", "Sign-in checks, by outcome", m.signin_checks.clone());
        r.register_with_unit("signin_duration", "Time a sign-in check takes", Unit::Seconds, m.signin_duration.clone());
        r.register("signin_hashes", "Hashes computed for sign-in checks", m.signin_hashes.clone());
        r.register("signin_looks", "Looks at the store by sign-in checks", m.signin_looks.clone());
        r.register(
            "connections_refused",
            "Connections that were closed for want of a place, by port",
            m.connections_refused.clone(),
        );
        r.register("directory_records", "Records in memory, without tombstones", m.directory_records.clone());
        r.register("feed_loads", "How often all records were read into memory", m.feed_loads.clone());
        r.register(
            "feed_notifications",
            "0 while the store's notifications do not arrive, and changes are found by asking alone",
            m.feed_notifications.clone(),
        );
        r.register("directory_current", "1 while memory is proved to hold what the store holds", m.directory_current.clone());
        // A counter that is there from the start shows its first step as an increase.
        for result in ReconcileResult::VARIANTS {
            let _ = metrics.reconciles.get_or_create(&ReconcileLabels { result: *result });
        }
        for effect in Effects::VARIANTS {
            let _ = metrics.effects.get_or_create(&EffectLabels { effect: *effect });
        }
        for outcome in CheckOutcome::VARIANTS {
            let _ = metrics.signin_checks.get_or_create(&CheckLabels { outcome: *outcome });
        }
        metrics
    }
}

impl Metrics {
    /// Counts an effect.
    pub fn effect(&self, effect: Effects) {
        self.effects.get_or_create(&EffectLabels { effect }).inc();
    }

    /// How often the controller did this.
    #[must_use]
    pub fn count_of(&self, effect: Effects) -> u64 {
        self.effects.get_or_create(&EffectLabels { effect }).get()
    }

    /// How often reconciles ended like this.
    #[must_use]
    pub fn count_of_results(&self, result: ReconcileResult) -> u64 {
        self.reconciles.get_or_create(&ReconcileLabels { result }).get()
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, result: ReconcileResult) {
        self.reconciles.get_or_create(&ReconcileLabels { result }).inc();
    }

    /// Counts a sign-in check.
    pub fn checked(&self, outcome: CheckOutcome) {
        self.signin_checks.get_or_create(&CheckLabels { outcome }).inc();
    }

    /// Counts the connections that a port refuses.
    #[must_use]
    pub fn refused_at(&self, port: PortName) -> Counter {
        self.connections_refused.get_or_create_owned(&PortLabels { port })
    }

    /// All metrics in the [OpenMetrics text format](https://prometheus.io/docs/specs/om/open_metrics_spec/).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
