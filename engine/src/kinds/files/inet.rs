//! Internet sockets, IPv4 and IPv6: UDP, UDP-Lite, ICMP, raw, and TCP, whose connections are in `tcp.rs`.
//!
//! Addresses and options are read from a duplicate of the descriptor. Which directions are shut down, sock_diag(7) tells of UDP;
//! of others the poll events do, as far as they go. Groups that a socket has joined cannot be listed, but a socket can be
//! asked about each group that its machine is in (`MCAST_MSFILTER`). Datagrams that wait are peeked at, and come back as packets
//! from those who sent them (`tcp_repair::packet`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use proto::messages::{FdTypes, FileEntry, InetSkEntry, StasisSocketEntry};

use super::inet_address::{self, any, of_image, parse, words};
use super::inet_groups;
use super::socket_options::{self, Fresh};
use super::socket_queue::{self, Saved, Sockets};
use super::{
    FdFacts, FileKind, FilesDump, FilesRestore, InTask, SocketFacts, inet_options, set_common, sock_diag,
    socket_reading, tcp,
};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::sys::socket::{self, get_number, set_number};
use crate::tcp_repair::State;
use crate::tcp_repair::packet::{self, sockaddr};

/// Internet sockets.
#[derive(Debug)]
pub struct Inet;

/// Why such a socket cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum InetRefusal {
    /// It is connected.
    #[error("tcp {from} -> {to}, {state}: connections are dumped only on request")]
    Connected {
        /// Our address.
        from: String,
        /// The peer's.
        to: String,
        /// In the kernel's words.
        state: &'static str,
    },
    /// Somebody waits to be accepted.
    #[error("{0} connections wait to be accepted, and what they hold cannot be seen")]
    Backlog(u32),
    /// Half of a handshake.
    #[error("it is in state {0}, which lasts a moment only")]
    State(&'static str),
    /// Data that is collected.
    #[error(
        "a datagram is being collected in it (UDP_CORK, MSG_MORE; {0} bytes of memory), which the kernel shows to nobody"
    )]
    Corked(i32),
    /// The address is gone.
    #[error("no interface has the address {0} any more")]
    NoAddress(IpAddr),
    /// Somebody else is bound to it.
    #[error("{address} is in use by {by}")]
    Taken {
        /// The address.
        address: SocketAddr,
        /// Who has it.
        by: String,
    },
}

impl Explain for InetRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Connected { .. } => {
                "pass --tcp-established, or --tcp-close to have it closed, or close the connection first"
                    .into()
            }
            Self::Backlog(_) => "pass --skip-in-flight to leave them out, or try again in a moment".into(),
            Self::State(_) => "try again in a moment".into(),
            Self::Corked(_) => {
                "try again when it has been sent, or lose the socket with --on-unsupported inet=close".into()
            }
            Self::NoAddress(ip) => format!("give {ip} to an interface first (ip address add)"),
            Self::Taken { .. } => "stop that process first".into(),
        })
    }
}

/// What the kernel tells about sockets, by network namespace, family and protocol.
#[derive(Debug, Default)]
struct Known(HashMap<(u64, i32, i32), HashMap<u32, u8>>);

/// Which addresses are this machine's.
#[derive(Debug, Default)]
struct Locals(HashMap<IpAddr, bool>);

