//! One entry of the log: what happened at a revision, with the value that was written.
//!
//! Layout, integers little-endian: kind (1 byte: 1 put, 2 deletion), created (8), revision of the previous version or 0 (8), length of
//! the key (4), CRC-32 (4), key, value. The checksum covers the revision too, so that an entry at the wrong place doesn't pass; redb
//! checks its own checksums only after a crash, this one is checked at every read.

use std::sync::Arc;

use bytes::Bytes;

use super::error::Fault;
use crate::{KeyValue, Revision};

const HEADER: usize = 25;
const CHECKSUM_AT: usize = 21;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Delete,
}

/// An entry, borrowed from the page it lies on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    /// The revision at which the key came into being.
    pub(super) created: u64,
    /// The version that this one replaced; 0: none.
    pub(super) previous: u64,
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
}

impl<'a> Record<'a> {
    /// Its length in the log; `None` when the key's length doesn't fit its field.
    pub(super) fn encoded_len(&self) -> Option<usize> {
        u32::try_from(self.key.len()).ok()?;
        HEADER.checked_add(self.key.len())?.checked_add(self.value.len())
    }

    /// Writes the entry into `out`, which is [`Self::encoded_len`] long.
    pub(super) fn encode(&self, revision: u64, out: &mut [u8]) -> Option<()> {
        let (header, rest) = out.split_at_mut_checked(HEADER)?;
        let (key, value) = rest.split_at_mut_checked(self.key.len())?;
        let kind = match self.kind {
            Kind::Put => 1,
            Kind::Delete => 2,
        };
        *header.get_mut(0)? = kind;
        header.get_mut(1..9)?.copy_from_slice(&self.created.to_le_bytes());
        header.get_mut(9..17)?.copy_from_slice(&self.previous.to_le_bytes());
        header.get_mut(17..21)?.copy_from_slice(&u32::try_from(self.key.len()).ok()?.to_le_bytes());
        if value.len() != self.value.len() {
            return None;
        }
        key.copy_from_slice(self.key.as_bytes());
        value.copy_from_slice(self.value);
        let checksum = checksum(revision, header.get(..CHECKSUM_AT)?, rest);
        header.get_mut(CHECKSUM_AT..)?.copy_from_slice(&checksum.to_le_bytes());
        Some(())
    }

    pub(super) fn decode(revision: u64, entry: &'a [u8]) -> Result<Self, Fault> {
        Self::parse(revision, entry)
            .ok_or_else(|| Fault::Corrupt(format!("the entry of revision {revision} fails its checksum")))
    }

    fn parse(revision: u64, entry: &'a [u8]) -> Option<Self> {
        let (header, rest) = entry.split_at_checked(HEADER)?;
        let stored = u32::from_le_bytes(header.get(CHECKSUM_AT..)?.try_into().ok()?);
        if stored != checksum(revision, header.get(..CHECKSUM_AT)?, rest) {
            return None;
        }
        let kind = match header.first()? {
            1 => Kind::Put,
            2 => Kind::Delete,
            _ => return None,
        };
        let key_len = u32::from_le_bytes(header.get(17..21)?.try_into().ok()?);
        let (key, value) = rest.split_at_checked(usize::try_from(key_len).ok()?)?;
        Some(Self {
            kind,
            created: u64::from_le_bytes(header.get(1..9)?.try_into().ok()?),
            previous: u64::from_le_bytes(header.get(9..17)?.try_into().ok()?),
            key: std::str::from_utf8(key).ok()?,
            value,
        })
    }

    /// The version that this entry made.
    pub(super) fn version(&self, revision: u64, key: Arc<str>) -> KeyValue {
        KeyValue {
            key,
            value: Bytes::copy_from_slice(self.value),
            created: Revision(self.created),
            modified: Revision(revision),
        }
    }
}

fn checksum(revision: u64, header: &[u8], rest: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&revision.to_le_bytes());
    crc.update(header);
    crc.update(rest);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(record: &Record<'_>, revision: u64) -> Vec<u8> {
        let mut out = vec![0; record.encoded_len().unwrap()];
        record.encode(revision, &mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_and_any_flipped_bit_is_found(
            created in any::<u64>(), previous in any::<u64>(), revision in any::<u64>(), key in ".{0,40}",
            value in proptest::collection::vec(any::<u8>(), 0..100), put in any::<bool>(), flip in any::<prop::sample::Index>(),
        ) {
            let kind = if put { Kind::Put } else { Kind::Delete };
            let record = Record { kind, created, previous, key: &key, value: &value };
            let mut bytes = encoded(&record, revision);
            let read = Record::decode(revision, &bytes).unwrap();
            prop_assert_eq!((read.kind, read.created, read.previous), (kind, created, previous));
            prop_assert_eq!((read.key, read.value), (key.as_str(), value.as_slice()));
            prop_assert!(Record::decode(revision ^ 1, &bytes).is_err());
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::decode(revision, &bytes).is_err());
        }

        #[test]
        fn garbage_is_no_entry(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Record::decode(7, &bytes).is_err());
        }
    }
}
