//! Options of internet sockets: those that CRIU's messages hold, and tables of those that they lack.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use proto::messages::{IpOptsEntry, IpOptsRawEntry, TcpOptsEntry};

use super::SocketFacts;
use super::socket_options::Place;
use crate::error::SysError;
use crate::sys::socket::{get_number, get_option, set_number, set_option};

/// `SOL_UDP`, `SOL_UDPLITE` and `SOL_RAW` of `include/linux/socket.h`.
const UDP: i32 = 17;
const UDP_LITE: i32 = 136;
const RAW: i32 = 255;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;

/// What CRIU's messages lack; numbers without a name are of `include/uapi/linux/{in,in6,udp,tcp}.h`.
pub(super) const MORE: &[Place] = &[
    (IP, libc::IP_RECVTOS, 4),
    (IP, libc::IP_RECVTTL, 4),
    (IP, 6, 4), // IP_RECVOPTS
    (IP, 7, 4), // IP_RETOPTS
    (IP, libc::IP_OPTIONS, 40),
    (IP, libc::IP_MTU_DISCOVER, 4),
    (IP, libc::IP_RECVERR, 4),
    (IP, 18, 4), // IP_PASSSEC
    (IP, libc::IP_TRANSPARENT, 4),
    (IP, 20, 4), // IP_RECVORIGDSTADDR
    (IP, 21, 4), // IP_MINTTL
    (IP, 23, 4), // IP_CHECKSUM
    (IP, 24, 4), // IP_BIND_ADDRESS_NO_PORT
    (IP, 25, 4), // IP_RECVFRAGSIZE
    (IP, 26, 4), // IP_RECVERR_RFC4884
    (IP, libc::IP_MULTICAST_LOOP, 4),
    (IP, 49, 4), // IP_MULTICAST_ALL
    (IP, 50, 4), // IP_UNICAST_IF
    (IP, 51, 4), // IP_LOCAL_PORT_RANGE
    (IPV6, libc::IPV6_UNICAST_HOPS, 4),
    (IPV6, libc::IPV6_MULTICAST_LOOP, 4),
    (IPV6, libc::IPV6_MTU_DISCOVER, 4),
    (IPV6, libc::IPV6_RECVERR, 4),
    (IPV6, 29, 4), // IPV6_MULTICAST_ALL
    (IPV6, 31, 4), // IPV6_RECVERR_RFC4884
    (IPV6, 11, 4), // IPV6_FLOWINFO
    (IPV6, 33, 4), // IPV6_FLOWINFO_SEND
    (IPV6, libc::IPV6_RECVPKTINFO, 4),
    (IPV6, libc::IPV6_RECVHOPLIMIT, 4),
    (IPV6, 53, 4), // IPV6_RECVHOPOPTS
    (IPV6, 56, 4), // IPV6_RECVRTHDR
    (IPV6, 58, 4), // IPV6_RECVDSTOPTS
    (IPV6, 60, 4), // IPV6_RECVPATHMTU
    (IPV6, 62, 4), // IPV6_DONTFRAG
    (IPV6, libc::IPV6_RECVTCLASS, 4),
    (IPV6, libc::IPV6_TCLASS, 4),
    (IPV6, 70, 4),                 // IPV6_AUTOFLOWLABEL
    (IPV6, 72, 4),                 // IPV6_ADDR_PREFERENCES
    (IPV6, 73, 4),                 // IPV6_MINHOPCOUNT
    (IPV6, 74, 4),                 // IPV6_RECVORIGDSTADDR
    (IPV6, 75, 4),                 // IPV6_TRANSPARENT
    (IPV6, 76, 4),                 // IPV6_UNICAST_IF
    (IPV6, 77, 4),                 // IPV6_RECVFRAGSIZE
    (UDP, 1, 4),                   // UDP_CORK
    (UDP, 100, 4),                 // UDP_ENCAP
    (UDP, 101, 4),                 // UDP_NO_CHECK6_TX
    (UDP, 102, 4),                 // UDP_NO_CHECK6_RX
    (UDP, 103, 4),                 // UDP_SEGMENT
    (UDP, 104, 4),                 // UDP_GRO
    (UDP_LITE, 10, 4),             // UDPLITE_SEND_CSCOV
    (UDP_LITE, 11, 4),             // UDPLITE_RECV_CSCOV
    (libc::IPPROTO_ICMPV6, 1, 32), // ICMPV6_FILTER
    (IPV6, 7, 4),                  // IPV6_CHECKSUM
    (TCP, libc::TCP_DEFER_ACCEPT, 4),
    (TCP, libc::TCP_LINGER2, 4),
    (TCP, libc::TCP_SYNCNT, 4),
    (TCP, libc::TCP_WINDOW_CLAMP, 4),
    (TCP, libc::TCP_USER_TIMEOUT, 4),
    (TCP, 25, 4),  // TCP_NOTSENT_LOWAT
    (TCP, 13, 16), // TCP_CONGESTION
    (TCP, 23, 4),  // TCP_FASTOPEN
    (TCP, 30, 4),  // TCP_FASTOPEN_CONNECT
    (TCP, 34, 4),  // TCP_FASTOPEN_NO_COOKIE
    (TCP, 17, 4),  // TCP_THIN_DUPACK
    (TCP, 16, 4),  // TCP_THIN_LINEAR_TIMEOUTS
    (TCP, 36, 4),  // TCP_INQ
    (TCP, 37, 4),  // TCP_TX_DELAY
    (TCP, 44, 4),  // TCP_RTO_MAX_MS
];

