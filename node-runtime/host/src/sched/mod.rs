//! The scheduler, for real-time tasks: policies, affinities, the groups' real-time budgets, exclusive cpusets, memory-locking limits.
//!
//! Everything that is written can be read back by a function beside it; what decides what to write is `node-runtime/core::realtime`.
//! Roots (cgroups, /proc, /sys) are parameters wherever files are written, so that each layout is tested on a directory.

mod affinity;
mod apart;
mod attributes;
mod cpuset;
mod memlock;
mod partition;
mod probe;
mod rt_group;
mod shield;
mod threads;

pub use affinity::{affinity, online_cpus, set_affinity};
pub use apart::ApartCpus;
pub use attributes::{set_settings, settings};
pub use memlock::{MemoryLock, memory_lock, set_memory_lock};
pub use probe::probe;
pub use rt_group::RtGroups;
pub use threads::{Thread, group_of, last_cpu, processes_of, thread, threads_of};
