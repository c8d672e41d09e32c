//! What the kernel does to a thread's memory when the thread ends: its robust futex list (`get_robust_list(2)`) and the
//! word it clears and wakes (`set_tid_address(2)`, read by `PR_GET_TID_ADDRESS`).

use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// Robust list and clear-child-tid address.
#[derive(Debug)]
pub struct Futex;

impl TaskKind for Futex {
    const NAME: &'static str = "futex";
    const SCOPE: Scope = Scope::Thread;
    const DECIDED_BY: Option<&'static [Field]> = Some(&[]);
    const TELLS: &'static [Field] = &[Field::new(&[Step::In("task_struct", "clear_child_tid")], 8)];

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let (head, len) = thread.robust_list;
        super::thread(core).futex_rla = head;
        super::thread(core).futex_rla_len = len as u32;
        Ok(())
    }

    fn tell(words: &[u64], core: &mut ThreadImage) {
        if let (Some(info), [address]) = (&mut core.thread_info, words) {
            info.clear_tid_addr = *address;
        }
    }

    fn ask(questions: &mut Questions) {
        let batch = questions.batch();
        let address = batch.output::<u64>();
        batch.call("prctl(PR_GET_TID_ADDRESS)", libc::SYS_prctl, args![libc::PR_GET_TID_ADDRESS, address]);
        questions.then(move |replies, core| {
            if let Some(info) = &mut core.thread_info {
                info.clear_tid_addr = replies.output(address)?;
            }
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let thread = cx.thread()?;
        if thread.futex_rla != 0 {
            let args = args![thread.futex_rla, thread.futex_rla_len];
            batch.call("set_robust_list", libc::SYS_set_robust_list, args);
        }
        let info = cx.core.thread_info.as_ref().ok_or_else(|| cx.invalid("it has no registers"))?;
        batch.call("set_tid_address", libc::SYS_set_tid_address, args![info.clear_tid_addr]);
        Ok(())
    }
}
