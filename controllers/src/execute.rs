//! Writes: server-side apply with one field manager per controller, deletion of exactly the object that was looked at.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::object::HasStatus;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Error;
use crate::cache::Key;

/// Every kind of ours.
pub(crate) trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

/// What became of a deletion.
#[derive(Debug)]
pub(crate) enum Deleted<K> {
    Gone,
    /// Its finalizers hold it.
    Leaving(Box<K>),
}

fn params(manager: &str) -> PatchParams {
    PatchParams::apply(manager).force()
}

pub(crate) fn failed<K: Kind>(verb: &'static str, key: &Key) -> impl FnOnce(kube::Error) -> Error {
    let name = key.to_string();
    move |cause| Error::Write { verb, kind: K::kind(&()).into_owned(), name, cause }
}

/// Makes an object so.
pub(crate) async fn apply<K>(client: &Client, object: &K, manager: &str) -> Result<K, Error>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let key = Key::of(object);
    let body = serde_json::to_value(object).map_err(|cause| Error::Encode {
        kind: K::kind(&()).into_owned(),
        name: key.to_string(),
        cause,
    })?;
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    api.patch(&key.name, &params(manager), &Patch::Apply(body)).await.map_err(failed::<K>("apply", &key))
}

/// Writes the whole status that this controller is responsible for. With the object's UID, so that a namesake's status is never written.
pub(crate) async fn apply_status<K, S>(client: &Client, object: &K, status: &S, manager: &str) -> Result<K, Error>
where
    K: Kind + Resource<Scope = NamespaceResourceScope> + HasStatus,
    S: Serialize,
{
    let key = Key::of(object);
    let status = serde_json::to_value(status).map_err(|cause| Error::Encode {
        kind: K::kind(&()).into_owned(),
        name: key.to_string(),
        cause,
    })?;
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": object.meta().uid},
        "status": status,
    });
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    api.patch_status(&key.name, &params(manager), &Patch::Apply(body))
        .await
        .map_err(failed::<K>("apply the status of", &key))
}

/// Writes part of a status, of the object with this UID in any scope.
pub(crate) async fn apply_partial_status<K: Kind>(
    api: &Api<K>,
    key: &Key,
    uid: &str,
    status: Value,
    manager: &str,
) -> Result<K, Error> {
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": key.name, "uid": uid},
        "status": status,
    });
    api.patch_status(&key.name, &params(manager), &Patch::Apply(body))
        .await
        .map_err(failed::<K>("apply the status of", key))
}

/// Sets an object's finalizers, if it is still the one that was looked at.
pub(crate) async fn set_finalizers<K>(
    client: &Client,
    key: &Key,
    uid: &str,
    resource_version: &str,
    finalizers: &[String],
) -> Result<K, Error>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let body = json!({"metadata": {"uid": uid, "resourceVersion": resource_version, "finalizers": finalizers}});
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    api.patch(&key.name, &PatchParams::default(), &Patch::Merge(body)).await.map_err(failed::<K>("release", key))
}

/// Deletes the object with this UID, in the scope of `api`. One that is gone already is gone.
pub(crate) async fn delete<K: Kind>(api: &Api<K>, key: &Key, uid: &str) -> Result<Deleted<K>, Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::background()
    };
    match api.delete(&key.name, &params).await {
        Ok(either) => match either.left() {
            // Some servers answer with the object as it was before they removed it.
            Some(object) if object.meta().deletion_timestamp.is_some() => Ok(Deleted::Leaving(Box::new(object))),
            Some(_) | None => Ok(Deleted::Gone),
        },
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Deleted::Gone),
        Err(cause) => Err(failed::<K>("delete", key)(cause)),
    }
}
