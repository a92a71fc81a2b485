//! Prefixes: the addresses that share their first bits (RFC 4632, RFC 4291 section 2.3).
//!
//! Addresses of both families are kept as numbers, so that everything else is arithmetic. An IPv4-mapped IPv6 address is an IPv6 address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    /// The first address as a number.
    pub(crate) const fn first(&self) -> u128 {
        self.base
    }

    /// The last address as a number.
    pub(crate) fn last(&self) -> u128 {
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

    /// The address of this family that a number stands for.
    pub(crate) fn address(&self, number: u128) -> IpAddr {
        match self.family {
            // Numbers of this family never exceed 32 bits.
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(self.base), self.length)
    }
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
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
    fn families_never_meet() {
        let all = Prefix::parse("0.0.0.0/0").unwrap();
        let six = Prefix::parse("::/0").unwrap();
        assert!(!all.overlaps(&six) && !all.contains("::1".parse().unwrap()));
        assert!(six.contains("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()));
    }
}
