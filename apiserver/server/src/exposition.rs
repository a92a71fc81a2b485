//! Prometheus' text format 0.0.4 from OpenMetrics text.
//!
//! prometheus-client writes OpenMetrics. Every scraper reads the older format, and `promtool check metrics` reads nothing else, so that is what is served. They
//! differ in that there a counter's family is named like its samples (`…_total`), an info metric is a gauge, and there is neither `# UNIT` nor `# EOF`.
//! Sources: the OpenMetrics specification 1.0 and Prometheus' "Exposition formats".

use std::fmt::Write as _;

/// `openmetrics` in the older format.
#[must_use]
pub fn prometheus_text(openmetrics: &str) -> String {
    let mut kinds = std::collections::BTreeMap::new();
    for line in openmetrics.lines() {
        if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(family, kind);
        }
    }
    let renamed = |family: &str| match kinds.get(family) {
        Some(&"counter") => format!("{family}_total"),
        Some(&"info") => format!("{family}_info"),
        _ => family.to_owned(),
    };
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let words = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        // Writing to a String can't fail.
        let _ = match words {
            Some(("HELP", rest)) => {
                let (family, help) = rest.split_once(' ').unwrap_or((rest, ""));
                writeln!(text, "# HELP {} {help}", renamed(family))
            }
            Some(("TYPE", rest)) => {
                let (family, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
                let kind = match kind {
                    "info" | "stateset" => "gauge",
                    "unknown" => "untyped",
                    kind => kind,
                };
                writeln!(text, "# TYPE {} {kind}", renamed(family))
            }
            Some(("UNIT", _)) => Ok(()),
            _ if line == "# EOF" => Ok(()),
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_renamed_and_the_end_is_left_out() {
        let given = "# HELP a_requests Requests.\n# TYPE a_requests counter\na_requests_total{x=\"# EOF\"} 1\n# HELP b Size.\n# TYPE b gauge\n\
                     # UNIT b bytes\nb 2\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_requests_total Requests.\n# TYPE a_requests_total counter\na_requests_total{x=\"# EOF\"} 1\n\
                        # HELP b Size.\n# TYPE b gauge\nb 2\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n";
        assert_eq!(prometheus_text(given), expected);
    }
}
