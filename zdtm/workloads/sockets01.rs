//! Directions that are shut down: what was sent before is still heard, then comes the end, and sending fails.

use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let (a, b) = unix::pair(kind)?;
    let (c, d) = unix::pair(kind)?;
    let (e, f) = unix::pair(kind)?;
    unix::say(&a, b"last")?;
    shutdown(a.as_raw_fd(), Shutdown::Write)?;
    shutdown(c.as_raw_fd(), Shutdown::Read)?;
    shutdown(e.as_raw_fd(), Shutdown::Both)?;
    cx.barrier()?;
    let send = |fd: &std::os::fd::OwnedFd| send(fd.as_raw_fd(), b"x", MsgFlags::MSG_NOSIGNAL);
    unix::hear(&b, b"last")?;
    unix::hear(&b, b"")?;
    ensure_eq!(send(&a), Err(Errno::EPIPE), "sending after SHUT_WR");
    unix::say(&b, b"still open")?;
    unix::hear(&a, b"still open")?;
    ensure_eq!(send(&d), Err(Errno::EPIPE), "sending to one who does not read");
    unix::say(&c, b"one way")?;
    unix::hear(&d, b"one way")?;
    ensure_eq!((send(&e), send(&f)), (Err(Errno::EPIPE), Err(Errno::EPIPE)), "sending after SHUT_RDWR");
    Ok(())
}
