//! Two nodes, each a `pullpiri node` in a network namespace of its own that a veth joins, with the API server and the controllers as
//! processes beside the first one; and traffic between two models of theirs.
//!
//! Everything that talks to the API server must run in the first namespace: see [`Pair::run`].

mod flow;
mod meddling;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pullpiri_node_host::net::{Address, Family, LinkChange, Netlink, namespace};
use serde_json::{Value, json};

pub use flow::{Flow, Traffic};
pub use meddling::{Told, meddling};

use crate::endpoint::{Connection, Endpoint};
use crate::process::Pullpiri;
use crate::{E2eError, process, workload};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const API: &str = "/apis/pullpiri.io/v1alpha1";
const NAMESPACED: &str = "/apis/pullpiri.io/v1alpha1/namespaces/default";
const PORT: u16 = 16443;

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> E2eError + '_ {
    move |error| E2eError::failed(what, error)
}

/// A process of ours in one of the namespaces; it gets SIGTERM when this goes.
#[derive(Debug)]
struct Daemon {
    child: Child,
}

impl Daemon {
    fn start(arguments: &[&str], log: &Path) -> Result<Self, E2eError> {
        let what = format!("starting pullpiri {}", arguments.join(" "));
        let file = std::fs::File::options().create(true).append(true).open(log).map_err(|e| failed(&what)(&e))?;
        let other = file.try_clone().map_err(|e| failed(&what)(&e))?;
        let mut command = Command::new(process::binary()?);
        command.args(arguments).stdin(Stdio::null()).stdout(file).stderr(other);
        Ok(Self { child: command.spawn().map_err(|e| failed(&what)(&e))? })
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let deadline = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                self.signal(Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end(Signal::SIGTERM);
    }
}

/// What becomes of workloads when their node runtime gets SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    Keep,
    Stop,
}

/// One of the two nodes.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub data: PathBuf,
    namespace: PathBuf,
    kubeconfig: PathBuf,
    process: Option<Daemon>,
    on_stop: OnStop,
}

/// What a node logs once it knows what runs on it.
const TAKEN_OVER: &str = "runtime is ready";

impl Node {
    /// Starts the node runtime.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(&mut self, on_stop: OnStop) -> Result<(), E2eError> {
        let (kubeconfig, data) = (self.kubeconfig.display().to_string(), self.data.display().to_string());
        let mut arguments = vec!["node", "--runtime", "oci", "--name", &self.name, "--kubeconfig", &kubeconfig];
        arguments.extend(["--data-dir", &data, "--uplink", "up0", "--link-rate", "100M"]);
        if on_stop == OnStop::Stop {
            arguments.push("--stop-workloads");
        }
        let log = self.data.with_extension("log");
        let started = namespace::inside(&self.namespace, || Ok(Daemon::start(&arguments, &log)));
        self.process = Some(started.map_err(|e| failed("starting a node")(&e))??);
        self.on_stop = on_stop;
        Ok(())
    }

    /// Ends the node runtime by a signal, and waits until it is gone.
    pub fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.end(signal);
        }
    }

    /// What it logged, for messages.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// Ends it together with its workloads.
    fn clear(&mut self) {
        if self.on_stop == OnStop::Keep || self.process.is_none() {
            self.end(Signal::SIGTERM);
            let before = self.log().matches(TAKEN_OVER).count();
            let _ = self.start(OnStop::Stop);
            // Only where a measurement broke off: what isn't known yet wouldn't be stopped.
            let deadline = Instant::now() + LIMIT;
            while self.log().matches(TAKEN_OVER).count() <= before && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.end(Signal::SIGTERM);
    }
}

/// A model of the pair: where it is and what address it has.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: PathBuf,
    pub address: IpAddr,
}

/// Two nodes, an API server and controllers.
#[derive(Debug)]
pub struct Pair {
    pub nodes: [Node; 2],
    controllers: Option<Daemon>,
    server: Option<Pullpiri>,
    connection: Option<Connection>,
    folder: PathBuf,
    is_clear: bool,
}

/// Makes two namespaces in `folder`, joined by `up0`, and runs `work` with the pair from a thread in the first of them.
///
/// # Errors
/// Where network namespaces aren't allowed, or what `work` says.
pub fn run<T, F>(folder: &Path, work: impl FnOnce(Pair) -> F + Send) -> Result<T, E2eError>
where
    T: Send,
    F: Future<Output = Result<T, E2eError>>,
{
    let what = "joining two network namespaces";
    let spaces = [folder.join("ns-a"), folder.join("ns-b")];
    let remove = || {
        for space in &spaces {
            let _ = namespace::remove(space);
        }
    };
    let joined = join(&spaces).map_err(|e| failed(what)(&e));
    if let Err(error) = joined {
        remove();
        return Err(error);
    }
    let outcome = namespace::inside(&spaces[0], || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(runtime.map_err(|e| failed("making a runtime")(&e)).and_then(|runtime| {
            runtime.block_on(async {
                let pair = Pair::start(folder, &spaces).await?;
                work(pair).await
            })
        }))
    });
    remove();
    outcome.map_err(|e| failed("working in a network namespace")(&e))?
}

