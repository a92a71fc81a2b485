//! How values on the command line are read: what is wrong with one is a usage error.

use std::time::Duration;

use pullpiri_apply::metadata::name::{dns_label, dns_subdomain};
use pullpiri_crds::quantity::Amount;
use pullpiri_crds::rate::bits_per_second;

use crate::signal::topic_and_field;

/// `100M`, `1G`: whole bits per second.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?}: expected a rate in bits per second, at least 1, such as 100M or 1G");
    let amount = Amount::parse(text).map_err(|_| wrong())?;
    // Rounded up, a fraction of a bit would be one.
    if amount < Amount::whole(1) {
        return Err(wrong());
    }
    bits_per_second(text, 1).map_err(|_| wrong())
}

/// A sample's target and value; what the topic and field may be is the API server's rule.
pub(crate) fn assignment(text: &str) -> Result<String, String> {
    let (name, _) = text.split_once('=').ok_or("expected TOPIC[#FIELD]=VALUE")?;
    topic_and_field(name)?;
    Ok(text.to_owned())
}

/// `TOPIC[#FIELD]`.
pub(crate) fn topic(text: &str) -> Result<String, String> {
    topic_and_field(text)?;
    Ok(text.to_owned())
}

/// As the node takes it, so that a wrong one fails before anything is made.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    pullpiri_agent::node_name(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The name of most objects.
pub(crate) fn object_name(text: &str) -> Result<String, String> {
    named(text, dns_subdomain(text))
}

pub(crate) fn namespace_name(text: &str) -> Result<String, String> {
    named(text, dns_label(text))
}

fn named(text: &str, complaints: Vec<String>) -> Result<String, String> {
    if complaints.is_empty() { Ok(text.to_owned()) } else { Err(complaints.join("; ")) }
}

/// As Go writes durations, as far as anybody does: `15s`, `1m30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: expected a duration as 15s, 1m30s or 500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let part = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_objects() {
        for (text, of_object, of_namespace) in
            [("a", true, true), ("a.b-1", true, false), ("A", false, false), ("a/b", false, false), ("", false, false)]
        {
            assert_eq!(
                (object_name(text).is_ok(), namespace_name(text).is_ok()),
                (of_object, of_namespace),
                "{text:?}"
            );
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, ms) in [("15s", 15_000), ("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "0s", "15", "s", "15 s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn link_rates_are_bits_per_second() {
        assert_eq!(rate("100M"), Ok(100_000_000));
        assert_eq!(rate("1"), Ok(1));
        for wrong in ["fast", "500m", "0.5", "0", "-1M", ""] {
            let said = rate(wrong).unwrap_err();
            assert!(said.contains("bits per second") && said.contains("100M or 1G"), "{said}");
        }
    }

    #[test]
    fn nodes_are_named_by_letters_digits_and_three_signs() {
        for right in ["HPC", "perf_node.1", "zone-1"] {
            assert_eq!(node_name(right).as_deref(), Ok(right));
        }
        for wrong in ["Bad_Name!", "a b", "z\u{fc}rich", "a/b", "___", ""] {
            assert!(node_name(wrong).is_err(), "{wrong}");
        }
    }
}
