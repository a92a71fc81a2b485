//! What an earlier process attached to things that are gone since. Of workloads whose network isn't ours, `hosts` knows.

use std::path::{Path, PathBuf};

use pullpiri_ebpf::net::{Datapath, Hook, NetError};
use pullpiri_node_core::network::Desired;

/// Detaches it: pods and uplinks that aren't wanted.
pub(super) fn release(datapath: &mut Datapath, wanted: &Desired) -> Result<(), NetError> {
    for (hook, device) in datapath.attached()? {
        match hook {
            Hook::PodEgress | Hook::PodIngress if wanted.pods.values().all(|pod| pod.link != device) => {
                datapath.detach_pod(&device)?;
            }
            Hook::UplinkIngress | Hook::UplinkEgress if wanted.uplink.as_ref() != Some(&device) => {
                datapath.detach_uplink(&device)?
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
