//! What this kernel lets the datapath do.

use std::io;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{is_map_supported, is_program_supported};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::{NetError, pin_error};
use crate::object;

/// Each is `Ok` or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// The programs are in this binary.
    pub object: Result<(), String>,
    /// Pins have a place.
    pub bpffs: Result<(), String>,
    /// Programs at devices, with links (since 6.6).
    pub tcx: Result<(), String>,
    /// Classes for workloads in the node's own network.
    pub cgroup: Result<(), String>,
    /// Generations: maps of maps, and tries.
    pub maps: Result<(), String>,
}

impl Support {
    /// Why pods can't be judged here; `None` when they can.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        [&self.object, &self.bpffs, &self.tcx, &self.maps]
            .into_iter()
            .find_map(|part| part.as_ref().err().map(String::as_str))
    }
}

/// Tries everything, changes nothing. `pin_dir` needn't exist, its nearest ancestor must be in a bpffs.
#[must_use]
pub fn probe(pin_dir: &Path) -> Support {
    Support {
        object: object::bytes("pharos", object::PHAROS).map(drop).map_err(|error| error.to_string()),
        bpffs: bpffs(pin_dir),
        tcx: program(ProgramType::SchedClassifier).and_then(|()| {
            SchedClassifier::query_tcx("lo", TcAttachType::Ingress).map(drop).map_err(|error| chain(&error))
        }),
        cgroup: program(ProgramType::CgroupSkb),
        maps: [MapType::ArrayOfMaps, MapType::LpmTrie, MapType::LruHash].into_iter().try_for_each(|kind| {
            match is_map_supported(kind) {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("the kernel has no {kind:?}")),
                Err(error) => Err(chain(&error)),
            }
        }),
    }
}

fn program(kind: ProgramType) -> Result<(), String> {
    match is_program_supported(kind) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("the kernel has no programs of type {kind:?}")),
        Err(error) => Err(chain(&error)),
    }
}

fn bpffs(pin_dir: &Path) -> Result<(), String> {
    for dir in pin_dir.ancestors() {
        match statfs(dir) {
            Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => return Ok(()),
            Ok(_) => return Err(format!("{} is in no bpffs", pin_dir.display())),
            Err(nix::errno::Errno::ENOENT) => {}
            Err(errno) => return Err(format!("{}: {}", dir.display(), io::Error::from(errno))),
        }
    }
    Err(format!("{} has no ancestor", pin_dir.display()))
}

/// Mounts a bpffs at `dir` (commonly /sys/fs/bpf) unless there is one, as systemd does at boot. The directory is made if need be.
///
/// # Errors
/// When the directory can't be made or mounted on (CAP_SYS_ADMIN).
pub fn ensure_bpffs(dir: &Path) -> Result<(), NetError> {
    if statfs(dir).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    std::fs::create_dir_all(dir).map_err(pin_error("making", dir))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| pin_error("mounting a bpffs at", dir)(io::Error::from(errno)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
