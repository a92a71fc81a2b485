//! Attaching to devices and cgroups, and taking over what an earlier process attached.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::MapError;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, LinkOrder, ProgramError, SchedClassifier, TcAttachType,
};
use nix::errno::Errno;

use super::datapath::{Datapath, absent};
use super::error::{NetError, map_error, pin_error};
use super::layout::{BUDGET, HAS_MAC, HAS_V4, HAS_V6, MAX_SHARE, Port, Slot, address_bytes, host_address};
use super::pins::{Hook, LinkPin};

/// How long the kernel may take to detach a program whose link is gone: milliseconds.
const DETACHED: Duration = Duration::from_secs(1);

/// A pod's end of its interface on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodPort {
    /// What it may send from and receive at: one IPv4 and one IPv6 at most.
    pub addresses: Vec<IpAddr>,
    /// The only hardware address it may send from, if it is known.
    pub mac: Option<[u8; 6]>,
}

impl Datapath {
    /// Judges what a pod sends and gets from now on. `device` is the node's end of its veth, in the caller's network namespace. Repeating it changes
    /// the addresses and nothing else; a device that was made anew under the same name is attached anew.
    ///
    /// # Errors
    /// When the device isn't there, has other than one address of a family, or the kernel refuses.
    pub fn attach_pod(&mut self, device: &str, port: &PodPort) -> Result<(), NetError> {
        let ifindex = ifindex(device)?;
        let mut entry = port_entry(device, port)?;
        self.forget_others(device, ifindex)?;
        entry.share = self.share_out(Some(ifindex))?;
        self.ports.insert(ifindex, entry, 0).map_err(map_error("writing", "pharos_ports"))?;
        self.ensure_link(device, ifindex, Hook::PodIngress, TcAttachType::Egress)?;
        self.ensure_link(device, ifindex, Hook::PodEgress, TcAttachType::Ingress)
    }

    /// What an attached pod sends to published ports of this node goes to the node's own end of the bridge with this index from now on, past its
    /// ports. Without it such packets are lost where bridges are filtered (br_netfilter).
    ///
    /// # Errors
    /// When the device isn't there or the entry can't be written.
    pub fn lead_past(&mut self, device: &str, bridge: u32) -> Result<(), NetError> {
        let ifindex = ifindex(device)?;
        self.bridges.insert(ifindex, bridge, 0).map_err(map_error("writing", "pharos_bridges"))
    }

    /// Undoes `attach_pod`, whether or not the device is still there. The kernel detaches the programs some milliseconds later (RCU); until then
    /// they drop what passes.
    ///
    /// # Errors
    /// When a pin or an entry can't be removed.
    pub fn detach_pod(&mut self, device: &str) -> Result<(), NetError> {
        self.forget_others(device, 0)
    }

    /// Checks what the link to other nodes brings, and chooses classes for what leaves by it: a device whose root qdisc may be an HTB with this
    /// major number (`1` in `1:`).
    ///
    /// # Errors
    /// When the device isn't there or the kernel refuses.
    pub fn attach_uplink(&mut self, device: &str, htb_major: u16) -> Result<(), NetError> {
        let ifindex = ifindex(device)?;
        self.forget_others(device, ifindex)?;
        self.uplinks.insert(ifindex, u32::from(htb_major), 0).map_err(map_error("writing", "pharos_uplinks"))?;
        self.ensure_link(device, ifindex, Hook::UplinkIngress, TcAttachType::Ingress)?;
        self.ensure_link(device, ifindex, Hook::UplinkEgress, TcAttachType::Egress)
    }

    /// Undoes `attach_uplink`.
    ///
    /// # Errors
    /// When a pin or an entry can't be removed.
    pub fn detach_uplink(&mut self, device: &str) -> Result<(), NetError> {
        self.forget_others(device, 0)
    }

