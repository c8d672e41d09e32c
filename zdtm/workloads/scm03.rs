//! Many descriptors of several kinds are in flight with one packet.

use std::os::fd::OwnedFd;

use nix::sys::eventfd::EventFd;
use nix::sys::socket::SockType;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{scm, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    let (reader, writer) = nix::unistd::pipe()?;
    let event: OwnedFd = EventFd::from_value(5)?.into();
    let file: OwnedFd = std::fs::File::create(cx.path("in-flight"))?.into();
    let (c, d) = unix::pair(SockType::Datagram)?;
    scm::send(&a, b"all", &[&reader, &writer, &event, &file, &c, &d, &reader])?;
    scm::send(&a, b"after", &[&event])?;
    drop((reader, writer, event, file, c, d));
    cx.barrier()?;
    let (fds, _) = scm::receive(&b, b"all")?;
    ensure_eq!(fds.len(), 7, "descriptors");
    unix::say(&fds[1], b"pipe")?;
    unix::hear(&fds[6], b"pipe")?;
    let mut count = [0; 8];
    nix::unistd::read(&fds[2], &mut count)?;
    ensure_eq!(u64::from_ne_bytes(count), 5, "count of the eventfd");
    unix::say(&fds[3], b"file")?;
    ensure_eq!(std::fs::read(cx.path("in-flight"))?, b"file", "the file");
    unix::talk(&fds[4], &fds[5])?;
    let (last, _) = scm::receive(&b, b"after")?;
    unix::say(&last[0], &7_u64.to_ne_bytes())?;
    unix::hear(&fds[2], &7_u64.to_ne_bytes())
}
