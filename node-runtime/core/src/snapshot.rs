//! What the agent knows at one moment: the input of [`decide`](crate::decide()).
//!
//! The agent keeps one `Snapshot` and changes it as messages arrive; deciding reads it and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use pullpiri_crds::ModelInstance;
use pullpiri_crds::model::Adapter;
use serde::{Deserialize, Serialize};

use crate::memory::Memory;
use crate::realtime::Report;
use crate::restart::Backoff;
use crate::runtime::{PodId, PodObserved, Timestamp};

/// Everything that a decision depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub now: Timestamp,
    pub node: Node,
    pub instances: BTreeMap<PodId, Instance>,
    /// What the runtimes have. A pod may exist on two adapters, if one of them was away when the other was asked.
    pub pods: BTreeMap<(PodId, Adapter), PodObserved>,
    /// ConfigMaps and Secrets that instances refer to.
    pub data: BTreeMap<DataRef, DataState>,
    /// Instances that have a directory of volumes on this node's disk.
    pub directories: BTreeSet<PodId>,
    /// Pods that are being made: they may hold ports and devices already, and are in `pods` once they run.
    pub starting: BTreeSet<PodId>,
    /// What of the node's network decides about pods.
    pub network: crate::network::NodeState,
    /// Whether the API server has told all instances of this node. Before that, an instance that only the ledger knows is wanted, and
    /// a pod that nobody knows is left alone.
    pub synced: bool,
}

/// What doesn't change from one decision to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub default_adapter: Adapter,
    pub adapters: BTreeMap<Adapter, AdapterState>,
    /// Absolute. An instance's volumes are `<volumes>/<uid>/<volume>`.
    pub volumes: PathBuf,
    pub backoff: Backoff,
}

impl Node {
    /// Whether `adapter` answers and its pods are in the snapshot.
    #[must_use]
    pub fn is_ready(&self, adapter: Adapter) -> bool {
        matches!(self.adapters.get(&adapter), Some(AdapterState::Ready))
    }

    /// Where an instance's volumes are.
    #[must_use]
    pub fn directory(&self, id: &PodId) -> PathBuf {
        self.volumes.join(&id.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterState {
    /// It answers, and every pod it has is in the snapshot.
    Ready,
    Unavailable {
        message: String,
    },
}

/// One ModelInstance of this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    /// As the API server has it; `None` if it doesn't, or if nobody could ask.
    pub object: Option<Arc<ModelInstance>>,
    /// What this node remembers of it; the ledger's content.
    pub memory: Memory,
    /// How its real-time tasks stand; `None` until somebody looked.
    pub realtime: Option<Report>,
}

/// A ConfigMap or Secret. As text: `configmap/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DataRef {
    pub kind: DataKind,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataKind {
    ConfigMap,
    Secret,
}

impl fmt::Display for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DataKind::ConfigMap => "configmap",
            DataKind::Secret => "secret",
        };
        write!(f, "{kind}/{}/{}", self.namespace, self.name)
    }
}

impl From<DataRef> for String {
    fn from(data: DataRef) -> Self {
        data.to_string()
    }
}

/// Why a text is no [`DataRef`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} names no data; expected configmap/<namespace>/<name> or secret/<namespace>/<name>")]
pub struct DataRefError {
    given: String,
}

impl FromStr for DataRef {
    type Err = DataRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || DataRefError { given: text.to_owned() };
        let mut parts = text.split('/');
        let kind = match parts.next() {
            Some("configmap") => DataKind::ConfigMap,
            Some("secret") => DataKind::Secret,
            _ => return Err(error()),
        };
        match (parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(name), None) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for DataRef {
    type Error = DataRefError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Whether a ConfigMap or Secret is there. A reference that has no entry hasn't been asked for yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataState {
    Absent,
    Present(DataObject),
    /// The API server doesn't let this node read it, in its words.
    Refused {
        message: String,
    },
}

/// What a ConfigMap or Secret holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataObject {
    /// The object's resourceVersion.
    pub version: String,
    pub entries: BTreeMap<String, Content>,
}

/// Bytes that may be secret: they are never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Content(pub ByteString);

impl Content {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.0
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(ByteString(bytes))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_back_what_they_print() {
        let secret = DataRef { kind: DataKind::Secret, namespace: "a".into(), name: "b.c".into() };
        assert_eq!(secret.to_string().parse(), Ok(secret));
        for bad in ["", "secret", "secret/a", "secret//b", "secret/a/", "secret/a/b/c", "pod/a/b"] {
            assert!(bad.parse::<DataRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn content_is_never_printed() {
        let content = Content::from(b"hunter2".to_vec());
        assert_eq!(format!("{content:?}"), "7 B");
    }
}
