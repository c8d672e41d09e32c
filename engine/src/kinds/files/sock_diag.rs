//! What the kernel tells about sockets that are not ours: sock_diag(7), over netlink.
//!
//! Asking for one socket makes the kernel look through all of them, so all are asked for at once, and kept.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use netlink_bindings::traits::NetlinkRequest;
use netlink_bindings::{inet_diag, unix_diag};
use nix::errno::Errno;

use crate::error::SysError;
use crate::netlink::push_message;
use crate::sys::socket;
use crate::tcp_repair::State;

/// From `include/uapi/linux/netlink.h`.
const NETLINK_SOCK_DIAG: i32 = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// Room for one read; the kernel sends no more than 32 KiB at once.
const ROOM: usize = 64 << 10;

/// What is known of one unix socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnixFacts {
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET`.
    pub kind: u8,
    /// Its name, as getsockname(2) gives it behind the family.
    pub name: Vec<u8>,
    /// Of the kernel's TCP states, the ones that unix sockets have.
    pub state: u8,
    /// Whether it has a peer, and the peer's inode number, which is 0 if the peer is closed or not yet accepted.
    pub peer: Option<u32>,
    /// For one that listens: inode numbers of the sockets whose connections wait, in their order; 0 for closed ones.
    pub pending: Vec<u32>,
    /// Bytes that can be read; for one that listens, the connections that wait.
    pub read_queue: u32,
    /// Memory of what was sent; for one that listens, how many connections may wait.
    pub write_queue: u32,
    /// Directions that are shut down: 1 for reading, 2 for writing.
    pub shutdown: u8,
    /// Device and inode number of the file that it is bound to.
    pub file: Option<(u32, u32)>,
}

/// All unix sockets of our network namespace, by inode number.
pub fn unix_sockets() -> Result<HashMap<u32, UnixFacts>, SysError> {
    use unix_diag::ShowFlags as Show;
    let show = [Show::Name, Show::Vfs, Show::Peer, Show::Icons, Show::Rqlen];
    let mut header = unix_diag::Req::new();
    header.sdiag_family = libc::AF_UNIX as u8;
    header.udiag_states = u32::MAX;
    header.udiag_show = show.into_iter().fold(0, |flags, flag| flags | flag as u32);
    header.udiag_cookie = [0xff; 8];
    let mut sockets = HashMap::new();
    let request = unix_diag::Request::new().op_unix_diag_dump(&header);
    ask(&request, |payload| {
        // Shorter than its fixed part, it would not be what we asked for.
        if payload.len() < unix_diag::Msg::len() {
            return;
        }
        let (message, attributes) = decode(&request, payload);
        let pending = attributes.get_icons().unwrap_or_default();
        let queues = attributes.get_rqlen().ok();
        let facts = UnixFacts {
            kind: message.udiag_type,
            name: attributes.get_name().unwrap_or_default().to_vec(),
            state: message.udiag_state,
            peer: attributes.get_peer().ok(),
            pending: pending.as_chunks().0.iter().map(|b| u32::from_ne_bytes(*b)).collect(),
            read_queue: queues.as_ref().map_or(0, |q| q.udiag_rqueue),
            write_queue: queues.as_ref().map_or(0, |q| q.udiag_wqueue),
            shutdown: attributes.get_shutdown().unwrap_or(0),
            file: attributes.get_vfs().ok().map(|vfs| (vfs.udiag_vfs_dev, vfs.udiag_vfs_ino)),
        };
        sockets.insert(message.udiag_ino, facts);
    })?;
    Ok(sockets)
}

/// Which directions of sockets of UDP or UDP-Lite are shut down, by inode number: 1 for reading, 2 for writing.
pub fn udp_shutdown(family: i32, protocol: i32) -> Result<HashMap<u32, u8>, SysError> {
    let mut sockets = HashMap::new();
    inet_sockets(family, protocol, u32::MAX, |message, attributes| {
        sockets.insert(message.inode, attributes.get_shutdown().unwrap_or(0));
    })?;
    Ok(sockets)
}

/// The inode number of a socket that is bound to a port.
pub fn bound_to(family: i32, protocol: i32, port: u16) -> Result<Option<u32>, SysError> {
    let mut found = None;
    inet_sockets(family, protocol, u32::MAX, |message, _| {
        if message.sockid.sport() == port && message.inode != 0 {
            found = Some(message.inode);
        }
    })?;
    Ok(found)
}

/// Whom TCP sockets that are asking for a connection ask, by inode number: getpeername(2) does not tell.
pub fn asked_for(family: i32) -> Result<HashMap<u32, SocketAddr>, SysError> {
    let mut peers = HashMap::new();
    inet_sockets(family, libc::IPPROTO_TCP, 1 << State::SynSent.number(), |message, _| {
        let ip = if family == libc::AF_INET6 {
            Some(IpAddr::from(message.sockid.dst))
        } else {
            message.sockid.dst.first_chunk::<4>().map(|octets| IpAddr::from(*octets))
        };
        if let Some(ip) = ip {
            peers.insert(message.inode, SocketAddr::new(ip, message.sockid.dport()));
        }
    })?;
    Ok(peers)
}

/// Sockets of a family and a protocol, in any of these states.
fn inet_sockets(
    family: i32,
    protocol: i32,
    states: u32,
    mut take: impl FnMut(&inet_diag::Msg, inet_diag::IterableReplyAttrs<'_>),
) -> Result<(), SysError> {
    let mut header = inet_diag::ReqV2::new();
    header.family = family as u8;
    header.protocol = protocol as u8;
    header.states = states;
    let request = inet_diag::Request::new().op_udp_diag_dump(&header);
    ask(&request, |payload| {
        if payload.len() < inet_diag::Msg::len() {
            return;
        }
        let (message, attributes) = decode(&request, payload);
        take(&message, attributes);
    })
}

/// The inode number of the netlink socket at a port of a protocol: a column of `/proc/net/netlink`.
pub fn netlink_port(protocol: u32, port: u32) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/netlink").ok()?;
    netlink_line(&table, protocol, port)
}

fn netlink_line(table: &str, protocol: u32, port: u32) -> Option<u32> {
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let has = |words: &Vec<&str>| {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
        (number(1) == Some(protocol) && number(2) == Some(port)).then(|| number(9)).flatten()
    };
    lines.into_iter().find_map(|words| has(&words))
}

/// Decodes an answer to this request.
fn decode<'a, R: NetlinkRequest>(_request: &R, payload: &'a [u8]) -> R::ReplyType<'a> {
    R::decode_reply(payload)
}

/// Asks, and hands the payload of each answer to `take`.
pub fn ask(request: &impl NetlinkRequest, mut take: impl FnMut(&[u8])) -> Result<(), SysError> {
    let netlink_bindings::traits::Protocol::Raw { request_type, .. } = request.protocol() else {
        return Err(SysError { call: "netlink request", errno: Errno::EPROTO });
    };
    let socket = socket::create(libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_SOCK_DIAG)?;
    let payload = request.payload();
    let mut message = Vec::with_capacity(HEADER + payload.len());
    push_message(&mut message, request_type, request.flags() | libc::NLM_F_REQUEST as u16, 0, payload);
    nix::unistd::write(socket.as_fd(), &message).map_err(SysError::of("write(NETLINK_SOCK_DIAG)"))?;
    let mut buffer = vec![0; ROOM];
    loop {
        let len = nix::unistd::read(socket.as_fd(), &mut buffer)
            .map_err(SysError::of("read(NETLINK_SOCK_DIAG)"))?;
        let mut failed = None;
        let finished = split(buffer.get(..len).unwrap_or_default(), |kind, payload| match kind {
            NLMSG_ERROR => {
                let code = payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                failed = Some(Errno::from_raw(-code));
            }
            _ => take(payload),
        });
        match failed {
            Some(errno) => return Err(SysError { call: "NETLINK_SOCK_DIAG", errno }),
            None if finished || len == 0 => return Ok(()),
            None => {}
        }
    }
}

/// Hands type and payload of each message to `take`; whether the last one was among them.
fn split(mut bytes: &[u8], mut take: impl FnMut(u16, &[u8])) -> bool {
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let [a, b, c, d, kind @ ..] = header;
        let length = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
        let kind = kind.first_chunk().map_or(0, |b| u16::from_ne_bytes(*b));
        let Some(payload) = bytes.get(HEADER..length) else { return true };
        if kind == NLMSG_DONE {
            return true;
        }
        take(kind, payload);
        if kind == NLMSG_ERROR {
            return true;
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_message(&mut bytes, kind, 0, 0, payload);
        bytes
    }

    #[test]
    fn answers_are_split() {
        let bytes = [message(20, b"one"), message(20, b"second"), message(NLMSG_DONE, b"")].concat();
        let mut seen = Vec::new();
        assert!(split(&bytes, |kind, payload| seen.push((kind, payload.to_vec()))));
        assert_eq!(seen, [(20, b"one".to_vec()), (20, b"second".to_vec())]);
    }

    #[test]
    fn damaged_answers_end_it() {
        let whole = message(20, b"four");
        for length in 0..whole.len() {
            split(&whole[..length], |_, _| panic!("half a message is none"));
        }
        split(&[0xff; 64], |_, _| panic!("nonsense is none"));
    }

    #[test]
    fn owners_of_netlink_ports_are_found() {
        let table = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
            00000000c6669e3a 4   0          00000000 0        0        0     2        0        1593\n\
            000000002b6f4f52 4   77         00000000 0        0        0     2        0        1595\n";
        assert_eq!(netlink_line(table, 4, 77), Some(1595));
        assert_eq!((netlink_line(table, 6, 77), netlink_line("x\ny", 4, 77)), (None, None));
    }

    #[test]
    fn a_pair_of_ours_is_there() {
        let (a, b) = socket::pair(libc::SOCK_STREAM).unwrap();
        let ino = |fd: &std::os::fd::OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino as u32;
        nix::unistd::write(&b, b"hello").unwrap();
        let sockets = unix_sockets().unwrap();
        let facts = &sockets[&ino(&a)];
        assert_eq!((facts.peer, facts.read_queue), (Some(ino(&b)), 5));
    }
}
