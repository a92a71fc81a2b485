//! Addresses: no two instances ever share one, and none is outside of what models may have.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use pullpiri_crds::network::{LabelSelector, NetworkMode, NetworkSpec, Subnet};
use pullpiri_net::ipam::{self, Pool};

fn subnet(v4: Option<&str>, v6: Option<&str>) -> Subnet {
    Subnet { v4: v4.map(str::to_owned), v6: v6.map(str::to_owned) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_lowest_free_address_of_each_family_is_given() {
    let pool = Pool::new(&subnet(Some("10.20.0.0/24"), Some("fd00:20::/64"))).unwrap();
    assert_eq!(pool.gateways(), [ip("10.20.0.1"), ip("fd00:20::1")]);
    assert_eq!(pool.capacity(), 253);
    let mut used = BTreeSet::new();
    assert_eq!(pool.allocate(&used).unwrap(), [ip("10.20.0.2"), ip("fd00:20::2")]);
    used.extend([ip("10.20.0.2"), ip("10.20.0.3"), ip("fd00:20::3"), ip("10.19.0.4"), ip("10.20.0.1")]);
    assert_eq!(pool.allocate(&used).unwrap(), [ip("10.20.0.4"), ip("fd00:20::2")]);
}

#[test]
fn an_exhausted_subnet_says_how_many_it_has() {
    let pool = Pool::new(&subnet(Some("10.0.0.0/30"), None)).unwrap();
    assert_eq!(pool.capacity(), 1);
    let error = pool.allocate(&[ip("10.0.0.2")].into()).unwrap_err();
    assert_eq!(error.to_string(), "subnet 10.0.0.0/30 has 1 address for models and 1 is in use");
    let pool = Pool::new(&subnet(None, Some("fd00::/126"))).unwrap();
    assert_eq!(pool.capacity(), 2);
    assert_eq!(pool.allocate(&[ip("fd00::2")].into()).unwrap(), [ip("fd00::3")]);
    assert_eq!(pool.allocate(&[ip("fd00::2"), ip("fd00::3")].into()).unwrap_err().used, 2);
}

#[test]
fn bad_subnets_are_refused_by_field() {
    for (v4, v6, said) in [
        (None, None, "spec.subnet: v4 or v6 must be set"),
        (
            Some("10.20.0.1/24"),
            None,
            "spec.subnet.v4: \"10.20.0.1/24\" has bits set past its length; the network is 10.20.0.0/24",
        ),
        (Some("fd00::/64"), None, "spec.subnet.v4: must be an IPv4 network, as 10.20.0.0/24; got fd00::/64"),
        (Some("10.0.0.0/31"), None, "spec.subnet.v4: must have a length from /8 to /30; got 10.0.0.0/31"),
        (Some("0.0.0.0/0"), None, "spec.subnet.v4: must have a length from /8 to /30; got 0.0.0.0/0"),
        (None, Some("fd00::/127"), "spec.subnet.v6: must have a length from /48 to /126; got fd00::/127"),
        (None, Some("10.0.0.0/24"), "spec.subnet.v6: must be an IPv6 network, as fd00:20::/64; got 10.0.0.0/24"),
    ] {
        assert_eq!(Pool::new(&subnet(v4, v6)).unwrap_err().to_string(), said);
    }
}

#[test]
fn addresses_that_nobody_can_have_are_refused() {
    for (text, reserved) in [
        ("0.0.0.0/8", "0.0.0.0/8"),
        ("0.7.0.0/16", "0.0.0.0/8"),
        ("127.0.0.0/8", "127.0.0.0/8"),
        ("169.254.7.0/24", "169.254.0.0/16"),
        ("169.0.0.0/8", "169.254.0.0/16"),
        ("224.0.0.0/24", "224.0.0.0/4"),
        ("239.0.0.0/8", "224.0.0.0/4"),
        ("240.0.0.0/8", "240.0.0.0/4"),
        ("255.255.255.0/24", "240.0.0.0/4"),
    ] {
        let error = Pool::new(&subnet(Some(text), None)).unwrap_err().to_string();
        assert!(error.contains("spec.subnet.v4") && error.contains(reserved) && error.contains(text), "{error}");
    }
    for (text, reserved) in [
        ("::/64", "::/96"),
        ("::ffff:a00:0/120", "::ffff:0:0/96"),
        ("100::/64", "100::/64"),
        ("fe80::/64", "fe80::/10"),
        ("febf:1::/48", "fe80::/10"),
        ("ff02::/64", "ff00::/8"),
    ] {
        let error = Pool::new(&subnet(None, Some(text))).unwrap_err().to_string();
        assert!(error.contains("spec.subnet.v6") && error.contains(reserved) && error.contains(text), "{error}");
    }
    for text in ["1.0.0.0/8", "126.0.0.0/8", "128.0.0.0/8", "169.253.0.0/16", "223.0.0.0/8"] {
        Pool::new(&subnet(Some(text), None)).unwrap();
    }
    for text in ["fec0::/64", "fe00::/48", "2001:db8::/64", "100:0:0:1::/64"] {
        Pool::new(&subnet(None, Some(text))).unwrap();
    }
}

#[test]
fn subnets_that_share_addresses_are_found() {
    let pool = |v4, v6| Pool::new(&subnet(v4, v6)).unwrap();
    let a = pool(Some("10.20.0.0/16"), Some("fd00:20::/64"));
    assert!(ipam::overlap(&a, &pool(Some("10.20.7.0/24"), None)).is_some());
    assert!(ipam::overlap(&pool(None, Some("fd00:20::/48")), &a).is_some());
    assert!(ipam::overlap(&a, &pool(Some("10.21.0.0/16"), Some("fd00:20:0:1::/64"))).is_none());
}

#[test]
fn modes_are_implied_and_selectors_match() {
    let spec = NetworkSpec::default();
    assert_eq!(ipam::mode(&spec), NetworkMode::Host);
    let labels: BTreeMap<_, _> = [("role".to_owned(), "brake".to_owned()), ("x".to_owned(), "y".to_owned())].into();
    assert!(!ipam::attaches(&spec, &labels));
    let attach = |pairs: &[(&str, &str)]| NetworkSpec {
        subnet: Some(Subnet::default()),
        attach: Some(LabelSelector {
            match_labels: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }),
        ..NetworkSpec::default()
    };
    assert_eq!(ipam::mode(&attach(&[])), NetworkMode::Bridge);
    assert!(ipam::attaches(&attach(&[("role", "brake")]), &labels));
    assert!(!ipam::attaches(&attach(&[("role", "brake"), ("z", "y")]), &labels));
    assert!(!ipam::attaches(&attach(&[]), &labels));
}

proptest! {
    #[test]
    fn addresses_are_unique_inside_and_never_reserved(
        v4 in (any::<u32>(), 22_u8..=30),
        v6 in (any::<u128>(), 118_u8..=126),
        families in 1_u8..=3,
        releases in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
    ) {
        // Of 10.0.0.0/8 and fd00::/8: not of what is reserved.
        let v4 = pullpiri_crds::prefix::Prefix::of(IpAddr::V4((10 << 24 | v4.0 >> 8).into()), v4.1);
        let v6 = pullpiri_crds::prefix::Prefix::of(IpAddr::V6((0xfd << 120 | v6.0 >> 8).into()), v6.1);
        let text = |wanted: bool, p: pullpiri_crds::prefix::Prefix| wanted.then(|| p.to_string());
        let pool = Pool::new(&Subnet { v4: text(families & 1 != 0, v4), v6: text(families & 2 != 0, v6) }).unwrap();
        let mut used = BTreeSet::new();
        let mut held: Vec<Vec<IpAddr>> = Vec::new();
        let fill = |used: &mut BTreeSet<IpAddr>, held: &mut Vec<Vec<IpAddr>>| {
            while let Ok(given) = pool.allocate(used) {
                assert_eq!(given.len(), pool.prefixes().len());
                for (address, prefix) in given.iter().zip(pool.prefixes()) {
                    assert!(prefix.contains(*address) && pool.assignable(*address), "{address} outside of {prefix}");
                    assert!(!pool.gateways().contains(address));
                    assert!(used.insert(*address), "{address} given twice");
                }
                held.push(given);
            }
        };
        fill(&mut used, &mut held);
        prop_assert_eq!(held.len(), usize::try_from(pool.capacity()).unwrap());
        for release in releases {
            if !held.is_empty() {
                for address in held.swap_remove(release.index(held.len())) {
                    used.remove(&address);
                }
            }
        }
        fill(&mut used, &mut held);
        prop_assert_eq!(held.len(), usize::try_from(pool.capacity()).unwrap());
    }
}
