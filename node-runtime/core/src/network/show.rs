//! Steps as stable text, which is what golden files hold.

use std::fmt;

use super::plan::NodeRoute;
use super::shape::minor;
use super::steps::Step;
use super::{Closed, Forward, Nat};

impl fmt::Display for NodeRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.destination, self.link)?;
        if let Some(gateway) = &self.gateway {
            write!(f, " via {gateway}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class_name = |handle: &u32| format!("{:x}", minor(*handle));
        match self {
            Self::Unguard { link } => write!(f, "unguard   {link}"),
            Self::DeleteLink { link } => write!(f, "delete    link {link}"),
            Self::DeleteNamespace { pod } => write!(f, "delete    namespace {pod}"),
            Self::DeleteRoute(route) => write!(f, "delete    route {route}"),
            Self::MakeBridge { link, alias, .. } => write!(f, "make      bridge {link} ({alias})"),
            Self::AddAddress { link, address } => write!(f, "add       address {address} to {link}"),
            Self::DeleteAddress { link, address } => write!(f, "delete    address {address} from {link}"),
            Self::Set { key, value } => write!(f, "set       {key} = {value}"),
            Self::Restore { key, value } => write!(f, "restore   {key} = {value}"),
            Self::Up { link } => write!(f, "up        {link}"),
            Self::MakeNamespace { pod } => write!(f, "make      namespace {pod}"),
            Self::MakeVeth { pod, link, .. } => {
                write!(f, "make      veth {} to {pod}, port of {}, mtu {}", link.link, link.bridge, link.mtu)
            }
            Self::Guard { pod, link } => write!(f, "guard     {link} for {pod}"),
            Self::Configure { pod, link } => {
                write!(f, "configure {pod} gso {}/{}:", link.gso.max_bytes, link.gso.max_segments)?;
                for (address, gateway) in link.attachment.addresses.iter().zip(&link.attachment.gateways) {
                    write!(f, " {address} via {gateway}")?;
                }
                Ok(())
            }
            Self::Join { pod, link, bridge } => write!(f, "join      {link} of {pod} to {bridge}"),
            Self::Isolate { pod, link } => write!(f, "isolate   {link} of {pod}"),
            Self::Resize { pod, link, gso } => {
                write!(f, "resize    {link} of {pod} gso {}/{}", gso.max_bytes, gso.max_segments)
            }
            Self::AddRoute(route) => write!(f, "add       route {route}"),
            Self::MakeTree { link } => write!(f, "make      htb on {link}"),
            Self::SetClass { link, class } => write!(
                f,
                "class     {link} {} rate {} ceiling {} bit/s priority {} quantum {} burst {} us",
                class_name(&class.handle),
                class.rate_bps,
                class.ceiling_bps,
                class.priority,
                class.quantum_bytes,
                class.burst_ns / 1000
            ),
            Self::MakeQueue { link, class, packets } => {
                write!(f, "queue     {link} {} of {packets} packets", class_name(class))
            }
            Self::DeleteClass { link, class } => write!(f, "delete    class {} of {link}", class_name(class)),
            Self::DeleteTree { link } => write!(f, "delete    htb on {link}"),
            Self::ResizeUplink { link, gso } => {
                write!(f, "resize    {link} gso {}/{}", gso.max_bytes, gso.max_segments)
            }
            Self::GuardUplink { link, shaped } => {
                write!(f, "guard     {link} as the uplink{}", if *shaped { ", with classes" } else { "" })
            }
            Self::Translate(nat) => write_nat(f, nat),
        }
    }
}

fn write_nat(f: &mut fmt::Formatter<'_>, nat: &Nat) -> fmt::Result {
    if nat.is_empty() {
        return write!(f, "translate nothing");
    }
    write!(f, "translate")?;
    for Forward { protocol, host_port, address, port } in &nat.forwards {
        write!(f, " {protocol}/{host_port}→{address}:{port}")?;
    }
    for (network, prefix) in &nat.masquerade {
        write!(f, " masquerade {network}/{prefix}")?;
    }
    for Closed { v6, from } in &nat.closed {
        let family = if *v6 { "IPv6" } else { "IPv4" };
        write!(f, " close {family} from {}", from.as_deref().unwrap_or("everywhere"))?;
    }
    Ok(())
}
