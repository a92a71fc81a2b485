//! Admission: what may become of an object before it is stored, beyond its schema. A chain of plugins; webhooks will be more of them.

mod escalation;
mod namespace;
mod node;

use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::auth::UserInfo;
use crate::quota::Charge;
use crate::registry::Resource;
use crate::rest::Warnings;
use crate::status::Status;

pub(crate) use escalation::Escalation;
pub(crate) use namespace::NamespaceLifecycle;
pub(crate) use node::NodeRestriction;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A write that asks to be let in.
#[derive(Debug)]
pub struct Attributes<'a> {
    pub operation: Operation,
    pub resource: &'a Arc<Resource>,
    /// Empty: the resource itself.
    pub subresource: &'a str,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    /// Where a plugin puts what it has to say of a write that it lets in; `None` for the server's own writes.
    pub(crate) warnings: Option<&'a Warnings>,
}

/// One plugin.
pub trait Admission: fmt::Debug + Send + Sync + 'static {
    /// May change `object` (absent on delete) or refuse the write. Called again when the write is retried.
    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        object: Option<&'a mut Value>,
        old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>>;

    /// A creation that nothing refuses is about to be stored (quotas). What is returned is held until it is.
    fn charge<'a>(&'a self, _attributes: &'a Attributes<'a>) -> BoxFuture<'a, Result<Option<Charge>, Status>> {
        std::future::ready(Ok(None)).boxed()
    }
}

/// Plugins in order; the first refusal counts.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    plugins: Vec<Arc<dyn Admission>>,
}

impl Chain {
    pub(crate) fn new(plugins: Vec<Arc<dyn Admission>>) -> Self {
        Self { plugins }
    }

    pub(crate) async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.admit(attributes, object.as_deref_mut(), old).await?;
        }
        Ok(())
    }

    pub(crate) async fn charge(&self, attributes: &Attributes<'_>) -> Result<Vec<Charge>, Status> {
        let mut charges = Vec::new();
        for plugin in &self.plugins {
            charges.extend(plugin.charge(attributes).await?);
        }
        Ok(charges)
    }
}
