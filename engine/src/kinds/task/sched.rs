//! Scheduling policy, priority and nice value of a thread (`sched_getattr(2)`, readable for any thread).

use proto::messages::CoreEntry;

use super::{Scope, TaskKind, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, TaskRefusal, ThreadFacts};
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// Scheduling attributes.
#[derive(Debug)]
pub struct Sched;

/// From `include/uapi/linux/sched.h`.
const SCHED_DEADLINE: u32 = 6;

impl TaskKind for Sched {
    const NAME: &'static str = "sched";
    const NOT_SAVED: &'static [&'static str] = &[
        "CPU affinity",
        "I/O priority",
        "timer slack",
        "utilization clamps",
        "reset-on-fork",
        "core scheduling",
    ];
    const SCOPE: Scope = Scope::Thread;

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut CoreEntry) -> Result<(), Problem> {
        let attr = &thread.sched;
        if attr.sched_policy == SCHED_DEADLINE {
            return Err(Problem::new(TaskRefusal::NotYet("the scheduling policy SCHED_DEADLINE")));
        }
        let entry = super::thread(core);
        entry.sched_policy = Some(attr.sched_policy);
        entry.sched_nice = Some(attr.sched_nice);
        entry.sched_prio = (attr.sched_priority != 0).then_some(attr.sched_priority);
        Ok(())
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let thread = cx.thread()?;
        let (policy, nice) = (thread.sched_policy.unwrap_or(0), thread.sched_nice.unwrap_or(0));
        // struct sched_attr, first version: size and policy; flags; nice and priority; three deadline times.
        let nice = u64::from(nice as u32);
        let priority = u64::from(thread.sched_prio.unwrap_or(0));
        let size = size_of::<[u64; 6]>() as u64;
        let attr = [size | u64::from(policy) << 32, 0, nice | priority << 32, 0, 0, 0];
        let attr = batch.input(&attr);
        batch.call("sched_setattr", libc::SYS_sched_setattr, args![0, attr, 0]);
        Ok(())
    }
}
