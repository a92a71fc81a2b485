//! CustomResourceDefinitions become resources.

mod conditions;
mod naming;
mod resources;
pub mod strategy;
mod validation;

pub use resources::resources_of;

/// The CRD that golden files are made from.
#[cfg(test)]
pub(crate) fn sample() -> serde_json::Value {
    serde_json::from_str(include_str!("sample.json")).expect("the sample is JSON")
}
