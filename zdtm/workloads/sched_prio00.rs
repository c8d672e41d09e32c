//! Nice values are kept, each process its own.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Verdict};

const NICE: [i32; 4] = [-20, -3, 5, 19];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut children = Vec::new();
    for nice in NICE {
        children.push(cx.child(|cx| {
            // SAFETY: the call takes numbers.
            Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
            cx.post(&format!("nice{nice}"))?;
            cx.park()?;
            // SAFETY: the call takes numbers. No wanted value is -1, which might be an error.
            ensure_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, nice, "nice value");
            Ok(())
        })?);
    }
    NICE.iter().try_for_each(|nice| cx.wait_for(&format!("nice{nice}")))?;
    cx.barrier()?;
    children.into_iter().try_for_each(Child::join)
}
