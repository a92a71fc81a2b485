//! Metrics of the API server. Labels are bounded: verbs and codes are few, a resource is one that the registry knows or `other`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use pullpiri_store::Store;

/// Seconds; the bars of the product are between one and a hundred milliseconds.
const BUCKETS: [f64; 13] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: &'static str,
    pub(crate) group: Arc<str>,
    pub(crate) resource: Arc<str>,
    pub(crate) code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DurationLabels {
    pub(crate) verb: &'static str,
    pub(crate) group: Arc<str>,
    pub(crate) resource: Arc<str>,
}

/// The two queues of the in-flight limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "these are label values")]
pub(crate) enum RequestKind {
    mutating,
    readonly,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabels {
    pub(crate) kind: RequestKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResourceLabels {
    pub(crate) group: Arc<str>,
    pub(crate) resource: Arc<str>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) durations: Family<DurationLabels, Histogram, Buckets>,
    pub(crate) in_flight: Family<KindLabels, Gauge>,
    pub(crate) dropped: Family<KindLabels, Counter>,
    pub(crate) watchers: Family<ResourceLabels, Gauge>,
    pub(crate) watch_events: Family<ResourceLabels, Counter>,
    pub(crate) watches_refused: Counter,
    pub(crate) connections: Gauge,
    pub(crate) unauthenticated: Gauge,
    pub(crate) unauthenticated_ended: Counter,
    pub(crate) handshake_failures: Counter,
    pub(crate) panics: Counter,
    store_revision: Gauge<i64, AtomicI64>,
    store_oldest: Gauge<i64, AtomicI64>,
    scrapes: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pullpiri_apiserver");
        let requests = Family::default();
        let durations = Family::new_with_constructor(Buckets);
        let in_flight = Family::default();
        let dropped = Family::default();
        let watchers = Family::default();
        let watch_events = Family::default();
        let watches_refused = Counter::default();
        let connections = Gauge::default();
        let unauthenticated = Gauge::default();
        let unauthenticated_ended = Counter::default();
        let handshake_failures = Counter::default();
        let panics = Counter::default();
        let store_revision: Gauge<i64, AtomicI64> = Gauge::default();
        let store_oldest: Gauge<i64, AtomicI64> = Gauge::default();
        let scrapes = Counter::default();
        registry.register("requests", "Requests answered, by verb, resource and status code", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's arrival to its answer (watches excluded)",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("requests_in_flight", "Requests being handled, watches excluded", in_flight.clone());
        registry.register("requests_dropped", "Requests refused with 429 by the in-flight limit", dropped.clone());
        registry.register("watchers", "Open watches by resource", watchers.clone());
        registry.register("watch_events", "Events sent to watches by resource", watch_events.clone());
        registry.register(
            "watches_refused",
            "Watches refused with 429 by the limits on open ones",
            watches_refused.clone(),
        );
        registry.register("connections", "Open client connections", connections.clone());
        registry.register(
            "unauthenticated_connections",
            "Open connections whose peer hasn't shown a certificate or token yet",
            unauthenticated.clone(),
        );
        registry.register(
            "unauthenticated_connections_ended",
            "Connections ended because their peer stayed unknown for too long, or others needed the room",
            unauthenticated_ended.clone(),
        );
        registry.register("tls_handshake_failures", "TLS handshakes that failed", handshake_failures.clone());
        registry.register("handler_panics", "Handlers that panicked; each is a bug", panics.clone());
        registry.register("store_revision", "Revision of the last durable write", store_revision.clone());
        registry.register("store_oldest_revision", "Oldest revision that can be read", store_oldest.clone());
        registry.register("scrapes", "Times these metrics were read", scrapes.clone());
        Self {
            registry,
            requests,
            durations,
            in_flight,
            dropped,
            watchers,
            watch_events,
            watches_refused,
            connections,
            unauthenticated,
            unauthenticated_ended,
            handshake_failures,
            panics,
            store_revision,
            store_oldest,
            scrapes,
        }
    }
}

impl Metrics {
    pub(crate) fn answered(&self, verb: &'static str, of: &ResourceLabels, code: u16, took: Option<Duration>) {
        let (group, resource) = (Arc::clone(&of.group), Arc::clone(&of.resource));
        if let Some(took) = took {
            let labels = DurationLabels { verb, group: Arc::clone(&group), resource: Arc::clone(&resource) };
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&RequestLabels { verb, group, resource, code }).inc();
    }

    /// The text exposition (Prometheus 0.0.4).
    pub(crate) fn encode(&self, store: &dyn Store) -> Result<String, std::fmt::Error> {
        self.scrapes.inc();
        self.store_revision.set(i64::try_from(store.revision().0).unwrap_or(i64::MAX));
        self.store_oldest.set(i64::try_from(store.oldest().0).unwrap_or(i64::MAX));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(crate::exposition::prometheus_text(&text))
    }
}
