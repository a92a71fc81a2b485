//! A Kubernetes-compatible API server as a library: the embedded control plane's front door.
//!
//! It knows no kind of the product. Built-in kinds (Namespace, ConfigMap, Secret, …), kinds that arrive as
//! CustomResourceDefinition objects, and *virtual* kinds (never stored on disk, such as signals) are entries of one
//! [`registry`], and the same handlers serve all of them over a [`pullpiri_store::Store`].
//!
//! Modules by decision:
//! * [`registry`]: which resources exist and what each looks like;
//! * `rest`: the verbs on one resource (get, list, watch, create, update, patch, delete) as functions of a request and a store;
//! * `http`: routes, content negotiation, limits, errors as `Status`; `auth`: who asks; `authz`: may they (RBAC's room);
//! * `admission`: what happens to an object before it is stored (validation, defaulting, webhooks' room);
//! * `discovery`, `openapi`, `table`: what the server says of its resources;
//! * `gc`, `namespaces`, `crd`: the server's own controllers (owner references, namespace deletion, CRD life cycle);
//! * `tls`: certificates and kubeconfigs.

pub mod registry;
