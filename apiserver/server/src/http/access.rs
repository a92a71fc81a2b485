//! Who asks, as whom, and whether they may: what a request passes before it is read.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use pullpiri_apply::selector::FieldSelector;

use super::route::{Route, Verb};
use super::{Asked, Inner, negotiate};
use crate::auth::{UserInfo, impersonation};
use crate::authz::{self, Attributes, ResourceAttributes};
use crate::connection::Stranger;
use crate::status::Status;

const NAME: &str = "metadata.name";

impl Inner {
    /// The user that the request is carried out as.
    ///
    /// # Errors
    /// 401 for somebody unknown, 403 for somebody who may not.
    pub(super) async fn admit(&self, asked: &Asked) -> Result<Arc<UserInfo>, Status> {
        let user = self.authenticate(asked).await?;
        let wish = Wish::of(asked);
        let authorizer = &*self.rest.authorizer;
        let headers = &asked.head.headers;
        let user = match impersonation::impersonated(headers, &wish.attributes(asked, &user), authorizer).await? {
            Some(other) => Arc::new(other),
            None => user,
        };
        authz::check(authorizer, &wish.attributes(asked, &user)).await?;
        Ok(user)
    }

    /// By certificate (or in process), by token, or nobody, who may ask a few things.
    async fn authenticate(&self, asked: &Asked) -> Result<Arc<UserInfo>, Status> {
        if let Some(user) = &asked.user {
            return Ok(Arc::clone(user));
        }
        let header = negotiate::header_text(&asked.head.headers, AUTHORIZATION);
        if header.is_empty() && asked.is_open() {
            return Ok(Arc::new(UserInfo::anonymous()));
        }
        let (scheme, token) = header.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Status::unauthorized());
        }
        match self.tokens.authenticate(token.trim(), None).await {
            Ok(Some(known)) => {
                if let Some(stranger) = asked.head.extensions.get::<Arc<Stranger>>() {
                    stranger.introduce();
                }
                Ok(Arc::new(known.user))
            }
            Ok(None) => Err(Status::unauthorized()),
            Err(why) => {
                tracing::debug!(why, "a bearer token isn't accepted");
                Err(Status::unauthorized())
            }
        }
    }
}

/// What a request wants, as far as it has to be put together.
struct Wish {
    /// Of a path that is no resource.
    method: String,
    /// What the field selector says must be equal.
    fields: Vec<(String, String)>,
}

impl Wish {
    fn of(asked: &Asked) -> Self {
        let Route::Resource(path) = &asked.route else {
            return Self { method: asked.head.method.as_str().to_ascii_lowercase(), fields: Vec::new() };
        };
        let selects = matches!(asked.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) && !path.legacy_watch;
        let selector = asked.query.get("fieldSelector").filter(|text| selects && !text.is_empty());
        let selector = selector.and_then(|text| FieldSelector::parse(text).ok()).unwrap_or_default();
        let equal = selector.terms().iter().filter(|term| term.equal);
        Self { method: String::new(), fields: equal.map(|term| (term.field.clone(), term.value.clone())).collect() }
    }

    fn attributes<'a>(&'a self, asked: &'a Asked, user: &'a UserInfo) -> Attributes<'a> {
        let path = asked.head.uri.path();
        let Route::Resource(resource) = &asked.route else {
            return Attributes { user, verb: &self.method, path, resource: None };
        };
        let selected = || {
            // A list or a watch of one object is about that object.
            let reads = matches!(asked.verb, Verb::List | Verb::Watch);
            self.fields.iter().find(|(field, _)| reads && field == NAME).map(|(_, value)| value.as_str())
        };
        let name = resource.name.as_deref().or_else(selected);
        let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
        let resource = ResourceAttributes {
            group: &resource.group,
            version: &resource.version,
            plural: &resource.plural,
            subresource: &resource.subresource,
            // A namespace is in itself, so that a role in it can give access to it.
            namespace: if is_namespace { resource.name.as_deref() } else { resource.namespace.as_deref() },
            name,
            fields: self.fields.clone(),
        };
        Attributes { user, verb: asked.verb.name(), path, resource: Some(resource) }
    }
}
