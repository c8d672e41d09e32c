//! Options of sockets keep their values; the argument says which options, of which sockets.

use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::{inet, raw_socket as raw};

const SOCKET: i32 = libc::SOL_SOCKET;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;

/// Family, type and protocol.
type Sort = (i32, i32, i32);
/// Level, name and value; numbers without a name are of `include/uapi`.
type Setting = (i32, i32, &'static [u8]);
/// A socket, its settings, and what they were read as.
type Probed = (OwnedFd, &'static [Setting], Vec<Vec<u8>>);

const STREAM: Sort = (libc::AF_INET, libc::SOCK_STREAM, 0);
const STREAM6: Sort = (libc::AF_INET6, libc::SOCK_STREAM, 0);
const DATAGRAM: Sort = (libc::AF_INET, libc::SOCK_DGRAM, 0);
const DATAGRAM6: Sort = (libc::AF_INET6, libc::SOCK_DGRAM, 0);
const PING: Sort = (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
const PING6: Sort = (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6);
const UNIX: Sort = (libc::AF_UNIX, libc::SOCK_STREAM, 0);

const ON: &[u8] = &[1, 0, 0, 0];

const GENERAL: &[Setting] = &[
    (SOCKET, libc::SO_PRIORITY, &[5, 0, 0, 0]),
    (SOCKET, libc::SO_MARK, &[1, 2, 3, 0]),
    (SOCKET, libc::SO_RCVLOWAT, &[77, 0, 0, 0]),
    (SOCKET, libc::SO_DONTROUTE, ON),
    (SOCKET, libc::SO_REUSEADDR, ON),
    (SOCKET, libc::SO_REUSEPORT, ON),
    (SOCKET, libc::SO_OOBINLINE, ON),
    (SOCKET, libc::SO_KEEPALIVE, ON),
    (SOCKET, libc::SO_BROADCAST, ON),
    (SOCKET, libc::SO_TIMESTAMPNS, ON),
    (SOCKET, libc::SO_RXQ_OVFL, ON),
    (SOCKET, 45, ON), // SO_SELECT_ERR_QUEUE
];
const TIMES: &[Setting] = &[
    (SOCKET, libc::SO_RCVTIMEO, &[7, 0, 0, 0, 0, 0, 0, 0, 160, 134, 1, 0, 0, 0, 0, 0]),
    (SOCKET, libc::SO_SNDTIMEO, &[9, 0, 0, 0, 0, 0, 0, 0, 64, 13, 3, 0, 0, 0, 0, 0]),
    (SOCKET, libc::SO_BINDTODEVICE, b"lo\0"),
    (SOCKET, libc::SO_TIMESTAMPING, &[24, 0, 0, 0]),
    (SOCKET, libc::SO_NO_CHECK, ON),
];
const BUFFERS: &[Setting] =
    &[(SOCKET, libc::SO_SNDBUF, &[0, 64, 1, 0]), (SOCKET, libc::SO_RCVBUF, &[0, 96, 2, 0])];
const SEND_BUFFER: &[Setting] = &[(SOCKET, libc::SO_SNDBUF, &[0, 80, 0, 0])];
/// SO_BUF_LOCK: the kernel may make neither larger by itself.
const LOCKED: &[Setting] = &[(SOCKET, 72, &[3, 0, 0, 0])];
const LINGER: &[Setting] = &[(SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 33, 0, 0, 0])];
const LINGER_NOT: &[Setting] = &[(SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0])];
const IP_ALL: &[Setting] = &[
    (IP, libc::IP_TOS, &[0x10, 0, 0, 0]),
    (IP, libc::IP_TTL, &[42, 0, 0, 0]),
    (IP, libc::IP_PKTINFO, ON),
    (IP, libc::IP_RECVTTL, ON),
    (IP, libc::IP_RECVTOS, ON),
    (IP, libc::IP_MTU_DISCOVER, &[2, 0, 0, 0]),
    (IP, libc::IP_RECVERR, ON),
    (IP, libc::IP_FREEBIND, ON),
    (IP, libc::IP_MULTICAST_TTL, &[9, 0, 0, 0]),
    (IP, libc::IP_MULTICAST_LOOP, &[0, 0, 0, 0]),
    (IP, 24, ON), // IP_BIND_ADDRESS_NO_PORT
];
const RAW: &[Setting] = &[
    (IP, libc::IP_HDRINCL, ON),
    (IP, 22, ON),               // IP_NODEFRAG
    (255, 1, &[0xff, 1, 0, 0]), // SOL_RAW, ICMP_FILTER
    (IP, libc::IP_TTL, &[3, 0, 0, 0]),
];
const IPV6_ALL: &[Setting] = &[
    (IPV6, libc::IPV6_V6ONLY, ON),
    (IPV6, libc::IPV6_UNICAST_HOPS, &[31, 0, 0, 0]),
    (IPV6, libc::IPV6_MULTICAST_HOPS, &[7, 0, 0, 0]),
    (IPV6, libc::IPV6_RECVPKTINFO, ON),
    (IPV6, libc::IPV6_RECVHOPLIMIT, ON),
    (IPV6, libc::IPV6_TCLASS, &[0x20, 0, 0, 0]),
    (IPV6, libc::IPV6_RECVTCLASS, ON),
    (IPV6, 62, ON), // IPV6_DONTFRAG
    (IPV6, 33, ON), // IPV6_FLOWINFO_SEND
];
const RAW6: &[Setting] = &[
    (libc::IPPROTO_ICMPV6, 1, &[0xff; 32]), // ICMPV6_FILTER
    (IPV6, libc::IPV6_UNICAST_HOPS, &[5, 0, 0, 0]),
];
const TCP_ALL: &[Setting] = &[
    (TCP, libc::TCP_NODELAY, ON),
    (TCP, libc::TCP_CORK, ON),
    (TCP, libc::TCP_KEEPIDLE, &[200, 0, 0, 0]),
    (TCP, libc::TCP_KEEPINTVL, &[20, 0, 0, 0]),
    (TCP, libc::TCP_KEEPCNT, &[4, 0, 0, 0]),
    (TCP, libc::TCP_SYNCNT, &[3, 0, 0, 0]),
    (TCP, libc::TCP_LINGER2, &[12, 0, 0, 0]),
    (TCP, libc::TCP_USER_TIMEOUT, &[0, 64, 0, 0]),
    (TCP, 25, &[0, 128, 0, 0]), // TCP_NOTSENT_LOWAT
    (TCP, 13, b"reno"),         // TCP_CONGESTION
    (TCP, libc::TCP_DEFER_ACCEPT, &[3, 0, 0, 0]),
    (TCP, 36, ON), // TCP_INQ
];
const KEEPALIVE: &[Setting] = &[
    (SOCKET, libc::SO_KEEPALIVE, ON),
    (TCP, libc::TCP_KEEPIDLE, &[100, 0, 0, 0]),
    (TCP, libc::TCP_KEEPINTVL, &[10, 0, 0, 0]),
    (TCP, libc::TCP_KEEPCNT, &[8, 0, 0, 0]),
];

/// Which options are given to which sockets.
fn choose(what: &str) -> Option<&'static [(Sort, &'static [Setting])]> {
    Some(match what {
        "general" => &[
            (STREAM, GENERAL),
            (STREAM6, GENERAL),
            (DATAGRAM, GENERAL),
            (UNIX, &[(SOCKET, libc::SO_PASSCRED, ON)]),
        ],
        "times" => &[(STREAM, TIMES), (DATAGRAM, TIMES), (DATAGRAM6, TIMES)],
        "buffers" => {
            &[(STREAM, BUFFERS), (STREAM, SEND_BUFFER), (DATAGRAM, BUFFERS), (STREAM6, &[]), (STREAM, LOCKED)]
        }
        "linger" => &[(STREAM, LINGER), (STREAM6, LINGER_NOT), (UNIX, LINGER)],
        "ip" => &[(DATAGRAM, IP_ALL), (PING, RAW)],
        "ipv6" => &[(DATAGRAM6, IPV6_ALL), (PING6, RAW6)],
        "tcp" => &[(STREAM, TCP_ALL), (STREAM6, TCP_ALL)],
        "connected" => &[(STREAM, TCP_ALL), (STREAM, KEEPALIVE), (STREAM, GENERAL), (STREAM, BUFFERS)],
        "keepalive" => &[(STREAM, KEEPALIVE), (STREAM6, KEEPALIVE)],
        _ => return None,
    })
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let what = cx.args().first().cloned().unwrap_or_default();
    let sorts = choose(&what).ok_or_else(|| Failure::new(format!("no options {what}")))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut peers = Vec::new();
    let mut sockets: Vec<Probed> = Vec::new();
    for ((family, kind, protocol), settings) in sorts {
        let socket = raw::make(*family, *kind, *protocol)?;
        for (level, name, value) in *settings {
            raw::set(socket.as_fd(), *level, *name, value)
                .map_err(|e| Failure::new(format!("option {name} of level {level}: {e}")))?;
        }
        if what == "connected" {
            raw::connect(socket.as_fd(), &inet::loopback(libc::AF_INET, listener.local_addr()?.port()))?;
            peers.push(listener.accept()?.0);
        }
        let values = read(&socket, settings)?;
        sockets.push((socket, settings, values));
    }
    // Sizes of buffers of the sockets whose options are not about them, too.
    let sizes = sizes(&sockets)?;
    cx.barrier()?;
    for (socket, settings, values) in &sockets {
        for (((level, name, _), was), is) in settings.iter().zip(values).zip(read(socket, settings)?) {
            ensure_eq!(&is, was, format!("option {name} of level {level}"));
        }
    }
    ensure!(!sockets.is_empty(), "nothing was tested");
    ensure_eq!(self::sizes(&sockets)?, sizes, "sizes of buffers");
    Ok(())
}

fn sizes(sockets: &[Probed]) -> Result<Vec<Vec<u8>>, Failure> {
    let both = [libc::SO_SNDBUF, libc::SO_RCVBUF];
    let sizes =
        sockets.iter().flat_map(|(socket, ..)| both.map(|name| raw::get(socket.as_fd(), SOCKET, name, 4)));
    sizes.collect()
}

fn read(socket: &OwnedFd, settings: &[Setting]) -> Result<Vec<Vec<u8>>, Failure> {
    settings.iter().map(|(level, name, _)| raw::get(socket.as_fd(), *level, *name, 64)).collect()
}
