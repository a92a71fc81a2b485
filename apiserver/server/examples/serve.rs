//! The API server alone, for trying things out: `serve DIR [ADDR [SECONDS]]` keeps its objects and certificates in DIR,
//! history for so many seconds, and writes an administrator's `DIR/kubeconfig.yaml`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pullpiri_apiserver::tls::{Pki, kubeconfig, names_for};
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_store::redb::{Options, RedbStore};
use pullpiri_store::retention::Retention;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [ADDR [SECONDS]]")?);
    let address = arguments.next().map_or_else(|| "127.0.0.1:6443".into(), |text| text.to_string_lossy().into_owned());
    let address: SocketAddr = address.parse()?;
    std::fs::create_dir_all(&dir)?;
    let listener = ApiServer::bind(address).await?;
    let address = listener.local_addr()?;
    let pki = Pki::open(&dir, jiff::Timestamp::now())?;
    let tls = pki.server_config(&names_for(&[address], None))?;
    let admin = pki.issue_client("admin", &["system:masters".to_owned()])?;
    let seconds = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(300);
    let retention = Retention { age: Some(Duration::from_secs(seconds)), ..Retention::default() };
    let store = RedbStore::open(dir.join("store.redb"), Options { retention, ..Options::default() })?;
    let mut config = Config::new(Arc::new(store));
    config.root_ca = Some(pki.ca_certificate().into());
    let server = ApiServer::open(config).await?;
    let path = dir.join("kubeconfig.yaml");
    std::fs::write(&path, kubeconfig(&format!("https://{address}"), pki.ca_certificate(), &admin))?;
    println!("{}", path.display());
    server.serve(vec![listener], tls).await?;
    Ok(())
}
