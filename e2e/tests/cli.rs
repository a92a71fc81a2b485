//! What the command line says when something is wrong: one sentence, a non-zero exit, nothing lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use pullpiri_e2e::process::{self, Pullpiri, free_address};

fn pullpiri(arguments: &[&str]) -> Output {
    Command::new(process::binary().unwrap()).args(arguments).output().unwrap()
}

/// Asserts that the command fails with `code`, and with a message that holds all of `expected`, on one line.
fn refused(arguments: &[&str], code: i32, expected: &[&str]) {
    let output = pullpiri(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    let line =
        text.lines().find(|line| line.starts_with("pullpiri: ")).unwrap_or_else(|| panic!("{arguments:?}: {text}"));
    for part in expected {
        assert!(line.contains(part), "{arguments:?}: expected {part:?} in {line:?}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data_dir = folder.path().join("data").display().to_string();
    refused(&["apiserver", "--data-dir", &data_dir, "--listen", &address], 1, &[&address, "in use"]);
}

#[tokio::test]
async fn damaged_files_are_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let address = free_address().unwrap();
    let mut server = Pullpiri::start("apiserver", &data_dir, address, &[]).unwrap();
    server.ready().await.unwrap();
    // A second server on the same directory.
    let other = free_address().unwrap().to_string();
    refused(&["apiserver", "--data-dir", &data_dir.display().to_string(), "--listen", &other], 1, &["store.redb"]);
    assert_eq!(server.stop(), Some(0));
    let arguments = ["apiserver", "--data-dir", &data_dir.display().to_string(), "--listen", &address.to_string()];
    for file in ["store.redb", "pki/ca.key"] {
        let path = data_dir.join(file);
        let whole = std::fs::read(&path).unwrap();
        let garbage = vec![0xA5_u8; whole.len()];
        std::fs::write(&path, &garbage).unwrap();
        refused(&arguments, 1, &[path.file_name().unwrap().to_str().unwrap()]);
        assert_eq!(std::fs::read(&path).unwrap(), garbage, "{file} was overwritten");
        std::fs::write(&path, whole).unwrap();
    }
    let mut server = Pullpiri::start("apiserver", &data_dir, address, &[]).unwrap();
    server.ready().await.unwrap();
}

#[tokio::test]
async fn a_data_directory_has_one_node_and_a_certificate_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let address = free_address().unwrap();
    let mut server = Pullpiri::start("apiserver", &data_dir, address, &[]).unwrap();
    server.ready().await.unwrap();
    let data = data_dir.display().to_string();
    let url = format!("https://{address}");
    let user =
        ["kubeconfig", "--data-dir", &data, "--user", "system:node:HPC", "--group", "system:nodes", "--server", &url];
    let kubeconfig = folder.path().join("hpc.yaml");
    std::fs::write(&kubeconfig, pullpiri(&user).stdout).unwrap();
    let file = kubeconfig.display().to_string();
    let node = folder.path().join("node");
    let node_dir = node.display().to_string();
    let join = |name| ["node", "--kubeconfig", &file, "--name", name, "--data-dir", &node_dir].map(str::to_owned);
    let zone = join("zone");
    refused(&zone.each_ref().map(String::as_str), 1, &["system:node:HPC", "--name zone"]);
    assert!(!node.exists(), "nothing was made");

    // Whoever holds the directory, by the lock that a node takes.
    std::fs::create_dir(&node).unwrap();
    let lock = std::fs::File::create(node.join("node.lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(node.join("node.lock"), "4242\n").unwrap();
    let hpc = join("HPC");
    refused(&hpc.each_ref().map(String::as_str), 1, &[&node_dir, "in use", "process 4242"]);
}

#[test]
fn wrong_arguments_say_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().display().to_string();
    refused(
        &["kubeconfig", "--data-dir", &empty, "--user", "a", "--server", "https://x:1"],
        1,
        &["no CA", "pullpiri up"],
    );
    refused(&["image", "load", "/nonexistent.tar", "--data-dir", &empty], 1, &["/nonexistent.tar"]);
    refused(&["signal", "set", "Gear"], 1, &["\"Gear\"", "TOPIC[#FIELD]=VALUE"]);
    refused(
        &["node", "--kubeconfig", "/nonexistent.yaml", "--name", "a", "--data-dir", &empty],
        1,
        &["/nonexistent.yaml"],
    );
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let below = blocked.join("data").display().to_string();
    refused(&["apiserver", "--data-dir", &below, "--listen", "127.0.0.1:0"], 1, &[&below]);
    assert_eq!(pullpiri(&["fly"]).status.code(), Some(2));
}

#[test]
fn help_has_examples_and_shells_complete() {
    for command in ["up", "apiserver", "controllers", "node", "convert", "kubeconfig", "completion"] {
        let output = pullpiri(&[command, "--help"]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("Example"), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(pullpiri(&["completion", shell]).stdout.len() > 1000, "{shell}");
    }
}

#[test]
fn crds_are_what_the_repository_holds() {
    let printed = String::from_utf8(pullpiri(&["crds"]).stdout).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let body = text.lines().skip(1).collect::<Vec<_>>().join("\n");
        assert!(printed.contains(body.trim()), "{}", entry.path().display());
        count += 1;
    }
    assert_eq!(printed.matches("kind: CustomResourceDefinition").count(), count);
}
