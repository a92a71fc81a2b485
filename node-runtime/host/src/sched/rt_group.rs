//! Real-time budgets of groups: `cpu.rt_runtime_us` of the version 1 cpu controller, on kernels with RT_GROUP_SCHED.
//!
//! A group's threads may be SCHED_FIFO or SCHED_RR only while it has a budget, on each CPU in each `cpu.rt_period_us`; the budgets of siblings together
//! may not exceed their parent's, and one can't fall to 0 under such threads (Documentation/scheduler/sched-rt-group.rst). So budgets
//! are raised from above, and lowered from below.
//!
//! A budget should be lowered two periods after it was needed last: of what a group has consumed, its budget is taken off once in a period
//! (`do_sched_rt_period_timer`), so with a small one what was consumed under a large one keeps the group's threads off the CPU for long.

use std::path::{Path, PathBuf};

use crate::cgroup::{Cgroups, Layout, PARENT, children, is_gone, write};
use crate::{Result, SysError};

const RUNTIME: &str = "cpu.rt_runtime_us";
const PERIOD: &str = "cpu.rt_period_us";

/// The groups of the version 1 cpu controller, with budgets.
#[derive(Clone, Debug)]
pub struct RtGroups {
    mount: PathBuf,
}

impl RtGroups {
    /// `None`: this kernel meters no groups, or they are version 2's, which has no budgets.
    #[must_use]
    pub fn find(cgroups: &Cgroups) -> Option<Self> {
        if cgroups.layout() == Layout::Unified {
            return None;
        }
        Self::at(&cgroups.controller_path("cpu", "")?)
    }

    fn at(mount: &Path) -> Option<Self> {
        mount.join(RUNTIME).exists().then(|| Self { mount: mount.to_owned() })
    }

    /// A group's budget in microseconds of each period; `None` if the group is gone. The root's `-1` is its whole period.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn runtime_us(&self, group: &str) -> Result<Option<u64>> {
        let Some(value) = read(&self.mount.join(group).join(RUNTIME))? else { return Ok(None) };
        match u64::try_from(value) {
            Ok(runtime) => Ok(Some(runtime)),
            Err(_) => self.period_us(group),
        }
    }

    /// A group's period in microseconds; `None` if the group is gone.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn period_us(&self, group: &str) -> Result<Option<u64>> {
        Ok(read(&self.mount.join(group).join(PERIOD))?.and_then(|value| u64::try_from(value).ok()))
    }

    /// What of the root's budget isn't given to groups other than `ours`, in microseconds of each period.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn left_us(&self, ours: &[&str]) -> Result<u64> {
        let mut left = self.runtime_us("")?.unwrap_or(0);
        let root_period = self.period_us("")?.unwrap_or(1).max(1);
        let groups = children(&self.mount)
            .map_err(|error| SysError::io(format!("listing the groups in {}", self.mount.display()), error))?;
        for path in groups {
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !ours.contains(name)) else {
                continue;
            };
            let runtime = self.runtime_us(name)?.unwrap_or(0);
            let period = self.period_us(name)?.unwrap_or(root_period).max(1);
            let share = u128::from(runtime) * u128::from(root_period) / u128::from(period);
            left = left.saturating_sub(u64::try_from(share).unwrap_or(u64::MAX));
        }
        Ok(left)
    }

    /// Gives a group its budget, in microseconds of each period, and those above it as much more or less. Below [`PARENT`], where all groups are ours, what
    /// is above has at least what those below it have together, whatever a crash left, and no more once one of them was lowered.
    ///
    /// `held_us`: what the group was given, in case it is gone by now: then only those above change.
    ///
    /// # Errors
    /// EINVAL: more than there is. EBUSY: 0 under real-time threads.
    pub fn set(&self, group: &str, held_us: u64, wanted_us: u64) -> Result<()> {
        let now = self.runtime_us(group)?;
        let wanted_us = if now.is_some() { wanted_us } else { 0 };
        let before = now.unwrap_or(held_us);
        let above: Vec<&str> = group.match_indices('/').rev().map(|(at, _)| &group[..at]).collect();
        if wanted_us > before {
            for (ancestor, budget) in self.raised(&above, before, wanted_us)?.into_iter().rev() {
                self.write(ancestor, budget)?;
            }
            return self.write(group, wanted_us);
        }
        if now.is_some_and(|now| now != wanted_us) {
            self.write(group, wanted_us)?;
        }
        for ancestor in above {
            let Some(now) = self.runtime_us(ancestor)? else { continue };
            let next = match is_ours(ancestor) {
                true => self.below_us(ancestor)?.min(now),
                false => now.saturating_sub(before - wanted_us),
            };
            if next != now {
                self.write(ancestor, next)?;
            }
        }
        Ok(())
    }

    /// What the groups above are to have when one that has `before` gets `wanted`, from below; only those that change.
    fn raised<'a>(&self, above: &[&'a str], mut before: u64, mut wanted: u64) -> Result<Vec<(&'a str, u64)>> {
        let mut raised = Vec::new();
        for ancestor in above {
            let Some(now) = self.runtime_us(ancestor)? else { continue };
            let more = wanted.saturating_sub(before);
            let next = match is_ours(ancestor) {
                true => now.max(self.below_us(ancestor)?.saturating_add(more)),
                false => now.saturating_add(more),
            };
            if next != now {
                raised.push((*ancestor, next));
            }
            (before, wanted) = (now, next);
        }
        Ok(raised)
    }

    /// What the groups right below have together.
    fn below_us(&self, group: &str) -> Result<u64> {
        let path = self.mount.join(group);
        let failed = |error| SysError::io(format!("listing the groups in {}", path.display()), error);
        let mut sum: u64 = 0;
        for child in children(&path).map_err(failed)? {
            let name = child.strip_prefix(&self.mount).ok().and_then(|name| name.to_str());
            let runtime = name.map(|name| self.runtime_us(name)).transpose()?.flatten();
            sum = sum.saturating_add(runtime.unwrap_or(0));
        }
        Ok(sum)
    }

    fn write(&self, group: &str, runtime_us: u64) -> Result<()> {
        match write(&self.mount.join(group).join(RUNTIME), &runtime_us.to_string()) {
            Err(error) if is_gone(&error.source) => Ok(()),
            outcome => outcome,
        }
    }
}