    /// Chooses classes for a workload in the node's own network: what processes in this cgroup (v2, a directory) send from now on. `uid` is its
    /// endpoint's.
    ///
    /// # Errors
    /// When there is no such cgroup or the kernel refuses.
    pub fn attach_host(&mut self, cgroup: &Path, uid: &str) -> Result<(), NetError> {
        let opened = std::fs::File::open(cgroup).map_err(pin_error("opening cgroup", cgroup))?;
        let id = opened.metadata().map_err(pin_error("reading the id of cgroup", cgroup))?.ino();
        self.hosts.insert(id, host_address(uid), 0).map_err(map_error("writing", "pharos_hosts"))?;
        let hook = Hook::HostEgress;
        let target = || cgroup.display().to_string();
        let program: &mut CgroupSkb = self
            .ebpf
            .program_mut(hook.program())
            .ok_or(NetError::Missing(hook.program()))?
            .try_into()
            .map_err(attach_error(hook, target()))?;
        // A link is always one of several (cgroup_bpf_link_attach in kernel/bpf/cgroup.c), and takes no flags.
        let link = program
            .attach(&opened, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)
            .and_then(|id| program.take_link(id))
            .map_err(attach_error(hook, target()))?;
        let link: FdLink = link.try_into().map_err(attach_error(hook, target()))?;
        // The new one is there before the old one goes: both say the same.
        let pin = LinkPin { device: id.to_string(), ifindex: 0, hook };
        let path = self.pins.link(&pin);
        let beside = path.with_file_name(format!("{id}~new"));
        link.pin(&beside).map_err(attach_error(hook, target()))?;
        std::fs::rename(&beside, &path).map_err(pin_error("pinning", path))
    }

    /// Undoes `attach_host`; `cgroup_id` is the inode of the directory, which may be gone.
    ///
    /// # Errors
    /// When a pin or an entry can't be removed.
    pub fn detach_host(&mut self, cgroup_id: u64) -> Result<(), NetError> {
        let pin = LinkPin { device: cgroup_id.to_string(), ifindex: 0, hook: Hook::HostEgress };
        self.pins.unpin(&pin).map_err(pin_error("removing", self.pins.link(&pin)))?;
        absent(self.hosts.remove(&cgroup_id)).map_err(map_error("clearing", "pharos_hosts"))
    }

    /// Chooses classes for a pod whose interface somebody else made, and does nothing else to it: `device` is the node's end of that, `uid` the endpoint's.
    ///
    /// # Errors
    /// When the device isn't there, has programs of others (which may read `tc_index` in a way of their own), or the kernel refuses.
    pub fn attach_guest(&mut self, device: &str, uid: &str) -> Result<(), NetError> {
        let ifindex = ifindex(device)?;
        let hook = Hook::GuestEgress;
        let (_, found) =
            SchedClassifier::query_tcx(device, TcAttachType::Ingress).map_err(attach_error(hook, device))?;
        if found.iter().any(|program| program.name_as_str() != Some(hook.program())) {
            return Err(NetError::Taken { device: device.to_owned() });
        }
        self.forget_others(device, ifindex)?;
        self.guests.insert(ifindex, host_address(uid), 0).map_err(map_error("writing", "pharos_guests"))?;
        self.ensure_link(device, ifindex, hook, TcAttachType::Ingress)
    }

    /// Undoes `attach_guest`, whether or not the device is still there.
    ///
    /// # Errors
    /// When a pin or an entry can't be removed.
    pub fn detach_guest(&mut self, device: &str) -> Result<(), NetError> {
        self.forget_others(device, 0)
    }

    /// Devices that programs are attached to, and cgroup ids, by program.
    ///
    /// # Errors
    /// When the pins can't be listed.
    pub fn attached(&self) -> Result<Vec<(Hook, String)>, NetError> {
        Ok(self.links()?.into_iter().map(|pin| (pin.hook, pin.device)).collect())
    }

    pub(super) fn links(&self) -> Result<Vec<LinkPin>, NetError> {
        self.pins.links().map_err(pin_error("listing the links beside", self.pins.maps()))
    }

    /// Gives every pinned link this process's programs; what belonged to devices that are gone is removed.
    pub(super) fn adopt(&mut self) -> Result<(), NetError> {
        for pin in self.links()? {
            if pin.hook == Hook::HostEgress {
                // Replaced by the next attach_host: the kernel can update such a link, aya can't.
                continue;
            }
            // It went with the other one of its device.
            if !self.pins.link(&pin).exists() {
                continue;
            }
            if self.update(&pin)? == Updated::Dead {
                self.forget(&pin)?;
            }
        }
        Ok(())
    }

