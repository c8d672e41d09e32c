//! Waiting and reaping: every wait of a trial has an end, and no child stays a zombie for long.
//!
//! A trial's process is the child subreaper of everything it starts. Restored trees are handed to it, orphans as well.
//! Killed targets must be reaped at once, because a zombie holds its process id and the restore needs that id.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::procfs;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(Signal),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "was killed by {signal}"),
        }
    }
}

/// The clock and the children of one trial.
#[derive(Debug)]
pub struct Watch {
    deadline: Instant,
    limit: Duration,
    exits: BTreeMap<i32, Exit>,
}

impl Watch {
    /// Makes this process the reaper of all its descendants, and starts the clock.
    pub fn start(limit: Duration) -> Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let action = SigAction::new(SigHandler::Handler(note_interrupt), SaFlags::empty(), SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler only stores into an atomic, which is async-signal-safe.
            unsafe { sigaction(signal, &action) }?;
        }
        Ok(Self { deadline: Instant::now() + limit, limit, exits: BTreeMap::new() })
    }

    /// Reaps whatever has ended.
    pub fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.exits.insert(pid.as_raw(), Exit::Code(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.exits.insert(pid.as_raw(), Exit::Signal(signal));
                }
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }

    /// Takes the exit status of a child, if it has ended.
    pub fn take_exit(&mut self, pid: i32) -> Option<Exit> {
        self.reap();
        self.exits.remove(&pid)
    }

    /// Forgets an exit of an earlier process with this id.
    pub fn forget(&mut self, pid: i32) {
        self.exits.remove(&pid);
    }

    /// Polls until `look` finds something, at most until `limit` and the trial's deadline.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        let mut pause = Duration::from_micros(200);
        loop {
            self.reap();
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            let now = Instant::now();
            if INTERRUPTED.load(Ordering::Relaxed) {
                bail!("interrupted while waiting: {what}");
            }
            if now >= self.deadline {
                return Err(anyhow!("time limit of {} s reached: {what}", self.limit.as_secs()));
            }
            if now >= end {
                bail!("not within {} s: {what}", limit.as_secs_f32());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Waits for a child to end, as long as the trial may last.
    pub fn wait_exit(&mut self, pid: i32, what: &str) -> Result<Exit> {
        self.until(what, self.limit, |watch| Ok(watch.take_exit(pid)))
    }
}

/// Kills every descendant of this process, and reaps it.
pub fn kill_all_descendants() {
    // A stopped or a forking tree may need several rounds; a task in uninterruptible sleep may need more time than we have.
    for _ in 0..200 {
        let left = procfs::descendants(procfs::own_pid());
        for pid in &left {
            // A process that has just ended is no failure: the next round sees it gone.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
