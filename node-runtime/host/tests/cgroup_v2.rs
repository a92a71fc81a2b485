//! What is written to a tree of cgroup version 2, on a directory of files: what the kernel would make of a new group, the test makes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use pullpiri_node_core::runtime::Limits;
use pullpiri_node_host::cgroup::{Cgroups, Layout};

const GROUP: &str = "pullpiri/p/c";

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn read(root: &Path, file: &str) -> String {
    std::fs::read_to_string(root.join(file)).unwrap()
}

/// A tree with these controllers, and a container's group.
fn tree(controllers: &str) -> (tempfile::TempDir, Cgroups) {
    let dir = tempfile::tempdir().unwrap();
    for level in ["", "pullpiri/", "pullpiri/p/"] {
        write(dir.path(), &format!("{level}cgroup.controllers"), controllers);
        write(dir.path(), &format!("{level}cgroup.subtree_control"), "");
    }
    for file in ["cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "pids.max", "cgroup.procs"] {
        write(dir.path(), &format!("{GROUP}/{file}"), "");
    }
    let cgroups = Cgroups::probe(dir.path()).unwrap();
    assert_eq!(cgroups.layout(), Layout::Unified);
    (dir, cgroups)
}

#[test]
fn what_isnt_limited_gets_the_defaults() {
    let (dir, cgroups) = tree("cpuset pids rdma");
    cgroups.prepare(GROUP, &Limits::default(), &[]).unwrap();
    for level in ["", "pullpiri/", "pullpiri/p/"] {
        assert_eq!(read(dir.path(), &format!("{level}cgroup.subtree_control")), "+cpuset +pids", "what is offered");
    }
    for (file, value) in [
        ("cpu.max", "max"),
        ("cpu.weight", "100"),
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("pids.max", "max"),
    ] {
        assert_eq!(read(dir.path(), &format!("{GROUP}/{file}")), value, "{file}");
    }
    // A missing controller is an error where a limit needs it, and only there.
    std::fs::remove_file(dir.path().join(GROUP).join("memory.max")).unwrap();
    cgroups.prepare(GROUP, &Limits::default(), &[]).unwrap();
    let limits = Limits { memory_bytes: Some(1 << 20), ..Limits::default() };
    let error = cgroups.prepare(GROUP, &limits, &[]).unwrap_err();
    assert!(error.to_string().contains("memory.max"), "{error}");
}

#[test]
fn nothing_is_left_where_nobody_is_any_more() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "cgroup.controllers", "memory");
    write(dir.path(), "cgroup.procs", "");
    std::fs::create_dir_all(dir.path().join("pullpiri/_supervisors")).unwrap();
    Cgroups::probe(dir.path()).unwrap().leave_nothing();
    assert_eq!(read(dir.path(), "cgroup.procs"), "0", "this process is in the root again");
    assert!(!dir.path().join("pullpiri").exists());
}
