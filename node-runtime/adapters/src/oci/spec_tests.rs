//! Specifications, field by field.

use pullpiri_node_core::runtime::Security;

use super::*;

fn user() -> User {
    User { uid: 1000, gid: 1001, additional_gids: vec![29], home: "/home/app".to_owned() }
}

fn built(container: &ContainerSpec, image: &ImageConfig, layout: Layout) -> Result<Value, String> {
    let built = build(&Inputs {
        container,
        image,
        user: &user(),
        hostname: "vehicle",
        rootfs: Path::new("/data/rootfs"),
        sub_paths: &sub_paths(container, Path::new("/data")),
        files: &[("/data/hosts".into(), "/etc/hosts".into())],
        cgroup: "pullpiri/p/c",
        layout,
        capabilities: (1 << 41) - 1,
        oom_score_adj: 0,
    })?;
    Ok(built.0)
}

fn device_rules(container: &ContainerSpec) -> Vec<String> {
    devices(container).unwrap().1
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["default".to_owned()],
        env: vec![("PATH".to_owned(), "/bin".to_owned()), ("A".to_owned(), "image".to_owned())],
        working_dir: Some("/srv".to_owned()),
        ..ImageConfig::default()
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn command_and_args_follow_the_rules_of_kubernetes() {
    for (command, args, expected) in [
        (&[][..], &[][..], &["/entry", "default"][..]),
        (&[], &["x"], &["/entry", "x"]),
        (&["/own"], &[], &["/own"]),
        (&["/own"], &["x", "y"], &["/own", "x", "y"]),
    ] {
        let container = ContainerSpec { command: strings(command), args: strings(args), ..ContainerSpec::default() };
        let spec = built(&container, &image(), Layout::Hybrid).unwrap();
        assert_eq!(spec["process"]["args"], json!(expected));
    }
    let nothing = ContainerSpec::default();
    assert!(built(&nothing, &ImageConfig::default(), Layout::Hybrid).unwrap_err().contains("no program"));
    let empty = ContainerSpec { command: strings(&[""]), ..ContainerSpec::default() };
    assert!(built(&empty, &image(), Layout::Hybrid).is_err());
    let nul = ContainerSpec { args: strings(&["a\0b"]), ..ContainerSpec::default() };
    assert!(built(&nul, &image(), Layout::Hybrid).unwrap_err().contains("NUL"));
}

#[test]
fn the_environment_is_merged_in_order() {
    let pairs = [("B", "1"), ("A", "spec"), ("B", "2"), ("HOSTNAME", "other")];
    let env = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
    let container = ContainerSpec { env, ..ContainerSpec::default() };
    let spec = built(&container, &image(), Layout::Hybrid).unwrap();
    assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "HOSTNAME=other", "HOME=/home/app", "A=spec", "B=2"]));
}

#[test]
fn the_working_directory_is_the_containers_or_the_images() {
    let dir = |own: Option<&str>, image: &ImageConfig| {
        let container =
            ContainerSpec { working_dir: own.map(str::to_owned), command: strings(&["x"]), ..ContainerSpec::default() };
        built(&container, image, Layout::Hybrid).map(|s| s["process"]["cwd"].clone())
    };
    assert_eq!(dir(Some("/own"), &image()), Ok(json!("/own")));
    assert_eq!(dir(None, &image()), Ok(json!("/srv")));
    assert_eq!(dir(None, &ImageConfig::default()), Ok(json!("/")));
    assert!(dir(Some("relative"), &image()).unwrap_err().contains("relative"));
}

