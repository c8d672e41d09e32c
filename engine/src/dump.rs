//! From a running process tree to a directory of image files.
//!
//! Everything that can be done before the tree is stopped is done before; contents of memory come as late as possible,
//! and the inventory last of all. Whatever fails on the way, the tree goes on as it was: dropping [`FrozenTree`] takes
//! the agents out and lets it go, dropping [`NewImages`] removes what was written.

pub(crate) mod apart;
mod ask;
mod descriptors;
pub mod inspect;
mod memory;
pub(crate) mod namespace_links;
pub(crate) mod pages_file;
mod settle;
pub(crate) mod sharing;
pub(crate) mod target;
pub(crate) mod task;
mod vm_flags;

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::cgroups::{CgroupsDump, Hierarchies};
use crate::cpuinfo;
use crate::error::{Action, Error, Problem, Result, TargetState};
use crate::image::NewImages;
use crate::kinds::files::FilesDump;
use crate::kinds::namespaces;
use crate::last_pids;
use crate::net_spaces;
use crate::options::{Afterwards, DumpOptions};
use crate::pid_spaces::PidSpaces;
use crate::room;
use crate::side_by_side;
use crate::stats::DumpStats;
use crate::supervise::Lifeline;
use crate::task_spaces::TaskSpaces;
use crate::time_spaces::TimeSpaces;
use crate::tracee::freeze::FrozenTree;
use crate::tracee::sleep;
use crate::user_spaces::UserSpaces;

use memory::Writing;
use vm_flags::VmFlagsReader;

/// Dumps the tree at `options.tree`, and says what it cost. When the lifeline is cut before the images are complete,
/// everything is undone.
pub fn dump(options: &DumpOptions, hierarchies: &Hierarchies, lifeline: &Lifeline) -> Result<DumpStats> {
    let fail =
        |state, problems| Error { action: Action::Dump, target: target::describe(options), problems, state };
    let untouched = |problem| fail(TargetState::Untouched, vec![problem]);
    let running = |problem| {
        let gone = target::has_ended(options.tree);
        fail(if gone { TargetState::Gone } else { TargetState::Running }, vec![problem])
    };
    let mut stats = DumpStats::default();

    target::check(options.tree).map_err(untouched)?;
    room::make_ours(0).map_err(untouched)?;
    let mut images = new_images(options);
    let mut cgroups = CgroupsDump::new(&options.cgroups, hierarchies).map_err(untouched)?;
    let vm_flags = VmFlagsReader::for_tree(options.tree);
    if options.afterwards == Afterwards::LeaveRunning {
        // Whoever runs on is not to wait for it.
        vm_flags.get();
    }
    let start = Instant::now();
    let mut tree = FrozenTree::freeze(options.tree, options.freeze_cgroup.as_deref(), options.timeout.0)
        .map_err(running)?;
    stats.frozen_after(start);
    let frozen = Instant::now();

    let mut files = FilesDump::new(options);
    let mut problems = Vec::new();
    sleep::measure(&mut tree, options).map_err(running)?;
    let facts = task::inspect(&tree, options, &vm_flags, &mut problems);
    let mut tasks = task::look(&tree, &facts, &mut files, &mut problems);
    files.check(&mut problems);
    let pids: Vec<i32> = tree.tasks.iter().map(|task| task.pid).collect();
    problems.extend(net_spaces::find_mounted(&pids, &mut files).err());
    namespaces::look(&mut files, &pids, &mut problems);
    task::find_cgroups(&tree, &facts, &mut tasks, &mut cgroups, &mut problems);
    task::without_closed(&mut tasks, &mut files);
    if !problems.is_empty() {
        return Err(fail(TargetState::Running, problems));
    }
    lifeline.check().map_err(running)?;
    let modest = memory::modest(&tree, &facts, &tasks);
    let write = || memory::write_modest(&modest, &mut images, &mut stats, lifeline);
    let (written, asked) = side_by_side::both(write, || ask::ask(&mut tree, &facts, &mut tasks, lifeline));
    let (unsettled, written) = (asked.map_err(running)?, written.map_err(running)?);
    descriptors::ask(&mut tree, &mut tasks, &files).map_err(running)?;
    let inventory = task::inventory(cgroups.own_set());
    let write = |tree: &mut FrozenTree| -> Result<memory::Copies, Problem> {
        files.finish(&mut images)?;
        namespaces::dump(&mut files, &pids, &mut images)?;
        files.state::<TaskSpaces>().write(options, &pids, &mut images)?;
        files.state::<UserSpaces>().write(options, &mut images)?;
        last_pids::write(files.state::<PidSpaces>(), &options.inside, &mut images)?;
        cgroups.write(options, &mut images)?;
        if options.describe_cpu {
            cpuinfo::write(&mut images)?;
        }
        let writing = Writing::new(&mut images, &mut stats, lifeline, memory::estimate_large(&facts));
        let copies = memory::write(tree, &facts, &tasks, written, options, writing)?;
        settle::settle(tree, &facts, &mut tasks, unsettled)?;
        task::write(&mut tasks, files.state::<TimeSpaces>(), &mut images)?;
        Ok(copies)
    };
    let copies = write(&mut tree).map_err(running)?;
    lifeline.check().map_err(running)?;
    if options.afterwards == Afterwards::LeaveRunning {
        // What is still to be written is in copies, and nobody has to wait for it.
        tree.thaw().map_err(running)?;
        stats.thawed_after(frozen);
        drop(files);
        images.free_older();
        copies.write(&mut images, &mut stats, lifeline).map_err(running)?;
        images.commit(&inventory).map_err(running)?;
    } else {
        images.commit(&inventory).map_err(running)?;
        stats.thawed_after(frozen);
        let stop = options.afterwards == Afterwards::LeaveStopped;
        let large = memory::large(&facts);
        let forget = || drop((facts, tasks));
        let finished = if stop { tree.leave_stopped() } else { end(tree, &mut files, &large, forget) };
        finished.map_err(|p| fail(TargetState::PartlyKilled, vec![p]))?;
    }
    stats.write(&options.work_dir).map_err(|p| fail(TargetState::Dumped, vec![p]))?;
    Ok(stats)
}

fn new_images(options: &DumpOptions) -> NewImages {
    let mut images = NewImages::new(&options.images_dir);
    if options.skip_checksums {
        images = images.without_checksums();
    }
    if options.afterwards == Afterwards::LeaveRunning {
        images = images.freeing_later();
    }
    images
}

/// Ends the tree, whose images are complete: should we die from here on, it dies with us. Meanwhile we
/// `forget` what is known of it.
fn end(
    tree: FrozenTree,
    files: &mut FilesDump<'_>,
    large: &[OwnedFd],
    forget: impl FnOnce() + Send,
) -> Result<(), Problem> {
    let guardian = tree.guard_the_end(&files.last_deeds)?;
    if let Err(problem) = files.leave() {
        guardian.dismiss()?;
        return Err(problem);
    }
    side_by_side::both(forget, || tree.kill(guardian, large)).1
}
