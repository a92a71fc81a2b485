//! From a published document to an object of ours, kind by kind. Structure only: whether the fields exist and hold what they should is
//! checked against our schemas afterwards, so a field that nobody here mentions is either ours already or an error.

use std::collections::BTreeMap;

use pullpiri_crds::names::{MAX_SUBDOMAIN, PUBLISHED_NAME, rfc1123};
use pullpiri_rt::CpuSet;

use super::names::{Kind, Names, Resolved, Scope, length_before_cut, name_here};
use super::report::Reporter;
use super::tree::{Content, Entry, Node};

/// The annotation on a Package or Policy that keeps the published spellings of the nodes it names, as JSON by their names here.
pub(crate) const PUBLISHED_NODES: &str = "pullpiri.io/published-nodes";
/// The annotation on a Model that keeps the published spellings of its containers, as JSON by their names here.
pub(crate) const PUBLISHED_CONTAINERS: &str = "pullpiri.io/published-containers";

/// What a transformation knows beside its document.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) names: &'a Names,
    pub(crate) scope: Option<&'a Scope>,
}

/// The object that a published document becomes. Problems go to `report`; the result then doesn't count.
pub(crate) fn convert(kind: Kind, root: &Node, context: &Context<'_>, report: &mut Reporter<'_>) -> Node {
    let mut metadata = metadata(kind, root, context, report);
    let mut spec = spec_of(kind, root);
    for entry in root.entries() {
        if !["apiVersion", "kind", "metadata", "spec"].contains(&entry.key.as_str()) && !entry.value.is_null() {
            report.error(entry.line, format!("{}: a {} has no such field", entry.key, kind.as_str()));
        }
    }
    match kind {
        Kind::Scenario => reference(&mut spec, "spec", "target", Kind::Package, context, report),
        Kind::Package => package(&mut spec, &mut metadata, context, report),
        Kind::Model => model(&mut spec, &mut metadata, report),
        Kind::Schedule => spec = schedule(&spec, &mut metadata, report),
        Kind::Policy => policy(&mut spec, &mut metadata, report),
        Kind::Volume | Kind::Network => {}
    }
    let line = root.line;
    Node::map(
        line,
        vec![
            entry("apiVersion", Node::text(line, format!("{}/{}", pullpiri_crds::GROUP, pullpiri_crds::VERSION))),
            entry("kind", Node::text(line, kind.as_str())),
            entry("metadata", metadata),
            entry("spec", spec),
        ],
    )
}

fn entry(key: &str, value: Node) -> Entry {
    Entry { key: key.to_owned(), line: value.line, value }
}

/// `spec: null` and an absent spec are an empty one.
fn spec_of(kind: Kind, root: &Node) -> Node {
    let empty = match kind {
        Kind::Schedule => Content::List(Vec::new()),
        _ => Content::Map(Vec::new()),
    };
    match root.get("spec") {
        Some(spec) if !spec.is_null() => spec.clone(),
        Some(null) => Node { line: null.line, content: empty },
        None => Node { line: root.line, content: empty },
    }
}

fn metadata(kind: Kind, root: &Node, context: &Context<'_>, report: &mut Reporter<'_>) -> Node {
    let Some(published) = root.get("metadata") else {
        return Node::map(root.line, Vec::new());
    };
    let mut metadata = Node::map(published.line, Vec::new());
    for Entry { key, line, value } in published.entries() {
        match key.as_str() {
            _ if value.is_null() => {}
            "name" => {
                let text = value.as_text().unwrap_or_default();
                if let Some(name) = name_here(context.scope, kind, text) {
                    guessed(value.line, "metadata.name", text, &name, report);
                    cut(value.line, "metadata.name", length_before_cut(context.scope, kind, text), &name, report);
                    if rfc1123(text).as_deref() != Some(text) {
                        annotate(&mut metadata, PUBLISHED_NAME, text);
                    }
                    metadata.set("name", Node::text(value.line, name));
                }
            }
            "annotations" => {
                for annotation in value.entries() {
                    let text = annotation.value.as_text().unwrap_or_default();
                    annotate(&mut metadata, &annotation.key, text);
                }
            }
            "label" => {
                report.warn(*line, "metadata.label: read as metadata.labels");
                metadata.set("labels", texts(value));
            }
            "labels" => metadata.set("labels", texts(value)),
            "namespace" => metadata.set("namespace", value.clone()),
            other => report.error(*line, format!("metadata.{other}: expected name, namespace, labels or annotations")),
        }
    }
    metadata
}

/// A map whose values are text, however they were written.
fn texts(node: &Node) -> Node {
    let entries = node.entries().iter().map(|entry| Entry {
        value: Node::text(entry.value.line, entry.value.as_text().unwrap_or_default()),
        ..entry.clone()
    });
    Node::map(node.line, entries.collect())
}

