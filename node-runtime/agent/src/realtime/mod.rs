//! Real time: what this node can do, and the threads that it schedules.

mod capabilities;

pub(crate) use capabilities::{Capability, probe};