/// What socket(2) takes for a socket of an image.
fn facts_of(image: &InetSkEntry) -> SocketFacts {
    SocketFacts { domain: image.family as i32, kind: image.r#type as i32, protocol: image.proto as i32 }
}

fn is_datagram_of_udp(kind: i32, protocol: i32) -> bool {
    kind == libc::SOCK_DGRAM && [libc::IPPROTO_UDP, libc::IPPROTO_UDPLITE].contains(&protocol)
}

impl FileKind for Inet {
    const NAME: &'static str = "inet";
    const NOT_SAVED: &'static [&'static str] = &[
        "statistics, and the route that was found",
        "packets that wait in raw and ICMP sockets",
        "urgent data of TCP",
        "a flock(2) lock on the socket itself, which keeps nobody from taking one",
        "programs of reuseport groups",
        "errors that wait to be read (MSG_ERRQUEUE)",
        "the port of a TCP socket whose connection is over, if the kernel would not choose it (net.ipv4.ip_local_port_range), or before Linux 6.3",
        "what connection tracking knows: rules that let only known connections pass do so where the kernel knows them still",
    ];
    const TYPE: FdTypes = FdTypes::Inetsk;
    type Image = InetSkEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.socket.is_some_and(|s| {
            let inet = [libc::AF_INET, libc::AF_INET6].contains(&s.domain);
            let ping = [libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6].contains(&s.protocol);
            inet && match s.kind {
                libc::SOCK_STREAM => s.protocol == libc::IPPROTO_TCP,
                libc::SOCK_DGRAM => ping || is_datagram_of_udp(s.kind, s.protocol),
                kind => kind == libc::SOCK_RAW,
            }
        })
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<InetSkEntry>> {
        &mut entry.isk
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<InetSkEntry, Problem> {
        let Some(facts) = fd.socket else { return Err(Problem::new(super::FileRefusal::NoKind)) };
        let (socket, answers) = (fd.dup()?, fd.answers()?);
        let options = answers.options()?;
        let own_address = answers.own.as_ref().map_err(|e| *e)?;
        let own_address = parse(own_address).unwrap_or_else(|| any(facts.domain));
        let peer = answers.peer.as_ref().ok().and_then(|bytes| parse(bytes));
        let peer_address = peer.unwrap_or_else(|| any(facts.domain));
        let is_v6 = facts.domain == libc::AF_INET6;
        let is_tcp = facts.protocol == libc::IPPROTO_TCP && facts.kind == libc::SOCK_STREAM;
        let mut entry = InetSkEntry {
            id,
            ino: fd.stat.st_ino as u32,
            family: facts.domain as u32,
            r#type: facts.kind as u32,
            proto: facts.protocol as u32,
            state: if peer.is_some() { State::Established.number() } else { State::Close.number() },
            src_port: own_address.port().into(),
            dst_port: peer_address.port().into(),
            flags: fd.flags() as u32,
            src_addr: words(own_address.ip()),
            dst_addr: words(peer_address.ip()),
            fown: fd.owner().while_trying_to("read the owner of its signals")?,
            opts: options.plain,
            ip_opts: options.ip,
            tcp_opts: Some(options.tcp.unwrap_or_default()),
            v6only: if is_v6 {
                Some(get_number(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? != 0)
            } else {
                None
            },
            ifname: inet_address::interface_name(
                inet_address::scope(own_address).max(inet_address::scope(peer_address)),
            ),
            ns_id: Some(2),
            ..InetSkEntry::default()
        };
        let mut own = StasisSocketEntry { options: options.more, ..StasisSocketEntry::default() };
        if is_tcp {
            tcp::dump(cx, fd, socket, &mut entry, &mut own, (own_address, peer_address))?;
        } else {
            own.options.extend(inet_groups::joined(socket, is_v6));
            datagrams(cx, fd, socket, &mut entry)?;
        }
        let locals = &mut cx.state::<Locals>().0;
        let local = *locals.entry(own_address.ip()).or_insert_with(|| is_local(own_address.ip()));
        own.nonlocal = (!local).then_some(true);
        if own != StasisSocketEntry::default() {
            cx.state::<Sockets>().own.insert(id, own);
        }
        Ok(entry)
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        tcp::finish(cx, images)
    }

    fn leave(cx: &mut FilesDump<'_>) -> Result<(), Problem> {
        tcp::leave(cx)
    }

    fn check(cx: &FilesRestore<'_>, image: &InetSkEntry) -> Result<(), Problem> {
        check(cx, image)
    }

    fn prepare(cx: &mut FilesRestore<'_>, _tasks: &mut dyn InTask) -> Result<(), Problem> {
        tcp::prepare(cx)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &InetSkEntry) -> Result<OwnedFd, Problem> {
        let own = own_address(image);
        let name = own.map_or_else(|| "unbound".to_owned(), |a| a.to_string());
        make(cx, image, own).about(|| Object::Named { kind: "socket", name })
    }

    fn release(cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        tcp::release(cx)
    }
}

/// What is special about sockets of datagrams: directions that are shut down, and what waits.
fn datagrams(
    cx: &mut FilesDump<'_>,
    fd: &FdFacts<'_>,
    socket: BorrowedFd<'_>,
    entry: &mut InetSkEntry,
) -> Result<(), Problem> {
    let (kind, protocol) = (entry.r#type as i32, entry.proto as i32);
    if !is_datagram_of_udp(kind, protocol) {
        return Ok(());
    }
    let family = entry.family as i32;
    // Of one that has no port yet, the kernel tells nothing, however often it is asked.
    let space = nix::sys::stat::stat("/proc/self/ns/net").map_err(SysError::of("stat"))?.st_ino;
    let known = match cx.state::<Known>().0.entry((space, family, protocol)) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let found = sock_diag::udp_shutdown(family, protocol);
            place.insert(found.while_trying_to("ask the kernel about sockets")?)
        }
    };
    let shutdown = known.get(&(fd.stat.st_ino as u32)).copied().unwrap_or(0);
    entry.shutdown = Some(i32::from(shutdown)).filter(|bits| *bits != 0);
    // UDP_CORK is 1 (include/uapi/linux/udp.h). MSG_MORE collects without it, which looks like what is on its way.
    let is_corked = get_number(socket, protocol, 1).is_ok_and(|corked| corked != 0);
    let unsent = if is_corked {
        socket::unsent(socket)?
    } else if cx.looks_only {
        0
    } else {
        lasting_unsent(socket)?
    };
    if unsent > 0 {
        return Err(Problem::new(InetRefusal::Corked(unsent)));
    }
    if cx.looks_only {
        return Ok(());
    }
    let packets = socket_queue::peek(socket, kind, 0)?;
    if !packets.is_empty() {
        let saved = packets.into_iter().map(|packet| Saved::of(packet, Vec::new())).collect();
        cx.state::<Sockets>().packets.insert(entry.id, saved);
    }
    Ok(())
}

/// Memory of what was written and is not sent, nor about to be: a datagram that is being collected.
fn lasting_unsent(socket: BorrowedFd<'_>) -> Result<i32, SysError> {
    // A network device may still be busy with what its stopped owner has sent.
    for _ in 0..20 {
        match socket::unsent(socket)? {
            0 => return Ok(0),
            _ => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
    socket::unsent(socket)
}

/// Whether an address is one of this machine's, or stands for all of them.
fn is_local(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return true;
    }
    match std::net::UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(e) => e.raw_os_error() != Some(libc::EADDRNOTAVAIL),
    }
}

/// The interface of link-local addresses of an image.
pub(super) fn scope(image: &InetSkEntry) -> u32 {
    image.ifname.as_deref().and_then(inet_address::interface_index).unwrap_or(0)
}

fn own_address(image: &InetSkEntry) -> Option<SocketAddr> {
    of_image(image, &image.src_addr, image.src_port, scope(image))
}

/// Finds addresses that cannot be had, and images that make no sense.
fn check(cx: &FilesRestore<'_>, image: &InetSkEntry) -> Result<(), Problem> {
    let damaged = |what| Err(invalid(&proto::catalogue::FILES, 0, what));
    if ![libc::AF_INET, libc::AF_INET6].contains(&(image.family as i32)) {
        return damaged("an internet socket is of an unknown family");
    }
    let Some(own) = own_address(image) else {
        return damaged("an internet socket has an impossible address");
    };
    let is_tcp = image.proto as i32 == libc::IPPROTO_TCP && image.r#type as i32 == libc::SOCK_STREAM;
    let Some(state) = State::from_number(image.state) else {
        return damaged("an internet socket is in an unknown state");
    };
    let extra = cx.peek::<Sockets>().and_then(|sockets| sockets.own.get(&image.id));
    let is_connected = is_tcp && state.is_connected();
    if is_connected && cx.options.connections != crate::options::Connections::Closed {
        tcp::load(cx.images, image)?;
    }
    if extra.is_some_and(|own| own.nonlocal == Some(true) || own.peer_gone == Some(true)) {
        return Ok(());
    }
    let freebind = image.ip_opts.as_ref().is_some_and(|ip| ip.freebind == Some(true));
    if !freebind && !is_local(own.ip()) {
        return Err(Problem::new(InetRefusal::NoAddress(own.ip())));
    }
    if own.port() == 0 || is_connected || image.r#type as i32 == libc::SOCK_RAW {
        return Ok(());
    }
    try_to_bind(image, own)
}

