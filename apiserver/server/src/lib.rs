//! A Kubernetes-compatible API server as a library: the embedded control plane's front door.
//!
//! It knows no kind of the product. Built-in kinds (Namespace, ConfigMap, Secret, …), kinds that arrive as
//! CustomResourceDefinition objects, and *virtual* kinds (never stored on disk, such as signals) are entries of one
//! [`registry`], and the same handlers serve all of them over a [`pullpiri_store::Store`].
//!
//! Modules by decision:
//! * [`registry`]: which resources exist and what each looks like;
//! * `rest`: the verbs on one resource (get, list, watch, create, update, patch, delete) as functions of a request and a store;
//! * `http`: routes, content negotiation, limits, errors as `Status`; `auth`: who asks; `authz`: may they;
//! * [`access`]: roles, bindings and nodes; [`tokens`]: service accounts' credentials; [`reviews`]: questions about both;
//! * `admission`: what happens to an object before it is stored (validation, defaulting, webhooks' room);
//! * `discovery`, `openapi`, `table`: what the server says of its resources;
//! * `gc`, `namespaces`, `crd`: the server's own controllers (owner references, namespace deletion, CRD life cycle);
//! * `connection`: what all listeners do with a connection; `tls`: certificates and kubeconfigs;
//! * `extension`: virtual kinds as an aggregated API of another API server.
//!
//! What the server calls in the modules that describe it and that keep it in order:
//! ```text
//! builtin::resources() -> Vec<Resource>                                   // start-up: cheap, schemas lazy (SchemaCell)
//! crd::resources_of(&Value /* the CRD */, Origin) -> Result<Vec<Resource>, String>   // also for virtual resources
//! crd::load(&Objects) -> Result<(), Status>                               // start-up: registers the stored CRDs
//! crd::run(Objects) / gc::run(Objects) / namespaces::run(Objects, root CA)   // async, until dropped
//! namespaces::ensure_defaults(&Objects) -> Result<(), Status>             // the four usual ones
//! discovery::Discovery::default().serve(&Resources, &http::request::Parts) -> Result<http::Response<Bytes>, Status>
//! openapi::OpenApi::default().serve(&Arc<Resources>, &http::request::Parts) -> Result<http::Response<Bytes>, Status>
//!     // GET under /api, /apis (not a resource's own path) and /openapi; ETag and 304 are theirs, gzip and HEAD the caller's
//! table::column_definitions(&Resource) -> Value                           // the array
//! table::cells(&Resource, object: &Value, now: jiff::Timestamp) -> Vec<Value>
//! ```

pub mod access;
pub mod admission;
pub mod auth;
pub mod authz;
pub mod builtin;
pub mod clock;
mod connection;
pub mod crd;
pub mod discovery;
mod expiry;
mod exposition;
pub mod extension;
pub mod gc;
pub mod http;
mod metrics;
pub mod namespaces;
pub mod objects;
pub mod openapi;
mod policies;
mod quota;
pub mod registry;
mod rest;
pub mod reviews;
pub mod server;
pub mod status;
pub mod table;
pub mod tls;
pub mod tokens;

pub use exposition::prometheus_text;
pub use server::{ApiServer, Config, ServerError};
