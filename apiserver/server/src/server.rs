//! The server as a whole: opened over a store, reached over TLS or in process, stopped in order.
//!
//! Opening does nothing that grows with what is stored, but for reading the CRDs: schemas, CEL programs and OpenAPI documents are
//! made when somebody first needs them.

mod listen;
mod virtual_only;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use pullpiri_store::Store;
use pullpiri_store::memory::{MemoryStore, Options as MemoryOptions};
use pullpiri_store::retention::Retention;
use rustls::ServerConfig;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::{Access, NodeAccess, bootstrap};
use crate::admission::{Admission, Chain, Escalation, NamespaceLifecycle, NodeRestriction};
use crate::auth::UserInfo;
use crate::authz::Authorizer;
use crate::clock::{Clock, SystemClock};
use crate::connection::Strangers;
use crate::http::{ApiService, Limits};
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::policies::Policies;
use crate::policies::admission::PolicyAdmission;
use crate::quota::Quotas;
use crate::quota::admission::QuotaAdmission;
use crate::registry::{Origin, Registry, Resource};
use crate::rest::watch::EventCache;
use crate::rest::{Rest, internal, metadata};
use crate::status::Status;
use crate::tokens::{DEFAULT_ISSUER, KeyError, TokenKey, Tokens};
use crate::{builtin, crd, expiry, gc, namespaces, policies, quota};

/// The digest of what [`ApiServer::install`] last applied: an unchanged manifest costs one read.
const DIGEST_ANNOTATION: &str = "pullpiri.io/installed-digest";
const INSTALLER: &str = "pullpiri";
/// How long an installed CRD may take to be served.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Virtual objects change often, and nobody looks far back.
const VOLATILE_RETENTION: Retention = Retention { age: Some(Duration::from_secs(60)), revisions: Some(4096) };

/// What a server is made of.
#[derive(Debug)]
pub struct Config {
    pub store: Arc<dyn Store>,
    /// Kinds that live in memory only, described as CustomResourceDefinition objects.
    pub virtual_resources: Vec<Value>,
    pub clock: Arc<dyn Clock>,
    pub limits: Limits,
    /// `None`: by roles and bindings.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// Roles and bindings that are to be there beside the defaults, looked after like those.
    pub roles: Vec<Value>,
    /// What nodes may do; `None`: no more than their roles allow.
    pub nodes: Option<NodeAccess>,
    /// Signs service account tokens; `None`: a key that ends with the process, and its tokens with it.
    pub token_key: Option<TokenKey>,
    /// Who issues tokens: a URL.
    pub issuer: String,
    /// The certificate, in PEM, that clients verify the server by: published in every namespace as ConfigMap `kube-root-ca.crt`.
    pub root_ca: Option<Arc<str>>,
    /// Run after the server's own admission plugins.
    pub admission: Vec<Arc<dyn Admission>>,
}

impl Config {
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            virtual_resources: Vec::new(),
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            authorizer: None,
            roles: Vec::new(),
            nodes: None,
            token_key: None,
            issuer: DEFAULT_ISSUER.to_owned(),
            root_ca: None,
            admission: Vec::new(),
        }
    }
}

