//! After the restore new children get ids of their own, never one that somebody still has.

use nix::sys::wait::{WaitStatus, waitpid};
use zdtm::workload::{Child, Context, Verdict, exit_now};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut living = Vec::new();
    for number in 0..5 {
        living.push(cx.child(|cx| {
            cx.post(&format!("child-{number}"))?;
            cx.wait_for("end")
        })?);
    }
    (0..5).try_for_each(|number| cx.wait_for(&format!("child-{number}")))?;
    cx.barrier()?;
    for _ in 0..50 {
        let child = cx.child(|_| exit_now(3))?;
        ensure!(living.iter().all(|other| other.pid != child.pid), "id {} was given twice", child.pid);
        ensure_eq!(waitpid(child.pid, None)?, WaitStatus::Exited(child.pid, 3), "end of a child");
    }
    cx.post("end")?;
    living.into_iter().try_for_each(Child::join)
}
