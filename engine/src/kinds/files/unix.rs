//! Pairs of unix sockets (`socketpair(2)`) with both ends inside of the tree, and unix sockets that were never used.
//!
//! Which socket is the other end of which, sock_diag(7) tells by inode numbers.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use proto::messages::{FdTypes, FileEntry, UnixSkEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common, socket_options};
use crate::error::{Class, Context as _, Explain, Object, Problem};
use crate::sys::socket::{self, End, set_number};

/// Unix sockets.
#[derive(Debug)]
pub struct Unix;

/// Why a unix socket cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum UnixRefusal {
    /// The other end is not in the tree.
    #[error("the other end of the unix socket (inode {0}) is held by a process outside of the tree")]
    PeerOutside(u32),
    /// It has a name.
    #[error("it is a unix socket with a name, which is not supported yet")]
    Named,
    /// It holds data.
    #[error("{0} bytes wait to be read from the unix socket, which is not supported yet")]
    Queued(i32),
    /// The kernel does not know it.
    #[error("the kernel does not tell about the unix socket")]
    Unknown,
}

impl Explain for UnixRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::PeerOutside(_) => Some("dump the common parent, or close the connection first".into()),
            Self::Queued(_) => Some("try again in a moment".into()),
            Self::Named | Self::Unknown => None,
        }
    }
}

/// Sockets of the tree: the peer that each must have in it, and how it is named.
#[derive(Debug, Default)]
struct Dumped(BTreeMap<u32, (u32, Object)>);

/// Ends of pairs that were made, by the inode number that they had.
#[derive(Debug, Default)]
struct Restored(BTreeMap<u32, OwnedFd>);

const ESTABLISHED: u32 = 1;

impl FileKind for Unix {
    const NAME: &'static str = "unix";
    const NOT_SAVED: &'static [&'static str] =
        &["credentials of the peer", "inode numbers", "peeking offset"];
    const TYPE: FdTypes = FdTypes::Unixsk;
    type Image = UnixSkEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.socket.is_some_and(|s| s.domain == libc::AF_UNIX)
    }

    fn member(entry: &mut FileEntry) -> &mut Option<UnixSkEntry> {
        &mut entry.usk
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<UnixSkEntry, Problem> {
        let socket = fd.dup()?;
        let ino = fd.stat.st_ino as u32;
        let diag = parse(&socket::unix_diag(ino).while_trying_to("ask about it")?);
        let diag = diag.ok_or_else(|| Problem::new(UnixRefusal::Unknown))?;
        if socket::address(socket, End::Own)?.len() > 2 {
            return Err(Problem::new(UnixRefusal::Named));
        }
        let queued = socket::queued(socket)?;
        if queued != 0 {
            return Err(Problem::new(UnixRefusal::Queued(queued)));
        }
        cx.state::<Dumped>().0.insert(ino, (diag.peer, fd.object()));
        Ok(UnixSkEntry {
            id,
            ino,
            r#type: diag.kind.into(),
            state: diag.state.into(),
            flags: fd.flags() as u32,
            uflags: 0,
            backlog: 0,
            peer: diag.peer,
            fown: fd.owner().while_trying_to("read the owner of its signals")?,
            opts: {
                let mut options = socket_options::read(socket).while_trying_to("read its options")?;
                let pass = socket::get_number(socket, libc::SOL_SOCKET, libc::SO_PASSCRED)?;
                options.so_passcred = Some(pass != 0);
                options
            },
            name: Vec::new(),
            ns_id: Some(2),
            ..UnixSkEntry::default()
        })
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        let sockets = &cx.state::<Dumped>().0;
        let outside = sockets.values().filter(|(peer, _)| *peer != 0 && !sockets.contains_key(peer));
        let refuse = |(peer, object): &(u32, Object)| {
            Problem::new(UnixRefusal::PeerOutside(*peer)).object(object.clone())
        };
        problems.extend(outside.map(refuse));
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &UnixSkEntry) -> Result<OwnedFd, Problem> {
        let kind = image.r#type as i32;
        let fd = match cx.state::<Restored>().0.remove(&image.ino) {
            Some(fd) => fd,
            None if image.peer != 0 || image.state == ESTABLISHED => {
                let (own, peer) = socket::pair(kind)?;
                // Where the peer is gone, it is closed again with us.
                cx.state::<Restored>().0.insert(image.peer, peer);
                own
            }
            None => socket::create(libc::AF_UNIX, kind, 0)?,
        };
        socket_options::write(fd.as_fd(), &image.opts).while_trying_to("set its options")?;
        if image.opts.so_passcred.unwrap_or(false) {
            set_number(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1)?;
        }
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        Ok(fd)
    }
}

/// What sock_diag says of one unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Diag {
    kind: u8,
    state: u8,
    /// Inode number of the other end; 0 if there is none.
    peer: u32,
}

/// Parses the answer: `struct nlmsghdr`, `struct unix_diag_msg`, attributes (`include/uapi/linux/unix_diag.h`).
fn parse(answer: &[u8]) -> Option<Diag> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const UNIX_DIAG_PEER: u16 = 2;
    let word = |bytes: &[u8]| bytes.first_chunk().map(|b| u32::from_ne_bytes(*b));
    let half = |bytes: &[u8]| bytes.first_chunk().map(|b| u16::from_ne_bytes(*b));
    let length = word(answer)? as usize;
    if half(answer.get(4..)?)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let message = answer.get(16..length)?;
    let (kind, state) = (*message.get(1)?, *message.get(2)?);
    let mut attributes = message.get(16..)?;
    let mut peer = 0;
    while attributes.len() >= 4 {
        let len = usize::from(half(attributes)?);
        if half(attributes.get(2..)?)? == UNIX_DIAG_PEER {
            peer = word(attributes.get(4..)?)?;
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Diag { kind, state, peer })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(attributes: &[u8]) -> Vec<u8> {
        let length = 32 + attributes.len() as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(20_u16.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([1, 1, 1, 0]);
        bytes.extend([0; 12]);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn finds_the_peer_among_attributes() {
        let peer = [5, 0, 6, 0, 9, 0, 0, 0, 8, 0, 2, 0, 0x39, 0x30, 0, 0];
        assert_eq!(parse(&answer(&peer)), Some(Diag { kind: 1, state: 1, peer: 12345 }));
        assert_eq!(parse(&answer(&[])), Some(Diag { kind: 1, state: 1, peer: 0 }));
    }

    #[test]
    fn damaged_answers_are_none() {
        let whole = answer(&[8, 0, 2, 0, 1, 0, 0, 0]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None);
        }
        assert_eq!(parse(&[0xff; 64]), None);
    }
}
