//! Scripts of requests, as YAML: `e2e/conformance/differential/*.yaml`, each a list of scripts.
//!
//! A script gets a namespace of its own, `$NS`. A step is one request (`do`), one watch (`watch`) or one wait (`await`). `keep` takes values
//! out of an answer, per server, for later steps: `$NAME`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::E2eError;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What it is about.
    pub script: String,
    /// Whether the script wants a namespace `$NS`.
    #[serde(default = "yes")]
    pub namespace: bool,
    /// Parts of every answer that aren't compared, each with the reason. Those of the script `everywhere` are for all scripts.
    #[serde(default)]
    pub ignore: BTreeMap<String, String>,
    #[serde(default)]
    pub steps: Vec<Step>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `METHOD PATH`
    #[serde(default, rename = "do")]
    pub request: Option<String>,
    /// The path of a watch; the first `events` events are compared.
    #[serde(default)]
    pub watch: Option<String>,
    #[serde(default)]
    pub events: usize,
    /// A path that is asked until it answers with `status`.
    #[serde(default, rename = "await")]
    pub awaited: Option<String>,
    #[serde(default)]
    pub status: Option<u16>,
    /// Of the body: json (default), merge, strategic, json-patch, apply, yaml, or a media type.
    #[serde(default, rename = "type")]
    pub content_type: Option<String>,
    /// json (default), table, metadata, or a media type.
    #[serde(default)]
    pub accept: Option<String>,
    #[serde(default)]
    pub body: Option<Value>,
    /// The body as it is, where it isn't (good) JSON.
    #[serde(default)]
    pub text: Option<String>,
    /// A body of this many bytes, in a field of a ConfigMap.
    #[serde(default)]
    pub big: Option<usize>,
    #[serde(default)]
    pub keep: BTreeMap<String, String>,
    /// A request that both servers must refuse.
    #[serde(default)]
    pub bad: bool,
    /// Why the answers differ. It is an error if they don't.
    #[serde(default)]
    pub differs: Option<String>,
    /// Why the message is worded differently. Status, reason and the fields that are wrong are compared all the same.
    #[serde(default)]
    pub wording: Option<String>,
    /// Parts of the answer that aren't compared (JSON pointers; `*` is every index), each with the reason.
    #[serde(default)]
    pub ignore: BTreeMap<String, String>,
}

impl Step {
    /// What the step asks, for messages.
    #[must_use]
    pub fn title(&self) -> String {
        let what = self.request.clone().or_else(|| self.watch.as_ref().map(|path| format!("WATCH {path}")));
        what.or_else(|| self.awaited.as_ref().map(|path| format!("AWAIT {path}"))).unwrap_or_default()
    }

    /// A media type by its short name.
    #[must_use]
    pub fn content_type(&self) -> &str {
        match self.content_type.as_deref() {
            None | Some("json") => "application/json",
            Some("merge") => "application/merge-patch+json",
            Some("strategic") => "application/strategic-merge-patch+json",
            Some("json-patch") => "application/json-patch+json",
            Some("apply") => "application/apply-patch+yaml",
            Some("yaml") => "application/yaml",
            Some(other) => other,
        }
    }

    #[must_use]
    pub fn accept(&self) -> &str {
        match self.accept.as_deref() {
            None | Some("json") => "application/json",
            Some("table") => "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some("metadata") => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            Some("metadata-list") => "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            Some(other) => other,
        }
    }
}

/// The name of the script whose `ignore` is for all.
pub const EVERYWHERE: &str = "everywhere";

/// Every script of a folder, in the order of the files' names.
///
/// # Errors
/// A file that can't be read or isn't a list of scripts.
pub fn load(folder: &Path) -> Result<Vec<Script>, E2eError> {
    let failed = |error: &dyn std::fmt::Display| E2eError::failed(format!("reading {}", folder.display()), error);
    let mut files: Vec<_> =
        fs::read_dir(folder).map_err(|e| failed(&e))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut scripts = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|e| failed(&e))?;
        let of_file: Vec<Script> = serde_saphyr::from_str(&text)
            .map_err(|error| E2eError::failed(format!("reading {}", file.display()), error))?;
        scripts.extend(of_file);
    }
    Ok(scripts)
}
