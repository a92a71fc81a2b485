//! A node's metrics, in Prometheus' text format 0.0.4: just what `top` shows.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// A node that doesn't answer within this time is shown without its measurements.
const PATIENCE: Duration = Duration::from_millis(800);
/// More than any node's metrics take.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

const BYTES: &str = "pullpiri_node_network_class_bytes_total";
const DROPS: &str = "pullpiri_node_network_class_drops_total";
const ROUND_TRIP: &str = "pullpiri_node_network_class_round_trip_seconds_bucket";

/// What was counted for a class since the node started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Class {
    pub bytes: f64,
    pub drops: f64,
    /// Round trips that took at most so many seconds, by the text of the bound.
    pub round_trips: BTreeMap<String, f64>,
}

/// The classes of a node at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub at: Instant,
    pub classes: BTreeMap<String, Class>,
}

/// Reads `http://address/metrics`.
pub(super) fn scrape(address: &str) -> std::io::Result<Sample> {
    let target = address.to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // HTTP/1.0: the answer ends with the connection and isn't chunked.
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("no HTTP answer"))?;
    if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        return Err(std::io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(Sample { at: Instant::now(), classes: parse(body) })
}

fn parse(body: &str) -> BTreeMap<String, Class> {
    let mut classes: BTreeMap<String, Class> = BTreeMap::new();
    for line in body.lines() {
        let Some((name, rest)) = line.split_once('{') else { continue };
        if ![BYTES, DROPS, ROUND_TRIP].contains(&name) {
            continue;
        }
        let Some((labels, value)) = rest.rsplit_once('}') else { continue };
        let Some(value) = value.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()) else { continue };
        let label = |wanted: &str| {
            labels.split(',').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key.trim() == wanted).then(|| value.trim_matches('"').to_owned())
            })
        };
        let Some(class) = label("class") else { continue };
        let entry = classes.entry(class).or_default();
        match name {
            BYTES => entry.bytes += value,
            DROPS => entry.drops += value,
            _ => {
                if let Some(bound) = label("le") {
                    *entry.round_trips.entry(bound).or_default() += value;
                }
            }
        }
    }
    classes
}

/// What happened to a class between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub bits_per_second: f64,
    pub drops: f64,
    /// The upper bound of the bucket that holds the 99th percentile; `None` without round trips.
    pub p99_seconds: Option<f64>,
}

pub(super) fn rates(before: &Sample, after: &Sample, class: &str) -> Option<Rates> {
    let now = after.classes.get(class)?;
    let fresh = Class::default();
    let then = before.classes.get(class).unwrap_or(&fresh);
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-3);
    Some(Rates {
        bits_per_second: (now.bytes - then.bytes).max(0.0) * 8.0 / seconds,
        drops: (now.drops - then.drops).max(0.0),
        p99_seconds: quantile(&then.round_trips, &now.round_trips, 0.99),
    })
}

/// The upper bound of the bucket that holds the quantile of what was counted between two states of a cumulative histogram.
fn quantile(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, share: f64) -> Option<f64> {
    let mut buckets: Vec<(f64, f64)> = after
        .iter()
        .filter_map(|(bound, count)| {
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            let known = before.get(&bound_text(after, bound)).copied().unwrap_or(0.0);
            Some((bound, (count - known).max(0.0)))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total = buckets.last()?.1;
    if total <= 0.0 {
        return None;
    }
    buckets.into_iter().find(|(_, count)| *count >= total * share).map(|(bound, _)| bound)
}

/// The text under which a bound stands.
fn bound_text(buckets: &BTreeMap<String, f64>, bound: f64) -> String {
    let same = |text: &&String| {
        if bound.is_infinite() {
            text.as_str() == "+Inf"
        } else {
            text.parse::<f64>().is_ok_and(|b| b.total_cmp(&bound).is_eq())
        }
    };
    buckets.keys().find(same).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE pullpiri_node_network_class_bytes_total counter
pullpiri_node_network_class_bytes_total{class="default/chassis/control"} 1000
pullpiri_node_network_class_drops_total{class="default/chassis/control"} 3
pullpiri_node_network_class_round_trip_seconds_bucket{le="0.001",class="default/chassis/control"} 90
pullpiri_node_network_class_round_trip_seconds_bucket{le="0.01",class="default/chassis/control"} 99
pullpiri_node_network_class_round_trip_seconds_bucket{le="+Inf",class="default/chassis/control"} 100
pullpiri_node_other{class="x"} 5
garbage{ 5
"#;

    #[test]
    fn classes_are_read_and_compared() {
        let after = Sample { at: Instant::now(), classes: parse(TEXT) };
        let before = Sample { at: after.at.checked_sub(Duration::from_secs(2)).unwrap(), classes: BTreeMap::new() };
        let rates = rates(&before, &after, "default/chassis/control").unwrap();
        assert!((rates.bits_per_second - 4000.0).abs() < 1.0);
        assert_eq!(rates.p99_seconds, Some(0.01));
        assert!(super::rates(&before, &after, "x").is_none());
        let idle = super::rates(&after, &after, "default/chassis/control").unwrap();
        assert_eq!(idle.p99_seconds, None);
    }
}
