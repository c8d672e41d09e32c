//! Resource limits (`prlimit(2)`), read from `/proc/PID/limits`, which needs no privilege over the process.

use proto::messages::{RlimitEntry, TaskRlimitsEntry};

use super::{Scope, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// The sixteen limits.
#[derive(Debug)]
pub struct Rlimits;

impl TaskKind for Rlimits {
    const NAME: &'static str = "rlimits";
    const SCOPE: Scope = Scope::Task;

    fn look(task: &TaskFacts, _thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let rlimits =
            task.limits.iter().map(|limit| RlimitEntry { cur: limit.soft, max: limit.hard }).collect();
        super::task(core).rlimits = Some(TaskRlimitsEntry { rlimits });
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let rlimits = cx.task()?.rlimits.as_ref().map(|r| r.rlimits.as_slice()).unwrap_or_default();
        for (resource, limit) in rlimits.iter().enumerate() {
            let value = batch.input(&[limit.cur, limit.max]);
            batch.call("prlimit", libc::SYS_prlimit64, args![0, resource, value, 0]);
        }
        Ok(())
    }
}
