//! A process outside of the tree is attached to the same System V shared memory.

use zdtm::workload::{Context, Verdict, check_pattern};

use crate::sysv_shm::attach;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (_id, bytes) = attach()?;
    // The child of a child that has ended is nobody's child here.
    let between = cx.child(|cx| {
        cx.child(|cx| {
            cx.post("outside")?;
            cx.wait_for("checked")
        })
        .map(drop)
    })?;
    between.join()?;
    cx.wait_for("outside")?;
    cx.barrier()?;
    cx.post("checked")?;
    check_pattern(bytes, 1, "contents")
}
