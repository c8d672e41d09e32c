//! The end of tasks that were killed: of their threads for us, their tracer, and of their pids.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::dump::inspect::read_text;
use crate::procfs;
use crate::sys::process;
use crate::tracee::freeze::{FrozenTask, process_state};

/// Waits for the end of a thread that was killed.
pub(super) fn reap(tid: i32) {
    loop {
        match process::wait(tid) {
            // A stop that was on its way when the kill came.
            Ok(process::Waited::Stopped(_)) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Waits a moment until the real parents have reaped their children, so that all pids are free. Not for a parent that
/// called us: it may well wait for our end first.
pub(super) fn wait_until_reaped(tasks: &[FrozenTask]) {
    const LIMIT: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + LIMIT;
    let callers = callers();
    let mut left = Vec::new();
    for task in tasks {
        if nix::sys::signal::kill(nix::unistd::Pid::from_raw(task.pid), None) == Err(Errno::ESRCH) {
            continue;
        }
        // Each may have another: an orphan of a pid namespace goes to the init of that, which is about to end itself.
        if parent_of(task.pid).is_some_and(|parent| callers.contains(&parent)) {
            continue;
        }
        while process_state(task.pid) == Some('Z') {
            if Instant::now() > deadline {
                left.push(task.name.to_string());
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    if let Some((first, others)) = left.split_first() {
        let others = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
        log::warn!("{first}{others} is a zombie still: its parent does not reap it, and its pid is not free");
    }
}

/// The process that started the command, whose worker we are, and those that started it; of the init of a pid namespace
/// only if it did so itself, since else it is nobody's caller, and reaps whoever comes.
fn callers() -> Vec<i32> {
    let ancestors: Vec<i32> = std::iter::successors(Some(std::process::id() as i32), |pid| parent_of(*pid))
        .skip(2)
        .take_while(|pid| *pid > 0)
        .collect();
    let is_caller = |(distance, pid): &(usize, i32)| *distance == 0 || *pid != 1;
    ancestors.into_iter().enumerate().filter(is_caller).map(|(_, pid)| pid).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = read_text(&format!("/proc/{pid}/stat")).ok()?;
    procfs::stat::parse(&stat).ok().map(|stat| stat.ppid)
}
