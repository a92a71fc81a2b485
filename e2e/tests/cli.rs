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
    assert!(!text.contains("panicked") && !text.contains("root:"), "{text}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data_dir = folder.path().join("data").display().to_string();
    refused(&["apiserver", "--data-dir", &data_dir, "--listen", &address], 1, &[&address, "in use"]);
}

/// What is refused after the start has come far: nobody was told that it serves, and nothing else complains.
#[test]
fn what_is_refused_has_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = taken.local_addr().unwrap().to_string();
    let blocked = folder.path().join("blocked");
    std::fs::create_dir(&blocked).unwrap();
    std::fs::write(blocked.join("ledger"), "").unwrap();
    for (name, more, expected) in [
        ("metrics", ["--metrics-listen", &metrics].as_slice(), metrics.as_str()),
        ("runtime", &["--runtime", "kubernetes"], "--kubernetes-node"),
        ("blocked", &[], "ledger"),
    ] {
        let data_dir = folder.path().join(name).display().to_string();
        let listen = free_address().unwrap().to_string();
        let arguments = ["up", "--data-dir", &data_dir, "--listen", &listen, "--node", "ecu"];
        let output = pullpiri(&[&arguments, more].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        let line = text.lines().find(|line| line.starts_with("pullpiri: ")).unwrap_or_default();
        assert!(line.contains(expected), "{name}: {text}");
        assert!(!text.contains("serving the Kubernetes API") && !text.contains("trying again"), "{name}: {text}");
    }
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
    refused(&["image", "load", "/etc/passwd", "--data-dir", &empty], 1, &["/etc/passwd", "no tar file"]);
    refused(
        &["node", "--kubeconfig", "/etc/passwd", "--name", "a", "--data-dir", &empty],
        1,
        &["/etc/passwd", "no kubeconfig"],
    );
    refused(
        &["node", "--kubeconfig", "/nonexistent.yaml", "--name", "a", "--data-dir", &empty],
        1,
        &["/nonexistent.yaml"],
    );
    let output = Command::new(process::binary().unwrap())
        .args(["signal", "get", "x"])
        .env("KUBECONFIG", "/etc/passwd")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("it is no kubeconfig") && said.lines().count() == 1 && !said.contains("root:"), "{said}");
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let below = blocked.join("data").display().to_string();
    refused(&["apiserver", "--data-dir", &below, "--listen", "127.0.0.1:0"], 1, &[&below]);
    assert_eq!(pullpiri(&["fly"]).status.code(), Some(2));
    let long = format!("{}#f=1", "x".repeat(300));
    for (arguments, expected) in [
        (["signal", "set", "Gear"].as_slice(), "TOPIC[#FIELD]=VALUE"),
        (&["signal", "set", "ü#f=1"], "letters"),
        (&["signal", "set", "a\\b#f=1"], "letters"),
        (&["signal", "set", "a b/c#f=1"], "letters"),
        (&["signal", "set", &long], "253"),
        (&["up", "--data-dir", &below, "--node", "Bad_Name!"], "expected letters"),
        (&["up", "--data-dir", &below, "--link-rate", "fast"], "100M"),
    ] {
        let output = pullpiri(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_schedule_check_ends_with_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schedule.yaml");
    let path = file.display().to_string();
    let check = |tasks: &[&str], more: &[&str]| {
        let tasks: String = tasks.iter().map(|task| format!("    - {{ {task} }}\n")).collect();
        let text = format!(
            "apiVersion: pullpiri.io/v1alpha1\nkind: Schedule\nmetadata: {{ name: s }}\nspec:\n  tasks:\n{tasks}"
        );
        std::fs::write(&file, text).unwrap();
        let output = pullpiri(&[&["schedule", "check", "-f", &path], more].concat());
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let good = "name: a, wcet: 1ms, period: 10ms";
    assert_eq!(check(&[good], &[]).0, Some(0));
    let (code, said) = check(&["name: a, wcet: 5ms, period: 10ms, deadline: 4ms"], &[]);
    assert_eq!(code, Some(1), "more than its deadline is a verdict: {said}");
    for (task, expected) in [
        ("name: a, wcet: 0ms, period: 10ms", ["spec.tasks[0].wcet", "0ms"]),
        ("name: a, wcet: -1ms, period: 10ms", ["spec.tasks[0].wcet", "-1ms"]),
        ("name: a, wcet: 1ms, period: 0s", ["spec.tasks[0].period", "0s"]),
        ("name: a, wcet: 1ms, period: -10ms", ["spec.tasks[0].period", "-10ms"]),
        ("name: a, wcet: 1ms, period: 10ms, deadline: 0s", ["spec.tasks[0].deadline", "0s"]),
        ("name: a, wcet: 1ms, period: 10ms, deadline: -4ms", ["spec.tasks[0].deadline", "-4ms"]),
        ("name: a, wcet: 1ms, period: 10ms, jitter: -1us", ["spec.tasks[0].jitter", "-1us"]),
        ("name: a, wcet: 1ms, period: 10ms, offset: -1us", ["spec.tasks[0].offset", "-1us"]),
        ("name: a, wcet: 1ms, period: 10ms, blocking: -1us", ["spec.tasks[0].blocking", "-1us"]),
    ] {
        let (code, said) = check(&[task], &[]);
        assert_eq!(code, Some(2), "{task}: {said}");
        assert!(expected.iter().all(|part| said.contains(part)), "{task}: {said}");
    }
    let (code, said) = check(&[good, good], &[]);
    assert!(code == Some(2) && said.contains("spec.tasks[1].name") && said.contains("\"a\""), "{said}");
    let (code, said) = check(&["name: a, wcet: 1ms, period: 10ms, cpus: \"7\""], &["--node-cpus", "2"]);
    assert!(code == Some(2) && said.contains("spec.tasks[0].cpus") && said.contains("0-1"), "{said}");
    let many: Vec<String> = (0..10_000).map(|n| format!("name: t{n}, wcet: 1us, period: 1s")).collect();
    let (code, said) = check(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert!(code == Some(2) && said.contains("given 10000 tasks, expected 1 to 1024"), "{said}");
    // Primes: their hyperperiod has 240 bits.
    let primes =
        [999_999_937, 999_999_929, 999_999_893, 999_999_883, 999_999_797, 999_999_761, 999_999_757, 999_999_751];
    let primes: Vec<String> = primes
        .iter()
        .map(|period| format!("name: p{period}, wcet: 110ms, period: {period}ns, priority: 5, cpus: \"0\""))
        .collect();
    let primes: Vec<&str> = primes.iter().map(String::as_str).collect();
    let (code, said) = check(&primes, &[]);
    assert_eq!(code, Some(0), "{said}");
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
