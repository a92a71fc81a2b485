//! Label and field selectors, with the grammar, the texts and the errors of kube-apiserver.

pub mod field;
pub mod label;

pub use field::FieldSelector;
pub use label::LabelSelector;

/// Why a selector can't be used. The text is what the client sees in a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);
