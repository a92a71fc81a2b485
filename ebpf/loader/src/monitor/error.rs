//! What can go wrong with the monitor.

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;

use crate::object::BuiltWithoutClang;

/// Why there is no monitor on this node.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    BuiltWithoutClang(#[from] BuiltWithoutClang),
    #[error("reading the kernel's type information (/sys/kernel/btf/vmlinux): {0}")]
    NoBtf(#[source] aya::BtfError),
    #[error("creating the deadline monitor's maps: {}", chain(.0))]
    Object(#[source] Box<EbpfError>),
    #[error("loading BPF program {program} of the deadline monitor: {}", chain(.source))]
    Refused {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("attaching BPF program {program} of the deadline monitor: {}", chain(.source))]
    Attach {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("the deadline monitor's object has no {what} {name}")]
    Missing { what: &'static str, name: &'static str },
    #[error("opening map {map} of the deadline monitor: {}", chain(.source))]
    Map {
        map: &'static str,
        #[source]
        source: MapError,
    },
    #[error("running the iterator that prepares the timers: {0}")]
    Iterator(#[source] LinkError),
    #[error("reading the iterator that prepares the timers: {0}")]
    IteratorRead(#[source] std::io::Error),
    #[error("preparing {wanted} timers: the kernel has no memory for any")]
    Timers { wanted: u32 },
}

impl LoadError {
    /// A reason for a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BuiltWithoutClang(_) => "BuiltWithoutBpf",
            Self::NoBtf(_) => "NoKernelBtf",
            Self::Object(_) | Self::Refused { .. } | Self::Attach { .. } => "BpfRefused",
            Self::Missing { .. } => "BpfObjectBroken",
            Self::Map { .. } | Self::Iterator(_) | Self::IteratorRead(_) | Self::Timers { .. } => "BpfSetupFailed",
        }
    }
}

/// Why a thread isn't watched, or a process not followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("watching thread {pid}: it is gone")]
    NoThread { pid: u32 },
    #[error("watching thread {pid}: it is a kernel thread")]
    KernelThread { pid: u32 },
    #[error("watching thread {pid}: it is watched already")]
    Watched { pid: u32 },
    #[error("thread {pid} isn't watched")]
    NotWatched { pid: u32 },
    #[error("watching thread {pid}: all {capacity} places are taken")]
    Full { pid: u32, capacity: u32 },
    #[error("{attempted}: {}", chain(.source))]
    Map {
        attempted: String,
        #[source]
        source: MapError,
    },
}

/// The causes that aya leaves out of its own messages.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
