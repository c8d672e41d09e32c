//! Sockets that share one description, in one process and in two, and a pair whose ends are in two processes.

use zdtm::workload::{Context, Verdict, exit_now};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    let again = a.try_clone()?;
    let child = cx.child(|cx| {
        cx.park()?;
        unix::hear(&b, b"from the second name")?;
        unix::say(&again, b"from the child")?;
        exit_now(0)
    })?;
    unix::say(&again, b"from the second name")?;
    cx.barrier()?;
    child.join()?;
    unix::hear(&b, b"from the child")?;
    drop(a);
    unix::talk(&again, &b)
}
