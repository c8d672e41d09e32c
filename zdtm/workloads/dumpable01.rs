//! A process that forbade core dumps still forbids them.

use nix::sys::prctl::{get_dumpable, set_dumpable};
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set_dumpable(false)?;
    cx.barrier()?;
    ensure!(!get_dumpable()?, "dumpable again");
    Ok(())
}
