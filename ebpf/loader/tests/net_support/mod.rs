//! Frames built byte by byte, and a datapath of its own for each test.
#![allow(dead_code, reason = "each test uses a part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use pullpiri_crds::network::Verdict;
use pullpiri_ebpf::net::policy::{Endpoint, Network, Place};
use pullpiri_ebpf::net::{Counters, Datapath, DropReason, ensure_bpffs, probe};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

pub fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network of 10.THIRD.0.0/24 and fd00:THIRD::/64, whose gateways end in 1.
pub fn network(id: u16, third: u16, internal: Verdict, egress: Verdict) -> Network {
    Network {
        id,
        name: format!("default/n{id}"),
        subnets: vec![format!("10.{third}.0.0/24").parse().unwrap(), format!("fd00:{third}::/64").parse().unwrap()],
        gateways: vec![ip(&format!("10.{third}.0.1")), ip(&format!("fd00:{third}::1"))],
        internal,
        egress,
    }
}

pub fn endpoint(name: &str, network: u16, identity: u32, addresses: &[&str], place: Place) -> Endpoint {
    Endpoint {
        instance: format!("default/{name}"),
        uid: name.to_owned(),
        network,
        identity,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        place,
    }
}

/// A bpffs of its own, gone with everything in it when it is dropped.
pub struct BpfFs {
    dir: tempfile::TempDir,
}

impl BpfFs {
    /// `None` where this machine can't, said why.
    pub fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if let Err(error) = ensure_bpffs(dir.path()) {
            println!("skipped: {error}");
            return None;
        }
        let this = Self { dir };
        if let Some(missing) = probe(&this.pins()).missing() {
            println!("skipped: {missing}");
            return None;
        }
        Some(this)
    }

    pub fn pins(&self) -> PathBuf {
        self.dir.path().join("node")
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

/// A datapath with pins of its own, removed when it is dropped.
pub struct Fixture {
    pub datapath: Option<Datapath>,
    pub dir: PathBuf,
    _bpffs: BpfFs,
}

impl Fixture {
    /// `None` where this machine can't, said why.
    pub fn new() -> Option<Self> {
        let bpffs = BpfFs::mount()?;
        let dir = bpffs.pins();
        let datapath = Some(Datapath::open_or_load(&dir).unwrap());
        Some(Self { datapath, dir, _bpffs: bpffs })
    }

    pub fn get(&mut self) -> &mut Datapath {
        self.datapath.as_mut().unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(datapath) = self.datapath.take() {
            let removed = datapath.remove();
            // A test that failed says why itself.
            assert!(std::thread::panicking() || (removed.is_ok() && !self.dir.exists()), "{removed:?}");
        }
    }
}

/// The reasons whose counters rose, and by how much.
pub fn drops_between(before: &Counters, after: &Counters) -> Vec<(DropReason, u64)> {
    let rose = |reason: &DropReason| after.drops[reason] - before.drops[reason];
    DropReason::ALL.into_iter().map(|reason| (reason, rose(&reason))).filter(|(_, n)| *n > 0).collect()
}

/// The internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

pub fn ethernet(vlan_tags: usize, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(MAC_B);
    frame.extend(MAC_A);
    for i in 0..vlan_tags {
        let outer = vlan_tags > 1 && i == 0;
        frame.extend(if outer { 0x88a8u16 } else { 0x8100 }.to_be_bytes());
        frame.extend(100u16.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet. `options` must be a multiple of 4 bytes; `fragment` is the field with its flags.
pub struct V4<'a> {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub tos: u8,
    pub options: &'a [u8],
    pub id: u16,
    pub fragment: u16,
    pub payload: &'a [u8],
}

impl V4<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), self.tos];
        bytes.extend(u16::try_from(header + self.payload.len()).unwrap().to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(self.payload);
        bytes
    }
}

/// An IPv6 packet; `next` is the first header of `payload`.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, class: u8, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((6u32 << 28) | (u32::from(class) << 20)).to_be_bytes().to_vec();
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend([next, hop_limit]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(payload);
    bytes
}

pub fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

pub fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest);
    bytes
}

/// What one packet says, without options or fragments.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub icmp_type: u8,
    pub dscp: u8,
    pub hop_limit: u8,
}

impl Flow {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, source_port: u16, destination_port: u16) -> Self {
        let icmp_type = if source.is_ipv4() { 8 } else { 128 };
        Self { source, destination, protocol, source_port, destination_port, icmp_type, dscp: 0, hop_limit: 64 }
    }

    pub fn payload(&self) -> Vec<u8> {
        match self.protocol {
            TCP => tcp(self.source_port, self.destination_port, 0x02),
            UDP => udp(self.source_port, self.destination_port, b"data"),
            ICMP | ICMPV6 => icmp(self.icmp_type, 0, &[0, 7, 0, 1]),
            _ => vec![0; 16],
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        self.tagged(0)
    }

    pub fn tagged(&self, vlan_tags: usize) -> Vec<u8> {
        let payload = self.payload();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let packet = V4 {
                    source,
                    destination,
                    protocol: self.protocol,
                    tos: self.dscp << 2,
                    options: &[],
                    id: 1,
                    fragment: 0,
                    payload: &payload,
                };
                ethernet(vlan_tags, 0x0800, &packet.bytes())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let bytes = ipv6(source, destination, self.dscp << 2, self.protocol, self.hop_limit, &payload);
                ethernet(vlan_tags, 0x86dd, &bytes)
            }
            _ => panic!("families differ"),
        }
    }

    pub fn reversed(&self) -> Self {
        let icmp_type = match self.icmp_type {
            8 => 0,
            128 => 129,
            other => other,
        };
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            icmp_type,
            ..*self
        }
    }
}

/// A small generator (splitmix64, Steele et al. 2014): the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
