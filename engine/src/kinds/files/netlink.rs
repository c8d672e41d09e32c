//! Netlink sockets: netlink(7).
//!
//! Addresses and options are read from a duplicate of the descriptor; groups are listed by `NETLINK_LIST_MEMBERSHIPS` (since
//! Linux 4.2). What waits to be read came from the kernel, as a rule, and nobody else can send what would look like it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use proto::messages::{FdTypes, FileEntry, NetlinkSkEntry, StasisSocketEntry};

use super::socket_options::{self, Fresh, MORE, Place};
use super::socket_queue::Sockets;
use super::{FdFacts, FileKind, FileRefusal, FilesDump, FilesRestore, set_common, sock_diag, unix};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::sys::socket::{self, End, get_option, set_number};

/// Netlink sockets.
#[derive(Debug)]
pub struct Netlink;

/// Why such a socket cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkRefusal {
    /// Messages wait.
    #[error("messages wait to be read from the netlink socket, which only the kernel can send again")]
    Unread,
    /// Somebody else has its address.
    #[error("port {port} of netlink protocol {protocol} is in use by {by}")]
    Taken {
        /// The address.
        port: u32,
        /// The protocol.
        protocol: u32,
        /// Who has it.
        by: String,
    },
}

impl Explain for NetlinkRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Unread => "have the program read its messages first, or try again in a moment".into(),
            Self::Taken { .. } => "stop that process first".into(),
        })
    }
}

/// From `include/linux/socket.h` and `include/uapi/linux/netlink.h`.
const LEVEL: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const LIST_MEMBERSHIPS: i32 = 9;
/// More groups than any protocol has.
const MOST_GROUPS: usize = 1 << 16;
/// What the kernel calls the state of these sockets, whatever they do (`TCP_CLOSE`).
const STATE: u32 = 7;

const OPTIONS: &[Place] = &[
    (LEVEL, 3, 4),  // NETLINK_PKTINFO
    (LEVEL, 4, 4),  // NETLINK_BROADCAST_ERROR
    (LEVEL, 5, 4),  // NETLINK_NO_ENOBUFS
    (LEVEL, 8, 4),  // NETLINK_LISTEN_ALL_NSID
    (LEVEL, 10, 4), // NETLINK_CAP_ACK
    (LEVEL, 11, 4), // NETLINK_EXT_ACK
    (LEVEL, 12, 4), // NETLINK_GET_STRICT_CHK
];

fn options() -> Vec<Place> {
    [MORE, OPTIONS].concat()
}

