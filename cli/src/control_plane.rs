//! The API server of this process: store, certificates, listeners, and the admin's kubeconfig.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use pullpiri_apiserver::access::NodeAccess;
use pullpiri_apiserver::tls::{Pki, kubeconfig, names_for};
use pullpiri_apiserver::{ApiServer, Config, ServerError};
use pullpiri_crds::{access, names};
use pullpiri_node_host::files;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::args::Serving;
use crate::fail::Failure;
use crate::storage::Storage;

/// The admin's user and group: what Kubernetes calls its superusers.
const ADMIN: (&str, &str) = ("admin", "system:masters");

/// A control plane: first open to this process, then to all.
pub(crate) struct ControlPlane {
    pub(crate) server: ApiServer,
    pki: Pki,
    bound: Vec<SocketAddr>,
    listeners: Vec<TcpListener>,
    serving: Option<JoinHandle<Result<(), ServerError>>>,
}

impl ControlPlane {
    /// Opens everything in the data directory, for this process only. Addresses are bound first: a port in use should say so before anything is made.
    pub(crate) async fn open(serving: &Serving, objects: Vec<Value>) -> Result<Self, Failure> {
        let mut listeners = Vec::new();
        for address in &serving.listen {
            listeners.push(ApiServer::bind(*address).await?);
        }
        let bound: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        make_private(&serving.data_dir)?;
        let storage = Storage::open(serving).await?;
        let pki = storage.pki(&serving.data_dir).await?;
        let mut config = Config::new(storage.into_store());
        config.virtual_resources = vec![serde_json::to_value(pullpiri_crds::signal::definition()?)?];
        config.root_ca = Some(pki.ca_certificate().into());
        config.token_key = Some(pki.token_key()?);
        config.roles = access::roles();
        config.nodes = Some(node_access()?);
        let server = ApiServer::open(config).await?;
        // Before the first connection: who is told that the server is ready finds them.
        server.install(objects).await?;
        Ok(Self { server, pki, bound, listeners, serving: None })
    }

    /// Serves, and says so. Last of all that may be refused: who reads that line relies on it.
    pub(crate) fn serve(&mut self, data_dir: &Path) -> Result<(), Failure> {
        let hostname = fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let tls = self.pki.server_config(&names_for(&self.bound, hostname.as_deref().map(str::trim)))?;
        write_admin_kubeconfig(data_dir, &self.pki, &self.bound)?;
        let (server, listeners) = (self.server.clone(), std::mem::take(&mut self.listeners));
        self.serving = Some(tokio::spawn(async move { server.serve(listeners, tls).await }));
        for address in &self.bound {
            tracing::info!(%address, "serving the Kubernetes API");
        }
        Ok(())
    }

    /// Ends watches and listeners, lets requests finish, and leaves the store flushed.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        self.server.stop();
        let Some(serving) = self.serving.take() else { return Ok(()) };
        let served = serving.await.map_err(|error| Failure::from_error("serving", &error))?;
        served.map_err(Failure::from)
    }
}

impl Drop for ControlPlane {
    /// Also where something else was refused: the server's own controllers would take the end of the runtime for a failure, and say so.
    fn drop(&mut self) {
        self.server.stop();
    }
}

/// A node's spelling of its name is the operator's; objects have the other.
fn node_access() -> Result<NodeAccess, Failure> {
    NodeAccess::parse(&access::nodes(), names::rfc1123)
        .map_err(|error| Failure::from_error("reading what nodes may do", &error))
}

/// Makes the data directory if need be, and closes it to others. It holds keys and other people's secrets. A directory that isn't ours
/// alone stays open; what we make in it is closed by itself.
pub(crate) fn make_private(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.exists() && !folder.is_dir() {
        return Err(Failure::new(format!("data directory {}: it is there, but not a directory", folder.display())));
    }
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| if is_shared(&folder.canonicalize()?)? { Ok(()) } else { files::private_directory(folder) });
    made.map_err(|error| Failure::from_error(format!("making {} private", folder.display()), &error))
}

/// Whether a directory is the system's or a user's rather than one that was made for this: `/srv`, `/var/lib`, `/home/me`, `/tmp`.
fn is_shared(folder: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    const STICKY: u32 = 0o1000;
    const OF_THE_SYSTEM: [&str; 8] = ["/", "/home", "/media", "/mnt", "/opt", "/run", "/usr", "/var"];
    let is_system = folder.parent().is_none_or(|parent| OF_THE_SYSTEM.iter().any(|known| parent == Path::new(known)));
    Ok(is_system || fs::metadata(folder)?.permissions().mode() & STICKY != 0)
}

/// `DIR/kubeconfig.yaml` for the first address. One that fits already is kept: somebody may have added a namespace to it.
fn write_admin_kubeconfig(data_dir: &Path, pki: &Pki, bound: &[SocketAddr]) -> Result<(), Failure> {
    let path = data_dir.join("kubeconfig.yaml");
    let server = format!("https://{}", bound.first().map(|address| reachable(*address)).unwrap_or_default());
    let identity = pki.issue_client(ADMIN.0, &[ADMIN.1.to_owned()])?;
    let fresh = kubeconfig(&server, pki.ca_certificate(), &identity);
    let line =
        |text: &str, field: &str| text.lines().find(|line| line.contains(field)).map(|line| line.trim().to_owned());
    if let Ok(present) = fs::read_to_string(&path) {
        let same =
            ["server:", "certificate-authority-data:"].iter().all(|field| line(&present, field) == line(&fresh, field));
        if same {
            return Ok(());
        }
    }
    write_private(&path, &fresh)
}

/// The address a client on this machine reaches a listener at.
fn reachable(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port()).to_string()
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let draft = PathBuf::from(format!("{}.new", path.display()));
    let written =
        fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, path)
        });
    written.map_err(|error| Failure::from_error(format!("writing {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_closed_whoever_made_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for (before, after) in [(0o755, 0o700), (0o1777, 0o1777)] {
            let path = dir.path().join(format!("{before:o}"));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            make_private(&path).unwrap();
            assert_eq!(mode(&path), after);
        }
        make_private(&dir.path().join("new/er")).unwrap();
        assert_eq!(mode(&dir.path().join("new")), 0o700);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let said = make_private(&file).unwrap_err().to_string();
        assert_eq!(said, format!("data directory {}: it is there, but not a directory", file.display()));
        for shared in ["/", "/srv", "/var/lib", "/home/me"] {
            let path = Path::new(shared);
            assert!(is_shared(path).unwrap(), "{shared}");
        }
    }

    #[test]
    fn wildcard_addresses_are_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:6443".parse().unwrap()), "127.0.0.1:6443");
        assert_eq!(reachable("[::]:6443".parse().unwrap()), "[::1]:6443");
        assert_eq!(reachable("10.0.0.1:6443".parse().unwrap()), "10.0.0.1:6443");
    }
}
