//! What the node keeps of its network on disk, so that it boots its services with no API server in reach, and puts back what it changed.
//!
//! `<data>/network/installation`: what tells this node's things from those of another of its name on this machine; `pods/<uid>.json`: attachments; `generation.json`: the NetworkSlices in force; `record.json`: what was there before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use pullpiri_node_core::network::{Attachment, Generation, Gso, installation};
use pullpiri_node_core::runtime::PodId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::error;

const INSTALLATION: &str = "installation";

/// What was changed of things that aren't ours, as it was before; what is ours without saying so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record {
    pub settings: BTreeMap<String, String>,
    /// Interfaces that have our HTB, and how large their packets were before.
    pub trees: BTreeMap<String, Gso>,
    /// Whether there is a table of nftables.
    pub translated: bool,
}

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
}

impl Disk {
    pub fn new(data_dir: &Path) -> Self {
        Self { directory: data_dir.join("network") }
    }

    /// Which of the installations on this machine it is: what was noted; else by where its data is. One of a release before there could be
    /// several goes on under the node's name alone.
    pub fn installation(&self) -> String {
        if let Ok(noted) = fs::read_to_string(self.directory.join(INSTALLATION)) {
            return noted.trim().to_owned();
        }
        let is_older = ["record.json", "generation.json", "pods"].iter().any(|name| self.directory.join(name).exists());
        let data_dir = self.directory.parent().unwrap_or(&self.directory);
        let path = data_dir.canonicalize().or_else(|_| std::path::absolute(data_dir));
        if is_older { String::new() } else { installation(&path.unwrap_or_else(|_| data_dir.to_owned())) }
    }

    /// Notes it, once: it stays when the directory moves.
    pub fn note_installation(&self, installation: &str) -> io::Result<()> {
        let path = self.directory.join(INSTALLATION);
        if path.exists() { Ok(()) } else { write_bytes(&path, format!("{installation}\n").as_bytes()) }
    }

    pub fn record(&self) -> Record {
        read(&self.directory.join("record.json")).unwrap_or_default()
    }

    pub fn generation(&self) -> Option<Generation> {
        read(&self.directory.join("generation.json"))
    }

    pub fn attachments(&self) -> BTreeMap<PodId, Attachment> {
        let Ok(files) = fs::read_dir(self.directory.join("pods")) else { return BTreeMap::new() };
        let one = |path: PathBuf| {
            let id = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
            Some((PodId(id), read(&path)?))
        };
        files.filter_map(|file| one(file.ok()?.path())).collect()
    }

    pub fn write_record(&self, record: &Record) -> io::Result<()> {
        write(&self.directory.join("record.json"), record)
    }

    pub fn write_generation(&self, generation: Option<&Generation>) -> io::Result<()> {
        let path = self.directory.join("generation.json");
        generation.map_or_else(|| remove(&path), |generation| write(&path, generation))
    }

    pub fn write_attachment(&self, pod: &PodId, attachment: Option<&Attachment>) -> io::Result<()> {
        let path = self.directory.join("pods").join(format!("{pod}.json"));
        attachment.map_or_else(|| remove(&path), |attachment| write(&path, attachment))
    }
}

/// What can't be read is told of and moved aside.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let json = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            error!(file = %path.display(), %error, "a file of the node's network can't be read");
            return None;
        }
        Ok(json) => json,
    };
    match serde_json::from_slice(&json) {
        Ok(value) => Some(value),
        Err(error) => {
            let aside = path.with_extension("corrupt");
            let moved = fs::rename(path, &aside).is_ok();
            error!(file = %path.display(), %error, moved, "a file of the node's network can't be understood");
            None
        }
    }
}

/// The old content or the new, whenever the power goes.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(value)?)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_keeps_its_name_and_an_older_one_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        let id = Disk::new(&one).installation();
        assert_eq!(id.len(), 8);
        assert_ne!(id, Disk::new(&other).installation(), "by where its data is");
        Disk::new(&one).note_installation(&id).unwrap();
        Disk::new(&one).write_record(&Record::default()).unwrap();
        fs::rename(&one, &other).unwrap();
        assert_eq!(Disk::new(&other).installation(), id, "it moved");
        fs::remove_file(other.join("network/installation")).unwrap();
        let older = Disk::new(&other);
        assert_eq!(older.installation(), "", "what an earlier release made is called by the node's name");
        older.note_installation("").unwrap();
        assert_eq!(older.installation(), "");
    }

    #[test]
    fn what_is_written_is_read_back_and_rubbish_is_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::new(directory.path());
        assert_eq!(disk.record(), Record::default());
        let record = Record { translated: true, settings: [("a".into(), "1".into())].into(), ..Record::default() };
        disk.write_record(&record).unwrap();
        let pod = PodId("u-1".into());
        let attachment = Attachment {
            network: "default/drive".into(),
            addresses: vec!["10.20.0.5".parse().unwrap()],
            gateways: vec!["10.20.0.1".parse().unwrap()],
            ports: Vec::new(),
        };
        disk.write_attachment(&pod, Some(&attachment)).unwrap();
        disk.write_generation(Some(&Generation { number: 3, parts: Vec::new() })).unwrap();
        fs::write(directory.path().join("network/pods/u-2.json"), "{").unwrap();
        assert_eq!(disk.record(), record);
        assert_eq!(disk.attachments(), [(pod.clone(), attachment)].into());
        assert_eq!(disk.generation().map(|generation| generation.number), Some(3));
        assert!(directory.path().join("network/pods/u-2.corrupt").exists());
        disk.write_generation(None).unwrap();
        disk.write_attachment(&pod, None).unwrap();
        disk.write_attachment(&pod, None).unwrap();
        assert!(disk.generation().is_none() && disk.attachments().is_empty());
    }
}