/// Why a server can't start or do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("registering the virtual resource {name}: {reason}")]
    Virtual { name: String, reason: String },
    #[error("reading what is stored: {0}")]
    Load(#[source] Status),
    #[error("creating the namespaces that every cluster has: {0}")]
    Namespaces(#[source] Status),
    #[error("writing the roles and bindings that every cluster has: {0}")]
    Roles(#[source] Status),
    #[error(transparent)]
    TokenKey(#[from] KeyError),
    #[error("installing {what}: {reason}")]
    Install { what: String, reason: String },
    #[error("listening on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// A running API server. Cheap to clone; stops when [`ApiServer::stop`] is called or the last clone is dropped.
#[derive(Clone)]
pub struct ApiServer(Arc<Running>);

struct Running {
    service: ApiService,
    rest: Arc<Rest>,
    objects: Objects,
    limits: Limits,
    shutdown: watch::Sender<bool>,
    /// The server's own controllers; dropping the set ends them.
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Opens a server over a store and starts its controllers. Needs a tokio runtime.
    ///
    /// # Errors
    /// A virtual resource that is none, a store that can't be read or written.
    pub async fn open(config: Config) -> Result<Self, ServerError> {
        let registry = Arc::new(Registry::new(builtin::resources()));
        registry.extend(virtual_resources(&config.virtual_resources)?);
        let metrics = Arc::new(Metrics::default());
        let mut plugins: Vec<Arc<dyn Admission>> = vec![Arc::new(NamespaceLifecycle::new(Arc::clone(&config.store)))];
        let (authorizer, access): (Arc<dyn Authorizer>, _) = match config.authorizer {
            Some(authorizer) => (authorizer, None),
            None => {
                let access = Arc::new(Access::new(config.nodes));
                plugins.push(Arc::new(NodeRestriction(Arc::clone(&access))));
                plugins.push(Arc::new(Escalation(Arc::clone(&access))));
                (Arc::clone(&access) as Arc<dyn Authorizer>, Some(access))
            }
        };
        plugins.extend(config.admission);
        let quotas = Arc::new(Quotas::default());
        let store = Arc::clone(&config.store);
        let policies = Arc::new(Policies::default());
        plugins.push(Arc::new(PolicyAdmission {
            policies: Arc::clone(&policies),
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
        }));
        plugins.push(Arc::new(QuotaAdmission { quotas: Arc::clone(&quotas), store: Arc::clone(&store) }));
        let token_key = config.token_key.map_or_else(TokenKey::generate, Ok)?;
        let tokens = Tokens::new(token_key, config.issuer, Arc::clone(&config.store), Arc::clone(&config.clock));
        let volatile = MemoryStore::with(MemoryOptions { retention: VOLATILE_RETENTION, ..MemoryOptions::default() });
        let rest = Arc::new(Rest {
            registry,
            durable: config.store,
            volatile: Arc::new(volatile),
            clock: config.clock,
            admission: Chain::new(plugins),
            events: EventCache::default(),
            authorizer,
            access: access.clone(),
        });
        let objects = internal::objects(&rest);
        crd::load(&objects).await.map_err(ServerError::Load)?;
        policies::controller::load(&objects, &policies).await.map_err(ServerError::Load)?;
        namespaces::ensure_defaults(&objects).await.map_err(ServerError::Namespaces)?;
        let mut tasks = JoinSet::new();
        if let Some(access) = access {
            access.start(&rest.durable, &mut tasks);
            let wished = pullpiri_access::defaults::objects().into_iter().chain(config.roles).collect();
            bootstrap::ensure(&objects, wished).await.map_err(ServerError::Roles)?;
            tasks.spawn(bootstrap::write_aggregates(access, objects.clone()));
        }
        tasks.spawn(crd::run(objects.clone()));
        tasks.spawn(gc::run(objects.clone()));
        tasks.spawn(expiry::run(objects.clone()));
        tasks.spawn(policies::controller::run(objects.clone(), policies));
        tasks.spawn(quota::controller::run(objects.clone(), store, quotas));
        tasks.spawn(namespaces::run(objects.clone(), config.root_ca));
        let (shutdown, stopping) = watch::channel(false);
        let service = ApiService::new(Arc::clone(&rest), Arc::new(tokens), config.limits.clone(), metrics, stopping);
        let tasks = Mutex::new(tasks);
        Ok(Self(Arc::new(Running { service, rest, objects, limits: config.limits, shutdown, tasks })))
    }

    /// The server as a tower service.
    #[must_use]
    pub fn service(&self) -> ApiService {
        self.0.service.clone()
    }

    /// The server's metrics in Prometheus' text format, as `/metrics` answers.
    ///
    /// # Errors
    /// None in practice: writing to a `String` doesn't fail.
    pub fn metrics(&self) -> Result<String, fmt::Error> {
        self.0.service.metrics().encode(&*self.0.rest.durable)
    }

    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.0.rest.registry)
    }

    /// The server's own access to objects, past authentication and limits.
    #[must_use]
    pub fn objects(&self) -> Objects {
        self.0.objects.clone()
    }

    /// A client without a socket. Its requests carry `user` and pass authorisation, admission and limits like any other.
    #[must_use]
    pub fn client(&self, user: UserInfo) -> kube::Client {
        kube::Client::new(InProcess { service: self.service(), user: Arc::new(user) }, "default")
    }

    /// Applies objects (CRDs, say) server-side and waits until what they define is served. An object whose manifest is the one that
    /// was installed last is only read.
    ///
    /// # Errors
    /// The first object that was refused, or a CRD that isn't served in time.
    pub async fn install(&self, objects: Vec<Value>) -> Result<(), ServerError> {
        let mut registry = self.0.rest.registry.subscribe();
        let mut awaited = Vec::new();
        for object in objects {
            let what = format!(
                "{} {}",
                object.get("kind").and_then(Value::as_str).unwrap_or("an object without a kind"),
                metadata::text(&object, "name")
            );
            let failed = |reason: String| ServerError::Install { what: what.clone(), reason };
            awaited.extend(defined(&object).into_iter().map(|name| (what.clone(), name)));
            self.install_one(object).await.map_err(failed)?;
        }
        for (what, (group, version, plural)) in awaited {
            let served = registry.wait_for(|resources| resources.get(&group, &version, &plural).is_some());
            let outcome = tokio::time::timeout(INSTALL_TIMEOUT, served).await;
            if !matches!(outcome, Ok(Ok(_))) {
                let reason = format!(
                    "{plural}.{group}/{version} isn't served after {} s; see the conditions of the CRD",
                    INSTALL_TIMEOUT.as_secs()
                );
                return Err(ServerError::Install { what, reason });
            }
        }
        Ok(())
    }

    async fn install_one(&self, mut object: Value) -> Result<(), String> {
        let (api_version, kind) = (text(&object, "apiVersion"), text(&object, "kind"));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let resource = self.0.rest.registry.snapshot().by_kind(group, version, &kind).cloned();
        let resource = resource.ok_or_else(|| format!("the server has no kind {kind} in {api_version}"))?;
        let name = metadata::text(&object, "name").to_owned();
        let namespace = resource.is_namespaced().then(|| metadata::text(&object, "namespace").to_owned());
        let namespace = namespace.map(|given| if given.is_empty() { "default".to_owned() } else { given });
        let digest = digest(&object);
        match self.0.objects.get(&resource, namespace.as_deref(), &name).await {
            Ok(present) if annotation(&present) == Some(&digest) => return Ok(()),
            Ok(_) => {}
            Err(status) if status.code() == StatusCode::NOT_FOUND => {}
            Err(status) => return Err(status.to_string()),
        }
        let fields = metadata::of(&mut object).map_err(|status| status.to_string())?;
        let annotations = fields.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(DIGEST_ANNOTATION.to_owned(), digest.into());
        }
        let path = object_path(&resource, namespace.as_deref(), &name);
        let body = serde_json::to_vec(&object).map_err(|error| error.to_string())?;
        let mut request = Request::builder()
            .method(Method::PATCH)
            .uri(format!("{path}?fieldManager={INSTALLER}&force=true"))
            .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
            .body(Full::new(bytes::Bytes::from(body)))
            .map_err(|error| format!("building the request for {path}: {error}"))?;
        request.extensions_mut().insert(Arc::new(UserInfo::apiserver()));
        let response = self.0.service.respond(request).await;
        if response.status().is_success() {
            return Ok(());
        }
        let answer = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        Err(text(&answer, "message"))
    }

    /// Serves TLS on these listeners until [`Self::stop`] is called (by whoever watches for signals), then lets connections finish.
    ///
    /// # Errors
    /// None at present: a connection's trouble is its own.
    pub async fn serve(&self, listeners: Vec<TcpListener>, tls: Arc<ServerConfig>) -> Result<(), ServerError> {
        let metrics = self.0.service.metrics();
        let strangers =
            Strangers::new(&self.0.limits, metrics.unauthenticated.clone(), metrics.unauthenticated_ended.clone());
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(listen::accept(
                listener,
                Arc::clone(&tls),
                self.service(),
                Arc::clone(&strangers),
                self.0.shutdown.subscribe(),
                self.0.limits.shutdown_grace,
            ));
        }
        while accepting.join_next().await.is_some() {}
        Ok(())
    }

    /// Ends watches and listeners. Requests that are being answered are finished.
    pub fn stop(&self) {
        self.0.shutdown.send_replace(true);
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// Opens a listener with a clear error.
    ///
    /// # Errors
    /// The address is in use or not this machine's.
    pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
        TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
    }
}

