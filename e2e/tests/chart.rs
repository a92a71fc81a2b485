//! The chart's output for a matrix of values (chart/*.values.yaml) is what chart/*.golden.yaml hold, and values that can't work are refused.
//!
//! `PULLPIRI_UPDATE_GOLDEN=1 cargo test -p pullpiri-e2e --test chart` writes the golden files anew. That a real API server takes the same objects is
//! proven by hack/e2e-k8s.sh.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const RELEASE: [&str; 3] = ["vehicle-services", "--namespace", "pullpiri-system"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// `$PULLPIRI_HELM`, what hack/kube/build.sh built, or the machine's.
fn helm() -> Option<Command> {
    let built = root().join("target/kube/bin/helm");
    let path = std::env::var_os("PULLPIRI_HELM").map(PathBuf::from).unwrap_or(built);
    let path = if path.is_file() { path } else { PathBuf::from("helm") };
    let works = Command::new(&path).arg("version").output().is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: no helm (hack/kube/build.sh helm builds it where there is Go)");
        return None;
    }
    let home = std::env::temp_dir().join("pullpiri-helm");
    let mut command = Command::new(path);
    // Nobody's repositories and plug-ins, and no cluster.
    command.env("HELM_CACHE_HOME", home.join("cache")).env("HELM_CONFIG_HOME", home.join("config"));
    command.env("HELM_DATA_HOME", home.join("data")).env("KUBECONFIG", "/dev/null");
    Some(command)
}

fn template(arguments: &[&str]) -> Option<Output> {
    let mut command = helm()?;
    command.arg("template").args(RELEASE).arg(root().join("charts/pullpiri")).args(arguments);
    if !arguments.iter().any(|argument| argument.starts_with("--kube-version")) {
        command.arg("--kube-version=1.37.0");
    }
    Some(command.output().unwrap())
}

fn rendered(arguments: &[&str]) -> Option<String> {
    let output = template(arguments)?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The documents of a stream, and each document's text.
fn documents(text: &str) -> Vec<(Value, &str)> {
    let parts = text.split("\n---\n").map(|part| part.trim_start_matches("---\n"));
    let parsed =
        parts.map(|part| (serde_saphyr::from_str::<Value>(part).unwrap_or_else(|e| panic!("{e}: {part}")), part));
    parsed.filter(|(value, _)| value.is_object()).collect()
}

fn kind(value: &Value) -> &str {
    value["kind"].as_str().unwrap_or_default()
}

fn cases() -> Vec<(String, Vec<String>)> {
    let folder = root().join("e2e/tests/chart");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(case) = name.strip_suffix(".values.yaml") else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        let options = text.lines().next().and_then(|line| line.strip_prefix("# helm:")).unwrap_or_default();
        let mut arguments: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        arguments.extend(["--values".to_owned(), path.to_str().unwrap().to_owned()]);
        found.push((case.to_owned(), arguments));
    }
    found.sort();
    assert!(found.len() >= 4, "{found:?}");
    found
}

#[test]
fn every_case_renders_as_it_is_written_down() {
    for (case, arguments) in cases() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Some(text) = rendered(&arguments) else { return };
        // CRDs are compared by another test, with what they were made from.
        let kept: Vec<&str> = documents(&text)
            .into_iter()
            .filter(|(value, _)| kind(value) != "CustomResourceDefinition")
            .map(|(_, part)| part.trim_end())
            .collect();
        let now = format!("{}\n", kept.join("\n---\n"));
        let path = root().join("e2e/tests/chart").join(format!("{case}.golden.yaml"));
        if std::env::var_os("PULLPIRI_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        let difference = now.lines().zip(golden.lines()).enumerate().find(|(_, (now, then))| now != then);
        assert!(
            now == golden,
            "{case}: {} lines, {} before; first difference: {difference:?}",
            now.lines().count(),
            golden.lines().count()
        );
    }
}

