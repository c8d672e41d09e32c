//! Internet sockets, IPv4 and IPv6, that are not connected by TCP: listening, bound, fresh, and UDP.
//!
//! Everything is read from a duplicate of the descriptor: addresses, options, and the state and backlog of a TCP socket
//! (`TCP_INFO`, tcp(7)). A TCP connection has a partner outside and is refused by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use proto::messages::{FdTypes, FileEntry, InetSkEntry, IpOptsEntry, TcpOptsEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common, socket_options};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::sys::socket::{self, End, get_number, get_option, set_number};

/// Internet sockets without a connection.
#[derive(Debug)]
pub struct Inet;

/// Why such a socket cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum InetRefusal {
    /// It is connected.
    #[error(
        "tcp {from} -> {to}, {state}: connections are dumped only on request (--tcp-established), which is not supported yet"
    )]
    Connected {
        /// Our address.
        from: String,
        /// The peer's.
        to: String,
        /// In the kernel's words.
        state: &'static str,
    },
    /// Somebody waits to be accepted.
    #[error("{0} connections wait to be accepted, which is not supported yet")]
    Backlog(u32),
    /// It holds data.
    #[error("{0} bytes wait to be read, which is not supported yet")]
    Queued(i32),
}

impl Explain for InetRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Connected { .. } => Some("close the connection first".into()),
            Self::Backlog(_) | Self::Queued(_) => Some("try again in a moment".into()),
        }
    }
}

/// States of `include/net/tcp_states.h`, from 1.
const STATES: [&str; 11] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];
const ESTABLISHED: u32 = 1;
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;

