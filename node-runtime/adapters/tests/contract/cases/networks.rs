//! Networks of pods.

use pullpiri_node_adapters::RuntimeError;
use pullpiri_node_core::runtime::{ContainerStateObserved, NetworkMode, Port};

use crate::support::container;
use crate::{Context, DEADLINE, pid_of};

pub async fn containers_share_a_network_of_their_own(c: &Context) {
    let port = "7321";
    let pod = c.pod(
        "a",
        NetworkMode::Own,
        vec![container("server", &["serve", port, "forever"]), container("client", &["dial", port])],
    );
    c.start(&pod).await;
    assert_eq!(c.output(&pod.id, "client").await, ["stdout dialled hello"]);
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "server").unwrap();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));
    if !c.backend.restarts() {
        return;
    }
    // A restarted container is in it too.
    let again = c.runtime.start_container(&pod.id, &container("client", &["forever"]), 1).await.unwrap();
    let ContainerStateObserved::Running { pid: client, .. } = again.state else { panic!("{again:?}") };
    assert_eq!(namespace(&pid.to_string()), namespace(&client.to_string()));
}

pub async fn a_port_is_published_from_a_network_of_its_own(c: &Context) {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = container("c", &["serve", "7322", "say", "over"]);
    server.ports = vec![Port { container_port: 7322, host_port: Some(port), protocol: "tcp".to_owned() }];
    let pod = c.pod("a", NetworkMode::Own, vec![server]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.logged(&pod.id, "c", "stdout serving").await;
    let text = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    });
    assert_eq!(text.await.unwrap(), "hello");
    c.exit(&pod.id, "c").await;
    // Who comes when nobody listens is turned away, and the next pod may have the port.
    let mut refused = pod.clone();
    refused.id = c.id("b");
    let error = c.runtime.run_pod(&refused).await.unwrap_err();
    assert!(matches!(error, RuntimeError::PortTaken { .. }), "{error:?}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert!(c.observed(&refused.id).await.is_none());
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    c.runtime.run_pod(&refused).await.unwrap();
}

pub async fn a_pod_joins_a_network_namespace_that_is_there(c: &Context) {
    let path = c.dir.path().join("netns");
    pullpiri_node_host::net::namespace::create(&path).unwrap();
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let expected = inode(&path);
    let mut first = container("c", &["forever"]);
    // Whoever made the namespace publishes its ports.
    first.ports = vec![Port { container_port: 80, host_port: None, protocol: "udp".to_owned() }];
    let pod = c.pod("a", NetworkMode::Namespace(path.clone()), vec![first, container("d", &["exit", "3"])]);
    let observed = c.runtime.run_pod(&pod).await.unwrap();
    let at = |pid: u32| inode(std::path::Path::new(&format!("/proc/{pid}/ns/net")));
    assert_eq!(at(pid_of(&observed, "c").unwrap()), expected);
    c.exit(&pod.id, "d").await;
    let again = c.runtime.start_container(&pod.id, &container("d", &["forever"]), 1).await.unwrap();
    let ContainerStateObserved::Running { pid, .. } = again.state else { panic!("{again:?}") };
    assert_eq!(at(pid), expected);
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    assert_eq!(inode(&path), expected, "it isn't the runtime's to remove");
    pullpiri_node_host::net::namespace::remove(&path).unwrap();
}

pub async fn the_host_network_is_the_nodes(c: &Context) {
    let pod = c.run("a", &["forever"]).await;
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(namespace(&pid.to_string()), namespace("self"));
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let Some(root) = roots.into_iter().find(|root| root.join("cgroup.controllers").exists()) else {
        println!("skipped: no cgroups of version 2");
        return;
    };
    if c.backend.name() == "oci" {
        // What it sends is known by its group of version 2, wherever its limits are.
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let group = pullpiri_node_host::cgroup::pod_group(&pod.id.0);
        assert!(groups.lines().any(|line| line.starts_with(&format!("0::/{group}/c"))), "{groups}");
        assert!(root.join(&group).is_dir());
    }
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}