fn join(spaces: &[PathBuf; 2]) -> Result<(), pullpiri_node_host::SysError> {
    for space in spaces {
        namespace::create(space)?;
    }
    let there = namespace::open(&spaces[1])?;
    namespace::inside(&spaces[0], || {
        let mut net = Netlink::open(Family::Route)?;
        net.create_veth(("up0", [2, 0, 0, 0, 9, 1]), ("up0", [2, 0, 0, 0, 9, 2]), there.as_fd(), 1500)
    })?;
    for (space, last) in spaces.iter().zip(1..) {
        namespace::inside(space, || {
            let mut net = Netlink::open(Family::Route)?;
            let link = net.link("up0")?.map(|link| link.index).unwrap_or_default();
            net.set_link(link, &LinkChange { up: Some(true), ..LinkChange::default() })?;
            net.add_address(&Address { link, address: Ipv4Addr::new(192, 0, 2, last).into(), prefix: 24, global: true })
        })?;
    }
    Ok(())
}

impl Pair {
    async fn start(folder: &Path, spaces: &[PathBuf; 2]) -> Result<Self, E2eError> {
        let tag = std::process::id();
        let node = |name: &str, namespace: &PathBuf| Node {
            name: format!("{name}-{tag}"),
            data: folder.join(name),
            namespace: namespace.clone(),
            kubeconfig: folder.join(format!("{name}.yaml")),
            process: None,
            on_stop: OnStop::Stop,
        };
        let mut pair = Self {
            nodes: [node("zone", &spaces[0]), node("hpc", &spaces[1])],
            controllers: None,
            server: None,
            connection: None,
            folder: folder.to_owned(),
            is_clear: true,
        };
        let archive = workload::archive(folder)?;
        let address = SocketAddr::from(([192, 0, 2, 1], PORT));
        let data = folder.join("server");
        let mut server = Pullpiri::start("apiserver", &data, address, &[])?;
        let endpoint: Endpoint = server.ready().await?;
        pair.connection = Some(endpoint.connect().await?);
        for crd in pullpiri_crds::all() {
            let crd = serde_json::to_value(crd).map_err(|e| failed("writing a definition")(&e))?;
            pair.request(Method::POST, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await?;
        }
        let signals = pullpiri_crds::signal::definition().map_err(|e| failed("writing a definition")(&e))?;
        let signals = serde_json::to_value(signals).map_err(|e| failed("writing a definition")(&e))?;
        // Where it isn't virtual it is stored: the controllers only watch it.
        let _ = pair.request(Method::POST, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &signals).await;
        let admin = server.kubeconfig();
        pair.server = Some(server);
        pair.start_controllers_with(&admin)?;
        let (url, data) = (format!("https://{address}"), data.display().to_string());
        for node in &mut pair.nodes {
            let user = format!("system:node:{}", node.name);
            let arguments = ["kubeconfig", "--data-dir", &data, "--user", &user, "--group", "system:nodes", "--server"];
            let issued = process::run(&[arguments.as_slice(), &[url.as_str()]].concat())?;
            std::fs::write(&node.kubeconfig, issued).map_err(|e| failed("writing a kubeconfig")(&e))?;
            workload::load(&archive, &node.data)?;
        }
        pair.is_clear = false;
        for node in &mut pair.nodes {
            node.start(OnStop::Stop)?;
        }
        Ok(pair)
    }

    fn start_controllers_with(&mut self, kubeconfig: &Path) -> Result<(), E2eError> {
        let log = self.folder.join("controllers.log");
        let arguments = ["controllers", "--kubeconfig", &kubeconfig.display().to_string()];
        self.controllers = Some(Daemon::start(&arguments, &log)?);
        Ok(())
    }

    /// Kills the controllers and starts others.
    ///
    /// # Errors
    /// If they can't be started.
    pub fn restart_controllers(&mut self) -> Result<(), E2eError> {
        if let Some(mut controllers) = self.controllers.take() {
            controllers.end(Signal::SIGKILL);
        }
        let admin = self.server.as_ref().map(Pullpiri::kubeconfig).unwrap_or_default();
        self.start_controllers_with(&admin)
    }

    /// A request to the API server.
    ///
    /// # Errors
    /// If it isn't answered by a success.
    pub async fn request(&mut self, method: Method, path: &str, body: &Value) -> Result<Value, E2eError> {
        let what = format!("{method} {path}");
        let connection = self.connection.as_mut().ok_or_else(|| E2eError::failed(&what, "not connected"))?;
        let kind = match method {
            Method::PATCH if path.contains("fieldManager") => "application/apply-patch+yaml",
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let answer = connection.request(method, path, kind, body.to_string().into()).await?;
        if !answer.status.is_success() {
            return Err(E2eError::failed(what, String::from_utf8_lossy(&answer.body)));
        }
        Ok(answer.json())
    }

    /// Applies a namespaced object of ours.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn apply(&mut self, plural: &str, object: &Value) -> Result<(), E2eError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{NAMESPACED}/{plural}/{name}?fieldManager=pair&force=true");
        self.request(Method::PATCH, &path, object).await.map(drop)
    }

    /// Reads a path until `accept` takes what is there.
    ///
    /// # Errors
    /// If it doesn't within a minute.
    pub async fn until<T>(&mut self, path: &str, accept: impl Fn(&Value) -> Option<T>) -> Result<T, E2eError> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen = self.request(Method::GET, path, &Value::Null).await.unwrap_or_default();
            if let Some(found) = accept(&seen) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let logs: Vec<String> = self.nodes.iter().map(Node::log).collect();
                return Err(E2eError::failed(format!("waiting for {path}"), format!("{seen:#}\n{}", logs.join("\n"))));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until both nodes say what they can do; why they can't attach pods, if so.
    ///
    /// # Errors
    /// If they say nothing.
    pub async fn lacks(&mut self) -> Result<Option<String>, E2eError> {
        for index in 0..self.nodes.len() {
            let path = format!("{API}/noderuntimes/{}", self.nodes[index].name);
            let lacking = self
                .until(&path, |node| {
                    let conditions = node["status"]["conditions"].as_array()?;
                    let network = conditions.iter().find(|c| c["type"] == "Network")?;
                    let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
                    let none = node["status"]["network"]["backend"] == "none";
                    (ready || none).then(|| none.then(|| network["message"].to_string()))
                })
                .await?;
            if lacking.is_some() {
                return Ok(lacking);
            }
        }
        Ok(None)
    }

    /// A Network, and a Package with a model on each node that joins it.
    ///
    /// # Errors
    /// If they don't run, and know of each other, within a minute.
    pub async fn place_two(&mut self) -> Result<[Place; 2], E2eError> {
        self.apply("networks", &network(0)).await?;
        let mut models = Vec::new();
        for (name, node) in [("left", 0), ("right", 1)] {
            let model = json!({
                "apiVersion": "pullpiri.io/v1alpha1", "kind": "Model", "metadata": {"name": name, "labels": {"role": name}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": workload::IMAGE}]},
            });
            self.apply("models", &model).await?;
            models.push(json!({"name": name, "node": self.nodes[node].name, "resources": {"network": "chassis"}}));
        }
        let package = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": "pair"},
            "spec": {"desiredState": "Running", "models": models},
        });
        self.apply("packages", &package).await?;
        let mut places = Vec::new();
        for (name, node) in [("left", 0), ("right", 1)] {
            let netns = self.nodes[node].data.join("netns");
            let place = self
                .until(&format!("{NAMESPACED}/modelinstances"), |list| {
                    let found = list["items"].as_array()?.iter().find(|item| item["spec"]["model"] == name)?;
                    (found["status"]["phase"] == "Running").then_some(())?;
                    let address = found["spec"]["network"]["addresses"][0].as_str()?.parse().ok()?;
                    Some(Place { namespace: netns.join(found["metadata"]["uid"].as_str()?), address })
                })
                .await?;
            places.push(place);
        }
        self.is_current().await?;
        <[Place; 2]>::try_from(places).map_err(|_| E2eError::failed("placing models", "not two"))
    }

