use std::path::PathBuf;
use std::sync::Arc;

use pullpiri_crds::ModelInstanceSpec;
use pullpiri_crds::model::{
    Capabilities, ConfigMapFiles, Container, ContainerPort, EmptyDir, EnvVar, EnvVarSource, HostPath, HostPathType,
    KeySelector, KeyToPath, Medium, ModelSpec, ModelVolume, Resources, SecretFiles, SecurityContext, VolumeMount,
};
use pullpiri_crds::quantity::Quantity;

use super::*;
use crate::restart::Backoff;
use crate::runtime::{Mount, MountSource};
use crate::snapshot::{AdapterState, Content};

fn instance(spec: ModelSpec) -> ModelInstance {
    let mut instance = ModelInstance::new(
        "pkg-blis-zone-1",
        ModelInstanceSpec {
            package: "pkg".into(),
            model: "bms.blis".into(),
            node_name: "zone".into(),
            template: Arc::new(Template { spec, ..Default::default() }),
            run: true,
            epoch: 0,
            realtime: Vec::new(),
            network: None,
        },
    );
    instance.metadata.namespace = Some("default".into());
    instance
}

fn of_container(container: Container) -> ModelSpec {
    ModelSpec { containers: vec![container], ..Default::default() }
}

fn named(name: &str) -> Container {
    Container { name: name.into(), image: "localhost/x:1".into(), ..Default::default() }
}

type Keys<'a> = &'a [(&'a str, &'a [u8])];

fn data(entries: &[(DataKind, &str, Keys<'_>)]) -> BTreeMap<DataRef, DataState> {
    entries
        .iter()
        .map(|(kind, name, keys)| {
            let entries = keys.iter().map(|(key, bytes)| ((*key).into(), Content::from(bytes.to_vec()))).collect();
            let data = DataRef { kind: *kind, namespace: "default".into(), name: (*name).into() };
            (data, DataState::Present(DataObject { version: "1".into(), entries }))
        })
        .collect()
}

fn resolved(spec: ModelSpec, data: &BTreeMap<DataRef, DataState>) -> Result<Resolved, Vec<String>> {
    resolved_for(Adapter::Oci, &instance(spec), data)
}

fn resolved_for(
    adapter: Adapter,
    instance: &ModelInstance,
    data: &BTreeMap<DataRef, DataState>,
) -> Result<Resolved, Vec<String>> {
    let node = Node {
        name: "zone".into(),
        default_adapter: Adapter::Oci,
        adapters: BTreeMap::from([(Adapter::Oci, AdapterState::Ready)]),
        volumes: "/v".into(),
        backoff: Backoff::default(),
    };
    let (id, memory) = (PodId("uid".into()), Memory::default());
    let network = crate::network::NodeState::default();
    let context = Context { node: &node, id: &id, namespace: "default", memory: &memory, data, network: &network };
    resolve(&context, instance, adapter)
        .map_err(|problems| problems.iter().map(|problem| format!("{:?} {problem}", problem.kind)).collect())
}

fn quantities(list: &[(&str, &str)]) -> Option<BTreeMap<String, Quantity>> {
    Some(list.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned()))).collect())
}

#[test]
fn environment_values_expand_in_order() {
    let from = |kind, name: &str, key: &str, optional| {
        let key = KeySelector { name: name.into(), key: key.into(), optional };
        Some(match kind {
            DataKind::ConfigMap => EnvVarSource { config_map_key_ref: Some(key), secret_key_ref: None },
            DataKind::Secret => EnvVarSource { config_map_key_ref: None, secret_key_ref: Some(key) },
        })
    };
    let plain = |name: &str, value: &str| EnvVar { name: name.into(), value: Some(value.into()), value_from: None };
    let mut container = named("x");
    container.env = vec![
        plain("EARLY", "$(GEAR)"),
        EnvVar { name: "GEAR".into(), value: None, value_from: from(DataKind::ConfigMap, "conf", "gear", None) },
        plain("BOTH", "$(GEAR)-$(KEY)"),
        EnvVar { name: "KEY".into(), value: None, value_from: from(DataKind::Secret, "keys", "token", None) },
        plain("BOTH", "$(GEAR)+$(KEY)"),
        EnvVar { name: "NONE".into(), value: None, value_from: from(DataKind::Secret, "keys", "nope", Some(true)) },
        EnvVar { name: "BARE".into(), value: None, value_from: None },
    ];
    container.command = vec!["/bin/x".into(), "$(BOTH)".into(), "$$(BOTH)".into()];
    container.args = vec!["--gear=$(GEAR)".into(), "$(NONE)".into()];
    let data =
        data(&[(DataKind::ConfigMap, "conf", &[("gear", b"P")]), (DataKind::Secret, "keys", &[("token", b"k")])]);
    let container = resolved(of_container(container), &data).unwrap().pod.containers.remove(0);
    let env: Vec<(&str, &str)> = container.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(
        env,
        [("EARLY", "$(GEAR)"), ("GEAR", "P"), ("BOTH", "P-$(KEY)"), ("KEY", "k"), ("BOTH", "P+k"), ("BARE", "")]
    );
    assert_eq!(container.command, ["/bin/x", "P+k", "$(BOTH)"]);
    assert_eq!(container.args, ["--gear=P", "$(NONE)"]);
}

