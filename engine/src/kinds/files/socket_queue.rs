//! What waits to be read from a socket: packets with their bounds, and what travels with them.
//!
//! Everything is peeked at, and stays where it is. A socket shows more than its first packet only while it has a peeking
//! offset (`SO_PEEK_OFF`, socket(7)), and credentials only while it asks for them (`SO_PASSCRED`); both are set for the
//! while, and put back by a guard. In images, a packet is an entry of `sk-queues.img` with its bytes behind it; what that
//! entry has no place for is in the socket's own entry of `stasis-sockets.img`.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use proto::messages::{ScmEntry, SkPacketEntry, StasisCredentials, StasisPacket, StasisSocketEntry};

use crate::error::{Class, Explain, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::sys::socket::{self, Credentials, get_number, set_number};

/// Longest packet that is copied; nothing in the kernel makes a longer one.
const LONGEST: usize = 256 << 20;
/// Room for the first try.
const ROOM: usize = 256 << 10;
/// `scm_entry.type` of descriptors (`SCM_RIGHTS`).
const RIGHTS: u32 = libc::SCM_RIGHTS as u32;
/// Descriptors that may travel with a packet (`SCM_MAX_FD` of `include/net/scm.h`).
const MOST_RIGHTS: usize = 253;

/// Why what waits in a socket cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum QueueRefusal {
    /// Looking would take the error away.
    #[error("it has data and an error to report, and looking at the data would take the error away")]
    Error,
    /// Urgent data.
    #[error("an urgent byte (MSG_OOB) waits to be read, which is not supported")]
    Urgent,
    /// It cannot be peeked at behind the first packet.
    #[error("packets wait to be read, and sockets of this kind show only the first of them")]
    OnlyFirst,
}

impl Explain for QueueRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("have the program read its data first, or try again in a moment".into())
    }
}

/// One packet, or a stretch of a stream.
#[derive(Debug)]
pub struct Packet {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Descriptors in flight with it.
    pub rights: Vec<OwnedFd>,
    /// Credentials in flight with it.
    pub credentials: Option<Credentials>,
    /// Address of the sender, in the kernel's layout; empty if it has none.
    pub source: Vec<u8>,
}

/// What is changed while a socket is peeked at, and put back in the end.
#[derive(Debug)]
struct Peeking<'a> {
    socket: BorrowedFd<'a>,
    offset: i32,
    passes_credentials: bool,
}

