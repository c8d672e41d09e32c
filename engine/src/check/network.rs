//! Sockets and netlink.

use std::net::{Ipv4Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::error::SysError;
use crate::sys::probe;

use super::Answer;

// linux/netlink.h, linux/rtnetlink.h, linux/sock_diag.h, linux/netfilter/nf_tables.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const RTM_GETNSID: u16 = 90;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETTABLE: u16 = 1;
const NETNSA_PID: u16 = 2;

/// Sends one request and looks at the first answer: an error is an error, everything else is not.
fn netlink(protocol: SockProtocol, kind: u16, flags: u16, payload: &[u8]) -> Result<(), SysError> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        .map_err(SysError::of("socket(AF_NETLINK)"))?;
    let mut message = Vec::new();
    message.extend((16 + payload.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // The sequence number, and the kernel's address.
    message.extend([0; 8]);
    message.extend(payload);
    sendto(fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())
        .map_err(SysError::of("sendto(AF_NETLINK)"))?;
    let mut answer = [0; 8192];
    let length =
        recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(SysError::of("recv(AF_NETLINK)"))?;
    let word =
        |at: usize| answer.get(..length)?.get(at..)?.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b));
    let answer_kind = word(4).map_or(0, |word| word as u16);
    match word(16) {
        Some(code) if answer_kind == NLMSG_ERROR && code != 0 => {
            Err(SysError { call: "netlink", errno: Errno::from_raw(-code) })
        }
        _ => Ok(()),
    }
}

/// Asks for all sockets of a family and protocol.
fn sock_diag(family: i32, protocol: i32) -> Answer {
    let mut request = vec![0_u8; if family == libc::AF_UNIX { 24 } else { 56 }];
    if let [first, second, ..] = request.as_mut_slice() {
        (*first, *second) = (family as u8, protocol as u8);
    }
    // All states.
    if let Some(states) = request.get_mut(4..8) {
        states.fill(0xff);
    }
    netlink(SockProtocol::NetlinkSockDiag, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request).into()
}

pub(super) fn unix_diag() -> Answer {
    sock_diag(libc::AF_UNIX, 0)
}

pub(super) fn raw_diag() -> Answer {
    sock_diag(libc::AF_INET, libc::IPPROTO_RAW)
}

pub(super) fn nsid() -> Answer {
    // struct rtgenmsg, padded, and one attribute: our pid.
    let mut payload = vec![0_u8; 4];
    payload.extend(attribute(NETNSA_PID, &std::process::id().to_ne_bytes()));
    netlink(SockProtocol::NetlinkRoute, RTM_GETNSID, 0, &payload).into()
}

pub(super) fn nftables() -> Answer {
    // struct nfgenmsg: any family.
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
    netlink(SockProtocol::NetlinkNetFilter, kind, NLM_F_DUMP, &[0; 4]).into()
}

/// A link with a chosen index, in a network namespace that is gone right after.
pub(super) fn new_interface_index() -> Answer {
    match probe::in_child(create_link) {
        Ok(Err(Errno::EOPNOTSUPP)) => {
            Answer::No("this kernel has none of the links it could be tried with".to_owned())
        }
        result => result.and_then(|r| r.map_err(SysError::of("netlink(RTM_NEWLINK)"))).into(),
    }
}

fn create_link() -> Result<(), Errno> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    // Which kinds a kernel has depends on its configuration; any of them will do.
    let mut last = Err(Errno::EOPNOTSUPP);
    for kind in ["dummy", "ifb", "bridge", "veth"] {
        last = create_link_of(kind);
        if last != Err(Errno::EOPNOTSUPP) {
            break;
        }
    }
    last
}

fn create_link_of(kind: &str) -> Result<(), Errno> {
    // linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_ACK_EXCL_CREATE: u16 = 4 | 0x200 | 0x400;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const INDEX: i32 = 7777;
    // struct ifinfomsg
    let mut payload = vec![0_u8; 4];
    payload.extend(INDEX.to_ne_bytes());
    payload.extend([0; 8]);
    payload.extend(attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, kind.as_bytes())));
    netlink(SockProtocol::NetlinkRoute, RTM_NEWLINK, NLM_F_ACK_EXCL_CREATE, &payload).map_err(|e| e.errno)
}

/// A netlink attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::from((4 + value.len() as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn stream_socket(family: AddressFamily) -> Result<OwnedFd, SysError> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(SysError::of("socket"))
}

/// Repair mode, with which a half-closed connection is read and made.
pub(super) fn tcp_repair() -> Answer {
    let set = |socket| probe::set_socket_option(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1);
    stream_socket(AddressFamily::Inet).and_then(set).into()
}

pub(super) fn freebind() -> Answer {
    // IPV6_FREEBIND of linux/in6.h
    let set = |socket| probe::set_socket_option(socket, libc::IPPROTO_IPV6, 78, 1);
    stream_socket(AddressFamily::Inet6).and_then(set).into()
}

/// An IPv6 socket at an IPv4 address.
pub(super) fn mapped_ipv4() -> Answer {
    let address = SocketAddrV6::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0, 0, 0);
    UdpSocket::bind(address).map(drop).map_err(SysError::io("bind(::ffff:127.0.0.1)")).into()
}

pub(super) fn socket_namespace() -> Answer {
    let ask = |socket| probe::ioctl_fd(socket, probe::Request::SocketNamespace);
    stream_socket(AddressFamily::Inet).and_then(ask).map(drop).into()
}

/// The file that a unix socket is bound to.
fn socket_file() -> Result<OwnedFd, SysError> {
    let path = std::env::temp_dir().join(format!(".stasis-check-{}", std::process::id()));
    let listener = UnixListener::bind(&path).map_err(SysError::io("bind"))?;
    let file = probe::ioctl_fd(&listener, probe::Request::UnixFile);
    std::fs::remove_file(&path).map_err(SysError::io("unlink"))?;
    file
}

pub(super) fn unix_file() -> Answer {
    socket_file().map(drop).into()
}

/// The file's mount, which its fdinfo tells.
pub(super) fn socket_mount() -> Answer {
    let read = || {
        let file = socket_file()?;
        let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
        std::fs::read(path).map_err(SysError::io("open(fdinfo)"))
    };
    match read().map(|text| crate::procfs::fdinfo::parse(&text)) {
        Ok(Ok(_)) => Answer::Yes,
        Ok(Err(e)) => Answer::No(e.to_string()),
        Err(e) => Answer::No(e.to_string()),
    }
}
