//! One step, done and noted.

use pullpiri_ebpf::net::PodPort;
use pullpiri_node_core::network::shape::MAJOR;
use pullpiri_node_core::network::{BRIDGE_PREFIX, Step, hardware_address};
use pullpiri_node_core::runtime::PodId;
use pullpiri_node_host::net::{Netlink, sysctl};

use super::{Outcome, Plumbing, text};
use crate::network::disk::Record;
use crate::network::kernel::{self, Place};

impl Plumbing {
    pub(super) fn do_step(&mut self, net: &mut Netlink, place: Place<'_>, step: &Step) -> Outcome {
        // On disk before it is so: whoever comes after a crash puts back too much rather than too little.
        let before = self.record.clone();
        self.note_before(net, step)?;
        self.keep(&before)?;
        self.act(net, place, step)?;
        let before = self.record.clone();
        self.note_after(step);
        self.keep(&before)
    }

    /// What there was, for whoever puts it back.
    fn note_before(&mut self, net: &mut Netlink, step: &Step) -> Outcome {
        match step {
            Step::Set { key, .. } => {
                let original = sysctl::read(key).map_err(|error| text(&error))?;
                let is_ours = key.contains(BRIDGE_PREFIX);
                if let Some(original) = original.filter(|_| !is_ours) {
                    self.record.settings.entry(key.clone()).or_insert(original);
                }
            }
            Step::MakeTree { link } => {
                let gso = net.link(link).map_err(|error| text(&error))?.map(|link| link.gso).unwrap_or_default();
                self.record.trees.entry(link.clone()).or_insert(gso);
            }
            Step::Translate(_) => self.record.translated = true,
            _ => {}
        }
        Ok(())
    }

    fn act(&mut self, net: &mut Netlink, place: Place<'_>, step: &Step) -> Outcome {
        match step {
            Step::Guard { pod, link } => {
                self.guard(net, pod, link)?;
                self.note_guarded(net, link)?;
            }
            Step::GuardUplink { link, .. } => {
                let datapath = self.datapath.as_mut().ok_or("the network programs aren't loaded")?;
                datapath.attach_uplink(link, MAJOR).map_err(|error| text(&error))?;
                self.note_guarded(net, link)?;
            }
            Step::Unguard { link } => {
                if let Some(datapath) = &mut self.datapath {
                    datapath.detach_pod(link).map_err(|error| text(&error))?;
                }
                self.guarded.remove(link);
                self.whole.remove(link);
            }
            step => kernel::act(net, place, step).map_err(|error| text(&error))?,
        }
        Ok(())
    }

    fn note_after(&mut self, step: &Step) {
        match step {
            Step::Up { link } if self.guarded.contains_key(link) => {
                self.whole.insert(link.clone());
            }
            Step::DeleteLink { link } => {
                self.whole.remove(link);
            }
            Step::Restore { key, .. } => {
                self.record.settings.remove(key);
            }
            Step::DeleteTree { link } => {
                self.record.trees.remove(link);
            }
            Step::Translate(nat) => {
                self.record.translated = !nat.is_empty();
                self.nat = Some(nat.clone());
                self.print = if nat.is_empty() { None } else { self.fingerprint() };
            }
            _ => {}
        }
    }

    fn keep(&self, before: &Record) -> Outcome {
        if *before == self.record {
            return Ok(());
        }
        self.disk.write_record(&self.record).map_err(|error| format!("noting what is changed: {error}"))
    }

    fn guard(&mut self, net: &mut Netlink, pod: &PodId, link: &str) -> Outcome {
        let master = net.link(link).map_err(|error| text(&error))?.and_then(|link| link.master);
        let datapath = self.datapath.as_mut().ok_or("the network programs aren't loaded")?;
        let attachment = self.attachments.get(pod).ok_or("the pod isn't attached")?;
        let port = PodPort { addresses: attachment.addresses.clone(), mac: Some(hardware_address(&pod.0)) };
        datapath.attach_pod(link, &port).map_err(|error| text(&error))?;
        master.map_or(Ok(()), |bridge| datapath.lead_past(link, bridge).map_err(|error| text(&error)))
    }

    fn note_guarded(&mut self, net: &mut Netlink, link: &str) -> Outcome {
        let found = net.link(link).map_err(|error| text(&error))?;
        let index = found.ok_or_else(|| format!("interface {link} went"))?.index;
        self.guarded.insert(link.to_owned(), index);
        Ok(())
    }
}
