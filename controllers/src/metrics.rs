//! What the controllers count. Labels are bounded: a controller, a result.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds: from a decision that finds nothing to do (tens of microseconds) to writes over a slow link.
const BUCKETS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// A controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Name {
    #[allow(non_camel_case_types, reason = "the spelling of the label's value")]
    scenario,
    #[allow(non_camel_case_types, reason = "the spelling of the label's value")]
    package,
    #[allow(non_camel_case_types, reason = "the spelling of the label's value")]
    node,
    #[allow(non_camel_case_types, reason = "the spelling of the label's value")]
    network,
}

impl Name {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::scenario => "scenario",
            Self::package => "package",
            Self::node => "node",
            Self::network => "network",
        }
    }
}

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    #[allow(non_camel_case_types, reason = "the spelling of the label's value")]
    unchanged,
    #[allow(non_camel_case_types, reason = "the spelling of the label's value")]
    changed,
    #[allow(non_camel_case_types, reason = "the spelling of the label's value")]
    failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByController {
    pub controller: Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByResult {
    pub controller: Name,
    pub result: Outcome,
}

#[derive(Clone, Copy, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// The controllers' metrics. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) reconciles: Family<ByResult, Counter>,
    duration: Family<ByController, Histogram, Seconds>,
    pub(crate) depth: Family<ByController, Gauge>,
    pub(crate) samples: Counter,
    pub(crate) evaluations: Counter,
    pub(crate) edges: Counter,
    pub(crate) topics: Gauge,
    pub(crate) sink_full: Counter,
    pub(crate) claims_written: Counter,
    pub(crate) events_dropped: Counter,
    pub(crate) watch_errors: Counter,
}

impl Metrics {
    /// Registers all of them, with the prefix `pullpiri_controllers`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            duration: Family::new_with_constructor(Seconds),
            depth: Family::default(),
            samples: Counter::default(),
            evaluations: Counter::default(),
            edges: Counter::default(),
            topics: Gauge::default(),
            sink_full: Counter::default(),
            claims_written: Counter::default(),
            events_dropped: Counter::default(),
            watch_errors: Counter::default(),
        };
        let ours = registry.sub_registry_with_prefix("pullpiri_controllers");
        ours.register("reconcile", "Reconciliations by controller and result", metrics.reconciles.clone());
        ours.register_with_unit(
            "reconcile_duration",
            "Time from taking an object off the queue to its last write",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        ours.register("queue_depth", "Objects that wait to be reconciled", metrics.depth.clone());
        ours.register("signal_samples", "Samples of signals received", metrics.samples.clone());
        ours.register("signal_evaluations", "Evaluations of scenario conditions", metrics.evaluations.clone());
        ours.register("scenario_edges", "Conditions that became true", metrics.edges.clone());
        ours.register("signal_topics", "Topics with a value", metrics.topics.clone());
        ours.register(
            "signal_queue_full",
            "Samples that had to wait because the queue was full",
            metrics.sink_full.clone(),
        );
        ours.register("claims_written", "Claims written", metrics.claims_written.clone());
        ours.register(
            "events_dropped",
            "Events not published because too many were waiting",
            metrics.events_dropped.clone(),
        );
        ours.register("watch_errors", "Watches that failed and were started again", metrics.watch_errors.clone());
        metrics
    }

    pub(crate) fn reconciled(&self, controller: Name, result: Outcome, seconds: f64) {
        self.reconciles.get_or_create(&ByResult { controller, result }).inc();
        self.duration.get_or_create(&ByController { controller }).observe(seconds);
    }
}