#[test]
fn references_to_data_say_what_is_missing() {
    let mut container = named("x");
    let variable = |name: &str, object: &str, key: &str| EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            config_map_key_ref: Some(KeySelector { name: object.into(), key: key.into(), optional: None }),
            secret_key_ref: None,
        }),
    };
    container.env = vec![
        variable("A", "conf", "no"),
        variable("B", "gone", "x"),
        variable("C", "new", "x"),
        variable("D", "conf", "bin"),
        variable("E", "kept", "x"),
    ];
    let mut data = data(&[(DataKind::ConfigMap, "conf", &[("bin", &[0xff])])]);
    data.insert(
        DataRef { kind: DataKind::ConfigMap, namespace: "default".into(), name: "gone".into() },
        DataState::Absent,
    );
    data.insert(
        DataRef { kind: DataKind::ConfigMap, namespace: "default".into(), name: "kept".into() },
        DataState::Refused { message: "configmaps \"kept\" is forbidden".into() },
    );
    assert_eq!(
        resolved(of_container(container), &data).unwrap_err(),
        [
            "Invalid spec.template.spec.containers[0].env[3].valueFrom: key \"bin\" of ConfigMap conf isn't UTF-8 text",
            "ConfigMissing spec.template.spec.containers[0].env[0].valueFrom: ConfigMap default/conf has no key \"no\"",
            "ConfigMissing spec.template.spec.containers[0].env[1].valueFrom: ConfigMap default/gone doesn't exist",
            "ConfigMissing spec.template.spec.containers[0].env[4].valueFrom: ConfigMap default/kept can't be read: configmaps \"kept\" is forbidden",
            "Unknown spec.template.spec.containers[0].env[2].valueFrom: ConfigMap default/new hasn't been read yet",
        ]
    );
    assert_eq!(ProblemKind::ConfigMissing.reason(), "ConfigMissing");
}

#[test]
fn volumes_become_mounts() {
    let volume = |name: &str| ModelVolume { name: name.into(), ..Default::default() };
    let mount = |name: &str, path: &str, sub: Option<&str>, read_only| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only,
        sub_path: sub.map(str::to_owned),
    };
    let mut container = named("x");
    container.volume_mounts = vec![
        mount("host", "/host", None, Some(true)),
        mount("host", "/sub", Some("a/b"), None),
        mount("scratch", "/scratch", None, None),
        mount("ram", "/ram", None, None),
        mount("conf", "/conf", None, None),
        mount("keys", "/keys/token", Some("dir/token"), None),
    ];
    let spec = ModelSpec {
        volumes: vec![
            ModelVolume {
                host_path: Some(HostPath { path: "/srv/x".into(), kind: Some(HostPathType::DirectoryOrCreate) }),
                ..volume("host")
            },
            ModelVolume { empty_dir: Some(EmptyDir::default()), ..volume("scratch") },
            ModelVolume {
                empty_dir: Some(EmptyDir { medium: Some(Medium::Memory), size_limit: Some(Quantity("64Mi".into())) }),
                ..volume("ram")
            },
            ModelVolume {
                config_map: Some(ConfigMapFiles { name: "conf".into(), ..Default::default() }),
                ..volume("conf")
            },
            ModelVolume {
                secret: Some(SecretFiles {
                    secret_name: "keys".into(),
                    items: vec![KeyToPath { key: "token".into(), path: "dir/token".into(), mode: Some(0o400) }],
                    ..Default::default()
                }),
                ..volume("keys")
            },
        ],
        ..of_container(container)
    };
    let data = data(&[
        (DataKind::ConfigMap, "conf", &[("a", b"1"), ("b", b"2")]),
        (DataKind::Secret, "keys", &[("token", b"k"), ("other", b"o")]),
    ]);
    let resolved = resolved(spec, &data).unwrap();
    let bind = |path: &str| MountSource::Bind(path.into());
    let below = |base: &str, path: &str| MountSource::Below { base: base.into(), sub_path: path.into() };
    let expected = [
        (bind("/srv/x"), "/host", true),
        (below("/srv/x", "a/b"), "/sub", false),
        (bind("/v/uid/scratch"), "/scratch", false),
        (MountSource::Tmpfs { size_bytes: Some(64 << 20) }, "/ram", false),
        (bind("/v/uid/conf"), "/conf", true),
        (below("/v/uid/keys", "dir/token"), "/keys/token", true),
    ]
    .map(|(source, target, read_only)| Mount { source, target: PathBuf::from(target), read_only });
    assert_eq!(resolved.pod.containers[0].mounts, expected);
    let steps: Vec<String> = resolved.steps.iter().map(ToString::to_string).collect();
    let hashes: Vec<String> =
        resolved.steps.iter().filter_map(|step| step.projection()).map(|(_, hash)| hash).collect();
    assert_eq!(
        steps,
        [
            format!("volume conf: /v/uid/conf holds {} a (1 B, 644) b (1 B, 644)", hashes[0]),
            "volume host: DirectoryOrCreate /srv/x".to_owned(),
            format!("volume keys: /v/uid/keys holds in memory {} dir/token (1 B, 400)", hashes[1]),
            "volume scratch: directory /v/uid/scratch".to_owned(),
            "volume host: a/b below /srv/x".to_owned(),
        ]
    );
}

