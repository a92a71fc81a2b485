//! What a node counts. Labels are bounded: phases, results, exit classes.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use pullpiri_crds::instance::Phase;

#[derive(Clone, Debug)]
pub struct Metrics {
    instances: Family<PhaseLabel, Gauge>,
    pub(crate) starts: Counter,
    pub(crate) restarts: Counter,
    pub(crate) start: Histogram,
    exits: Family<ExitLabel, Counter>,
    writes: Family<WriteLabel, Counter>,
    pub(crate) pass: Histogram,
    pub(crate) connected: Gauge,
    pub(crate) events_dropped: Counter,
    pub(crate) ledger_failures: Counter,
    pub(crate) realtime: crate::realtime::Metrics,
    pub(crate) network: crate::network::Source,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ExitLabel {
    class: ExitClass,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
enum ExitClass {
    Success,
    Error,
    Signal,
    OutOfMemory,
    Unseen,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabel {
    result: WriteResult,
}

/// What came of a write to the API server.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub(crate) enum WriteResult {
    Written,
    Gone,
    Conflict,
    Retried,
    Refused,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        // Milliseconds to minutes: an in-process start takes some ten, unpacking a large image seconds.
        let start = Histogram::new(exponential_buckets(0.002, 2.0, 14));
        // Microseconds: a pass only computes.
        let pass = Histogram::new(exponential_buckets(0.000_01, 4.0, 8));
        let node = registry.sub_registry_with_prefix("pullpiri_node");
        let metrics = Self {
            realtime: crate::realtime::Metrics::register(node),
            network: crate::network::Source::register(node),
            instances: Family::default(),
            starts: Counter::default(),
            restarts: Counter::default(),
            start,
            exits: Family::default(),
            writes: Family::default(),
            pass,
            connected: Gauge::default(),
            events_dropped: Counter::default(),
            ledger_failures: Counter::default(),
        };
        node.register("instances", "ModelInstances of this node by phase", metrics.instances.clone());
        node.register("pod_starts", "Pods that were started", metrics.starts.clone());
        node.register("container_restarts", "Containers that were started again", metrics.restarts.clone());
        node.register_with_unit("pod_start", "Time to start a pod", Unit::Seconds, metrics.start.clone());
        node.register("container_exits", "Containers that ended, by class of exit", metrics.exits.clone());
        node.register("object_writes", "Writes of statuses and finalizers by result", metrics.writes.clone());
        node.register_with_unit("pass", "Time to decide on one instance", Unit::Seconds, metrics.pass.clone());
        node.register("api_connected", "1 while ModelInstances are watched", metrics.connected.clone());
        node.register(
            "events_dropped",
            "Events that were not told because too many waited",
            metrics.events_dropped.clone(),
        );
        node.register("ledger_write_failures", "Ledger writes that failed", metrics.ledger_failures.clone());
        metrics
    }

    pub(crate) fn phases(&self, phases: impl Iterator<Item = Phase>) {
        let mut counts = [(Phase::Pending, 0), (Phase::Running, 0), (Phase::Succeeded, 0), (Phase::Failed, 0)];
        for phase in phases {
            if let Some((_, count)) = counts.iter_mut().find(|(other, _)| *other == phase) {
                *count += 1;
            }
        }
        for (phase, count) in counts {
            self.instances.get_or_create(&PhaseLabel { phase: phase.as_str() }).set(count);
        }
    }

    pub(crate) fn exited(&self, code: i32, oom_killed: bool) {
        let class = match (code, oom_killed) {
            (_, true) => ExitClass::OutOfMemory,
            (0, false) => ExitClass::Success,
            (255, false) => ExitClass::Unseen,
            (129.., false) => ExitClass::Signal,
            (_, false) => ExitClass::Error,
        };
        self.exits.get_or_create(&ExitLabel { class }).inc();
    }

    pub(crate) fn wrote(&self, result: WriteResult) {
        self.writes.get_or_create(&WriteLabel { result }).inc();
    }

    pub(crate) fn started(&self, took: Duration) {
        self.starts.inc();
        self.start.observe(took.as_secs_f64());
    }
}
