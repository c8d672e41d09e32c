//! How an agent goes: its thread closes the socket, and unmaps the memory under its own feet.

use super::calls::{Call, Course, complete_all, prepare_call, remote_call, syscall_in_blob};
use super::{ALL_SIGNALS, Agent, AgentError, Layout};
use crate::args;
use crate::tracee::batch::Batch;
use crate::tracee::freeze::FrozenTask;
use crate::tracee::regs;
use crate::tracee::stopped::Stopped;

/// The calls that take an agent away.
const UNMAP: [&str; 2] = ["close", "munmap"];

impl Agent {
    /// Takes the agent out: the task is as it was, and stopped.
    pub fn remove(mut self, task: &mut FrozenTask) -> Result<(), AgentError> {
        let stopped = self.unmap()?;
        let first = self.saved.first().ok_or(AgentError::Lost(None))?;
        first.write(&stopped)?;
        if let Some(landing) = self.landing.take() {
            landing.erase(&self.memory)?;
        }
        if let Some(thread) = task.threads.first_mut() {
            thread.stopped = Some(stopped);
        }
        self.send_deferred(task.pid)?;
        Ok(())
    }

    /// Has the serving thread close the socket and unmap the agent; it comes back stopped, and its registers are still to
    /// be set.
    pub fn unmap(&mut self) -> Result<Stopped, AgentError> {
        let stopped = self.stop_leader()?;
        if let Some(landing) = &mut self.landing {
            let regs = stopped.regs()?;
            let first = self.saved.first().ok_or(AgentError::Lost(None))?;
            // The pad leaves extended registers alone; as long as the thread is in the agent, that would set them again.
            stopped.set_xstate(&first.xstate)?;
            let leave = landing.leave(&self.memory, self.layout.base, self.remote_socket)?;
            stopped.set_regs(&regs::entering(&regs, leave, regs.rsp, [0; 3]))?;
            let (stopped, made) = Course::new(stopped, &UNMAP).complete(&mut self.deferred);
            made?;
            return stopped.ok_or(AgentError::Lost(None));
        }
        self.unmap_by(stopped)
    }

    /// Has a stopped thread of the task close the socket and unmap the agent; its registers are still to be set.
    pub fn unmap_by(&mut self, thread: Stopped) -> Result<Stopped, AgentError> {
        let regs = thread.regs()?;
        let [close, _] = UNMAP;
        // Under its own feet: a step ends when the call does, before the instruction behind it, which is not there any more.
        let at = self.layout.base + syscall_in_blob();
        let args = [self.remote_socket as u64, 0, 0, 0, 0, 0];
        let close = Call { number: libc::SYS_close, args, name: close };
        let (stopped, closed) = remote_call(thread, &regs, at, close, &mut self.deferred);
        let stopped = stopped.ok_or(AgentError::Lost(None))?;
        let (stopped, unmapped) = remote_call(stopped, &regs, at, self.unmapping(), &mut self.deferred);
        closed.and(unmapped)?;
        stopped.ok_or(AgentError::Lost(None))
    }

    /// Has the serving thread close its socket and wait: nothing can be said to it any more.
    pub fn begin_to_leave(&mut self) -> Result<(), AgentError> {
        let mut batch = Batch::new();
        batch.call("close", libc::SYS_close, args![self.remote_socket]);
        // All signals are blocked.
        batch.call("pause", libc::SYS_pause, args![]);
        self.send(&batch)
    }

    /// Waits for the end of the socket, and asks the thread to stop.
    fn begin_to_stop_behind_close(&mut self) -> Result<(), AgentError> {
        match self.receive_packet(&mut []) {
            // Nothing more comes.
            Err(AgentError::Lost(None)) => self.begin_to_stop(),
            Err(e) => Err(e),
            Ok(_) => Err(AgentError::Lost(None)),
        }
    }

    /// The call that unmaps the agent.
    fn unmapping(&self) -> Call {
        let args = [self.layout.base, Layout::size(self.layout.threads), 0, 0, 0, 0];
        Call { number: libc::SYS_munmap, args, name: UNMAP[1] }
    }
}

/// Has the serving threads of agents that have begun to leave unmap them, all at the same time. What became of each, in their
/// order; registers are still to be set.
pub fn unmap_all(agents: Vec<&mut Agent>) -> Vec<Result<Stopped, AgentError>> {
    let begin = |agent: &mut Agent| {
        let stopped = agent.stop_leader()?;
        let at = agent.layout.base + syscall_in_blob();
        prepare_call(&stopped, &stopped.regs()?, at, &agent.unmapping(), ALL_SIGNALS)?;
        Ok(Course::new(stopped, &UNMAP[1..]))
    };
    let mut agents = agents;
    let asked: Vec<_> = agents.iter_mut().map(|agent| agent.begin_to_stop_behind_close()).collect();
    let stopping = asked.into_iter().zip(&mut agents);
    let mut courses: Vec<Result<Course<'_>, AgentError>> =
        stopping.map(|(asked, agent)| asked.and_then(|()| begin(agent))).collect();
    complete_all(courses.iter_mut().flatten());
    let end = |(course, agent): (Result<Course<'_>, AgentError>, &mut Agent)| {
        let (stopped, unmapped) = course?.complete(&mut agent.deferred);
        unmapped?;
        stopped.ok_or(AgentError::Lost(None))
    };
    courses.into_iter().zip(agents).map(end).collect()
}
