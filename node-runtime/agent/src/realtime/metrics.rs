//! What is counted of real-time tasks. Labels are bounded by the tasks of this node's instances; those of an instance go with it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use pullpiri_crds::instance::TaskStatus;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct TaskLabels {
    pub namespace: String,
    pub instance: String,
    pub task: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    jobs: Family<TaskLabels, Counter>,
    misses: Family<TaskLabels, Counter>,
    overruns: Family<TaskLabels, Counter>,
    repairs: Family<TaskLabels, Counter>,
}

impl Metrics {
    /// Registers them as `realtime_…`.
    pub fn register(node: &mut Registry) -> Self {
        let metrics = Self::default();
        node.register("realtime_jobs", "Jobs of real-time tasks that ended", metrics.jobs.clone());
        node.register("realtime_misses", "Jobs that hadn't ended at their deadline", metrics.misses.clone());
        node.register("realtime_overruns", "Jobs that executed longer than declared", metrics.overruns.clone());
        node.register("realtime_repairs", "Changes of a thread's settings that were undone", metrics.repairs.clone());
        metrics
    }

    /// Adds what came since.
    pub fn count(&self, labels: &TaskLabels, before: &TaskStatus, now: &TaskStatus) {
        let counted = [
            (&self.jobs, before.jobs, now.jobs),
            (&self.misses, before.misses, now.misses),
            (&self.overruns, before.overruns, now.overruns),
            (&self.repairs, before.repairs, now.repairs),
        ];
        for (family, before, now) in counted {
            let more = u64::try_from(now.saturating_sub(before)).unwrap_or(0);
            family.get_or_create(labels).inc_by(more);
        }
    }

    pub fn forget(&self, labels: &TaskLabels) {
        for family in [&self.jobs, &self.misses, &self.overruns, &self.repairs] {
            family.remove(labels);
        }
    }
}
