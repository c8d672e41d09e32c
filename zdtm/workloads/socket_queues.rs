//! Queues keep their bytes, and the bounds of packets; an offset for peeking stays.

use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, setsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::raw_socket as raw;
use crate::unix;

/// How far somebody has looked.
const PEEKED: i32 = 2;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let (a, b) = unix::pair(kind)?;
    let (c, d) = unix::pair(SockType::Datagram)?;
    let large = pattern(1, 100_000);
    unix::say(&a, b"one")?;
    unix::say(&a, b"two")?;
    unix::say(&b, b"the other way")?;
    unix::say(&c, &large)?;
    unix::say(&c, b"")?;
    unix::say(&c, b"behind an empty one")?;
    setsockopt(&d, sockopt::SndBuf, &50_000)?;
    let size = getsockopt(&d, sockopt::SndBuf)?;
    raw::set(a.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, &PEEKED.to_ne_bytes())?;
    cx.barrier()?;
    let offset = raw::get(a.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, 4)?;
    ensure_eq!(offset, PEEKED.to_ne_bytes(), "SO_PEEK_OFF");
    let mut rest = [0; 64];
    let length = recv(a.as_raw_fd(), &mut rest, MsgFlags::MSG_PEEK)?;
    ensure_eq!(&rest[..length], &b"the other way"[PEEKED as usize..], "what is peeked at from there");
    raw::set(a.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, &(-1_i32).to_ne_bytes())?;
    if kind == SockType::Stream {
        unix::hear(&b, b"onetwo")?;
    } else {
        unix::hear(&b, b"one")?;
        unix::hear(&b, b"two")?;
    }
    unix::hear(&a, b"the other way")?;
    let mut buffer = vec![0; 200_000];
    let length = nix::unistd::read(&d, &mut buffer)?;
    ensure_eq!(length, large.len(), "length of the datagram");
    check_pattern(&buffer[..length], 1, "datagram")?;
    unix::hear(&d, b"")?;
    unix::hear(&d, b"behind an empty one")?;
    ensure_eq!(getsockopt(&d, sockopt::SndBuf)?, size, "SO_SNDBUF");
    unix::talk(&a, &b)
}
