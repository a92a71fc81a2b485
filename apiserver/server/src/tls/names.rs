//! The names that a server certificate must carry: what clients may call this server by.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jiff::Timestamp;
use rcgen::SanType;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// DNS names and addresses of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    pub dns: BTreeSet<String>,
    pub addresses: BTreeSet<IpAddr>,
}

impl ServerNames {
    pub(super) fn to_sans(&self) -> Result<Vec<SanType>, String> {
        let mut sans = Vec::new();
        for name in &self.dns {
            let name = name.as_str().try_into().map_err(|error| format!("{name} is no DNS name: {error}"))?;
            sans.push(SanType::DnsName(name));
        }
        sans.extend(self.addresses.iter().map(|address| SanType::IpAddress(*address)));
        Ok(sans)
    }
}

/// The names of a server that listens on these addresses: each address (all of this machine's for an unspecified one), localhost, the
/// host's name, and the names by which a cluster's own clients know it.
#[must_use]
pub fn names_for(listeners: &[SocketAddr], hostname: Option<&str>) -> ServerNames {
    let mut names = ServerNames::default();
    let fixed = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    names.dns.extend(fixed.map(str::to_owned));
    if let Some(host) = hostname.map(str::to_ascii_lowercase).filter(|host| is_dns_name(host)) {
        names.dns.insert(host);
    }
    names.addresses.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    for listener in listeners {
        if listener.ip().is_unspecified() {
            names.addresses.extend(local_addresses());
        } else {
            names.addresses.insert(listener.ip());
        }
    }
    names
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

/// This machine's IPv4 and IPv6 addresses, as the kernel's routing tables list them.
fn local_addresses() -> Vec<IpAddr> {
    let trie = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let inet6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut addresses: Vec<IpAddr> = fib_trie(&trie).into_iter().map(IpAddr::V4).collect();
    addresses.extend(if_inet6(&inet6).into_iter().map(IpAddr::V6));
    addresses
}

/// proc(5), net/fib_trie: an address line `|-- 10.0.0.1`, then `/32 host LOCAL`.
fn fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last);
        }
    }
    found
}

/// net/if_inet6: 32 hexadecimal digits, then interface, prefix length, scope, flags and name.
fn if_inet6(text: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok())?.map(Ipv6Addr::from)
    };
    text.lines().filter_map(address).collect()
}

/// Whether a certificate carries every one of these names, was issued by this CA and hasn't expired.
pub(crate) fn covers(certificate: &str, names: &ServerNames, ca: &str, now: Timestamp) -> bool {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
    let (Ok(der), Ok(ca)) = (der(certificate), der(ca)) else { return false };
    let (Ok((_, certificate)), Ok((_, ca))) = (X509Certificate::from_der(&der), X509Certificate::from_der(&ca)) else {
        return false;
    };
    if certificate.issuer() != ca.subject() || certificate.validity().not_after.timestamp() <= now.as_second() {
        return false;
    }
    let Ok(Some(sans)) = certificate.subject_alternative_name() else { return false };
    let mut dns = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for name in &sans.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                dns.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| IpAddr::V4(octets.into()));
                let v6 = <[u8; 16]>::try_from(*bytes).map(|octets| IpAddr::V6(octets.into()));
                addresses.extend(v4.or(v6));
            }
            _ => {}
        }
    }
    names.dns.is_subset(&dns) && names.addresses.is_subset(&addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(fib_trie(trie), ["10.0.2.15".parse::<Ipv4Addr>().unwrap()]);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(if_inet6(inet6), [Ipv6Addr::LOCALHOST]);
    }

    #[test]
    fn names() {
        let names = names_for(&["192.168.1.2:6443".parse().unwrap()], Some("HPC_1"));
        assert!(names.addresses.contains(&"192.168.1.2".parse().unwrap()));
        assert!(names.dns.contains("kubernetes.default.svc"));
        assert!(!names.dns.contains("hpc_1"), "no DNS name");
    }
}
