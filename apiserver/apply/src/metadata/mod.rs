//! Rules for names, labels, annotations and the rest of metadata.
//!
//! [`decode`] brings the `metadata` of any object into the form that Kubernetes' typed decoder leaves: unknown fields gone, empty
//! ones left out, times in UTC by the second. [`validate`] has the rules of creation and update.

pub mod decode;
pub mod name;
pub mod validate;

pub use name::NameFormat;
pub use validate::{Scope, validate_create, validate_update};
