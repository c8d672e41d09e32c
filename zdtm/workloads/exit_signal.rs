//! A child that was made with another exit signal, or none, still has it.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, exit_now};

static SEEN: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    SEEN.fetch_add(signal, Ordering::Relaxed);
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGUSR1, Signal::SIGCHLD] {
        // SAFETY: the handler only adds to an atomic.
        unsafe { sigaction(signal, &action) }?;
    }
    let children = [clone(cx, 0)?, clone(cx, libc::SIGUSR1)?];
    cx.barrier()?;
    for child in children {
        let status = waitpid(child, Some(WaitPidFlag::__WALL))?;
        ensure_eq!(status, WaitStatus::Exited(child, 4), "end of a child");
    }
    ensure_eq!(SEEN.load(Ordering::Relaxed), libc::SIGUSR1, "sum of the signals that came");
    Ok(())
}

/// Like fork, with this exit signal.
fn clone(cx: &Context, signal: i32) -> Result<Pid, Failure> {
    // SAFETY: without a new stack and without shared memory this is fork; no other thread exists.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, signal, 0, 0, 0, 0) })?;
    if pid == 0 {
        exit_now(if cx.park().is_ok() { 4 } else { 5 });
    }
    Ok(Pid::from_raw(pid as i32))
}
