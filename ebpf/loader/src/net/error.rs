//! What can go wrong with the datapath.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;

use super::compile::CompileError;
use crate::object::BuiltWithoutClang;

/// An operation of the datapath that failed. Nothing is half-applied: an `apply` that fails leaves the generation before it in force.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error(transparent)]
    Object(#[from] BuiltWithoutClang),
    #[error("loading the network programs")]
    Load(#[source] Box<aya::EbpfError>),
    #[error("loading the network program {program}")]
    Program {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("loading the network programs: the object has no {0}")]
    Missing(&'static str),
    #[error("{doing} {path}", path = path.display())]
    Pin {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("looking up network device {device}")]
    Device {
        device: String,
        #[source]
        source: io::Error,
    },
    #[error("attaching {program} to {target}")]
    Attach {
        program: &'static str,
        target: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{doing} map {map}")]
    Map {
        doing: &'static str,
        map: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("pod on {device}: {count} addresses, one IPv4 and one IPv6 at most")]
    Addresses { device: String, count: usize },
    #[error("network device {device} has programs of somebody else, which might read a class as something of theirs")]
    Taken { device: String },
    #[error(transparent)]
    Compile(#[from] CompileError),
}

impl NetError {
    /// A CamelCase reason for a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Object(_) | Self::Missing(_) => "BuiltWithoutBpf",
            Self::Load(_) | Self::Program { .. } => "ProgramRefused",
            Self::Pin { .. } => "PinFailed",
            Self::Device { .. } => "DeviceMissing",
            Self::Attach { .. } => "AttachFailed",
            Self::Map { .. } => "MapFailed",
            Self::Addresses { .. } => "BadAddresses",
            Self::Taken { .. } => "DeviceTaken",
            Self::Compile(_) => "PolicyTooLarge",
        }
    }
}

pub(super) fn map_error(doing: &'static str, map: &'static str) -> impl FnOnce(MapError) -> NetError {
    move |source| NetError::Map { doing, map, source: Box::new(source) }
}

pub(super) fn pin_error(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> NetError {
    let path = path.into();
    move |source| NetError::Pin { doing, path, source }
}
