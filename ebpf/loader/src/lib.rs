//! BPF programs of the node runtime: loading, attaching, and the maps they share with it.

pub mod cost;
pub mod monitor;
pub mod net;
pub mod object;
