//! A stop signal that a child has blocked stays pending, and stops it when it is unblocked; a pending SIGCONT continues
//! nobody.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let stops = blocked(cx, Signal::SIGTSTP)?;
    let goes_on = blocked(cx, Signal::SIGCONT)?;
    for (child, signal) in [(&stops, Signal::SIGTSTP), (&goes_on, Signal::SIGCONT)] {
        kill(child.pid, signal)?;
    }
    cx.barrier()?;
    let stopped = WaitStatus::Stopped(stops.pid, Signal::SIGTSTP);
    ensure_eq!(waitpid(stops.pid, Some(WaitPidFlag::WUNTRACED))?, stopped, "the stop");
    kill(stops.pid, Signal::SIGCONT)?;
    let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
    ensure_eq!(waitpid(goes_on.pid, Some(flags))?, WaitStatus::StillAlive, "what the parent is told");
    cx.post("end")?;
    [stops, goes_on].into_iter().try_for_each(Child::join)
}

/// A child with a signal blocked, which it takes when the barrier is passed.
fn blocked(cx: &Context, signal: Signal) -> Result<Child, Failure> {
    let child = cx.child(|cx| {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        let mut set = SigSet::empty();
        set.add(signal);
        set.thread_block()?;
        cx.post(signal.as_str())?;
        cx.park()?;
        set.thread_unblock()?;
        cx.wait_for("end")
    })?;
    cx.wait_for(signal.as_str())?;
    Ok(child)
}