    /// Waits until both nodes' kernels hold the newest generation.
    ///
    /// # Errors
    /// If they don't within a minute.
    pub async fn is_current(&mut self) -> Result<(), E2eError> {
        self.until(&format!("{NAMESPACED}/networks/chassis"), |network| {
            let observed = network["status"]["observedGeneration"] == network["metadata"]["generation"];
            let nodes = network["status"]["nodes"].as_array()?;
            (observed && nodes.len() == 2 && nodes.iter().all(|node| node["current"] == true)).then_some(())
        })
        .await
    }

    /// Changes the Network's rules: each revision is another generation for both nodes.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn revise(&mut self, revision: u16) -> Result<(), E2eError> {
        self.apply("networks", &network(revision)).await
    }

    /// When a node's Lease was renewed last.
    ///
    /// # Errors
    /// If there is none.
    pub async fn renewed(&mut self, node: usize) -> Result<String, E2eError> {
        self.renewed_after(node, "").await
    }

    /// Waits until a node's Lease is renewed by another heartbeat than `before`.
    ///
    /// # Errors
    /// If it isn't within a minute.
    pub async fn renewed_after(&mut self, node: usize, before: &str) -> Result<String, E2eError> {
        let name = &self.nodes[node].name;
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/pullpiri-{name}");
        let renewed = |lease: &Value| lease["spec"]["renewTime"].as_str().filter(|t| *t != before).map(str::to_owned);
        self.until(&path, renewed).await
    }

    /// Ends nodes that have no workloads.
    fn give_up(&mut self) {
        self.is_clear = true;
        self.nodes.iter_mut().for_each(|node| node.end(Signal::SIGTERM));
    }

    /// Takes everything away; a pair that is dropped without it does so as well as it can.
    ///
    /// # Errors
    /// If the models don't go.
    pub async fn clear(mut self) -> Result<(), E2eError> {
        self.request(Method::DELETE, &format!("{NAMESPACED}/packages/pair"), &json!({})).await?;
        let none = |list: &Value| list["items"].as_array().filter(|items| items.is_empty()).map(drop);
        self.until(&format!("{NAMESPACED}/modelinstances"), none).await?;
        for node in &mut self.nodes {
            node.end(Signal::SIGTERM);
        }
        self.is_clear = true;
        Ok(())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !self.is_clear {
            self.nodes.iter_mut().for_each(Node::clear);
        }
    }
}

