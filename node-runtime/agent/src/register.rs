//! The NodeRuntime of this node: what it is and can. Written at the start, when a runtime comes or goes, and when somebody deleted it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::model::Adapter;
use pullpiri_crds::names::PUBLISHED_NODE;
use pullpiri_crds::node::RuntimeStatus;
use pullpiri_crds::quantity::Quantity;
use pullpiri_crds::{NodeRuntime, NodeRuntimeStatus};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::FIELD_MANAGER;
use crate::network::{Network, NetworkFacts};
use crate::realtime::Capability;
use crate::retry::{Refusals, Retry, Verdict, judge, sentence};

/// A controller that took the node for lost has just heard its heartbeat again.
const DISAGREE: Duration = Duration::from_secs(1);

/// What of a node changes while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub runtimes: Vec<RuntimeStatus>,
    pub default_runtime: Option<Adapter>,
    /// Those that worked since this process started.
    pub worked: BTreeSet<Adapter>,
    /// Why the ledger can't be written.
    pub ledger_failure: Option<String>,
    /// Where this node's metrics are.
    pub metrics_address: Option<String>,
    /// `None` until it was probed.
    pub realtime: Option<Capability>,
    pub network: Option<NetworkFacts>,
}

#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub name: String,
    /// In the operator's spelling.
    pub published: String,
    pub labels: BTreeMap<String, String>,
}

pub(crate) async fn keep(
    client: Client,
    identity: Identity,
    facts: watch::Receiver<Facts>,
    network: Network,
    owner: watch::Sender<Option<OwnerReference>>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_registered(client, identity, facts, network, owner) => {}
    }
}

async fn keep_registered(
    client: Client,
    identity: Identity,
    mut facts: watch::Receiver<Facts>,
    network: Network,
    owner: watch::Sender<Option<OwnerReference>>,
) {
    let api: Api<NodeRuntime> = Api::all(client);
    let mut retry = Retry::default();
    let mut complained = false;
    let mut refusals = Refusals::default();
    let config = watcher::Config::default().fields(&format!("metadata.name={}", identity.name));
    let mut events = std::pin::pin!(watcher(api.clone(), config).backoff(Retry::default()));
    loop {
        let current = facts.borrow_and_update().clone();
        match register(&api, &identity, &current).await {
            Ok(known) => {
                retry.succeeded();
                refusals.passed();
                owner.send_replace(known.owner_ref(&()));
                network.declare(known.spec.uplink).await;
            }
            Err(error) => {
                if let Some(refusal) = refusals.news(&error) {
                    warn!(node = identity.name, "this node may not register, and is tried again: {refusal}");
                } else if judge(&error) == Verdict::Refused && !complained {
                    complained = true;
                    warn!(error = sentence(&error), node = identity.name, "the API server refuses the NodeRuntime");
                } else {
                    debug!(%error, node = identity.name, "registering failed; tried again");
                }
                tokio::time::sleep(retry.delay()).await;
                continue;
            }
        }
        // Until something changes here, or somebody deletes it or says otherwise there.
        loop {
            tokio::select! {
                changed = facts.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Delete(_))) => break,
                    Some(Ok(watcher::Event::Apply(known))) => {
                        network.declare(known.spec.uplink.clone()).await;
                        if known.status.as_ref() != Some(&status(&current, known.status.as_ref())) {
                            // Whoever disagrees is answered no more than once in a while.
                            tokio::time::sleep(DISAGREE).await;
                            break;
                        }
                    }
                    Some(_) => {}
                    None => return,
                },
            }
        }
    }
}

async fn register(api: &Api<NodeRuntime>, identity: &Identity, facts: &Facts) -> Result<NodeRuntime, kube::Error> {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let object = json!({
        "apiVersion": "pullpiri.io/v1alpha1",
        "kind": "NodeRuntime",
        "metadata": {
            "name": identity.name,
            "annotations": { PUBLISHED_NODE: identity.published },
            "labels": labels(identity),
        },
        "spec": {},
    });
    let known = api.patch(&identity.name, &params, &Patch::Apply(object)).await?;
    let status = status(facts, known.status.as_ref());
    if known.status.as_ref() == Some(&status) {
        return Ok(known);
    }
    let object = json!({
        "apiVersion": "pullpiri.io/v1alpha1",
        "kind": "NodeRuntime",
        "metadata": { "name": identity.name },
        "status": status,
    });
    api.patch_status(&identity.name, &params, &Patch::Apply(object)).await
}

