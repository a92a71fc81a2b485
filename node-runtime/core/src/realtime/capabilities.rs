//! What a node can do in real time, from what was probed of its kernel.
//!
//! Shares are parts per million of one CPU. The kernel's own ceilings:
//! * FIFO and RR may take `sched_rt_runtime_us` of every `sched_rt_period_us` (Documentation/scheduler/sched-rt-group.rst), and since 6.12 no more than
//!   the fair server leaves (Documentation/scheduler/sched-deadline.rst, section 4.3), whichever is less;
//! * SCHED_DEADLINE is admitted up to `sched_rt_runtime_us`/`sched_rt_period_us` of a CPU, to which the fair server's own share is charged;
//! * with RT_GROUP_SCHED a group has what its parent's `cpu.rt_runtime_us` leaves beside its siblings, and under a pure version 2 nothing.

use pullpiri_crds::condition::reason;
use pullpiri_crds::node::NodeRealtime;
/// A policy that a task may have.
pub use pullpiri_crds::schedule::SchedulingPolicy as RealTimePolicy;

use super::Fact;
use super::cpus::Cpus;

const WHOLE_PPM: u32 = 1_000_000;
/// The fair server's default: 50 ms of every second (kernel/sched/deadline.c, `fair_server_init`).
const DEFAULT_FAIR_SERVER_PPM: u32 = 50_000;
/// The first kernel with servers for fair tasks: from it on their share is assumed where it can't be read.
const FIRST_WITH_SERVERS: (u32, u32) = (6, 8);

/// What the groups of containers are given of real time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// The kernel doesn't meter groups.
    Unmetered,
    /// `cpu.rt_runtime_us` of version 1: so much is left for our groups.
    Metered { left_ppm: u32 },
}

/// What was found by probing. `Err`: why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Online, and in this process' affinity.
    pub cpus: Cpus,
    /// Major and minor number.
    pub kernel: (u32, u32),
    /// Whether a thread of a container's group could be given each policy.
    pub policies: Vec<(RealTimePolicy, Result<(), String>)>,
    /// `sched_rt_runtime_us` (-1: unlimited) and `sched_rt_period_us`.
    pub bandwidth_us: (i64, u64),
    /// The fair server's share of each CPU, the largest if they differ; `None`: it can't be read.
    pub fair_server_ppm: Option<u32>,
    pub groups: Groups,
    pub exclusive_cpusets: Result<(), String>,
    /// A CPU is set apart for one container.
    pub exclusive_per_container: bool,
    pub monitor: Result<(), String>,
}

impl Capabilities {
    /// The status that a NodeRuntime shows, `None` if no policy works, and its condition RealTime.
    #[must_use]
    pub fn node(&self) -> (Option<NodeRealtime>, Fact) {
        let policies: Vec<RealTimePolicy> =
            self.policies.iter().filter(|(_, works)| works.is_ok()).map(|(policy, _)| *policy).collect();
        let mut lacks: Vec<String> = self
            .policies
            .iter()
            .filter_map(|(policy, works)| works.as_ref().err().map(|why| format!("no {}: {why}", name(*policy))))
            .collect();
        if self.cpus.is_empty() {
            lacks.push("no CPU is online and allowed".to_owned());
        }
        if policies.is_empty() || self.cpus.is_empty() {
            return (None, Fact::no(reason::NO_REAL_TIME, lacks.join("; ")));
        }
        if let Err(why) = &self.exclusive_cpusets {
            lacks.push(format!("SCHED_DEADLINE can't be pinned: {why}"));
        }
        if let Err(why) = &self.monitor {
            lacks.push(format!("deadlines aren't watched: {why}"));
        }
        let fair = self.fair_server();
        let global = self.global_ppm();
        let (_, period_us) = self.bandwidth_us;
        let ppm = |share: u32| i32::try_from(share).unwrap_or(i32::MAX);
        let status = NodeRealtime {
            cpus: self.cpus.to_string(),
            policies,
            fixed_priority_ppm: ppm(global.min(WHOLE_PPM.saturating_sub(fair))),
            fixed_priority_window_ns: i64::try_from(period_us.saturating_mul(1_000)).unwrap_or(i64::MAX).max(1),
            group_ppm: match self.groups {
                Groups::Unmetered => None,
                Groups::Metered { left_ppm } => Some(ppm(left_ppm)),
            },
            deadline_ppm: ppm(global.saturating_sub(fair)),
            exclusive_cpusets: self.exclusive_cpusets.is_ok(),
            exclusive_per_container: self.exclusive_cpusets.is_ok() && self.exclusive_per_container,
            monitor: self.monitor.is_ok(),
        };
        let mut message = format!("CPUs {}", status.cpus);
        for lack in &lacks {
            message.push_str("; ");
            message.push_str(lack);
        }
        (Some(status), Fact::yes(reason::APPLIED, message))
    }

