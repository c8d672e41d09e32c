//! A process that only waits goes on waiting.

use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    cx.barrier()
}