    fn ensure_link(&mut self, device: &str, ifindex: u32, hook: Hook, direction: TcAttachType) -> Result<(), NetError> {
        let pin = LinkPin { device: device.to_owned(), ifindex, hook };
        let path = self.pins.link(&pin);
        if path.exists() {
            // Until there is a policy in this layout's maps, the programs of the earlier one enforce theirs.
            if self.adopt_later || self.update(&pin)? == Updated::Alive {
                return Ok(());
            }
            self.pins.unpin(&pin).map_err(pin_error("removing", &path))?;
        }
        let program = self.classifier(hook, device)?;
        // First: another's program that accepts a packet would end the chain. On an interface of theirs, they come first.
        let order = || if hook == Hook::GuestEgress { LinkOrder::last() } else { LinkOrder::first() };
        let deadline = Instant::now() + DETACHED;
        let id = loop {
            match program.attach_with_options(device, direction, TcAttachOptions::TcxOrder(order())) {
                // It was detached just now, and is there until the kernel is done with that.
                Err(error) if is_refused(&error, Errno::EEXIST) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                attached => break attached.map_err(attach_error(hook, device))?,
            }
        };
        let link = program.take_link(id).map_err(attach_error(hook, device))?;
        let link: FdLink = link.try_into().map_err(attach_error(hook, device))?;
        link.pin(&path).map_err(attach_error(hook, device))?;
        Ok(())
    }

    /// Replaces a pinned link's program by this process's, atomically. Whatever else goes wrong than a device that is gone leaves the link as it is:
    /// the program that it holds keeps judging.
    fn update(&mut self, pin: &LinkPin) -> Result<Updated, NetError> {
        let path = self.pins.link(pin);
        let link = PinnedLink::from_pin(&path).map_err(attach_error(pin.hook, &pin.device))?;
        let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(attach_error(pin.hook, &pin.device))?;
        let program = self.classifier(pin.hook, &pin.device)?;
        match program.attach_to_link(link) {
            Ok(id) => {
                // Closes the descriptor; the pin holds the link.
                drop(program.take_link(id).map_err(attach_error(pin.hook, &pin.device))?);
                Ok(Updated::Alive)
            }
            // The device is gone, and the link with it (tcx_link_update in kernel/bpf/tcx.c).
            Err(error) if is_refused(&error, Errno::ENOLINK) => Ok(Updated::Dead),
            Err(error) => Err(attach_error(pin.hook, &pin.device)(error)),
        }
    }

    fn classifier(&mut self, hook: Hook, target: &str) -> Result<&mut SchedClassifier, NetError> {
        self.ebpf
            .program_mut(hook.program())
            .ok_or(NetError::Missing(hook.program()))?
            .try_into()
            .map_err(attach_error(hook, target))
    }

    /// Removes what is known of a device of this name under other indices than `keep`.
    fn forget_others(&mut self, device: &str, keep: u32) -> Result<(), NetError> {
        for pin in self.links()? {
            if pin.device == device && pin.ifindex != keep && pin.hook != Hook::HostEgress {
                self.forget(&pin)?;
            }
        }
        Ok(())
    }

    /// The link first: a program without an entry drops.
    fn forget(&mut self, pin: &LinkPin) -> Result<(), NetError> {
        self.pins.unpin(pin).map_err(pin_error("removing", self.pins.link(pin)))?;
        let other = match pin.hook {
            Hook::PodEgress => Hook::PodIngress,
            Hook::PodIngress => Hook::PodEgress,
            Hook::UplinkIngress => Hook::UplinkEgress,
            Hook::UplinkEgress => Hook::UplinkIngress,
            Hook::GuestEgress => {
                return absent(self.guests.remove(&pin.ifindex)).map_err(map_error("clearing", "pharos_guests"));
            }
            Hook::HostEgress => return Ok(()),
        };
        let other = LinkPin { hook: other, ..pin.clone() };
        self.pins.unpin(&other).map_err(pin_error("removing", self.pins.link(&other)))?;
        if matches!(pin.hook, Hook::UplinkIngress | Hook::UplinkEgress) {
            return absent(self.uplinks.remove(&pin.ifindex)).map_err(map_error("clearing", "pharos_uplinks"));
        }
        absent(self.bridges.remove(&pin.ifindex)).map_err(map_error("clearing", "pharos_bridges"))?;
        absent(self.ports.remove(&pin.ifindex)).map_err(map_error("clearing", "pharos_ports"))?;
        self.forget_opened(pin.ifindex)?;
        self.share_out(None).map(|_| ())
    }

