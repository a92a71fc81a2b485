//! Where the API server keeps objects: a file in its data directory, or an etcd cluster.
//!
//! API servers that share an etcd are one to their clients, so they have one CA and one key for service account tokens. Whoever comes first
//! puts its own into etcd; the others take them over into their data directories. A data directory with other ones is refused: kubeconfigs
//! and tokens of it would be good at one server and not at the other.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pullpiri_apiserver::tls::Pki;
use pullpiri_store::Store;
use pullpiri_store::etcd::{self, ClientFiles, EtcdStore, Tls};
use pullpiri_store::redb::{self, RedbStore};
use pullpiri_store::retention::Retention;

use crate::args::{Etcd, Serving};
use crate::control_plane::{make_private, write_private};
use crate::fail::Failure;

/// Under this name the API servers of one etcd share their keys.
const SHARED: &str = "pki";
/// What they share, as it is called in `DIR/pki`. The CA's certificate last: where it is, the rest is taken to be.
const FILES: [&str; 3] = ["sa.key", "ca.key", "ca.crt"];

/// A store that was opened.
pub(crate) enum Storage {
    Redb(RedbStore),
    Etcd(EtcdStore),
}

impl Storage {
    pub(crate) async fn open(serving: &Serving) -> Result<Self, Failure> {
        let age = Duration::from_secs(serving.compaction_interval.into());
        let retention = Retention { age: Some(age), ..Retention::default() };
        if serving.etcd.etcd_servers.is_empty() {
            let options = redb::Options { retention, ..redb::Options::default() };
            return Ok(Self::Redb(RedbStore::open(serving.data_dir.join("store.redb"), options)?));
        }
        let options = etcd::Options { retention, ..options(&serving.etcd) };
        Ok(Self::Etcd(EtcdStore::open(options).await?))
    }

    /// The certificates and keys of a data directory; with etcd, they are the cluster's.
    pub(crate) async fn pki(&self, data_dir: &Path) -> Result<Pki, Failure> {
        let open = || Pki::open(data_dir, Timestamp::now());
        let Self::Etcd(etcd) = self else { return Ok(open()?) };
        let folder = data_dir.join("pki");
        if let Some(cluster) = etcd.shared(SHARED).await? {
            adopt(&folder, &parse(&cluster)?, false)?;
            return Ok(open()?);
        }
        let fresh = !folder.join("ca.crt").exists();
        let pki = open()?;
        pki.token_key()?;
        let mine = serde_json::to_vec(&read(&folder)?)?;
        let cluster = etcd.share(SHARED, mine.clone()).await?;
        if cluster == mine {
            tracing::info!("the CA of {} is the cluster's now", folder.display());
            return Ok(pki);
        }
        // Another server was a moment faster. What was made just now, nobody has yet.
        adopt(&folder, &parse(&cluster)?, fresh)?;
        Ok(open()?)
    }

    pub(crate) fn into_store(self) -> Arc<dyn Store> {
        match self {
            Self::Redb(store) => Arc::new(store),
            Self::Etcd(store) => Arc::new(store),
        }
    }
}

fn options(arguments: &Etcd) -> etcd::Options {
    let client = arguments.etcd_certfile.clone().zip(arguments.etcd_keyfile.clone());
    let client = client.map(|(certificate_file, key_file)| ClientFiles { certificate_file, key_file });
    let mut options = etcd::Options::new(arguments.etcd_servers.clone());
    options.tls = arguments.etcd_cafile.clone().map(|ca_file| Tls { ca_file, client });
    options.prefix.clone_from(&arguments.etcd_prefix);
    options
}

/// File → content.
type Keys = BTreeMap<String, String>;

fn parse(shared: &[u8]) -> Result<Keys, Failure> {
    let keys: Keys = serde_json::from_slice(shared)
        .map_err(|error| Failure::from_error("reading the cluster's CA and keys from etcd", &error))?;
    match FILES.iter().find(|file| !keys.contains_key(**file)) {
        None => Ok(keys),
        Some(file) => Err(Failure::new(format!("the cluster's CA and keys in etcd are incomplete: {file} is missing"))),
    }
}

fn read(folder: &Path) -> Result<Keys, Failure> {
    let content = |file: &&str| {
        let path = folder.join(file);
        let text = fs::read_to_string(&path);
        text.map(|text| ((*file).to_owned(), text))
            .map_err(|error| Failure::from_error(format!("reading {}", path.display()), &error))
    };
    FILES.iter().map(content).collect()
}

/// Writes the cluster's keys into a data directory that has none. Other ones are in the way, unless they may be replaced.
fn adopt(folder: &Path, cluster: &Keys, replace: bool) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for file in FILES {
        let path = folder.join(file);
        let content = cluster.get(file).map(String::as_str).unwrap_or_default();
        match fs::read_to_string(&path) {
            Ok(present) if present == content => {}
            Ok(_) if !replace => {
                return Err(Failure::new(format!(
                    "{} isn't the one of the cluster in etcd; use another --data-dir, or remove {} to take over the cluster's (issued \
                     kubeconfigs stop working)",
                    path.display(),
                    folder.display()
                )));
            }
            Ok(_) => missing.push((path, content)),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push((path, content)),
            Err(error) => return Err(Failure::from_error(format!("reading {}", path.display()), &error)),
        }
    }
    // Nothing is written before all is known to fit.
    make_private(folder)?;
    for (path, content) in missing {
        write_private(&path, content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: &str) -> Keys {
        FILES.iter().map(|file| ((*file).to_owned(), format!("{of} {file}"))).collect()
    }

    #[test]
    fn an_empty_directory_takes_over_the_clusters_keys_and_another_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        adopt(&pki, &keys("ours"), false).unwrap();
        assert_eq!(read(&pki).unwrap(), keys("ours"));
        adopt(&pki, &keys("ours"), false).unwrap();
        // Half of a takeover is finished.
        fs::remove_file(pki.join("ca.crt")).unwrap();
        adopt(&pki, &keys("ours"), false).unwrap();
        assert_eq!(read(&pki).unwrap(), keys("ours"));
        let error = adopt(&pki, &keys("theirs"), false).unwrap_err().to_string();
        assert!(error.contains("sa.key isn't the one of the cluster in etcd"), "{error}");
        assert_eq!(read(&pki).unwrap(), keys("ours"));
        adopt(&pki, &keys("theirs"), true).unwrap();
        assert_eq!(read(&pki).unwrap(), keys("theirs"));
    }

    #[test]
    fn what_is_incomplete_in_etcd_is_said() {
        let mut part = keys("ours");
        part.remove("ca.key");
        let error = parse(&serde_json::to_vec(&part).unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("ca.key is missing"), "{error}");
    }
}