#[test]
fn mounts_are_ordered_by_depth_and_hide_our_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let bind = |target: &str, read_only| Mount {
        source: MountSource::Bind(dir.path().to_owned()),
        target: target.into(),
        read_only,
    };
    let container = ContainerSpec {
        mounts: vec![bind("/a/b/c", true), bind("/a", false), bind("/etc/hosts", true)],
        ..ContainerSpec::default()
    };
    let spec = built(&container, &image(), Layout::Hybrid).unwrap();
    let targets: Vec<&str> =
        spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(targets[6..], ["/a", "/etc/hosts", "/a/b/c"]);
    assert_eq!(spec["mounts"][7]["source"], json!(dir.path()));
    assert_eq!(spec["mounts"][8]["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn mounts_that_lead_elsewhere_are_refused() {
    let source = MountSource::Tmpfs { size_bytes: None };
    for target in ["relative", "/a/../b", "/", ""] {
        let mount = Mount { source: source.clone(), target: target.into(), read_only: false };
        assert!(volume(&mount, &[]).is_err(), "{target}");
    }
    for (source, part) in [("/no/such/path", "/no/such/path"), ("relative", "not absolute")] {
        let mount = Mount { source: MountSource::Bind(source.into()), target: "/x".into(), read_only: false };
        assert!(volume(&mount, &[]).unwrap_err().contains(part));
    }
}

#[test]
fn a_part_of_a_volume_is_named_by_where_it_will_be_bound() {
    let below = |base: &str, path: &str, target: &str| Mount {
        source: MountSource::Below { base: base.into(), sub_path: path.into() },
        target: target.into(),
        read_only: false,
    };
    let mounts = vec![below("/v", "a", "/deep/er"), below("/v", "b", "/b"), below("/v", "a", "/again")];
    let container = ContainerSpec { mounts, ..ContainerSpec::default() };
    let spec = built(&container, &image(), Layout::Hybrid).unwrap();
    let staged: Vec<_> = spec["mounts"].as_array().unwrap().iter().skip(7).map(|m| m["source"].clone()).collect();
    assert_eq!(staged, ["/data/sub/1", "/data/sub/0", "/data/sub/0"]);
    // In a volume, a container could make a device of any number.
    let mounts = vec![below("/proc/self/root/dev", "null", "/x")];
    assert_eq!(device_rules(&ContainerSpec { mounts, ..ContainerSpec::default() }), ALLOWED_DEVICES);
    let mounts = vec![below("/dev", "null", "/x")];
    let rules = device_rules(&ContainerSpec { mounts, ..ContainerSpec::default() });
    assert_eq!(rules.last().map(String::as_str), Some("c 1:3 rw"));
}

#[test]
fn a_mounted_device_may_be_used() {
    let mount = Mount { source: MountSource::Bind("/dev/null".into()), target: "/dev/mine".into(), read_only: false };
    let container = ContainerSpec { mounts: vec![mount], ..ContainerSpec::default() };
    let rules = device_rules(&container);
    assert_eq!(rules.last().map(String::as_str), Some("c 1:3 rw"));
    assert_eq!(rules[..ALLOWED_DEVICES.len()], ALLOWED_DEVICES);
}

#[test]
fn privileges_open_what_is_closed_otherwise() {
    let plain = built(&ContainerSpec::default(), &image(), Layout::Hybrid).unwrap();
    assert_eq!(plain["linux"]["maskedPaths"].as_array().unwrap().len(), MASKED.len());
    assert_eq!(plain["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 11);
    assert_eq!(plain["process"]["capabilities"]["ambient"], json!([]));
    let security = Security { privileged: true, read_only_root: true, ..Security::default() };
    let container = ContainerSpec { security, ..ContainerSpec::default() };
    let privileged = built(&container, &image(), Layout::Hybrid).unwrap();
    assert_eq!(privileged["linux"]["maskedPaths"], json!([]));
    assert_eq!(privileged["root"]["readonly"], json!(true));
    assert_eq!(privileged["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    assert_eq!(device_rules(&container), ["a"]);
}

#[test]
fn cgroup_version_two_has_a_namespace_and_a_mount() {
    let has = |layout| {
        let spec = built(&ContainerSpec::default(), &image(), layout).unwrap();
        let namespace = spec["linux"]["namespaces"].as_array().unwrap().iter().any(|n| n["type"] == "cgroup");
        let mount = spec["mounts"].as_array().unwrap().iter().any(|m| m["type"] == "cgroup2");
        assert_eq!(namespace, mount);
        assert!(!spec["linux"]["namespaces"].as_array().unwrap().iter().any(|n| n["type"] == "network"));
        namespace
    };
    assert!(has(Layout::Unified));
    assert!(!has(Layout::Hybrid) && !has(Layout::Legacy));
}

#[test]
fn what_is_built_is_a_runtime_specification() {
    let container = ContainerSpec::default();
    for layout in [Layout::Unified, Layout::Hybrid] {
        let spec = built(&container, &image(), layout).unwrap();
        let parsed: oci_spec::runtime::Spec = serde_json::from_value(spec).unwrap();
        assert_eq!(parsed.hostname().as_deref(), Some("vehicle"));
        assert_eq!(parsed.linux().as_ref().unwrap().cgroups_path().as_deref(), Some(Path::new("/pullpiri/p/c")));
    }
}