fn virtual_resources(definitions: &[Value]) -> Result<Vec<Resource>, ServerError> {
    let mut resources = Vec::new();
    for definition in definitions {
        let entries = crd::resources_of(definition, Origin::Virtual)
            .map_err(|reason| ServerError::Virtual { name: metadata::text(definition, "name").to_owned(), reason })?;
        resources.extend(entries);
    }
    Ok(resources)
}

fn text(object: &Value, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn annotation(object: &Value) -> Option<&String> {
    match object.get("metadata")?.get("annotations")?.get(DIGEST_ANNOTATION)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn digest(object: &Value) -> String {
    Sha256::digest(object.to_string().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The group, version and plural of each served version of a CRD.
fn defined(object: &Value) -> Vec<(String, String, String)> {
    if text(object, "kind") != "CustomResourceDefinition" {
        return Vec::new();
    }
    let spec = &object["spec"];
    let versions = spec["versions"].as_array().into_iter().flatten();
    versions
        .filter(|version| version["served"] == Value::Bool(true))
        .map(|version| (text(spec, "group"), text(version, "name"), text(&spec["names"], "plural")))
        .collect()
}

fn object_path(resource: &Resource, namespace: Option<&str>, name: &str) -> String {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{}/{name}", resource.plural),
        None => format!("{root}/{}/{name}", resource.plural),
    }
}

/// The service with a user put into every request.
#[derive(Clone)]
struct InProcess {
    service: ApiService,
    user: Arc<UserInfo>,
}

impl tower::Service<Request<kube::client::Body>> for InProcess {
    type Response = http::Response<crate::http::Body>;
    type Error = std::convert::Infallible;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        request.extensions_mut().insert(Arc::clone(&self.user));
        tower::Service::call(&mut self.service, request)
    }
}
