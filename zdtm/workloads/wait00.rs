//! A process that waits for its child goes on waiting, and learns how the child ended.

use nix::sys::wait::{WaitStatus, waitpid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let waiter = cx.child(|cx| {
        let child = cx.child(|cx| {
            cx.post("child-ready")?;
            cx.park()?;
            exit_now(42)
        })?;
        ensure_eq!(waitpid(child.pid, None)?, WaitStatus::Exited(child.pid, 42), "end of the child");
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    cx.barrier()?;
    waiter.join()
}