fn labels(identity: &Identity) -> BTreeMap<String, String> {
    let mut labels = identity.labels.clone();
    // A label's value has at most 63 characters.
    let hostname: String = identity.name.chars().take(63).collect();
    labels.insert("kubernetes.io/hostname".to_owned(), hostname.trim_end_matches(['.', '-']).to_owned());
    labels.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    labels.insert("kubernetes.io/arch".to_owned(), arch_label().to_owned());
    labels
}

/// As Go names architectures, which is what this label holds everywhere.
fn arch_label() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn status(facts: &Facts, known: Option<&NodeRuntimeStatus>) -> NodeRuntimeStatus {
    let mut capacity = BTreeMap::new();
    if let Ok(cpus) = std::thread::available_parallelism() {
        capacity.insert("cpu".to_owned(), Quantity(cpus.to_string()));
    }
    if let Some(bytes) = memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default()) {
        capacity.insert("memory".to_owned(), Quantity(bytes.to_string()));
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned());
    let runtimes: Vec<String> =
        facts.runtimes.iter().filter(|runtime| runtime.available).map(|r| r.name.as_str().to_owned()).collect();
    let ready = if runtimes.is_empty() {
        let reasons: Vec<&str> = facts.runtimes.iter().filter_map(|runtime| runtime.message.as_deref()).collect();
        (false, reason::RUNTIME_MISSING, format!("no runtime works: {}", reasons.join("; ")))
    } else {
        (true, reason::HEARTBEAT, format!("the node runtime is up, with {}{}", runtimes.join(" and "), without(facts)))
    };
    let degraded = match (&facts.ledger_failure, lost_runtime(facts)) {
        (Some(failure), _) => (true, reason::RUNTIME_ERROR, failure.clone()),
        (None, Some(lost)) => (true, reason::RUNTIME_MISSING, lost),
        (None, None) if !ready.0 => (true, ready.1, ready.2.clone()),
        (None, None) => (false, reason::AS_DECLARED, "its runtimes answer and the ledger is written".to_owned()),
    };
    let mut conditions = vec![condition(kind::READY, ready, known), condition(kind::DEGRADED, degraded, known)];
    // What isn't found out yet is as it was before this process: others' routes and proofs lean on it.
    let before = |type_: &str| known.and_then(|known| known.conditions.iter().find(|c| c.type_ == type_)).cloned();
    match &facts.realtime {
        Some(Capability { condition: fact, .. }) => {
            let holds = fact.status == pullpiri_node_core::realtime::Status::True;
            conditions.push(condition(kind::REALTIME, (holds, fact.reason, fact.message.clone()), known));
        }
        None => conditions.extend(before(kind::REALTIME)),
    }
    match &facts.network {
        Some(NetworkFacts { condition: (holds, reason, message), .. }) => {
            let message = message.chars().take(1024).collect();
            conditions.push(condition(kind::NETWORK, (*holds, reason, message), known));
        }
        None => conditions.extend(before(kind::NETWORK)),
    }
    NodeRuntimeStatus {
        capacity,
        metrics_address: facts.metrics_address.clone(),
        realtime: match &facts.realtime {
            Some(realtime) => realtime.status.clone(),
            None => known.and_then(|known| known.realtime.clone()),
        },
        network: match &facts.network {
            Some(network) => Some(network.status.clone()),
            None => known.and_then(|known| known.network.clone()),
        },
        runtimes: facts.runtimes.clone(),
        default_runtime: facts.default_runtime,
        kernel,
        architecture: Some(std::env::consts::ARCH.to_owned()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        cgroups: Some(cgroups(Path::new("/sys/fs/cgroup")).to_owned()),
        conditions,
    }
}

/// Runtimes that are needed and don't answer: the default one, and those that did before and may have pods. That a machine has no podman
/// at all is nothing to be told.
fn lost(facts: &Facts) -> impl Iterator<Item = &RuntimeStatus> {
    let is_needed = |name: Adapter| facts.default_runtime == Some(name) || facts.worked.contains(&name);
    facts.runtimes.iter().filter(move |runtime| !runtime.available && is_needed(runtime.name))
}