fn annotate(metadata: &mut Node, key: &str, text: &str) {
    let line = metadata.line;
    if metadata.get("annotations").is_none() {
        metadata.set("annotations", Node::map(line, Vec::new()));
    }
    if let Some(annotations) = metadata.get_mut("annotations") {
        annotations.set(key, Node::text(line, text));
    }
}

/// Keeps changed spellings as one annotation.
fn annotate_spellings(metadata: &mut Node, key: &str, spellings: &BTreeMap<String, String>) {
    if !spellings.is_empty() {
        annotate(metadata, key, &serde_json::json!(spellings).to_string());
    }
}

/// Rewrites the reference `holder.key` to the name that its object has here.
fn reference(holder: &mut Node, path: &str, key: &str, kind: Kind, context: &Context<'_>, report: &mut Reporter<'_>) {
    let Some(value) = holder.get(key) else { return };
    let line = value.line;
    let Some(published) = value.as_text().map(str::to_owned) else { return };
    let name = match context.names.resolve(context.scope, kind, &published) {
        Some(Resolved::Exact(name)) => name,
        Some(Resolved::Close { published: meant, name }) => {
            report.warn(line, format!("{path}.{key}: no {} is called {published:?}; read as {meant:?}", kind.as_str()));
            name
        }
        Some(Resolved::Unknown(name)) => {
            report.warn(
                line,
                format!("{path}.{key}: the {} {published:?} is not among the given manifests", kind.as_str()),
            );
            name
        }
        None => {
            report.error(line, format!("{path}.{key}: {published:?} has no letter or digit to make a name of"));
            return;
        }
    };
    holder.set(key, Node::text(line, name));
}

/// Case and `_` have one spelling here; that other characters were meant as `-` is a guess.
fn guessed(line: usize, path: &str, published: &str, name: &str, report: &mut Reporter<'_>) {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !published.chars().all(is_plain) {
        report.warn(line, format!("{path}: {published:?} can't be a name; read as {name:?}"));
    }
}

/// Names that differ only in what is cut off would be one.
fn cut(line: usize, path: &str, length: Option<usize>, name: &str, report: &mut Reporter<'_>) {
    if let Some(length) = length {
        report.warn(
            line,
            format!("{path}: a name has at most {MAX_SUBDOMAIN} characters, not {length}; cut to {name:?}"),
        );
    }
}

/// Rewrites a node's name; the published spelling goes to `spellings`.
fn node_name(node: &mut Node, path: &str, spellings: &mut BTreeMap<String, String>, report: &mut Reporter<'_>) {
    let Some(published) = node.as_text().map(str::to_owned) else { return };
    match rfc1123(&published) {
        Some(name) => {
            guessed(node.line, path, &published, &name, report);
            cut(node.line, path, length_before_cut(None, Kind::Package, &published), &name, report);
            if name != published {
                spellings.insert(name.clone(), published);
            }
            *node = Node::text(node.line, name);
        }
        None => report.error(node.line, format!("{path}: {published:?} has no letter or digit to make a name of")),
    }
}

fn package(spec: &mut Node, metadata: &mut Node, context: &Context<'_>, report: &mut Reporter<'_>) {
    let mut spellings = BTreeMap::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    if let Some(models) = spec.get_mut("models") {
        for (at, model) in models.items_mut().iter_mut().enumerate() {
            let path = format!("spec.models[{at}]");
            let published = model.get("name").and_then(Node::as_text).map(str::to_owned);
            reference(model, &path, "name", Kind::Model, context, report);
            if let Some(name) = model.get("name").and_then(Node::as_text).map(str::to_owned)
                && let Some(twin) = seen.insert(name.clone(), published.clone().unwrap_or_default())
            {
                let given = published.unwrap_or_default();
                report.error(model.line, format!("{path}.name: {given:?} and {twin:?} are both {name:?} here"));
            }
            if let Some(node) = model.get_mut("node") {
                node_name(node, &format!("{path}.node"), &mut spellings, report);
            }
            if let Some(resources) = model.get_mut("resources") {
                let path = format!("{path}.resources");
                reference(resources, &path, "volume", Kind::Volume, context, report);
                reference(resources, &path, "network", Kind::Network, context, report);
            }
        }
    }
    reference(spec, "spec", "policy", Kind::Policy, context, report);
    reference(spec, "spec", "schedule", Kind::Schedule, context, report);
    annotate_spellings(metadata, PUBLISHED_NODES, &spellings);
}

fn model(spec: &mut Node, metadata: &mut Node, report: &mut Reporter<'_>) {
    let mut spellings = BTreeMap::new();
    if let Some(containers) = spec.get_mut("containers") {
        for (at, container) in containers.items_mut().iter_mut().enumerate() {
            if let Some(name) = container.get_mut("name") {
                node_name(name, &format!("spec.containers[{at}].name"), &mut spellings, report);
            }
        }
    }
    annotate_spellings(metadata, PUBLISHED_CONTAINERS, &spellings);
}

