//! What is to be done about Networks, as data.

use std::fmt;
use std::sync::Arc;

use pullpiri_crds::network::NetworkStatus;
use pullpiri_crds::{Network, NetworkSlice};
use pullpiri_state::Notice;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the slice so (server-side apply).
    ApplySlice(Box<NetworkSlice>),
    /// Remove a slice that no node needs any more; only that object, known by its UID.
    DeleteSlice { name: String, uid: String },
}

/// A Network and its whole new status, if it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusWrite {
    pub network: Arc<Network>,
    pub status: Option<Box<NetworkStatus>>,
    pub notices: Vec<Notice>,
}

/// Slices first (every new one before any removal), then the statuses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub statuses: Vec<StatusWrite>,
}

impl Plan {
    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.statuses.iter().all(|write| write.status.is_none())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            match action {
                Action::ApplySlice(slice) => write_slice(f, slice)?,
                Action::DeleteSlice { name, .. } => writeln!(f, "delete NetworkSlice {name}")?,
            }
        }
        for write in &self.statuses {
            let name = write.network.metadata.name.as_deref().unwrap_or_default();
            if let Some(status) = &write.status {
                let addresses = status.addresses.map_or_else(|| "-".to_owned(), |n| n.to_string());
                writeln!(f, "status Network {name}: mode={:?} addresses={addresses}", status.mode.unwrap_or_default())?;
                for node in &status.nodes {
                    writeln!(
                        f,
                        "  node {} models={} backend={} current={}",
                        node.name, node.models, node.backend, node.current
                    )?;
                }
                for c in &status.conditions {
                    writeln!(f, "  {}={} {}: {}", c.type_, c.status, c.reason, c.message)?;
                }
            }
            for notice in &write.notices {
                writeln!(f, "notice Network {name} {} {}: {}", notice.severity.as_str(), notice.reason, notice.note)?;
            }
        }
        if self.is_empty() {
            writeln!(f, "nothing")?;
        }
        Ok(())
    }
}

fn write_slice(f: &mut fmt::Formatter<'_>, slice: &NetworkSlice) -> fmt::Result {
    let spec = &slice.spec;
    writeln!(
        f,
        "apply NetworkSlice {}: generation={} part={}/{}",
        slice.metadata.name.as_deref().unwrap_or_default(),
        spec.generation,
        spec.index + 1,
        spec.count
    )?;
    for n in &spec.networks {
        let subnets: Vec<&str> = n.v4.iter().chain(&n.v6).map(String::as_str).collect();
        writeln!(f, "  network {} {} {:?} {} internal={:?}", n.id, n.name, n.mode, subnets.join(","), n.internal)?;
    }
    for c in &spec.classes {
        let ceiling = c.ceiling_bps.map_or_else(|| "-".to_owned(), |bps| bps.to_string());
        writeln!(f, "  class {} {} priority={} {}..{ceiling} bit/s", c.id, c.name, c.priority, c.guarantee_bps)?;
    }
    for s in &spec.selectors {
        let dscp = s.dscp.map_or_else(|| "-".to_owned(), |dscp| dscp.to_string());
        writeln!(
            f,
            "  selector class={} network={} identity={} protocol={} port={} dscp={dscp}",
            s.class, s.network, s.identity, s.protocol, s.port
        )?;
    }
    for p in &spec.ports {
        writeln!(f, "  port {} protocol={} to {}:{}", p.host_port, p.protocol, p.address, p.target_port)?;
    }
    for r in &spec.rules {
        let from = r.cidr.clone().unwrap_or_else(|| r.from.to_string());
        let ports = format!("{}-{}", r.first_port, r.last_port);
        writeln!(f, "  rule {} {}: {from} to {} protocol={} ports={ports}", r.id, r.name, r.to, r.protocol)?;
    }
    for e in &spec.endpoints {
        let via = if e.via.is_empty() { String::new() } else { format!(" via {}", e.via.join(",")) };
        writeln!(
            f,
            "  endpoint {} network={} identity={} {} on {}{via}",
            e.instance,
            e.network,
            e.identity,
            e.addresses.join(","),
            e.node
        )?;
    }
    Ok(())
}
