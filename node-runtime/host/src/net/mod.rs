//! The network of a node: interfaces, addresses, routes, HTB, NAT, network namespaces and sysctls.
//!
//! Netlink is spoken directly ([`wire`], [`socket`]): the messages needed are few, and neither an executor nor a binary (`ip`, `tc`, `nft`)
//! has to be there. Every function is one operation, blocking, on the network namespace of the thread that opened the socket;
//! [`namespace::inside`] runs a function in another.

pub mod link;
pub mod listen;
pub mod namespace;
pub mod nat;
pub mod qdisc;
pub mod route;
pub mod socket;
pub mod sysctl;
pub mod wire;

pub use link::{Link, LinkChange};
pub use listen::Listener;
pub use route::{Address, Route};
pub use socket::{Family, Netlink};