    /// Gives each interface its part of the table of connections, that of one that comes included, so that one can displace no other's, however many
    /// there are. Returns how often the budget is halved.
    fn share_out(&mut self, coming: Option<u32>) -> Result<u8, NetError> {
        let ports: Result<Vec<(u32, Port)>, MapError> = self.ports.iter().collect();
        let ports = ports.map_err(map_error("reading", "pharos_ports"))?;
        let is_new = coming.is_some_and(|coming| ports.iter().all(|(ifindex, _)| *ifindex != coming));
        let share = share_of(ports.len() + usize::from(is_new));
        for (ifindex, port) in ports.into_iter().filter(|(_, port)| port.share != share) {
            let before = port.share.min(MAX_SHARE);
            self.ports.insert(ifindex, Port { share, ..port }, 0).map_err(map_error("writing", "pharos_ports"))?;
            // What those places held stays until it is the oldest of all.
            for slot in BUDGET >> share..BUDGET >> before {
                absent(self.slots.remove(&Slot { opener: ifindex, slot }))
                    .map_err(map_error("clearing", "pharos_slots"))?;
            }
        }
        Ok(share)
    }

    /// The budget of an interface that is gone. What it opened stays as long as any connection does.
    fn forget_opened(&mut self, ifindex: u32) -> Result<(), NetError> {
        let opened = match self.opened.get(&ifindex, 0) {
            Ok(opened) => opened,
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(map_error("reading", "pharos_opened")(error)),
        };
        absent(self.opened.remove(&ifindex)).map_err(map_error("clearing", "pharos_opened"))?;
        for slot in 0..opened.min(BUDGET) {
            absent(self.slots.remove(&Slot { opener: ifindex, slot }))
                .map_err(map_error("clearing", "pharos_slots"))?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Updated {
    Alive,
    Dead,
}

fn is_refused(error: &ProgramError, with: Errno) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    error.io_error.raw_os_error().map(Errno::from_raw) == Some(with)
}

fn attach_error<E: std::error::Error + Send + Sync + 'static>(
    hook: Hook,
    target: impl Into<String>,
) -> impl FnOnce(E) -> NetError {
    let target = target.into();
    move |source| NetError::Attach { program: hook.program(), target, source: Box::new(source) }
}

fn ifindex(device: &str) -> Result<u32, NetError> {
    nix::net::if_::if_nametoindex(device)
        .map_err(|errno| NetError::Device { device: device.to_owned(), source: io::Error::from(errno) })
}

/// How often the budget of each interface is halved, so that all budgets together are at most what is remembered.
fn share_of(interfaces: usize) -> u8 {
    // Full budgets that the table has room for.
    const WHOLE: usize = 8;
    let halvings = interfaces.div_ceil(WHOLE).max(1).next_power_of_two().trailing_zeros();
    u8::try_from(halvings).unwrap_or(MAX_SHARE).min(MAX_SHARE)
}

pub(super) fn port_entry(device: &str, port: &PodPort) -> Result<Port, NetError> {
    let mut entry = Port::default();
    for address in &port.addresses {
        let (bytes, has) = match address {
            IpAddr::V4(_) => (&mut entry.v4, HAS_V4),
            IpAddr::V6(_) => (&mut entry.v6, HAS_V6),
        };
        if entry.has & has != 0 {
            return Err(NetError::Addresses { device: device.to_owned(), count: port.addresses.len() });
        }
        *bytes = address_bytes(*address);
        entry.has |= has;
    }
    if let Some(mac) = port.mac {
        entry.mac = mac;
        entry.has |= HAS_MAC;
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn budgets_are_at_most_what_is_remembered() {
        for interfaces in 0..=4096_u32 {
            let share = share_of(interfaces.try_into().unwrap());
            assert!(interfaces * (BUDGET >> share) <= 65_536, "{interfaces}");
            assert!(share == 0 || interfaces * (BUDGET >> (share - 1)) > 65_536, "{interfaces} may have more");
        }
        assert_eq!((share_of(8), share_of(9), share_of(4096)), (0, 1, MAX_SHARE));
    }

    #[test]
    fn only_a_link_without_a_device_is_dead() {
        let refused = |io_error| ProgramError::from(SyscallError { call: "bpf_link_update", io_error });
        let is_dead = |error: &ProgramError| is_refused(error, Errno::ENOLINK);
        assert!(is_dead(&refused(Errno::ENOLINK.into())));
        for errno in [Errno::EPERM, Errno::ENOMEM, Errno::EINVAL, Errno::ENOENT, Errno::ENODEV, Errno::ESTALE] {
            assert!(!is_dead(&refused(errno.into())), "{errno}");
        }
        assert!(!is_dead(&refused(io::Error::other("not from the kernel"))));
        assert!(!is_dead(&ProgramError::NotLoaded));
    }
}
