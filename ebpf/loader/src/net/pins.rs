//! Where maps and links are pinned, so that they outlive the process: `<dir>/maps-<layout>/<map>` and `<dir>/links/<device>~<ifindex>~<program>`.
//!
//! A bpffs refuses dots in names (bpf_lookup in kernel/bpf/inode.c): device names have theirs escaped.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::layout::LAYOUT;

/// The programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What a pod sends.
    PodEgress,
    /// What a pod is about to get.
    PodIngress,
    /// What the link brings.
    UplinkIngress,
    /// What leaves the node.
    UplinkEgress,
    /// What workloads in the node's own network send.
    HostEgress,
    /// What a pod sends whose interface somebody else made.
    GuestEgress,
}

impl Hook {
    pub const ALL: [Self; 6] = [
        Self::PodEgress,
        Self::PodIngress,
        Self::UplinkIngress,
        Self::UplinkEgress,
        Self::HostEgress,
        Self::GuestEgress,
    ];

    /// The function's name in `pharos.bpf.c`.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::PodEgress => "pod_egress",
            Self::PodIngress => "pod_ingress",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::HostEgress => "host_egress",
            Self::GuestEgress => "guest_egress",
        }
    }
}

/// A pinned link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkPin {
    /// The device's name; of a cgroup its id.
    pub device: String,
    /// 0 for a cgroup.
    pub ifindex: u32,
    pub hook: Hook,
}

impl LinkPin {
    fn file_name(&self) -> String {
        let device: String = self
            .device
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02x}")
                }
            })
            .collect();
        format!("{device}~{}~{}", self.ifindex, self.hook.program())
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('~');
        let (device, ifindex, program) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let hook = Hook::ALL.into_iter().find(|hook| hook.program() == program)?;
        let mut bytes = Vec::new();
        let mut rest = device.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'%' {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            } else {
                bytes.push(byte);
            }
        }
        Some(Self { device: String::from_utf8(bytes).ok()?, ifindex: ifindex.parse().ok()?, hook })
    }
}

/// A node's directory in a bpffs.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// Makes the directories.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let pins = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(pins.maps())?;
        std::fs::create_dir_all(pins.links_dir())?;
        Ok(pins)
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.dir.join(format!("maps-{LAYOUT}"))
    }

    fn links_dir(&self) -> PathBuf {
        self.dir.join("links")
    }

    pub(super) fn link(&self, pin: &LinkPin) -> PathBuf {
        self.links_dir().join(pin.file_name())
    }

    /// In order of name. Files that this crate didn't name are left alone.
    pub(super) fn links(&self) -> io::Result<Vec<LinkPin>> {
        let mut links = Vec::new();
        for entry in std::fs::read_dir(self.links_dir())? {
            links.extend(entry?.file_name().to_str().and_then(LinkPin::parse));
        }
        links.sort();
        Ok(links)
    }

    pub(super) fn unpin(&self, pin: &LinkPin) -> io::Result<()> {
        gone(std::fs::remove_file(self.link(pin)))
    }

    /// Directories of maps of other layouts.
    pub(super) fn other_maps(&self) -> io::Result<Vec<PathBuf>> {
        let own = self.maps();
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path != own && path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("maps-")) {
                others.push(path);
            }
        }
        Ok(others)
    }

    pub(super) fn remove_maps(dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("pharos_")) {
                gone(std::fs::remove_file(path))?;
            }
        }
        gone(std::fs::remove_dir(dir))
    }

    /// Links first: with the last reference to one its program is detached. What isn't ours stays, and the directories that hold it.
    pub(super) fn remove(&self) -> io::Result<()> {
        for link in self.links()? {
            self.unpin(&link)?;
        }
        for maps in self.other_maps()?.into_iter().chain([self.maps()]) {
            Self::remove_maps(&maps)?;
        }
        gone(std::fs::remove_dir(self.links_dir()))?;
        match gone(std::fs::remove_dir(&self.dir)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other,
        }
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_round_trip() {
        for device in ["veth0", "eth0.100", "a~b", "π"] {
            let pin = LinkPin { device: device.to_owned(), ifindex: 17, hook: Hook::PodIngress };
            let name = pin.file_name();
            assert!(!name.contains('.') && name.matches('~').count() == 2, "{name}");
            assert_eq!(LinkPin::parse(&name), Some(pin));
        }
        assert_eq!(LinkPin::parse("something~else"), None);
        assert_eq!(LinkPin::parse("veth0~1~unknown"), None);
    }

    #[test]
    fn removal_leaves_what_others_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("node");
        let pins = Pins::open(&root).unwrap();
        std::fs::write(pins.maps().join("pharos_ports"), "").unwrap();
        let pin = LinkPin { device: "veth0".into(), ifindex: 3, hook: Hook::PodEgress };
        std::fs::write(pins.link(&pin), "").unwrap();
        std::fs::write(root.join("monitor"), "").unwrap();
        assert_eq!(pins.links().unwrap(), vec![pin]);
        assert_eq!(Pins::open(&root).unwrap().links().unwrap().len(), 1, "opening again keeps what is there");
        pins.remove().unwrap();
        let left: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, vec!["monitor"]);
    }
}
