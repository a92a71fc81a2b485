//! A Model with what its Package gives it, resolved into a template that needs nothing else (but for the data of ConfigMaps and Secrets).

use std::collections::BTreeSet;

use pullpiri_crds::condition::reason;
use pullpiri_crds::instance::Template;
use pullpiri_crds::model::ModelVolume;
use pullpiri_crds::package::PackageModel;
use pullpiri_crds::volume::VolumeSpec;

use super::snapshot::Snapshot;

/// What kubectl keeps to itself.
const KUBECTL: &str = "kubectl.kubernetes.io/";

/// Why a model can't be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("model {model} doesn't exist")]
    Model { model: String },
    #[error("model {model}: volume {volume} doesn't exist")]
    Volume { model: String, volume: String },
    #[error("model {model}: network {network} doesn't exist")]
    Network { model: String, network: String },
    #[error("model {model}: both the model and its package define a volume {volume}")]
    VolumeConflict { model: String, volume: String },
    #[error(
        "model {model}: container {container} mounts {volume}, which is neither a volume of the model nor the one that its package gives it"
    )]
    Mount { model: String, container: String, volume: String },
    #[error("model {model}: its template has no JSON form: {cause}")]
    Template { model: String, cause: String },
}

impl Unresolved {
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Model { .. } => reason::MODEL_NOT_FOUND,
            Self::Volume { .. } | Self::Mount { .. } => reason::VOLUME_NOT_FOUND,
            Self::Network { .. } => reason::NETWORK_NOT_FOUND,
            Self::VolumeConflict { .. } => reason::VOLUME_CONFLICT,
            Self::Template { .. } => reason::INVALID_TEMPLATE,
        }
    }
}

/// Resolves one model of a package.
///
/// # Errors
/// Everything that is missing or contradicts itself, so that one look tells all of it.
pub fn resolve(entry: &PackageModel, snapshot: &Snapshot) -> Result<Template, Vec<Unresolved>> {
    let model_name = &entry.name;
    let given = entry.resources.clone().unwrap_or_default();
    let mut missing = Vec::new();
    if let Some(network) = &given.network
        && !snapshot.networks.contains_key(network)
    {
        missing.push(Unresolved::Network { model: model_name.clone(), network: network.clone() });
    }
    let volume = given.volume.as_ref().map(|name| (name, snapshot.volumes.get(name)));
    if let Some((name, None)) = volume {
        missing.push(Unresolved::Volume { model: model_name.clone(), volume: name.clone() });
    }
    let Some(model) = snapshot.models.get(model_name) else {
        missing.insert(0, Unresolved::Model { model: model_name.clone() });
        return Err(missing);
    };
    let mut spec = model.spec.clone();
    // Its settings change in place: they are no part of what an instance is.
    spec.realtime = None;
    if let Some((name, _)) = volume
        && spec.volumes.iter().any(|v| &v.name == name)
    {
        missing.push(Unresolved::VolumeConflict { model: model_name.clone(), volume: name.clone() });
    } else if let Some((name, Some(volume))) = volume {
        spec.volumes.push(given_volume(name, &volume.spec));
    }
    let known: BTreeSet<&str> = spec.volumes.iter().map(|v| v.name.as_str()).chain(given.volume.as_deref()).collect();
    for container in &spec.containers {
        for mount in container.volume_mounts.iter().filter(|m| !known.contains(m.name.as_str())) {
            missing.push(Unresolved::Mount {
                model: model_name.clone(),
                container: container.name.clone(),
                volume: mount.name.clone(),
            });
        }
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    let annotations = model.metadata.annotations.clone().unwrap_or_default();
    Ok(Template {
        labels: model.metadata.labels.clone().unwrap_or_default(),
        annotations: annotations.into_iter().filter(|(key, _)| !key.starts_with(KUBECTL)).collect(),
        spec,
    })
}

/// A Volume as a volume of the model: without a source, an empty directory that lives as long as the instance.
fn given_volume(name: &str, volume: &VolumeSpec) -> ModelVolume {
    let VolumeSpec { host_path, empty_dir, config_map, secret } = volume.clone();
    let sourceless = host_path.is_none() && config_map.is_none() && secret.is_none();
    ModelVolume {
        name: name.to_owned(),
        empty_dir: empty_dir.or_else(|| sourceless.then(Default::default)),
        host_path,
        config_map,
        secret,
    }
}
