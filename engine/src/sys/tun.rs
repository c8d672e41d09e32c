//! Devices of TUN and TAP: `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::error::SysError;

/// Flags of devices and descriptors.
pub const IFF_TUN: u32 = 1;
pub const IFF_PERSIST: u32 = 0x0800;
pub const IFF_MULTI_QUEUE: u32 = 0x0100;
pub const IFF_ATTACH_QUEUE: u32 = 0x0200;
pub const IFF_DETACH_QUEUE: u32 = 0x0400;
pub const IFF_NO_PI: u32 = 0x1000;
pub const IFF_VNET_HDR: u32 = 0x4000;
/// Bytes of `struct virtio_net_hdr`, which every device begins with.
pub const DEFAULT_HEADER: u32 = 10;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;
const TUNSETGROUP: libc::c_ulong = 0x4004_54ce;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNGETSNDBUF: libc::c_ulong = 0x8004_54d3;
const TUNSETSNDBUF: libc::c_ulong = 0x4004_54d4;
const TUNGETVNETHDRSZ: libc::c_ulong = 0x8004_54d7;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;
const TUNSETIFINDEX: libc::c_ulong = 0x4004_54da;

fn request(name: &str) -> libc::ifreq {
    // SAFETY: numbers, and a union of such; zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::MaybeUninit::zeroed().assume_init() };
    // The last byte stays zero.
    let room = libc::IFNAMSIZ - 1;
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *place = byte as libc::c_char;
    }
    request
}

/// Who may attach to a persistent device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A user.
    User,
    /// A group.
    Group,
}

/// Opens a descriptor that is attached to no device.
pub fn open() -> Result<OwnedFd, SysError> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    nix::fcntl::open("/dev/net/tun", flags, Mode::empty()).map_err(SysError::of("open(/dev/net/tun)"))
}

/// Says which index the device gets that is made next with this descriptor.
pub fn set_index(file: impl AsFd, index: u32) -> Result<(), SysError> {
    // SAFETY: the kernel reads one number.
    let set = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNSETIFINDEX, &raw const index) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(TUNSETIFINDEX)"))
}

/// Attaches a descriptor to a device of our network namespace, which is made if it is not there.
pub fn attach(file: impl AsFd, name: &str, flags: u32) -> Result<(), SysError> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads name and flags, and writes the name.
    let set = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNSETIFF, &raw mut request) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(TUNSETIFF)"))
}

/// The device that a descriptor is attached to, and its flags; none if it is attached to none.
pub fn attached(file: impl AsFd) -> Result<Option<(String, u32)>, SysError> {
    let mut request = request("");
    // SAFETY: the kernel writes name and flags.
    let got = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNGETIFF, &raw mut request) };
    match Errno::result(got) {
        Err(Errno::EBADFD) => Ok(None),
        Err(errno) => Err(SysError::of("ioctl(TUNGETIFF)")(errno)),
        Ok(_) => {
            let name: Vec<u8> =
                request.ifr_name.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
            // SAFETY: this call fills in the flags, and any number is a valid value of them.
            let flags = unsafe { request.ifr_ifru.ifru_flags };
            Ok(Some((String::from_utf8_lossy(&name).into_owned(), u32::from(flags as u16))))
        }
    }
}

/// Says who may attach to a device.
pub fn set_owner(file: impl AsFd, owner: Owner, id: u32) -> Result<(), SysError> {
    let request = if owner == Owner::User { TUNSETOWNER } else { TUNSETGROUP };
    // SAFETY: takes numbers only.
    let set = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request, libc::c_ulong::from(id)) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(TUNSETOWNER)"))
}

/// Whether a device stays when its last descriptor is closed.
pub fn set_persistent(file: impl AsFd, persistent: bool) -> Result<(), SysError> {
    // SAFETY: takes numbers only.
    let set =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNSETPERSIST, libc::c_ulong::from(persistent)) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(TUNSETPERSIST)"))
}

/// Takes a queue of a device out of use, which stays attached.
pub fn detach_queue(file: impl AsFd) -> Result<(), SysError> {
    let mut request = request("");
    request.ifr_ifru.ifru_flags = IFF_DETACH_QUEUE as libc::c_short;
    // SAFETY: the kernel reads the flags.
    let set = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNSETQUEUE, &raw mut request) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(TUNSETQUEUE)"))
}

/// How many bytes of packets may wait to be sent, and how long the header in front of packets is.
pub fn sizes(file: impl AsFd) -> Result<(i32, i32), SysError> {
    let (mut room, mut header) = (0, 0);
    // SAFETY: the kernel writes one number.
    let got = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNGETSNDBUF, &raw mut room) };
    Errno::result(got).map_err(SysError::of("ioctl(TUNGETSNDBUF)"))?;
    // SAFETY: the kernel writes one number.
    let got = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNGETVNETHDRSZ, &raw mut header) };
    Errno::result(got).map_err(SysError::of("ioctl(TUNGETVNETHDRSZ)"))?;
    Ok((room, header))
}

/// Says how many bytes of packets may wait to be sent by a device.
pub fn set_room(file: impl AsFd, room: i32) -> Result<(), SysError> {
    // SAFETY: the kernel reads one number.
    let set = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNSETSNDBUF, &raw const room) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(TUNSETSNDBUF)"))
}

/// Says how long the header in front of packets of a device is.
pub fn set_header(file: impl AsFd, header: i32) -> Result<(), SysError> {
    // SAFETY: the kernel reads one number.
    let set = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), TUNSETVNETHDRSZ, &raw const header) };
    Errno::result(set).map(drop).map_err(SysError::of("ioctl(TUNSETVNETHDRSZ)"))
}
