//! Publishing ports of a pod that has a network of its own: a process that carries TCP connections from the node's network into the pod's.
//!
//! Its listeners are bound before the pod's network is entered, its connections are made after. So no interface, address, route or packet
//! filter is touched, at the price of two copies; the service sees 127.0.0.1 as its peer. The process ends with its supervisor.
//!
//! One poll loop; at most [`MAX_CONNECTIONS`] connections, and [`BUFFER`] bytes each way on their way.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use pullpiri_node_host::{Result, SysError, process, signals};

use crate::oci::wire::PublishedPort;

const BUFFER: usize = 16 * 1024;
/// More wait in the listeners' backlogs. Each takes two descriptors.
const MAX_CONNECTIONS: usize = 512;
/// Descriptors that are no connection's: stdio, and what the supervisor had open.
const OTHER_DESCRIPTORS: usize = 32;
/// How long listeners are left alone when descriptors or memory were short and none of our own connections has ended: others may have given
/// some back.
const SHORT_MS: u16 = 1000;

/// How the error of a port that somebody else has begins.
pub(in crate::oci) const PORT_TAKEN: &str = "somebody else has the node's port ";

/// Binds the node's ports, in the network this process is in.
pub(super) fn bind(ports: &[PublishedPort]) -> Result<Vec<(TcpListener, u16)>> {
    ports
        .iter()
        .map(|port| {
            let open = || -> io::Result<TcpListener> {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.host))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            open().map(|listener| (listener, port.container)).map_err(|source| {
                let attempted = match source.kind() {
                    io::ErrorKind::AddrInUse => format!("{PORT_TAKEN}{}", port.host),
                    _ => format!("publishing port {} of the node", port.host),
                };
                SysError { attempted, source }
            })
        })
        .collect()
}

/// Carries connections until the supervisor ends; returns the exit code.
pub(super) fn serve(listeners: &[(TcpListener, u16)]) -> i32 {
    let supervisor = nix::unistd::getppid();
    let prepared = process::set_name(c"pullpiri-ports")
        .and_then(|()| signals::ignore(Signal::SIGPIPE))
        .and_then(|()| signals::reset(Signal::SIGCHLD));
    // The supervisor forked this process itself, so its death is this one's parent's.
    let bound = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if prepared.is_err() || bound.is_err() || nix::unistd::getppid() != supervisor {
        return 1;
    }
    let mut forwarder = Forwarder::new(listeners, most_connections(listeners.len()));
    loop {
        if forwarder.turn().is_err() {
            return 1;
        }
    }
}

/// How many connections there are descriptors for. The limit is raised as far as it can be, for this process alone: containers are other
/// children of the supervisor.
fn most_connections(listeners: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1 };
    let soft = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let descriptors = usize::try_from(soft).unwrap_or(usize::MAX);
    let left = descriptors.saturating_sub(OTHER_DESCRIPTORS).saturating_sub(listeners);
    (left / 2).clamp(1, MAX_CONNECTIONS)
}

/// Listeners, and what came through them.
struct Forwarder<'a> {
    listeners: &'a [(TcpListener, u16)],
    connections: Vec<Connection>,
    most: usize,
    /// A connection wasn't taken for want of descriptors or memory. It is still there, so that a poll would return at once.
    short: bool,
}

impl<'a> Forwarder<'a> {
    fn new(listeners: &'a [(TcpListener, u16)], most: usize) -> Self {
        Self { listeners, connections: Vec::new(), most, short: false }
    }

    /// Waits for something to do and does it; how many descriptors had something.
    fn turn(&mut self) -> io::Result<usize> {
        let ready = wait(self)?;
        let before = self.connections.len();
        self.connections.retain(|c| !c.is_over());
        self.short &= self.connections.len() == before;
        Ok(ready)
    }

    fn take(&mut self, index: usize) {
        let Some((listener, port)) = self.listeners.get(index) else { return };
        // A connection that can't be made inside is closed outside by being dropped.
        match listener.accept().and_then(|(outside, _)| Connection::begin(outside, *port)) {
            Ok(connection) => self.connections.push(connection),
            Err(error) => self.short |= is_short(&error),
        }
    }
}

