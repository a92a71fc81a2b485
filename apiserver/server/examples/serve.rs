//! The API server alone, for trying things out: `serve DIR [ADDR]` keeps its objects and certificates in DIR and writes an
//! administrator's `DIR/kubeconfig.yaml`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use pullpiri_apiserver::tls::{Pki, kubeconfig, names_for};
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_store::redb::{Options, RedbStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [ADDR]")?);
    let address = arguments.next().map_or_else(|| "127.0.0.1:6443".into(), |text| text.to_string_lossy().into_owned());
    let address: SocketAddr = address.parse()?;
    std::fs::create_dir_all(&dir)?;
    let listener = ApiServer::bind(address).await?;
    let address = listener.local_addr()?;
    let pki = Pki::open(&dir, jiff::Timestamp::now())?;
    let tls = pki.server_config(&names_for(&[address], None))?;
    let admin = pki.issue_client("admin", &["system:masters".to_owned()])?;
    let server =
        ApiServer::open(Config::new(Arc::new(RedbStore::open(dir.join("store.redb"), Options::default())?))).await?;
    let path = dir.join("kubeconfig.yaml");
    std::fs::write(&path, kubeconfig(&format!("https://{address}"), pki.ca_certificate(), &admin))?;
    println!("{}", path.display());
    server.serve(vec![listener], tls).await?;
    Ok(())
}
