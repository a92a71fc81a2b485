//! Limits as the kernel's files have them, for each version.

use std::path::Path;

use pullpiri_node_core::runtime::Limits;

use super::{make, write};
use crate::{Result, SysError};

/// Those that version 2 is asked to distribute to our groups.
const USED_UNIFIED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The scheduling period of CPU quotas, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses quotas below.
const MIN_CPU_QUOTA_US: u64 = 1_000;
/// Bounds of cpu.shares (kernel/sched/sched.h).
const MIN_CPU_SHARES: u64 = 2;
const MAX_CPU_SHARES: u64 = 262_144;
const DEFAULT_CPU_SHARES: u64 = 1_024;

/// Sets one version 1 controller's part of a group that is there.
pub(super) fn set(controller: &str, path: &Path, group: &str, limits: &Limits, devices: &[String]) -> Result<()> {
    match controller {
        "cpu" => {
            write(&path.join("cpu.shares"), &cpu_shares(limits).unwrap_or(DEFAULT_CPU_SHARES).to_string())?;
            let quota = cpu_quota_us(limits);
            // Absent without CONFIG_CFS_BANDWIDTH, which only matters to who asks for it.
            let file = path.join("cpu.cfs_quota_us");
            if quota.is_none() && !file.exists() {
                return Ok(());
            }
            if quota.is_some() {
                write(&path.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
            }
            write(&file, &quota.map_or_else(|| "-1".to_owned(), |q| q.to_string()))
        }
        "memory" => limit_memory(path, limits.memory_bytes),
        "pids" => write(&path.join("pids.max"), &limits.pids.map_or_else(|| "max".to_owned(), |l| l.to_string())),
        "cpuset" => inherit_cpuset(path, group),
        "devices" => {
            write(&path.join("devices.deny"), "a")?;
            devices.iter().try_for_each(|rule| write(&path.join("devices.allow"), rule))
        }
        _ => Ok(()),
    }
}

/// Thousandths of a CPU as a quota in each period.
fn cpu_quota_us(limits: &Limits) -> Option<u64> {
    limits.cpu_millis.map(|m| m.saturating_mul(CPU_PERIOD_US / 1_000).max(MIN_CPU_QUOTA_US))
}

/// A request as shares of 1024 per CPU. A limit alone is a request of the same size, as in Kubernetes.
fn cpu_shares(limits: &Limits) -> Option<u64> {
    let millis = limits.cpu_request_millis.or(limits.cpu_millis)?;
    Some((millis.saturating_mul(1_024) / 1_000).clamp(MIN_CPU_SHARES, MAX_CPU_SHARES))
}

/// Shares as a version 2 weight of 1 to 10000, linearly, as every runtime converts them.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.saturating_sub(MIN_CPU_SHARES) * 9_999) / (MAX_CPU_SHARES - MIN_CPU_SHARES)
}

fn limit_memory(path: &Path, limit: Option<u64>) -> Result<()> {
    let (memory, with_swap) = (path.join("memory.limit_in_bytes"), path.join("memory.memsw.limit_in_bytes"));
    let value = limit.map_or_else(|| "-1".to_owned(), |l| l.to_string());
    // Without swap accounting there is no second file. With it, the sum may never be less than the part, so which comes first depends
    // on whether the limit rises.
    if !with_swap.exists() {
        return write(&memory, &value);
    }
    write(&memory, &value).and_then(|()| write(&with_swap, &value)).or_else(|_| {
        write(&with_swap, &value)?;
        write(&memory, &value)
    })
}

/// A version 1 cpuset is empty when it is made and must be filled from above before a process can enter it.
fn inherit_cpuset(path: &Path, group: &str) -> Result<()> {
    let depth = group.split('/').count();
    let mut chain: Vec<&Path> = path.ancestors().take(depth + 1).collect();
    chain.reverse();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        for pair in chain.windows(2) {
            let [above, below] = pair else { continue };
            let there = std::fs::read_to_string(below.join(file))
                .map_err(|e| SysError::io(format!("reading {}", below.join(file).display()), e))?;
            if there.trim().is_empty() {
                let value = std::fs::read_to_string(above.join(file))
                    .map_err(|e| SysError::io(format!("reading {}", above.join(file).display()), e))?;
                write(&below.join(file), value.trim())?;
            }
        }
    }
    Ok(())
}

/// Makes a version 2 group with its limits, having its parents distribute what they need.
pub(super) fn set_unified(root: &Path, group: &str, limits: &Limits) -> Result<()> {
    let path = root.join(group);
    make(&path)?;
    let depth = group.split('/').count();
    let mut above: Vec<&Path> = path.ancestors().skip(1).take(depth).collect();
    above.reverse();
    for parent in above {
        let offered = std::fs::read_to_string(parent.join("cgroup.controllers"))
            .map_err(|e| SysError::io(format!("reading the controllers of {}", parent.display()), e))?;
        let wanted: Vec<String> =
            offered.split_ascii_whitespace().filter(|c| USED_UNIFIED.contains(c)).map(|c| format!("+{c}")).collect();
        write(&parent.join("cgroup.subtree_control"), &wanted.join(" "))?;
    }
    let set = |file: &str, value: Option<String>, default: &str| {
        let file = path.join(file);
        match value {
            Some(value) => write(&file, &value),
            None if file.exists() => write(&file, default),
            None => Ok(()),
        }
    };
    set("cpu.max", cpu_quota_us(limits).map(|q| format!("{q} {CPU_PERIOD_US}")), "max")?;
    set("cpu.weight", cpu_shares(limits).map(|s| cpu_weight(s).to_string()), "100")?;
    set("memory.max", limits.memory_bytes.map(|b| b.to_string()), "max")?;
    if path.join("memory.swap.max").exists() {
        // A limit that swap could be had beside would be none.
        set("memory.swap.max", limits.memory_bytes.map(|_| "0".to_owned()), "max")?;
    }
    set("pids.max", limits.pids.map(|p| p.to_string()), "max")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_numbers_stay_in_the_kernels_bounds() {
        let limits = |cpu_millis, cpu_request_millis| Limits { cpu_millis, cpu_request_millis, ..Limits::default() };
        assert_eq!(cpu_quota_us(&limits(Some(1), None)), Some(1_000));
        assert_eq!(cpu_quota_us(&limits(None, Some(1))), None);
        assert_eq!(cpu_shares(&limits(Some(1), None)), Some(2));
        assert_eq!(cpu_shares(&limits(Some(u64::MAX), None)), Some(MAX_CPU_SHARES));
        assert_eq!((cpu_weight(2), cpu_weight(1_024), cpu_weight(MAX_CPU_SHARES)), (1, 39, 10_000));
    }
}
