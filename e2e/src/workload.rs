//! The demo service as an image and as a ModelInstance, and what its log says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::E2eError;
use crate::process;

/// The image's reference.
pub const IMAGE: &str = "localhost/demo:1.0";

/// Builds the demo service's image as an archive in `folder`.
///
/// # Errors
/// If the demo service isn't built or the archive can't be written.
pub fn archive(folder: &Path) -> Result<PathBuf, E2eError> {
    let demo = process::demo_service()?;
    let archive = folder.join("demo.tar");
    let file = format!("{}:/demo-service", demo.display());
    let output = archive.display().to_string();
    process::run(&["image", "build", "--reference", IMAGE, "--file", &file, "--output", &output, "--entrypoint", "/demo-service"])?;
    Ok(archive)
}

/// Loads an archive into a node's image store.
///
/// # Errors
/// If `pullpiri image load` fails.
pub fn load(archive: &Path, data_dir: &Path) -> Result<(), E2eError> {
    process::run(&["image", "load", &archive.display().to_string(), "--data-dir", &data_dir.display().to_string()]).map(drop)
}

/// A ModelInstance that runs the demo service on the host network of `node`.
#[must_use]
pub fn instance(name: &str, node: &str, runtime: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "pullpiri.io/v1alpha1",
        "kind": "ModelInstance",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "package": "bench", "model": name, "nodeName": node, "run": true, "epoch": 1,
            "template": {"spec": {
                "hostNetwork": true, "runtime": runtime, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "demo", "image": IMAGE, "args": args}],
            }},
        },
    })
}

/// The times (CLOCK_REALTIME, nanoseconds) at which the service's processes began, from the text of its log.
#[must_use]
pub fn starts(log: &str) -> Vec<i64> {
    log.lines()
        .filter_map(|line| line.split("realtime_ns=").nth(1))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}