/// Options that streams show, but do not let anybody set.
pub(super) const NOT_OF_STREAMS: &[Place] = &[
    (IP, libc::IP_MULTICAST_IF, 4),
    (IP, libc::IP_MULTICAST_TTL, 4),
    (IPV6, libc::IPV6_MULTICAST_IF, 4),
    (IPV6, libc::IPV6_MULTICAST_HOPS, 4),
];

/// IPV6_FREEBIND and IPV6_HDRINCL (`include/uapi/linux/in6.h`), IP_NODEFRAG (`include/uapi/linux/in.h`), ICMP_FILTER
/// (`include/uapi/linux/icmp.h`).
const IPV6_FREEBIND: i32 = 78;
const IPV6_HDRINCL: i32 = 36;
const IP_NODEFRAG: i32 = 22;
const ICMP_FILTER: i32 = 1;

/// One bit, which both families have under a number of their own; a raw socket of IPv6 knows only that of IPv6.
fn freebind(family: i32) -> (i32, i32) {
    if family == libc::AF_INET6 { (IPV6, IPV6_FREEBIND) } else { (IP, libc::IP_FREEBIND) }
}

/// Lets a socket be bound to an address that no interface has.
pub(super) fn set_freebind(fd: BorrowedFd<'_>, family: i32) -> Result<(), SysError> {
    let (level, name) = freebind(family);
    set_number(fd, level, name, 1)
}

/// Numbers of CRIU's message, by their names there.
pub(super) fn read_ip(fd: BorrowedFd<'_>, facts: SocketFacts) -> Result<IpOptsEntry, SysError> {
    let (level, name) = freebind(facts.domain);
    let number = |name| match get_number(fd, IP, name) {
        // Raw sockets of IPv6 have no options of IPv4.
        Err(SysError { errno: Errno::ENOPROTOOPT, .. }) => Ok(None),
        number => number.map(Some),
    };
    Ok(IpOptsEntry {
        freebind: Some(get_number(fd, level, name)? != 0).filter(|set| *set),
        tos: number(libc::IP_TOS)?.map(|tos| tos as u32).filter(|tos| *tos != 0),
        ttl: number(libc::IP_TTL)?.map(|ttl| ttl as u32),
        pktinfo: number(libc::IP_PKTINFO)?.map(|set| set != 0).filter(|set| *set),
        raw: (facts.kind == libc::SOCK_RAW).then(|| read_raw(fd, facts)),
    })
}

