//! Address translation by nftables, in one table of the node's own that is replaced as a whole, all at once. Connections that are
//! known to conntrack go on. Nothing of other tables is read or touched.
//!
//! The table (family inet) has three chains of type nat and two of type filter:
//! * `prerouting`, `output`: what comes for a published port of one of the node's own addresses goes to a pod
//! * `postrouting`: what leaves a network for elsewhere, but for pods, gets the node's address; so does what the node sends over
//!   127.0.0.0/8 to a published port, which couldn't be answered otherwise
//! * `guard`: pods can't reach the node's 127.0.0.0/8, for which the above opens the way
//! * `forward`: that the node forwards for its pods doesn't make it a router for others
//!
//! Source: linux/netfilter/nf_tables.h, nft(8).

use std::collections::BTreeSet;
use std::net::IpAddr;

use pullpiri_node_core::network::{Closed, Forward, Nat};

use super::route::octets;
use super::socket::{Answer, Family, Netlink};
use super::wire::{Attributes, Message, flag, read_text};
use crate::Result;

const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const GETTABLE: u16 = SUBSYSTEM | 1;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
/// Priorities as nft names them: raw, filter, dstnat and srcnat.
const PRIORITY_RAW: i32 = -300;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;

const TABLE: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_DROP: u32 = 0;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const LIST_ELEMENT: u16 = 1;
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;
const FIB_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NAT_DNAT: u32 = 1;
/// nft's numbers for the types of keys, so that `nft list` prints them.
const KEY_IPV4: u32 = 7;
const KEY_IPV6: u32 = 8;
/// How often a table is read at most until it is the same twice.
const READS: u32 = 4;
/// Bytes of `struct nfgenmsg`, of which the last say how often any table was changed.
const NFGEN: usize = 4;
/// What addresses of pods are in.
const SETS: [(&str, u32, u32); 2] = [("pods4", KEY_IPV4, 4), ("pods6", KEY_IPV6, 16)];
/// Addresses in one message of a set: an attribute's length has 16 bits.
const ELEMENTS: usize = 1000;

/// Whether this kernel and this process' rights allow nftables.
pub fn probe() -> Result<()> {
    let message = nft(GETTABLE, 0);
    Netlink::open(Family::Netfilter)?.dump(&message, "listing tables of nftables").map(drop)
}

/// Makes `table` (of family inet) do what `nat` says; an empty one removes the table.
pub fn replace(table: &str, nat: &Nat) -> Result<()> {
    let mut batch = vec![boundary(BATCH_BEGIN)];
    let new_table = || {
        let mut message = nft(NEWTABLE, flag::CREATE);
        message.text(TABLE, table);
        message
    };
    let mut delete = nft(DELTABLE, 0);
    delete.text(TABLE, table);
    // What is there goes, and its absence is no error.
    batch.extend([new_table(), delete]);
    if !nat.is_empty() {
        batch.push(new_table());
        fill(&mut batch, table, nat);
    }
    batch.push(boundary(BATCH_END));
    Netlink::open(Family::Netfilter)?.batch(batch, &format!("replacing table inet {table} of nftables"))
}

/// What tells `table` as it is from how it is after any change: a number over all that the kernel says of its chains, rules and sets. The kernel
/// numbers whatever is made, so what was removed and made again differs as well. `None`: there is no such table.
pub fn fingerprint(table: &str) -> Result<Option<u64>> {
    let mut net = Netlink::open(Family::Netfilter)?;
    let mut found = read(&mut net, table)?;
    // A large set is told in pieces, and the kernel may put it in another order between two.
    for _ in 1..READS {
        let again = read(&mut net, table)?;
        if again == found {
            break;
        }
        found = again;
    }
    Ok(found)
}

fn read(net: &mut Netlink, table: &str) -> Result<Option<u64>> {
    let attempted = format!("reading table inet {table} of nftables");
    let mut print = Print::default();
    let mut about = nft(GETTABLE, 0);
    about.text(TABLE, table);
    match net.get(about, &attempted) {
        Ok(answer) => print.add(after_header(&answer)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    }
    for kind in [GETCHAIN, GETRULE] {
        let mut all = nft(kind, 0);
        all.text(1, table);
        // Some kernels tell those of other tables as well.
        for answer in net.dump(&all, &attempted)? {
            let its = Attributes(after_header(&answer)).find(1).map(read_text);
            if its.as_deref() == Some(table) {
                print.add(after_header(&answer));
            }
        }
    }
    for (set, ..) in SETS {
        let mut all = nft(GETSETELEM, 0);
        all.text(1, table).text(2, set);
        let answers = match net.dump(&all, &attempted) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            answers => answers?,
        };
        print.add(set.as_bytes());
        let lists = answers.iter().filter_map(|answer| Attributes(after_header(answer)).find(3));
        // They have no order, and may be told twice.
        let elements: BTreeSet<&[u8]> = lists.flat_map(|list| Attributes(list).map(|(_, element)| element)).collect();
        elements.into_iter().for_each(|element| print.add(element));
    }
    Ok(Some(print.0))
}

