//! What is read from the kernel at each scrape: classes, rules and drops. Labels are bounded by what NetworkSlices declare.

use std::collections::BTreeMap;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;
use pullpiri_node_core::network::shape::{DEFAULT_MINOR, minor};
use pullpiri_node_host::net::{Family, Netlink};

use super::{Source, lock};

/// What belongs to no class or rule.
const OTHER: &str = "other";

#[derive(Debug)]
pub(super) struct Collector {
    source: Source,
}

#[derive(Default)]
struct Read {
    class_bytes: BTreeMap<String, u64>,
    class_packets: BTreeMap<String, u64>,
    class_drops: BTreeMap<String, u64>,
    rule_packets: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
}

impl Collector {
    pub fn new(source: Source) -> Self {
        Self { source }
    }

    fn read(&self) -> Option<Read> {
        let plumbing = self.source.get()?;
        let plumbing = lock(&plumbing);
        let (counters, classes) = plumbing.counters()?;
        let mut read = Read::default();
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
            if number == DEFAULT_MINOR {
                read.class_bytes.insert(name.clone(), seen.stats.bytes);
                read.class_packets.insert(name.clone(), seen.stats.packets);
            }
            read.class_drops.insert(name, u64::from(seen.stats.drops));
        }
        Some(read)
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(read) = self.read() else { return Ok(()) };
        let families = [
            ("network_class", "Layer-2 bytes that left by the uplink", Some(Unit::Bytes), "class", read.class_bytes),
            ("network_class_packets", "Packets that left by the uplink", None, "class", read.class_packets),
            ("network_class_drops", "Packets that a class' queue had no room for", None, "class", read.class_drops),
            ("network_rule_packets", "Packets that a rule let enter a pod", None, "rule", read.rule_packets),
            ("network_drops", "Packets that weren't let pass", None, "reason", read.drops),
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
        Ok(())
    }
}
