//! What is read from the kernel at each scrape: classes, rules and drops. Labels are bounded by what NetworkSlices declare.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, TryLockError};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;
use pullpiri_node_core::network::shape::{DEFAULT_MINOR, minor};
use pullpiri_node_host::net::{Family, Netlink};

use pullpiri_ebpf::net::RoundTrips;

use super::{Plumbing, Source};

/// What belongs to no class or rule.
const OTHER: &str = "other";

#[derive(Debug)]
pub(super) struct Collector {
    source: Source,
    /// What was read last: served while the network is being worked on, which may take seconds, and a scrape doesn't wait for it.
    last: Mutex<Option<Read>>,
}

#[derive(Clone, Debug, Default)]
struct Read {
    class_bytes: BTreeMap<String, u64>,
    class_packets: BTreeMap<String, u64>,
    class_drops: BTreeMap<String, u64>,
    rule_packets: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
    round_trips: BTreeMap<String, RoundTrips>,
    connections_opened: u64,
    connections_displaced: u64,
    uncounted: u64,
    repairs: u64,
}

impl Collector {
    pub fn new(source: Source) -> Self {
        Self { source, last: Mutex::new(None) }
    }

    fn read(&self) -> Option<Read> {
        let plumbing = self.source.get()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let plumbing = match plumbing.try_lock() {
            Ok(plumbing) => plumbing,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return last.clone(),
        };
        *last = Self::read_now(&plumbing);
        last.clone()
    }

    fn read_now(plumbing: &Plumbing) -> Option<Read> {
        let (counters, classes) = plumbing.counters()?;
        let mut read = Read {
            round_trips: counters.round_trips.clone(),
            connections_opened: counters.connections_opened,
            connections_displaced: counters.connections_displaced,
            uncounted: counters.uncounted,
            repairs: plumbing.repairs(),
            ..Read::default()
        };
        for (name, traffic) in &counters.classes {
            read.class_bytes.insert(name.clone(), traffic.bytes);
            read.class_packets.insert(name.clone(), traffic.packets);
        }
        let named = counters.rules.iter().map(|(name, traffic)| (name.clone(), traffic));
        let internal = counters.internal.iter().map(|(name, traffic)| (format!("{name}/internal"), traffic));
        let ports = counters.ports.iter().map(|(name, traffic)| (format!("port/{name}"), traffic));
        read.rule_packets.extend(named.chain(internal).chain(ports).map(|(name, traffic)| (name, traffic.packets)));
        for (reason, count) in &counters.drops {
            read.drops.insert(reason.label().to_owned(), *count);
        }
        let uplink = plumbing.uplink.as_ref().ok().map(|found| found.index);
        let queues = uplink.and_then(|index| Netlink::open(Family::Route).ok()?.classes(index).ok());
        for seen in queues.unwrap_or_default() {
            let number = minor(seen.class.handle);
            let name = classes.get(&number).cloned();
            let name = name.or_else(|| (number == DEFAULT_MINOR).then(|| OTHER.to_owned()));
            let Some(name) = name else { continue };
            // BPF counts before the queue, which may have no room.
            read.class_bytes.insert(name.clone(), seen.stats.bytes);
            read.class_packets.insert(name.clone(), seen.stats.packets);
            read.class_drops.insert(name, u64::from(seen.stats.drops));
        }
        Some(read)
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.read().map_or(Ok(()), |read| read.encode(encoder))
    }
}

impl Read {
    fn encode(self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let families = [
            ("network_class", "Layer-2 bytes that left by the uplink", Some(Unit::Bytes), "class", self.class_bytes),
            ("network_class_packets", "Packets that left by the uplink", None, "class", self.class_packets),
            ("network_class_drops", "Packets that a class' queue had no room for", None, "class", self.class_drops),
            ("network_rule_packets", "Packets that a rule let enter a pod", None, "rule", self.rule_packets),
            ("network_drops", "Packets that weren't let pass", None, "reason", self.drops),
        ];
        for (name, help, unit, label, values) in families {
            if values.is_empty() {
                continue;
            }
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            for (value, count) in &values {
                let counter = ConstCounter::new(*count);
                counter.encode(family.encode_family(&[(label, value.as_str())])?)?;
            }
        }
        let of_the_node = [
            (
                "network_connections_opened",
                "Connections that pods opened or had opened to them",
                self.connections_opened,
            ),
            (
                "network_connections_displaced",
                "Connections that were forgotten because their pod had more than its budget",
                self.connections_displaced,
            ),
            ("network_uncounted", "Packets and round trips that no counter had room for", self.uncounted),
            ("network_repairs", "Changes of the node's network by others that were undone", self.repairs),
        ];
        for (name, help, count) in of_the_node {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(family)?;
        }
        encode_round_trips(&mut encoder, &self.round_trips)
    }
}

