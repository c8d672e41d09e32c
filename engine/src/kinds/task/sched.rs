//! Scheduling of a thread: policy, priority and nice value (`sched_getattr(2)`), processors (`sched_getaffinity(2)`), I/O
//! priority (`ioprio_get(2)`), timer slack (`PR_GET_TIMERSLACK`). All but the last can be read for any thread.

use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::sys::process;
use crate::tracee::batch::Batch;

/// Scheduling attributes.
#[derive(Debug)]
pub struct Sched;

/// From `include/uapi/linux/sched.h`.
const SCHED_DEADLINE: u32 = 6;
/// `SCHED_FLAG_RESET_ON_FORK`, `SCHED_FLAG_RECLAIM` and `SCHED_FLAG_DL_OVERRUN` of the same file.
const SETTABLE_FLAGS: u64 = 0b111;

impl TaskKind for Sched {
    const NAME: &'static str = "sched";
    const NOT_SAVED: &'static [&'static str] = &["utilization clamps", "core scheduling"];
    const SCOPE: Scope = Scope::Thread;
    // Threads with a real-time policy have no slack.
    const DECIDED_BY: Option<&'static [Field]> = Some(&[
        Field::new(&[Step::In("task_struct", "timer_slack_ns")], 8),
        Field::new(&[Step::In("task_struct", "policy")], 4),
    ]);

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let attr = &thread.sched;
        let entry = super::thread(core);
        entry.sched_policy = Some(attr.sched_policy);
        entry.sched_nice = Some(attr.sched_nice);
        entry.sched_prio = (attr.sched_priority != 0).then_some(attr.sched_priority);
        let flags = attr.sched_flags & SETTABLE_FLAGS;
        core.own.sched_flags = (flags != 0).then_some(flags);
        if attr.sched_policy == SCHED_DEADLINE {
            core.own.sched_runtime = Some(attr.sched_runtime);
            core.own.sched_deadline = Some(attr.sched_deadline);
            core.own.sched_period = Some(attr.sched_period);
        }
        core.own.cpus_allowed = Some(process::sched_getaffinity(thread.tid)?);
        core.own.io_priority = Some(process::ioprio_get(thread.tid)?);
        Ok(())
    }

    fn ask(questions: &mut Questions) {
        let args = args![libc::PR_GET_TIMERSLACK];
        let slack = questions.batch().call("prctl(PR_GET_TIMERSLACK)", libc::SYS_prctl, args);
        questions.then(move |replies, core| {
            core.own.timer_slack = Some(replies.result(slack)? as u64);
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let thread = cx.thread()?;
        let (policy, nice) = (thread.sched_policy.unwrap_or(0), thread.sched_nice.unwrap_or(0));
        // struct sched_attr, first version: size and policy; flags; nice and priority; three deadline times.
        let nice = u64::from(nice as u32);
        let priority = u64::from(thread.sched_prio.unwrap_or(0));
        let size = size_of::<[u64; 6]>() as u64;
        let own = &cx.core.own;
        let times = [own.sched_runtime, own.sched_deadline, own.sched_period].map(Option::unwrap_or_default);
        let [runtime, deadline, period] = if policy == SCHED_DEADLINE { times } else { [0; 3] };
        let flags = own.sched_flags.unwrap_or(0) & SETTABLE_FLAGS;
        let first = size | u64::from(policy) << 32;
        let attr = batch.input(&[first, flags, nice | priority << 32, runtime, deadline, period]);
        batch.call("sched_setattr", libc::SYS_sched_setattr, args![0, attr, 0]);
        if let Some(cpus) = &own.cpus_allowed {
            let mask = batch.input(cpus.as_slice());
            batch.call("sched_setaffinity", libc::SYS_sched_setaffinity, args![0, cpus.len(), mask]);
        }
        if let Some(priority) = own.io_priority.filter(|priority| *priority != 0) {
            let args = args![process::IOPRIO_WHO_PROCESS, 0, priority];
            batch.call("ioprio_set", libc::SYS_ioprio_set, args);
        }
        // Real-time threads have none, and 0 would mean the default.
        if let Some(slack) = own.timer_slack.filter(|slack| *slack != 0) {
            batch.call("prctl(PR_SET_TIMERSLACK)", libc::SYS_prctl, args![libc::PR_SET_TIMERSLACK, slack]);
        }
        Ok(())
    }
}