impl<'a> Peeking<'a> {
    fn start(socket: BorrowedFd<'a>) -> Result<Self, SysError> {
        let offset = get_number(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
        let domain = get_number(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
        let passes = domain != libc::AF_UNIX || get_number(socket, libc::SOL_SOCKET, libc::SO_PASSCRED)? != 0;
        let peeking = Self { socket, offset, passes_credentials: passes };
        peeking.at(0)?;
        if !passes {
            set_number(socket, libc::SOL_SOCKET, libc::SO_PASSCRED, 1)?;
        }
        Ok(peeking)
    }

    fn at(&self, offset: i32) -> Result<(), SysError> {
        set_number(self.socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
    }
}

impl Drop for Peeking<'_> {
    fn drop(&mut self) {
        let mut back = self.at(self.offset);
        if !self.passes_credentials {
            back = back.and(set_number(self.socket, libc::SOL_SOCKET, libc::SO_PASSCRED, 0));
        }
        if let Err(e) = back {
            log::error!("a socket keeps options that it had for a look only: {e}");
        }
    }
}

/// Copies what waits, up to `most` bytes; the socket stays as it is.
///
/// A stream that has given `most` bytes is not looked at further: at its end it would report, and forget, an error.
pub fn peek(socket: BorrowedFd<'_>, kind: i32, most: u64) -> Result<Vec<Packet>, Problem> {
    let is_unix = get_number(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)? == libc::AF_UNIX;
    let peeking = Peeking::start(socket)?;
    let mut packets = Vec::new();
    let (mut total, mut room) = (0_u64, ROOM);
    while kind != libc::SOCK_STREAM || total < most {
        let offset = get_number(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
        let mut buffer = vec![0; room];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let received = match socket::receive(socket, &mut buffer, flags) {
            Ok(received) => received,
            Err(SysError { errno: Errno::EAGAIN, .. }) => break,
            Err(e) => return Err(Problem::new(e).step("look at what waits to be read")),
        };
        if received.flags & libc::MSG_TRUNC != 0 && room < LONGEST {
            room *= 8;
            peeking.at(offset)?;
            continue;
        }
        if received.flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            let errno = Errno::EMSGSIZE;
            return Err(Problem::new(SysError { call: "recvmsg(MSG_PEEK)", errno }));
        }
        // Every packet of a unix socket comes with credentials now; without them it is the end.
        if received.len == 0 && is_unix && received.credentials.is_none() {
            break;
        }
        buffer.truncate(received.len);
        total += received.len as u64;
        packets.push(Packet {
            bytes: buffer,
            rights: received.rights,
            // The kernel makes some up where there are none.
            credentials: received.credentials.filter(|credentials| credentials.pid != 0),
            source: received.source,
        });
    }
    Ok(packets)
}

/// Refuses what peeking would change, or would not show.
pub fn check(socket: BorrowedFd<'_>, kind: i32) -> Result<(), Problem> {
    if kind != libc::SOCK_STREAM && has_error(socket)? {
        return Err(Problem::new(QueueRefusal::Error));
    }
    let mut byte = [0];
    let flags = libc::MSG_OOB | libc::MSG_PEEK | libc::MSG_DONTWAIT;
    if kind == libc::SOCK_STREAM && socket::receive(socket, &mut byte, flags).is_ok() {
        return Err(Problem::new(QueueRefusal::Urgent));
    }
    Ok(())
}

/// Whether the next call will report an error; asking for the error itself would take it away.
pub fn has_error(socket: BorrowedFd<'_>) -> Result<bool, SysError> {
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(SysError::of("poll"))?;
    let [polled] = polled;
    Ok(polled.revents().is_some_and(|events| events.contains(PollFlags::POLLERR)))
}

/// One packet as images have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Ids of the files in flight with it.
    pub rights: Vec<u32>,
    /// What the common message has no place for.
    pub own: StasisPacket,
}

impl Saved {
    /// Without the descriptors, whose ids the caller finds.
    pub fn of(packet: Packet, rights: Vec<u32>) -> Self {
        let own = StasisPacket {
            credentials: packet.credentials.map(|c| StasisCredentials { pid: c.pid, uid: c.uid, gid: c.gid }),
            source: Some(packet.source).filter(|source| source.len() > 2),
        };
        Self { bytes: packet.bytes, rights, own }
    }