/// Without what changes with every table's changes.
fn after_header(answer: &Answer) -> &[u8] {
    answer.payload.get(NFGEN..).unwrap_or_default()
}

/// FNV-1a.
struct Print(u64);

impl Default for Print {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Print {
    fn add(&mut self, message: &[u8]) {
        // A mark between messages.
        for byte in message.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

fn fill(batch: &mut Vec<Message>, table: &str, nat: &Nat) {
    let chains = [
        ("guard", "filter", HOOK_PREROUTING, PRIORITY_RAW),
        ("prerouting", "nat", HOOK_PREROUTING, PRIORITY_DSTNAT),
        ("output", "nat", HOOK_OUTPUT, PRIORITY_DSTNAT),
        ("postrouting", "nat", HOOK_POSTROUTING, PRIORITY_SRCNAT),
        ("forward", "filter", HOOK_FORWARD, PRIORITY_FILTER),
    ];
    for (name, kind, hook, priority) in chains {
        batch.push(chain(table, name, kind, hook, priority));
    }
    for (id, (name, key, length)) in (1..).zip(SETS) {
        let mut message = nft(NEWSET, flag::CREATE);
        message.text(1, table).text(2, name).be32(4, key).be32(5, length).be32(10, id);
        batch.push(message);
        let mine: Vec<Vec<u8>> = nat.pods.iter().map(octets).filter(|o| u32::try_from(o.len()) == Ok(length)).collect();
        for some in mine.chunks(ELEMENTS) {
            let mut message = nft(NEWSETELEM, flag::CREATE);
            message.text(1, table).text(2, name).nested(3, |list| {
                for address in some {
                    list.nested(LIST_ELEMENT, |element| {
                        element.nested(1, |key| {
                            key.bytes(DATA_VALUE, address);
                        });
                    });
                }
            });
            batch.push(message);
        }
    }
    batch.push(rule(table, "guard", |e| {
        e.is_family(false).interface(META_IIFNAME, &nat.bridges).in_network(false, [127, 0, 0, 0].into(), 8, false);
        e.drop();
    }));
    for Closed { v6, from } in &nat.closed {
        batch.push(rule(table, "forward", |e| {
            e.is_family(*v6);
            match from {
                // With its end, so that no longer name is meant.
                Some(name) => e.interface(META_IIFNAME, &format!("{name}\0")),
                None => e.other_interface(META_IIFNAME, &nat.bridges),
            };
            e.other_interface(META_OIFNAME, &nat.bridges).add("counter", |_| {}).drop();
        }));
    }
    for forward in &nat.forwards {
        for chain in ["prerouting", "output"] {
            batch.push(rule(table, chain, |e| e.forward(forward)));
        }
    }
    for (network, prefix) in &nat.masquerade {
        let v6 = network.is_ipv6();
        batch.push(rule(table, "postrouting", |e| {
            e.is_family(v6).in_network(true, *network, *prefix, v6);
            e.not_to(v6, if v6 { "pods6" } else { "pods4" }).masquerade();
        }));
    }
    if !nat.forwards.is_empty() {
        batch.push(rule(table, "postrouting", |e| {
            e.is_family(false).interface(META_OIFNAME, &nat.bridges);
            e.in_network(true, [127, 0, 0, 0].into(), 8, false).masquerade();
        }));
    }
}

fn generic(kind: u16, flags: u16, family: u8, resource: u16) -> Message {
    let [high, low] = resource.to_be_bytes();
    Message::new(kind, flags, &[family, 0, high, low])
}

fn nft(kind: u16, flags: u16) -> Message {
    generic(kind, flags, NFPROTO_INET, 0)
}

fn boundary(kind: u16) -> Message {
    generic(kind, 0, NFPROTO_UNSPEC, SUBSYSTEM >> 8)
}

fn chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    let mut message = nft(NEWCHAIN, flag::CREATE);
    message.text(1, table).text(3, name).nested(4, |place| {
        place.be32(1, hook).bytes(2, &priority.to_be_bytes());
    });
    message.text(7, kind);
    message
}

fn rule(table: &str, chain: &str, fill: impl FnOnce(&mut Expressions<'_>)) -> Message {
    let mut message = nft(NEWRULE, flag::CREATE | flag::APPEND);
    message.text(1, table).text(2, chain).nested(4, |list| fill(&mut Expressions(list)));
    message
}

/// A rule's expressions, left to right: each loads a register, compares one or acts.
struct Expressions<'a>(&'a mut Message);

impl Expressions<'_> {
    fn add(&mut self, name: &str, fill: impl FnOnce(&mut Message)) -> &mut Self {
        self.0.nested(LIST_ELEMENT, |element| {
            element.text(1, name).nested(2, fill);
        });
        self
    }