fn is_short(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

fn wait(forwarder: &mut Forwarder<'_>) -> io::Result<usize> {
    let Forwarder { listeners, connections, most, short } = forwarder;
    let room = connections.len() < *most && !*short;
    let timeout = if *short { PollTimeout::from(SHORT_MS) } else { PollTimeout::NONE };
    let mut fds: Vec<PollFd<'_>> = Vec::new();
    let mut owners = Vec::new();
    for (index, (listener, _)) in listeners.iter().enumerate().filter(|_| room) {
        fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        owners.push(Owner::Listener(index));
    }
    for (index, connection) in connections.iter().enumerate() {
        for (side, stream) in [&connection.outside, &connection.inside].into_iter().enumerate() {
            let events = connection.wants(side);
            // With nothing wanted, poll still reports errors, again and again.
            if !events.is_empty() {
                fds.push(PollFd::new(stream.as_fd(), events));
                owners.push(Owner::Connection(index));
            }
        }
    }
    match poll(&mut fds, timeout) {
        Ok(0) => {
            *short = false;
            return Ok(0);
        }
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(0),
        Err(e) => return Err(e.into()),
    }
    let ready: Vec<Owner> = owners
        .into_iter()
        .zip(&fds)
        .filter(|(_, fd)| fd.revents().is_some_and(|r| !r.is_empty()))
        .map(|(owner, _)| owner)
        .collect();
    drop(fds);
    let had_something = ready.len();
    for owner in ready {
        match owner {
            Owner::Connection(index) => {
                if let Some(connection) = forwarder.connections.get_mut(index) {
                    connection.carry();
                }
            }
            Owner::Listener(index) => forwarder.take(index),
        }
    }
    Ok(had_something)
}

enum Owner {
    Listener(usize),
    Connection(usize),
}

/// Bytes on their way in one direction.
#[derive(Default)]
struct Flow {
    bytes: Vec<u8>,
    /// The sender has closed its side.
    ended: bool,
    /// The receiver has been told.
    told: bool,
}

struct Connection {
    outside: TcpStream,
    inside: TcpStream,
    /// The connection inside was made.
    connected: bool,
    broken: bool,
    inwards: Flow,
    outwards: Flow,
}

impl Connection {
    fn begin(outside: TcpStream, port: u16) -> io::Result<Self> {
        outside.set_nonblocking(true)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(Self {
            outside,
            inside: TcpStream::from(fd),
            connected: false,
            broken: false,
            inwards: Flow::default(),
            outwards: Flow::default(),
        })
    }

    fn is_over(&self) -> bool {
        self.broken || (self.inwards.told && self.outwards.told)
    }

    /// What to poll for on the outside (0) or the inside (1).
    fn wants(&self, side: usize) -> PollFlags {
        let (from, to) = if side == 0 { (&self.inwards, &self.outwards) } else { (&self.outwards, &self.inwards) };
        if !self.connected {
            return if side == 1 { PollFlags::POLLOUT } else { PollFlags::empty() };
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !from.ended && from.bytes.len() < BUFFER);
        events.set(PollFlags::POLLOUT, !to.bytes.is_empty());
        events
    }

    fn carry(&mut self) {
        if !self.connected {
            match self.inside.take_error() {
                Ok(None) => self.connected = true,
                Ok(Some(_)) | Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
        let inwards = pass(&mut self.outside, &mut self.inside, &mut self.inwards);
        let outwards = pass(&mut self.inside, &mut self.outside, &mut self.outwards);
        self.broken |= inwards.is_err() || outwards.is_err();
    }
}

/// Moves what can be moved without waiting.
fn pass(from: &mut TcpStream, to: &mut TcpStream, flow: &mut Flow) -> io::Result<()> {
    loop {
        let mut moved = false;
        if !flow.ended && flow.bytes.len() < BUFFER {
            let mut buffer = [0; BUFFER];
            let room = BUFFER - flow.bytes.len();
            match from.read(buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => flow.ended = true,
                Ok(read) => {
                    flow.bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
                    moved = true;
                }
                Err(e) if is_wait(&e) => {}
                Err(e) => return Err(e),
            }
        }
        if !flow.bytes.is_empty() {
            match to.write(&flow.bytes) {
                Ok(written) => {
                    flow.bytes.drain(..written);
                    moved = true;
                }
                Err(e) if is_wait(&e) => {}
                Err(e) => return Err(e),
            }
        }
        if flow.ended && flow.bytes.is_empty() && !flow.told {
            flow.told = true;
            // The other end may have gone completely.
            let _ = to.shutdown(std::net::Shutdown::Write);
        }
        if !moved {
            return Ok(());
        }
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    /// Carries connections to `port` on a thread that ends with the tests.
    fn carried(port: u16) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let listeners = [(listener, port)];
            let mut forwarder = Forwarder::new(&listeners, MAX_CONNECTIONS);
            while forwarder.turn().is_ok() {}
        });
        address
    }

    #[test]
    fn everything_arrives_both_ways_and_ends_do_too() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = carried(echo.local_addr().unwrap().port());
        std::thread::spawn(move || {
            for stream in echo.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[usize::from(i % 3 == 0)]).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let stream = TcpStream::connect(address).unwrap();
                    let mut got = Vec::new();
                    std::thread::scope(|inner| {
                        inner.spawn(|| {
                            (&stream).write_all(&sent).unwrap();
                            stream.shutdown(Shutdown::Write).unwrap();
                        });
                        (&stream).read_to_end(&mut got).unwrap();
                    });
                    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
                });
            }
        });
    }

    #[test]
    fn a_connection_that_nobody_takes_is_closed() {
        // A port that nobody listens on any more.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut stream = TcpStream::connect(carried(free)).unwrap();
        let mut got = Vec::new();
        // A reset is as good as an end.
        let _ = stream.read_to_end(&mut got);
        assert!(got.is_empty());
    }

    /// The listener is tried, after whatever else there is to do.
    fn run_short(forwarder: &mut Forwarder<'_>) {
        for _ in 0..10 {
            if !forwarder.short {
                forwarder.turn().unwrap();
            }
        }
        assert!(forwarder.short, "a connection that wasn't taken would be polled for again and again");
    }

    /// In a process of its own, whose descriptors may run out.
    #[test]
    fn without_descriptors_listeners_are_left_alone_until_a_connection_ends() {
        const ALONE: &str = "PULLPIRI_TEST_FEW_DESCRIPTORS";
        if std::env::var_os(ALONE).is_none() {
            let name =
                "oci::supervisor::ports::tests::without_descriptors_listeners_are_left_alone_until_a_connection_ends";
            let run = std::process::Command::new("sh")
                .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&run.stdout);
            assert!(
                run.status.success() && told.contains("1 passed"),
                "{told}{}",
                String::from_utf8_lossy(&run.stderr)
            );
            return;
        }
        assert_eq!(most_connections(2), 15);
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = [(listener, target.local_addr().unwrap().port())];
        let mut forwarder = Forwarder::new(&listeners, MAX_CONNECTIONS);
        let first = TcpStream::connect(address).unwrap();
        forwarder.turn().unwrap();
        let (served, _) = target.accept().unwrap();
        assert_eq!(forwarder.connections.len(), 1);
        let _second = TcpStream::connect(address).unwrap();
        let mut fillers = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            fillers.push(file);
        }
        run_short(&mut forwarder);
        assert_eq!(forwarder.turn().unwrap(), 0, "the second waits, and nobody asks for it");
        run_short(&mut forwarder);
        drop((first, served, fillers));
        while forwarder.connections.len() == 1 && forwarder.short {
            assert_ne!(forwarder.turn().unwrap(), 0);
        }
        assert!(forwarder.connections.is_empty());
        forwarder.turn().unwrap();
        assert_eq!(forwarder.connections.len(), 1, "the second was taken");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let host = taken.local_addr().unwrap().port();
        let error = bind(&[PublishedPort { host, container: 1 }]).unwrap_err();
        assert!(error.to_string().contains(&host.to_string()), "{error}");
    }
}
