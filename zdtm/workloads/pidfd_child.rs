//! Descriptors of a living child and of one that has ended, unreaped, lead to them: they tell an end, and are waited for.

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::process_fd as pidfd;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    use std::os::fd::AsFd as _;
    let child = cx.child(|cx| cx.park())?;
    let ended = cx.child(|_| zdtm::workload::exit_now(7))?;
    let living = pidfd::open(child.pid.as_raw(), 0)?;
    let zombie = pidfd::open(ended.pid.as_raw(), 0)?;
    while !pidfd::has_ended(&zombie)? {
        std::thread::yield_now();
    }
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    ensure_eq!(
        waitid(Id::PIDFd(zombie.as_fd()), peek)?,
        WaitStatus::Exited(ended.pid, 7),
        "the end before the dump"
    );
    cx.barrier()?;
    ensure_eq!(pidfd::pid(&living)?, child.pid.as_raw(), "whom it leads to");
    ensure!(pidfd::has_ended(&zombie)?, "the end was forgotten");
    let status = waitid(Id::PIDFd(zombie.as_fd()), WaitPidFlag::WEXITED)?;
    ensure_eq!(status, WaitStatus::Exited(ended.pid, 7), "the end");
    ensure_eq!(pidfd::pid(&zombie)?, -1, "whom it leads to when the zombie is reaped");
    let status = waitid(Id::PIDFd(living.as_fd()), WaitPidFlag::WEXITED)?;
    ensure_eq!(status, WaitStatus::Exited(child.pid, 0), "the end of the other");
    Ok(())
}
