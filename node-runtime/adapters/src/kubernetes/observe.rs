//! What the API server says of a Pod, as a pod. Times in it are whole seconds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pullpiri_crds::model::Adapter;
use pullpiri_crds::names::{ANNOTATION_TEMPLATE_HASH, LABEL_INSTANCE_UID};
use pullpiri_node_core::memory::UNSEEN;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, Exit, PodId, PodObserved, Timestamp};

use super::read::Pod;

/// The instance that a Pod runs; `None` if it isn't ours: the label says which, and the owner that it isn't somebody's who copied labels.
pub(super) fn instance(pod: &Pod) -> Option<PodId> {
    let uid = pod.metadata.labels.as_ref()?.get(LABEL_INSTANCE_UID)?;
    let owners = pod.metadata.owner_references.iter().flatten();
    let is_owned = owners.into_iter().any(|owner| {
        owner.api_version == super::OWNER_API
            && owner.kind == super::OWNER_KIND
            && owner.controller == Some(true)
            && owner.uid == *uid
    });
    is_owned.then(|| PodId(uid.clone()))
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(super) fn hash(pod: &Pod) -> &str {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(ANNOTATION_TEMPLATE_HASH)).map(String::as_str).unwrap_or_default()
}

pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the kubelet has taken it up.
pub(super) fn is_acknowledged(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some() || status.container_statuses.is_some())
}

/// Why the kubelet won't run it (any more): it was rejected or evicted, or its deadline passed. A Pod whose containers ended has no reason of its own.
pub(super) fn rejection(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    let reason = status.reason.as_deref()?;
    Some(format!("{reason}: {}", status.message.as_deref().unwrap_or_default()))
}

/// A container's id without its scheme.
pub(super) fn bare_id(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, bare)| bare)
}

/// `pids`: the first processes of containers, by their id.
pub(super) fn pod(pod: &Pod, pids: &BTreeMap<String, u32>) -> Option<PodObserved> {
    Some(PodObserved {
        id: instance(pod)?,
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        hash: hash(pod).to_owned(),
        adapter: Adapter::Kubernetes,
        sandbox_alive: !is_terminating(pod) && rejection(pod).is_none(),
        containers: containers(pod, pids),
    })
}

pub(super) fn statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

pub(super) fn containers(pod: &Pod, pids: &BTreeMap<String, u32>) -> Vec<ContainerObserved> {
    let declared = pod.spec.iter().flat_map(|spec| &spec.containers);
    declared
        .map(|container| match statuses(pod).iter().find(|status| status.name == container.name) {
            Some(status) => observed(status, pids),
            None => ContainerObserved {
                name: container.name.clone(),
                attempt: 0,
                state: ContainerStateObserved::Waiting { reason: String::new(), message: String::new() },
                container_id: String::new(),
                image_id: String::new(),
                before: None,
            },
        })
        .collect()
}

fn observed(status: &ContainerStatus, pids: &BTreeMap<String, u32>) -> ContainerObserved {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let attempt = u32::try_from(status.restart_count).unwrap_or(0);
    let (id, state) = if let Some(running) = state.running {
        let id = status.container_id.clone().unwrap_or_default();
        let pid = pids.get(bare_id(&id)).copied().unwrap_or(0);
        (id, ContainerStateObserved::Running { pid, started_at: timestamp(running.started_at.as_ref()) })
    } else if let Some(ended) = state.terminated.as_ref().or(last) {
        // One that waits for its next start is what it was before: ended.
        (ended.container_id.clone().unwrap_or_default(), ContainerStateObserved::Exited(exit(ended)))
    } else {
        let waiting = state.waiting.unwrap_or_default();
        let (reason, message) = (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default());
        (String::new(), ContainerStateObserved::Waiting { reason, message })
    };
    // Of one that waits for its next start, the last end is its own.
    let before = last.filter(|last| last.container_id.as_deref() != Some(&id)).map(exit);
    ContainerObserved {
        name: status.name.clone(),
        attempt,
        state,
        container_id: id,
        image_id: status.image_id.clone(),
        before,
    }
}

/// The attempt before the present one, if the Pod's status has both: the kubelet may tell of an end and of the start after it at once.
pub(super) fn before(pod: &Pod, container: &str) -> Option<ContainerObserved> {
    let status = statuses(pod).iter().find(|status| status.name == container)?;
    let ended = status.last_state.as_ref()?.terminated.as_ref()?;
    let attempt = u32::try_from(status.restart_count).ok()?.checked_sub(1)?;
    Some(ContainerObserved {
        name: container.to_owned(),
        attempt,
        state: ContainerStateObserved::Exited(exit(ended)),
        container_id: ended.container_id.clone().unwrap_or_default(),
        image_id: status.image_id.clone(),
        before: None,
    })
}

/// As it is once the Pod is gone: what was last said to run has ended, and nobody told how.
pub(super) fn gone(mut observed: PodObserved, now: Timestamp) -> PodObserved {
    observed.sandbox_alive = false;
    for container in &mut observed.containers {
        if let ContainerStateObserved::Running { started_at, .. } = container.state {
            let exit = Exit { code: UNSEEN, oom_killed: false, started_at, finished_at: now };
            container.state = ContainerStateObserved::Exited(exit);
        }
    }
    observed
}

