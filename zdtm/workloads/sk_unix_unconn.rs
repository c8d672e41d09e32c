//! Sockets without a connection: fresh, bound, bound to a number that the kernel chose.

use nix::sys::socket::{UnixAddr, bind};
use std::os::fd::AsRawFd as _;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let fresh = unix::new(kind)?;
    let address = unix::file(&cx.path("unconnected.sock"))?;
    let bound = unix::bound(kind, &address)?;
    let chosen = unix::new(kind)?;
    bind(chosen.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let given = unix::name(&chosen)?;
    cx.barrier()?;
    ensure_eq!(unix::name(&bound)?, address, "name");
    ensure_eq!(unix::name(&chosen)?, given, "name that the kernel chose");
    ensure_eq!(unix::name(&fresh)?, UnixAddr::new_unnamed(), "name of the fresh one");
    nix::sys::socket::listen(&bound, nix::sys::socket::Backlog::new(1)?)?;
    nix::sys::socket::connect(fresh.as_raw_fd(), &address)?;
    let server = unix::accepted(&bound)?;
    unix::talk(&fresh, &server)
}
