//! What is counted of real-time tasks. Labels are bounded by the tasks of this node's instances; those of an instance go with it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};
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
    responses: Family<TaskLabels, Responses>,
}

impl Metrics {
    /// Registers them as `realtime_…`.
    pub fn register(node: &mut Registry) -> Self {
        let metrics = Self::default();
        node.register("realtime_jobs", "Jobs of real-time tasks that ended", metrics.jobs.clone());
        node.register("realtime_misses", "Jobs that hadn't ended at their deadline", metrics.misses.clone());
        node.register("realtime_overruns", "Jobs that executed longer than declared", metrics.overruns.clone());
        node.register("realtime_repairs", "Changes of a thread's settings that were undone", metrics.repairs.clone());
        node.register_with_unit(
            "realtime_response",
            "Time from a job's release to its end; the sum is of buckets' upper bounds",
            Unit::Seconds,
            metrics.responses.clone(),
        );
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

    /// Adds `count` responses of at most `bound_ns`.
    pub fn respond(&self, labels: &TaskLabels, bound_ns: u64, count: u64) {
        self.responses.get_or_create(labels).add(bound_ns, count);
    }

    pub fn forget(&self, labels: &TaskLabels) {
        for family in [&self.jobs, &self.misses, &self.overruns, &self.repairs] {
            family.remove(labels);
        }
        self.responses.remove(labels);
    }
}

/// From 16 µs, doubled 18 times: 2 s. Beyond is the last bucket.
const FIRST_BOUND_NS: u64 = 16_384;
const BUCKETS: usize = 18;

/// A histogram that is filled from counts, not from single values.
#[derive(Clone, Debug, Default)]
struct Responses(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    sum_ns: u64,
    counts: [u64; BUCKETS],
    beyond: u64,
}

impl Responses {
    fn add(&self, bound_ns: u64, count: u64) {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        content.sum_ns = content.sum_ns.saturating_add(bound_ns.saturating_mul(count));
        match bounds().position(|bound| bound_ns <= bound).and_then(|index| content.counts.get_mut(index)) {
            Some(counted) => *counted = counted.saturating_add(count),
            None => content.beyond = content.beyond.saturating_add(count),
        }
    }
}

fn bounds() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(FIRST_BOUND_NS), |bound| Some(bound * 2)).take(BUCKETS)
}

impl TypedMetric for Responses {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Responses {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        let mut buckets: Vec<(f64, u64)> = bounds().map(seconds).zip(content.counts).collect();
        buckets.push((f64::INFINITY, content.beyond));
        let count = content.counts.iter().fold(content.beyond, |sum, count| sum.saturating_add(*count));
        encoder.encode_histogram::<NoLabelSet>(seconds(content.sum_ns), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_encoded_as_a_histogram() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let labels = TaskLabels { namespace: "n".into(), instance: "i".into(), task: "t".into() };
        metrics.respond(&labels, 10_000, 3);
        metrics.respond(&labels, 20_000, 2);
        metrics.respond(&labels, 60_000_000_000, 1);
        metrics.count(&labels, &TaskStatus::default(), &TaskStatus { jobs: 6, misses: 1, ..TaskStatus::default() });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let of = r#"{namespace="n",instance="i",task="t"}"#;
        for line in [
            format!("realtime_jobs_total{of} 6"),
            format!("realtime_misses_total{of} 1"),
            format!("realtime_response_seconds_count{of} 6"),
            r#"realtime_response_seconds_bucket{le="0.000016384",namespace="n",instance="i",task="t"} 3"#.to_owned(),
            r#"realtime_response_seconds_bucket{le="0.000032768",namespace="n",instance="i",task="t"} 5"#.to_owned(),
            r#"realtime_response_seconds_bucket{le="+Inf",namespace="n",instance="i",task="t"} 6"#.to_owned(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        metrics.forget(&labels);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(!text.contains("instance"), "{text}");
    }
}
