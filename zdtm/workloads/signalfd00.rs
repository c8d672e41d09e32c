//! A signal descriptor keeps its mask: it gives the signals in it, and no others.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::getpid;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let wanted: SigSet = [Signal::SIGUSR1, Signal::SIGHUP].into_iter().collect();
    let blocked: SigSet = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP].into_iter().collect();
    blocked.thread_block()?;
    let fd = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    // One is pending when the dump comes.
    kill(getpid(), Signal::SIGHUP)?;
    kill(getpid(), Signal::SIGUSR2)?;
    cx.barrier()?;
    let first = fd.read_signal()?.map(|info| info.ssi_signo);
    ensure_eq!(first, Some(Signal::SIGHUP as u32), "signal that was pending");
    ensure_eq!(fd.read_signal()?.map(|info| info.ssi_signo), None, "nothing else in the mask is pending");
    kill(getpid(), Signal::SIGUSR1)?;
    let info = fd.read_signal()?;
    ensure!(
        info.is_some_and(
            |info| info.ssi_signo == Signal::SIGUSR1 as u32 && info.ssi_pid == std::process::id()
        ),
        "the signal sent now does not arrive"
    );
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the place is written during the call.
    Errno::result(unsafe { libc::sigpending(pending.as_mut_ptr()) })?;
    // SAFETY: zeroed, and filled by the kernel since.
    let is_pending = unsafe { libc::sigismember(pending.as_ptr(), libc::SIGUSR2) };
    ensure_eq!(is_pending, 1, "the signal outside of the mask is pending");
    ensure!(fd.as_raw_fd() > 2, "the descriptor is there");
    Ok(())
}
