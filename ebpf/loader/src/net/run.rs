//! One packet through a program, in the kernel and without a wire: BPF_PROG_TEST_RUN (docs.kernel.org/bpf/bpf_prog_run.html).

use std::time::Duration;

use aya::TestRunOptions;
use aya::programs::{CgroupSkb, SchedClassifier, TestRun, TestRunResult};

use super::attach::{PodPort, port_entry};
use super::datapath::Datapath;
use super::error::{NetError, map_error};
use super::layout::host_address;
use super::pins::Hook;

/// `struct __sk_buff` of 6.x (linux/bpf.h) in bytes, and where some of its fields are.
const SK_BUFF_BYTES: usize = 192;
const PRIORITY_AT: usize = 32;
const INGRESS_AT: usize = 36;
const IFINDEX_AT: usize = 40;
/// The loopback device, which every network namespace has.
const LOOPBACK: u32 = 1;

/// What a program does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunVerdict {
    Pass,
    Drop,
}

/// One packet's way through a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub verdict: RunVerdict,
    /// `skb->priority` afterwards.
    pub priority: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// The mean over all repetitions.
    pub duration: Duration,
}

impl Datapath {
    /// Makes the loopback device stand for a pod's interface (without attaching anything), so that `run` has one.
    ///
    /// # Errors
    /// When the entry can't be written.
    pub fn set_run_port(&mut self, port: &PodPort) -> Result<(), NetError> {
        let entry = port_entry("lo", port)?;
        self.ports.insert(LOOPBACK, entry, 0).map_err(map_error("writing", "pharos_ports"))
    }

    /// Makes the loopback device stand for an uplink.
    ///
    /// # Errors
    /// When the entry can't be written.
    pub fn set_run_uplink(&mut self, htb_major: u16) -> Result<(), NetError> {
        self.uplinks.insert(LOOPBACK, u32::from(htb_major), 0).map_err(map_error("writing", "pharos_uplinks"))
    }

    /// Makes whoever calls `run`, by its cgroup's id (v2, the directory's inode), a workload in the node's own network.
    ///
    /// # Errors
    /// When the entry can't be written.
    pub fn set_run_host(&mut self, cgroup_id: u64, uid: &str) -> Result<(), NetError> {
        self.hosts.insert(cgroup_id, host_address(uid), 0).map_err(map_error("writing", "pharos_hosts"))
    }

    /// Runs a frame (from its Ethernet header on, 14 bytes at least) through a program `repeat` times. Connections and counters change as on a
    /// wire.
    ///
    /// # Errors
    /// When the kernel refuses the frame.
    pub fn run(&self, hook: Hook, frame: &[u8], repeat: u32) -> Result<Run, NetError> {
        self.run_from(hook, frame, repeat, 0)
    }

    /// The same for a frame that came by the interface `ingress`; 0 is the node itself.
    ///
    /// # Errors
    /// As `run`.
    pub fn run_from(&self, hook: Hook, frame: &[u8], repeat: u32, ingress: u32) -> Result<Run, NetError> {
        let mut context = [0; SK_BUFF_BYTES];
        for (at, value) in [(IFINDEX_AT, LOOPBACK), (INGRESS_AT, ingress)] {
            for (byte, value) in context.iter_mut().skip(at).zip(value.to_ne_bytes()) {
                *byte = value;
            }
        }
        let mut after = [0; SK_BUFF_BYTES];
        let mut packet = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut packet),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            repeat,
            ..TestRunOptions::default()
        };
        let result = self.test_run(hook, options)?;
        // TCX_NEXT is -1, TC_ACT_SHOT 2; a cgroup's program lets pass with 1.
        let passes = if hook == Hook::HostEgress { 1 } else { u32::MAX };
        packet.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
        let mut priority = [0; 4];
        for (to, from) in priority.iter_mut().zip(after.iter().skip(PRIORITY_AT)) {
            *to = *from;
        }
        Ok(Run {
            verdict: if result.return_value == passes { RunVerdict::Pass } else { RunVerdict::Drop },
            priority: u32::from_ne_bytes(priority),
            packet,
            duration: result.duration,
        })
    }

    fn test_run(&self, hook: Hook, options: TestRunOptions<'_>) -> Result<TestRunResult, NetError> {
        let failed = |source| NetError::Program { program: hook.program(), source: Box::new(source) };
        let program = self.ebpf.program(hook.program()).ok_or(NetError::Missing(hook.program()))?;
        let ran = match hook {
            Hook::HostEgress => <&CgroupSkb>::try_from(program).and_then(|program| program.test_run(options)),
            _ => <&SchedClassifier>::try_from(program).and_then(|program| program.test_run(options)),
        };
        ran.map_err(failed)
    }
}
