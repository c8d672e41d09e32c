//! Stopping and continuing a whole process that has an agent, and ending its leader before its other threads.

use std::time::{Duration, Instant};

use super::calls::syscall_in_blob;
use super::{ALL_SIGNALS, Agent, AgentError, STEP_LIMIT};
use crate::error::SysError;
use crate::sys::ptrace::Resume;
use crate::tracee::freeze::has_ended;
use crate::tracee::regs;
use crate::tracee::stopped::{Stop, Stopped};

impl Agent {
    /// Has the serving thread, the task's leader, end before the others, and waits until it has. It is let go, unless
    /// that would stop it (`stays`).
    pub fn end_leader(&mut self, status: i32, stays: bool) -> Result<(), AgentError> {
        let stopped = self.stop_leader()?;
        let tid = stopped.tid();
        let args = [libc::WEXITSTATUS(status) as u64, 0, 0, 0, 0, 0];
        let at = self.layout.base + syscall_in_blob();
        stopped.set_regs(&regs::calling(&stopped.regs()?, at, libc::SYS_exit, args))?;
        if stays {
            stopped.resume(Resume::Cont, 0)?;
        } else {
            stopped.detach(0)?;
        }
        let deadline = Instant::now() + STEP_LIMIT;
        while !has_ended(tid, tid) {
            if Instant::now() > deadline {
                return Err(AgentError::Lost(None));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Stops the process as by `signal`, in all of its threads; the serving thread goes on serving, which a tracer may
    /// have a stopped thread do (`ptrace(2)`, group-stop). Whether it is stopped: a signal of the terminal does not stop
    /// an orphaned process group.
    pub fn stop_process(
        &mut self,
        pid: i32,
        others: &mut [Option<Stopped>],
        signal: i32,
    ) -> Result<bool, AgentError> {
        let leader = self.leader.take().ok_or(AgentError::Lost(None))?;
        let stop = nix::sys::signal::Signal::SIGSTOP;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), stop).map_err(SysError::of("kill"))?;
        let (stopped, stop) = leader.wait(STEP_LIMIT)?;
        if stop != Stop::Signal(libc::SIGSTOP) {
            return Err(AgentError::Lost(Some(stop)));
        }
        stopped.set_sigmask(!(1 << (signal - 1)))?;
        let leader = stopped.resume(Resume::Cont, signal)?;
        leader.interrupt()?;
        let (mut stopped, mut stop) = leader.wait(STEP_LIMIT)?;
        if let Stop::Group(_) = stop {
            (stopped, stop) = stopped.without_pending_stop(STEP_LIMIT)?;
        }
        stopped.set_sigmask(ALL_SIGNALS)?;
        let is_stopped = matches!(stop, Stop::Group(_));
        if is_stopped {
            pass_stops(others)?;
        }
        self.leader = Some(stopped.resume(Resume::Cont, 0)?);
        Ok(is_stopped)
    }

    /// Lets a stopped process continue; the signal stays pending.
    pub fn continue_process(&mut self, pid: i32, others: &mut [Option<Stopped>]) -> Result<(), AgentError> {
        let stopped = self.stop_leader()?;
        let signal = nix::sys::signal::Signal::SIGCONT;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).map_err(SysError::of("kill"))?;
        // Everybody is told once more, and the first who is tells the parent.
        let (stopped, _) = stopped.resume(Resume::Cont, 0)?.wait(STEP_LIMIT)?;
        pass_stops(others)?;
        self.leader = Some(stopped.resume(Resume::Cont, 0)?);
        Ok(())
    }
}

/// Lets stopped threads with a stop before them go on into that.
fn pass_stops(threads: &mut [Option<Stopped>]) -> Result<(), AgentError> {
    for place in threads {
        let Some(thread) = place.take() else { continue };
        let (stopped, stop) = thread.resume(Resume::Cont, 0)?.wait(STEP_LIMIT)?;
        if !matches!(stop, Stop::Group(_) | Stop::Interrupt) {
            return Err(AgentError::Lost(Some(stop)));
        }
        *place = Some(stopped);
    }
    Ok(())
}
