//! PHAROS's datapath: who may talk to whom, and which class of the uplink a packet belongs to (`ebpf/programs/pharos.bpf.c`).
//!
//! ```text
//!  pod's netns │ node
//!        eth0 ─┼─ veth: tcx ingress  pod_egress     whose packet is it? may it leave? its class → skb->tc_index
//!              │        tcx egress   pod_ingress    may it enter? (identities, rules, connections)
//!              │  uplink: tcx ingress uplink_ingress can such a source come from there?
//!              │          tcx egress uplink_egress  class → skb->priority (HTB), code point, counters
//!              │  cgroup v2: egress  host_egress    the same for workloads in the node's own network
//!   a CNI's veth: tcx ingress  guest_egress   the class of a pod whose interface somebody else made; drops nothing
//! ```
//!
//! A generation is written beside the one in force and switched to by one word; maps and links are pinned and adopted by the next process. The
//! devices, addresses, routes, HTB and NAT around it are the node host's.
//!
//! ```no_run
//! # use pullpiri_ebpf::net::{Datapath, PodPort, ensure_bpffs, policy};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! ensure_bpffs("/sys/fs/bpf".as_ref())?;
//! let mut datapath = Datapath::open_or_load("/sys/fs/bpf/pullpiri/ecu1".as_ref())?;
//! datapath.apply(&policy::from_slices(&[])?)?;
//! datapath.attach_pod("pp-1a2b", &PodPort { addresses: vec!["10.20.0.5".parse()?], mac: None })?;
//! datapath.attach_uplink("eth0", 1)?;
//! # Ok(()) }
//! ```

mod attach;
mod compile;
mod counters;
mod datapath;
mod error;
pub mod layout;
mod pins;
pub mod policy;
mod probe;
mod run;

pub use attach::PodPort;
pub use compile::{CompileError, Counted, Tables, compile, counted};
pub use counters::{Counters, DropReason, RoundTrips, Traffic};
pub use datapath::Datapath;
pub use error::NetError;
pub use pins::Hook;
pub use policy::Compiled;
pub use probe::{Support, ensure_bpffs, probe};
pub use run::{Run, RunVerdict};