    fn meta(&mut self, key: u32) -> &mut Self {
        self.add("meta", |e| {
            e.be32(1, REG_1).be32(2, key);
        })
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) -> &mut Self {
        self.add("payload", |e| {
            e.be32(1, REG_1).be32(2, base).be32(3, offset).be32(4, length);
        })
    }

    fn equals(&mut self, value: &[u8]) -> &mut Self {
        self.compare(CMP_EQ, value)
    }

    fn compare(&mut self, how: u32, value: &[u8]) -> &mut Self {
        self.add("cmp", |e| {
            e.be32(1, REG_1).be32(2, how).nested(3, |data| {
                data.bytes(DATA_VALUE, value);
            });
        })
    }

    fn immediate(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.add("immediate", |e| {
            e.be32(1, register).nested(2, |data| {
                data.bytes(DATA_VALUE, value);
            });
        })
    }

    fn is_family(&mut self, v6: bool) -> &mut Self {
        self.meta(META_NFPROTO).equals(&[if v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }])
    }

    /// The interface's name begins so.
    fn interface(&mut self, key: u32, prefix: &str) -> &mut Self {
        self.meta(key).equals(prefix.as_bytes())
    }

    /// … doesn't begin so.
    fn other_interface(&mut self, key: u32, prefix: &str) -> &mut Self {
        self.meta(key).compare(CMP_NEQ, prefix.as_bytes())
    }

    fn in_network(&mut self, source: bool, network: IpAddr, prefix: u8, v6: bool) -> &mut Self {
        let (offset, length) = place(source, v6);
        let mask = mask(prefix, length);
        let zero = vec![0; mask.len()];
        self.payload(PAYLOAD_NETWORK, offset, length);
        self.add("bitwise", |e| {
            e.be32(1, REG_1).be32(2, REG_1).be32(3, length);
            e.nested(4, |data| {
                data.bytes(DATA_VALUE, &mask);
            });
            e.nested(5, |data| {
                data.bytes(DATA_VALUE, &zero);
            });
        });
        self.equals(&octets(&network))
    }

    fn not_to(&mut self, v6: bool, set: &str) -> &mut Self {
        let (offset, length) = place(false, v6);
        self.payload(PAYLOAD_NETWORK, offset, length);
        self.add("lookup", |e| {
            // Flag 1 inverts.
            e.text(1, set).be32(2, REG_1).be32(5, 1);
        })
    }

    fn masquerade(&mut self) -> &mut Self {
        self.add("masq", |_| {})
    }

    fn drop(&mut self) {
        self.add("immediate", |e| {
            e.be32(1, REG_VERDICT).nested(2, |data| {
                data.nested(DATA_VERDICT, |verdict| {
                    verdict.be32(1, VERDICT_DROP);
                });
            });
        });
    }

    fn forward(&mut self, Forward { protocol, host_port, address, port }: &Forward) {
        let family = if address.is_ipv6() { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
        self.is_family(address.is_ipv6()).meta(META_L4PROTO).equals(&[*protocol]);
        self.add("fib", |e| {
            e.be32(1, REG_1).be32(2, FIB_ADDRTYPE).be32(3, FIB_DADDR);
        });
        self.equals(&RTN_LOCAL.to_ne_bytes()).payload(PAYLOAD_TRANSPORT, 2, 2).equals(&host_port.to_be_bytes());
        self.immediate(REG_1, &octets(address)).immediate(REG_2, &port.to_be_bytes());
        self.add("nat", |e| {
            e.be32(1, NAT_DNAT).be32(2, u32::from(family));
            e.be32(3, REG_1).be32(5, REG_2);
        });
    }
}

/// Where an address is in the IP header: offset and length.
fn place(source: bool, v6: bool) -> (u32, u32) {
    match (source, v6) {
        (true, false) => (12, 4),
        (false, false) => (16, 4),
        (true, true) => (8, 16),
        (false, true) => (24, 16),
    }
}

fn mask(prefix: u8, length: u32) -> Vec<u8> {
    (0..length)
        .map(|index| {
            let bits = u32::from(prefix).saturating_sub(index.saturating_mul(8)).min(8);
            u8::try_from(0xff00_u32 >> bits & 0xff).unwrap_or(0xff)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_as_many_bits_as_the_prefix_says() {
        assert_eq!(mask(0, 4), [0; 4]);
        assert_eq!(mask(8, 4), [255, 0, 0, 0]);
        assert_eq!(mask(27, 4), [255, 255, 255, 224]);
        assert_eq!(mask(32, 4), [255; 4]);
        assert_eq!(mask(64, 16), [[255; 8], [0; 8]].concat());
    }
}
