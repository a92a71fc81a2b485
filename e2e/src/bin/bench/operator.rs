//! The controllers as an operator: 10,000 instances on 500 simulated nodes. Memory, what one change takes, what is written when nothing changes, and how long
//! a change of hands takes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pullpiri_crds::{Model, ModelInstance, NodeRuntime, Package};
use pullpiri_e2e::process::{Pullpiri, binary, free_address};
use pullpiri_e2e::{E2eError, wait_for};
use serde_json::{Value, json};

use crate::Bench;
use crate::idle::pss_kib;
use crate::table::{median, percentile, to_f64};

const NODES: usize = 500;
const PACKAGES: usize = 1_000;
/// Each package has as many instances, on nodes that follow each other.
const MODELS: usize = 10;
const NAMESPACE: &str = "default";
const LEASE: &str = "pullpiri-controllers";
const WRITERS: usize = 32;
const CHANGES: usize = 300;
const QUIET: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(180);

/// `pullpiri controllers`, killed when dropped.
struct Replica(Child);

impl Replica {
    fn start(kubeconfig: &Path, folder: &Path, name: &str) -> Result<Self, E2eError> {
        let failed = |error: std::io::Error| E2eError::failed(format!("starting controllers {name}"), error);
        let log = std::fs::File::create(folder.join(format!("controllers-{name}.log"))).map_err(failed)?;
        let mut command = Command::new(binary()?);
        command
            .arg("controllers")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--leader-elect-namespace", "kube-system"]);
        command.env("POD_NAME", name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map(Self).map_err(failed)
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // It may have ended.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let data_dir = bench.path("operator");
    let mut server = Pullpiri::start("apiserver", &data_dir, free_address()?, &[])?;
    server.ready().await?;
    let kubeconfig = server.kubeconfig();
    let client = client(&kubeconfig).await?;
    install(&client).await?;
    declare(&client).await?;
    let leader = Replica::start(&kubeconfig, bench.folder.path(), "a")?;
    until_instances(&client, PACKAGES * MODELS).await?;
    report(&client).await?;
    let settled = until_quiet(&client).await?;
    bench.table.report(
        "operator: store revisions until 10,000 instances were placed and reported",
        to_f64(settled),
        "",
    );
    let mut samples = Vec::new();
    for _ in 0..5 {
        samples.push(to_f64(pss_kib(leader.0.id())) * 1024.0 / 1e6);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bench.table.at_most(
        "operator: PSS of the controllers, 10,000 instances on 500 nodes",
        median(&samples),
        "MB",
        120.0,
    );
    bench.table.at_most(
        "operator: writes in a minute when nothing changes",
        to_f64(idle_writes(&client).await?),
        "",
        0.0,
    );
    let times = changes(&client).await?;
    bench.table.report("operator: a Package's change → its instance's, median", median(&times), "ms");
    bench.table.at_most("operator: a Package's change → its instance's, p99", percentile(&times, 99), "ms", 20.0);
    hand_over(bench, &client, &kubeconfig, leader).await?;
    server.stop();
    Ok(())
}

async fn client(kubeconfig: &Path) -> Result<Client, E2eError> {
    let failed = |error: String| E2eError::failed("making a client", error);
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.to_string()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.map_err(|error| failed(error.to_string()))?).map_err(|error| failed(error.to_string()))
}

fn failed(what: &str) -> impl Fn(kube::Error) -> E2eError {
    let what = what.to_owned();
    move |error| E2eError::failed(what.clone(), error)
}

/// Applies objects side by side.
async fn apply<K>(api: &Api<K>, objects: Vec<Value>, status: bool) -> Result<(), E2eError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let params = PatchParams::apply("bench").force();
    let results: Vec<Result<K, kube::Error>> = stream::iter(objects)
        .map(|object| {
            let params = &params;
            async move {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let patch = Patch::Apply(object);
                if status {
                    api.patch_status(&name, params, &patch).await
                } else {
                    api.patch(&name, params, &patch).await
                }
            }
        })
        .buffer_unordered(WRITERS)
        .collect()
        .await;
    results.into_iter().collect::<Result<Vec<_>, _>>().map(drop).map_err(failed("applying objects"))
}

async fn install(client: &Client) -> Result<(), E2eError> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as Crd;
    let definitions = pullpiri_crds::all();
    let served = definitions.iter().map(|crd| format!("/apis/{}/v1alpha1/{}", crd.spec.group, crd.spec.names.plural));
    let served: Vec<String> = served.collect();
    let crds: Result<Vec<Value>, _> = definitions.into_iter().map(serde_json::to_value).collect();
    let crds = crds.map_err(|error| E2eError::failed("printing the CRDs", error))?;
    apply::<Crd>(&Api::all(client.clone()), crds, false).await?;
    for path in &served {
        wait_for("the CRDs are served", LIMIT, || async {
            let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
            client.request::<Value>(request).await.map(drop).map_err(|error| error.to_string())
        })
        .await?;
    }
    Ok(())
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn node(number: usize) -> String {
    format!("ecu-{:03}", number % NODES)
}

/// Nodes that are heard of for an hour, models, and packages that run.
async fn declare(client: &Client) -> Result<(), E2eError> {
    let nodes = (0..NODES).map(|number| object("NodeRuntime", &node(number), &json!({}))).collect();
    apply::<NodeRuntime>(&Api::all(client.clone()), nodes, false).await?;
    let now = MicroTime(Timestamp::now());
    let leases = (0..NODES).map(|number| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": format!("pullpiri-{}", node(number))},
            "spec": {"holderIdentity": node(number), "leaseDurationSeconds": 7200, "renewTime": now},
        })
    });
    apply::<Lease>(&Api::namespaced(client.clone(), "kube-node-lease"), leases.collect(), false).await?;
    let models = (0..MODELS).map(|number| {
        let container = json!({
            "name": "service", "image": format!("localhost/service-{number}:1.0"), "args": ["--port", "8080", "--log", "info"],
            "env": [{"name": "SERVICE", "value": format!("service-{number}")}],
            "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
        });
        object("Model", &format!("service-{number}"), &json!({"hostNetwork": true, "containers": [container]}))
    });
    apply::<Model>(&Api::namespaced(client.clone(), NAMESPACE), models.collect(), false).await?;
    let packages =
        (0..PACKAGES).map(|number| package(&format!("package-{number:04}"), number * MODELS, MODELS, "Running"));
    apply::<Package>(&Api::namespaced(client.clone(), NAMESPACE), packages.collect(), false).await
}

