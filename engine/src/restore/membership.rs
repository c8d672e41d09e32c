//! Tasks go into their control groups: all of them as soon as they are there, so that what they use is counted there.

use super::set::{Task, Thread};
use crate::cgroups::CgroupsRestore;
use crate::error::{Context as _, Problem};

/// The combination of groups that a thread is in; none in images that say nothing of groups.
fn set_of(thread: &Thread) -> Option<u32> {
    let own = thread.core.thread_core.as_ref().and_then(|core| core.cg_set);
    own.or_else(|| thread.core.tc.as_ref().and_then(|task| task.cg_set))
}

/// Moves all processes.
pub(super) fn enter(tasks: &[Task], cgroups: &CgroupsRestore) -> Result<(), Problem> {
    for task in tasks.iter().filter(|task| task.alive.is_some()) {
        if let Some(set) = task.threads.first().and_then(set_of) {
            cgroups.enter_set(set, task.pid, false).of_task(&task.name())?;
        }
    }
    Ok(())
}

/// Moves threads that are elsewhere than their leaders.
pub(super) fn enter_threads(tasks: &[Task], cgroups: &CgroupsRestore) -> Result<(), Problem> {
    for task in tasks {
        let leaders = task.threads.first().and_then(set_of);
        for thread in task.threads.iter().skip(1) {
            if let Some(set) = set_of(thread).filter(|set| Some(*set) != leaders) {
                cgroups.enter_set(set, thread.tid, true).of_task(&task.name())?;
            }
        }
    }
    Ok(())
}
