//! The last step: zombies end, agents go, registers are set, and every task runs.

use std::time::Duration;

use super::set::Task;
use super::stub::{Stub, Stubs};
use super::tree::add_forget;
use crate::arch;
use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::options::{Afterwards, RestoreOptions};
use crate::supervise::Guardian;
use crate::sys::ptrace::Resume;
use crate::tracee::agent::{AgentError, Saved};
use crate::tracee::batch::Batch;
use crate::tracee::stopped::{Stop, Stopped, TraceError};

const LIMIT: Duration = Duration::from_secs(10);

/// Ends every task that was a zombie, as it ended the first time.
pub(super) fn zombies(stubs: &mut Stubs, tasks: &[Task]) -> Result<(), Problem> {
    for (task, stub) in tasks.iter().zip(&mut stubs.0).filter(|(task, _)| task.alive.is_none()) {
        let tc = task.core().tc.clone().unwrap_or_default();
        let step = "let the zombie end";
        end(stub, &tc.comm, tc.exit_code as i32).of_task(&task.name()).while_trying_to(step)?;
    }
    // Their parents were told; they were told the first time, too, and have that signal pending still or took it.
    for (at, stub) in stubs.0.iter_mut().enumerate() {
        let ended = tasks.iter().filter(|child| child.parent == Some(at) && child.alive.is_none());
        let signals: std::collections::BTreeSet<i32> =
            ended.map(|child| child.core().own.exit_signal.unwrap_or(libc::SIGCHLD as u32) as i32).collect();
        let mut batch = Batch::new();
        signals.into_iter().filter(|signal| *signal != 0).for_each(|signal| add_forget(&mut batch, signal));
        if !batch.is_empty() && stub.agent.is_some() {
            stub.run("forget the signals of zombies", &batch)?;
        }
    }
    Ok(())
}

/// Ends a stub with a wait status: an exit code, or the signal that killed it.
pub(super) fn end(stub: &mut Stub, comm: &str, status: i32) -> Result<(), Problem> {
    let Some(mut agent) = stub.agent.take() else { return Ok(()) };
    let mut batch = Batch::new();
    let name = batch.input_str(comm.as_bytes());
    batch.call("prctl(PR_SET_NAME)", libc::SYS_prctl, args![libc::PR_SET_NAME, name]);
    let signal = libc::WTERMSIG(status);
    if libc::WIFSIGNALED(status) {
        if signal != libc::SIGKILL {
            let default = batch.input(&[0_u64; 4]);
            batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, default, 0, 8]);
        }
        let unblocked = batch.input(&!(1_u64 << (signal - 1)));
        batch.call("rt_sigprocmask", libc::SYS_rt_sigprocmask, args![libc::SIG_SETMASK, unblocked, 0, 8]);
        batch.call("kill", libc::SYS_kill, args![stub.pid, signal]);
    } else {
        batch.call("exit_group", libc::SYS_exit_group, args![libc::WEXITSTATUS(status)]);
    }
    agent.send(&batch)?;
    let mut running = agent.into_leader().ok_or(AgentError::Lost(None))?;
    loop {
        match running.wait(LIMIT) {
            Err(TraceError::Died { .. }) => return Ok(()),
            Ok((stopped, Stop::Signal(taken))) => running = stopped.resume(Resume::Cont, taken)?,
            Ok((stopped, _)) => running = stopped.resume(Resume::Cont, 0)?,
            Err(e) => return Err(e.into()),
        }
    }
}

/// Takes the agents out, sets all registers, and lets all tasks go; the root's pid.
pub(super) fn go(mut stubs: Stubs, tasks: &[Task], options: &RestoreOptions) -> Result<i32, Problem> {
    let mut ready: Vec<Stopped> = Vec::new();
    for (task, stub) in tasks.iter().zip(&mut stubs.0) {
        let Some(mut agent) = stub.agent.take() else { continue };
        let leader = agent.unmap().of_task(&stub.name).while_trying_to("take the agent out")?;
        let threads = std::iter::once(Some(leader)).chain(stub.threads.drain(..));
        for (thread, image) in threads.zip(&task.threads) {
            let stopped = thread.ok_or(AgentError::Lost(None)).of_task(&stub.name)?;
            set_registers(&stopped, image).of_task(&stub.name).while_trying_to("set its registers")?;
            ready.push(stopped);
        }
    }
    if options.afterwards == Afterwards::LeaveStopped {
        for stub in stubs.0.iter().filter(|stub| ready.iter().any(|t| t.tid() == stub.pid)) {
            let pid = nix::unistd::Pid::from_raw(stub.pid);
            nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).map_err(SysError::of("kill"))?;
        }
    }
    let pids: Vec<i32> = stubs.0.iter().map(|stub| stub.pid).collect();
    let guardian = Guardian::of(&pids).while_trying_to("guard the release of the tree")?;
    for thread in &ready {
        thread.set_options(0)?;
    }
    // From here on the tree is whole, and lives whether we do or not.
    guardian.dismiss().while_trying_to("guard the release of the tree")?;
    for thread in ready {
        thread.detach(0)?;
    }
    let root = tasks.first().map_or(0, |task| task.pid);
    stubs.0.clear();
    Ok(root)
}

fn set_registers(thread: &Stopped, image: &super::set::Thread) -> Result<(), Problem> {
    let template = thread.xstate()?;
    let core = image.core.thread_core.as_ref();
    let task_mask = image.core.tc.as_ref().map_or(0, |tc| tc.blk_sigset);
    let saved = Saved {
        regs: arch::restore_registers(&image.core)?,
        xstate: arch::restored_xstate(&image.core, &template)?,
        sigmask: core.and_then(|c| c.blk_sigset).unwrap_or(task_mask),
    };
    saved.write(thread)?;
    Ok(())
}