fn policy(spec: &mut Node, metadata: &mut Node, report: &mut Reporter<'_>) {
    let mut spellings = BTreeMap::new();
    if let Some(nodes) = spec.get_mut("placement").and_then(|placement| placement.get_mut("availableNodes")) {
        for (at, node) in nodes.items_mut().iter_mut().enumerate() {
            node_name(node, &format!("spec.placement.availableNodes[{at}]"), &mut spellings, report);
        }
    }
    annotate_spellings(metadata, PUBLISHED_NODES, &spellings);
}

/// The last microsecond that whole nanoseconds in 63 bits hold: 292 years.
const LAST_MICROSECOND: u64 = 9_223_372_036_854_775;

/// A published schedule is a list of tasks in microseconds and CPU bit masks. Their names stay as they are: threads are found by them.
fn schedule(spec: &Node, metadata: &mut Node, report: &mut Reporter<'_>) -> Node {
    if matches!(spec.content, Content::Map(_)) {
        return spec.clone();
    }
    let mut spellings = BTreeMap::new();
    let tasks = spec
        .items()
        .iter()
        .enumerate()
        .map(|(at, task)| published_task(&format!("spec[{at}]"), task, &mut spellings, report))
        .collect();
    annotate_spellings(metadata, PUBLISHED_NODES, &spellings);
    Node::map(spec.line, vec![entry("tasks", Node { line: spec.line, content: Content::List(tasks) })])
}

fn published_task(at: &str, task: &Node, spellings: &mut BTreeMap<String, String>, report: &mut Reporter<'_>) -> Node {
    let mut converted = Node::map(task.line, Vec::new());
    for Entry { key, line, value } in task.entries() {
        if value.is_null() {
            continue;
        }
        let path = format!("{at}.{key}");
        let field = match key.as_str() {
            "name" | "priority" | "policy" => Some((key.as_str(), value.clone())),
            "node_id" => {
                let mut node = value.clone();
                node_name(&mut node, &path, spellings, report);
                Some(("node", node))
            }
            "period" => duration(&path, value, report).map(|node| ("period", node)),
            "runtime" => duration(&path, value, report).map(|node| ("wcet", node)),
            "deadline" => duration(&path, value, report).map(|node| ("deadline", node)),
            "release_time" => duration(&path, value, report).map(|node| ("offset", node)),
            "cpu_affinity" => {
                number(&path, value, report).and_then(cpu_list).map(|list| ("cpus", Node::text(*line, list)))
            }
            "max_dmiss" => Some(("missBudget", value.clone())),
            _ => {
                report.error(*line, format!("{path}: a published task has no such field"));
                None
            }
        };
        if let Some((key, value)) = field {
            converted.set(key, value);
        }
    }
    converted
}

/// A whole number, decimal or hexadecimal (`0xff`).
fn number(path: &str, value: &Node, report: &mut Reporter<'_>) -> Option<u64> {
    let given = value.as_text().and_then(|text| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    });
    if given.is_none() {
        report.error(value.line, format!("{path}: {} is not a whole number that isn't negative", value.describe()));
    }
    given
}

/// Microseconds as a duration.
fn duration(path: &str, value: &Node, report: &mut Reporter<'_>) -> Option<Node> {
    let us = number(path, value, report)?;
    if us > LAST_MICROSECOND {
        report.error(
            value.line,
            format!("{path}: {us} microseconds are more than {LAST_MICROSECOND}, the most there can be"),
        );
        return None;
    }
    Some(Node::text(value.line, microseconds(us)))
}

/// The shortest duration text: `10ms`, `500us`.
fn microseconds(us: u64) -> String {
    match us {
        0 => "0s".to_owned(),
        _ if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        _ if us.is_multiple_of(1_000) => format!("{}ms", us / 1_000),
        _ => format!("{us}us"),
    }
}

/// A bit mask as a Linux CPU list (`0,2-3`); `None` for any CPU, which is what TIMPANI means by a mask of zero or of all ones.
fn cpu_list(mask: u64) -> Option<String> {
    if mask == u64::MAX {
        return None;
    }
    let cpus: CpuSet = (0..u64::BITS).filter(|cpu| mask & (1 << cpu) != 0).collect();
    (!cpus.is_empty()).then(|| cpus.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_become_lists() {
        assert_eq!(cpu_list(4_026_531_840).as_deref(), Some("28-31"));
        assert_eq!(cpu_list(0b1101).as_deref(), Some("0,2-3"));
        assert_eq!(cpu_list(u64::MAX), None);
        assert_eq!(cpu_list(u64::MAX >> 1).as_deref(), Some("0-62"));
        assert_eq!(cpu_list(0), None);
    }

    #[test]
    fn microseconds_become_durations() {
        assert_eq!(microseconds(10_000), "10ms");
        assert_eq!(microseconds(500), "500us");
        assert_eq!(microseconds(2_000_000), "2s");
        assert_eq!(microseconds(0), "0s");
    }
}
