//! Two children share a descriptor table that is not their parent's, and a third has one of its own.

use nix::sched::{CloneFlags, unshare};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Verdict};

use crate::tasks_shared::{KCMP_FILES, share_thing};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = |flags: i32| cx.cloned_child(flags | libc::SIGCHLD, |cx| cx.wait_for("end"));
    let children = [child(libc::CLONE_FILES)?, child(libc::CLONE_FILES)?, child(0)?];
    unshare(CloneFlags::CLONE_FILES)?;
    let pids: Vec<i32> = children.iter().map(|child| child.pid.as_raw()).collect();
    same(&pids)?;
    cx.barrier()?;
    same(&pids)?;
    cx.post("end")?;
    children.into_iter().try_for_each(Child::join)
}

fn same(pids: &[i32]) -> Verdict {
    let own = std::process::id() as i32;
    for (a, b, shared) in
        [(pids[0], pids[1], true), (own, pids[0], false), (own, pids[2], false), (pids[0], pids[2], false)]
    {
        ensure_eq!(share_thing(a, b, KCMP_FILES)?, shared, format!("whether {a} and {b} share a table"));
    }
    Ok(())
}