/// What goes between the models is allowed by a rule of its own; another rule comes with each revision, and the one before goes.
fn network(revision: u16) -> Value {
    let port = (8000 + revision).to_string();
    json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": "chassis"},
        "spec": {
            "subnet": {"v4": "10.20.0.0/24"}, "internal": "Deny",
            "allow": [
                {"name": "flow", "from": {}, "protocol": "UDP", "ports": ["7001"]},
                {"name": "revision", "from": {}, "protocol": "TCP", "ports": [port]},
            ],
            "qos": {"classes": [{"name": "control", "priority": 0, "guarantee": "20M", "selectors": [{"protocol": "UDP", "port": 7001}]}]},
        },
    })
}

/// How a process ended before it was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Killed,
    Graceful,
    ControllersKilled,
}

/// Sends between two models while node runtimes and controllers end and are started again, and generations change; what each ending cost.
///
/// # Errors
/// If something else than packets gets lost. A machine that can't have such nodes is `Ok(Err(reason))`.
pub async fn restarts(mut pair: Pair, rounds: u16) -> Result<Result<Vec<(Ending, Traffic)>, String>, E2eError> {
    if let Some(reason) = pair.lacks().await? {
        pair.give_up();
        return Ok(Err(reason));
    }
    let [left, right] = pair.place_two().await?;
    let mut outcomes = Vec::new();
    let mut revision = 0;
    for _ in 0..rounds {
        for ending in [Ending::Killed, Ending::Graceful, Ending::ControllersKilled] {
            let flows = [Flow::start(&left, &right)?, Flow::start(&right, &left)?];
            for node in 0..pair.nodes.len() {
                for flow in &flows {
                    flow.proceeds_by(200).await?;
                }
                revision += 1;
                end_and_start(&mut pair, ending, node, revision, &flows).await?;
                for flow in &flows {
                    flow.proceeds_by(200).await?;
                }
            }
            for flow in flows {
                outcomes.push((ending, flow.finish()?));
            }
        }
    }
    pair.clear().await?;
    Ok(Ok(outcomes))
}

async fn end_and_start(
    pair: &mut Pair,
    ending: Ending,
    node: usize,
    revision: u16,
    flows: &[Flow; 2],
) -> Result<(), E2eError> {
    match ending {
        Ending::ControllersKilled => {
            pair.restart_controllers()?;
            pair.revise(revision).await?;
        }
        Ending::Killed | Ending::Graceful => {
            if ending == Ending::Graceful {
                // The next SIGTERM leaves the workloads where they are.
                pair.nodes[node].end(Signal::SIGKILL);
                pair.nodes[node].start(OnStop::Keep)?;
                pair.is_current().await?;
            }
            let before = pair.renewed(node).await?;
            pair.nodes[node].end(if ending == Ending::Killed { Signal::SIGKILL } else { Signal::SIGTERM });
            for flow in flows {
                flow.proceeds_by(200).await?;
            }
            pair.nodes[node].start(OnStop::Stop)?;
            // While it takes over: rules change, and the controllers compile anew.
            pair.revise(revision).await?;
            pair.renewed_after(node, &before).await?;
        }
    }
    pair.is_current().await
}
