//! A copy of a stopped task's private memory, made by a fork inside of it, to be read while the task runs on.
//!
//! The task must never notice. A child of its own would show up in its `wait`, and its end would send a signal; so the
//! agent clones a child without an exit signal, the child, which shares the task's memory, clones the copy and ends, and the
//! task reaps the child, all while it is stopped. The copy is an orphan then, and belongs to init or the nearest subreaper, as every orphan does. All of
//! it is traced by us from birth, so the copy dies with us; and code that runs after a moment in which it is not traced
//! ends by itself (`Call::CLONES_TWICE`).

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::args;
use crate::error::SysError;
use crate::sys::process::{self, Waited};
use crate::sys::ptrace::{self, Resume};
use crate::tracee::agent::{Agent, AgentError};
use crate::tracee::batch::Batch;
use crate::tracee::memory::Memory;
use crate::tracee::stopped::{Running, Stop, Stopped, TraceError};

/// How long each step may take. The longest is to copy the page tables of a large process.
const LIMIT: Duration = Duration::from_mins(1);

/// A copy of a task; it dies when this is dropped.
#[derive(Debug)]
pub struct Snapshot {
    pid: i32,
    /// The agent in the copy.
    agent: Agent,
}

impl Snapshot {
    /// Forks the stopped task `pid`, in which this agent serves. Its orphans must not come to the task itself, or to another
    /// one of the tree.
    pub fn take(pid: i32, agent: &mut Agent) -> Result<Self, AgentError> {
        let before = children(pid);
        let mut batch = Batch::new();
        // struct clone_args, of which only the first word is not 0: flags, and no exit signal.
        let mut clone_args =
            |flags: i32| batch.input([flags as u64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_slice());
        let first = clone_args(libc::CLONE_PTRACE | libc::CLONE_VM);
        let second = clone_args(libc::CLONE_PTRACE);
        let args = args![first, 88, second];
        let child = batch.call_twice("clone3 (a copy of its memory)", libc::SYS_clone3, args);
        batch.call("wait4 (for a clone)", libc::SYS_wait4, args![child, 0, libc::__WALL, 0]);
        agent.send(&batch)?;
        let Some(child) = new_child(pid, &before, agent)? else {
            // The call failed, and the answer says why.
            agent.receive(&batch)?;
            return Err(AgentError::Lost(None));
        };
        let copy = Self::of_child(child)?;
        agent.receive(&batch)?;
        let mut snapshot = Self::enter(copy, agent)?;
        snapshot.keep_apart()?;
        Ok(snapshot)
    }

    /// Lets the child clone the copy, and waits for its end.
    fn of_child(child: i32) -> Result<Stopped, AgentError> {
        let (stopped, stop) = Running::adopt(child).wait(LIMIT)?;
        expect(&stopped, stop, Stop::Interrupt)?;
        stopped.set_options(libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACECLONE)?;
        let (stopped, stop) = stopped.resume(Resume::Cont, 0)?.wait(LIMIT)?;
        expect(&stopped, stop, Stop::Event(libc::PTRACE_EVENT_CLONE))?;
        let copy = ptrace::event_message(child)? as i32;
        match stopped.resume(Resume::Cont, 0)?.wait(LIMIT) {
            Err(TraceError::Died { .. }) => {}
            Err(e) => return Err(e.into()),
            Ok((_, stop)) => return Err(AgentError::Lost(Some(stop))),
        }
        let (stopped, stop) = Running::adopt(copy).wait(LIMIT)?;
        expect(&stopped, stop, Stop::Interrupt)?;
        Ok(stopped)
    }

    fn enter(copy: Stopped, agent: &Agent) -> Result<Self, AgentError> {
        let pid = copy.tid();
        match Agent::enter_copy(pid, copy, agent.layout()) {
            Ok(agent) => Ok(Self { pid, agent }),
            Err(e) => {
                end(pid);
                Err(e)
            }
        }
    }

    /// The copy has the task's descriptors too, and must not keep pipes and sockets open that the task closes. And it leaves
    /// the task's session: until init has reaped it, the session's number could not be given to a restored task.
    fn keep_apart(&mut self) -> Result<(), AgentError> {
        let own = self.agent.own_fd();
        let mut batch = Batch::new();
        batch.call("setsid", libc::SYS_setsid, args![]);
        if own > 0 {
            batch.call("close_range", libc::SYS_close_range, args![0, own - 1, 0]);
        }
        batch.call("close_range", libc::SYS_close_range, args![own + 1, u32::MAX, 0]);
        self.agent.run(&batch)?;
        Ok(())
    }

    /// The copy's pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its memory.
    pub fn memory(&self) -> &Memory {
        self.agent.memory()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        end(self.pid);
    }
}

fn end(pid: i32) {
    match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) => while let Ok(Waited::Stopped(_)) = process::wait(pid) {},
        Err(Errno::ESRCH) => {}
        Err(errno) => log::error!("cannot end the copy {pid}: {}", SysError { call: "kill", errno }),
    }
}

fn expect(stopped: &Stopped, stop: Stop, wanted: Stop) -> Result<(), AgentError> {
    if stop == wanted { Ok(()) } else { Err(TraceError::Unexpected { tid: stopped.tid(), stop }.into()) }
}

/// The children of a task's first thread, which serves.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// The child that appears; none if the agent answers instead.
fn new_child(pid: i32, before: &[i32], agent: &mut Agent) -> Result<Option<i32>, AgentError> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(child) = children(pid).into_iter().find(|child| !before.contains(child)) {
            return Ok(Some(child));
        }
        if agent.has_answered()? {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Err(AgentError::Lost(None));
        }
        std::thread::yield_now();
    }
}