#[test]
fn bad_fields_are_named() {
    let mut container = named("x");
    container.resources = Some(Resources {
        limits: quantities(&[("cpu", "1x"), ("memory", "-5"), ("pids", ""), ("gpu", "1")]),
        requests: quantities(&[("cpu", "8Ei")]),
    });
    container.ports = vec![ContainerPort { container_port: 0, host_port: Some(70000), protocol: None, name: None }];
    container.security_context = Some(SecurityContext { run_as_user: Some(-1), ..Default::default() });
    container.volume_mounts = vec![
        VolumeMount { name: "nope".into(), mount_path: "/a".into(), ..Default::default() },
        VolumeMount { name: "ram".into(), mount_path: "relative".into(), ..Default::default() },
        VolumeMount { name: "ram".into(), mount_path: "/".into(), ..Default::default() },
        VolumeMount {
            name: "ram".into(),
            mount_path: "/b".into(),
            sub_path: Some("../c".into()),
            ..Default::default()
        },
    ];
    let mut little = named("little");
    little.resources = Some(Resources { limits: quantities(&[("memory", "128")]), requests: None });
    let spec = ModelSpec {
        volumes: vec![
            ModelVolume {
                name: "ram".into(),
                empty_dir: Some(EmptyDir { medium: None, size_limit: Some(Quantity("1Gi".into())) }),
                ..Default::default()
            },
            ModelVolume { name: "ram".into(), empty_dir: Some(EmptyDir::default()), ..Default::default() },
            ModelVolume { name: "none".into(), ..Default::default() },
            ModelVolume {
                name: "up".into(),
                host_path: Some(HostPath { path: "/a/../b".into(), kind: None }),
                ..Default::default()
            },
        ],
        containers: vec![container, named("x"), little],
        ..Default::default()
    };
    insta::assert_snapshot!(resolved(spec, &BTreeMap::new()).unwrap_err().join("\n"));
}

#[test]
fn a_container_gets_its_limits_and_rights() {
    let mut container = named("x");
    container.resources = Some(Resources {
        limits: quantities(&[("cpu", "1500m"), ("memory", "128Mi"), ("pids", "0")]),
        requests: quantities(&[("cpu", "0.25"), ("memory", "64Mi")]),
    });
    container.security_context = Some(SecurityContext {
        capabilities: Some(Capabilities {
            add: vec!["SYS_NICE".into(), "CAP_NET_RAW".into()],
            drop: vec!["ALL".into()],
        }),
        run_as_user: Some(4_294_967_294),
        read_only_root_filesystem: Some(true),
        ..Default::default()
    });
    let pod = resolved(of_container(container), &BTreeMap::new()).unwrap().pod;
    assert_eq!(pod.hostname, "bms-blis");
    assert_eq!(pod.network, NetworkMode::Own);
    let container = &pod.containers[0];
    assert_eq!(
        container.limits,
        Limits {
            cpu_millis: Some(1500),
            cpu_request_millis: Some(250),
            memory_bytes: Some(128 << 20),
            memory_request_bytes: Some(64 << 20),
            pids: None
        }
    );
    assert_eq!(container.security.add_capabilities, ["SYS_NICE", "NET_RAW"]);
    assert_eq!(container.security.user, Some(4_294_967_294));
    assert!(container.security.read_only_root && !container.security.privileged);
}

