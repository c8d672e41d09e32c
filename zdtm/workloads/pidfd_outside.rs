//! A descriptor of a process outside of the tree.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::process_fd as pidfd;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let init = pidfd::open(1, 0)?;
    cx.barrier()?;
    ensure_eq!(pidfd::pid(&init)?, 1, "whom it leads to");
    Ok(())
}
