//! What the API server does to objects, as pure functions over JSON: structural schemas (defaulting, pruning, validation,
//! CEL), the four patch types, field ownership and server-side apply, selectors, and the rules for names and metadata.
//!
//! Nothing here knows a clock, a socket or a store. Behaviour, messages included, is kube-apiserver's (Kubernetes 1.37), because
//! kubectl, client-go and kube-rs parse them.

pub mod error;
pub mod managed;
pub mod metadata;
pub mod patch;
pub mod schema;
pub mod selector;