/// A histogram per class; the sum is of the buckets' lower bounds, since only buckets are kept.
fn encode_round_trips(
    encoder: &mut DescriptorEncoder<'_>,
    classes: &BTreeMap<String, RoundTrips>,
) -> Result<(), std::fmt::Error> {
    let measured: Vec<_> = classes.iter().filter(|(_, trips)| trips.buckets.iter().any(|count| *count > 0)).collect();
    if measured.is_empty() {
        return Ok(());
    }
    let help = "From where a packet leaves its pod until what answers it enters the pod";
    let unit = Unit::Seconds;
    let mut family = encoder.encode_descriptor("network_class_round_trip", help, Some(&unit), MetricType::Histogram)?;
    for (class, trips) in measured {
        let mut sum = 0.0;
        let mut buckets = Vec::with_capacity(trips.buckets.len());
        let mut low = 0.0;
        for (bucket, count) in trips.buckets.iter().enumerate() {
            sum += low * approximate(*count);
            let bound = RoundTrips::bound_ns(bucket).map_or(f64::MAX, |ns| approximate(ns) / 1e9);
            buckets.push((bound, *count));
            low = bound;
        }
        let total = trips.buckets.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let labels = [("class", class.as_str())];
        family.encode_family(&labels)?.encode_histogram::<NoLabels>(sum, total, &buckets, None)?;
    }
    Ok(())
}

/// Of exemplars, which there are none of.
type NoLabels = Vec<(String, String)>;

/// Exact up to 2^32, and within a millionth above.
fn approximate(value: u64) -> f64 {
    match u32::try_from(value) {
        Ok(small) => f64::from(small),
        Err(_) => u32::try_from(value >> 20).map_or(f64::MAX, |high| f64::from(high) * 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{NetworkConfig, lock};
    use super::*;

    #[test]
    fn a_scrape_does_not_wait_for_work_on_the_network() {
        let directory = tempfile::tempdir().unwrap();
        let plumbing = Arc::new(Mutex::new(Plumbing::new("n0", directory.path(), NetworkConfig::default())));
        let source = Source::default();
        *source.0.lock().unwrap() = Some(Arc::clone(&plumbing));
        let collector = Collector::new(source);
        let known = Read { drops: BTreeMap::from([("denied".to_owned(), 7)]), ..Read::default() };
        *collector.last.lock().unwrap() = Some(known);
        let held = lock(&plumbing);
        assert_eq!(collector.read().unwrap().drops["denied"], 7);
        drop(held);
        assert!(collector.read().is_none(), "nothing is attached, so there is nothing to be told");
    }

    #[test]
    fn connections_are_counted_for_the_node_as_a_whole() {
        #[derive(Debug)]
        struct Known(Read);

        impl prometheus_client::collector::Collector for Known {
            fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
                self.0.clone().encode(encoder)
            }
        }

        let mut registry = prometheus_client::registry::Registry::with_prefix("pullpiri_node");
        let drops = BTreeMap::from([("denied".to_owned(), 7)]);
        registry.register_collector(Box::new(Known(Read {
            drops,
            connections_opened: 9000,
            connections_displaced: 808,
            uncounted: 5,
            repairs: 3,
            ..Read::default()
        })));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE pullpiri_node_network_connections_displaced counter",
            "pullpiri_node_network_connections_displaced_total 808",
            "pullpiri_node_network_connections_opened_total 9000",
            "pullpiri_node_network_repairs_total 3",
            "pullpiri_node_network_uncounted_total 5",
            "pullpiri_node_network_drops_total{reason=\"denied\"} 7",
        ] {
            assert!(text.lines().any(|given| given == line), "{line}:\n{text}");
        }
    }
}