fn exit(ended: &ContainerStateTerminated) -> Exit {
    let code = match (ended.exit_code, ended.signal) {
        (0, Some(signal)) if signal > 0 => signal.saturating_add(128),
        (code, _) => code,
    };
    Exit {
        code,
        oom_killed: ended.reason.as_deref() == Some("OOMKilled"),
        started_at: timestamp(ended.started_at.as_ref()),
        finished_at: timestamp(ended.finished_at.as_ref()),
    }
}

fn timestamp(time: Option<&Time>) -> Timestamp {
    time.map_or(Timestamp::default(), |time| Timestamp::from(time.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(status: Value) -> Pod {
        let owner = json!({ "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "name": "x", "uid": "u", "controller": true });
        let metadata = json!({ "name": "x", "namespace": "d", "uid": "p", "labels": { LABEL_INSTANCE_UID: "u" }, "ownerReferences": [owner] });
        let pod = json!({ "metadata": metadata, "spec": { "containers": [{ "name": "c" }] }, "status": status });
        serde_json::from_value(pod).unwrap()
    }

    fn one(state: Value, last: Value, restarts: i32) -> Pod {
        let id = if state.get("running").is_some() { json!("containerd://now") } else { Value::Null };
        let status = json!({ "name": "c", "ready": true, "image": "i", "imageID": "sha256:1", "restartCount": restarts,
            "containerID": id, "state": state, "lastState": last });
        made(json!({ "phase": "Running", "startTime": "2026-11-25T10:00:00Z", "containerStatuses": [status] }))
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!({ "terminated": { "exitCode": code, "reason": reason, "containerID": "containerd://old",
            "startedAt": "2026-11-25T10:00:00Z", "finishedAt": "2026-11-25T10:00:01Z" } })
    }

    fn state_of(pod: &Pod) -> ContainerObserved {
        let pids = BTreeMap::from([("now".to_owned(), 42)]);
        super::pod(pod, &pids).unwrap().containers.remove(0)
    }

    #[test]
    fn containers_are_read_in_every_state() {
        let waits = state_of(&made(json!({ "phase": "Pending" })));
        assert!(matches!(waits.state, ContainerStateObserved::Waiting { .. }));
        let pulls = one(json!({ "waiting": { "reason": "ErrImagePull", "message": "no" } }), json!({}), 0);
        assert!(
            matches!(state_of(&pulls).state, ContainerStateObserved::Waiting { reason, .. } if reason == "ErrImagePull")
        );
        let runs = one(json!({ "running": { "startedAt": "2026-11-25T10:00:02Z" } }), ended(3, "Error"), 1);
        let seen = state_of(&runs);
        assert_eq!((seen.attempt, seen.container_id.as_str()), (1, "containerd://now"));
        assert!(matches!(seen.state, ContainerStateObserved::Running { pid: 42, .. }));
        // A node runtime that wasn't there when it ended has that from here.
        assert_eq!(seen.before.map(|exit| exit.code), Some(3));
        let earlier = before(&runs, "c").unwrap();
        assert_eq!((earlier.attempt, earlier.container_id.as_str()), (0, "containerd://old"));
        let loops = one(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), ended(137, "OOMKilled"), 4);
        let seen = state_of(&loops);
        let ContainerStateObserved::Exited(exit) = &seen.state else { panic!("{seen:?}") };
        assert_eq!((seen.attempt, exit.code, exit.oom_killed, &seen.before), (4, 137, true, &None));
        assert_eq!(exit.finished_at.since(exit.started_at), std::time::Duration::from_secs(1));
        assert_eq!(before(&one(json!({}), json!({}), 0), "c"), None);
    }

    #[test]
    fn what_is_gone_has_ended_unseen() {
        let runs = one(json!({ "running": { "startedAt": "2026-11-25T10:00:02Z" } }), json!({}), 0);
        let gone = gone(super::pod(&runs, &BTreeMap::new()).unwrap(), Timestamp(7));
        assert!(matches!(&gone.containers[0].state, ContainerStateObserved::Exited(exit) if exit.code == UNSEEN));
    }

    #[test]
    fn whose_pods_are_ours_and_which_are_done_for() {
        let pod = made(json!({ "phase": "Running" }));
        assert_eq!(instance(&pod), Some(PodId("u".into())));
        assert!(super::pod(&pod, &BTreeMap::new()).unwrap().sandbox_alive);
        for spoil in [
            |pod: &mut Pod| pod.metadata.owner_references = None,
            |pod: &mut Pod| pod.metadata.labels = None,
            |pod: &mut Pod| {
                let owner = pod.metadata.owner_references.iter_mut().flatten().next().unwrap();
                owner.uid = "other".into();
            },
        ] {
            let mut pod = made(json!({}));
            spoil(&mut pod);
            assert_eq!(instance(&pod), None);
        }
        let evicted = made(json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" }));
        assert_eq!(rejection(&evicted).as_deref(), Some("Evicted: low on memory"));
        assert!(!super::pod(&evicted, &BTreeMap::new()).unwrap().sandbox_alive);
        assert_eq!(rejection(&made(json!({ "phase": "Failed" }))), None);
    }
}
