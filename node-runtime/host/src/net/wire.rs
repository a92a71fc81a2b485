//! Netlink's encoding: messages of a header and attributes (type, length, value), all in the machine's byte order, each padded to four
//! bytes. Source: netlink(7), rtnetlink(7), linux/netlink.h. Nothing here makes a system call.

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that name it.
const TYPE_MASK: u16 = 0x3fff;

/// Flags of a request, from linux/netlink.h.
pub mod flag {
    pub const REQUEST: u16 = 0x01;
    pub const ACK: u16 = 0x04;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

/// A message under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `kind` is a message type such as `RTM_NEWLINK`; `header` is the family's fixed part (`ifinfomsg`, `rtmsg`, …).
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | flag::REQUEST).to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute. A value beyond what a length can say (65,531 bytes) is a caller's mistake and is cut.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let value = value.get(..usize::from(u16::MAX) - ATTRIBUTE_HEADER).unwrap_or(value);
        let length = u16::try_from(value.len() + ATTRIBUTE_HEADER).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network order, as nftables wants its numbers.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// With a terminating NUL.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nested_after(kind, &[], fill)
    }

    /// As [`nested`](Self::nested), with a fixed part before them, as `VETH_INFO_PEER` has.
    pub fn nested_after(&mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0, 0]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        self.bytes.extend(fixed);
        self.pad();
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &length.to_ne_bytes());
        self
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    /// The message with its length, flags and sequence number set.
    #[must_use]
    pub fn finish(mut self, sequence: u32, more_flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.patch(0, &length.to_ne_bytes());
        let flags = read_u16(&self.bytes, 6) | more_flags;
        self.patch(6, &flags.to_ne_bytes());
        self.patch(8, &sequence.to_ne_bytes());
        self.bytes
    }
}

/// One received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// After the header.
    pub payload: &'a [u8],
}

/// The messages of a datagram. What is cut short or says a nonsensical length ends the row.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(read_u32(self.0, 0)).ok()?;
        let payload = self.0.get(HEADER..length)?;
        let (kind, flags, sequence) = (read_u16(self.0, 4), read_u16(self.0, 6), read_u32(self.0, 8));
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, flags, sequence, payload })
    }
}

/// The attributes in a payload, as (type, value).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// Those after a fixed part of `header` bytes.
    #[must_use]
    pub fn after(payload: &'a [u8], header: usize) -> Self {
        Self(payload.get(header.next_multiple_of(4)..).unwrap_or_default())
    }

    /// The value of the first attribute of this type.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self;
        all.find_map(|(found, value)| (found == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(read_u16(self.0, 0));
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        let kind = read_u16(self.0, 2) & TYPE_MASK;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The number at `at`, or 0 if there is none.
#[must_use]
pub fn read_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// The number at `at`, or 0 if there is none.
#[must_use]
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The number at `at`, or 0 if there is none.
#[must_use]
pub fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// Up to the first NUL.
#[must_use]
pub fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(16, flag::CREATE, &[7; 16]);
        message.u8(1, 9).text(3, "eth0").u64(5, 1 << 40).nested(18, |inner| {
            inner.text(1, "veth").nested_after(2, &[1; 3], |deeper| {
                deeper.u32(1, 77);
            });
        });
        let bytes = message.finish(42, flag::ACK);
        let two = [bytes.clone(), bytes].concat();
        let received: Vec<Received<'_>> = Messages(&two).collect();
        assert_eq!(received.len(), 2);
        let first = received[0];
        assert_eq!((first.kind, first.sequence), (16, 42));
        assert_eq!(first.flags, flag::CREATE | flag::ACK | flag::REQUEST);
        let attributes = Attributes::after(first.payload, 16);
        assert_eq!(attributes.find(1), Some(&[9][..]));
        assert_eq!(attributes.find(3).map(read_text).as_deref(), Some("eth0"));
        assert_eq!(attributes.find(5).map(|b| read_u64(b, 0)), Some(1 << 40));
        let inner = Attributes(attributes.find(18).unwrap());
        assert_eq!(inner.find(1).map(read_text).as_deref(), Some("veth"));
        assert_eq!(Attributes::after(inner.find(2).unwrap(), 3).find(1).map(|b| read_u32(b, 0)), Some(77));
        assert_eq!(attributes.find(99), None);
    }

    #[test]
    fn cut_or_senseless_input_ends_the_row() {
        for bytes in [&[][..], &[1], &[0; 16], &[255; 20], &[3, 0, 1, 0], &[8, 0, 1, 0, 1]] {
            assert_eq!(Messages(bytes).count(), 0, "{bytes:?}");
            assert_eq!(Attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
