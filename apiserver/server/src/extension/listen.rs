//! Connections of an aggregated API: who asks, may they, and here or at the leader.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use kube::Client;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Role;
use super::forward::Forwarder;
use super::review::Reviewer;
use super::trust::{Peer, Trust};
use crate::auth::UserInfo;
use crate::authz::{Attributes, ResourceAttributes};
use crate::connection::{self, ACCEPT_PAUSE, End, Stay, Stranger, Strangers};
use crate::http::respond;
use crate::http::route::{ResourcePath, Route, Verb, route};
use crate::http::{Body, Limits, method_not_allowed};
use crate::rest::query::Query;
use crate::status::Status;

/// What is being answered (a watch, say) may go on so long when trust changes: then the peer has to show again who it is.
const ROTATION_GRACE: Duration = Duration::from_secs(5);
/// A signal is at most 256 fields of 1 KiB.
const MAX_BODY_BYTES: usize = 1024 * 1024;

struct State {
    reviewer: Reviewer,
    forwarder: Forwarder,
    role: watch::Receiver<Role>,
    /// A request's body has to be here by then.
    request_timeout: Duration,
}

/// Accepts connections until dropped. Before there is something to trust, nobody is let in.
pub(super) async fn accept(
    listener: TcpListener,
    client: Client,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    role: watch::Receiver<Role>,
    limits: &Limits,
) {
    let strangers = Strangers::new(limits, Gauge::default(), Counter::default());
    let state = Arc::new(State {
        reviewer: Reviewer::new(client),
        forwarder: Forwarder::default(),
        role,
        request_timeout: limits.request_timeout,
    });
    // Dropped with us, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, trust.clone(), strangers.enter(), Arc::clone(&state)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection couldn't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve(
    stream: TcpStream,
    mut trusts: watch::Receiver<Option<Arc<Trust>>>,
    (stranger, stay): (Stranger, Stay),
    state: Arc<State>,
) {
    let Some(trust) = trusts.borrow_and_update().clone() else { return };
    let mut over = pin!(stay.over());
    let shaken = tokio::select! {
        shaken = connection::handshake(stream, &trust.tls) => shaken,
        _ = over.as_mut() => return,
    };
    let stream = match shaken {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
    };
    let peer = Arc::new(trust.peer(stream.get_ref().1.peer_certificates().unwrap_or_default()));
    if *peer != Peer::Unknown {
        stranger.introduce();
    }
    let handler = service_fn(move |request: Request<Incoming>| {
        let (state, trust, peer) = (Arc::clone(&state), Arc::clone(&trust), Arc::clone(&peer));
        async move {
            let answer = answer(&state, &trust, &peer, request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|status| respond::status(&status, false)))
        }
    });
    let end = async {
        tokio::select! {
            // Also when nobody looks after trust any more.
            _ = trusts.changed() => End::Within(ROTATION_GRACE),
            end = over => end,
        }
    };
    connection::serve(stream, handler, end).await;
}

async fn answer(
    state: &State,
    trust: &Arc<Trust>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let path = route(head.uri.path());
    if matches!(path, Route::Health { .. }) {
        return Ok(respond::text(StatusCode::OK, "text/plain; charset=utf-8", "ok"));
    }
    let user = match peer {
        Peer::FrontProxy => trust.headers.user(&head.headers).map(Arc::new),
        Peer::Replica => super::identity::Headers::default().user(&head.headers).map(Arc::new),
        Peer::Person(user) => Some(Arc::clone(user)),
        Peer::Unknown => None,
    };
    let user = user.ok_or_else(Status::unauthorized)?;
    // kube-apiserver has done that, and takes the headers away. Who comes here with some has passed it by.
    if head.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        let why = "nobody acts as somebody else here: ask by way of kube-apiserver, without the port of the signals";
        return Err(Status::new(StatusCode::FORBIDDEN, "Forbidden", why));
    }
    let role = state.role.borrow().clone();
    let nobody =
        || Status::service_unavailable("no replica of the controllers leads at the moment").with_retry_after(1);
    match role {
        Role::Leading { server, acts } if acts() => {
            check(state, &user, &path, &head).await?;
            let bytes = whole(body, state.request_timeout).await?;
            head.extensions.insert::<Arc<UserInfo>>(user);
            Ok(server.service().respond(Request::from_parts(head, Full::new(bytes))).await)
        }
        // What came from a replica goes no further: that one knows no better than we do.
        Role::Following { address } if *peer != Peer::Replica => {
            let bytes = whole(body, state.request_timeout).await?;
            state.forwarder.forward(&address, trust, &user, head, bytes).await
        }
        Role::Leading { .. } | Role::Following { .. } | Role::Unknown => Err(nobody()),
    }
}

/// # Errors
/// It is too long, doesn't arrive within `limit`, or can't be read.
async fn whole(body: Incoming, limit: Duration) -> Result<Bytes, Status> {
    match tokio::time::timeout(limit, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::request_entity_too_large(format_args!("limit is {MAX_BODY_BYTES}")))
        }
        Ok(Err(error)) => Err(Status::bad_request(format!("the request's body couldn't be read: {error}"))),
        Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 1)),
    }
}

async fn check(state: &State, user: &UserInfo, asked: &Route, head: &http::request::Parts) -> Result<(), Status> {
    let nowhere = ResourcePath::default();
    let path = if let Route::Resource(path) = asked { path } else { &nowhere };
    let verb = Verb::of(&head.method, path, &Query::parse(head.uri.query())).ok_or_else(method_not_allowed)?;
    let method = method(&head.method);
    let resource = matches!(asked, Route::Resource(_)).then(|| ResourceAttributes {
        group: &path.group,
        version: &path.version,
        plural: &path.plural,
        subresource: &path.subresource,
        namespace: path.namespace.as_deref(),
        name: path.name.as_deref(),
        fields: Vec::new(),
    });
    let verb = if resource.is_some() { verb.name() } else { &method };
    state.reviewer.check(&Attributes { user, verb, path: head.uri.path(), resource }).await
}

