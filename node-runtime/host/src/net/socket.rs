//! A netlink socket: requests with an acknowledgement, and dumps. Blocking; each call takes microseconds to a few milliseconds.
//!
//! A socket belongs to the network namespace of the thread that opened it and may then be used from any.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, getsockopt, recv, send, setsockopt, socket,
};

use super::wire::{Attributes, HEADER, Message, Messages, flag, read_text, read_u32};
use crate::{Result, SysError};

/// As large as the kernel makes a dump's datagrams (netlink.h, NLMSG_GOODSIZE and the 32 KiB limit of netlink_dump).
const BUFFER: usize = 64 << 10;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump during which the tables changed is begun anew this often.
const DUMP_TRIES: u32 = 8;

/// Which part of the kernel is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Route,
    Netfilter,
}

#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub kind: u16,
    pub payload: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in this thread's network namespace.
    pub fn open(family: Family) -> Result<Self> {
        let attempted = "opening a netlink socket";
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(|e| SysError::errno(attempted, e))?;
        // Errors come with the kernel's words for them, and without the request; absent before Linux 4.12, and no loss.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            let _ = set_option(&socket, option);
        }
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request and waits until the kernel says that it is done.
    pub fn request(&mut self, message: Message, attempted: &str) -> Result<()> {
        self.call(message, flag::ACK, attempted).map(drop)
    }

    /// Sends a request that is answered by one message.
    pub fn get(&mut self, message: Message, attempted: &str) -> Result<Answer> {
        let mut answers = self.call(message, flag::ACK, attempted)?;
        answers.pop().ok_or_else(|| SysError::io(attempted, Error::other("the kernel gave no answer")))
    }

    /// Every message of a table.
    pub fn dump(&mut self, message: &Message, attempted: &str) -> Result<Vec<Answer>> {
        for _ in 0..DUMP_TRIES {
            match self.call(message.clone(), flag::DUMP, attempted) {
                Err(error) if error.source.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
        Err(SysError::io(attempted, Error::other("the table changed each time that it was read")))
    }

    /// Sends messages as one batch and waits for what the kernel says to each that asks for an acknowledgement. The first error is
    /// the batch's.
    pub(super) fn batch(&mut self, messages: Vec<Message>, attempted: &str) -> Result<()> {
        let fail = |e| SysError::errno(attempted, e);
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut last = first;
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            // Begin and end of a batch aren't answered.
            let inner = index > 0 && index + 1 < count;
            if inner {
                last = self.sequence;
            }
            bytes.extend(message.finish(self.sequence, if inner && index + 2 == count { flag::ACK } else { 0 }));
        }
        self.make_room(bytes.len());
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(fail)?;
        loop {
            let length = self.receive().map_err(fail)?;
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                if message.kind != NLMSG_ERROR || message.sequence < first || message.sequence > self.sequence {
                    continue;
                }
                let code = i32::from_ne_bytes(read_u32(message.payload, 0).to_ne_bytes());
                if code != 0 {
                    return Err(refusal(attempted, code, message.payload, message.flags));
                }
                if message.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    fn call(&mut self, message: Message, flags: u16, attempted: &str) -> Result<Vec<Answer>> {
        let fail = |e| SysError::errno(attempted, e);
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence, flags);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(fail)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let length = self.receive().map_err(fail)?;
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                // What is left of a call that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR => {
                        let code = i32::from_ne_bytes(read_u32(message.payload, 0).to_ne_bytes());
                        if code != 0 {
                            return Err(refusal(attempted, code, message.payload, message.flags));
                        }
                        return Ok(answers);
                    }
                    NLMSG_DONE if interrupted => return Err(fail(Errno::EINTR)),
                    NLMSG_DONE => {
                        let code = i32::from_ne_bytes(read_u32(message.payload, 0).to_ne_bytes());
                        if code < 0 {
                            return Err(refusal(attempted, code, &[], 0));
                        }
                        return Ok(answers);
                    }
                    kind => answers.push(Answer { kind, payload: message.payload.to_vec() }),
                }
            }
        }
    }

    /// One datagram has to fit into the socket's buffer (netlink_sendmsg in net/netlink/af_netlink.c). If it can't be made larger, sending says so.
    fn make_room(&self, bytes: usize) {
        // The kernel keeps a little of it for itself (32 bytes), and counts twice what is asked for.
        let wanted = bytes.saturating_add(64);
        if getsockopt(&self.socket, SndBuf).is_ok_and(|now| now >= wanted) {
            return;
        }
        if setsockopt(&self.socket, SndBufForce, &wanted).is_err() {
            let _ = setsockopt(&self.socket, SndBuf, &wanted);
        }
    }

    fn receive(&mut self) -> nix::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Ok(length) if length > self.buffer.len() => return Err(Errno::EMSGSIZE),
                other => return other,
            }
        }
    }
}

/// The kernel's error, with its words for it if it gave any.
fn refusal(attempted: &str, code: i32, payload: &[u8], flags: u16) -> SysError {
    let errno = Errno::from_raw(code.saturating_neg());
    // After the code comes the request's header, and all of the request unless it was capped.
    let request = usize::try_from(read_u32(payload, 4)).unwrap_or(0);
    let skipped = 4 + if flags & NLM_F_CAPPED != 0 { HEADER } else { request };
    let words = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| Attributes::after(payload, skipped).find(NLMSGERR_ATTR_MSG))
        .flatten()
        .map(read_text);
    match words {
        Some(words) => SysError::errno(format!("{attempted} ({words})"), errno),
        None => SysError::errno(attempted, errno),
    }
}

fn set_option(socket: &OwnedFd, option: libc::c_int) -> Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the pointer and size describe an integer that lives through the call.
    #[allow(unsafe_code)]
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), size) };
    if set == 0 { Ok(()) } else { Err(SysError::last("setting an option of a netlink socket")) }
}