impl FileKind for Inet {
    const NAME: &'static str = "inet";
    const NOT_SAVED: &'static [&'static str] = &[
        "multicast memberships",
        "socket filters",
        "statistics",
        "options of IP and TCP that images have no place for",
    ];
    const TYPE: FdTypes = FdTypes::Inetsk;
    type Image = InetSkEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.socket.is_some_and(|s| {
            let inet = [libc::AF_INET, libc::AF_INET6].contains(&s.domain);
            let known = [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)];
            inet && known.contains(&(s.kind, s.protocol))
        })
    }

    fn member(entry: &mut FileEntry) -> &mut Option<InetSkEntry> {
        &mut entry.isk
    }

    fn dump(_cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<InetSkEntry, Problem> {
        let Some(facts) = fd.socket else { return Err(Problem::new(super::FileRefusal::NoKind)) };
        let socket = fd.dup()?;
        let own = parse(&socket::address(socket, End::Own)?);
        let peer = socket::address(socket, End::Peer).ok().and_then(|bytes| parse(&bytes));
        let is_tcp = facts.protocol == libc::IPPROTO_TCP;
        let (state, backlog) = if is_tcp {
            tcp_state(socket, own, peer)?
        } else {
            let queued = socket::queued(socket)?;
            if queued != 0 {
                return Err(Problem::new(InetRefusal::Queued(queued)));
            }
            (if peer.is_some() { ESTABLISHED } else { CLOSE }, 0)
        };
        let is_v6 = facts.domain == libc::AF_INET6;
        let any = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let any = SocketAddr::new(any, 0);
        let (own, peer) = (own.unwrap_or(any), peer.unwrap_or(any));
        let v6only =
            if is_v6 { Some(get_number(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? != 0) } else { None };
        Ok(InetSkEntry {
            id,
            ino: fd.stat.st_ino as u32,
            family: facts.domain as u32,
            r#type: facts.kind as u32,
            proto: facts.protocol as u32,
            state,
            src_port: own.port().into(),
            dst_port: peer.port().into(),
            flags: fd.flags() as u32,
            backlog,
            src_addr: words(own.ip()),
            dst_addr: words(peer.ip()),
            fown: fd.owner().while_trying_to("read the owner of its signals")?,
            opts: socket_options::read(socket).while_trying_to("read its options")?,
            v6only,
            ip_opts: Some(ip_options(socket)?),
            tcp_opts: if is_tcp { Some(tcp_options(socket)?) } else { Some(TcpOptsEntry::default()) },
            ns_id: Some(2),
            ..InetSkEntry::default()
        })
    }

    fn restore(_cx: &mut FilesRestore<'_>, image: &InetSkEntry) -> Result<OwnedFd, Problem> {
        let own = address(image, &image.src_addr, image.src_port);
        let name = own.map_or_else(|| "unbound".to_owned(), |a| a.to_string());
        make(image, own).about(|| Object::Named { kind: "socket", name })
    }
}

/// Makes a socket as it was.
fn make(image: &InetSkEntry, own: Option<SocketAddr>) -> Result<OwnedFd, Problem> {
    let fd = socket::create(image.family as i32, image.r#type as i32, image.proto as i32)?;
    let socket = fd.as_fd();
    if let Some(v6only) = image.v6only {
        set_number(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, v6only.into())?;
    }
    socket_options::write(socket, &image.opts).while_trying_to("set its options")?;
    if let Some(options) = &image.ip_opts {
        set_ip_options(socket, options)?;
    }
    if let Some(own) = own.filter(|own| own.port() != 0) {
        // Others of the tree may be bound to the same address already.
        set_number(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        socket::bind(socket, &bytes(own)).while_trying_to("bind it to its address")?;
    }
    set_number(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, image.opts.reuseaddr.unwrap_or(false).into())?;
    if let Some(options) = image.tcp_opts.as_ref().filter(|_| image.proto == libc::IPPROTO_TCP as u32) {
        set_tcp_options(socket, options)?;
    }
    if image.state == LISTEN {
        socket::listen(socket, image.backlog as i32)?;
    } else if image.state == ESTABLISHED
        && let Some(peer) = address(image, &image.dst_addr, image.dst_port)
    {
        socket::connect(socket, &bytes(peer)).while_trying_to("connect it to its peer")?;
    }
    set_common(socket, image.flags, Some(&image.fown))?;
    Ok(fd)
}

/// State and backlog of a TCP socket; a refusal of whatever has a partner.
fn tcp_state(
    socket: BorrowedFd<'_>,
    own: Option<SocketAddr>,
    peer: Option<SocketAddr>,
) -> Result<(u32, u32), Problem> {
    // struct tcp_info of include/uapi/linux/tcp.h: the state is its first byte. For a listening socket, tcpi_unacked (at
    // 24) counts the connections that wait, and tcpi_sacked (at 28) is how many may.
    let mut info = [0_u8; 104];
    get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let word =
        |at: usize| info.get(at..at + 4).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b));
    let state = u32::from(info.first().copied().unwrap_or(0));
    match state {
        LISTEN if word(24) != 0 => Err(Problem::new(InetRefusal::Backlog(word(24)))),
        LISTEN => Ok((state, word(28))),
        CLOSE => Ok((state, 0)),
        _ => {
            let text = |a: Option<SocketAddr>| a.map_or_else(|| "?".to_owned(), |a| a.to_string());
            let state =
                STATES.get((state as usize).wrapping_sub(1)).copied().unwrap_or("in an unknown state");
            Err(Problem::new(InetRefusal::Connected { from: text(own), to: text(peer), state }))
        }
    }
}

fn ip_options(socket: BorrowedFd<'_>) -> Result<IpOptsEntry, SysError> {
    let number = |name| get_number(socket, libc::IPPROTO_IP, name);
    Ok(IpOptsEntry {
        freebind: Some(number(libc::IP_FREEBIND)? != 0).filter(|set| *set),
        tos: Some(number(libc::IP_TOS)? as u32).filter(|tos| *tos != 0),
        ttl: Some(number(libc::IP_TTL)? as u32),
        pktinfo: Some(number(libc::IP_PKTINFO)? != 0).filter(|set| *set),
        ..IpOptsEntry::default()
    })
}

fn set_ip_options(socket: BorrowedFd<'_>, options: &IpOptsEntry) -> Result<(), SysError> {
    let values = [
        (libc::IP_FREEBIND, options.freebind.map(i32::from)),
        (libc::IP_PKTINFO, options.pktinfo.map(i32::from)),
        (libc::IP_TOS, options.tos.map(|tos| tos as i32)),
        (libc::IP_TTL, options.ttl.map(|ttl| ttl as i32)),
    ];
    for (name, value) in values {
        if let Some(value) = value
            && get_number(socket, libc::IPPROTO_IP, name)? != value
        {
            set_number(socket, libc::IPPROTO_IP, name, value)?;
        }
    }
    Ok(())
}

fn tcp_options(socket: BorrowedFd<'_>) -> Result<TcpOptsEntry, SysError> {
    let number = |name| get_number(socket, libc::IPPROTO_TCP, name);
    Ok(TcpOptsEntry {
        cork: Some(number(libc::TCP_CORK)? != 0).filter(|set| *set),
        nodelay: Some(number(libc::TCP_NODELAY)? != 0).filter(|set| *set),
        keepcnt: Some(number(libc::TCP_KEEPCNT)? as u32),
        keepidle: Some(number(libc::TCP_KEEPIDLE)? as u32),
        keepintvl: Some(number(libc::TCP_KEEPINTVL)? as u32),
    })
}

fn set_tcp_options(socket: BorrowedFd<'_>, options: &TcpOptsEntry) -> Result<(), SysError> {
    let values = [
        (libc::TCP_CORK, options.cork.map(i32::from)),
        (libc::TCP_NODELAY, options.nodelay.map(i32::from)),
        (libc::TCP_KEEPCNT, options.keepcnt.map(|n| n as i32)),
        (libc::TCP_KEEPIDLE, options.keepidle.map(|n| n as i32)),
        (libc::TCP_KEEPINTVL, options.keepintvl.map(|n| n as i32)),
    ];
    for (name, value) in values {
        if let Some(value) = value
            && get_number(socket, libc::IPPROTO_TCP, name)? != value
        {
            set_number(socket, libc::IPPROTO_TCP, name, value)?;
        }
    }
    Ok(())
}

/// An address in the words of an image: the bytes of the network, read as the machine reads words.
fn words(ip: IpAddr) -> Vec<u32> {
    match ip {
        IpAddr::V4(ip) => vec![u32::from_ne_bytes(ip.octets())],
        IpAddr::V6(ip) => ip.octets().as_chunks().0.iter().map(|b| u32::from_ne_bytes(*b)).collect(),
    }
}

/// An address of an image.
fn address(image: &InetSkEntry, words: &[u32], port: u32) -> Option<SocketAddr> {
    let octets: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ip = if image.family == libc::AF_INET6 as u32 {
        IpAddr::V6(<[u8; 16]>::try_from(octets).ok()?.into())
    } else {
        IpAddr::V4(<[u8; 4]>::try_from(octets.get(..4)?).ok()?.into())
    };
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

/// Parses `struct sockaddr_in` or `struct sockaddr_in6`.
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    let ip = match family {
        libc::AF_INET => IpAddr::from(*bytes.get(4..)?.first_chunk::<4>()?),
        libc::AF_INET6 => IpAddr::from(*bytes.get(8..)?.first_chunk::<16>()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The reverse of [`parse`].
fn bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    bytes.extend((family as u16).to_ne_bytes());
    bytes.extend(address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("127.0.0.1:80")]
    #[case("0.0.0.0:65535")]
    #[case("[::1]:443")]
    #[case("[fe80::1:2]:1")]
    fn addresses_survive(#[case] text: &str) {
        let address: SocketAddr = text.parse().unwrap();
        assert_eq!(parse(&bytes(address)), Some(address));
        let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u32;
        let image = InetSkEntry { family, ..InetSkEntry::default() };
        assert_eq!(super::address(&image, &words(address.ip()), address.port().into()), Some(address));
    }
}
