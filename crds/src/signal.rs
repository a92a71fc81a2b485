//! Signal: the latest sample of a vehicle signal, as a virtual resource (`signals.pullpiri.io/v1alpha1`): in memory, never stored.
//!
//! Not a custom resource of the cluster, but described the same way, so that the same API server code serves it. The object's name is the
//! topic, escaped by [`crate::names::signal_name`]. A PUT is a sample; it needs no resourceVersion and creates what isn't there.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde::{Deserialize, Serialize};

/// The API group of signals.
pub const GROUP: &str = "signals.pullpiri.io";
pub const VERSION: &str = "v1alpha1";
pub const PLURAL: &str = "signals";

/// A signal's latest sample.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Signal {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    /// As the source names it, e.g. `PowertrainTransmissionCurrentGear` or `rt/chatter`.
    pub topic: String,
    /// The kind of source: DDS, VSS, MQTT, …
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub source_type: Option<String>,
    /// The fields' values as text.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// When it was sampled; default: when it arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_at: Option<MicroTime>,
}

impl Signal {
    /// A sample of `topic` with the given fields.
    #[must_use]
    pub fn new(topic: &str, fields: BTreeMap<String, String>) -> Self {
        Self {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: "Signal".to_owned(),
            metadata: ObjectMeta { name: Some(crate::names::signal_name(topic)), ..ObjectMeta::default() },
            topic: topic.to_owned(),
            source_type: None,
            fields,
            sampled_at: None,
        }
    }
}

impl k8s_openapi::Resource for Signal {
    const API_VERSION: &'static str = "signals.pullpiri.io/v1alpha1";
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "Signal";
    const VERSION: &'static str = VERSION;
    const URL_PATH_SEGMENT: &'static str = PLURAL;
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for Signal {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The description of the virtual resource, in the form of a CRD.
///
/// # Errors
/// Never in practice: the literal below is a valid CustomResourceDefinition (a test holds that).
pub fn definition() -> Result<CustomResourceDefinition, serde_json::Error> {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{PLURAL}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": "Signal", "listKind": "SignalList", "plural": PLURAL, "singular": "signal",
                "shortNames": ["sig"], "categories": [crate::CATEGORY],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    {"name": "Type", "type": "string", "jsonPath": ".type"},
                    {"name": "Fields", "type": "string", "jsonPath": ".fields"},
                    {"name": "Sampled", "type": "date", "jsonPath": ".sampledAt"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "The latest sample of a vehicle signal. Kept in memory, never stored; a PUT is a sample.",
                    "required": ["topic", "fields"],
                    // As crate::names::signal_name escapes it.
                    "x-kubernetes-validations": [{
                        "rule": "self.metadata.name == self.topic.replace('~', '~0').replace('/', '~1').replace('%', '~2') \
                                 || (self.topic.startsWith('.') && self.metadata.name == '~3' + self.topic.substring(1).replace('~', '~0').replace('/', '~1').replace('%', '~2'))",
                        "messageExpression": "'topic ' + self.topic + ' belongs to another name than ' + self.metadata.name",
                        "fieldPath": ".topic",
                    }],
                    "properties": {
                        "apiVersion": {"type": "string", "description": "The API group and version: signals.pullpiri.io/v1alpha1."},
                        "kind": {"type": "string", "description": "Signal."},
                        "metadata": {"type": "object", "description": "Its name is the topic, with ~0 for ~, ~1 for /, ~2 for % and ~3 for a leading dot."},
                        "topic": {"type": "string", "minLength": 1, "maxLength": crate::names::MAX_TOPIC, "pattern": crate::names::TOPIC, "description": "As the source names it."},
                        "type": {"type": "string", "maxLength": 63, "description": "The kind of source: DDS, VSS, MQTT."},
                        "fields": {
                            "type": "object", "maxProperties": 256, "description": "The fields' values as text.",
                            "additionalProperties": {"type": "string", "maxLength": 1024},
                        },
                        "sampledAt": {"type": "string", "format": "date-time", "description": "When it was sampled."},
                    },
                }},
            }],
        },
    }))
}
