//! SEQPACKET sockets: whole messages, in order, with descriptors beside them.
//!
//! A message is at most [`MAX_MESSAGE`] bytes (what fits the default send buffer of Linux) and carries at most [`MAX_FDS`] descriptors.
//! Paths longer than a socket address allows are reached through a descriptor of their directory.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recv, recvmsg, sendmsg, socket, socketpair,
};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::{Result, SysError};

pub const MAX_MESSAGE: usize = 128 * 1024;
pub const MAX_FDS: usize = 4;

/// One end of a connection.
#[derive(Debug)]
pub struct SeqPacket(OwnedFd);

/// A message and what came with it.
#[derive(Debug)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// What reading found.
#[derive(Debug)]
pub enum Received {
    Message(Message),
    /// The other end is closed.
    Closed,
    /// Nothing is there yet (non-blocking sockets only).
    Nothing,
}

impl SeqPacket {
    /// A connected pair; neither end survives exec.
    pub fn pair() -> Result<(Self, Self)> {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map(|(a, b)| (Self(a), Self(b)))
            .map_err(|e| SysError::errno("opening a socket pair", e))
    }

    /// Connects to a listener at `name` in `directory`. One that doesn't take its connections holds nobody up: where as many wait as it
    /// lets, that is an error of kind `WouldBlock`.
    pub fn connect(directory: &Path, name: &str) -> Result<Self> {
        let attempted = || format!("connecting to {}", directory.join(name).display());
        let (_keep, address) = address(directory, name, attempted)?;
        let fd = new_socket(attempted)?;
        set_nonblocking(&fd)?;
        connect(fd.as_raw_fd(), &address).map_err(|e| SysError::errno(attempted(), e))?;
        set_blocking(&fd)?;
        Ok(Self(fd))
    }

    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    pub fn set_nonblocking(&self) -> Result<()> {
        set_nonblocking(&self.0)
    }

    /// The process at the other end: for a connected socket the one that listened, for a pair the one that made it (unix(7), SO_PEERCRED).
    pub fn peer(&self) -> Result<Pid> {
        getsockopt(&self.0, PeerCredentials)
            .map(|credentials| Pid::from_raw(credentials.pid()))
            .map_err(|e| SysError::errno("asking who is at the other end of a socket", e))
    }

