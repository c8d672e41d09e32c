//! Data waits whose sender is gone; behind it comes the end. Where the sender left data unread, an error comes first.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    let (c, d) = unix::pair(nix::sys::socket::SockType::Stream)?;
    unix::say(&a, b"the last words")?;
    unix::say(&d, b"never read")?;
    drop((a, c));
    cx.barrier()?;
    unix::hear(&b, b"the last words")?;
    unix::hear(&b, b"")?;
    let mut buffer = [0; 16];
    ensure_eq!(nix::unistd::read(&d, &mut buffer), Err(Errno::ECONNRESET), "the first read");
    ensure_eq!(nix::unistd::read(&d, &mut buffer), Ok(0), "the second read");
    Ok(())
}