impl FileKind for Netlink {
    const NAME: &'static str = "netlink";
    const NOT_SAVED: &'static [&'static str] = &[
        "that messages were lost (ENOBUFS)",
        "other numbers of groups of generic netlink on another kernel",
        "rings of mapped memory, which Linux has no more since 4.6",
        "a flock(2) lock on the socket itself, which keeps nobody from taking one",
    ];
    const TYPE: FdTypes = FdTypes::Netlinksk;
    type Image = NetlinkSkEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.socket.is_some_and(|s| s.domain == libc::AF_NETLINK)
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<NetlinkSkEntry>> {
        &mut entry.nlsk
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<NetlinkSkEntry, Problem> {
        let Some(facts) = fd.socket else { return Err(Problem::new(FileRefusal::NoKind)) };
        let socket = fd.dup()?;
        if readable(socket)? {
            return Err(Problem::new(NetlinkRefusal::Unread));
        }
        let (portid, _) = parse(&socket::address(socket, End::Own)?);
        let (dst_portid, dst_groups) = parse(&socket::address(socket, End::Peer)?);
        let options = cx.state::<Fresh>().differences(socket, facts, &options());
        // The image has no place for the type, which is SOCK_RAW as a rule.
        let kind = (facts.kind != libc::SOCK_RAW).then_some(facts.kind as u32);
        let own = StasisSocketEntry { options, r#type: kind, ..StasisSocketEntry::default() };
        if own != StasisSocketEntry::default() {
            cx.state::<Sockets>().own.insert(id, own);
        }
        Ok(NetlinkSkEntry {
            id,
            ino: fd.stat.st_ino as u32,
            protocol: facts.protocol as u32,
            state: STATE,
            flags: fd.flags() as u32,
            portid,
            groups: groups(socket).while_trying_to("list its groups")?,
            dst_portid,
            dst_group: if dst_groups == 0 { 0 } else { dst_groups.trailing_zeros() + 1 },
            fown: fd.owner().while_trying_to("read the owner of its signals")?,
            opts: socket_options::read(socket, facts.domain).map_err(|p| p.step("read its options"))?,
            ns_id: Some(2),
        })
    }

    fn check(_cx: &FilesRestore<'_>, image: &NetlinkSkEntry) -> Result<(), Problem> {
        if image.portid == 0 {
            return Ok(());
        }
        let (protocol, port) = (image.protocol, image.portid);
        let probe = socket::create(libc::AF_NETLINK, libc::SOCK_RAW, protocol as i32);
        let probe = probe.about(|| object(image)).while_trying_to("make a socket of its protocol")?;
        match socket::bind(probe.as_fd(), &address(port, 0)) {
            Err(SysError { errno: Errno::EADDRINUSE, .. }) => {
                let by = sock_diag::netlink_port(protocol, port).map(unix::owner);
                let by = by.unwrap_or_else(|| "somebody who cannot be seen".into());
                Err(Problem::new(NetlinkRefusal::Taken { port, protocol, by }))
            }
            _ => Ok(()),
        }
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &NetlinkSkEntry) -> Result<OwnedFd, Problem> {
        let own = cx.state::<Sockets>().own.get(&image.id).cloned().unwrap_or_default();
        make(image, &own).about(|| object(image))
    }
}

fn object(image: &NetlinkSkEntry) -> Object {
    let name = format!("protocol {}, port {}", image.protocol, image.portid);
    Object::Named { kind: "netlink", name }
}

fn make(image: &NetlinkSkEntry, own: &StasisSocketEntry) -> Result<OwnedFd, Problem> {
    let kind = own.r#type.map_or(libc::SOCK_RAW, |kind| kind as i32);
    let fd = socket::create(libc::AF_NETLINK, kind, image.protocol as i32)?;
    let socket = fd.as_fd();
    let set = || -> Result<(), Problem> {
        socket_options::write(socket, libc::AF_NETLINK, &image.opts)?;
        socket_options::write_more(socket, &own.options, &options())?;
        Ok(())
    };
    set().map_err(|p| p.step("set its options"))?;
    if image.portid != 0 {
        socket::bind(socket, &address(image.portid, 0)).while_trying_to("bind it to its address")?;
    }
    for (word, bits) in (0_u32..).zip(&image.groups) {
        for bit in (0..32).filter(|bit| bits & (1 << bit) != 0) {
            let group = word * 32 + bit + 1;
            set_number(socket, LEVEL, ADD_MEMBERSHIP, group as i32).while_trying_to("join its groups")?;
        }
    }
    if image.dst_portid != 0 || image.dst_group != 0 {
        let groups = image.dst_group.checked_sub(1).and_then(|bit| 1_u32.checked_shl(bit)).unwrap_or(0);
        socket::connect(socket, &address(image.dst_portid, groups))
            .while_trying_to("connect it to its peer")?;
    }
    set_common(socket, image.flags, Some(&image.fown))?;
    Ok(fd)
}

fn readable(socket: BorrowedFd<'_>) -> Result<bool, SysError> {
    let mut polled = [PollFd::new(socket, PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(SysError::of("poll"))?;
    let [polled] = polled;
    Ok(polled.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)))
}

/// A word for every 32 groups, without words of zeros at the end.
fn groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, SysError> {
    let mut bytes = vec![0; MOST_GROUPS / 8];
    let len = get_option(socket, LEVEL, LIST_MEMBERSHIPS, &mut bytes)?;
    let words = bytes.get(..len).unwrap_or(&bytes).as_chunks().0;
    let mut words: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    words.truncate(words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
    Ok(words)
}

/// `struct sockaddr_nl`: family, padding, port, groups.
fn address(port: u32, groups: u32) -> Vec<u8> {
    let mut bytes = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend(groups.to_ne_bytes());
    bytes
}

/// The reverse of [`address`].
fn parse(bytes: &[u8]) -> (u32, u32) {
    let word =
        |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
    (word(4), word(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive() {
        assert_eq!(parse(&address(4242, 1 << 4)), (4242, 16));
        assert_eq!(parse(&[16, 0, 0]), (0, 0));
    }

    #[test]
    fn joined_groups_are_listed() {
        // NETLINK_ROUTE, RTNLGRP_LINK and RTNLGRP_NEXTHOP: whoever likes may listen.
        let fd = socket::create(libc::AF_NETLINK, libc::SOCK_RAW, 0).unwrap();
        assert_eq!(groups(fd.as_fd()).unwrap(), Vec::<u32>::new());
        for group in [1, 32] {
            set_number(fd.as_fd(), LEVEL, ADD_MEMBERSHIP, group).unwrap();
        }
        assert_eq!(groups(fd.as_fd()).unwrap(), [1 | 1 << 31]);
    }
}
