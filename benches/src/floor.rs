//! What the kernel takes for steps that no dump and no restore can leave out, in the least that these can be: nothing is
//! asked of a task, no memory is copied, and nothing is checked.
//!
//! A dump stops each thread, reads its registers and its status, and writes a file for each; of a process, it reads mappings and
//! descriptors besides, and writes six files more; and all of them end. A restore makes threads and processes: what that takes
//! the program shows when it is started. What is measured is the same process that the other benches dump.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::session::{Session, Subject as _};
use crate::stasis::Stasis;

/// Bytes of the image of a thread.
const CORE: usize = 1500;
/// Images of a process besides those of its threads, and about their size.
const OTHERS: usize = 6;
const OTHER: usize = 400;

/// Stops a target with these arguments, reads what must be known, writes as many files as there are in images, and ends it.
pub fn dump(stasis: &Stasis, arguments: &[String]) -> Result<Duration> {
    let mut session = Session::start(stasis, arguments)?;
    let root = session.running()?;
    let dir = TempDir::new_in("/dev/shm")?;
    let start = Instant::now();
    let mut processes = vec![root];
    processes.extend(ids(&fs::read_to_string(format!("/proc/{root}/task/{root}/children"))?));
    let mut threads = Vec::new();
    for pid in &processes {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            threads.extend(ids(&entry?.file_name().to_string_lossy()).map(|tid| (*pid, tid)));
        }
    }
    for (_, tid) in &threads {
        ptrace::seize(*tid, ptrace::Options::empty()).context("PTRACE_SEIZE")?;
        ptrace::interrupt(*tid).context("PTRACE_INTERRUPT")?;
    }
    for (pid, tid) in &threads {
        waitpid(*tid, Some(WaitPidFlag::__WALL)).context("wait")?;
        ptrace::getregs(*tid).context("PTRACE_GETREGS")?;
        fs::read(format!("/proc/{pid}/task/{tid}/status"))?;
        fs::write(dir.path().join(format!("core-{tid}.img")), [0; CORE])?;
    }
    for pid in &processes {
        fs::read(format!("/proc/{pid}/smaps"))?;
        fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        for file in 0..OTHERS {
            fs::write(dir.path().join(format!("{file}-{pid}.img")), [0; OTHER])?;
        }
    }
    for pid in processes.iter().rev() {
        kill(*pid, Signal::SIGKILL).context("kill")?;
    }
    for (_, tid) in threads.iter().rev() {
        waitpid(*tid, Some(WaitPidFlag::__WALL)).context("wait")?;
    }
    let took = start.elapsed();
    session.has_ended()?;
    Ok(took)
}

fn ids(text: &str) -> impl Iterator<Item = Pid> {
    text.split_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw)
}

/// Starts the target anew: how long it takes to make what a restore has to make, for who knows how.
pub fn start(stasis: &Stasis, arguments: &[String]) -> Result<Duration> {
    let start = Instant::now();
    let mut session = Session::start(stasis, arguments)?;
    let took = start.elapsed();
    session.end()?;
    Ok(took)
}
