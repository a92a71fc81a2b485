//! What loaded programs cost: verified instructions, and run time where the kernel counts it.
//!
//! Run time is counted while `kernel.bpf_stats_enabled` is 1 or a descriptor of [`count_run_time`] is open; the counting itself costs some tens of
//! nanoseconds per run, which are part of the number.

use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::programs::ProgramError;
use aya::sys::SyscallError;

#[derive(Debug, thiserror::Error)]
pub enum CostError {
    #[error("reading the kernel's account of BPF program {program}")]
    Info {
        program: String,
        #[source]
        source: ProgramError,
    },
    #[error("asking the kernel to count the run time of BPF programs")]
    Enable(#[source] SyscallError),
}

/// One loaded program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCost {
    pub name: String,
    /// Instructions that the verifier went through: its measure of complexity. 0 before Linux 5.16.
    pub verified_instructions: u32,
    pub runs: u64,
    pub run_time_ns: u64,
}

/// The programs of an object that are loaded, by name.
///
/// # Errors
/// When the kernel doesn't tell (BPF_OBJ_GET_INFO_BY_FD).
pub fn of(ebpf: &Ebpf) -> Result<Vec<ProgramCost>, CostError> {
    let mut costs = Vec::new();
    for (name, program) in ebpf.programs().filter(|(_, program)| program.fd().is_ok()) {
        let info = program.info().map_err(|source| CostError::Info { program: name.to_owned(), source })?;
        costs.push(ProgramCost {
            name: name.to_owned(),
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            runs: info.run_count(),
            run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        });
    }
    costs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(costs)
}

/// Counts run time until the descriptor is closed (BPF_ENABLE_STATS, Linux 5.8).
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn count_run_time() -> Result<OwnedFd, CostError> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(CostError::Enable)
}
