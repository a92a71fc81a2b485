//! Objects live in namespaces that exist and aren't being deleted; the namespaces that the system needs can't be deleted.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pullpiri_store::Store;
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::rest::object::Object;
use crate::rest::store_errors;
use crate::status::{Cause, GroupResource, Status};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
const NAMESPACES: GroupResource<'_> = GroupResource { group: "", plural: "namespaces" };

/// The plugin. Reads namespaces from the store itself, so that it never acts on a stale view.
#[derive(Debug)]
pub(crate) struct NamespaceLifecycle {
    store: Arc<dyn Store>,
}

impl NamespaceLifecycle {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    async fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let of = attributes.resource.group_resource();
        if of.group.is_empty() && of.plural == "namespaces" {
            if attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
                return Err(Status::forbidden(of, attributes.name, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let (Operation::Create, Some(namespace)) = (attributes.operation, attributes.namespace) else { return Ok(()) };
        let key = format!("core/namespaces/-/{namespace}");
        let (found, _) = self.store.get(&key).await.map_err(|error| store_errors::read(&error))?;
        let Some(found) = found else { return Err(Status::not_found(NAMESPACES, namespace)) };
        // Cheaper than parsing, and right for all but a terminating namespace or one that talks about termination.
        if !contains(&found.value, b"\"Terminating\"") {
            return Ok(());
        }
        let object = Object::stored(&found);
        if object.value()?.pointer("/status/phase").and_then(Value::as_str) != Some("Terminating") {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        Err(Status::forbidden(of, attributes.name, &why).with_cause(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        }))
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

impl Admission for NamespaceLifecycle {
    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        _object: Option<&'a mut Value>,
        _old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        self.check(attributes).boxed()
    }
}
