//! A node writes what is bound to it and nothing else; looked at when the object is at hand, so that it holds whatever was decided before.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Admission, Attributes};
use crate::access::Access;
use crate::authz::ResourceAttributes;
use crate::status::Status;

/// The plugin.
#[derive(Debug)]
pub(crate) struct NodeRestriction(pub(crate) Arc<Access>);

impl Admission for NodeRestriction {
    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        object: Option<&'a mut Value>,
        old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let resource = ResourceAttributes {
            group: &attributes.resource.group,
            version: &attributes.resource.version,
            plural: &attributes.resource.plural,
            subresource: attributes.subresource,
            namespace: attributes.namespace,
            name: Some(attributes.name),
            ..ResourceAttributes::default()
        };
        let checked = match self.0.nodes() {
            None => Ok(()),
            Some(nodes) => nodes.check_write(attributes.user, &resource, object.map(|object| &*object), old),
        };
        let outcome =
            checked.map_err(|why| Status::forbidden(attributes.resource.group_resource(), attributes.name, &why));
        std::future::ready(outcome).boxed()
    }
}
