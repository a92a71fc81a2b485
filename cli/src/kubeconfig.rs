//! `pullpiri kubeconfig`: a client certificate signed by the data directory's CA, as a kubeconfig on stdout.

use jiff::Timestamp;
use pullpiri_apiserver::tls::{Pki, kubeconfig};

use crate::args::Kubeconfig;
use crate::fail::Failure;
use crate::out;

pub(crate) fn run(arguments: &Kubeconfig) -> Result<(), Failure> {
    // Opening would make a CA; one that no API server uses helps nobody.
    if !arguments.data_dir.join("pki/ca.crt").exists() {
        let folder = arguments.data_dir.display();
        return Err(Failure::new(format!(
            "{folder} holds no CA; start `pullpiri up` or `pullpiri apiserver` there first"
        )));
    }
    if arguments.user.is_empty() || arguments.group.iter().any(String::is_empty) {
        return Err(Failure::new("--user and --group must not be empty"));
    }
    if !arguments.server.starts_with("https://") || arguments.server.len() == "https://".len() {
        return Err(Failure::new(format!("--server {:?}: expected https://HOST:PORT", arguments.server)));
    }
    let pki = Pki::open(&arguments.data_dir, Timestamp::now())?;
    let identity = pki.issue_client(&arguments.user, &arguments.group)?;
    out::line(kubeconfig(&arguments.server, pki.ca_certificate(), &identity).trim_end())
}
