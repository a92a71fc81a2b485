//! Signals: where they come from, and which scenarios they concern.
//!
//! A source (the API server's virtual resource today; DDS, VSS, MQTT and the like later) pushes [`Update`]s into a bounded [`SignalSink`]. When
//! it is full a source waits, which a counter shows; nothing is dropped or merged, because an edge may lie between any two samples. The
//! [`Hub`] at the other end evaluates each sample in order, which takes microseconds; what is merged under load is the *reconciling*: a
//! scenario that waits in the queue keeps its edge and is queued once.

mod api;
mod hub;
mod source;

pub use api::ApiSignals;
pub(crate) use hub::Hub;
pub use source::{Closed, Sample, SignalSink, SignalSource, Update};
