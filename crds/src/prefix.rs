//! Prefixes: the addresses that share their first bits (RFC 4632, RFC 4291 section 2.3).
//!
//! Addresses of both families are kept as numbers, so that everything else is arithmetic. An IPv4-mapped IPv6 address is an IPv6 address.
//!
//! A text with bits set past its length (`10.20.0.1/24`) is no prefix: RFC 4632 section 3.1 has them zero, and whoever writes one meant
//! either the network or the address. So it is refused with the network named, everywhere alike, and never masked in silence.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a text is no prefix.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    #[error("{0:?} is no network: expected an address, a slash and a length, as 10.20.0.0/24 or fd00:20::/64")]
    Grammar(String),
    #[error("{given:?} is longer than the {bits} bits of its address")]
    Length { given: String, bits: u8 },
    #[error("{given:?} has bits set past its length; the network is {network}")]
    HostBits { given: String, network: Prefix },
}

/// A network: an address whose bits past `length` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    family: Family,
    base: u128,
    length: u8,
}

impl Prefix {
    /// The network of `length` bits that holds an address; a length past the address' bits is the address alone.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Self {
        let family = Family::of(address);
        let length = length.min(family.bits());
        Self { family, base: number(address) & !host_mask(family, length), length }
    }

    /// An address alone.
    #[must_use]
    pub fn single(address: IpAddr) -> Self {
        Self::of(address, Family::of(address).bits())
    }

    /// `10.20.0.0/24`.
    ///
    /// # Errors
    /// [`PrefixError`] if the text isn't an address, a slash and a length, or has bits set past the length.
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let grammar = || PrefixError::Grammar(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(grammar)?;
        let address: IpAddr = address.parse().map_err(|_| grammar())?;
        if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(grammar());
        }
        let bits = Family::of(address).bits();
        let too_long = || PrefixError::Length { given: text.to_owned(), bits };
        let length: u8 = length.parse().map_err(|_| too_long())?;
        if length > bits {
            return Err(too_long());
        }
        let network = Self::of(address, length);
        if network.base != number(address) {
            return Err(PrefixError::HostBits { given: text.to_owned(), network });
        }
        Ok(network)
    }

    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The first address: all bits past the length are 0.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.address(self.base)
    }

    /// The first address as a number.
    #[must_use]
    pub const fn first(&self) -> u128 {
        self.base
    }

    /// The last address as a number.
    #[must_use]
    pub fn last(&self) -> u128 {
        self.base | host_mask(self.family, self.length)
    }

    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family == Family::of(address) && (self.first()..=self.last()).contains(&number(address))
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first() <= other.last() && other.first() <= self.last()
    }

    /// Whether every address of `other` is one of this.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.family == other.family && self.first() <= other.first() && other.last() <= self.last()
    }

    /// Whether it is one address alone.
    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.length == self.family.bits()
    }

    /// The address of this family that a number stands for.
    #[must_use]
    pub fn address(&self, number: u128) -> IpAddr {
        match self.family {
            // Numbers of this family never exceed 32 bits.
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.length)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        Self::parse(text)
    }
}

/// An address as a number.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The bits past `length`.
fn host_mask(family: Family, length: u8) -> u128 {
    let host = u32::from(family.bits().saturating_sub(length));
    1_u128.checked_shl(host).map_or(u128::MAX, |one| one - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_read_and_printed() {
        for text in ["10.20.0.0/24", "0.0.0.0/0", "192.0.2.1/32", "fd00:20::/64", "::/0", "fd00::1/128"] {
            assert_eq!(Prefix::parse(text).unwrap().to_string(), text);
        }
        for (text, said) in [
            ("10.20.0.0", "no network"),
            ("10.20.0.0/", "no network"),
            ("10.20.0.0/+8", "no network"),
            ("010.20.0.0/8", "no network"),
            ("10.20.0.0/33", "32 bits"),
            ("10.20.0.0/999", "32 bits"),
            ("fd00::/129", "128 bits"),
            ("10.20.0.1/24", "the network is 10.20.0.0/24"),
            ("fd00::1/64", "the network is fd00::/64"),
        ] {
            let error = Prefix::parse(text).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn whoever_covers_holds_every_address() {
        let read = |text: &str| text.parse::<Prefix>().unwrap();
        let (wide, narrow, one) = (read("10.0.0.0/8"), read("10.20.0.0/24"), read("10.20.0.7/32"));
        assert!(wide.covers(&narrow) && wide.covers(&wide) && narrow.covers(&one) && !narrow.covers(&wide));
        assert!(
            one.is_single() && !narrow.is_single() && read("fd00::1/128").is_single() && !read("::/32").is_single()
        );
        assert!(!read("10.21.0.0/24").covers(&one) && narrow.contains(one.network()));
        assert!(read("0.0.0.0/0").covers(&wide) && !read("::/0").covers(&wide));
        assert_eq!(Prefix::of("10.20.0.7".parse().unwrap(), 24), narrow);
    }

    proptest! {
        #[test]
        fn an_address_with_a_length_is_its_network_or_refused_with_it(bits: u128, four: bool, length in 0_u8..=128) {
            let address = match four {
                true => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap())),
                false => IpAddr::V6(Ipv6Addr::from_bits(bits)),
            };
            let text = format!("{address}/{length}");
            let network = Prefix::of(address, length);
            match Prefix::parse(&text) {
                Ok(prefix) => {
                    prop_assert_eq!((prefix, prefix.to_string()), (network, text));
                    prop_assert_eq!(prefix.network(), address);
                }
                Err(PrefixError::HostBits { network: named, .. }) => {
                    prop_assert_eq!(named, network);
                    prop_assert!(network.contains(address) && network.network() != address);
                }
                Err(PrefixError::Length { bits, .. }) => prop_assert!(length > bits && four),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }

        #[test]
        fn nothing_panics(text in "[0-9a-f.:/+ -]{0,48}") {
            let _ = Prefix::parse(&text);
        }
    }

    #[test]
    fn families_never_meet() {
        let all = Prefix::parse("0.0.0.0/0").unwrap();
        let six = Prefix::parse("::/0").unwrap();
        assert!(!all.overlaps(&six) && !all.contains("::1".parse().unwrap()));
        assert!(six.contains("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()));
    }
}
