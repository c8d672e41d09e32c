//! A child is killed through a descriptor of it.

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::process_fd as pidfd;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|_| {
        loop {
            std::thread::sleep(std::time::Duration::from_mins(1));
        }
    })?;
    let fd = pidfd::open(child.pid.as_raw(), 0)?;
    cx.barrier()?;
    pidfd::signal(&fd, libc::SIGKILL)?;
    let killed = WaitStatus::Signaled(child.pid, Signal::SIGKILL, false);
    ensure_eq!(waitpid(child.pid, None)?, killed, "how it ended");
    Ok(())
}
