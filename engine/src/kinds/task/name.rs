//! The thread's name (`/proc/PID/task/TID/comm`, `PR_SET_NAME`).

use super::{Scope, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// Names of threads.
#[derive(Debug)]
pub struct Name;

/// `TASK_COMM_LEN` of the kernel, with the zero at the end.
const TASK_COMM_LEN: usize = 16;

impl TaskKind for Name {
    const NAME: &'static str = "name";
    const SCOPE: Scope = Scope::Thread;

    fn look(task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let comm = String::from_utf8_lossy(&thread.stat.comm).into_owned();
        if thread.tid == task.pid {
            super::task(core).comm.clone_from(&comm);
        }
        if comm.as_bytes() != thread.stat.comm {
            core.own.raw_comm = Some(thread.stat.comm.clone());
        }
        super::thread(core).comm = Some(comm);
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let comm = match &cx.thread()?.comm {
            Some(comm) => comm,
            None => &cx.task()?.comm,
        };
        let bytes = cx.core.own.raw_comm.as_deref().unwrap_or(comm.as_bytes());
        let bytes = bytes.get(..TASK_COMM_LEN - 1).unwrap_or(bytes);
        let name = batch.input_str(bytes);
        batch.call("prctl(PR_SET_NAME)", libc::SYS_prctl, args![libc::PR_SET_NAME, name]);
        Ok(())
    }
}