#[test]
fn crds_are_those_of_the_types_and_stay_if_wanted() {
    for keep in [true, false] {
        let Some(text) = rendered(&["--set", &format!("crds.keep={keep}")]) else { return };
        let mut names = BTreeSet::new();
        for (mut crd, _) in documents(&text).into_iter().filter(|(value, _)| kind(value) == "CustomResourceDefinition")
        {
            let annotation = crd["metadata"]["annotations"]["helm.sh/resource-policy"].as_str();
            assert_eq!(annotation, keep.then_some("keep"));
            let metadata = crd["metadata"].as_object_mut().unwrap();
            metadata.remove("annotations");
            let labels = metadata["labels"].as_object_mut().unwrap();
            labels.retain(|name, _| name == "app.kubernetes.io/part-of");
            let plural = crd["spec"]["names"]["plural"].as_str().unwrap().to_owned();
            let path = root().join("crds/yaml").join(format!("{plural}.yaml"));
            let made: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert!(crd == made, "{plural} differs from crds/yaml");
            names.insert(plural);
        }
        assert_eq!(names.len(), std::fs::read_dir(root().join("crds/yaml")).unwrap().count());
    }
    let Some(text) = rendered(&["--set", "crds.install=false"]) else { return };
    assert!(!text.contains("kind: CustomResourceDefinition"));
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (arguments, said) in [
        (vec!["--set", "controllers.replicas=0"], "/controllers/replicas"),
        (vec!["--set", "node.runtime=docker"], "/node/runtime"),
        (vec!["--set", "node.dataDir=relative/path"], "/node/dataDir"),
        (vec!["--set", "node.linkRate=fast"], "/node/linkRate"),
        (vec!["--set", "node.uplink=an-interface-name-too-long"], "/node/uplink"),
        (vec!["--set", "node.capabilities={SYS_ADMIN,NET_ADMIN,SYS_CHROOT}"], "/node/capabilities"),
        (
            vec!["--set", "node.capabilities={CAP_SYS_ADMIN,NET_ADMIN,SYS_CHROOT,SYS_PTRACE,SYS_ADMIN}"],
            "/node/capabilities/0",
        ),
        (vec!["--set", "node.updateStrategy.rollingUpdate.maxSurge=1"], "maxSurge"),
        (vec!["--set", "image.digest=sha256:abc"], "/image/digest"),
        (vec!["--set", "image.repository=With Blank"], "/image/repository"),
        (vec!["--set", "log.format=xml"], "/log/format"),
        (vec!["--set", "monitoring.interval=often"], "/monitoring/interval"),
        (vec!["--set", "monitoring.operator=maybe"], "/monitoring/operator"),
        (vec!["--set", "rbac.dataNamespaces={A_B}"], "/rbac/dataNamespaces/0"),
        (vec!["--set", "controllers.resources.limits.memory=lots"], "/controllers/resources/limits/memory"),
        (vec!["--set", "controler.replicas=2"], "'controler' not allowed"),
        (vec!["--set", "controllers.replicaCount=2"], "'replicaCount' not allowed"),
        (vec!["--set", "serviceAccounts.node.create=false"], "serviceAccounts.node.name is needed"),
        (vec!["--kube-version=1.31.9"], "kubeVersion"),
    ] {
        let Some(output) = template(&arguments) else { return };
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} was taken");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}

/// No workload of the cluster, and no thief of a token, gets more by this chart than it was meant to.
#[test]
fn nothing_is_granted_by_the_handful() {
    let Some(text) = rendered(&["--set", "rbac.nodeRestriction=on"]) else { return };
    for (value, _) in documents(&text) {
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if matches!(kind(&value), "Role" | "ClusterRole") {
            for rule in value["rules"].as_array().unwrap() {
                for verb in rule["verbs"].as_array().unwrap() {
                    assert_ne!(verb, "*", "{name}");
                    assert!(!matches!(verb.as_str(), Some("escalate" | "bind" | "impersonate")), "{name}: {verb}");
                }
                let reads =
                    rule["verbs"].as_array().unwrap().iter().all(|v| ["get", "list", "watch"].iter().any(|r| v == r));
                assert!(
                    reads || rule["resources"].as_array().unwrap().iter().all(|r| r != "*"),
                    "{name}: writes to everything"
                );
                assert!(rule["apiGroups"].as_array().unwrap().iter().all(|group| group != "*"), "{name}");
            }
        }
        let pod = match kind(&value) {
            "Pod" => &value["spec"],
            "Deployment" | "DaemonSet" | "Job" => &value["spec"]["template"]["spec"],
            _ => continue,
        };
        for container in pod["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            assert_ne!(security["privileged"], true, "{name}");
            if kind(&value) != "DaemonSet" {
                assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert!(security["capabilities"]["add"].is_null() && pod["hostNetwork"].is_null(), "{name}");
            }
        }
    }
}

/// What a test has taken away verb by verb (crds/src/access.rs), and what only a Kubernetes with the chart asks for.
#[test]
fn the_controllers_may_do_what_they_need() {
    let needed = |rules: &[Value]| {
        let mut all = BTreeSet::new();
        for rule in rules {
            let list = |name: &str| {
                rule[name].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            for group in list("apiGroups") {
                for resource in list("resources") {
                    all.extend(list("verbs").into_iter().map(|verb| format!("{group}/{resource} {verb}")));
                }
            }
        }
        all
    };
    for signals in [true, false] {
        let Some(text) = rendered(&["--set", &format!("controllers.signals.enabled={signals}")]) else { return };
        let all = documents(&text);
        let role = |kind_wanted: &str, suffix: &str| {
            let mut found = all
                .iter()
                .filter(|(v, _)| kind(v) == kind_wanted && v["metadata"]["name"].as_str().unwrap().ends_with(suffix));
            needed(found.next().unwrap().0["rules"].as_array().unwrap())
        };
        let mut expected = needed(&pullpiri_crds::access::controllers_rules());
        expected.extend(["packages", "scenarios"].map(|owner| format!("pullpiri.io/{owner}/finalizers update")));
        if signals {
            // They are in this process.
            expected.retain(|one| !one.starts_with("signals.pullpiri.io/"));
            expected.extend(["get", "patch"].map(|verb| format!("apiregistration.k8s.io/apiservices {verb}")));
        }
        assert_eq!(role("ClusterRole", "-controllers"), expected);
        assert_eq!(role("Role", "-heartbeats"), needed(&pullpiri_crds::access::controllers_lease_rules()));
    }
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_exist() {
    let files = root().join("charts/pullpiri/files");
    let sources: String = [
        "controllers/src/metrics.rs",
        "node-runtime/agent/src/metrics.rs",
        "node-runtime/agent/src/realtime/metrics.rs",
        "node-runtime/agent/src/network/metrics.rs",
    ]
    .map(|path| std::fs::read_to_string(root().join(path)).unwrap())
    .concat();
    let mut asked = BTreeSet::new();
    for file in ["rules.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(files.join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        asked.extend(words.filter(|w| w.starts_with("pullpiri_")).map(str::to_owned));
    }
    assert!(asked.len() > 15, "{asked:?}");
    for name in asked {
        let short = name.trim_start_matches("pullpiri_node_").trim_start_matches("pullpiri_controllers_");
        let short = short.trim_end_matches("_bucket").trim_end_matches("_total");
        let is_known = ["", "_seconds", "_bytes"]
            .iter()
            .any(|unit| short.strip_suffix(unit).is_some_and(|base| sources.contains(&format!("\"{base}\""))));
        assert!(is_known, "{name} is registered nowhere");
    }
}

#[test]
fn promtool_accepts_the_rules() {
    let rules = root().join("charts/pullpiri/files/rules.yaml");
    match Command::new("promtool").args(["check", "rules"]).arg(rules).stdout(Stdio::piped()).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => println!("skipped: no promtool (Debian package prometheus)"),
    }
}
