//! The verbs on one resource, as functions of a request and a store: the same code for built-in kinds, custom resources and
//! virtual ones. Nothing here knows HTTP but for status codes.
//!
//! Files by decision: [`key`] (where an object lives), [`object`] (its stored and shown forms), [`query`] and [`options`] (what a request
//! asks for), [`decode`] (bodies), [`model`] (schema, ownership and patches by `pullpiri-apply`), [`metadata`] (system fields), [`selection`]
//! (selectors), [`read`], [`watch`], [`create`], [`update`], [`delete`] (the verbs), [`scale`], [`internal`] (the server's own access).

mod bytes;
pub(crate) mod create;
pub(crate) mod decode;
pub(crate) mod delete;
pub(crate) mod internal;
pub(crate) mod key;
pub(crate) mod metadata;
mod micro_time;
pub(crate) mod model;
pub(crate) mod object;
pub(crate) mod options;
pub(crate) mod query;
pub(crate) mod read;
pub(crate) mod scale;
pub(crate) mod selection;
pub(crate) mod store_errors;
pub(crate) mod update;
pub(crate) mod watch;

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use pullpiri_store::{KeyValue, Store};

use crate::access::Access;
use crate::admission::Chain;
use crate::auth::UserInfo;
use crate::authz::Authorizer;
use crate::clock::Clock;
use crate::objects::Subresource;
use crate::registry::{Origin, Registry, Resource};
use crate::status::Status;
use object::Object;
use options::WriteOptions;
use watch::EventCache;

/// Everything the verbs need. One per server.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) registry: Arc<Registry>,
    /// What survives the process.
    pub(crate) durable: Arc<dyn Store>,
    /// Virtual resources, with revisions of their own.
    pub(crate) volatile: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) admission: Chain,
    pub(crate) events: EventCache,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    /// The authoriser, when it follows the store.
    pub(crate) access: Option<Arc<Access>>,
}

/// `Warning` headers of one response.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(crate) fn push(&self, warning: String) {
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Forgets what an earlier attempt of the same write said.
    pub(crate) fn truncate(&self, length: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).truncate(length);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A write: by whom, to what, how.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) resource: &'a Arc<Resource>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) subresource: Subresource,
    pub(crate) user: &'a UserInfo,
    pub(crate) options: WriteOptions,
    pub(crate) warnings: &'a Warnings,
}

impl Subresource {
    /// As paths and managedFields name it; empty for the resource itself.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Finalize => "finalize",
            Self::Token => "token",
        }
    }
}

impl Rest {
    pub(crate) fn store(&self, resource: &Resource) -> &Arc<dyn Store> {
        if resource.origin == Origin::Virtual { &self.volatile } else { &self.durable }
    }

    /// Something was written: decisions that are in hand may have to wait for it.
    pub(crate) fn wrote(&self, resource: &Resource, revision: u64) {
        if let Some(access) = &self.access {
            access.wrote(resource, revision);
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A stored version as this resource shows it. Nothing is parsed when it was stored under the present schema and version.
    pub(crate) fn show(&self, resource: &Resource, object: Object) -> Result<Object, Status> {
        let is_view = resource.strategy.view_of().is_some();
        let is_current = object.revision > resource.since
            && object.api_version().is_some_and(|stored| resource.is_api_version(stored));
        if is_current && !is_view {
            return Ok(object);
        }
        let mut value = object.value()?.clone();
        if is_view {
            resource.strategy.to_shown(&mut value);
        } else {
            if let Some(fields) = value.as_object_mut() {
                fields.insert("apiVersion".to_owned(), resource.api_version().into());
            }
            model::coerce(resource, &mut value).map_err(|unfit| unfit.of_body(resource))?;
        }
        Object::shown(value, object.revision)
    }

    pub(crate) fn show_kv(&self, resource: &Resource, kv: &KeyValue) -> Result<Object, Status> {
        self.show(resource, Object::stored(kv))
    }
}

impl Resource {
    /// Whether this is `text`, without building a string.
    pub(crate) fn is_api_version(&self, text: &str) -> bool {
        match text.split_once('/') {
            Some((group, version)) => self.group == group && self.version == version,
            None => self.group.is_empty() && self.version == text,
        }
    }
}