fn method(method: &Method) -> String {
    method.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::extension::certificate::{COMMON_NAME, Pem, Serving};
    use crate::extension::trust::Source;
    use crate::tls::{Identity, Pki, ServerNames, paired};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A listener that trusts people of one CA, of a replica that follows one that isn't there.
    struct World {
        address: std::net::SocketAddr,
        ca: String,
        people: Pki,
        source: Source,
        trust: watch::Sender<Option<Arc<Trust>>>,
        _folder: tempfile::TempDir,
        _role: watch::Sender<Role>,
    }

    async fn world(limits: Limits) -> World {
        let folder = tempfile::tempdir().unwrap();
        let people = Pki::open(folder.path(), Timestamp::now()).unwrap();
        let names = ServerNames { dns: ["s.ns.svc".to_owned()].into(), ..ServerNames::default() };
        let (ca, own) = paired(COMMON_NAME, &names, Timestamp::now()).unwrap();
        let config = [("client-ca-file".to_owned(), people.ca_certificate().to_owned())].into();
        let identity = Pem { certificate: own.certificate, key: own.key };
        let source = Source { config, serving: Serving { ca: ca.clone(), identity } };
        let (trust, trusts) = watch::channel(Some(Arc::new(Trust::new(&source).unwrap())));
        let (role, roles) = watch::channel(Role::Following { address: "127.0.0.1:1".to_owned() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let nobody = tower::service_fn(|_: Request<kube::client::Body>| {
            std::future::ready(Err::<Response<kube::client::Body>, _>(std::io::Error::other("nobody is asked")))
        });
        let client = Client::new(nobody, "default");
        tokio::spawn(async move { accept(listener, client, trusts, roles, &limits).await });
        World { address, ca, people, source, trust, _folder: folder, _role: role }
    }

    impl World {
        async fn connect(&self, identity: Option<&Identity>) -> TlsStream<TcpStream> {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
            let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let config = match identity {
                None => config.with_no_client_auth(),
                Some(identity) => {
                    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
                    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                    config.with_client_auth_cert(chain, key).unwrap()
                }
            };
            let stream = TcpStream::connect(self.address).await.unwrap();
            let name = "s.ns.svc".try_into().unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
        }
    }

    /// Sends what is given; the status code of the answer.
    async fn ask(connection: &mut TlsStream<TcpStream>, request: &str) -> String {
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = tokio::time::timeout(PATIENCE, connection.read(&mut answer)).await.expect("an answer").unwrap();
        let answer = String::from_utf8_lossy(answer.get(..length).unwrap()).into_owned();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Waits until the server has closed a connection.
    async fn ended(connection: &mut TlsStream<TcpStream>) {
        let mut rest = Vec::new();
        // Closed with or without a farewell.
        let _ = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.expect("it ends");
    }

    const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n";

    #[tokio::test]
    async fn a_body_that_never_comes_is_not_awaited_for_ever() {
        let world = world(Limits { request_timeout: Duration::from_millis(50), ..Limits::default() }).await;
        let alice = world.people.issue_client("alice", &[]).unwrap();
        let mut connection = world.connect(Some(&alice)).await;
        let head = "POST /apis/x/v1/y HTTP/1.1\r\nHost: s\r\nContent-Length: 10\r\n\r\n";
        assert_eq!(ask(&mut connection, head).await, "504");
    }

    #[tokio::test]
    async fn nobody_acts_as_somebody_else() {
        let world = world(Limits::default()).await;
        let alice = world.people.issue_client("alice", &[]).unwrap();
        let mut connection = world.connect(Some(&alice)).await;
        let head = "GET /apis/x/v1/y HTTP/1.1\r\nHost: s\r\n";
        // The leader that this replica follows isn't there.
        assert_eq!(ask(&mut connection, &format!("{head}\r\n")).await, "503");
        for header in ["Impersonate-User: bob", "Impersonate-Group: g", "impersonate-extra-scopes: s"] {
            assert_eq!(ask(&mut connection, &format!("{head}{header}\r\n\r\n")).await, "403", "{header}");
        }
    }

    #[tokio::test]
    async fn with_other_trust_every_peer_has_to_show_again_who_it_is() {
        let world = world(Limits::default()).await;
        let alice = world.people.issue_client("alice", &[]).unwrap();
        let mut connection = world.connect(Some(&alice)).await;
        assert_eq!(ask(&mut connection, HEALTH).await, "200");
        world.trust.send_replace(Some(Arc::new(Trust::new(&world.source).unwrap())));
        ended(&mut connection).await;
        let mut connection = world.connect(Some(&alice)).await;
        assert_eq!(ask(&mut connection, HEALTH).await, "200");
    }

    #[tokio::test]
    async fn strangers_make_room_for_each_other_and_for_nobody_else() {
        let world = world(Limits { max_unauthenticated_connections: 1, ..Limits::default() }).await;
        let alice = world.people.issue_client("alice", &[]).unwrap();
        let mut known = world.connect(Some(&alice)).await;
        assert_eq!(ask(&mut known, HEALTH).await, "200");
        let mut first = world.connect(None).await;
        assert_eq!(ask(&mut first, HEALTH).await, "200");
        let mut second = world.connect(None).await;
        ended(&mut first).await;
        for connection in [&mut second, &mut known] {
            assert_eq!(ask(connection, HEALTH).await, "200");
        }
    }
}
