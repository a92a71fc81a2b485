//! Which objects of a resource a request is about: labels, fields, and the name where that alone decides.

use std::borrow::Cow;
use std::sync::Arc;

use pullpiri_apply::selector::{FieldSelector, LabelSelector};
use serde_json::Value;

use super::key;
use super::metadata;
use super::object::Object;
use crate::registry::{Origin, Resource};
use crate::status::Status;

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

/// A label selector and a field selector. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    inner: Arc<Inner>,
    /// A name that the path gave.
    name: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Inner {
    labels: Option<LabelSelector>,
    fields: FieldSelector,
    /// The fields ask for nothing but a name or a namespace, so that keys suffice.
    by_key: bool,
}

impl Selection {
    pub(crate) fn everything() -> Self {
        Self::default()
    }

    /// # Errors
    /// 400 for a selector that isn't one, or for a field that the kind can't be selected by.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Status> {
        let labels = match labels {
            "" => None,
            text => Some(LabelSelector::parse(text).map_err(|error| Status::bad_request(error.to_string()))?),
        };
        let fields = FieldSelector::parse(fields).map_err(|error| Status::bad_request(error.to_string()))?;
        fields.check(|field| is_selectable(resource, field)).map_err(|error| {
            // Built-in kinds without selectable fields of their own say it in other words.
            let plain = resource.origin == Origin::BuiltIn && resource.strategy.selectable_fields().is_empty();
            match fields.terms().iter().find(|term| !is_selectable(resource, &term.field)) {
                Some(term) if plain => Status::bad_request(format!(
                    "\"{}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    term.field
                )),
                _ => Status::bad_request(error.to_string()),
            }
        })?;
        let labels = labels.filter(|labels| !labels.is_everything());
        // Two terms about one field may contradict each other.
        let is_only = |field: &str| fields.terms().iter().filter(|term| term.field == field).count() == 1;
        let by_key = fields
            .terms()
            .iter()
            .all(|term| term.equal && matches!(term.field.as_str(), NAME | NAMESPACE) && is_only(&term.field));
        Ok(Self { inner: Arc::new(Inner { labels, fields, by_key }), name: None })
    }

    /// Narrows a selection to the one name in the path.
    ///
    /// # Errors
    /// 400 when the field selector asks for another one.
    pub(crate) fn and_name(mut self, name: &str) -> Result<Self, Status> {
        if !self.inner.fields.is_everything() && self.inner.fields.required_value(NAME) != Some(name) {
            return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        self.name = Some(name.into());
        Ok(self)
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.name.is_none() && self.inner.labels.is_none() && self.inner.fields.is_everything()
    }

    /// The shortest stretch of keys that holds every match. A name makes it (nearly) one key.
    pub(crate) fn prefix(&self, resource: &Resource, namespace: Option<&str>) -> String {
        let name = self.name.as_deref().or_else(|| self.inner.fields.required_value(NAME));
        let namespace = namespace.or_else(|| self.inner.fields.required_value(NAMESPACE));
        match name {
            Some(name) if namespace.is_some() || !resource.is_namespaced() => {
                key::of(resource, namespace, name).to_string()
            }
            _ => key::prefix(resource, namespace),
        }
    }

    /// Whether an object under this key can match: the part that needs no look at the object.
    pub(crate) fn may_match_key(&self, namespace: Option<&str>, key: &str) -> bool {
        let Some(parts) = key::parse(key) else { return false };
        let wanted = |given: Option<&str>, actual: &str| given.is_none_or(|given| given == actual);
        namespace.is_none_or(|namespace| parts.namespace == Some(namespace))
            && wanted(self.name.as_deref(), parts.name)
            && wanted(self.inner.fields.required_value(NAME), parts.name)
            && wanted(self.inner.fields.required_value(NAMESPACE), parts.namespace.unwrap_or_default())
    }

    /// Whether an object whose key may match does match.
    ///
    /// # Errors
    /// The object can't be decoded.
    pub(crate) fn matches(&self, resource: &Resource, object: &Object) -> Result<bool, Status> {
        let Inner { labels, fields, by_key } = &*self.inner;
        if labels.is_none() && *by_key {
            return Ok(true);
        }
        let value = object.value()?;
        let fits = match labels {
            None => true,
            Some(labels) => labels
                .matches(value.get("metadata").and_then(|metadata| metadata.get("labels")).and_then(Value::as_object)),
        };
        Ok(fits && (*by_key || fields.matches(|field| field_value(resource, value, field))))
    }
}

fn is_selectable(resource: &Resource, field: &str) -> bool {
    match field {
        NAME => true,
        NAMESPACE => resource.is_namespaced(),
        field => {
            resource.selectable_fields.iter().any(|path| path.trim_start_matches('.') == field)
                || resource.strategy.selectable_fields().contains(&field)
        }
    }
}

fn field_value<'a>(resource: &Resource, object: &'a Value, field: &str) -> Option<Cow<'a, str>> {
    match field {
        NAME => Some(metadata::text(object, "name").into()),
        NAMESPACE => Some(metadata::text(object, "namespace").into()),
        field if resource.origin == Origin::BuiltIn => Some(resource.strategy.selectable_value(object, field).into()),
        field => match field.split('.').try_fold(object, |value, step| value.get(step))? {
            Value::String(text) => Some(text.into()),
            Value::Null => None,
            other => Some(other.to_string().into()),
        },
    }
}
