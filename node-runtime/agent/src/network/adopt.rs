//! What an earlier process attached to things that are gone since.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pullpiri_ebpf::net::{Datapath, Hook, NetError};
use pullpiri_node_core::network::Desired;

/// Detaches it: pods and uplinks that aren't wanted, cgroups that no longer exist.
pub(super) fn release(datapath: &mut Datapath, wanted: &Desired, cgroups: &Path) -> Result<(), NetError> {
    let directories = std::fs::read_dir(cgroups.join("pullpiri")).into_iter().flatten().flatten();
    let alive: BTreeSet<u64> = directories.filter_map(|entry| Some(entry.metadata().ok()?.ino())).collect();
    for (hook, device) in datapath.attached()? {
        match hook {
            Hook::PodEgress | Hook::PodIngress if wanted.pods.values().all(|pod| pod.link != device) => {
                datapath.detach_pod(&device)?;
            }
            Hook::UplinkIngress | Hook::UplinkEgress if wanted.uplink.as_ref() != Some(&device) => {
                datapath.detach_uplink(&device)?
            }
            Hook::HostEgress => {
                if let Some(id) = device.parse().ok().filter(|id| !alive.contains(id)) {
                    datapath.detach_host(id)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The cgroup hierarchy of version 2.
pub(super) fn unified(root: &Path) -> PathBuf {
    if root.join("cgroup.controllers").exists() { root.to_owned() } else { root.join("unified") }
}
