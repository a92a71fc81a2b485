//! A node runtime in a container that looks like a DaemonSet's pod (mount namespace, cgroups in every hierarchy, a service account's files) lives in the
//! host's mount namespace, and what it runs survives that the pod is killed as the kubelet kills pods: every process in one of its cgroups.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pullpiri_e2e::endpoint::Connection;
use pullpiri_e2e::process::{self, Pullpiri, free_address};
use pullpiri_e2e::{wait_for, workload};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const INSTANCE: &str = "/apis/pullpiri.io/v1alpha1/namespaces/default/modelinstances/in-a-pod";
const NODE: &str = "pod-node";

/// Groups of a pod that isn't one, in every hierarchy.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn make() -> Result<Self, String> {
        let name = format!("kubepods-test-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let mut mounts: Vec<PathBuf> = Vec::new();
        if root.join("cgroup.procs").exists() {
            mounts.push(root.to_owned());
        } else {
            let entries = fs::read_dir(root).map_err(|e| e.to_string())?;
            let found = entries.filter_map(|entry| Some(entry.ok()?.path()));
            // `cpu` is often a link to `cpu,cpuacct`.
            mounts.extend(found.filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists()));
        }
        let mut groups = Self(Vec::new());
        for mount in mounts {
            let group = mount.join(&name);
            fs::create_dir(&group).map_err(|e| format!("making {}: {e}", group.display()))?;
            groups.0.push(group.clone());
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(mount.join(file)) {
                    fs::write(group.join(file), value.trim()).map_err(|e| e.to_string())?;
                }
            }
        }
        Ok(groups)
    }

    fn processes(&self) -> BTreeSet<i32> {
        let lists = self.0.iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
        lists.flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()).collect()
    }

    /// As the kubelet and the container runtime do.
    fn kill(&self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    fn name(&self) -> &str {
        self.0[0].file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.kill();
        for group in &self.0 {
            for _ in 0..200 {
                if fs::remove_dir(group).is_ok() || !group.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A process that stays in the host's namespaces, as a container runtime's, and its child in the pod's.
struct Pod(Child);

impl Pod {
    fn start(groups: &Groups, folder: &Path, api_server: std::net::SocketAddr) -> Self {
        let within = Self::within(groups, folder, "runtime");
        let mut command = Command::new("sh");
        command.args(["-c", "unshare --mount --propagation private sh -c \"$1\"; true", "runtime", &within]);
        Self::spawn(command, folder, api_server)
    }

    /// Where the container runtime isn't in the mount namespace of the first process: both leave the names of theirs in files.
    fn start_below(groups: &Groups, folder: &Path, api_server: std::net::SocketAddr, host: &str) -> Self {
        let script = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let below = |name: &str, script: &str| {
            let file = folder.join(name).display().to_string();
            format!("readlink /proc/self/ns/mnt > {file}; unshare --mount --propagation private sh {script}; true")
        };
        let node = script("node.sh", &Self::within(groups, folder, host));
        let runtime = script("runtime.sh", &below("runtime", &node));
        let init = script("init.sh", &below("init", &runtime));
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--propagation", "private", "sh", &init]);
        Self::spawn(command, folder, api_server)
    }

    fn within(groups: &Groups, folder: &Path, host: &str) -> String {
        let joins: Vec<String> =
            groups.0.iter().map(|group| format!("echo $$ > {}/cgroup.procs", group.display())).collect();
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        format!(
            "set -e; {joins}; mkdir -p /var/run/secrets; mount -t tmpfs none /var/run/secrets; mkdir -p {account}; \
             mount --bind {files} {account}; mount -t tmpfs none /sys/fs/cgroup; \
             exec {binary} node --name {NODE} --host-mount-namespace={host} --runtime oci --data-dir {data}",
            joins = joins.join("; "),
            files = folder.join("account").display(),
            binary = process::binary().unwrap().display(),
            data = folder.join("data").display(),
        )
    }

    fn spawn(mut command: Command, folder: &Path, api_server: std::net::SocketAddr) -> Self {
        let log = fs::File::options().create(true).append(true).open(folder.join("pod.log")).unwrap();
        let child = command
            .env("KUBERNETES_SERVICE_HOST", api_server.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", api_server.port().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    fn ended(&mut self) {
        let _ = self.0.wait();
    }
}

async fn post(connection: &mut Connection, path: &str, body: &Value) -> Value {
    let answer = connection.request(Method::POST, path, "application/json", body.to_string().into()).await.unwrap();
    assert!(answer.status.is_success(), "{path}: {}", answer.json());
    answer.json()
}

/// The files of a service account as the kubelet lays them out: links to a folder that is replaced whole.
async fn account(connection: &mut Connection, server: &Pullpiri, folder: &Path, version: &str) {
    let path = "/api/v1/namespaces/default/serviceaccounts/node-in-a-pod/token";
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let token = post(connection, path, &request).await["status"]["token"].as_str().unwrap().to_owned();
    let files = folder.join("account");
    fs::create_dir_all(files.join(version)).unwrap();
    let config: Value = serde_saphyr::from_str(&fs::read_to_string(server.kubeconfig()).unwrap()).unwrap();
    let authority = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    let authority = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, authority).unwrap();
    for (name, bytes) in [("token", token.into_bytes()), ("ca.crt", authority), ("namespace", b"default".to_vec())] {
        fs::write(files.join(version).join(name), bytes).unwrap();
        let _ = symlink(Path::new("..data").join(name), files.join(name));
    }
    let _ = fs::remove_file(files.join("..data.new"));
    symlink(version, files.join("..data.new")).unwrap();
    fs::rename(files.join("..data.new"), files.join("..data")).unwrap();
}

/// The container's process, once the instance runs.
async fn running(connection: &mut Connection, folder: &Path) -> i32 {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let object = connection.get(INSTANCE).await.unwrap().json();
        if object["status"]["phase"] == "Running"
            && let Some(pid) = object["status"]["containers"][0]["pid"].as_i64()
        {
            return i32::try_from(pid).unwrap();
        }
        let log = || fs::read_to_string(folder.join("pod.log")).unwrap_or_default();
        assert!(std::time::Instant::now() < deadline, "not running: {object}\n{}", log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn workloads_outlive_the_pod_that_started_them() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a node runtime needs root");
        return;
    }
    let groups = match Groups::make() {
        Ok(groups) => groups,
        Err(problem) => {
            println!("skipped: no cgroups can be made here ({problem})");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let mut server =
        Pullpiri::start("up", &folder.join("server"), free_address().unwrap(), &["--node", "beside"]).unwrap();
    let endpoint = server.ready().await.unwrap();
    let mut connection = endpoint.connect().await.unwrap();
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "node-in-a-pod"}});
    post(&mut connection, "/api/v1/namespaces/default/serviceaccounts", &object).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "node-in-a-pod"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "node-in-a-pod", "namespace": "default"}],
    });
    post(&mut connection, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    account(&mut connection, &server, folder, "..1").await;

    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let mut pod = Pod::start(&groups, folder, server.address);
    wait_for("the node to register", LIMIT, || async {
        let mut connection = endpoint.connect().await.map_err(|e| e.to_string())?;
        let node = connection.get(&format!("/apis/pullpiri.io/v1alpha1/noderuntimes/{NODE}")).await;
        let status = node.map_err(|e| e.to_string())?.status;
        let log = fs::read_to_string(folder.join("pod.log")).unwrap_or_default();
        if status.is_success() { Ok(()) } else { Err(format!("{status}: {log}")) }
    })
    .await
    .unwrap();
    workload::load(&workload::archive(folder).unwrap(), &data).unwrap();
    let instances = "/apis/pullpiri.io/v1alpha1/namespaces/default/modelinstances";
    post(&mut connection, instances, &workload::instance("in-a-pod", NODE, "oci", &["serve"])).await;
    let pid = running(&mut connection, folder).await;

    // Its process is in no group of the pod's, in no hierarchy, and neither is its supervisor; the agent is.
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(!cgroups.contains(groups.name()), "{cgroups}");
    let agents = groups.processes();
    assert_eq!(agents.len(), 1, "{agents:?}");
    // The agent itself sees what this test sees, not the pod's files.
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(namespace(&agents.first().unwrap().to_string()), namespace("self"));

    // The kubelet renews tokens, and kills pods.
    account(&mut connection, &server, folder, "..2").await;
    groups.kill();
    pod.ended();
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the workload went with the pod");
    let mut pod = Pod::start(&groups, folder, server.address);
    wait_for("the new pod's agent", LIMIT, || async {
        if groups.processes().is_empty() { Err("none".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    // Adopted: what the new one stops is what the old one started.
    let answer = connection.request(Method::DELETE, INSTANCE, "application/json", bytes::Bytes::new()).await.unwrap();
    assert!(answer.status.is_success());
    wait_for("the workload and its supervisor to be gone", LIMIT, || async {
        let is_there = Path::new(&format!("/proc/{pid}")).exists();
        let log = || fs::read_to_string(folder.join("pod.log")).unwrap_or_default();
        if is_there {
            return Err(format!("process {pid} is there; {}", log()));
        }
        // The agent removes a pod's folder once its supervisor has ended.
        match fs::read_dir(data.join("pods")).map_err(|e| e.to_string())?.count() {
            0 => Ok(()),
            pods => Err(format!("{pods} pods are there; {}", log())),
        }
    })
    .await
    .unwrap();
    groups.kill();
    pod.ended();

    // Whose files are the host's is said: the first process', or the container runtime's.
    for host in ["init", "runtime"] {
        let mut pod = Pod::start_below(&groups, folder, server.address, host);
        wait_for("the agent to be on the host", LIMIT, || async {
            let wanted = fs::read_to_string(folder.join(host)).map_err(|e| e.to_string())?;
            let agents = groups.processes();
            let seen = agents.iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok());
            let seen: Vec<PathBuf> = seen.collect();
            let log = || fs::read_to_string(folder.join("pod.log")).unwrap_or_default();
            if seen == [Path::new(wanted.trim())] { Ok(()) } else { Err(format!("{seen:?}, not {wanted}; {}", log())) }
        })
        .await
        .unwrap_or_else(|error| panic!("{host}: {error}"));
        groups.kill();
        pod.ended();
    }
    let [init, runtime] = ["init", "runtime"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    assert_ne!(init, runtime);
}
