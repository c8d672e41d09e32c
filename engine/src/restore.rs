//! From a directory of image files back to a running process tree.
//!
//! All images are read and checked, and every refusal is found, before anything is created. Then one stub per task is
//! made, empty but for the agent, each by its parent; and the stubs are driven from here until each is what its images
//! say. The last step of each task is a ptrace one: the agent is unmapped, the registers are set, and it goes.
//!
//! Should we die on the way, the kernel kills everything that we made (`PTRACE_O_EXITKILL`).

mod autofs;
mod births;
mod contents;
pub mod cradle;
mod fill;
mod finish;
mod heirlooms;
mod last_pid;
mod membership;
mod memory;
mod mount_spaces;
mod own_pids;
mod pid_spaces;
mod plan;
mod set;
mod state;
mod stub;
mod task_spaces;
mod time_spaces;
mod tree;
pub mod user_spaces;

use std::time::Instant;

use crate::cgroups::CgroupsRestore;
use crate::cpuinfo;
use crate::error::{Action, Error, Problem, Result, TargetState};
use crate::image::Images;
use crate::inside::AsOwner;
use crate::kinds::files::FilesRestore;
use crate::options::RestoreOptions;
use crate::stats::RestoreStats;
use crate::sys::memory::keep_heap;
use crate::task_spaces::Members;
use crate::user_spaces::MadeUserSpaces;
use heirlooms::Heirlooms;
use user_spaces::Users;

/// A tree that runs again.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The root's pid in our pid namespace.
    pub root: i32,
    /// What it cost.
    pub stats: RestoreStats,
}

/// What could be said beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreseen {
    /// All that a restore looks at before it creates anything.
    All,
    /// That the namespaces can be made which the tree has for itself, and all that its images say of tasks. Files are looked at
    /// when the namespaces are there: where a path leads depends on mounts, and those are made by the restore.
    Namespaces,
}

/// Finds out whether the set could be restored with these options, as far as that can be said beforehand: what stands in the
/// way, all at once. Nothing is created.
pub fn check(options: &RestoreOptions, images: &Images) -> std::result::Result<Foreseen, Vec<Problem>> {
    let one = |problem| vec![problem];
    let other = cpuinfo::compare(images, options.cpu_cap);
    if !other.is_empty() {
        return Err(other);
    }
    CgroupsRestore::read(images, &options.cgroups)?;
    let has_namespaces = cradle::check(options, images)?;
    let tasks = set::read(images).map_err(one)?;
    let are_of_part = !has_namespaces && mount_spaces::are_of_part(&tasks, options);
    if are_of_part {
        mount_spaces::check(&tasks, images, options)?;
    }
    if has_namespaces || are_of_part {
        return plan::check_images(&tasks, images).map(|()| Foreseen::Namespaces);
    }
    let files = FilesRestore::read(options, images, members(&tasks)).map_err(one)?;
    plan::check(&tasks, &files).map(|_steps| Foreseen::All)
}

/// Opens the set in `options.images_dir`, with its checksums unless they are to be skipped.
pub fn open(options: &RestoreOptions) -> Result<Images> {
    let images = Images::open(&options.images_dir);
    if options.skip_checksums {
        return Ok(images);
    }
    images.with_checksums().map_err(|problem| nothing_restored(options, vec![problem]))
}

/// Whether the processor can stand in for that of the set, as far as that is asked.
pub fn processor(options: &RestoreOptions, images: &Images) -> Result<()> {
    let problems = cpuinfo::compare(images, options.cpu_cap);
    if problems.is_empty() { Ok(()) } else { Err(nothing_restored(options, problems)) }
}

/// What is to be done about control groups; nothing is done yet.
pub fn cgroups(options: &RestoreOptions, images: &Images) -> Result<CgroupsRestore> {
    CgroupsRestore::read(images, &options.cgroups).map_err(|problems| nothing_restored(options, problems))
}

/// A failure that leaves nothing behind.
fn nothing_restored(options: &RestoreOptions, problems: Vec<Problem>) -> Error {
    Error {
        action: Action::Restore,
        target: options.images_dir.display().to_string(),
        problems,
        state: TargetState::NothingRestored,
    }
}

fn members(tasks: &[set::Task]) -> Members {
    Members::new(tasks.iter().map(|task| (task.pid, task.alive.as_ref().map(|alive| alive.ids))))
}

/// Restores the tree of a set.
pub fn restore(options: &RestoreOptions, images: &Images, cgroups: &mut CgroupsRestore) -> Result<Restored> {
    let fail = |problems| nothing_restored(options, problems);
    let one = |problem| fail(vec![problem]);
    let mut stats = RestoreStats::begin();
    keep_heap();

    let tasks = set::read(images).map_err(one)?;
    let made = user_spaces::there(&tasks, options, images).map_err(one)?;
    let with_mounts = mount_spaces::make(&tasks, images, options, &made).map_err(fail)?;
    let options = with_mounts.as_ref().unwrap_or(options);
    let mut files = FilesRestore::read(options, images, members(&tasks)).map_err(one)?;
    let births = plan::check(&tasks, &files).map_err(fail)?;
    let mut build = || -> std::result::Result<i32, Problem> {
        // What we make belongs to the root of the tree's user namespace, if it has one.
        let _owner = AsOwner::of(&options.inside.ids)?;
        cgroups.make()?;
        let users = Users::of(made.clone(), &tasks, options, images)?;
        files.state::<MadeUserSpaces>().0 = users.made.clone();
        let forking = Instant::now();
        let mut heirlooms = Heirlooms::find(&tasks, &births, images, options)?;
        let mut stubs = tree::create(&tasks, &births, images, &mut heirlooms, &mut files, &users)?;
        state::mount_later(&tasks, images, options, &mut files)?;
        state::mount_namespaces(&mut stubs, &tasks, options)?;
        task_spaces::restore(&mut stubs, &tasks, images, options, cgroups, &users)?;
        time_spaces::restore(&mut stubs, &tasks, images)?;
        stats.forked_after(forking);
        membership::enter(&tasks, cgroups)?;
        memory::restore(&mut stubs, &tasks, &mut files, images, &heirlooms, &mut stats)?;
        state::enter_spaces(&mut stubs, &tasks, &options.inside.spaces)?;
        user_spaces::enter(&mut stubs, &tasks, &users)?;
        // Threads first: they may own files, a descriptor may be one of a thread, or lead to its files in /proc.
        state::create_threads(&mut stubs, &tasks, &users)?;
        pid_spaces::for_children(&mut stubs, &tasks)?;
        membership::enter_threads(&tasks, cgroups)?;
        files.prepare(&mut state::InStubs { stubs: &mut stubs, tasks: &tasks })?;
        state::descriptors(&mut stubs, &tasks, &mut files)?;
        files.connect(&mut state::InStubs { stubs: &mut stubs, tasks: &tasks })?;
        autofs::wake(&mut stubs, &tasks, images, options, &files)?;
        finish::stops_and_ends(&mut stubs, &tasks)?;
        let guarded = state::settings(&mut stubs, &tasks, &users)?;
        files.release()?;
        files.close()?;
        finish::go(stubs, &tasks, guarded, options, images)
    };
    let root = build().map_err(one)?;
    files.succeeded();
    cgroups.succeeded();
    stats.finished();
    // The tree runs: a work directory that cannot be written is no reason to say that this failed.
    if let Err(problem) = stats.write(&options.work_dir) {
        log::warn!("no statistics: {}", problem.cause);
    }
    Ok(Restored { root, stats })
}