    /// The credentials in flight with it.
    pub fn credentials(&self) -> Option<Credentials> {
        self.own.credentials.map(|c| Credentials { pid: c.pid, uid: c.uid, gid: c.gid })
    }
}

/// Packets and own entries of all sockets of a tree, whatever their kind.
#[derive(Debug, Default)]
pub struct Sockets {
    /// By the id of the file.
    pub packets: BTreeMap<u32, Vec<Saved>>,
    /// By the id of the file; without the packets.
    pub own: BTreeMap<u32, StasisSocketEntry>,
}

impl Sockets {
    /// Writes both files; none where there is nothing to say.
    pub fn write(self, images: &mut NewImages) -> Result<(), Problem> {
        let Self { packets, mut own } = self;
        if !packets.is_empty() {
            images.write_with(&proto::catalogue::SK_QUEUES, 0, |writer| {
                for (&id_for, packets) in &packets {
                    for packet in packets {
                        let rights = ScmEntry { r#type: RIGHTS, rights: packet.rights.clone() };
                        let scm = if packet.rights.is_empty() { Vec::new() } else { vec![rights] };
                        let length = packet.bytes.len() as u32;
                        writer.entry(&SkPacketEntry { id_for, length, scm })?;
                        writer.extra(&packet.bytes)?;
                    }
                }
                Ok(())
            })?;
        }
        for (id, packets) in packets {
            if packets.iter().any(|packet| packet.own != StasisPacket::default()) {
                let own = own.entry(id).or_default();
                own.packets = packets.into_iter().map(|packet| packet.own).collect();
            }
        }
        if own.is_empty() {
            return Ok(());
        }
        let entries: Vec<_> = own.into_iter().map(|(id, entry)| StasisSocketEntry { id, ..entry }).collect();
        images.write(&proto::catalogue::STASIS_SOCKETS, 0, &entries)
    }

    /// Reads what [`Sockets::write`] wrote.
    pub fn load(images: &Images) -> Result<Self, Problem> {
        let mut sockets = Self::default();
        let own = &proto::catalogue::STASIS_SOCKETS;
        if images.has(own, 0) {
            let entries: Vec<StasisSocketEntry> = images.read(own, 0)?;
            sockets.own = entries.into_iter().map(|entry| (entry.id, entry)).collect();
        }
        let queues = &proto::catalogue::SK_QUEUES;
        if !images.has(queues, 0) {
            return Ok(sockets);
        }
        let mut too_many = false;
        images.read_with(queues, 0, |mut reader| {
            while let Some(entry) = reader.entry::<SkPacketEntry>()? {
                let bytes = reader.extra(u64::from(entry.length))?;
                let rights = entry.scm.into_iter().filter(|scm| scm.r#type == RIGHTS);
                let rights: Vec<u32> = rights.flat_map(|scm| scm.rights).collect();
                too_many |= rights.len() > MOST_RIGHTS;
                let packets = sockets.packets.entry(entry.id_for).or_default();
                packets.push(Saved { bytes, rights, own: StasisPacket::default() });
            }
            Ok(())
        })?;
        if too_many {
            return Err(invalid(
                queues,
                0,
                "more descriptors are in flight with a packet than the kernel allows",
            ));
        }
        for (id, entry) in &mut sockets.own {
            let packets = sockets.packets.get_mut(id).map(Vec::as_mut_slice).unwrap_or_default();
            if !entry.packets.is_empty() && entry.packets.len() != packets.len() {
                return Err(invalid(own, 0, "it tells of other packets than sk-queues.img"));
            }
            for (packet, own) in packets.iter_mut().zip(entry.packets.drain(..)) {
                packet.own = own;
            }
        }
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::Along;
    use std::os::fd::AsFd as _;

    #[test]
    fn packets_stay_where_they_are() {
        let (a, b) = socket::pair(libc::SOCK_SEQPACKET).unwrap();
        let rights = [a.as_fd()];
        socket::send(a.as_fd(), b"one", &Along::default(), 0).unwrap();
        socket::send(a.as_fd(), b"", &Along::default(), 0).unwrap();
        socket::send(a.as_fd(), b"three", &Along { rights: &rights, ..Along::default() }, 0).unwrap();
        for _ in 0..2 {
            let packets = peek(b.as_fd(), libc::SOCK_SEQPACKET, 8).unwrap();
            let seen: Vec<_> = packets.iter().map(|p| (p.bytes.as_slice(), p.rights.len())).collect();
            assert_eq!(seen.first(), Some(&(b"one".as_slice(), 0)));
            assert_eq!(seen.last(), Some(&(b"three".as_slice(), 1)));
        }
        assert_eq!(get_number(b.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF), Ok(-1));
        assert_eq!(get_number(b.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED), Ok(0));
    }

    #[test]
    fn a_stream_gives_all_its_bytes() {
        let (a, b) = socket::pair(libc::SOCK_STREAM).unwrap();
        let bytes: Vec<u8> = (0..150_000_u32).map(|n| n as u8).collect();
        nix::unistd::write(&a, &bytes).unwrap();
        let packets = peek(b.as_fd(), libc::SOCK_STREAM, bytes.len() as u64).unwrap();
        assert!(packets.iter().flat_map(|p| &p.bytes).eq(&bytes));
    }

    #[test]
    fn credentials_are_seen_without_asking_for_them_first() {
        let (a, b) = socket::pair(libc::SOCK_DGRAM).unwrap();
        let own = Credentials { pid: std::process::id(), uid: 0, gid: 0 };
        let own = Credentials { uid: nix::unistd::getuid().into(), gid: nix::unistd::getgid().into(), ..own };
        socket::send(a.as_fd(), b"x", &Along { credentials: Some(own), ..Along::default() }, 0).unwrap();
        let packets = peek(b.as_fd(), libc::SOCK_DGRAM, 0).unwrap();
        assert_eq!(packets.iter().map(|p| p.credentials).collect::<Vec<_>>(), [Some(own)]);
    }
}
