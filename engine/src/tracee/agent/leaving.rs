//! How an agent goes: its thread closes the socket, and unmaps the memory under its own feet. That of a task that is dumped is
//! led from call to call, so that it finds back should we die; that of a restored one, which dies with us, does so by itself.

use super::calls::{Call, Course, remote_call, syscall_in_blob};
use super::{Agent, AgentError, Layout, STEP_LIMIT};
use crate::args;
use crate::sys::ptrace::Resume;
use crate::tracee::batch::Batch;
use crate::tracee::freeze::FrozenTask;
use crate::tracee::regs;
use crate::tracee::stopped::{Stop, Stopped};

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

    /// Has the serving thread close its socket and unmap the agent, and with that the code that it runs: it stops before the
    /// signal that it gets for this, which it never takes. Nothing can be said to it any more, and nobody needs to stop it.
    ///
    /// # Preconditions
    /// The task does not ignore `SIGSEGV`, has none pending, and no stack that could grow to where the agent is: the kernel
    /// resets the action of a forced signal that is ignored (`force_sig_info_to_task`, `kernel/signal.c`).
    pub fn begin_to_leave(&mut self) -> Result<(), AgentError> {
        let Call { number, args: [base, size, ..], name } = self.unmapping();
        let mut batch = Batch::new();
        // A blocked one would be reset as well.
        let blocked = batch.input(&!(1_u64 << (libc::SIGSEGV - 1)));
        batch.call("rt_sigprocmask", libc::SYS_rt_sigprocmask, args![libc::SIG_SETMASK, blocked, 0, 8]);
        batch.call(UNMAP[0], libc::SYS_close, args![self.remote_socket]);
        batch.call(name, number, args![base, size]);
        self.is_leaving = true;
        self.send(&batch)
    }

    /// Whether it has begun to leave.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// Takes the agent out, if that has not begun. The serving thread, stopped; its registers are still to be set.
    pub fn leave(&mut self) -> Result<Stopped, AgentError> {
        if !self.is_leaving {
            return self.unmap();
        }
        let mut thread = self.leader.take().ok_or(AgentError::Lost(None))?;
        loop {
            let (stopped, stop) = thread.wait(STEP_LIMIT)?;
            match stop {
                Stop::Signal(libc::SIGSEGV) if self.has_unmapped(&stopped.regs()?) => return Ok(stopped),
                Stop::Signal(signal @ (libc::SIGSTOP | libc::SIGSEGV)) => self.deferred.push(signal),
                Stop::Interrupt | Stop::Group(_) => {}
                stop => return Err(AgentError::Lost(Some(stop))),
            }
            thread = stopped.resume(Resume::Cont, 0)?;
        }
    }

    /// Whether a thread is behind the call that unmapped the agent.
    fn has_unmapped(&self, regs: &libc::user_regs_struct) -> bool {
        let Call { args: [base, size, ..], .. } = self.unmapping();
        (base..self.layout.data()).contains(&regs.rip) && (regs.rax, regs.rdi, regs.rsi) == (0, base, size)
    }

    /// The call that unmaps the agent.
    fn unmapping(&self) -> Call {
        let args = [self.layout.base, Layout::size(self.layout.threads), 0, 0, 0, 0];
        Call { number: libc::SYS_munmap, args, name: UNMAP[1] }
    }
}