/// Binds a socket to the address, for the while, to find out who else is.
fn try_to_bind(image: &InetSkEntry, own: SocketAddr) -> Result<(), Problem> {
    let fd = socket::create(image.family as i32, image.r#type as i32, image.proto as i32)?;
    before_binding(fd.as_fd(), image)?;
    if image.opts.so_reuseport == Some(true) {
        return Ok(());
    }
    set_number(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    match socket::bind(fd.as_fd(), &sockaddr(own)) {
        Err(SysError { errno: Errno::EADDRINUSE, .. }) => {
            let by = sock_diag::bound_to(image.family as i32, image.proto as i32, own.port())?;
            let by = by.map_or_else(|| "somebody who cannot be seen".to_owned(), super::unix::owner);
            Err(Problem::new(InetRefusal::Taken { address: own, by }))
        }
        _ => Ok(()),
    }
}

/// What decides to which addresses a socket may be bound, and must be set before.
pub(super) fn before_binding(fd: BorrowedFd<'_>, image: &InetSkEntry) -> Result<(), SysError> {
    // Raw sockets serve one family from the beginning.
    if let Some(v6only) = image.v6only.filter(|_| image.r#type as i32 != libc::SOCK_RAW) {
        set_number(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, v6only.into())?;
    }
    if image.opts.so_reuseport == Some(true) {
        set_number(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    inet_options::set_freebind(fd, image.family as i32)
}

/// Makes a socket as it was.
fn make(
    cx: &mut FilesRestore<'_>,
    image: &InetSkEntry,
    address: Option<SocketAddr>,
) -> Result<OwnedFd, Problem> {
    let sockets = cx.state::<Sockets>();
    let own = sockets.own.get(&image.id).cloned().unwrap_or_default();
    let packets = sockets.packets.remove(&image.id).unwrap_or_default();
    let is_tcp = image.proto as i32 == libc::IPPROTO_TCP && image.r#type as i32 == libc::SOCK_STREAM;
    let fd = match tcp::take(cx, image.id) {
        Some(connection) => connection,
        None => make_unconnected(image, address, &packets)?,
    };
    let socket = fd.as_fd();
    let facts = facts_of(image);
    let mut options = || -> Result<(), Problem> {
        socket_options::write_new(socket, cx.state::<Fresh>(), facts, &image.opts)?;
        if let Some(options) = &image.ip_opts {
            inet_options::write_ip(socket, image.family as i32, options)?;
        }
        if !own.options.is_empty() {
            socket_options::write_more(socket, &own.options, &socket_reading::table(facts))?;
        }
        if let Some(options) = image.tcp_opts.as_ref().filter(|_| is_tcp) {
            inet_options::write_tcp(socket, options)?;
        }
        inet_groups::join(socket, &own.options)?;
        Ok(())
    };
    options().map_err(|p| p.step("set its options"))?;
    if image.state == State::Listen.number() && is_tcp {
        // Connections that it has accepted are there already, at the same port.
        set_number(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        socket::listen(socket, image.backlog as i32)?;
        let reuse = image.opts.reuseaddr.unwrap_or(false).into();
        set_number(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, reuse)?;
    }
    set_common(socket, image.flags, Some(&image.fown))?;
    Ok(fd)
}

/// Makes and binds a socket; connects one that has a peer, and gives it what waited.
fn make_unconnected(
    image: &InetSkEntry,
    address: Option<SocketAddr>,
    packets: &[Saved],
) -> Result<OwnedFd, Problem> {
    let fd = socket::create(image.family as i32, image.r#type as i32, image.proto as i32)?;
    let socket = fd.as_fd();
    let is_raw = image.r#type as i32 == libc::SOCK_RAW;
    before_binding(socket, image)?;
    let is_bound = |address: &SocketAddr| {
        if is_raw {
            !address.ip().is_unspecified()
        } else {
            address.port() != 0 || !address.ip().is_unspecified()
        }
    };
    // Others of the tree may be bound to the same address already.
    set_number(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if let Some(address) = address.filter(is_bound) {
        let address = if is_raw { SocketAddr::new(address.ip(), 0) } else { address };
        socket::bind(socket, &sockaddr(address)).while_trying_to("bind it to its address")?;
    }
    set_number(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, image.opts.reuseaddr.unwrap_or(false).into())?;
    let peer = of_image(image, &image.dst_addr, image.dst_port, scope(image));
    if image.state == State::Established.number()
        && let Some(peer) = peer
    {
        socket::connect(socket, &sockaddr(peer)).while_trying_to("connect it to its peer")?;
    } else if image.state == State::SynSent.number()
        && let Some(peer) = peer
    {
        set_common(socket, libc::O_NONBLOCK as u32, None)?;
        match socket::connect(socket, &sockaddr(peer)) {
            Err(SysError { errno: Errno::EINPROGRESS, .. }) | Ok(()) => {}
            Err(e) => return Err(Problem::new(e).step("ask its peer for a connection again")),
        }
    }
    if let Some(address) = address {
        queue(socket, address, packets).while_trying_to("queue its datagrams again")?;
    }
    let how = match image.shutdown.unwrap_or(0) {
        1 => Some(nix::sys::socket::Shutdown::Read),
        2 => Some(nix::sys::socket::Shutdown::Write),
        3 => Some(nix::sys::socket::Shutdown::Both),
        _ => None,
    };
    if let Some(how) = how {
        match nix::sys::socket::shutdown(socket.as_raw_fd(), how) {
            // It is shut down all the same.
            Ok(()) | Err(Errno::ENOTCONN) => {}
            Err(errno) => return Err(Problem::new(SysError { call: "shutdown", errno })),
        }
    }
    Ok(fd)
}

/// Has datagrams arrive as they did.
fn queue(socket: BorrowedFd<'_>, own: SocketAddr, packets: &[Saved]) -> Result<(), Problem> {
    for packet in packets {
        let from = packet.own.source.as_deref().and_then(parse);
        let Some(from) = from else { continue };
        let before = socket::queued(socket)?;
        let to = if own.ip().is_unspecified() || own.ip().is_multicast() {
            let loopback: IpAddr = match from.ip().to_canonical() {
                IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            SocketAddr::new(loopback, own.port())
        } else {
            own
        };
        packet::inject_datagram(from, to, &packet.bytes)?;
        // It comes over the loopback device, as a rule at once.
        for _ in 0..100 {
            if before != 0 || socket::queued(socket)? != 0 || packet.bytes.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    Ok(())
}
