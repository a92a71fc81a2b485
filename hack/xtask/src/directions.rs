//! The dependency-direction check: which of our crates may use which others, and which foreign crates the pure ones must not touch.
//!
//! The table is the one of docs/architecture.md. An edge that isn't in it fails CI, so a new edge is a decision somebody makes here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// `(crate, the crates of ours that it may use)`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("pullpiri-quantity", &[]),
    ("pullpiri-crds", &["pullpiri-quantity"]),
    ("pullpiri-condition", &["pullpiri-crds"]),
    ("pullpiri-state", &["pullpiri-crds"]),
    ("pullpiri-rt", &["pullpiri-crds"]),
    ("pullpiri-net", &["pullpiri-crds"]),
    ("pullpiri-reconcilers", &["pullpiri-crds", "pullpiri-condition", "pullpiri-state", "pullpiri-rt", "pullpiri-net"]),
    (
        "pullpiri-controllers",
        &[
            "pullpiri-crds",
            "pullpiri-condition",
            "pullpiri-state",
            "pullpiri-rt",
            "pullpiri-net",
            "pullpiri-reconcilers",
        ],
    ),
    ("pullpiri-access", &[]),
    ("pullpiri-store", &[]),
    ("pullpiri-apply", &[]),
    ("pullpiri-apiserver", &["pullpiri-store", "pullpiri-apply", "pullpiri-access", "pullpiri-quantity"]),
    ("pullpiri-node-core", &["pullpiri-crds", "pullpiri-condition", "pullpiri-state", "pullpiri-rt", "pullpiri-net"]),
    ("pullpiri-node-host", &["pullpiri-node-core"]),
    ("pullpiri-node-adapters", &["pullpiri-crds", "pullpiri-node-core", "pullpiri-node-host"]),
    ("pullpiri-ebpf", &["pullpiri-crds", "pullpiri-node-core"]),
    (
        "pullpiri-agent",
        &[
            "pullpiri-crds",
            "pullpiri-state",
            "pullpiri-node-core",
            "pullpiri-node-host",
            "pullpiri-node-adapters",
            "pullpiri-ebpf",
        ],
    ),
    ("xtask", &["pullpiri-crds"]),
    ("demo-service", &[]),
    ("brake-and-video", &[]),
];

/// The binary and the tests across processes may use everything.
const UNRESTRICTED: &[&str] = &["pullpiri", "pullpiri-e2e"];

/// Crates that decide and do nothing else.
const PURE: &[&str] = &[
    "pullpiri-quantity",
    "pullpiri-crds",
    "pullpiri-condition",
    "pullpiri-state",
    "pullpiri-rt",
    "pullpiri-net",
    "pullpiri-reconcilers",
    "pullpiri-node-core",
    "pullpiri-apply",
    "pullpiri-access",
];

/// What a pure crate must not use: executors, clients, system calls.
const IMPURE: &[&str] =
    &["tokio", "kube-client", "kube-runtime", "nix", "libc", "aya", "hyper", "axum", "redb", "reqwest", "tower"];

#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectionsError {
    #[error("running cargo metadata: {0}")]
    Metadata(String),
    #[error("dependencies that docs/architecture.md doesn't allow:\n{}", .0.join("\n"))]
    Forbidden(Vec<String>),
}

pub(crate) fn check(root: &Path) -> Result<(), DirectionsError> {
    let packages = packages(root)?;
    let ours: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    let mut problems = Vec::new();
    for (name, dependencies) in &packages {
        if UNRESTRICTED.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            problems.push(format!(
                "  {name} isn't in the table: add it to hack/xtask/src/directions.rs and docs/architecture.md"
            ));
            continue;
        };
        for dependency in dependencies {
            let dependency = dependency.as_str();
            if ours.contains(dependency) && !allowed.contains(&dependency) {
                problems.push(format!("  {name} → {dependency}"));
            }
            if PURE.contains(&name.as_str()) && IMPURE.contains(&dependency) {
                problems.push(format!("  {name} → {dependency} (a pure crate)"));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(DirectionsError::Forbidden(problems)) }
}

/// Our packages with their normal and build dependencies (tests may use what they like), the enabled features of kube
/// spelt out as the crates behind them.
fn packages(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>, DirectionsError> {
    let failed = |message: &str| DirectionsError::Metadata(message.to_owned());
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|error| DirectionsError::Metadata(error.to_string()))?;
    if !output.status.success() {
        return Err(DirectionsError::Metadata(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| DirectionsError::Metadata(error.to_string()))?;
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().ok_or_else(|| failed("no packages"))? {
        let name = package["name"].as_str().ok_or_else(|| failed("a package without a name"))?;
        let mut dependencies = BTreeSet::new();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let used = dependency["name"].as_str().unwrap_or_default();
            dependencies.insert(used.to_owned());
            let features = dependency["features"].as_array().cloned().unwrap_or_default();
            for feature in features.iter().filter_map(Value::as_str) {
                if used == "kube" && ["client", "runtime"].contains(&feature) {
                    dependencies.insert(format!("kube-{feature}"));
                }
            }
        }
        found.insert(name.to_owned(), dependencies);
    }
    Ok(found)
}
