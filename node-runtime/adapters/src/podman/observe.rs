//! What podman says of containers, as pods.

use std::collections::BTreeMap;

use pullpiri_crds::model::Adapter;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, Exit, PodId, PodObserved, Timestamp};
use serde::Deserialize;

use super::spec::label;

/// An entry of `containers/json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub id: String,
    #[serde(default)]
    pub is_infra: bool,
    pub state: String,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

impl Listed {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }

    pub fn attempt(&self) -> u32 {
        self.label(label::ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0)
    }

    pub fn runs(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "stopping")
    }
}

/// `containers/{id}/json`, as far as it is needed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub id: String,
    /// The configuration's digest, without `sha256:`.
    pub image: String,
    pub state: State,
    pub config: Config,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub status: String,
    #[serde(default, rename = "OOMKilled")]
    pub oom_killed: bool,
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub exit_code: i32,
    pub started_at: String,
    pub finished_at: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

/// podman prints local times with their offset, and the year 1 for never.
fn timestamp(text: &str) -> Timestamp {
    text.parse::<jiff::Timestamp>().map_or(Timestamp::default(), Timestamp::from)
}

pub(super) fn container(inspected: &Inspected) -> Option<(PodId, ContainerObserved)> {
    let labels = inspected.config.labels.as_ref()?;
    let pod = PodId(labels.get(label::POD)?.clone());
    let name = labels.get(label::CONTAINER)?.clone();
    let attempt = labels.get(label::ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0);
    let state = &inspected.state;
    let (started_at, finished_at) = (timestamp(&state.started_at), timestamp(&state.finished_at));
    let observed = match state.status.as_str() {
        "running" | "paused" | "stopping" => ContainerStateObserved::Running { pid: state.pid, started_at },
        "stopped" | "exited" | "dead" | "removing" => ContainerStateObserved::Exited(Exit {
            code: state.exit_code,
            oom_killed: state.oom_killed,
            // podman notes the start once it has heard of it, and a short process has ended by then.
            started_at: started_at.min(finished_at),
            finished_at,
        }),
        _ => ContainerStateObserved::Created,
    };
    let image_id = match inspected.image.strip_prefix("sha256:") {
        Some(_) => inspected.image.clone(),
        None => format!("sha256:{}", inspected.image),
    };
    let container_id = inspected.id.clone();
    Some((pod, ContainerObserved { name, attempt, state: observed, container_id, image_id, before: None }))
}

/// Pods from a list and from what `inspect` said of each container in it that isn't infra.
pub(super) fn pods(listed: &[Listed], inspected: &BTreeMap<String, Inspected>) -> Vec<PodObserved> {
    let mut pods: BTreeMap<PodId, PodObserved> = BTreeMap::new();
    for entry in listed {
        let Some(id) = entry.label(label::POD) else { continue };
        let text = |name: &str| entry.label(name).unwrap_or_default().to_owned();
        let pod = pods.entry(PodId(id.to_owned())).or_insert_with(|| PodObserved {
            id: PodId(id.to_owned()),
            namespace: text(label::NAMESPACE),
            name: text(label::NAME),
            hash: text(label::HASH),
            adapter: Adapter::Podman,
            // With a network that isn't the pod's there is nothing that could die.
            sandbox_alive: entry.label(label::NETWORK) != Some("own"),
            containers: Vec::new(),
        });
        if entry.is_infra {
            pod.sandbox_alive = entry.runs();
        }
        if let Some((_, container)) = inspected.get(&entry.id).and_then(container) {
            // Of several attempts, left behind by an agent that died between making one and removing the other, the newest counts.
            match pod.containers.iter_mut().find(|other| other.name == container.name) {
                Some(other) if other.attempt < container.attempt => *other = container,
                Some(_) => {}
                None => pod.containers.push(container),
            }
        }
    }
    let mut pods: Vec<PodObserved> = pods.into_values().collect();
    for pod in &mut pods {
        pod.containers.sort_by(|a, b| a.name.cmp(&b.name));
    }
    pods
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inspected(id: &str, attempt: u32, status: &str) -> (String, Inspected) {
        let value = json!({
            "Id": id,
            "Image": "00ff",
            "State": {
                "Status": status, "Pid": 42, "ExitCode": 3, "OOMKilled": false,
                "StartedAt": "2026-11-24T03:03:41.5+01:00", "FinishedAt": "2026-11-24T03:03:42.000000001Z",
            },
            "Config": { "Labels": { "io.pullpiri.pod": "uid", "io.pullpiri.container": "x", "io.pullpiri.attempt": attempt.to_string() } },
        });
        (id.to_owned(), serde_json::from_value(value).unwrap())
    }

    fn listed(id: &str, infra: bool, state: &str, attempt: u32) -> Listed {
        let labels = json!({ "io.pullpiri.pod": "uid", "io.pullpiri.network": "own", "io.pullpiri.attempt": attempt.to_string() });
        serde_json::from_value(json!({ "Id": id, "IsInfra": infra, "State": state, "Labels": labels })).unwrap()
    }

    #[test]
    fn pods_are_put_together_from_labels() {
        let list = [listed("i", true, "running", 0), listed("a", false, "exited", 1), listed("b", false, "running", 2)];
        let details = BTreeMap::from([inspected("a", 1, "exited"), inspected("b", 2, "running")]);
        let pods = pods(&list, &details);
        assert_eq!(pods.len(), 1);
        assert!(pods[0].sandbox_alive);
        assert_eq!(pods[0].containers.len(), 1, "the newest attempt counts");
        let container = &pods[0].containers[0];
        assert_eq!((container.attempt, container.image_id.as_str()), (2, "sha256:00ff"));
        let started: jiff::Timestamp = "2026-11-24T02:03:41.5Z".parse().unwrap();
        assert_eq!(container.state, ContainerStateObserved::Running { pid: 42, started_at: started.into() });
    }

    #[test]
    fn a_pod_whose_infra_ended_has_no_sandbox() {
        let pods = pods(&[listed("i", true, "exited", 0)], &BTreeMap::new());
        assert!(!pods[0].sandbox_alive && pods[0].containers.is_empty());
    }
}