fn package(name: &str, first_node: usize, models: usize, desired: &str) -> Value {
    let entries: Vec<Value> = (0..models)
        .map(|number| json!({"name": format!("service-{number}"), "node": node(first_node + number)}))
        .collect();
    object("Package", name, &json!({"pattern": [{"type": "plain"}], "models": entries, "desiredState": desired}))
}

async fn until_instances(client: &Client, count: usize) -> Result<(), E2eError> {
    let api: Api<ModelInstance> = Api::all(client.clone());
    wait_for(&format!("{count} instances"), LIMIT, || async {
        let page = api.list_metadata(&ListParams::default().limit(1)).await.map_err(|error| error.to_string())?;
        let all = page.metadata.remaining_item_count.unwrap_or(0) + i64::try_from(page.items.len()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(200)).await;
        if all == i64::try_from(count).unwrap_or(0) { Ok(()) } else { Err(format!("{all}")) }
    })
    .await
}

/// What the nodes would report: everything runs.
async fn report(client: &Client) -> Result<(), E2eError> {
    let api: Api<ModelInstance> = Api::namespaced(client.clone(), NAMESPACE);
    let all = api.list_metadata(&ListParams::default()).await.map_err(failed("listing instances"))?;
    let now = MicroTime(Timestamp::now());
    let statuses = all.items.into_iter().enumerate().map(|(pid, instance)| {
        let conditions = json!([{
            "type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": Timestamp::now().to_string(),
            "observedGeneration": 1,
        }]);
        json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance",
            "metadata": {"name": instance.metadata.name},
            "status": {
                "phase": "Running", "observedGeneration": 1, "runtime": "oci", "restarts": 0, "startedAt": now, "conditions": conditions,
                "containers": [{"name": "service", "state": "Running", "startedAt": now, "pid": pid + 1000, "restarts": 0}],
            },
        })
    });
    apply(&api, statuses.collect(), true).await
}

async fn revision(client: &Client) -> Result<u64, E2eError> {
    let api: Api<NodeRuntime> = Api::all(client.clone());
    let page = api.list(&ListParams::default().limit(1)).await.map_err(failed("asking for the revision"))?;
    let text = page.metadata.resource_version.unwrap_or_default();
    text.parse().map_err(|error| E2eError::failed(format!("reading the revision {text:?}"), error))
}

/// Waits until hardly anything but the lease is written for some seconds; the revision then.
async fn until_quiet(client: &Client) -> Result<u64, E2eError> {
    let deadline = Instant::now() + LIMIT;
    let mut before = revision(client).await?;
    loop {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let now = revision(client).await?;
        if now - before <= 3 {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(E2eError::failed("waiting for quiet", format!("{} writes in 4 s", now - before)));
        }
        before = now;
    }
}