fn is_ours(group: &str) -> bool {
    group == PARENT || group.strip_prefix(PARENT).is_some_and(|rest| rest.starts_with('/'))
}

/// `None`: the file is gone.
fn read(file: &Path) -> Result<Option<i64>> {
    let failed = |error| SysError::io(format!("reading {}", file.display()), error);
    match std::fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map(Some).map_err(|error| failed(std::io::Error::other(error))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::DEFAULT_ROOT;

    fn tree(groups: &[(&str, &str)]) -> (tempfile::TempDir, RtGroups) {
        let dir = tempfile::tempdir().unwrap();
        for (group, runtime) in groups {
            let path = dir.path().join("cpu").join(group);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(RUNTIME), format!("{runtime}\n")).unwrap();
            std::fs::write(path.join(PERIOD), "1000000\n").unwrap();
            std::fs::write(path.join("cgroup.procs"), "").unwrap();
        }
        let groups = RtGroups::find(&Cgroups::probe(dir.path()).unwrap()).unwrap();
        (dir, groups)
    }

    #[test]
    fn budgets_are_read_and_set() {
        let zero = ["pullpiri", "pullpiri/p", "pullpiri/p/c", "pullpiri/p/d", "other/c"].map(|group| (group, "0"));
        let (dir, groups) = tree(&[&zero[..], &[("", "950000"), ("other", "100000")]].concat());
        assert_eq!(groups.left_us(&["pullpiri"]).unwrap(), 850_000);
        let of = |group: &str| groups.runtime_us(group).unwrap();
        groups.set("pullpiri/p/c", 0, 50_000).unwrap();
        assert_eq!(["pullpiri", "pullpiri/p", "pullpiri/p/c"].map(of), [Some(50_000); 3]);
        groups.set("pullpiri/p/d", 0, 20_000).unwrap();
        groups.set("pullpiri/p/c", 50_000, 10_000).unwrap();
        assert_eq!(["pullpiri", "pullpiri/p", "pullpiri/p/c"].map(of), [Some(30_000), Some(30_000), Some(10_000)]);
        assert_eq!(groups.left_us(&["pullpiri"]).unwrap(), 850_000);
        assert_eq!(groups.left_us(&[]).unwrap(), 820_000);
        // One that comes lowers nothing: what another had that is gone is given back in its turn.
        std::fs::remove_dir_all(dir.path().join("cpu/pullpiri/p/d")).unwrap();
        groups.set("pullpiri/p/c", 10_000, 20_000).unwrap();
        assert_eq!(["pullpiri", "pullpiri/p", "pullpiri/p/c"].map(of), [Some(30_000), Some(30_000), Some(20_000)]);
        groups.set("pullpiri/p/d", 20_000, 20_000).unwrap();
        assert_eq!(["pullpiri", "pullpiri/p", "pullpiri/p/d"].map(of), [Some(20_000), Some(20_000), None]);
        groups.set("pullpiri/p/c", 20_000, 0).unwrap();
        assert_eq!(["pullpiri", "pullpiri/p", "pullpiri/p/c"].map(of), [Some(0); 3]);
        // Where groups are somebody else's, what is above keeps what it had beside.
        groups.set("other/c", 0, 5_000).unwrap();
        assert_eq!(["other", "other/c"].map(of), [Some(105_000), Some(5_000)]);
        groups.set("other/c", 5_000, 0).unwrap();
        assert_eq!(["other", "other/c"].map(of), [Some(100_000), Some(0)]);
        let (_dir, unlimited) = tree(&[("", "-1")]);
        assert_eq!(unlimited.left_us(&[]).unwrap(), 1_000_000);
    }

    #[test]
    fn other_layouts_have_no_budgets() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu\n").unwrap();
        assert!(RtGroups::find(&Cgroups::probe(dir.path()).unwrap()).is_none());
        let legacy = tempfile::tempdir().unwrap();
        std::fs::create_dir(legacy.path().join("cpu")).unwrap();
        std::fs::write(legacy.path().join("cpu/cgroup.procs"), "").unwrap();
        assert!(RtGroups::find(&Cgroups::probe(legacy.path()).unwrap()).is_none(), "no RT_GROUP_SCHED");
    }

    /// Against the kernel: raised from above, lowered from below.
    #[test]
    fn the_kernel_takes_them_in_this_order() {
        let cgroups = match Cgroups::probe(Path::new(DEFAULT_ROOT)) {
            Ok(cgroups) => cgroups,
            Err(error) => return println!("skipped: {error}"),
        };
        let Some(groups) = RtGroups::find(&cgroups) else {
            return println!("skipped: no cpu.rt_runtime_us (RT_GROUP_SCHED, cgroup version 1)");
        };
        let test = format!("{PARENT}-rt-group-test-{}", std::process::id());
        let (a, b) = (format!("{test}/a"), format!("{test}/b"));
        for group in [&a, &b] {
            if let Err(error) = std::fs::create_dir_all(cgroups.controller_path("cpu", group).unwrap()) {
                return println!("skipped: making a cgroup: {error}");
            }
        }
        let outcome = groups
            .set(&a, 0, 20_000)
            .and_then(|()| groups.set(&a, 20_000, 5_000))
            .and_then(|()| groups.set(&b, 0, 10_000));
        let read = [&test, &a, &b].map(|group| groups.runtime_us(group).ok().flatten());
        let too_much = groups.set(&a, 5_000, 1_000_001);
        let back = groups.set(&a, 5_000, 0).and_then(|()| groups.set(&b, 10_000, 0));
        let left = groups.runtime_us(&test);
        for group in [&a, &b, &test] {
            std::fs::remove_dir(cgroups.controller_path("cpu", group).unwrap()).unwrap();
        }
        if let Err(error) = &outcome
            && error.raw_os_error() == Some(libc::EACCES)
        {
            return println!("skipped: {error}");
        }
        outcome.unwrap();
        assert_eq!(read, [Some(15_000), Some(5_000), Some(10_000)]);
        assert_eq!(too_much.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        back.unwrap();
        assert_eq!(left.unwrap(), Some(0));
    }
}
