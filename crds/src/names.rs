//! Names: how published spellings map to what Kubernetes accepts.
//!
//! Published manifests name nodes and objects in any case and with underscores (`HPC`, `policy_helloworld`). Objects and
//! references use the lower-case RFC 1123 form; the published spelling stays as an annotation.

/// The annotation that keeps the published spelling of an object's name.
pub const PUBLISHED_NAME: &str = "pullpiri.io/published-name";
/// The annotation on a NodeRuntime that keeps the spelling its operator gave.
pub const PUBLISHED_NODE: &str = "pullpiri.io/published-node";
/// Labels on what the Package controller creates.
pub const LABEL_PACKAGE: &str = "pullpiri.io/package";
pub const LABEL_MODEL: &str = "pullpiri.io/model";
pub const LABEL_NODE: &str = "pullpiri.io/node";
/// The label on Claims that a Scenario wrote.
pub const LABEL_SCENARIO: &str = "pullpiri.io/scenario";
/// The label of the ModelInstance that a Pod runs.
pub const LABEL_INSTANCE_UID: &str = "pullpiri.io/instance-uid";
/// The annotation with the hash of the template that a Pod was made from.
pub const ANNOTATION_TEMPLATE_HASH: &str = "pullpiri.io/template-hash";

/// The finalizer by which a node runtime keeps a ModelInstance until nothing of it is left on the node.
pub const NODE_FINALIZER: &str = "pullpiri.io/node";

/// A node's name in any published spelling: letters, digits and `-_.`, compared in lower-case RFC 1123 form.
pub const NODE_SPELLING: &str = r"^[A-Za-z0-9_]([-._A-Za-z0-9]*[A-Za-z0-9_])?$";
/// An object's name (apimachinery, validation.IsDNS1123Subdomain); at most [`MAX_SUBDOMAIN`] characters.
pub const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key of a ConfigMap or Secret (apimachinery, validation.IsConfigMapKey); at most [`MAX_SUBDOMAIN`] characters.
pub const DATA_KEY: &str = r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";
/// What a topic may hold besides letters, digits and `-`.
macro_rules! signs {
    () => {
        "_.~:/%@!$&'()*+,;"
    };
}
/// A signal's topic: what a URL's path can hold once [`signal_name`] has escaped it. No spaces.
pub const TOPIC: &str = concat!("^[-A-Za-z0-9", signs!(), "]+$");
/// What a topic may hold besides letters and digits.
pub const TOPIC_SIGNS: &str = concat!("-", signs!());
/// The longest topic, in bytes.
pub const MAX_TOPIC: usize = 253;

/// The longest DNS subdomain (RFC 1123, section 2.1).
pub const MAX_SUBDOMAIN: usize = 253;

/// The user a node authenticates as, and its group.
pub const NODE_USER_PREFIX: &str = "system:node:";
pub const NODE_GROUP: &str = "system:nodes";
/// The namespace of the nodes' heartbeat Leases; exists on every Kubernetes.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";
/// The Lease that the controllers' leader holds, and where it is unless told otherwise; that exists on every Kubernetes, too.
pub const CONTROLLERS_LEASE: &str = "pullpiri-controllers";
pub const CONTROLLERS_LEASE_NAMESPACE: &str = "kube-system";

/// The Lease that carries a node's heartbeat. Prefixed, since a kubelet on the same host may own the plain name.
#[must_use]
pub fn node_lease(node: &str) -> String {
    format!("pullpiri-{node}")
}

/// `text` as a lower-case RFC 1123 subdomain: letters lowered, `_`, spaces and anything else outside `[a-z0-9.-]` turned into `-`,
/// and ends trimmed to alphanumerics; cut to [`MAX_SUBDOMAIN`]. `None` if nothing is left.
#[must_use]
pub fn rfc1123(text: &str) -> Option<String> {
    let mut name = rfc1123_uncut(text)?;
    name.truncate(MAX_SUBDOMAIN);
    let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    (!name.is_empty()).then(|| name.to_owned())
}

/// What [`rfc1123`] makes of `text` if it may have any length.
#[must_use]
pub fn rfc1123_uncut(text: &str) -> Option<String> {
    let lowered: String = text
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '.' | '-') => c,
            _ => '-',
        })
        .collect();
    let trimmed = lowered.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    // A label of a subdomain starts and ends with an alphanumeric too.
    let joined = trimmed
        .split('.')
        .map(|label| label.trim_matches('-'))
        .filter(|label| !label.is_empty())
        .collect::<Vec<_>>()
        .join(".");
    (!joined.is_empty()).then_some(joined)
}

/// Whether two spellings name the same node.
#[must_use]
pub fn same_node(a: &str, b: &str) -> bool {
    rfc1123(a) == rfc1123(b)
}

/// Whether it can be a signal's topic: [`TOPIC`] and [`MAX_TOPIC`] hold.
#[must_use]
pub fn is_topic(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || TOPIC_SIGNS.contains(c);
    (1..=MAX_TOPIC).contains(&text.len()) && text.chars().all(is_allowed)
}

/// The object name of a signal's topic. Kubernetes forbids `/` and `%` in a path segment and the names `.` and `..`; `~` escapes them, as in JSON
/// pointers (RFC 6901): `~0` is `~`, `~1` is `/`, `~2` is `%`, `~3` a leading dot.
#[must_use]
pub fn signal_name(topic: &str) -> String {
    let escaped = topic.replace('~', "~0").replace('/', "~1").replace('%', "~2");
    match escaped.strip_prefix('.') {
        Some(rest) => format!("~3{rest}"),
        None => escaped,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::CustomResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn published_spellings_become_subdomains() {
        for (given, expected) in [
            ("HPC", Some("hpc")),
            ("policy_helloworld", Some("policy-helloworld")),
            ("qm.host", Some("qm.host")),
            ("_x_", Some("x")),
            ("a._b", Some("a.b")),
            ("perf_18proc_tc1", Some("perf-18proc-tc1")),
            ("___", None),
            ("", None),
        ] {
            assert_eq!(rfc1123(given).as_deref(), expected, "{given}");
        }
    }

    #[test]
    fn a_long_name_is_cut_at_an_alphanumeric() {
        let long = format!("{}-{}", "a".repeat(252), "b");
        assert_eq!(rfc1123(&long), Some("a".repeat(252)));
    }

    #[test]
    fn a_topic_is_what_the_schema_says() {
        let of = |crd: CustomResourceDefinition| serde_json::to_value(crd).unwrap();
        for (crd, path) in [
            (of(crate::signal::definition().unwrap()), "/topic"),
            (of(crate::Scenario::crd()), "/spec/properties/condition/properties/operands/properties/value"),
        ] {
            let topic = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
            let topic = topic.pointer(path).unwrap();
            assert_eq!((&topic["pattern"], &topic["maxLength"]), (&json!(TOPIC), &json!(MAX_TOPIC)), "{path}");
        }
        let pattern = regex::Regex::new(TOPIC).unwrap();
        for sign in ' '..='\u{ff}' {
            assert_eq!(is_topic(&sign.to_string()), pattern.is_match(&sign.to_string()), "{sign:?}");
        }
        assert!(is_topic(&"x".repeat(MAX_TOPIC)) && !is_topic(&"x".repeat(MAX_TOPIC + 1)) && !is_topic(""));
    }

    #[test]
    fn topics_become_path_segments() {
        assert_eq!(signal_name("PowertrainTransmissionCurrentGear"), "PowertrainTransmissionCurrentGear");
        assert_eq!(signal_name("rt/chatter~x%"), "rt~1chatter~0x~2");
        assert_eq!(signal_name(".."), "~3.");
    }
}
