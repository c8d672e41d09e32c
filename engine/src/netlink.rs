//! Netlink (netlink(7)): lists of what the kernel has, and single requests that it acknowledges.
//!
//! Messages are passed on as they are: what a kernel lists, it takes again, but for attributes that say what it found out
//! itself. So they are not taken apart further than needed. Headers and attributes are those of `netlink-bindings`.

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_bindings::utils::{
    IterableChunks, align, finalize_nested_header, push_header, push_nested_header,
};
use nix::errno::Errno;

use crate::error::SysError;
use crate::sys::socket;

/// From `include/uapi/linux/netlink.h`.
pub const NETLINK_ROUTE: i32 = 0;
/// From `include/uapi/linux/netlink.h`.
pub const NETLINK_NETFILTER: i32 = 12;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Flags of requests; those of requests for something new.
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTERRUPTED: u16 = 0x10;
/// What there is gets a new state.
pub const CHANGE: u16 = 0;
/// It must not be there yet.
pub const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
/// It comes after others that are like it.
pub const APPEND: u16 = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;
/// Whatever is there is replaced.
pub const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
/// The header of a message (`struct nlmsghdr`).
const HEADER: usize = 16;
/// A list that changes while it is read is read again, so often.
const TRIES: usize = 20;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: u16,
    flags: u16,
    sequence: u32,
    /// A header of its subsystem, then attributes.
    pub payload: Vec<u8>,
}

/// A socket that speaks a netlink protocol in the network namespace that it was made in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one.
    pub fn open(protocol: i32) -> Result<Self, SysError> {
        /// A rule set is changed in one piece; the kernel's default is some 200 KiB.
        const ROOM: i32 = 32 << 20;
        let socket = socket::create(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        // Who may not have as much has what everybody has.
        let _forced = socket::set_number(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, ROOM);
        let _forced = socket::set_number(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM);
        // A kernel that does not answer is an error, not a reason to wait.
        let patience = [10_u64.to_ne_bytes(), 0_u64.to_ne_bytes()].concat();
        socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
        Ok(Self::over(socket))
    }

    /// Speaks through a netlink socket that nobody has spoken through yet.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0 }
    }

    /// Everything that a request lists.
    pub fn list(&mut self, call: &'static str, kind: u16, payload: &[u8]) -> Result<Vec<Message>, SysError> {
        for _ in 0..TRIES {
            if let Some(found) = self.list_once(call, kind, payload)? {
                return Ok(found);
            }
        }
        Err(SysError { call, errno: Errno::EINTR })
    }

    /// None if the list changed meanwhile.
    fn list_once(
        &mut self,
        call: &'static str,
        kind: u16,
        payload: &[u8],
    ) -> Result<Option<Vec<Message>>, SysError> {
        let number = self.send(call, kind, REQUEST | DUMP, payload)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            for message in self.receive(call)?.into_iter().filter(|message| message.sequence == number) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    NLMSG_DONE => return Ok((!interrupted).then_some(found)),
                    NLMSG_ERROR => return Err(SysError { call, errno: error(&message.payload) }),
                    _ => found.push(message),
                }
            }
        }
    }

    /// Makes a request and waits until it is done.
    pub fn request(
        &mut self,
        call: &'static str,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<(), SysError> {
        let number = self.send(call, kind, REQUEST | ACK | flags, payload)?;
        loop {
            for message in self.receive(call)?.into_iter().filter(|message| message.sequence == number) {
                if message.kind == NLMSG_ERROR {
                    return match error(&message.payload) {
                        Errno::UnknownErrno => Ok(()),
                        errno => Err(SysError { call, errno }),
                    };
                }
            }
        }
    }

    /// Asks for one thing.
    pub fn get(&mut self, call: &'static str, kind: u16, payload: &[u8]) -> Result<Message, SysError> {
        let number = self.send(call, kind, REQUEST, payload)?;
        loop {
            let answer = self.receive(call)?.into_iter().find(|message| message.sequence == number);
            match answer {
                None => {}
                Some(message) if message.kind == NLMSG_ERROR => {
                    return Err(SysError { call, errno: error(&message.payload) });
                }
                Some(message) => return Ok(message),
            }
        }
    }

    /// Makes several requests of which the kernel does all or none: those of a transaction of nftables, with its bounds.
    pub fn transact(&mut self, call: &'static str, requests: &[(u16, u16, Vec<u8>)]) -> Result<(), SysError> {
        let mut bytes = Vec::new();
        let first = self.sequence + 1;
        let last = first + (requests.len() as u32).saturating_sub(2);
        for (kind, flags, payload) in requests {
            self.sequence += 1;
            // The message before the end is acknowledged when all of it is done; errors come anyway.
            let ack = if self.sequence == last { ACK } else { 0 };
            push_message(&mut bytes, *kind, REQUEST | flags | ack, self.sequence, payload);
        }
        self.transact_prepared(call, &bytes, first..=last)
    }

    /// Sends the bytes of a transaction, whose messages have numbers from the first of these on; that with the last of them is
    /// acknowledged, and no other.
    pub fn transact_prepared(
        &self,
        call: &'static str,
        bytes: &[u8],
        numbers: RangeInclusive<u32>,
    ) -> Result<(), SysError> {
        nix::unistd::write(&self.socket, bytes).map_err(SysError::of(call))?;
        loop {
            for message in self.receive(call)? {
                if message.kind != NLMSG_ERROR || message.sequence < *numbers.start() {
                    continue;
                }
                match error(&message.payload) {
                    Errno::UnknownErrno if message.sequence == *numbers.end() => return Ok(()),
                    Errno::UnknownErrno => {}
                    errno => return Err(SysError { call, errno }),
                }
            }
        }
    }

    fn send(&mut self, call: &'static str, kind: u16, flags: u16, payload: &[u8]) -> Result<u32, SysError> {
        self.sequence += 1;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        push_message(&mut bytes, kind, flags, self.sequence, payload);
        nix::unistd::write(&self.socket, &bytes).map_err(SysError::of(call))?;
        Ok(self.sequence)
    }

    fn receive(&self, call: &'static str) -> Result<Vec<Message>, SysError> {
        /// More than the kernel puts into one piece (`NLMSG_GOODSIZE` and `netlink_dump`).
        const PIECE: usize = 256 << 10;
        let mut buffer = vec![0; PIECE];
        let len = nix::unistd::read(&self.socket, &mut buffer).map_err(SysError::of(call))?;
        if len == 0 {
            return Err(SysError { call, errno: Errno::EIO });
        }
        Ok(messages(buffer.get(..len).unwrap_or_default()))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Appends a message with its header.
pub fn push_message(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    bytes.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    align(bytes);
}

/// The messages in some bytes, up to the first that is not whole.
pub fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while let Some(length) = number(bytes, 0) {
        let length = length as usize;
        let Some(payload) = bytes.get(HEADER..length) else { break };
        let half =
            |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b));
        let sequence = number(bytes, 8).unwrap_or_default();
        found.push(Message { kind: half(4), flags: half(6), sequence, payload: payload.to_vec() });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// What an answer says; an unknown error stands for none.
