//! A child that was made with another exit signal, or none, still has it.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

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
    let child = |signal: i32| {
        cx.cloned_child(signal, |cx| {
            cx.park()?;
            exit_now(4)
        })
    };
    let children = [child(0)?.pid, child(libc::SIGUSR1)?.pid];
    cx.barrier()?;
    for child in children {
        let status = waitpid(child, Some(WaitPidFlag::__WALL))?;
        ensure_eq!(status, WaitStatus::Exited(child, 4), "end of a child");
    }
    ensure_eq!(SEEN.load(Ordering::Relaxed), libc::SIGUSR1, "sum of the signals that came");
    Ok(())
}
