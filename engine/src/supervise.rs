//! A dump survives the death of the command that asked for it (invariant I1).
//!
//! The agent finds its own way back when its tracer dies, but a few moments of a dump it cannot cover: those in which a
//! thread of the target makes a single system call with our registers. So the tracer is another process than the one a
//! user sees and kills: the command forks a worker, and waits. The worker notices the death of the command by the end of a
//! pipe that the command holds open, and rolls back; once the images are complete, it finishes instead.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use crate::error::{Class, Explain, Problem, SysError};
use crate::sys::process::{self, Waited};
use crate::sys::{memory, pidfd};
use crate::{arch, checksum, procfs};

/// Why a worker stops working.
#[derive(Debug, thiserror::Error)]
#[error("the command that asked for it was killed")]
pub struct CommandKilled;

impl Explain for CommandKilled {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// Tells a worker whether the command still lives.
#[derive(Debug)]
pub struct Lifeline(Option<OwnedFd>);

impl Lifeline {
    /// For callers of the library who need no supervision.
    pub fn endless() -> Self {
        Self(None)
    }

    /// An error if the command is gone.
    pub fn check(&self) -> Result<(), Problem> {
        let Some(pipe) = &self.0 else { return Ok(()) };
        let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
        nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(SysError::of("poll"))?;
        let [polled] = polled;
        if polled.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
            return Err(Problem::new(CommandKilled));
        }
        Ok(())
    }
}

/// What a guardian does before it kills the tasks, and what it leaves until then.
#[derive(Debug, Default, Clone)]
pub struct LastDeeds {
    /// Netlink sockets of ours, and what is written to them: that holds back the packets of connections.
    pub locks: Vec<(RawFd, Vec<u8>)>,
    /// TCP sockets (our duplicates) that are silenced, so that they end without a word to their peers.
    pub silenced: Vec<RawFd>,
    /// Our ends of agents' sockets: a task whose agent sees that closed goes on, so they are closed when all are killed.
    pub agents: Vec<RawFd>,
}

/// A small process that ends a group of tasks should we die, for as long as `PTRACE_O_EXITKILL` alone does not do.
///
/// The option belongs to each thread, so that a change of it for a whole tree is not one step: a kill in the midst of it would
/// let part of the tree live. The guardian kills that part, too. A single task needs none, since a thread that the
/// kernel kills takes the others of its task along.
#[derive(Debug)]
pub struct Guardian(Option<(OwnedFd, i32)>);

impl Guardian {
    /// Guards these tasks, and does this before it kills them. A single one needs it only for what is to be done.
    pub fn of(tasks: &[i32], deeds: &LastDeeds) -> Result<Self, SysError> {
        Self::of_opened(Self::open(tasks, deeds)?, deeds)
    }

    /// Opens what it knows tasks by, while they surely live, so that no stranger who gets such a pid later can be meant.
    pub fn open(tasks: &[i32], deeds: &LastDeeds) -> Result<Vec<OwnedFd>, SysError> {
        if tasks.len() < 2 && deeds.silenced.is_empty() {
            return Ok(Vec::new());
        }
        tasks.iter().map(|pid| pidfd::open(*pid)).collect()
    }

    /// Guards tasks that were opened.
    pub fn of_opened(tasks: Vec<OwnedFd>, deeds: &LastDeeds) -> Result<Self, SysError> {
        if tasks.is_empty() {
            return Ok(Self(None));
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
        match process::fork()? {
            None => process::kill_when_cut(&reader, writer, &tasks, deeds),
            Some(pid) => Ok(Self(Some((writer, pid)))),
        }
    }

    /// Guards TCP sockets (our duplicates, with their `SO_REUSEADDR`) that are in repair mode for a look: should we die, it
    /// takes them out of it.
    pub fn of_repair(sockets: &[(i32, i32)]) -> Result<Self, SysError> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
        match process::fork()? {
            None => process::end_repair_when_cut(&reader, writer, sockets),
            Some(pid) => Ok(Self(Some((writer, pid)))),
        }
    }

    /// The group is whole, in one way or the other: it needs no guardian any more.
    pub fn dismiss(self) -> Result<(), SysError> {
        self.tell_dismissed()?.reap()
    }

    /// The same, without waiting for its end.
    pub fn tell_dismissed(mut self) -> Result<Dismissed, SysError> {
        let Some((pipe, pid)) = self.0.take() else { return Ok(Dismissed(None)) };
        nix::unistd::write(&pipe, b".").map_err(SysError::of("write (to the guardian)"))?;
        Ok(Dismissed(Some(pid)))
    }
}

/// A guardian that goes.
#[derive(Debug)]
pub struct Dismissed(Option<i32>);

impl Dismissed {
    /// Waits for its end.
    pub fn reap(self) -> Result<(), SysError> {
        self.0.map_or(Ok(()), |pid| process::wait(pid).map(drop))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // Something failed on the way. It ends the tasks, as we would.
        let Some((pipe, pid)) = self.0.take() else { return };
        drop(pipe);
        if let Err(e) = process::wait(pid) {
            log::warn!("the process that guards the tree: {e}");
        }
    }
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Role {
    /// The worker, which goes on with what was asked.
    Worker(Lifeline),
    /// The command, and the worker is done: with this exit code.
    Command(u8),
    /// The command, and the worker was killed by this signal.
    WorkerKilled(i32),
}

/// Touches what the worker will run and write, before somebody has to wait for it: a fork has its program mapped anew, page by
/// page, and copies each page that it writes to.
fn warm_up() {
    arch::warm_up();
    // It finds out which instructions there are.
    checksum::of(&[]);
    let maps = File::open("/proc/self/maps").and_then(|mut file| {
        let mut text = Vec::with_capacity(16 << 10);
        file.read_to_end(&mut text).map(|_| text)
    });
    let maps = maps.ok().and_then(|text| procfs::maps::parse(&text).ok()).unwrap_or_default();
    let is_used =
        |vma: &&procfs::maps::Vma| vma.perms.read && !vma.perms.shared && (vma.perms.exec || vma.perms.write);
    for vma in maps.iter().filter(is_used) {
        // It is only slower without.
        let _ = memory::populate(vma.start, vma.end, vma.perms.write);
    }
}

/// Forks a worker. Returns in both processes; in the command when the worker has ended.
pub fn split() -> Result<Role, SysError> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
    let Some(worker) = process::fork()? else {
        drop(writer);
        // Ctrl-C is for the command; when that is gone, the worker rolls back in its own time.
        for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            process::ignore(ignored)?;
        }
        warm_up();
        return Ok(Role::Worker(Lifeline(Some(reader))));
    };
    drop(reader);
    loop {
        match process::wait(worker) {
            Ok(Waited::Ended(status)) if libc::WIFEXITED(status) => {
                return Ok(Role::Command(libc::WEXITSTATUS(status) as u8));
            }
            Ok(Waited::Ended(status)) => return Ok(Role::WorkerKilled(libc::WTERMSIG(status))),
            Ok(_) | Err(SysError { errno: nix::errno::Errno::EINTR, .. }) => {}
            Err(e) => return Err(e),
        }
    }
}
