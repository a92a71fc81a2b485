//! Names and labels of what the reconcilers create.
//!
//! A ModelInstance is named `package-model-node-hash`. Parts may hold up to 253 characters and dots; the result is a DNS label (at most 63
//! characters, RFC 1123), so that it serves as a host name, a label's value and a file name alike. What is cut off and where one part
//! ends is no loss: the hash covers package, model, node and template.

use pullpiri_crds::instance::Template;
use serde_json::json;

use crate::hash;

/// The longest DNS label (RFC 1123, section 2.1), and the longest value of a Kubernetes label.
pub const MAX_LABEL: usize = 63;

/// The name of the instance of `model` of `package` on `node` with this template.
///
/// # Errors
/// If the template has no JSON form.
pub fn instance_name(package: &str, model: &str, node: &str, template: &Template) -> Result<String, serde_json::Error> {
    let value = json!([package, model, node, serde_json::to_value(template)?]);
    let suffix = hash::suffix(&hash::canonical(&value));
    let stem = format!("{package}-{model}-{node}").replace('.', "-");
    Ok(join(&stem, &suffix))
}

/// `name` as the value of a label: itself if it is short enough, else cut and told apart by a hash.
#[must_use]
pub fn label_value(name: &str) -> String {
    if name.len() <= MAX_LABEL { name.to_owned() } else { join(name, &hash::suffix(name)) }
}

fn join(stem: &str, suffix: &str) -> String {
    let mut end = stem.len().min(MAX_LABEL.saturating_sub(suffix.len() + 1));
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    let stem = stem[..end].trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    if stem.is_empty() { suffix.to_owned() } else { format!("{stem}-{suffix}") }
}
