//! A network namespace of one's own.

use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::{Result, SysError};

/// Moves this process into a new network namespace and brings its loopback up (127.0.0.1 and ::1).
pub fn enter_new() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| SysError::errno("creating a network namespace", e))?;
    loopback_up()
}

/// Brings the loopback of this network namespace up.
pub fn loopback_up() -> Result<()> {
    let attempted = "bringing the loopback interface up";
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| SysError::errno(attempted, e))?;
    // SAFETY: all zero bytes are a valid ifreq.
    #[allow(unsafe_code)]
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    // SAFETY: the request names an interface and outlives the call; SIOCGIFFLAGS fills its flags.
    #[allow(unsafe_code)]
    let got = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if got != 0 {
        return Err(SysError::last(attempted));
    }
    let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: the kernel just wrote the flags, which are the union's valid member.
    #[allow(unsafe_code)]
    unsafe {
        request.ifr_ifru.ifru_flags |= up;
    }
    // SAFETY: as above; SIOCSIFFLAGS only reads the request.
    #[allow(unsafe_code)]
    let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if set == 0 { Ok(()) } else { Err(SysError::last(attempted)) }
}