    fn fair_server(&self) -> u32 {
        let assumed = if self.kernel >= FIRST_WITH_SERVERS { DEFAULT_FAIR_SERVER_PPM } else { 0 };
        self.fair_server_ppm.unwrap_or(assumed).min(WHOLE_PPM)
    }

    fn global_ppm(&self) -> u32 {
        let (runtime_us, period_us) = self.bandwidth_us;
        match u64::try_from(runtime_us) {
            Ok(runtime_us) => share_ppm(runtime_us, period_us),
            Err(_) => WHOLE_PPM,
        }
    }
}

/// `part` of `whole` in parts per million, rounded down, at most all of it.
#[must_use]
pub fn share_ppm(part: u64, whole: u64) -> u32 {
    let share = u128::from(part) * u128::from(WHOLE_PPM) / u128::from(whole.max(1));
    u32::try_from(share).unwrap_or(WHOLE_PPM).min(WHOLE_PPM)
}

/// As the kernel names it.
#[must_use]
pub const fn name(policy: RealTimePolicy) -> &'static str {
    match policy {
        RealTimePolicy::Fifo => "SCHED_FIFO",
        RealTimePolicy::RoundRobin => "SCHED_RR",
        RealTimePolicy::Deadline => "SCHED_DEADLINE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Capabilities {
        Capabilities {
            cpus: "0-1".parse().unwrap(),
            kernel: (6, 18),
            policies: vec![(RealTimePolicy::Fifo, Ok(())), (RealTimePolicy::Deadline, Ok(()))],
            bandwidth_us: (950_000, 1_000_000),
            fair_server_ppm: None,
            groups: Groups::Metered { left_ppm: 700_000 },
            exclusive_cpusets: Ok(()),
            exclusive_per_container: false,
            monitor: Ok(()),
        }
    }

    #[test]
    fn ceilings() {
        let shares = |found: &Capabilities| {
            let status = found.node().0.unwrap();
            (status.fixed_priority_ppm, status.deadline_ppm, status.group_ppm)
        };
        assert_eq!(shares(&found()), (950_000, 900_000, Some(700_000)));
        let old = Capabilities { kernel: (6, 1), groups: Groups::Unmetered, ..found() };
        assert_eq!(shares(&old), (950_000, 950_000, None));
        let unlimited = Capabilities { bandwidth_us: (-1, 1_000_000), ..found() };
        assert_eq!(shares(&unlimited), (950_000, 950_000, Some(700_000)));
        let read = Capabilities { fair_server_ppm: Some(200_000), ..found() };
        assert_eq!(shares(&read), (800_000, 750_000, Some(700_000)));
        let off = Capabilities { bandwidth_us: (0, 1_000_000), ..found() };
        assert_eq!(shares(&off), (0, 0, Some(700_000)));
        assert_eq!(found().node().0.unwrap().fixed_priority_window_ns, 1_000_000_000);
    }

    #[test]
    fn what_it_lacks_is_said() {
        let lacking = Capabilities {
            policies: vec![
                (RealTimePolicy::Fifo, Err("Operation not permitted".into())),
                (RealTimePolicy::Deadline, Ok(())),
            ],
            exclusive_cpusets: Err("no cpuset controller".into()),
            monitor: Err("no BTF".into()),
            ..found()
        };
        let (status, fact) = lacking.node();
        assert_eq!(status.unwrap().policies, [RealTimePolicy::Deadline]);
        assert_eq!(
            fact,
            Fact::yes(
                "Applied",
                "CPUs 0-1; no SCHED_FIFO: Operation not permitted; SCHED_DEADLINE can't be pinned: no cpuset controller; deadlines aren't watched: no BTF"
            )
        );
        let nothing = Capabilities { policies: vec![(RealTimePolicy::Fifo, Err("no CAP_SYS_NICE".into()))], ..found() };
        assert_eq!(nothing.node(), (None, Fact::no("NoRealTime", "no SCHED_FIFO: no CAP_SYS_NICE")));
    }

    #[test]
    fn shares_are_rounded_down() {
        assert_eq!((share_ppm(1, 3), share_ppm(5, 4), share_ppm(1, 0)), (333_333, 1_000_000, 1_000_000));
    }
}