#[test]
fn memory_that_would_have_to_be_shared_is_refused() {
    let mount = VolumeMount { name: "ram".into(), mount_path: "/ram".into(), ..Default::default() };
    let container = |name| Container { volume_mounts: vec![mount.clone()], ..named(name) };
    let spec = ModelSpec {
        containers: vec![container("x"), container("y")],
        volumes: vec![ModelVolume {
            name: "ram".into(),
            empty_dir: Some(EmptyDir { medium: Some(Medium::Memory), size_limit: None }),
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(
        resolved(spec, &BTreeMap::new()).unwrap_err(),
        [
            "CannotHonour spec.template.spec.volumes[0].emptyDir.medium: medium Memory is mounted 2 times; this node can mount it once only"
        ]
    );
}

#[test]
fn a_template_hash_follows_the_template() {
    let template = |image: &str| Template {
        spec: of_container(Container { image: image.into(), ..named("x") }),
        ..Default::default()
    };
    assert_eq!(template_hash(&template("a")), template_hash(&template("a")));
    assert_ne!(template_hash(&template("a")), template_hash(&template("b")));
}

#[test]
fn a_kubelet_reads_secrets_itself() {
    let key = KeySelector { name: "keys".into(), key: "token".into(), optional: None };
    let from = EnvVarSource { secret_key_ref: Some(key), ..Default::default() };
    let mut container = named("x");
    container.env = vec![
        EnvVar { name: "TOKEN".into(), value_from: Some(from), ..Default::default() },
        EnvVar { name: "HEADER".into(), value: Some("Bearer $(TOKEN)".into()), ..Default::default() },
    ];
    container.args = vec!["--token=$(TOKEN)".into()];
    container.image_pull_policy = Some(ImagePullPolicy::Always);
    let secret = data(&[(DataKind::Secret, "keys", &[("token", b"hunter2")])]);
    let instance = instance(of_container(container));
    let resolved = resolved_for(Adapter::Kubernetes, &instance, &secret).unwrap();
    assert_eq!(resolved.degraded, Vec::<String>::new());
    let container = &resolved.pod.containers[0];
    assert!(!format!("{container:?}").contains("hunter2"), "{container:?}");
    assert_eq!(container.args, ["--token=$(TOKEN)"]);
    assert_eq!(container.env[1], ("HEADER".to_owned(), "Bearer $(TOKEN)".to_owned()));
    assert!(container.env_sources["TOKEN"].secret);
    assert_eq!(container.image_pull, Some(ImagePullPolicy::Always));
    let missing = resolved_for(Adapter::Kubernetes, &instance, &BTreeMap::new()).unwrap_err();
    assert!(missing[0].contains("keys hasn't been read yet"), "{missing:?}");
    let oci = resolved_for(Adapter::Oci, &instance, &secret).unwrap();
    assert_eq!(oci.pod.containers[0].args, ["--token=hunter2"]);
}

#[test]
fn what_a_pod_of_kubernetes_cannot_have_is_refused() {
    let mut container = named("x");
    container.resources = Some(Resources { limits: quantities(&[("pids", "10"), ("cpu", "1")]), requests: None });
    let mut instance = instance(of_container(container));
    instance.spec.network = Some(pullpiri_crds::instance::InstanceNetwork {
        name: "backbone".into(),
        addresses: vec!["10.20.0.5".into()],
        gateways: vec!["10.20.0.1".into()],
    });
    let problems = resolved_for(Adapter::Kubernetes, &instance, &BTreeMap::new()).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("CannotHonour spec.network: a Pod is on the cluster's network"), "{problems:?}");
    assert!(problems[1].contains("containers[0].resources.limits[pids]"), "{problems:?}");
    // With the node's own network there is no Network to join.
    Arc::make_mut(&mut instance.spec.template).spec.host_network = Some(true);
    let problems = resolved_for(Adapter::Kubernetes, &instance, &BTreeMap::new()).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
}
