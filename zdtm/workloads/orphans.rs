//! Orphans that were given to a subreaper in the tree stay its children, and keep the session of their dead parent.

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, getsid, setsid};
use zdtm::workload::{Context, Verdict, exit_now};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set_child_subreaper(true)?;
    let root = nix::unistd::getpid();
    let middle = cx.child(|cx| {
        let session = setsid()?;
        for number in 0..2 {
            cx.child(|cx| {
                cx.wait_for("middle-ended")?;
                cx.post(&format!("orphan-{number}"))?;
                cx.park()?;
                ensure_eq!(getsid(None)?, session, "session of an orphan");
                ensure_eq!(getppid(), root, "parent of an orphan");
                exit_now(20)
            })?;
        }
        Ok(())
    })?;
    middle.join()?;
    cx.post("middle-ended")?;
    (0..2).try_for_each(|number| cx.wait_for(&format!("orphan-{number}")))?;
    cx.barrier()?;
    for _ in 0..2 {
        let status = waitpid(None::<Pid>, None)?;
        ensure!(matches!(status, WaitStatus::Exited(_, 20)), "an orphan: {status:?}, see workload.log");
    }
    Ok(())
}
