//! A child that was there before its parent became a subreaper still leaves its orphans to it.

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let middle = cx.child(|cx| {
        cx.post("child-ready")?;
        cx.park()?;
        cx.child(|_| exit_now(9))?;
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    set_child_subreaper(true)?;
    cx.barrier()?;
    middle.join()?;
    let status = waitpid(None::<Pid>, None)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 9)), "the orphan: {status:?}");
    Ok(())
}
