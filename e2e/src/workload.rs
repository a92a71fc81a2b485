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
    process::run(&[
        "image",
        "build",
        "--reference",
        IMAGE,
        "--file",
        &file,
        "--output",
        &output,
        "--",
        "/demo-service",
    ])?;
    Ok(archive)
}

/// Loads an archive into a node's image store.
///
/// # Errors
/// If `pullpiri image load` fails.
pub fn load(archive: &Path, data_dir: &Path) -> Result<(), E2eError> {
    process::run(&["image", "load", &archive.display().to_string(), "--data-dir", &data_dir.display().to_string()])
        .map(drop)
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

/// The node's log files of a pod, concatenated: every file under `data_dir` whose path names the pod or its UID and ends in `.log`.
#[must_use]
pub fn log_of(data_dir: &Path, uid: &str) -> String {
    let mut text = String::new();
    let mut folders = vec![data_dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Container root file systems and images are big, and hold no log of ours.
            if path.is_dir() && !["rootfs", "images", "layers", "merged", "upper", "work"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".log") && path.to_string_lossy().contains(uid) {
                text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
    text
}

/// CLOCK_REALTIME in nanoseconds.
#[must_use]
pub fn now_ns() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
        .map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
}
