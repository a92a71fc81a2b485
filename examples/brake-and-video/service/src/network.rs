//! Names and sockets.

use std::net::{IpAddr, SocketAddr};

/// `HOST:PORT`, where HOST is an address or a name that `hosts` (the text of /etc/hosts) knows.
pub(crate) fn resolve(target: &str, hosts: &str) -> Result<SocketAddr, String> {
    let (host, port) = target.rsplit_once(':').ok_or_else(|| format!("{target:?}: expected HOST:PORT"))?;
    let port: u16 = port.parse().map_err(|_| format!("{target:?}: {port:?} is no port"))?;
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    for line in lines {
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if words.any(|name| name == host) {
            return Ok(SocketAddr::new(address, port));
        }
    }
    Err(format!("{host:?} isn't in /etc/hosts"))
}

/// As [`resolve`], with this machine's /etc/hosts.
pub(crate) fn lookup(target: &str) -> Result<SocketAddr, String> {
    resolve(target, &std::fs::read_to_string("/etc/hosts").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_hosts() {
        let hosts = "127.0.0.1 localhost\n10.20.0.2 brake brake.local # the brake\n";
        assert_eq!(resolve("brake:7001", hosts), Ok("10.20.0.2:7001".parse().unwrap()));
        assert_eq!(resolve("10.1.1.1:5", hosts), Ok("10.1.1.1:5".parse().unwrap()));
        assert_eq!(resolve("[::1]:5", hosts), Ok("[::1]:5".parse().unwrap()));
        for bad in ["brake", "brake:x", "radio:1", "the:1"] {
            assert!(resolve(bad, hosts).is_err(), "{bad}");
        }
    }
}
