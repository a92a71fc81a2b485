//! What each path and verb does.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{self, Body};
use super::limits::WatchPermit;
use super::negotiate::{self, Answer, Content, Format, PatchType};
use super::respond::{self, Form, WatchObserver};
use super::route::{ResourcePath, Route, Verb};
use super::{Asked, Inner, method_not_allowed, no_such_resource};
use crate::auth::UserInfo;
use crate::builtin::token_request;
use crate::metrics::{Metrics, ResourceLabels};
use crate::objects::Subresource;
use crate::registry::{Origin, Resource};
use crate::rest::create::summary;
use crate::rest::decode::{Decoded, decode, decode_content, patch_problems, readable};
use crate::rest::delete::Deleted;
use crate::rest::options::{ListOptions, WriteOptions, WriteVerb, delete_options};
use crate::rest::read::Listing;
use crate::rest::selection::Selection;
use crate::rest::update::{Change, check_name};
use crate::rest::{Warnings, Write, metadata, scale};
use crate::reviews::{Oracle, Review};
use crate::status::Status;

const KUBERNETES_MINOR: &str = "37";

/// Everything that needs a user.
pub(super) async fn handle(
    inner: &Inner,
    asked: &Asked,
    user: &UserInfo,
    body: Bytes,
    warnings: &Warnings,
) -> Result<Response<Body>, Status> {
    let gzip = body::takes_gzip(&asked.head.headers);
    if let Route::Resource(path) = &asked.route {
        return Call::find(inner, asked, path, user, warnings)?.run(body).await;
    }
    if asked.verb.is_mutating() {
        return Err(method_not_allowed());
    }
    let resources = inner.rest.registry.snapshot();
    match &asked.route {
        Route::Discovery => inner.discovery.serve(&resources, &asked.head).map(|answer| body::finish(answer, gzip)),
        Route::OpenApi => inner.openapi.serve(&resources, &asked.head).map(|answer| body::finish(answer, gzip)),
        Route::Metrics => {
            let text = inner
                .metrics
                .encode(inner.rest.durable.as_ref())
                .map_err(|error| Status::internal(format_args!("unable to encode the metrics: {error}")))?;
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            let mut response = Response::new(Bytes::from(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            Ok(body::finish(response, gzip))
        }
        Route::OpenIdConfiguration | Route::OpenIdKeys => openid(inner, asked),
        Route::Index => {
            let first = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"];
            let mut paths: Vec<String> = first.map(str::to_owned).into();
            for resource in resources.iter().filter(|resource| !resource.group.is_empty()) {
                paths.push(format!("/apis/{}", resource.group));
                paths.push(format!("/apis/{}/{}", resource.group, resource.version));
            }
            paths.extend(
                [
                    "/healthz",
                    "/livez",
                    "/metrics",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/openid/v1/jwks",
                    "/readyz",
                    "/version",
                ]
                .map(str::to_owned),
            );
            paths.dedup();
            let accepted = negotiate::accept(&asked.head.headers, &asked.query, Answer::One)?;
            respond::value(StatusCode::OK, &json!({"paths": paths}), Form { accepted, gzip, now: inner.rest.now() })
        }
        Route::Resource(_) | Route::Health { .. } | Route::Version | Route::Unknown => Err(no_such_resource()),
    }
}

/// How others verify this server's tokens.
fn openid(inner: &Inner, asked: &Asked) -> Result<Response<Body>, Status> {
    let (value, content_type) = match asked.route {
        Route::OpenIdKeys => (inner.tokens.key_set(), "application/jwk-set+json"),
        _ => {
            let host = negotiate::header_text(&asked.head.headers, http::header::HOST);
            let authority = asked.head.uri.authority().map(http::uri::Authority::as_str);
            let host = if host.is_empty() { authority.unwrap_or("kubernetes.default.svc") } else { &host };
            (inner.tokens.configuration(host), "application/json")
        }
    };
    let mut response = respond::text(StatusCode::OK, content_type, value.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}

/// `/version`: the Kubernetes release whose behaviour this is, with our own version as build metadata.
pub(super) fn version(_now: Timestamp) -> Result<Response<Body>, Status> {
    let value = json!({
        "major": "1",
        "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+pullpiri-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": option_env!("PULLPIRI_GIT_COMMIT").unwrap_or_default(),
        "gitTreeState": "clean",
        "buildDate": option_env!("PULLPIRI_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    });
    let mut json = serde_json::to_vec_pretty(&value).map_err(|error| Status::internal(&error))?;
    json.push(b'\n');
    Ok(respond::text(StatusCode::OK, "application/json", json))
}

/// Architectures have other names in the Kubernetes world.
const fn go_architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}

/// A request on a resource that exists.
struct Call<'a> {
    inner: &'a Inner,
    asked: &'a Asked,
    path: &'a ResourcePath,
    resource: Arc<Resource>,
    subresource: Subresource,
    user: &'a UserInfo,
    warnings: &'a Warnings,
}

impl<'a> Call<'a> {
    fn find(
        inner: &'a Inner,
        asked: &'a Asked,
        path: &'a ResourcePath,
        user: &'a UserInfo,
        warnings: &'a Warnings,
    ) -> Result<Self, Status> {
        let resources = inner.rest.registry.snapshot();
        let resource = resources.get(&path.group, &path.version, &path.plural).ok_or_else(no_such_resource)?;
        let subresource = match path.subresource.as_str() {
            "" => Subresource::None,
            "status" if resource.has_status => Subresource::Status,
            "scale" if resource.scale.is_some() => Subresource::Scale,
            "finalize" if resource.strategy.has_finalize() => Subresource::Finalize,
            "token" if resource.strategy.has_token() => Subresource::Token,
            _ => {
                let name = path.name.as_deref().filter(|_| resource.origin != Origin::BuiltIn);
                return Err(
                    name.map_or_else(no_such_resource, |name| Status::not_found(resource.group_resource(), name))
                );
            }
        };
        if path.namespace.is_some() && !resource.is_namespaced() {
            return Err(no_such_resource());
        }
        if path.namespace.is_none() && resource.is_namespaced() && !matches!(asked.verb, Verb::List | Verb::Watch) {
            let never = path.name.is_some() || resource.origin != Origin::BuiltIn;
            return Err(if never { no_such_resource() } else { method_not_allowed() });
        }
        if let Some(warning) = &resource.deprecation_warning {
            warnings.push(warning.clone());
        }
        let resource = Arc::clone(resource);
        Ok(Self { inner, asked, path, resource, subresource, user, warnings })
    }

    fn headers(&self) -> &HeaderMap {
        &self.asked.head.headers
    }

    fn namespace(&self) -> Option<&str> {
        self.path.namespace.as_deref()
    }

    fn name(&self) -> Result<&str, Status> {
        self.path.name.as_deref().ok_or_else(method_not_allowed)
    }

    fn form(&self, answer: Answer) -> Result<Form, Status> {
        let accepted = negotiate::accept(self.headers(), &self.asked.query, answer)?;
        Ok(Form { accepted, gzip: body::takes_gzip(self.headers()), now: self.inner.rest.now() })
    }

    fn write(&self, verb: WriteVerb) -> Result<Write<'_>, Status> {
        let agent = negotiate::header_text(self.headers(), http::header::USER_AGENT);
        Ok(Write {
            resource: &self.resource,
            namespace: self.namespace(),
            subresource: self.subresource,
            user: self.user,
            options: WriteOptions::parse(&self.asked.query, verb, &agent)?,
            warnings: self.warnings,
        })
    }

    async fn run(&self, body: Bytes) -> Result<Response<Body>, Status> {
        if let Some(review) = self.resource.strategy.review() {
            return self.review(review, &body).await;
        }
        if self.subresource == Subresource::Token {
            return self.token(&body).await;
        }
        let response = self.carry_out(body).await?;
        if self.asked.verb.is_mutating() && self.resource.group == pullpiri_access::GROUP {
            // Whoever got an answer can rely on the change.
            self.inner.rest.authorizer.catch_up().await;
        }
        Ok(response)
    }

    /// A question is answered and forgotten.
    async fn review(&self, review: Review, body: &[u8]) -> Result<Response<Body>, Status> {
        if self.asked.verb != Verb::Create || self.path.name.is_some() {
            return Err(method_not_allowed());
        }
        let form = self.form(Answer::One)?;
        let question = self.write(WriteVerb::Create)?.take_in(self.decode(body)?)?;
        let rest = &self.inner.rest;
        let oracle = Oracle { authorizer: &*rest.authorizer, tokens: &self.inner.tokens, now: rest.now() };
        let answer = review.answer(oracle, self.user, self.namespace(), question).await?;
        respond::value(StatusCode::CREATED, &answer, form)
    }

    /// A token for a service account.
    async fn token(&self, body: &[u8]) -> Result<Response<Body>, Status> {
        let (Verb::Create, Some(namespace)) = (self.asked.verb, self.namespace()) else {
            return Err(method_not_allowed());
        };
        let form = self.form(Answer::One)?;
        let kind = Arc::new(token_request());
        let write = Write { resource: &kind, ..self.write(WriteVerb::Create)? };
        let request = write.take_in(self.decode(body)?)?;
        let issued = self.inner.tokens.issue(namespace, self.name()?, request).await?;
        respond::value(StatusCode::CREATED, &issued, form)
    }

    async fn carry_out(&self, body: Bytes) -> Result<Response<Body>, Status> {
        match self.asked.verb {
            Verb::Get => self.get().await,
            Verb::List => self.list().await,
            Verb::Watch => self.watch().await,
            Verb::Create => self.create(&body).await,
            Verb::Update => self.update(&body).await,
            Verb::Patch => self.patch(&body).await,
            Verb::Delete => self.delete(&body).await,
            // All namespaces at once is nobody's wish.
            Verb::DeleteCollection if self.resource.strategy.has_finalize() => Err(method_not_allowed()),
            Verb::DeleteCollection => self.delete_collection(&body).await,
        }
    }

    async fn get(&self) -> Result<Response<Body>, Status> {
        let form = self.form(Answer::One)?;
        let version = self.asked.query.get("resourceVersion").unwrap_or_default();
        let object = self.inner.rest.get(&self.resource, self.namespace(), self.name()?, version).await?;
        if self.subresource == Subresource::Scale {
            return respond::value(StatusCode::OK, &scale::view(&self.resource, &object.into_value()?)?, form);
        }
        respond::object(StatusCode::OK, &self.resource, &object, form)
    }

    fn selection(&self, options: &ListOptions) -> Result<Selection, Status> {
        let selection = Selection::parse(&self.resource, &options.label_selector, &options.field_selector)?;
        match &self.path.name {
            None => Ok(selection),
            Some(name) => selection.and_name(name),
        }
    }

    async fn list(&self) -> Result<Response<Body>, Status> {
        let form = self.form(Answer::List)?;
        let options = ListOptions::parse(&self.asked.query)?;
        let selection = self.selection(&options)?;
        let rest = Arc::clone(&self.inner.rest);
        let listing = rest.list(&self.resource, self.namespace(), &selection, &options).await?;
        let namespace = self.path.namespace.clone();
        respond::list(rest, Arc::clone(&self.resource), namespace, selection, listing, form).await
    }

    async fn watch(&self) -> Result<Response<Body>, Status> {
        let form = self.form(Answer::Watch)?;
        let permit = self.inner.watches.enter(&self.user.name)?;
        let mut query = self.asked.query.clone();
        if self.path.legacy_watch {
            query.set("watch", "true");
        }
        let options = ListOptions::parse(&query)?;
        let selection = self.selection(&options)?;
        let shutdown = self.inner.shutdown.clone();
        let rest = &self.inner.rest;
        let notices = rest.watch(&self.resource, self.namespace(), selection, &options, shutdown).await?;
        let observer = Watching::new(&self.inner.metrics, &self.resource, permit);
        Ok(respond::watch(Arc::clone(&self.resource), notices, form, Arc::clone(&rest.clock), observer))
    }

    fn decode(&self, body: &[u8]) -> Result<Decoded, Status> {
        let format = negotiate::content_format(self.headers())?;
        if format == Content::Protobuf && self.resource.origin != Origin::BuiltIn {
            return Err(negotiate::unsupported("application/json, application/yaml"));
        }
        decode_content(body, format).map_err(|error| {
            let shown = summary(body);
            let kind = &self.resource.kind;
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {error} ({shown})"
            ))
        })
    }

    async fn create(&self, body: &[u8]) -> Result<Response<Body>, Status> {
        if self.subresource != Subresource::None {
            return Err(Status::method_not_supported(self.resource.group_resource(), "create"));
        }
        if self.path.name.is_some() {
            return Err(method_not_allowed());
        }
        let form = self.form(Answer::One)?;
        let write = self.write(WriteVerb::Create)?;
        let object = write.take_in(self.decode(body)?)?;
        let object = self.inner.rest.create(&write, object).await?;
        respond::object(StatusCode::CREATED, &self.resource, &object, form)
    }

    async fn update(&self, body: &[u8]) -> Result<Response<Body>, Status> {
        let form = self.form(Answer::One)?;
        let write = self.write(WriteVerb::Update)?;
        let decoded = self.decode(body)?;
        let name = self.name()?;
        let object = if self.subresource == Subresource::Scale { decoded.value } else { write.take_in(decoded)? };
        check_name(&object, name)?;
        self.change(&write, &Change::Replace(&object), form).await
    }

    async fn patch(&self, body: &[u8]) -> Result<Response<Body>, Status> {
        let kind = negotiate::patch_type(self.headers(), self.resource.origin == Origin::BuiltIn)?;
        let form = self.form(Answer::One)?;
        if kind == PatchType::Apply {
            if self.subresource == Subresource::Scale {
                return Err(Status::unsupported_media_type("a scale can't be applied; use a JSON or merge patch"));
            }
            let write = self.write(WriteVerb::Apply)?;
            let decoded = decode(body, Format::Yaml).map_err(|error| {
                Status::bad_request(format!("error decoding patch: error converting YAML to JSON: {error}"))
            })?;
            if !decoded.value.is_object() {
                return Err(Status::bad_request("error decoding patch: the patch must be a mapping"));
            }
            return self.change(&write, &Change::Apply(&decoded), form).await;
        }
        let write = self.write(WriteVerb::Patch)?;
        let body = &*readable(body);
        let decoded = decode(body, Format::Json).map_err(|_| Status::bad_request("invalid JSON patch"))?;
        let problems = if kind == PatchType::Json { patch_problems(decoded) } else { decoded.problems };
        let change = Change::Patch { kind, bytes: body, problems: &problems };
        self.change(&write, &change, form).await
    }

    async fn change(&self, write: &Write<'_>, change: &Change<'_>, form: Form) -> Result<Response<Body>, Status> {
        let updated = self.inner.rest.update(write, self.name()?, change).await?;
        let code = if updated.created { StatusCode::CREATED } else { StatusCode::OK };
        if self.subresource == Subresource::Scale {
            return respond::value(code, &scale::view(&self.resource, &updated.object.into_value()?)?, form);
        }
        respond::object(code, &self.resource, &updated.object, form)
    }

    fn delete_options(&self, body: &[u8]) -> Result<crate::objects::DeleteOptions, Status> {
        if body.is_empty() {
            return delete_options(&self.asked.query, None);
        }
        let format = negotiate::content_format(self.headers())?;
        let decoded = decode_content(body, format).map_err(Status::bad_request)?;
        let kind = decoded.value.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" || !decoded.value.is_object() {
            let version = decoded.value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            return Err(Status::bad_request(format!("no kind \"{kind}\" is registered for version \"{version}\"")));
        }
        delete_options(&self.asked.query, Some(&decoded.value))
    }

    fn delete_write(&self, dry_run: bool) -> Write<'_> {
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        Write {
            resource: &self.resource,
            namespace: self.namespace(),
            subresource: self.subresource,
            user: self.user,
            options,
            warnings: self.warnings,
        }
    }

    async fn delete(&self, body: &[u8]) -> Result<Response<Body>, Status> {
        if self.subresource != Subresource::None {
            return Err(Status::method_not_supported(self.resource.group_resource(), "delete"));
        }
        let form = self.form(Answer::One)?;
        let options = self.delete_options(body)?;
        let write = self.delete_write(options.dry_run);
        let name = self.name()?;
        match self.inner.rest.delete(&write, name, &options).await? {
            Deleted::Gone(object) if self.resource.strategy.returns_deleted() => {
                respond::object(StatusCode::OK, &self.resource, &object, form)
            }
            Deleted::Gone(object) => {
                let uid = metadata::text(object.value()?, "uid").to_owned();
                respond::value(StatusCode::OK, &respond::success(&self.resource, name, &uid), form)
            }
            Deleted::Pending(object) => {
                let code = if options.accepted_when_pending { StatusCode::ACCEPTED } else { StatusCode::OK };
                respond::object(code, &self.resource, &object, form)
            }
        }
    }

    async fn delete_collection(&self, body: &[u8]) -> Result<Response<Body>, Status> {
        let form = self.form(Answer::List)?;
        let list = ListOptions::parse(&self.asked.query)?;
        let selection = self.selection(&list)?;
        let options = self.delete_options(body)?;
        let write = self.delete_write(options.dry_run);
        let rest = Arc::clone(&self.inner.rest);
        let (items, revision) = rest.delete_collection(&write, &selection, &list, &options).await?;
        let listing = Listing { revision, items, continue_token: None, remaining: None, rest: None };
        let namespace = self.path.namespace.clone();
        respond::list(rest, Arc::clone(&self.resource), namespace, selection, listing, form).await
    }
}

/// Counts an open watch and what it sends.
struct Watching {
    metrics: Arc<Metrics>,
    labels: ResourceLabels,
    _permit: WatchPermit,
}

impl Watching {
    fn new(metrics: &Arc<Metrics>, resource: &Resource, permit: WatchPermit) -> Self {
        let labels =
            ResourceLabels { group: resource.group.as_str().into(), resource: resource.plural.as_str().into() };
        metrics.watchers.get_or_create(&labels).inc();
        Self { metrics: Arc::clone(metrics), labels, _permit: permit }
    }
}

impl WatchObserver for Watching {
    fn sent(&self) {
        self.metrics.watch_events.get_or_create(&self.labels).inc();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.metrics.watchers.get_or_create(&self.labels).dec();
    }
}
