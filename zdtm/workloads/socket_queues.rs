//! Queues keep their bytes, and the bounds of packets; an offset for peeking stays.

use nix::sys::socket::{SockType, getsockopt, setsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::unix;

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
    cx.barrier()?;
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