fn error(payload: &[u8]) -> Errno {
    Errno::from_raw(payload.first_chunk().map_or(libc::EBADMSG, |b| i32::from_ne_bytes(*b).wrapping_neg()))
}

/// A number of four bytes at a place.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Attributes behind a header of `header` bytes: type, without its flags, and value.
pub fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let all = IterableChunks::new(payload.get(header..).unwrap_or_default());
    all.map(|(header, value)| (header.r#type, value))
}

/// The first attribute of a type.
pub fn attribute(payload: &[u8], header: usize, kind: u16) -> Option<&[u8]> {
    attributes(payload, header).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The text of an attribute that ends with a zero.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// Appends an attribute; one that is too long for its header is left out, and none that the kernel lists is.
pub fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    if let Ok(length) = u16::try_from(value.len())
        && length <= u16::MAX - 4
    {
        push_header(bytes, kind, length);
        bytes.extend(value);
        align(bytes);
    }
}

/// Appends an attribute that is a text.
pub fn push_text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    push(bytes, kind, &[value.as_bytes(), b"\0"].concat());
}

/// Appends an attribute of attributes.
pub fn push_nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = push_nested_header(bytes, kind);
    fill(bytes);
    finalize_nested_header(bytes, start);
}

/// The payload without attributes of these types.
pub fn without(payload: &[u8], header: usize, kinds: &[u16]) -> Vec<u8> {
    let mut kept = payload.get(..header).unwrap_or(payload).to_vec();
    for attribute in netlink_bindings::utils::IterateAttrs::new(payload.get(header..).unwrap_or_default()) {
        let kind = attribute.get(2..4).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b));
        if !kinds.contains(&netlink_bindings::utils::nla_type(kind)) {
            kept.extend(attribute);
            align(&mut kept);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_the_loopback_device() {
        let mut netlink = Netlink::open(NETLINK_ROUTE).unwrap();
        let links = netlink.list("RTM_GETLINK", 18, &[0; 16]).unwrap();
        let name = |link: &Message| attribute(&link.payload, 16, 3).map(text);
        assert!(links.iter().any(|link| name(link).as_deref() == Some("lo")));
        let missing =
            netlink.get("RTM_GETLINK", 18, &[0, 0, 0, 0, 255, 255, 255, 127, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(missing.map_err(|e| e.errno), Err(Errno::ENODEV));
    }

    #[test]
    fn attributes_are_kept_but_for_those_that_are_not_wanted() {
        let mut payload = vec![7; 4];
        push_text(&mut payload, 1, "lo");
        push(&mut payload, 2, &[1, 2, 3, 4]);
        push_nested(&mut payload, 3, |nested| push(nested, 1, b"x"));
        assert_eq!(attribute(&payload, 4, 1).map(text).as_deref(), Some("lo"));
        let kept = without(&payload, 4, &[1, 3]);
        assert_eq!(attributes(&kept, 4).collect::<Vec<_>>(), [(2, &[1, 2, 3, 4][..])]);
        assert_eq!(without(&payload, 4, &[9]), payload);
    }

    #[test]
    fn damaged_messages_end_the_list() {
        let mut bytes = Vec::new();
        push_message(&mut bytes, 20, 0, 1, b"whole");
        let whole = bytes.len();
        push_message(&mut bytes, 20, 0, 2, b"cut");
        assert_eq!(messages(&bytes).len(), 2);
        assert_eq!(messages(&bytes[..whole + 18]).len(), 1);
        for length in [0_u32, 15, u32::MAX] {
            let damaged = [&length.to_ne_bytes()[..], &[0; 40]].concat();
            assert_eq!(messages(&damaged), []);
        }
    }
}
