//! A pod's directory: what the adapter finds again after a restart.
//!
//! `pods/<id>/pod.json` says what the pod is, `c/<container>/record.json` how each container is (written by the supervisor, which is
//! always ahead of what it tells), `c/<container>/<attempt>/` holds one attempt's specification and writable layer, `ctl.sock` is the
//! supervisor's socket and `lock` is locked for as long as there is a supervisor or one is being made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pullpiri_crds::model::Adapter;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, Exit, PodId, PodObserved, PodSpec};
use pullpiri_node_host::clock;
use pullpiri_node_host::files::{self, Durability};
use serde::{Deserialize, Serialize};

use super::supervisor::{record_path, write_record};
use super::wire::{CONTAINERS_DIR, Record};

pub(super) const POD_FILE: &str = "pod.json";
pub(super) const LOCK_FILE: &str = "lock";

/// What is kept of a pod's specification. Environment variables may be secrets, so not the whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredPod {
    pub id: PodId,
    pub namespace: String,
    pub name: String,
    pub hash: String,
    pub hostname: String,
    /// In order.
    pub containers: Vec<String>,
    /// The boot it was made in.
    pub boot_id: String,
}

impl StoredPod {
    pub(super) fn of(pod: &PodSpec, boot_id: &str) -> Self {
        Self {
            id: pod.id.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            hash: pod.hash.clone(),
            hostname: pod.hostname.clone(),
            containers: pod.containers.iter().map(|c| c.name.clone()).collect(),
            boot_id: boot_id.to_owned(),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        files::replace(&dir.join(POD_FILE), &bytes, Durability::ProcessDeath).map_err(|e| e.source)
    }

    /// `None` if the directory was never completed.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(POD_FILE)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The pod with what its records say.
    pub(super) fn observe(&self, dir: &Path, sandbox_alive: bool) -> io::Result<PodObserved> {
        let mut containers = Vec::new();
        for name in &self.containers {
            containers.extend(read_record(dir, name)?.map(|r| r.container));
        }
        Ok(PodObserved {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            hash: self.hash.clone(),
            adapter: Adapter::Oci,
            sandbox_alive,
            containers,
        })
    }
}

pub(super) fn read_record(dir: &Path, container: &str) -> io::Result<Option<Record>> {
    match fs::read(record_path(dir, container)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Records an end that nobody saw for every container that is still on record as running. The supervisor must be dead. Returns those
/// that changed.
pub(super) fn record_unseen_ends(dir: &Path, pod: &StoredPod) -> io::Result<Vec<ContainerObserved>> {
    let mut changed = Vec::new();
    for name in &pod.containers {
        let Some(Record { mut container, .. }) = read_record(dir, name)? else { continue };
        if let ContainerStateObserved::Running { started_at, .. } = container.state {
            let exit = Exit { code: 255, oom_killed: false, started_at, finished_at: clock::now() };
            container.state = ContainerStateObserved::Exited(exit);
            write_record(dir, &container, 0, Durability::PowerCut).map_err(|e| e.source)?;
            changed.push(container);
        }
    }
    Ok(changed)
}

/// The directory of one attempt.
pub(super) fn attempt_dir(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join(CONTAINERS_DIR).join(container).join(attempt.to_string())
}

/// Removes the directories of attempts before `attempt`: their processes are gone and nothing reads them.
pub(super) fn remove_older_attempts(pod_dir: &Path, container: &str, attempt: u32) -> io::Result<()> {
    let dir = pod_dir.join(CONTAINERS_DIR).join(container);
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let older = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n < attempt);
        if older {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a name can be a directory's: pod ids come from the API and container names from manifests.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use pullpiri_node_core::runtime::Timestamp;

    use super::*;

    #[test]
    fn ends_that_nobody_saw_are_recorded_once() {
        let dir = tempfile::tempdir().unwrap();
        let pod = StoredPod {
            id: PodId("p".to_owned()),
            namespace: "ns".to_owned(),
            name: "n".to_owned(),
            hash: "h".to_owned(),
            hostname: "host".to_owned(),
            containers: vec!["ran".to_owned(), "ended".to_owned(), "never".to_owned()],
            boot_id: "b".to_owned(),
        };
        let exit = Exit { code: 3, oom_killed: false, started_at: Timestamp(1), finished_at: Timestamp(2) };
        for (name, state) in [
            ("ran", ContainerStateObserved::Running { pid: 1, started_at: Timestamp(7) }),
            ("ended", ContainerStateObserved::Exited(exit.clone())),
        ] {
            fs::create_dir_all(dir.path().join(CONTAINERS_DIR).join(name)).unwrap();
            let container = ContainerObserved {
                name: name.to_owned(),
                attempt: 0,
                state,
                container_id: name.to_owned(),
                image_id: String::new(),
                before: None,
            };
            write_record(dir.path(), &container, 9, Durability::ProcessDeath).unwrap();
        }
        pod.write(dir.path()).unwrap();
        assert_eq!(StoredPod::read(dir.path()).unwrap(), Some(pod.clone()));
        let changed = record_unseen_ends(dir.path(), &pod).unwrap();
        assert_eq!(changed.len(), 1);
        assert!(
            matches!(&changed[0].state, ContainerStateObserved::Exited(e) if e.code == 255 && e.started_at == Timestamp(7))
        );
        assert!(record_unseen_ends(dir.path(), &pod).unwrap().is_empty());
        let seen = pod.observe(dir.path(), false).unwrap();
        assert_eq!(seen.containers.len(), 2);
        assert_eq!(seen.containers[1].state, ContainerStateObserved::Exited(exit));
    }

    #[test]
    fn half_made_directories_hold_no_pod() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StoredPod::read(dir.path()).unwrap(), None);
        fs::write(dir.path().join(POD_FILE), "{\"id\":").unwrap();
        assert_eq!(StoredPod::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for good in ["a", "0f8e-11", "a.b_c"] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
