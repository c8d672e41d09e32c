//! Devices of a network namespace, by the calls of netdevice(7).

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd as _;

use crate::error::SysError;

pub(super) fn request(name: &str) -> libc::ifreq {
    // SAFETY: numbers, and a union of such; zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::MaybeUninit::zeroed().assume_init() };
    // The last byte stays zero.
    let room = libc::IFNAMSIZ - 1;
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *place = byte as libc::c_char;
    }
    request
}

/// The flags of a device (`IFF_*`) in our network namespace.
pub fn flags(name: &str) -> Result<u16, SysError> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.map_err(SysError::of("socket"))?;
    let mut request = request(name);
    // SAFETY: the kernel reads the name and writes the flags.
    let got = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    Errno::result(got).map_err(SysError::of("ioctl(SIOCGIFFLAGS)"))?;
    // SAFETY: this call fills in the flags, and any number is a valid value of them.
    Ok(unsafe { request.ifr_ifru.ifru_flags } as u16)
}

/// Sets the flags of a device in our network namespace.
pub fn set_flags(name: &str, flags: u16) -> Result<(), SysError> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.map_err(SysError::of("socket"))?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads the name and the flags.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(SIOCSIFFLAGS)"))
}
