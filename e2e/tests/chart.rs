//! The chart's output for a matrix of values (chart/*.values.yaml) is what chart/*.golden.yaml hold, and values that can't work are refused.
//!
//! `PULLPIRI_UPDATE_GOLDEN=1 cargo test -p pullpiri-e2e --test chart` writes the golden files anew. That a real API server takes the same objects is
//! proven by hack/e2e-k8s.sh.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const RELEASE: &str = "vehicle-services";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// `$PULLPIRI_HELM`, or what hack/kube/build.sh built of versions 4 and 3; else the machine's.
fn helms() -> Vec<PathBuf> {
    let built = root().join("target/kube/bin");
    let wanted = match std::env::var_os("PULLPIRI_HELM") {
        Some(path) => vec![PathBuf::from(path)],
        None => vec![built.join("helm"), built.join("helm3")],
    };
    let works = |path: &PathBuf| Command::new(path).arg("version").output().is_ok_and(|output| output.status.success());
    let (mut found, missing): (Vec<PathBuf>, Vec<PathBuf>) = wanted.into_iter().partition(works);
    if found.is_empty() && works(&PathBuf::from("helm")) {
        found.push(PathBuf::from("helm"));
    }
    for path in missing {
        println!("skipped: no {} (hack/kube/build.sh helm helm3 builds it where there is Go)", path.display());
    }
    found
}

fn template(helm: &Path, release: &str, arguments: &[&str]) -> Output {
    let home = std::env::temp_dir().join("pullpiri-helm");
    let mut command = Command::new(helm);
    // Nobody's repositories and plug-ins, and no cluster.
    command.env("HELM_CACHE_HOME", home.join("cache")).env("HELM_CONFIG_HOME", home.join("config"));
    command.env("HELM_DATA_HOME", home.join("data")).env("KUBECONFIG", "/dev/null");
    command.args(["template", release, "--namespace", "pullpiri-system"]);
    command.arg(root().join("charts/pullpiri")).args(arguments);
    if !arguments.iter().any(|argument| argument.starts_with("--kube-version")) {
        command.arg("--kube-version=1.37.0");
    }
    command.output().unwrap()
}

fn rendered(helm: &Path, arguments: &[&str]) -> String {
    let output = template(helm, RELEASE, arguments);
    assert!(output.status.success(), "{helm:?} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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
    for (helm, (case, arguments)) in helms().iter().flat_map(|helm| cases().into_iter().map(move |case| (helm, case))) {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let text = rendered(helm, &arguments);
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
            "{helm:?}, {case}: {} lines, {} before; first difference: {difference:?}",
            now.lines().count(),
            golden.lines().count()
        );
    }
}