/// Which are lost, and why.
fn lost_runtime(facts: &Facts) -> Option<String> {
    let said: Vec<String> = lost(facts)
        .map(|runtime| {
            let why = runtime.message.as_deref().unwrap_or("it doesn't answer");
            format!("runtime {} is not available: {why}", runtime.name.as_str())
        })
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Which are lost, behind those that work.
fn without(facts: &Facts) -> String {
    let named = lost(facts).map(|runtime| match facts.default_runtime {
        Some(default) if default == runtime.name => format!("{}, its default", runtime.name.as_str()),
        _ => runtime.name.as_str().to_owned(),
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() { String::new() } else { format!("; without {}", named.join(" and ")) }
}

fn condition(
    type_: &str,
    (holds, reason, message): (bool, &str, String),
    known: Option<&NodeRuntimeStatus>,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let previous = known.and_then(|known| known.conditions.iter().find(|condition| condition.type_ == type_));
    let since = previous.filter(|previous| previous.status == status).map(|p| p.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: None,
        last_transition_time: since
            .unwrap_or_else(|| Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())),
    }
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn cgroups(root: &Path) -> &'static str {
    if root.join("cgroup.controllers").exists() {
        "v2"
    } else if root.join("unified").exists() {
        "hybrid"
    } else {
        "v1"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(memory_bytes("MemTotal:       24567 kB\nMemFree: 1 kB\n"), Some(24567 * 1024));
        assert_eq!(memory_bytes(""), None);
    }

    #[test]
    fn a_node_without_a_runtime_is_not_ready() {
        let runtime = |available| RuntimeStatus {
            name: Adapter::Podman,
            available,
            version: None,
            message: Some("no socket".to_owned()),
        };
        let up = status(&Facts { runtimes: vec![runtime(true)], ..Facts::default() }, None);
        assert_eq!(up.conditions[0].status, "True");
        let down = status(&Facts { runtimes: vec![runtime(false)], ..Facts::default() }, Some(&up));
        assert_eq!(down.conditions[0].status, "False");
        assert!(down.conditions[0].message.contains("no socket"));
        assert_eq!((&*down.conditions[1].status, &down.conditions[1].message), ("True", &down.conditions[0].message));
        let still = status(&Facts { runtimes: vec![runtime(false)], ..Facts::default() }, Some(&down));
        assert_eq!(still.conditions[1].last_transition_time, down.conditions[1].last_transition_time);
    }

    #[test]
    fn a_runtime_that_went_away_degrades_the_node() {
        let runtime = |name, available| RuntimeStatus {
            name,
            available,
            version: None,
            message: (!available).then(|| "no socket".to_owned()),
        };
        let mut facts = Facts {
            runtimes: vec![runtime(Adapter::Oci, true), runtime(Adapter::Podman, false)],
            default_runtime: Some(Adapter::Oci),
            ..Facts::default()
        };
        assert_eq!(status(&facts, None).conditions[1].status, "False", "it was never there");
        facts.worked.insert(Adapter::Podman);
        let lost = status(&facts, None);
        assert_eq!((lost.conditions[0].status.as_str(), lost.conditions[1].status.as_str()), ("True", "True"));
        assert_eq!(lost.conditions[0].message, "the node runtime is up, with oci; without podman");
        assert_eq!(lost.conditions[1].reason, reason::RUNTIME_MISSING);
        assert!(lost.conditions[1].message.contains("podman is not available: no socket"), "{lost:?}");
        assert!(!lost.runtimes[1].available);
        facts.worked.clear();
        facts.default_runtime = Some(Adapter::Podman);
        let lost = status(&facts, None);
        assert_eq!(lost.conditions[0].message, "the node runtime is up, with oci; without podman, its default");
        assert_eq!(lost.conditions[1].status, "True", "it was asked for");
    }

    #[test]
    fn what_is_not_found_out_yet_stays_as_it_was() {
        let network = NetworkFacts {
            status: pullpiri_crds::node::NodeNetwork { backend: "tcx".to_owned(), ..Default::default() },
            condition: (true, reason::AS_DECLARED, "pods can join Networks".to_owned()),
        };
        let before = status(&Facts { network: Some(network), ..Facts::default() }, None);
        let restarted = status(&Facts::default(), Some(&before));
        assert_eq!(restarted.network, before.network);
        let of = |status: &NodeRuntimeStatus| status.conditions.iter().find(|c| c.type_ == kind::NETWORK).cloned();
        assert!(of(&restarted).is_some() && of(&restarted) == of(&before));
    }
}