    /// Sends one message. On a non-blocking socket a full buffer is an error of kind `WouldBlock`; a closed other end is one of kind
    /// `BrokenPipe`, never a signal.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let attempted = || format!("sending a message of {} bytes", bytes.len());
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(SysError::errno(attempted(), Errno::EMSGSIZE));
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        loop {
            match sendmsg::<()>(
                self.0.as_raw_fd(),
                &[IoSlice::new(bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_EOR,
                None,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(SysError::errno(attempted(), e)),
            }
        }
    }

    /// Receives one message. Descriptors don't survive exec.
    pub fn receive(&self) -> Result<Received> {
        let attempted = "receiving a message";
        // The buffer is as large as the message that waits, so that an idle peer holds none.
        let size = loop {
            match recv(self.0.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(Received::Closed),
                Ok(size) => break size,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(e) => return Err(SysError::errno(attempted, e)),
            }
        };
        if size > MAX_MESSAGE {
            return Err(SysError::errno(attempted, Errno::EMSGSIZE));
        }
        let mut bytes = vec![0; size];
        let mut space = cmsg_space!([RawFd; MAX_FDS]);
        let mut fds = Vec::new();
        let (length, truncated) = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Ok(message) => {
                    for control in message.cmsgs().map_err(|e| SysError::errno(attempted, e))? {
                        if let ControlMessageOwned::ScmRights(raw) = control {
                            for fd in raw {
                                // SAFETY: the kernel made this descriptor for us with this message; nobody else owns it.
                                #[allow(unsafe_code)]
                                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                            }
                        }
                    }
                    break (message.bytes, message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(e) => return Err(SysError::errno(attempted, e)),
            }
        };
        if truncated {
            return Err(SysError::errno(attempted, Errno::EMSGSIZE));
        }
        bytes.truncate(length);
        Ok(Received::Message(Message { bytes, fds }))
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SeqPacket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A socket that others connect to.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens at `name` in `directory`, in place of what was there; non-blocking.
    pub fn bind(directory: &Path, name: &str) -> Result<Self> {
        let attempted = || format!("listening on {}", directory.join(name).display());
        match std::fs::remove_file(directory.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(SysError::io(attempted(), e)),
            _ => {}
        }
        let (_keep, address) = address(directory, name, attempted)?;
        let fd = new_socket(attempted)?;
        bind(fd.as_raw_fd(), &address).map_err(|e| SysError::errno(attempted(), e))?;
        let backlog = Backlog::new(16).map_err(|e| SysError::errno(attempted(), e))?;
        listen(&fd, backlog).map_err(|e| SysError::errno(attempted(), e))?;
        set_nonblocking(&fd)?;
        Ok(Self(fd))
    }

    /// The next connection, if one waits.
    pub fn accept(&self) -> Result<Option<SeqPacket>> {
        loop {
            match accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(fd) => {
                    // SAFETY: accept4 just made this descriptor for us; nobody else owns it.
                    #[allow(unsafe_code)]
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    return Ok(Some(SeqPacket(fd)));
                }
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(e) => return Err(SysError::errno("accepting a connection", e)),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn new_socket(attempted: impl Fn() -> String) -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| SysError::errno(attempted(), e))
}

/// The address of `name` in `directory` by way of the directory's descriptor, which must live until it was used: a socket address holds
/// 107 bytes, a data directory's path may be longer.
fn address(directory: &Path, name: &str, attempted: impl Fn() -> String) -> Result<(OwnedFd, UnixAddr)> {
    let fd = open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| SysError::errno(attempted(), e))?;
    let path = format!("/proc/self/fd/{}/{name}", fd.as_raw_fd());
    let address = UnixAddr::new(path.as_str()).map_err(|e| SysError::errno(attempted(), e))?;
    Ok((fd, address))
}

/// Makes reads and writes return at once.
pub fn set_nonblocking(fd: &impl AsFd) -> Result<()> {
    change_flags(fd, "making a descriptor non-blocking", |flags| flags | OFlag::O_NONBLOCK)
}

/// Makes reads and writes wait.
fn set_blocking(fd: &impl AsFd) -> Result<()> {
    change_flags(fd, "making a descriptor blocking", |flags| flags - OFlag::O_NONBLOCK)
}

fn change_flags(fd: &impl AsFd, attempted: &'static str, change: impl Fn(OFlag) -> OFlag) -> Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|e| SysError::errno(attempted, e))?;
    let flags = change(OFlag::from_bits_retain(flags));
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop).map_err(|e| SysError::errno(attempted, e))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn message(received: Received) -> Message {
        match received {
            Received::Message(m) => m,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    #[test]
    fn messages_keep_their_boundaries_and_carry_descriptors() {
        let (a, b) = SeqPacket::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        a.send(b"first", &[]).unwrap();
        a.send(b"second", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(message(b.receive().unwrap()).bytes, b"first");
        let second = message(b.receive().unwrap());
        assert_eq!(second.bytes, b"second");
        let mut file = std::fs::File::from(second.fds.into_iter().next().unwrap());
        file.write_all(b"through").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(a);
        assert!(matches!(b.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn oversized_and_empty_messages_are_refused() {
        let (a, _b) = SeqPacket::pair().unwrap();
        assert!(a.send(&[], &[]).is_err());
        assert!(a.send(&vec![0; MAX_MESSAGE + 1], &[]).is_err());
        a.send(&vec![7; MAX_MESSAGE], &[]).unwrap();
    }

    #[test]
    fn a_listener_in_a_deep_directory_is_reached() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let listener = Listener::bind(&deep, "ctl.sock").unwrap();
        assert!(listener.accept().unwrap().is_none());
        let client = SeqPacket::connect(&deep, "ctl.sock").unwrap();
        let server = listener.accept().unwrap().unwrap();
        client.send(b"hello", &[]).unwrap();
        assert_eq!(message(server.receive().unwrap()).bytes, b"hello");
        // A stale socket file is replaced.
        drop(listener);
        assert!(SeqPacket::connect(&deep, "ctl.sock").is_err());
        Listener::bind(&deep, "ctl.sock").unwrap();
    }

    #[test]
    fn a_listener_that_takes_no_connection_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let listener = Listener::bind(&path, "ctl.sock").unwrap();
        let (told, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            let refused = loop {
                match SeqPacket::connect(&path, "ctl.sock") {
                    Ok(connection) => held.push(connection),
                    Err(error) => break error,
                }
            };
            let _ = told.send((held, refused));
        });
        let (held, refused) = outcome.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
        assert_eq!(refused.source.kind(), std::io::ErrorKind::WouldBlock);
        // Those that wait are none the worse.
        held[0].send(b"hello", &[]).unwrap();
        assert_eq!(message(listener.accept().unwrap().unwrap().receive().unwrap()).bytes, b"hello");
    }

    #[test]
    fn a_non_blocking_socket_says_that_nothing_is_there() {
        let (a, b) = SeqPacket::pair().unwrap();
        b.set_nonblocking().unwrap();
        assert!(matches!(b.receive().unwrap(), Received::Nothing));
        a.send(b"x", &[]).unwrap();
        assert_eq!(message(b.receive().unwrap()).bytes, b"x");
    }
}
