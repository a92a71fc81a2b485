//! What threads were given, on disk, so that another life of this process can give back what they had.
//!
//! `<data_dir>/realtime.json`, replaced by a rename before anything is given. It isn't synced: it is worth nothing after a reboot, by which it is
//! discarded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pullpiri_node_core::realtime::Held;
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::clock;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// What an instance's threads, groups and processes were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Holding {
    pub held: Vec<Held>,
    /// The real-time budget of each group, in microseconds of each period.
    pub budgets: BTreeMap<String, u64>,
    /// RLIMIT_MEMLOCK (soft, hard) that each process had.
    pub memory_locks: BTreeMap<i32, (u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    boot: String,
    instances: BTreeMap<PodId, Holding>,
    #[serde(default)]
    lowering: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    boot: String,
    /// As the file has it.
    pub instances: BTreeMap<PodId, Holding>,
    /// Groups that have more of a real-time budget than is held of it, and how much, in microseconds of each period. Written with what is kept next.
    pub lowering: BTreeMap<String, u64>,
}

impl File {
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("realtime.json");
        let boot = clock::boot_id().unwrap_or_default();
        let content = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Content>(&text).ok());
        let content = content.filter(|content| content.boot == boot);
        let (instances, lowering) = content.map(|content| (content.instances, content.lowering)).unwrap_or_default();
        Self { path, boot, instances, lowering }
    }

    /// Has the file hold this of an instance; an empty holding is none.
    pub fn keep(&mut self, id: &PodId, holding: &Holding) {
        let known = self.instances.get(id);
        if known == Some(holding) || (known.is_none() && *holding == Holding::default()) {
            return;
        }
        if *holding == Holding::default() {
            self.instances.remove(id);
        } else {
            self.instances.insert(id.clone(), holding.clone());
        }
        self.save();
    }

    pub fn save(&self) {
        if let Err(error) = self.write() {
            warn!(path = %self.path.display(), %error, "what threads were given can't be written down; it is held nevertheless");
        }
    }

    fn write(&self) -> std::io::Result<()> {
        if self.instances.is_empty() && self.lowering.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                outcome => outcome,
            };
        }
        let content =
            Content { boot: self.boot.clone(), instances: self.instances.clone(), lowering: self.lowering.clone() };
        let fresh = self.path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec(&content)?)?;
        std::fs::rename(&fresh, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again_until_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let id = PodId("a".into());
        let holding = Holding { budgets: BTreeMap::from([("g".into(), 7)]), ..Holding::default() };
        let mut file = File::open(dir.path());
        file.keep(&id, &Holding::default());
        assert!(!dir.path().join("realtime.json").exists());
        file.keep(&id, &holding);
        assert_eq!(File::open(dir.path()).instances, BTreeMap::from([(id.clone(), holding.clone())]));
        file.lowering.insert("h".into(), 9);
        file.save();
        assert_eq!(File::open(dir.path()).lowering, file.lowering);
        let path = dir.path().join("realtime.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&clock::boot_id().unwrap(), "another")).unwrap();
        assert!(File::open(dir.path()).instances.is_empty());
        file.keep(&id, &Holding::default());
        assert!(path.exists(), "a group has still to be lowered");
        file.lowering.clear();
        file.save();
        assert!(!path.exists());
    }
}