/// Writes in a minute, those of the lease excepted.
async fn idle_writes(client: &Client) -> Result<u64, E2eError> {
    let from = revision(client).await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let params = WatchParams::default().fields(&format!("metadata.name={LEASE}")).timeout(290);
    let renewals = leases.watch(&params, &from.to_string()).await.map_err(failed("watching the lease"))?;
    let mut renewals = std::pin::pin!(renewals);
    let end = tokio::time::Instant::now() + QUIET;
    let mut versions = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout_at(end, renewals.next()).await {
        if let WatchEvent::Modified(lease) = event.map_err(failed("watching the lease"))? {
            versions.extend(lease.metadata.resource_version.and_then(|text| text.parse::<u64>().ok()));
        }
    }
    let until = revision(client).await?;
    // The last one may have been written and not seen yet; it is no write of anything else.
    tokio::time::sleep(Duration::from_millis(200)).await;
    while let Ok(Some(Ok(WatchEvent::Modified(lease)))) =
        tokio::time::timeout(Duration::from_millis(50), renewals.next()).await
    {
        versions.extend(lease.metadata.resource_version.and_then(|text| text.parse::<u64>().ok()));
    }
    let renewed = versions.iter().filter(|version| **version > from && **version <= until).count();
    Ok((until - from).saturating_sub(u64::try_from(renewed).unwrap_or(u64::MAX)))
}

/// How long after a Package's change was acknowledged its instance's is seen, in milliseconds. One package with one instance among the thousand others.
async fn changes(client: &Client) -> Result<Vec<f64>, E2eError> {
    let packages: Api<Package> = Api::namespaced(client.clone(), NAMESPACE);
    let instances: Api<ModelInstance> = Api::namespaced(client.clone(), NAMESPACE);
    let apply = PatchParams::apply("bench").force();
    let from = revision(client).await?;
    let params = WatchParams::default().labels("pullpiri.io/package=changing").timeout(290);
    let events = instances.watch(&params, &from.to_string()).await.map_err(failed("watching instances"))?;
    let mut events = std::pin::pin!(events);
    let mut times = Vec::new();
    for round in 0..=CHANGES {
        let run = round % 2 == 0;
        let object = package("changing", 7, 1, if run { "Running" } else { "Stopped" });
        packages.patch("changing", &apply, &Patch::Apply(object)).await.map_err(failed("changing a package"))?;
        let changed = Instant::now();
        loop {
            let event = tokio::time::timeout(LIMIT, events.next()).await.ok().flatten();
            match event {
                Some(Ok(WatchEvent::Added(instance) | WatchEvent::Modified(instance))) if instance.spec.run == run => {
                    break;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(failed("watching instances")(error)),
                None => return Err(E2eError::failed("watching instances", "the watch ended")),
            }
        }
        // The first one is made, not changed.
        if round > 0 {
            times.push(changed.elapsed().as_secs_f64() * 1000.0);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(times)
}

/// Who holds the lease, under which number.
async fn holder(client: &Client) -> Result<(String, i32), String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let lease = leases.get(LEASE).await.map_err(|error| error.to_string())?;
    let spec = lease.spec.unwrap_or_default();
    Ok((spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or(0)))
}

/// Until the instance of package `changing` carries this epoch: the new leader has listed everything, and acts.
async fn until_acts(client: &Client, desired: &str, epoch: i64) -> Result<(), E2eError> {
    let packages: Api<Package> = Api::namespaced(client.clone(), NAMESPACE);
    let instances: Api<ModelInstance> = Api::namespaced(client.clone(), NAMESPACE);
    let labelled = ListParams::default().labels("pullpiri.io/package=changing");
    let known = instances.list_metadata(&labelled).await.map_err(failed("listing instances"))?;
    let name = known.items.into_iter().find_map(|instance| instance.metadata.name).unwrap_or_default();
    let apply = PatchParams::apply("bench").force();
    let object = package("changing", 7, 1, desired);
    packages.patch("changing", &apply, &Patch::Apply(object)).await.map_err(failed("changing a package"))?;
    wait_for("the new leader acts", LIMIT, || async {
        let instance = instances.get(&name).await.map_err(|error| error.to_string())?;
        let done = instance.spec.run == (desired == "Running") && instance.spec.epoch >= epoch;
        if done { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
}

async fn hand_over(bench: &mut Bench, client: &Client, kubeconfig: &Path, leader: Replica) -> Result<(), E2eError> {
    let next = Replica::start(kubeconfig, bench.folder.path(), "b")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (_, transitions) = holder(client).await.map_err(|error| E2eError::failed("reading the lease", error))?;
    let began = Instant::now();
    leader.signal(Signal::SIGTERM);
    until_acts(client, "Stopped", i64::from(transitions) + 1).await?;
    bench.table.at_most(
        "operator: SIGTERM of the leader → the next one acts, 10,000 instances listed",
        began.elapsed().as_secs_f64(),
        "s",
        3.0,
    );
    drop(leader);
    let last = Replica::start(kubeconfig, bench.folder.path(), "c")?;
    until_quiet(client).await?;
    let began = Instant::now();
    next.signal(Signal::SIGKILL);
    wait_for("the lease is taken", LIMIT, || async {
        let (holder, _) = holder(client).await?;
        if holder.starts_with("c_") { Ok(()) } else { Err(holder) }
    })
    .await?;
    let took = began.elapsed().as_secs_f64();
    bench.table.at_most("operator: SIGKILL of the leader → the lease is the next one's", took, "s", 16.0);
    drop(last);
    Ok(())
}
