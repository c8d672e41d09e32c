//! Process, thread, group, session and parent ids are the same.

use nix::unistd::{Pid, getpgid, getpgrp, getpid, getppid, getsid, gettid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let root = getpid();
    let child = cx.child(|cx| {
        let before = ids()?;
        cx.post("child-ready")?;
        cx.park()?;
        ensure_eq!(ids()?, before, "ids of the child");
        ensure_eq!(getppid(), root, "parent of the child");
        Ok(())
    })?;
    cx.wait_for("child-ready")?;
    let before = ids()?;
    cx.barrier()?;
    ensure_eq!(ids()?, before, "ids");
    ensure_eq!(getpgid(Some(child.pid))?, getpgrp(), "process group of the child");
    child.join()
}

fn ids() -> Result<[Pid; 4], Failure> {
    Ok([getpid(), gettid(), getpgrp(), getsid(None)?])
}
