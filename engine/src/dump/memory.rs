//! Contents of memory: the last and longest part of a dump.

use std::fs::File;
use std::time::Instant;

use super::inspect::TaskFacts;
use super::task::TaskImages;
use crate::error::{Context as _, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::mm::{self, Contents, pages};
use crate::procfs::limits;
use crate::room;
use crate::stats::DumpStats;
use crate::supervise::Lifeline;
use crate::tracee::freeze::FrozenTree;

/// Writes the pages of every task.
pub(super) fn write(
    tree: &mut FrozenTree,
    facts: &[Option<TaskFacts>],
    tasks: &[TaskImages],
    images: &mut NewImages,
    stats: &mut DumpStats,
    lifeline: &Lifeline,
) -> Result<(), Problem> {
    for ((task, facts), image) in tree.tasks.iter_mut().zip(facts).zip(tasks) {
        let (Some(facts), Some(agent)) = (facts, task.agent.as_mut()) else { continue };
        lifeline.check()?;
        let start = Instant::now();
        let runs = find(facts).of_task(&task.name)?;
        let found = Instant::now();
        let pages_id = images.next_pages_id();
        let scanned = facts.vmas.iter().map(|v| v.vma.len() / pages::PAGE).sum();
        pages::dump(images, agent, image.pid.into(), pages_id, &runs, may_write(facts, image))
            .of_task(&task.name)?;
        stats.pages(scanned, pages::count(&runs), found - start, found.elapsed());
    }
    Ok(())
}

/// Which pages of a task are its own.
fn find(facts: &TaskFacts) -> Result<Vec<pages::Run>, Problem> {
    let path = format!("/proc/{}/pagemap", facts.pid);
    let pagemap = File::open(path).map_err(SysError::io("open(/proc/PID/pagemap)"))?;
    let mut runs = Vec::new();
    for vma in &facts.vmas {
        match mm::claim(vma).map_or(Contents::None, |kind| kind.contents(vma)) {
            Contents::None => {}
            Contents::OwnPages => {
                pages::own_pages(&pagemap, vma, &mut runs).while_trying_to("find out which pages it owns")?;
            }
            Contents::AllPages => pages::all_pages(vma, &mut runs),
        }
    }
    Ok(runs)
}

/// Whether the task may write files as large as its memory, and can get a descriptor for one.
fn may_write(facts: &TaskFacts, image: &TaskImages) -> bool {
    let known = image.alive.as_ref().map_or(0, |alive| alive.fdinfo.len());
    room::free_numbers(facts.pid, known, facts.descriptors()) > 0
        && facts.limits.get(libc::RLIMIT_FSIZE as usize).is_some_and(|limit| limit.soft == limits::UNLIMITED)
}