#[test]
fn crds_are_those_of_the_types_and_stay_if_wanted() {
    for (helm, keep) in helms().iter().flat_map(|helm| [(helm, true), (helm, false)]) {
        let text = rendered(helm, &["--set", &format!("crds.keep={keep}")]);
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
    for helm in helms() {
        assert!(!rendered(&helm, &["--set", "crds.install=false"]).contains("kind: CustomResourceDefinition"));
    }
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (arguments, said) in [
        ("controllers.replicas=0", "/controllers/replicas"),
        ("node.runtime=docker", "/node/runtime"),
        ("node.dataDir=relative/path", "/node/dataDir"),
        ("node.linkRate=fast", "/node/linkRate"),
        ("node.uplink=an-interface-name-too-long", "/node/uplink"),
        ("node.capabilities={CAP_SYS_ADMIN,NET_ADMIN}", "/node/capabilities/0"),
        ("node.updateStrategy.rollingUpdate.maxSurge=1", "maxSurge"),
        ("node.updateStrategy.rollingUpdate.maxUnavailable=0", "maxUnavailable': minimum: got 0, want 1"),
        ("node.updateStrategy.rollingUpdate.maxUnavailable=0%", "maxUnavailable': '0%' does not match"),
        ("image.digest=sha256:abc", "/image/digest"),
        ("image.repository=With Blank", "/image/repository"),
        ("image.repository=localhost/pullpiri:1.0", "/image/repository"),
        ("imagePullSecrets[0].nme=registry", "/imagePullSecrets/0"),
        ("log.format=xml", "/log/format"),
        ("monitoring.interval=often", "/monitoring/interval"),
        ("monitoring.operator=maybe", "/monitoring/operator"),
        ("rbac.dataNamespaces={A_B}", "/rbac/dataNamespaces/0"),
        ("controllers.resources.limits.memory=lots", "/controllers/resources/limits/memory"),
        ("controllers.podLabels.a=two words", "/controllers/podLabels/a"),
        ("controllers.extraEnv[0].name=A,controllers.extraEnv[0].value=1", "/controllers/extraEnv/0/value"),
        ("controler.replicas=2", "'controler' not allowed"),
        ("controllers.replicaCount=2", "'replicaCount' not allowed"),
        // Names of Services have neither dots nor a digit in front.
        ("fullnameOverride=a.b", "at '/fullnameOverride': 'a.b' does not match pattern"),
        ("fullnameOverride=1st", "at '/fullnameOverride': '1st' does not match pattern"),
        ("nameOverride=a.b", "at '/nameOverride': 'a.b' does not match pattern"),
        // null takes a default away.
        ("node.capabilities=null", "at '/node': missing property 'capabilities'"),
        ("controllers=null", "at '': missing property 'controllers'"),
        ("controllers.replicas=null", "at '/controllers': missing property 'replicas'"),
    ] {
        is_refused(RELEASE, &["--set", arguments], said);
    }
    is_refused(
        RELEASE,
        &["--set-json", "node.capabilities=[]"],
        "node.capabilities: NET_ADMIN isn't among []; expected",
    );
    is_refused(RELEASE, &["--kube-version=1.31.9"], "kubeVersion");
}

/// What a schema can't say: values that don't go together.
#[test]
fn values_that_cannot_work_together_are_refused() {
    for (arguments, said) in [
        ("serviceAccounts.node.create=false", "serviceAccounts.node.name is needed"),
        (
            "serviceAccounts.node.name=a,serviceAccounts.controllers.name=a",
            "serviceAccounts.node.name: a is the controllers'",
        ),
        ("node.capabilities={SYS_ADMIN,NET_ADMIN,SYS_CHROOT}", "node.capabilities: SYS_PTRACE isn't among"),
        ("node.runtime=kubernetes", "node.runtime: kubernetes needs node.kubernetesRuntime.enabled"),
        (
            "node.metricsPort=100,node.capabilities={NET_ADMIN,SYS_ADMIN,SYS_CHROOT,SYS_PTRACE}",
            "node.metricsPort: 100 needs NET_BIND_SERVICE",
        ),
        (
            "controllers.metricsPort=8443",
            "controllers.signals.port: 8443 is controllers.metricsPort; expected two ports",
        ),
        ("controllers.podDisruptionBudget.minAvailable=2", "minAvailable: 2 of 2 replicas lets none go"),
        ("controllers.podDisruptionBudget.minAvailable=51%", "minAvailable: 51% of 2 replicas lets none go"),
        (
            "controllers.podLabels.app\\.kubernetes\\.io/component=x",
            "controllers.podLabels: label app.kubernetes.io/component is the chart's own",
        ),
        (
            "node.podLabels.app\\.kubernetes\\.io/name=x",
            "node.podLabels: label app.kubernetes.io/name is the chart's own",
        ),
        ("monitoring.labels.helm\\.sh/chart=x", "monitoring.labels: label helm.sh/chart is the chart's own"),
        ("controllers.extraEnv[0].name=POD_NAME", "controllers.extraEnv[0].name: POD_NAME is set already"),
        ("node.extraEnv[0].name=RUST_LOG", "node.extraEnv[0].name: RUST_LOG is set already; log.filter sets it"),
        ("node.extraEnv[0].name=A,node.extraEnv[1].name=A", "node.extraEnv[1].name: A is set already"),
        (
            "controllers.extraArgs={--leader-elect=false}",
            "controllers.extraArgs[0]: --leader-elect=false is the chart's to set",
        ),
        (
            "controllers.resources.limits.memory=32Mi",
            "controllers.resources.limits.memory: 32Mi is less than the 64Mi requested",
        ),
        (
            "node.resources.requests.cpu=2,node.resources.limits.cpu=1500m",
            "node.resources.limits.cpu: 1500m is less than the 2 requested",
        ),
        (
            "node.resources.requests=null,node.resources.limits.memory=256m",
            "node.resources.limits.memory: with 256m bytes nothing starts",
        ),
        (
            "controllers.affinity.podAntiAffinity.a=b",
            "controllers.affinity.podAntiAffinity: controllers.antiAffinity soft writes it",
        ),
        ("rbac.dataNamespaces={*,chassis}", "rbac.dataNamespaces: * stands for all, and there is chassis beside it"),
    ] {
        is_refused(RELEASE, &["--set", arguments], said);
    }
    is_refused("v1.2", &[], "fullnameOverride: release v1.2 gives the name v1.2-pullpiri, which Services can't have");
}

#[track_caller]
fn is_refused(release: &str, arguments: &[&str], said: &str) {
    for helm in helms() {
        let output = template(&helm, release, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{helm:?}: {arguments:?} was taken");
        assert!(error.contains(said), "{helm:?}: {arguments:?}: {error}");
    }
}

/// Nothing that works is refused for its neighbours.
#[test]
fn values_at_the_edge_are_taken() {
    for arguments in [
        "controllers.replicas=3,controllers.podDisruptionBudget.minAvailable=66%",
        "controllers.replicas=1,controllers.podDisruptionBudget.minAvailable=1",
        "controllers.metricsPort=8443,controllers.signals.enabled=false",
        "controllers.resources.limits.memory=64Mi,node.resources.requests.memory=268435456",
        "controllers.resources=null,node.resources=null,node.tolerations=null,controllers.podLabels=null",
        "node.metricsPort=100",
        "image.repository=registry.example.org:5000/vehicle/pullpiri",
        "fullnameOverride=v1-2,rbac.dataNamespaces={*}",
    ] {
        for helm in helms() {
            rendered(&helm, &["--set", arguments]);
        }
    }
}

/// No workload of the cluster, and no thief of a token, gets more by this chart than it was meant to.
#[test]
fn nothing_is_granted_by_the_handful() {
    let Some(helm) = helms().into_iter().next() else { return };
    let everything = "rbac.nodeRestriction=on,crds.keep=false,node.kubernetesRuntime.enabled=true";
    let text = rendered(&helm, &["--set", everything]);
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
        let Some(helm) = helms().into_iter().next() else { return };
        let text = rendered(&helm, &["--set", &format!("controllers.signals.enabled={signals}")]);
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
