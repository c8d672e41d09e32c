//! Restartable sequences (`rseq(2)`): where the thread's `struct rseq` is, and its signature.
//!
//! Seen by `PTRACE_GET_RSEQ_CONFIGURATION` (Linux 5.13). A thread stopped inside of a critical section was taken to its
//! abort handler when it was inspected, as by any preemption.

use proto::messages::RseqEntry;

use super::{Scope, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// The rseq registration of a thread.
#[derive(Debug)]
pub struct Rseq;

impl TaskKind for Rseq {
    const NAME: &'static str = "rseq";
    const SCOPE: Scope = Scope::Thread;

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let rseq = thread.rseq;
        super::thread(core).rseq_entry = (rseq.rseq_abi_pointer != 0).then_some(RseqEntry {
            rseq_abi_pointer: rseq.rseq_abi_pointer,
            rseq_abi_size: rseq.rseq_abi_size,
            signature: rseq.signature,
            rseq_cs_pointer: None,
        });
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let Some(rseq) = &cx.thread()?.rseq_entry else { return Ok(()) };
        let args = args![rseq.rseq_abi_pointer, rseq.rseq_abi_size, 0, rseq.signature];
        batch.call("rseq", libc::SYS_rseq, args);
        Ok(())
    }
}