fn header_included(family: i32) -> (i32, i32) {
    if family == libc::AF_INET6 { (IPV6, IPV6_HDRINCL) } else { (IP, libc::IP_HDRINCL) }
}

fn read_raw(fd: BorrowedFd<'_>, facts: SocketFacts) -> IpOptsRawEntry {
    let flag = |level, name| get_number(fd, level, name).ok().map(|set| set != 0).filter(|set| *set);
    let mut filter = [0; 4];
    let filtered =
        facts.protocol == libc::IPPROTO_ICMP && get_option(fd, RAW, ICMP_FILTER, &mut filter).is_ok();
    let (level, name) = header_included(facts.domain);
    IpOptsRawEntry {
        icmpv_filter: if filtered { vec![u32::from_ne_bytes(filter)] } else { Vec::new() },
        hdrincl: flag(level, name),
        nodefrag: flag(IP, IP_NODEFRAG),
        ..IpOptsRawEntry::default()
    }
}

/// The reverse of [`read_ip`].
pub(super) fn write_ip(fd: BorrowedFd<'_>, family: i32, options: &IpOptsEntry) -> Result<(), SysError> {
    if options.freebind != Some(true) {
        // All sockets were given it for the while, in order to be bound.
        let (level, name) = freebind(family);
        set_number(fd, level, name, 0)?;
    }
    set_flag(fd, (IP, libc::IP_PKTINFO), options.pktinfo)?;
    if let Some(tos) = options.tos.filter(|tos| *tos != 0) {
        set_number(fd, IP, libc::IP_TOS, tos as i32)?;
    }
    set_default(fd, (IP, libc::IP_TTL), options.ttl)?;
    let Some(raw) = &options.raw else { return Ok(()) };
    set_flag(fd, header_included(family), raw.hdrincl)?;
    set_flag(fd, (IP, IP_NODEFRAG), raw.nodefrag)?;
    if let [filter] = raw.icmpv_filter.as_slice() {
        set_option(fd, RAW, ICMP_FILTER, &filter.to_ne_bytes())?;
    }
    Ok(())
}

/// Numbers of CRIU's message about TCP.
pub(super) fn read_tcp(fd: BorrowedFd<'_>) -> Result<TcpOptsEntry, SysError> {
    let number = |name| get_number(fd, TCP, name);
    Ok(TcpOptsEntry {
        cork: Some(number(libc::TCP_CORK)? != 0).filter(|set| *set),
        nodelay: Some(number(libc::TCP_NODELAY)? != 0).filter(|set| *set),
        keepcnt: Some(number(libc::TCP_KEEPCNT)? as u32),
        keepidle: Some(number(libc::TCP_KEEPIDLE)? as u32),
        keepintvl: Some(number(libc::TCP_KEEPINTVL)? as u32),
    })
}

/// The reverse of [`read_tcp`].
pub(super) fn write_tcp(fd: BorrowedFd<'_>, options: &TcpOptsEntry) -> Result<(), SysError> {
    set_flag(fd, (TCP, libc::TCP_CORK), options.cork)?;
    set_flag(fd, (TCP, libc::TCP_NODELAY), options.nodelay)?;
    set_default(fd, (TCP, libc::TCP_KEEPCNT), options.keepcnt)?;
    set_default(fd, (TCP, libc::TCP_KEEPIDLE), options.keepidle)?;
    set_default(fd, (TCP, libc::TCP_KEEPINTVL), options.keepintvl)
}

/// Sets what no new socket has.
fn set_flag(fd: BorrowedFd<'_>, (level, name): (i32, i32), flag: Option<bool>) -> Result<(), SysError> {
    if flag == Some(true) { set_number(fd, level, name, 1) } else { Ok(()) }
}

/// Sets what each network namespace has a default of, if it is another: to set it is to be spared later changes of that.
fn set_default(fd: BorrowedFd<'_>, (level, name): (i32, i32), value: Option<u32>) -> Result<(), SysError> {
    match value {
        Some(value) if get_number(fd, level, name)? != value as i32 => {
            set_number(fd, level, name, value as i32)
        }
        _ => Ok(()),
    }
}
