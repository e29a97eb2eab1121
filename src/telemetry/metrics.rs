//! Metrics. Labels are closed sets: no object names, no error texts.

use std::fmt::{self, Debug};
use std::hash::Hash;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use strum::{IntoStaticStr, VariantArray};

use crate::consumer::ReconcileResult;

/// Declares [`Metrics`]: each metric once, with its kind and its help text.
macro_rules! metrics {
    ($($name:ident: $kind:ty = $help:literal,)*) => {
        /// All metrics.
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $name: $kind,)*
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("oauthconsumer");
                $(let $name = <$kind>::default(); $name.register(&mut registry, stringify!($name), $help);)*
                Self { registry, $($name),* }
            }
        }
    };
}

metrics! {
    reconciles: Counters<ReconcileResult> = "Reconciles, by result",
    reconcile_duration: Seconds = "Time that a reconcile takes",
    effects: Counters<Operation> = "Changes that the controller made, by effect",
    events_dropped: Counter = "Events that the controller could not publish",
    watching: Gauge = "1 once OAuthConsumers are watched, 0 while waiting for the CRD or the first list",
    approval_proof: Gauge =
        "1 if the controller tests the policy oauthconsumers-approve before it honours an approval, 0 if --approval-proof is off",
    approvals_unproved: Counter = "Approvals that did not count because the policy oauthconsumers-approve was not enforced",
    sweeps: Counter = "Sweeps that were finished",
    records: Gauge = "Records of the cluster without tombstones, as of the last sweep",
    records_unattended: Gauge = "Records that can sign in and that no running controller manages, as of the last sweep",
    secrets_below_floor: Gauge =
        "Secrets in use that were accepted under a lower --min-secret-bytes than today's, as of the last sweep",
    secrets_unreadable: Gauge =
        "Namespaces (or 1 for all of them) whose Secrets cannot be listed or watched, so accepted secrets stay in use",
    orphans: Gauge = "Records without an object that the last sweep did not remove",
    sweep_guard: Gauge = "1 while the last sweep removed fewer orphans than it found, or doubted the list or the cluster",
    signin_checks: Counters<CheckOutcome> = "Sign-in checks, by outcome",
    signin_duration: Seconds = "Time that a sign-in check takes",
    signin_hashes: Counter = "Hashes computed for sign-in checks",
    store_lookups: Counter = "Lookups in the store by sign-in checks",
    connections_refused: Counters<PortName> = "Connections that were closed because no slot was free, by port",
    directory_records: Gauge = "Records in memory, without tombstones",
    feed_loads: Counter = "How often the sign-in check read all records into memory",
    feed_notifications: Gauge = "0 while the store's notifications do not arrive, so the sign-in check finds changes by polling",
    directory_current: Gauge = "1 while the records in memory are known to be current",
}

/// A counter for each value of a label.
pub struct Counters<L: Label>(Family<Labels<L>, Counter>);

/// How long something takes.
pub struct Seconds(Histogram);

/// A label. Its values are written in snake case.
pub trait Label: Copy + Debug + Eq + Hash + Into<&'static str> + Send + Sync + 'static {
    const NAME: &'static str;

    /// Values whose counters exist from the start, so that Prometheus sees the first event as an increase.
    const FROM_START: &'static [Self];
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels<L>(L);

/// What the controller did, for the metric `effects`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Operation {
    FinalizerAdded,
    FinalizerRemoved,
    RecordWritten,
    RecordRemoved,
    RecordRepaired,
    SecretHashed,
    StatusWritten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum CheckOutcome {
    Allowed,
    Refused,
    Limited,
    Unavailable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum PortName {
    Signin,
    Admin,
}

// === impl Metrics ===

impl Metrics {
    /// All metrics in the [OpenMetrics text format](https://prometheus.io/docs/specs/om/open_metrics_spec/).
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A kind of metric.
trait Kind {
    fn register(&self, registry: &mut Registry, name: &str, help: &str);
}

impl Kind for Counter {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

impl Kind for Gauge {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

// === impl Counters ===

impl<L: Label> Counters<L> {
    pub fn inc(&self, value: L) {
        self.0.get_or_create(&Labels(value)).inc();
    }

    pub fn get(&self, value: L) -> u64 {
        self.0.get_or_create(&Labels(value)).get()
    }

    pub fn counter(&self, value: L) -> Counter {
        self.0.get_or_create_owned(&Labels(value))
    }
}

impl<L: Label> Default for Counters<L> {
    fn default() -> Self {
        let counters = Self(Family::default());
        for value in L::FROM_START {
            let _ = counters.counter(*value);
        }
        counters
    }
}

impl<L: Label> Kind for Counters<L> {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }
}

// === impl Seconds ===

impl Seconds {
    pub fn observe(&self, seconds: f64) {
        self.0.observe(seconds);
    }
}

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.000_1, 4.0, 9)))
    }
}

impl Kind for Seconds {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register_with_unit(name, help, Unit::Seconds, self.0.clone());
    }
}

// === impl Label ===

impl Label for ReconcileResult {
    const NAME: &'static str = "result";
    const FROM_START: &'static [Self] = Self::VARIANTS;
}

impl Label for Operation {
    const NAME: &'static str = "effect";
    const FROM_START: &'static [Self] = Self::VARIANTS;
}

impl Label for CheckOutcome {
    const NAME: &'static str = "outcome";
    const FROM_START: &'static [Self] = Self::VARIANTS;
}

impl Label for PortName {
    const NAME: &'static str = "port";
    // A process serves only some ports.
    const FROM_START: &'static [Self] = &[];
}

impl<L: Label> EncodeLabelSet for Labels<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let value: &'static str = self.0.into();
        (L::NAME, value).encode(encoder.encode_label())
    }
}
