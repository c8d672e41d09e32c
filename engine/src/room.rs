//! Room for descriptors: limits on their numbers (`RLIMIT_NOFILE`), ours and those of tasks.
//!
//! A process may have descriptors above its limit, which it had before it was lowered; new ones it gets below only. We
//! hold a descriptor for each open file of a tree, and stubs inherit our limit until they get their own.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{Class, Explain, Problem, SysError};
use crate::kinds::files;
use crate::procfs::limits::Limit;
use crate::sys::{fcntl, rlimit};

/// Descriptors that we need besides those that hold files of the tree.
pub const RESERVE: u64 = 64;

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub enum RoomRefusal {
    /// We may not have so many.
    #[error("a limit of {needed} descriptors is needed, and that of this command is {hard}")]
    Ours {
        /// What we need.
        needed: u64,
        /// Our hard limit.
        hard: u64,
    },
    /// All numbers of a task are taken, and its limit cannot be changed.
    #[error(
        "all descriptor numbers below its limit of {soft} are in use, and the limit cannot be raised ({error})"
    )]
    Target {
        /// Its limit.
        soft: u64,
        /// What the kernel said.
        error: SysError,
    },
}

impl Explain for RoomRefusal {
    fn class(&self) -> Class {
        Class::Environment
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Ours { needed, .. } => {
                format!("raise it (ulimit -Hn {needed}), or run with the capability CAP_SYS_RESOURCE")
            }
            Self::Target { .. } => {
                "run with the capability CAP_SYS_RESOURCE, or have it close a descriptor".into()
            }
        })
    }
}

/// Has our table of descriptors grow before threads share it: one that grows then waits until all CPUs have noticed
/// (`synchronize_rcu` in `expand_fdtable` of fs/file.c), which takes milliseconds.
fn spread() {
    const NUMBERS: i32 = 8192;
    // Where the limit is lower, it is only slower.
    let grown = File::open("/dev/null").map(|file| fcntl::duplicate_above(file.as_fd(), NUMBERS - 1));
    log::debug!(
        "room for {NUMBERS} descriptors: {}",
        if matches!(grown, Ok(Ok(_))) { "made" } else { "not made" }
    );
}

/// Raises our own limit as far as may be, and to what is `needed` at least.
pub fn make_ours(needed: u64) -> Result<(), Problem> {
    raise(needed)?;
    spread();
    Ok(())
}

fn raise(needed: u64) -> Result<(), Problem> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(SysError::of("getrlimit"))?;
    let limit = hard.max(needed);
    if limit == soft || rlimit::set_descriptors(0, limit, limit).is_ok() {
        return Ok(());
    }
    Err(Problem::new(RoomRefusal::Ours { needed, hard }))
}

/// How many numbers a task can give to new descriptors; a lower bound, where there are many. `known` is how many
/// descriptors it had, when last looked.
pub fn free_numbers(pid: i32, known: Option<usize>, limit: Limit) -> u64 {
    let likely = known.map_or(0, |known| limit.soft.saturating_sub(known as u64));
    if likely > RESERVE {
        return likely;
    }
    let below = |fd: &i32| u64::try_from(*fd).is_ok_and(|fd| fd < limit.soft);
    limit.soft - files::list(pid).into_iter().filter(below).count() as u64
}

/// Makes sure that a stopped task can get `count` new descriptors, for as long as the result lives.
///
/// Should we be killed meanwhile, the task keeps the higher limit.
pub fn make_in(pid: i32, count: u64, known: Option<usize>, limit: Limit) -> Result<Option<Raised>, Problem> {
    if free_numbers(pid, known, limit) >= count {
        return Ok(None);
    }
    let highest = files::list(pid).last().map_or(0, |fd| *fd as u64);
    let soft = limit.soft.max(highest) + 1 + count;
    let raised = rlimit::set_descriptors(pid, soft, limit.hard.max(soft));
    raised.map_err(|error| Problem::new(RoomRefusal::Target { soft: limit.soft, error }))?;
    Ok(Some(Raised { pid, limit }))
}

/// A limit that is to be lowered again.
#[derive(Debug)]
pub struct Raised {
    pid: i32,
    limit: Limit,
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Err(e) = rlimit::set_descriptors(self.pid, self.limit.soft, self.limit.hard) {
            log::error!("process {} keeps a higher limit of descriptors than it had: {e}", self.pid);
        }
    }
}
