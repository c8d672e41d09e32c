//! A task that is being restored: empty at first but for the agent, and driven from here.

use crate::error::{Context as _, Problem, SysError, TaskName};
use crate::sys::process;
use crate::tracee::agent::{Agent, AgentError};
use crate::tracee::batch::{Batch, Replies};
use crate::tracee::stopped::Stopped;

/// One task on its way.
#[derive(Debug)]
pub(super) struct Stub {
    /// Its pid.
    pub pid: i32,
    /// How messages name it.
    pub name: TaskName,
    /// The agent; its leader's thread serves. None once the task is as it should be, and for a zombie.
    pub agent: Option<Agent>,
    /// Its other threads, stopped, in the order of the images.
    pub threads: Vec<Option<Stopped>>,
    /// Number of its address space; equal numbers mean shared.
    pub space: usize,
    /// Number of its descriptor table; equal numbers mean shared.
    pub table: usize,
    /// Which of the places for agents in its address space its agent has.
    pub agent_place: usize,
}

impl Stub {
    /// Has the task make calls, while others work as well; [`Stub::receive`] must follow.
    pub(super) fn send(&mut self, step: &'static str, batch: &Batch<'_>) -> Result<(), Problem> {
        let agent = self.agent.as_mut().ok_or(AgentError::Lost(None)).of_task(&self.name)?;
        agent.send(batch).of_task(&self.name).while_trying_to(step)
    }

    /// Waits for the answer to calls that were sent.
    pub(super) fn receive(&mut self, step: &'static str, batch: &Batch<'_>) -> Result<Replies, Problem> {
        let agent = self.agent.as_mut().ok_or(AgentError::Lost(None)).of_task(&self.name)?;
        agent.receive(batch).of_task(&self.name).while_trying_to(step)
    }

    /// Has the task make calls; `step` says what for.
    pub(super) fn run(&mut self, step: &'static str, batch: &Batch<'_>) -> Result<Replies, Problem> {
        let agent = self.agent.as_mut().ok_or(AgentError::Lost(None)).of_task(&self.name)?;
        agent.run(batch).of_task(&self.name).while_trying_to(step)
    }
}

/// The pid of the init of a pid namespace.
const INIT: i32 = 1;

/// All tasks on their way, in the order of the image set. Dropping them kills every one.
#[derive(Debug, Default)]
pub(super) struct Stubs(pub Vec<Stub>);

impl Drop for Stubs {
    fn drop(&mut self) {
        for stub in &self.0 {
            let killed =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(stub.pid), nix::sys::signal::SIGKILL);
            if let Err(errno) = killed
                && errno != nix::errno::Errno::ESRCH
            {
                log::error!("cannot kill {}: {}", stub.name, SysError { call: "kill", errno });
            }
        }
        // The init of our pid namespace is not killed by us, but by our end, since we trace it.
        for stub in self.0.iter().filter(|stub| stub.pid != INIT) {
            for thread in stub.threads.iter().flatten() {
                reap(thread.tid());
            }
            reap(stub.pid);
        }
    }
}

fn reap(tid: i32) {
    while let Ok(process::Waited::Stopped(_)) = process::wait(tid) {}
}
