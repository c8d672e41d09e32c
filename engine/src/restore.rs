//! From a directory of image files back to a running process tree.
//!
//! All images are read and checked, and every refusal is found, before anything is created. Then one stub per task is
//! made, empty but for the agent, each by its parent; and the stubs are driven from here until each is what its images
//! say. The last step of each task is a ptrace one: the agent is unmapped, the registers are set, and it goes.
//!
//! Should we die on the way, the kernel kills everything that we made (`PTRACE_O_EXITKILL`).

mod finish;
mod plan;
mod set;
mod state;
mod stub;
mod tree;

use std::time::Instant;

use crate::error::{Action, Error, Problem, Result, TargetState};
use crate::image::Images;
use crate::kinds::files::FilesRestore;
use crate::options::RestoreOptions;
use crate::stats::RestoreStats;

/// A tree that runs again.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The root's pid in our pid namespace.
    pub root: i32,
    /// What it cost.
    pub stats: RestoreStats,
}

/// Restores the tree in `options.images_dir`.
pub fn restore(options: &RestoreOptions) -> Result<Restored> {
    let fail = |state, problems| Error {
        action: Action::Restore,
        target: options.images_dir.display().to_string(),
        problems,
        state,
    };
    let one = |problem| fail(TargetState::NothingRestored, vec![problem]);
    let mut stats = RestoreStats::begin();

    let images = Images::open(&options.images_dir);
    let tasks = set::read(&images).map_err(one)?;
    let mut files = FilesRestore::read(options, &images).map_err(one)?;
    let problems = plan::check(&tasks, &files);
    if !problems.is_empty() {
        return Err(fail(TargetState::NothingRestored, problems));
    }
    let mut build = |files: &mut FilesRestore<'_>| -> std::result::Result<i32, Problem> {
        let forking = Instant::now();
        let mut stubs = tree::create(&tasks, options)?;
        stats.forked_after(forking);
        state::memory(&mut stubs, &tasks, files, &images, &mut stats)?;
        files.prepare(&mut state::InStubs { stubs: &mut stubs, tasks: &tasks })?;
        state::create_threads(&mut stubs, &tasks)?;
        state::descriptors(&mut stubs, &tasks, files)?;
        files.connect(&mut state::InStubs { stubs: &mut stubs, tasks: &tasks })?;
        finish::zombies(&mut stubs, &tasks)?;
        state::settings(&mut stubs, &tasks)?;
        files.close();
        finish::go(stubs, &tasks, options)
    };
    let root = build(&mut files).map_err(one)?;
    files.succeeded();
    stats.finished();
    // The tree runs: a work directory that cannot be written is no reason to say that this failed.
    if let Err(problem) = stats.write(&options.work_dir) {
        log::warn!("no statistics: {}", problem.cause);
    }
    Ok(Restored { root, stats })
}
