//! A connection tells its owner by a signal that there is something to read.

use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getpid;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::tcp;

/// `F_SETSIG` of `include/uapi/asm-generic/fcntl.h`.
const SETSIG: i32 = 10;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (client, server) = tcp::connect(tcp::host(cx))?;
    let signal = Signal::SIGUSR1;
    let set: SigSet = [signal].into_iter().collect();
    set.thread_block()?;
    for (command, value) in [(libc::F_SETOWN, getpid().as_raw()), (SETSIG, signal as i32)] {
        // SAFETY: takes numbers only.
        Errno::result(unsafe { libc::fcntl(server.as_raw_fd(), command, value) })?;
    }
    let flags = OFlag::from_bits_retain(fcntl(server.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(server.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_ASYNC))?;
    cx.barrier()?;
    tcp::say(&client, b"wake up")?;
    ensure_eq!(set.wait()?, signal, "the signal that came");
    tcp::hear(&server, b"wake up")
}
